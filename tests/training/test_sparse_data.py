"""Data of which few images teach something: what counts, how often it is seen, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.situations import SEMANTIC
from helpers.tiny_models import tiny_config
from PIL import Image

from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor
from decodetr.annotations.coco import CocoAnnotations
from decodetr.cli import main
from decodetr.processing import DetectionDataset, RegionTable, write_regions
from decodetr.processing.detection_dataset import TargetOptions
from decodetr.training.data.data import TrainingData
from decodetr.training.data.sparse import SparseDataset, dataset_of_epochs
from decodetr.training.options.options import TrainOptions
from decodetr.training.options.provenance import Setting
from decodetr.training.planning.choices import PRETRAINED, steps

PROCESSOR = DeCoDetrImageProcessor(size={"height": 64, "width": 64})


def _write(folder, images, boxed):
    (folder / "annotations").mkdir(parents=True)
    (folder / "train").mkdir()
    rows = []
    for n in range(1, images + 1):
        Image.fromarray(np.full((64, 64, 3), n, dtype=np.uint8)).save(folder / f"train/{n}.png")
        rows.append({"id": n, "file_name": f"{n}.png", "width": 64, "height": 64})
    boxes = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [8, 8, 30, 30], "area": 900, "iscrowd": 0} for n in boxed
    ]
    crowd = {"id": 99, "image_id": images, "category_id": 1, "bbox": [0, 0, 64, 64], "area": 4096, "iscrowd": 1}
    document = {"images": rows, "annotations": [*boxes, crowd], "categories": [{"id": 1, "name": "cup"}]}
    (folder / "annotations/train.json").write_text(json.dumps(document))
    return CocoAnnotations.load(folder / "annotations/train.json")


@pytest.fixture
def regions(tmp_path):
    """Of the third image."""
    row = {"file_name": "", "proposal_score": 0.5, "caption": "", "clip_score": 0.5, "kept": True}
    embeds = {"image_embed": [0.6, 0.8], "text_embed": [1.0, 0.0]}
    write_regions(tmp_path / "regions", [{**row, **embeds, "image_id": 3, "box": [0, 0, 20, 20]}])
    return RegionTable.load(tmp_path / "regions")


def _data(coco, table=None, **options):
    return TrainingData(TrainOptions(data="d", **options), coco, ["cup"], Setting("OVD", ()), regions=table)


def test_few_images_are_seen_as_often_among_others_as_alone():
    alone = replace(SEMANTIC, streams="localization", detector=PRETRAINED, cached=False, images=3)
    among = replace(alone, empty=3)
    assert (steps(alone, 8), steps(among, 8)) == (70, 140)
    assert steps(replace(alone, images=1600, empty=16), 8) == 1700  # 1,600 with all images annotated


def test_an_epoch_has_all_that_teach_and_as_many_others_in_turn(tmp_path):
    coco = _write(tmp_path, 9, [2, 5])
    dataset = dataset_of_epochs(coco, PROCESSOR, ["cup"], TargetOptions(), teaching={2, 5}, seed=1)
    assert isinstance(dataset, SparseDataset) and len(dataset) == 4
    plain, seen = dataset.without_augmentation(), []
    for epoch in range(4):
        dataset.set_epoch(epoch)
        ids = [int(dataset[place]["labels"]["image_id"]) for place in range(4)]
        assert ids == [int(plain[place]["labels"]["image_id"]) for place in range(4)]
        assert ids[:2] == [2, 5] and not {2, 5} & set(ids[2:])
        seen += ids[2:]
    assert sorted(seen[:7]) == [1, 3, 4, 6, 7, 8, 9] and seen[7] == seen[0]
    half = coco.select_images({2, 5, 6, 7})
    assert type(dataset_of_epochs(half, PROCESSOR, ["cup"], TargetOptions(), teaching={2, 5})) is DetectionDataset


def test_what_teaches_depends_on_the_streams(tmp_path, regions):
    """A crowd teaches nothing. A region teaches names, and boxes where it counts as an object."""
    coco = _write(tmp_path / "data", 9, [1, 2])
    detector, model = {"detector": "d"}, {"model": "m"}
    assert _data(coco, config="c").teaching("localization", True) == {1, 2}
    assert _data(coco, regions, config="c", regions="r").teaching("semantic", True) == {1, 2, 3}
    assert _data(coco, regions, config="c", regions="r").teaching("localization", True) == {1, 2, 3}
    assert _data(coco, regions, config="c", regions="r").teaching("localization", False) == {1, 2}  # ignored
    assert _data(coco, regions, **detector, pseudo_boxes="ignore").teaching("localization", True) == {1, 2}
    assert _data(coco, regions, **detector, pseudo_boxes="objects").teaching("localization", True) == {1, 2, 3}
    assert _data(coco, **detector).images_of_epoch("localization", True) == (2, 2)
    # who will look: what it sees is an object, or keeps it from forgetting
    assert _data(coco, **detector, pseudo_boxes="objects").images_of_epoch("localization", True) == (9, 0)
    assert _data(coco, **model).images_of_epoch("joint", True) == (9, 0)


def test_data_that_teach_nothing_are_refused(tmp_path, regions, capsys):
    coco = _write(tmp_path / "data", 9, [])
    for streams in ("localization", "joint", "semantic"):
        with pytest.raises(ValueError, match=r"train\.json: expected something to learn from, got no box in 9 images"):
            _data(coco, detector="d").images_of_epoch(streams, True)
    assert _data(coco, regions, config="c", regions="r").images_of_epoch("semantic", True) == (1, 1)
    assert _data(coco, detector="d", pseudo_boxes="objects").images_of_epoch("localization", True) == (9, 0)
    command = ["train", "--data", str(tmp_path / "data"), "--output", str(tmp_path / "run"), "--use-cpu", "true"]
    assert main([*command, "--detector", str(_bare(tmp_path)), "--streams", "localization"]) == 1
    assert "expected something to learn from" in capsys.readouterr().err and not (tmp_path / "run").exists()


def _bare(folder):
    """A detector that is sure of everything."""
    torch.manual_seed(0)
    bare = DeCoDetrForObjectDetection(tiny_config(class_agnostic=False)).detector
    with torch.no_grad():
        for name, parameter in bare.named_parameters():
            if "class_embed" in name and name.endswith("bias"):
                parameter.fill_(2.0)
    bare.save_pretrained(folder / "bare")
    PROCESSOR.save_pretrained(folder / "bare")
    return folder / "bare"


def test_steps_are_chosen_again_where_the_detector_sees_more(tmp_path, caplog):
    """It saw things in images without a box: these teach then, unless they are ignored."""
    _write(tmp_path / "data", 9, [1, 2])
    command = ["train", "--data", str(tmp_path / "data"), "--detector", str(_bare(tmp_path)), "--use-cpu", "true"]
    command += ["--streams", "localization", "--num-train-epochs", "1", "--save-strategy", "no"]
    said = {}
    for use in ("ignore", "objects"):
        caplog.clear()
        assert main([*command, "--pseudo-boxes", use, "--output", str(tmp_path / use)]) == 0
        said[use] = [record.getMessage() for record in caplog.records]
        state = json.loads((tmp_path / use / "trainer_state.json").read_text())
        assert state["global_step"] == {"ignore": 1, "objects": 2}[use]  # of 8 images: 4 of an epoch, and 9
    assert any(
        text.startswith("Chosen for 2 images with something to learn, 2 without in an") for text in said["ignore"]
    )
    assert any(text.startswith("7 of 9 training images have nothing to learn from") for text in said["ignore"])
    assert any(text.startswith("Chosen for 9 images and a pretrained") for text in said["objects"])
