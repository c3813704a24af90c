"""What a run chooses where nobody says it: values for stated quantities, and words that are always obeyed."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
from helpers.situations import FINE_TUNE, LOCALIZATION, SEMANTIC
from transformers.trainer_utils import SchedulerType

from decodetr.training.planning.choices import NEW, PRETRAINED, choose, steps


def _choose(situation, **given):
    return choose(situation, set(given), SimpleNamespace(**{"max_steps": -1, "dataloader_drop_last": False, **given}))


def test_a_new_semantic_stream_over_cached_features():
    assert _choose(SEMANTIC) == {
        "max_steps": 2400,
        "semantic_learning_rate": 4e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 50,
        "per_device_train_batch_size": 8,
        "cache_views": 2,
        "align_weight_start": 1.0,
    }


def test_a_detector_of_random_weights():
    chosen = _choose(LOCALIZATION)
    assert (chosen["max_steps"], chosen["learning_rate"], chosen["warmup_steps"]) == (3200, 4e-4, 200)
    assert (
        not {"semantic_learning_rate", "backbone_learning_rate", "align_weight_start", "cache_views"} & chosen.keys()
    )
    large = _choose(replace(LOCALIZATION, width=256, pretrained_backbone=True))
    assert (large["learning_rate"], large["backbone_learning_rate"]) == (1e-4, pytest.approx(1e-5))


def test_a_pretrained_detector_is_changed_less():
    large = _choose(replace(SEMANTIC, streams="localization", width=256))
    assert (large["learning_rate"], large["backbone_learning_rate"]) == (1e-4, pytest.approx(1e-5))
    assert large["max_steps"] == 1600 < _choose(LOCALIZATION)["max_steps"]
    small = _choose(replace(SEMANTIC, streams="localization"))
    assert small["learning_rate"] == 4e-4 and "backbone_learning_rate" not in small


def test_a_fine_tune_is_short_and_gentle():
    few = _choose(replace(FINE_TUNE, images=20))
    new = _choose(replace(FINE_TUNE, images=20, semantics=NEW, detector=PRETRAINED))
    assert few["max_steps"] < new["max_steps"] and few["learning_rate"] < new["learning_rate"]
    assert few["semantic_learning_rate"] < new["semantic_learning_rate"]
    assert few["freeze_backbone"] is True and "freeze_backbone" not in new
    assert "freeze_backbone" not in _choose(replace(FINE_TUNE, images=1000))
    more = [_choose(replace(FINE_TUNE, images=images)) for images in (20, 200, 600, 10_000)]
    assert [some["semantic_learning_rate"] for some in more] == [1.8e-4, 5.8e-4, 1e-3, 1e-3]
    assert [some["learning_rate"] for some in more] == [3.7e-6, 1.2e-5, 2e-5, 2e-5]
    assert few["align_weight_start"] == 1.0 and "align_weight_start" not in new  # the paper's 0: boxes come first


@pytest.mark.parametrize("situation", [SEMANTIC, LOCALIZATION, FINE_TUNE], ids=["semantic", "boxes", "fine-tune"])
def test_ten_images_and_a_hundred_thousand_are_both_sane(situation):
    """Many steps on few images and at least a pass over many, neither without end."""
    sizes = (1, 10, 100, 1_000, 10_000, 118_000)
    chosen = [_choose(replace(situation, images=images)) for images in sizes]
    length = [some["max_steps"] for some in chosen]
    passes = [8 * some / images for some, images in zip(length, sizes)]
    assert length == sorted(length)
    assert all(fewer > 0.95 * more for fewer, more in pairwise(passes))  # rounded to two digits
    assert 30 <= length[1] <= 300 and 1 <= passes[-1] <= 13
    assert all(some["warmup_steps"] <= some["max_steps"] / 10 for some in chosen)


def test_streams_of_unknown_length_have_the_full_rates():
    chosen = _choose(replace(FINE_TUNE, images=0), max_steps=50)
    assert (chosen["semantic_learning_rate"], chosen["warmup_steps"]) == (1e-3, 5)


def test_joint_runs_last_as_long_as_the_slower_stream():
    joint = replace(SEMANTIC, streams="joint", detector=PRETRAINED)
    assert steps(joint, 8) == steps(SEMANTIC, 8) > steps(replace(joint, streams="localization"), 8)


def test_several_processes_share_the_images_of_a_step():
    whole, shared = _choose(LOCALIZATION), _choose(replace(LOCALIZATION, parts=4))
    assert (whole["per_device_train_batch_size"], shared["per_device_train_batch_size"]) == (8, 2)
    assert whole["max_steps"] == shared["max_steps"]


def test_large_images_make_small_batches_where_the_detector_learns():
    large = replace(LOCALIZATION, side=1333)
    assert _choose(large)["per_device_train_batch_size"] == 4
    assert _choose(large)["max_steps"] == 2 * _choose(LOCALIZATION)["max_steps"]  # as many images
    assert _choose(replace(SEMANTIC, side=1333))["per_device_train_batch_size"] == 8


def test_what_is_given_is_not_chosen():
    for name, value in _choose(SEMANTIC).items():
        assert name not in _choose(SEMANTIC, **{name: value})
    assert "max_steps" not in _choose(SEMANTIC, num_train_epochs=2.0)


def test_a_given_batch_counts_in_the_steps():
    assert _choose(SEMANTIC, per_device_train_batch_size=16)["max_steps"] == 1200


def test_a_given_rate_is_that_of_every_group():
    """As the arguments say of the groups without a rate of their own."""
    given = _choose(replace(SEMANTIC, streams="joint"), learning_rate=3e-5)
    assert not {"learning_rate", "semantic_learning_rate", "backbone_learning_rate"} & given.keys()
    other = _choose(replace(SEMANTIC, streams="joint"), semantic_learning_rate=3e-5)
    assert other["learning_rate"] == 4e-4


def test_the_warm_up_follows_the_length_that_is_given():
    assert _choose(SEMANTIC, max_steps=40)["warmup_steps"] == 4
    assert _choose(SEMANTIC, num_train_epochs=1.0, cache_views=1)["warmup_steps"] == 20  # 200 steps
    assert "warmup_steps" not in _choose(SEMANTIC, lr_scheduler_type=SchedulerType.CONSTANT)
    assert _choose(SEMANTIC, lr_scheduler_type=SchedulerType.LINEAR)["warmup_steps"] == 50


@pytest.mark.parametrize(
    ("parts", "given", "steps"),
    [
        (1, {"per_device_train_batch_size": 64}, 75),
        (4, {"per_device_train_batch_size": 16}, 75),  # processes, or accumulated batches
        (4, {}, 600),  # two images each
        (1, {"per_device_train_batch_size": 150}, 33),  # the last batch of an epoch has fewer
        (1, {"per_device_train_batch_size": 150, "dataloader_drop_last": True}, 30),
        (16, {}, 300),  # one image each
    ],
)
def test_the_warm_up_is_a_tenth_of_the_real_steps_of_given_epochs(parts, given, steps):
    chosen = _choose(replace(LOCALIZATION, parts=parts), num_train_epochs=3, **given)
    assert chosen["warmup_steps"] == steps // 10


def test_further_views_need_augmentation_and_memory():
    assert "cache_views" not in _choose(replace(SEMANTIC, augmented=False))
    assert "cache_views" not in _choose(replace(SEMANTIC, cached=False))
    assert "cache_views" not in _choose(replace(SEMANTIC, images=118_000))
