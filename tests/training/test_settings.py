"""What a run may use (paper 5): every switch changes what training does, and what was used is recorded."""

import json
import shutil

import pytest
import torch
from helpers.pool_data import BASE, NOVEL
from helpers.settings_runs import region_row, two_steps

from decodetr import DeCoDetrForObjectDetection
from decodetr.processing import CocoAnnotations
from decodetr.processing.regions import write_regions
from decodetr.training.data.data import TrainingData
from decodetr.training.options.options import TrainOptions
from decodetr.training.options.provenance import SETTINGS, check_seen, choose_setting, seen_before


def _info(output):
    return DeCoDetrForObjectDetection.from_pretrained(output).config.training_info


def _pool(output):
    return DeCoDetrForObjectDetection.from_pretrained(output).prototype_pool.prototypes


def test_a_split_means_v_ovd_and_no_split_means_no_restriction():
    assert choose_setting(None, NOVEL).name == "V-OVD" and choose_setting(None, None).name == "unrestricted"
    assert choose_setting("G-OVD", NOVEL) is SETTINGS["G-OVD"]
    with pytest.raises(ValueError, match="--setting G-OVD: expected novel names to hold back"):
        choose_setting("G-OVD", None)


def test_the_table_of_the_paper():
    switches = {name: tuple(setting.describe().values()) for name, setting in SETTINGS.items()}
    assert switches == {
        "V-OVD": (False, False, False),
        "C-OVD": (False, True, False),
        "G-OVD": (True, False, False),
        "WS-OVD": (True, True, True),
    }


@pytest.mark.parametrize("setting, novel", [("V-OVD", False), ("C-OVD", False), ("G-OVD", True), ("WS-OVD", True)])
def test_names(world, tmp_path, setting, novel):
    """Novel names compete in training only where their names may be known; annotations are of base names in all."""
    assert two_steps(world, tmp_path, "--setting", setting) == 0
    info = _info(tmp_path)
    assert set(info["annotated_names"]) == set(BASE)
    assert set(info["training_names"]) == set([*BASE, *NOVEL] if novel else BASE)
    assert info["setting"] == setting and info["allowed"]["novel_names"] is novel
    assert f"| setting | {setting} |" in (tmp_path / "README.md").read_text()


def test_captions_move_a_pool_that_may_move(world, tmp_path, capsys):
    captions = ("--captions", str(world / "captions.json"), "--regions", "none")
    assert two_steps(world, tmp_path / "frozen", "--setting", "C-OVD", *captions) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "build them into it (decodetr pool build --image-captions FILE)" in said
    captions = (*captions, "--set", "pool_update=literal")
    for name, more in (("without", captions[2:]), ("with", captions)):
        assert two_steps(world, tmp_path / name, "--setting", "C-OVD", *more) == 0
    before = DeCoDetrForObjectDetection.from_pretrained(world / "model").prototype_pool.prototypes
    assert torch.equal(_pool(tmp_path / "without"), before)
    assert not torch.allclose(_pool(tmp_path / "with"), before, atol=1e-4)
    assert _info(tmp_path / "with")["captions"] == str(world / "captions.json")


@pytest.mark.slow
def test_image_labels_narrow_the_teacher(world, tmp_path):
    weights = {}
    for name, more in (("without", ()), ("with", ("--image-labels", str(world / "labels.json")))):
        command = ("--setting", "WS-OVD", "--streams", "semantic", "--set", "region_iou_threshold=0.01", *more)
        command = (*command, "--regions", str(world / "regions"), "--align_weight_start", "1")
        assert two_steps(world, tmp_path / name, *command) == 0
        weights[name] = DeCoDetrForObjectDetection.from_pretrained(tmp_path / name).semantic_stream.predictor.weight
    assert not torch.equal(weights["with"], weights["without"])


@pytest.mark.slow
def test_images_without_boxes_teach_by_their_regions_and_labels(world, tmp_path):
    """They are replayed: of what their labels exclude, their regions teach nothing."""
    document = json.loads((world / "data/annotations/train.json").read_text())
    shutil.copytree(world / "data", tmp_path / "others")
    (tmp_path / "others/annotations/train.json").write_text(json.dumps({**document, "annotations": []}))
    weights = {}
    for name, more in (("without", ()), ("with", ("--replay-image-labels", str(world / "labels.json")))):
        command = ("--setting", "WS-OVD", "--streams", "semantic", "--set", "region_iou_threshold=0.01", *more)
        command = (*command, "--regions", "none", "--align_weight_start", "1", "--per_device_train_batch_size", "20")
        command = (*command, "--replay-data", str(tmp_path / "others"), "--replay-regions", str(world / "regions"))
        assert two_steps(world, tmp_path / name, *command) == 0
        weights[name] = DeCoDetrForObjectDetection.from_pretrained(tmp_path / name).semantic_stream.predictor.weight
    assert not torch.equal(weights["with"], weights["without"])
    assert _info(tmp_path / "with")["replay_image_labels"] == str(world / "labels.json")


def test_an_image_without_boxes_has_the_names_of_its_labels(world):
    options = TrainOptions(replay_image_labels=str(world / "labels.json"))
    labels = json.loads((world / "labels.json").read_text())
    last, names = labels["categories"][-1]["name"], [row["name"] for row in labels["categories"]]
    weak = TrainingData(options, None, names, None).replay_weak_labels(names)
    index = {name: number for number, name in enumerate(names)}
    absent = weak.of_image(labels["images"][0]["id"], index)["absent_labels"]
    assert absent.tolist() == [i for name, i in index.items() if name != last]
    assert TrainingData(TrainOptions(), None, names, None).replay_weak_labels(names) is None


@pytest.mark.parametrize(
    "more, message",
    [
        (("--setting", "G-OVD", "--replay-image-labels", "x.json"), "--replay-image-labels x.json: G-OVD forbids it; "
         "leave it out, or give --setting WS-OVD"),
        (("--setting", "WS-OVD", "--replay-image-labels", "x.json"), "--replay-image-labels are of the images of"),
        (("--captions", "c.json"), "--captions c.json: V-OVD forbids it; leave it out, or give --setting C-OVD or "
         "WS-OVD"),
        (("--setting", "C-OVD", "--image-labels", "x.json"), "--image-labels x.json: C-OVD forbids it"),
        (("--training-names", "all"), "--training-names all: V-OVD forbids novel names"),
        (("--seen", "detector"), "--seen detector: expected PART=NAMES with one of detector, backbone, proposer"),
        (("--seen", f"proposer={NOVEL[0]}"), f"the proposer had seen 1 of {len(NOVEL)} novel names: {NOVEL[0]}. In "
         "V-OVD they are novel"),
    ],
)  # fmt: skip
def test_what_a_setting_forbids(world, tmp_path, capsys, more, message):
    assert two_steps(world, tmp_path, *more) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_detector_that_has_seen_novel_boxes_is_refused_unless_told_otherwise(world, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(world / "model", model)
    config = json.loads((model / "config.json").read_text())
    config["training_info"] = {"pretrained_detector_names": [NOVEL[0].upper().replace(" ", "_"), "other"]}
    (model / "config.json").write_text(json.dumps(config))
    more = ("--model", str(model))
    assert two_steps(world, tmp_path / "run", *more) == 1
    assert f"the detector had seen 1 of {len(NOVEL)} novel names: {NOVEL[0]}" in capsys.readouterr().err
    assert two_steps(world, tmp_path / "run", *more, "--allow-seen-novel") == 0
    info = _info(tmp_path / "run")
    assert info["novel_names_seen"] == {"detector": [NOVEL[0]]}
    assert "novel names seen" in (tmp_path / "run/README.md").read_text()
    assert two_steps(world, tmp_path / "fine", *more, "--names-split", "none") == 0  # nothing is novel without a split


def test_regions_that_are_novel_boxes_are_refused(world, tmp_path, capsys):
    coco = CocoAnnotations.load(world / "data/annotations/train.json")
    image, row = next(
        (image, row)
        for image in coco.images
        for row in coco.annotations_by_image[image["image_id"]]
        if coco.names[row["category"]] in NOVEL
    )
    x, y, w, h = row["bbox"]
    region = region_row(image, [1.0, *[0.0] * 7], [x, y, x + w, y + h])
    write_regions(tmp_path / "regions", [region])
    more = ("--regions", str(tmp_path / "regions"))
    assert two_steps(world, tmp_path / "run", *more) == 1
    error = capsys.readouterr().err
    assert "expected regions from proposals and base boxes" in error and f"image_id {image['image_id']}" in error
    write_regions(tmp_path / "regions", [{**region, "box": [x + 1, y, x + w, y + h]}], overwrite=True)
    assert two_steps(world, tmp_path / "run", *more) == 0


def test_what_was_seen_is_found_in_the_records():
    detector = {"pretrained_detector_names": ["a"], "training_names": ["b", "c"], "annotated_names": ["b"]}
    assert seen_before(detector, None, {}) == {"detector": ["a", "b"]}
    tuned = {"annotated_names": ["d"], "seen": {"detector": ["a", "b"], "proposer": ["x"], "backbone": ["y"]}}
    assert seen_before(tuned, None, {}) == {"detector": ["a", "b", "d", "x"], "backbone": ["y"]}
    assert seen_before({"annotated_names": ["d"], "seen": {"detector": "unknown"}}, None, {}) == {"detector": None}
    assert seen_before({}, None, {}) == {"detector": None}
    assert seen_before({"pretrained_backbone": "timm/x"}, None, {}) == {"detector": None, "backbone": None}
    pool = {"proposer": "rpn", "proposer_training_info": {"pretrained_detector_names": ["cat"]}}
    assert seen_before({}, pool, {"detector": []}) == {"detector": [], "proposer": ["cat"]}
    assert check_seen({"proposer": ["Cat"], "backbone": None}, ["cat", "dog"], SETTINGS["V-OVD"], True) == {
        "proposer": ["cat"]
    }
