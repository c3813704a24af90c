"""DetectionDataset and its collate: targets by hand, the same bytes in workers, errors that name the image."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from decodetr.processing import (
    CocoAnnotations,
    DeCoDetrImageProcessor,
    DetectionAugmentation,
    DetectionDataset,
    RegionTable,
    detection_collate,
    write_regions,
)

NAMES = ["dog", "cat"]
SIZES = {1: (40, 20), 2: (30, 60), 3: (50, 50)}  # width, height
ANNOTATIONS = [
    {"id": 1, "image_id": 1, "category_id": 5, "bbox": [10, 5, 20, 10]},
    {"id": 2, "image_id": 1, "category_id": 6, "bbox": [30, 10, 30, 20]},  # reaches beyond the image
    {"id": 3, "image_id": 1, "category_id": 6, "bbox": [0, 0, 9, 9], "iscrowd": 1},
    {"id": 4, "image_id": 1, "category_id": 6, "bbox": [60, 0, 9, 9]},  # outside
    {"id": 5, "image_id": 1, "category_id": 6, "bbox": [6, 6, 0, 9]},  # no area
    {"id": 6, "image_id": 2, "category_id": 5, "bbox": [3, 6, 15, 30]},
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train").mkdir()
    rng = np.random.default_rng(0)
    images = []
    for image_id, (width, height) in SIZES.items():
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "train" / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "width": width, "height": height})
    categories = [{"id": 5, "name": "cat"}, {"id": 6, "name": "dog"}, {"id": 7, "name": "unused"}]
    data = {"images": images, "annotations": ANNOTATIONS, "categories": categories}
    (tmp_path / "annotations/train.json").write_text(json.dumps(data))
    row = {"file_name": "", "proposal_score": 0.5, "caption": "", "clip_score": 0.5, "kept": True}
    first, second = [0.6, 0.8], [1.0, 0.0]
    rows = [
        {**row, "image_id": 1, "box": [0, 0, 20, 20], "image_embed": first, "text_embed": second},
        {**row, "image_id": 1, "box": [50, 0, 60, 20], "image_embed": first, "text_embed": first},  # outside
        {**row, "image_id": 1, "box": [20, 10, 40, 20], "image_embed": second, "text_embed": first},
        {**row, "image_id": 2, "box": [0, 0, 30, 60], "image_embed": second, "text_embed": second},
    ]
    write_regions(tmp_path / "regions", rows, embedding_dtype="float32")
    return tmp_path


def _dataset(folder, size=None, names=NAMES, **options):
    processor = DeCoDetrImageProcessor(**(size or {"size": {"height": 32, "width": 64}}))
    return DetectionDataset(CocoAnnotations.load(folder / "annotations/train.json"), processor, names, **options)


def test_targets_by_hand(folder):
    dataset = _dataset(folder, regions=RegionTable.load(folder / "regions"))
    assert len(dataset) == 3
    item = dataset[0]
    assert item["pixel_values"].shape == (3, 32, 64) and item["pixel_values"].dtype == torch.float32
    assert "pixel_mask" not in item
    labels = item["labels"]
    assert {name: value.dtype for name, value in labels.items()} == {
        "boxes": torch.float32,
        "region_boxes": torch.float32,
        "class_labels": torch.int64,
        "region_embeds": torch.float32,
        "region_text_embeds": torch.float32,
        "image_id": torch.int64,
        "orig_size": torch.int64,
    }
    assert labels["class_labels"].tolist() == [1, 0]  # cat, dog in the vocabulary's order
    # [10, 5, 30, 15] and [30, 10, 40, 20] (clipped) of 40 x 20
    torch.testing.assert_close(labels["boxes"], torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.875, 0.75, 0.25, 0.5]]))
    torch.testing.assert_close(labels["region_boxes"], torch.tensor([[0.25, 0.5, 0.5, 1], [0.75, 0.75, 0.5, 0.5]]))
    torch.testing.assert_close(labels["region_embeds"], torch.tensor([[0.6, 0.8], [1, 0]]))
    torch.testing.assert_close(labels["region_text_embeds"], torch.tensor([[1, 0], [0.6, 0.8]]))
    assert labels["image_id"].tolist() == [1] and labels["orig_size"].tolist() == [20, 40]


def test_pseudo_boxes_are_certain_regions_beside_the_annotated_boxes(folder):
    row = {"file_name": "", "caption": "", "clip_score": 0.5, "kept": True, "image_id": 1}
    row |= {"image_embed": [1.0, 0.0], "text_embed": [1.0, 0.0]}
    boxes = {
        "certain": ([0, 12, 8, 20], 0.75),
        "just certain": ([30, 0, 40, 10], 0.5),  # touches an annotated box only
        "uncertain": ([12, 16, 20, 20], 0.49),
        "annotated": ([10, 5, 30, 15], 1.0),
        "annotated, nearly": ([10, 5, 22, 15], 0.9),  # IoU 0.6
        "annotated, as far as it is in the image": ([31, 10, 40, 20], 0.9),  # IoU 0.9
        "crowd": ([0, 0, 8, 8], 0.9),
        "outside": ([50, 0, 60, 20], 0.9),
    }
    rows = [{**row, "box": box, "proposal_score": score} for box, score in boxes.values()]
    write_regions(folder / "proposed", rows, embedding_dtype="float32")
    regions = RegionTable.load(folder / "proposed")
    plain = _dataset(folder, regions=regions)
    dataset = _dataset(folder, regions=regions, pseudo_box_score=0.5)
    labels = dataset[0]["labels"]
    torch.testing.assert_close(labels["pseudo_boxes"], torch.tensor([[0.1, 0.8, 0.2, 0.4], [0.875, 0.25, 0.25, 0.5]]))
    others = {name: value for name, value in labels.items() if name != "pseudo_boxes"}
    assert others.keys() == plain[0]["labels"].keys()
    assert all(torch.equal(value, plain[0]["labels"][name]) for name, value in others.items())
    assert dataset[2]["labels"]["pseudo_boxes"].shape == (0, 4)  # neither annotations nor regions

    def move(image, boxes, *, epoch, image_id):
        return (
            image,
            {name: value - 1 for name, value in boxes.items()},
            {name: torch.ones(len(value), dtype=torch.bool) for name, value in boxes.items()},
        )

    moved = _dataset(folder, regions=regions, pseudo_box_score=0.75, augmentation=move)[0]["labels"]
    torch.testing.assert_close(moved["pseudo_boxes"], torch.tensor([[0.075, 0.75, 0.2, 0.4]]))
    with pytest.raises(ValueError, match="pseudo_box_score needs regions"):
        _dataset(folder, pseudo_box_score=0.5)
    with pytest.raises(ValueError, match="pseudo_box_score must be in 0..1, got nan"):
        _dataset(folder, regions=regions, pseudo_box_score=float("nan"))


def test_an_annotation_that_is_left_out_leaves_its_object_to_the_region_on_it(folder):
    row = {"file_name": "", "caption": "", "clip_score": 0.5, "kept": True, "image_id": 1, "proposal_score": 0.9}
    row |= {"image_embed": [1.0, 0.0], "text_embed": [1.0, 0.0], "box": [10, 5, 30, 15]}  # that of an annotated box
    write_regions(folder / "on-a-box", [row], embedding_dtype="float32")
    regions = RegionTable.load(folder / "on-a-box")
    found = {}
    for names in (["dog", "cat"], ["dog"], ["cat"]):
        data = _dataset(folder, names=names, regions=regions, pseudo_box_score=0.5, skip_unknown_names=True)
        labels = data[0]["labels"]
        found[tuple(names)] = (len(labels["boxes"]), labels["pseudo_boxes"].tolist())
    assert found["dog", "cat"] == (2, []) and found["cat",] == (1, [])
    assert found["dog",] == (1, [[0.5, 0.5, 0.5, 0.5]])


def test_a_region_whose_caption_failed_teaches_by_its_picture_alone(folder):
    """CLIP's view of it is there, its caption does not reach the pool, and it is no pseudo box."""
    row = {"file_name": "", "clip_score": 0.5, "image_id": 1, "proposal_score": 0.9, "caption": "a thing"}
    rows = [
        {**row, "box": [0, 12, 8, 20], "image_embed": [0.0, 1.0], "text_embed": [0.6, 0.8], "kept": False},
        {**row, "box": [30, 0, 40, 10], "image_embed": [1.0, 0.0], "text_embed": [0.8, 0.6], "kept": True},
    ]
    write_regions(folder / "mixed", rows, embedding_dtype="float32")
    found = {}
    for unkept in (False, True):
        regions = RegionTable.load(folder / "mixed", unkept=unkept)
        found[unkept] = _dataset(folder, regions=regions, pseudo_box_score=0.5)[0]["labels"]
    assert found[False]["region_embeds"].tolist() == [[1, 0]]
    assert sorted(found[True]["region_embeds"].tolist()) == [[0, 1], [1, 0]] and len(found[True]["region_boxes"]) == 2
    for name in ("region_text_embeds", "pseudo_boxes"):
        assert len(found[True][name]) == 1 and torch.equal(found[True][name], found[False][name])
    assert "region_kept" not in found[True]


def test_images_without_objects_or_regions_stay(folder):
    labels = _dataset(folder, regions=RegionTable.load(folder / "regions"))[2]["labels"]
    assert labels["boxes"].shape == (0, 4) and labels["class_labels"].shape == (0,)
    assert labels["region_boxes"].shape == (0, 4) and labels["region_embeds"].shape == (0, 2)


@pytest.mark.parametrize("size", [None, {"size": {"shortest_edge": 24, "longest_edge": 40}, "do_pad": True}])
def test_targets_become_the_annotated_pixels_again(folder, size):
    dataset = _dataset(folder, size)
    batch = detection_collate([dataset[i] for i in range(3)])
    labels = batch["labels"][1]
    outputs = {"logits": torch.full((1, 1, 2), -9.0), "pred_boxes": labels["boxes"][None]}
    outputs["logits"][0, 0, labels["class_labels"]] = 9.0
    (result,) = dataset.image_processor.post_process_object_detection(outputs, 0.5, labels["orig_size"][None])
    torch.testing.assert_close(result["boxes"], torch.tensor([[3.0, 6, 18, 36]]), atol=1e-3, rtol=0)
    assert result["labels"].tolist() == [1]


def test_same_targets_as_the_image_processors_own(folder):
    dataset = _dataset(folder)
    coco = dataset.coco
    rows = [
        {"bbox": row["bbox"], "category_id": 0, "area": row["area"], "iscrowd": row["iscrowd"]}
        for row in coco.annotations_by_image[1]
    ]
    image = Image.open(coco.images[0]["path"])
    inputs = dataset.image_processor(image, annotations={"image_id": 1, "annotations": rows}, return_tensors="pt")
    torch.testing.assert_close(dataset[0]["labels"]["boxes"], inputs["labels"][0]["boxes"])
    assert torch.equal(dataset[0]["pixel_values"], inputs["pixel_values"][0])


def test_collate_pads_with_mask_and_refuses_without(folder):
    shortest = {"size": {"shortest_edge": 20, "longest_edge": 40}}
    padded = _dataset(folder, {**shortest, "do_pad": True})
    batch = detection_collate([padded[0], padded[1]])  # 20 x 40 and 40 x 20
    assert batch["pixel_values"].shape == (2, 3, 40, 40) and batch["pixel_mask"].shape == (2, 40, 40)
    assert batch["pixel_mask"].sum((1, 2)).tolist() == [800, 800]
    assert batch["pixel_mask"][0, :20].all() and batch["pixel_mask"][1, :, :20].all()
    assert torch.equal(batch["pixel_values"][0, :, :20], padded[0]["pixel_values"])
    assert batch["pixel_values"][0, :, 20:].abs().max() == 0
    bare = _dataset(folder, shortest)
    with pytest.raises(ValueError, match=r"images of one size in a batch, got .*\(20, 40\), \(40, 20\)"):
        detection_collate([bare[0], bare[1]])


def _flat(dataset, workers, epochs=(0, 1)):
    """Bytes of every tensor, epoch by epoch, through workers that live on."""
    options = {"persistent_workers": True} if workers else {}
    loader = DataLoader(dataset, batch_size=2, num_workers=workers, collate_fn=detection_collate, **options)
    result = []
    for epoch in epochs:
        dataset.set_epoch(epoch)
        for batch in loader:
            tensors = [batch["pixel_values"]] + [label[name] for label in batch["labels"] for name in sorted(label)]
            result.append([(tuple(tensor.shape), tensor.numpy().tobytes()) for tensor in tensors])
    return result


def test_workers_give_the_same_bytes_in_every_epoch(folder):
    dataset = _dataset(folder, regions=RegionTable.load(folder / "regions"), augmentation=DetectionAugmentation(4))
    alone = _flat(dataset, 0)
    assert _flat(dataset, 2) == alone
    assert alone[:2] != alone[2:]  # epochs differ
    assert _flat(pickle.loads(pickle.dumps(dataset)), 0) == alone


def test_augmentation_filters_labels_and_embeddings_in_step(folder):
    def keep_last(image, boxes, *, epoch, image_id):
        keep = {name: torch.arange(len(value)) == len(value) - 1 for name, value in boxes.items()}
        return image.crop((20, 0, 40, 20)), {name: value[keep[name]] - 5 for name, value in boxes.items()}, keep

    labels = _dataset(folder, regions=RegionTable.load(folder / "regions"), augmentation=keep_last)[0]["labels"]
    assert labels["class_labels"].tolist() == [0]
    torch.testing.assert_close(labels["boxes"], torch.tensor([[1.5, 0.5, 0.5, 0.5]]))  # [25, 5, 35, 15] of 20 x 20
    assert labels["region_embeds"].tolist() == [[1, 0]]
    assert labels["region_boxes"].shape == (1, 4)
    assert labels["orig_size"].tolist() == [20, 20]


def test_unknown_names(folder):
    with pytest.raises(ValueError, match=r"train.json: expected names of the vocabulary \(1 names\), got \['dog'\]"):
        _dataset(folder, names=["cat"])
    dataset = _dataset(folder, names=["cat"], skip_unknown_names=True)
    assert dataset[0]["labels"]["class_labels"].tolist() == [0]
    assert _dataset(folder, names=["cat", "dog", "cat"])[0]["labels"]["class_labels"].tolist() == [0, 1]


def test_regions_of_other_images(folder):
    row = {"file_name": "", "proposal_score": 0.5, "caption": "", "clip_score": 0.5, "kept": True, "image_id": 77}
    write_regions(folder / "other", [{**row, "box": [0, 0, 1, 1], "image_embed": [1.0], "text_embed": [1.0]}])
    with pytest.raises(ValueError, match="other: expected regions of images of .*train.json, got none"):
        _dataset(folder, regions=RegionTable.load(folder / "other"))


def test_broken_and_changed_images_are_named(folder):
    dataset = _dataset(folder)
    (folder / "train/1.png").write_bytes((folder / "train/1.png").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"1.png \(image id 1\): expected a readable image"):
        dataset[0]
    Image.new("RGB", (60, 30)).save(folder / "train/2.png")
    with pytest.raises(ValueError, match=r"2.png \(image id 2\).*30 x 60 as in .*got 60 x 30; .*swapped"):
        dataset[1]
    Image.new("RGB", (60, 31)).save(folder / "train/3.png")
    with pytest.raises(ValueError, match=r"3.png \(image id 3\).*50 x 50 as in .*got 60 x 31; boxes would be wrong"):
        dataset[2]


def test_large_pictures_are_reduced_before_augmentation(folder, monkeypatch):
    from decodetr.processing import detection_dataset

    seen = []

    def augmentation(image, boxes, epoch, image_id):
        seen.append(image.size)
        return image, boxes, {name: torch.ones(len(value), dtype=torch.bool) for name, value in boxes.items()}

    whole = _dataset(folder, augmentation=augmentation)[0]
    monkeypatch.setattr(detection_dataset, "_LARGE", 20)
    reduced = _dataset(folder, augmentation=augmentation)[0]
    assert max(seen[0]) > 20 and max(seen[1]) == 20
    torch.testing.assert_close(reduced["labels"]["boxes"], whole["labels"]["boxes"], atol=0.03, rtol=0)
