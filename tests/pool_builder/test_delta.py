"""The agreement of regions with their captions: a delta that chooses itself, whatever the CLIP's cosines are."""

import json

import numpy as np
import pytest
from helpers.pool_builds import build_command, read_regions
from helpers.pool_data import write_data

from decodetr import PrototypePool
from decodetr.cli import main
from decodetr.pool_builder.delta import OTHERS, choose_delta, other_scores
from decodetr.pool_builder.shards import StageFolder
from decodetr.pool_builder.stages import open_stage
from decodetr.processing.embedding_columns import embedding_array, embedding_rows

# As a real CLIP's: 0.27 with the own caption and 0.19 with others.
RNG = np.random.default_rng(0)
OWN, CHANCE_SCORES = RNG.normal(0.27, 0.025, 4000), RNG.normal(0.19, 0.025, 30000)


def test_one_in_a_hundred_captions_of_other_regions_passes():
    delta, figures = choose_delta(OWN, CHANCE_SCORES)
    assert delta == pytest.approx(0.19 + 2.326 * 0.025, abs=0.002)
    assert figures["others_above"] == pytest.approx((CHANCE_SCORES > delta).mean(), abs=1e-4)
    assert figures["others_above"] == pytest.approx(0.01, abs=0.003)
    assert (figures["own"], figures["others"]) == pytest.approx((0.27, 0.19), abs=0.002)


@pytest.mark.parametrize(("factor", "offset"), [(10.0, -1.9), (0.3, 0.6)])
def test_another_clips_cosines_keep_the_same_regions(factor, offset):
    delta, _ = choose_delta(OWN, CHANCE_SCORES)
    other, _ = choose_delta(factor * OWN + offset, factor * CHANCE_SCORES + offset)
    assert other == pytest.approx(factor * delta + offset, abs=1e-3)


def test_captions_of_frequent_things_fit_other_regions_and_move_it_little():
    """A tenth of the captions of other regions fit as well as the own one, as where every third box is a person."""
    frequent = np.concatenate([CHANCE_SCORES[:27000], RNG.normal(0.27, 0.025, 3000)])
    assert choose_delta(OWN, frequent)[0] == pytest.approx(choose_delta(OWN, CHANCE_SCORES)[0], abs=0.01)


def test_at_least_half_of_the_regions_stay():
    """Captions of other regions lie so far apart that no cosine would be above what is mirrored."""
    wide = RNG.uniform(-1, 1, 5000)
    delta, _ = choose_delta(OWN + 0.7, wide)
    assert delta == pytest.approx(np.median(OWN) + 0.7, abs=1e-4)


def test_captions_that_fit_no_better_than_others_are_refused():
    with pytest.raises(ValueError, match=r"median of 0.1\d\d, 0.190 with .* --captioner, or give --keep-share"):
        choose_delta(CHANCE_SCORES[:500], CHANCE_SCORES)
    with pytest.raises(
        ValueError, match="different captions to choose delta from, got 3 with .*, or give --keep-share"
    ):
        choose_delta(OWN[:3], OWN[:0])


def test_captions_that_fit_little_better_than_others_make_a_pool_with_a_warning(caplog):
    """A weak captioner: half of its captions fit, and the others say what is somewhere else."""
    weak = np.concatenate([OWN[:1000], CHANCE_SCORES[:1000]])
    often = np.concatenate([CHANCE_SCORES[2000:8000], RNG.normal(0.27, 0.025, 2000)])
    delta, figures = choose_delta(weak, often)
    assert delta == pytest.approx(np.median(weak), abs=1e-4)
    assert 1 / 2 < figures["others_above"] / (weak > delta).mean() < 1 / 1.2
    assert "little better than others: cos(image, caption) with a median of 0.2" in caplog.text
    caplog.clear()
    choose_delta(OWN, CHANCE_SCORES)
    assert not caplog.text


def test_other_scores_are_those_of_captions_that_say_something_else():
    """Region i looks like text i; text 3 is said twice, text 0 is the empty caption."""
    images, texts = np.eye(4, dtype=np.float32)[[1, 2, 3, 3, 1]], np.eye(4, dtype=np.float16)
    said = np.array([1, 2, 3, 3, 0])
    spoken = said != 0
    found = other_scores(images, texts, said, spoken)
    # Own captions, equal ones and empty ones are left out: the cosine is 1 only for region 4, which looks like text 1.
    assert 0 < len(found) <= OTHERS * 5 and set(found.tolist()) <= {0.0, 1.0}
    assert not other_scores(images[:4], texts, said[:4], spoken[:4]).any()
    images[0, 0] = np.nan
    assert np.isfinite(other_scores(images, texts, said, spoken)).all()


# --- the command -----------------------------------------------------------------------------------------------------


def _without_delta(command):
    at = command.index("--delta")
    return command[:at] + command[at + 2 :]


def _agree(out, noise):
    """Rewrite OUT/embeddings so that every region looks like its caption, but for noise."""
    texts = open_stage(out, "texts").read(0)
    row = {caption: i for i, caption in enumerate(texts["caption"].to_pylist())}
    table = open_stage(out, "embeddings").read(0)
    said = embedding_rows(texts["text_embed"])[[row[caption] for caption in table["caption"].to_pylist()]]
    looks = said.astype(np.float32) + noise * np.random.default_rng(1).normal(size=said.shape)
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    place = table.column_names.index("image_embed")
    table = table.set_column(place, "image_embed", embedding_array(looks.astype(np.float16)))
    identity = open_stage(out, "embeddings").identity
    folder = StageFolder(out / "embeddings", "embeddings", {**identity, "noise": noise}, 1, overwrite=True)
    folder.write(0, table, {"not_finite": 0})
    folder.finish()


@pytest.fixture
def output(models, tmp_path):
    assert main(build_command(write_data(tmp_path / "data"), models, tmp_path / "out")) == 0
    return tmp_path / "out"


def test_the_command_chooses_says_and_records_it_and_a_given_one_is_obeyed(output, capsys):
    _agree(output, 0.05)
    capsys.readouterr()
    assert main(["pool", "filter", "--output", str(output), "--overwrite"]) == 0
    said = capsys.readouterr().out
    identity = json.loads((output / "regions" / "manifest.json").read_text())["identity"]
    delta = identity["delta"]
    assert f"--delta {delta} was chosen: cos(image, caption) has the median {identity['delta_chosen']['own']}" in said
    rows = read_regions(output)
    assert [row["kept"] for row in rows] == [row["clip_score"] > delta for row in rows]
    assert (
        main(["pool", "cluster", "--num-coarse", "3", "--num-fine", "2", "--output", str(output), "--overwrite"]) == 0
    )
    info = PrototypePool.from_pretrained(output / "pool").info
    assert info["delta"] == delta and info["delta_chosen"] == identity["delta_chosen"]
    # Explicit values are obeyed, and nothing says that they were chosen.
    for option, value in (("--delta", "-0.5"), ("--keep-share", "0.5")):
        capsys.readouterr()
        assert main(["pool", "filter", option, value, "--output", str(output), "--overwrite"]) == 0
        assert "chosen" not in capsys.readouterr().out
        kept = np.mean([row["kept"] for row in read_regions(output)])
        assert kept == (1 if option == "--delta" else pytest.approx(0.5, abs=0.1))


def test_captions_of_a_model_that_knows_nothing_are_refused_with_the_flags_that_mend_it(output, capsys):
    before = [row["kept"] for row in read_regions(output)]
    _agree(output, 1000.0)
    capsys.readouterr()
    assert main(["pool", "filter", "--output", str(output), "--overwrite"]) == 1
    error = capsys.readouterr().err
    assert "captions that fit their own regions better than others" in error and "--keep-share" in error
    assert [row["kept"] for row in read_regions(output)] == before
