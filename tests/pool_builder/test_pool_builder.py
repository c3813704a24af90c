"""The parts of the pool builder, each against values computed by hand or by the library's own call."""

import json

import numpy as np
import pytest
import torch
from helpers.pool_data import BASE, write_data
from helpers.tiny_models import tiny_model
from helpers.tiny_teachers import write_tiny_clip, write_tiny_llava
from PIL import Image

from decodetr import DeCoDetrImageProcessor
from decodetr.annotations.coco import read_annotated
from decodetr.pool_builder.captioner import Captioner
from decodetr.pool_builder.crops import crop_region, processor_size
from decodetr.pool_builder.embedder import ClipEmbedder
from decodetr.pool_builder.proposals import annotated_boxes, propose_in, select_proposals
from decodetr.pool_builder.proposers import DecodetrProposer
from decodetr.pool_builder.settings import PoolSettings
from decodetr.processing import CocoAnnotations

# Regions


def test_select_proposals_by_hand():
    boxes = torch.tensor(
        [
            [10.0, 10, 30, 30],  # IoU 1/3 with the annotated box: stays
            [10, 20, 30, 40],  # the annotated box itself
            [50, 50, 70, 70],
            [51, 50, 71, 70],  # IoU 0.90 with the one before, better score
            [-10, 60, 1.5, 90],  # 1.5 pixels wide in the image
            [80, 80, 140, 95],  # clipped at 100
            [0, 0, 9, 9],  # not object enough
        ]
    )
    scores = torch.tensor([0.3, 0.9, 0.5, 0.6, 0.9, 0.7, 0.04])
    annotated = torch.tensor([[10.0, 20, 30, 40]])
    found, found_scores, rows = select_proposals(boxes, scores, annotated, 100, 100, 0.05, 2.0, 0.7, 20)
    assert torch.equal(scores[rows], found_scores)
    assert found.tolist() == [[80, 80, 100, 95], [51, 50, 71, 70], [10, 10, 30, 30]]
    assert found_scores.tolist() == pytest.approx([0.7, 0.6, 0.3])
    assert len(select_proposals(boxes, scores, annotated, 100, 100, 0.05, 2.0, 0.95, 20)[0]) == 4
    assert select_proposals(boxes, scores, annotated, 100, 100, 0.05, 2.0, 0.7, 1)[1].tolist() == pytest.approx([0.7])
    assert len(select_proposals(boxes, scores, annotated[:0], 100, 100, 0.05, 2.0, 0.7, 20)[0]) == 4


@pytest.fixture(scope="module")
def detector():
    return tiny_model(names=BASE).eval(), DeCoDetrImageProcessor(size={"height": 64, "width": 64})


def test_select_keeps_names_annotations_and_all_images(tmp_path):
    coco = CocoAnnotations.load(write_data(tmp_path / "data") / "annotations" / "train.json")
    chosen = coco.select(["dog", "cow", "cat"])
    assert chosen.names == ["dog", "cat"] and chosen.category_ids == [3, 1]
    assert chosen.images == coco.images and len(chosen) == 10
    for image in coco.images:
        before = coco.annotations_by_image[image["image_id"]]
        after = chosen.annotations_by_image[image["image_id"]]
        assert [(a["id"], a["bbox"]) for a in after] == [(a["id"], a["bbox"]) for a in before[:2]]
        assert [chosen.names[a["category"]] for a in after] == ["cat", "dog"]
    with pytest.raises(ValueError, match=r"train.json: expected categories such as \['horse'\], got \['cat', 'cup'"):
        coco.select(["horse"])


def _rows(folder, detector, **settings):
    coco = CocoAnnotations.load(folder / "annotations" / "train.json").select(BASE)
    settings = PoolSettings(**{"min_objectness": 0.0, "nms_iou": 0.5, "max_proposals": 4, **settings})
    proposer, rows = detector and DecodetrProposer(*detector), []
    for entry in coco.images:
        rows += propose_in(coco, [entry], [read_annotated(entry)], proposer, settings)[0]
    return coco, rows


def test_proposals_do_not_know_novel_annotations(tmp_path, detector):
    coco, rows = _rows(write_data(tmp_path / "present"), detector)
    for novel in ("absent", "scrambled"):
        assert _rows(write_data(tmp_path / novel, novel), detector)[1] == rows
    for entry in coco.images:
        mine = [row for row in rows if row["image_id"] == entry["image_id"]]
        scores = [row["proposal_score"] for row in mine]
        boxes = torch.tensor([row["box"] for row in mine])
        assert scores[:2] == [1.0, 1.0] and boxes[:2].equal(annotated_boxes(coco, entry)[0]) and len(mine) > 2
        assert scores[2:] == sorted(scores[2:], reverse=True) and max(scores[2:]) < 1
        assert (boxes >= 0).all() and (boxes <= torch.tensor([80, 60, 80, 60])).all()
    only = _rows(tmp_path / "present", None)[1]
    assert only == [row for row in rows if row["proposal_score"] == 1.0]


def test_proposals_are_the_detectors_own_boxes(tmp_path, detector):
    model, image_processor = detector
    coco, rows = _rows(write_data(tmp_path / "data"), detector, nms_iou=1.0, max_proposals=100)
    entry = coco.images[0]
    with torch.no_grad():
        outputs = model(**image_processor(images=read_annotated(entry), return_tensors="pt"))
    cx, cy, w, h = (outputs.pred_boxes[0] * torch.tensor([80, 60, 80, 60])).unbind(-1)
    boxes = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], -1)
    scores = outputs.objectness_logits[0].sigmoid()
    mine = [row for row in rows if row["image_id"] == entry["image_id"]][2:]
    assert mine
    for row in mine:
        query = (scores - row["proposal_score"]).abs().argmin()
        expected = boxes[query].clamp(torch.zeros(4), torch.tensor([80.0, 60, 80, 60]))
        assert row["box"] == pytest.approx(expected.tolist(), abs=1e-3)


def test_annotated_boxes_are_clipped_and_crowds_left_out(tmp_path):
    folder = write_data(tmp_path / "data")
    file = folder / "annotations" / "train.json"
    data = json.loads(file.read_text())
    boxes = [[-5, 10, 20, 100], [10, 10, 5, 5], [90, 10, 5, 5]]
    data["annotations"] = [
        {"id": i, "image_id": 10, "category_id": 1, "bbox": box, "iscrowd": int(i == 1)} for i, box in enumerate(boxes)
    ]
    file.write_text(json.dumps(data))
    coco = CocoAnnotations.load(file)
    boxes, names = annotated_boxes(coco, coco.images[0])
    assert boxes.tolist() == [[0, 10, 15, 60]] and len(names) == 1 and names[0] in coco.names
    assert annotated_boxes(coco, coco.images[1])[0].shape == (0, 4)


# Crops and teachers


def test_crop_rounds_outward():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    crop = crop_region(image, [1.0, 2.0, 5.0, 4.0], 6)
    assert crop.size == (6, 6)
    assert crop_region(image, [1.9, 2.9, 4.1, 3.1], 6).tobytes() == crop.tobytes()  # the same whole pixels
    assert crop_region(image, [0.9, 2.0, 5.0, 4.0], 6).tobytes() != crop.tobytes()
    assert crop_region(image, [-3, -3, 30, 30], 8).tobytes() == image.tobytes()
    with pytest.raises(ValueError, match="has no pixel in the image of 8 x 8"):
        crop_region(image, [8.0, 0, 9, 5], 6)


def test_processor_size():
    from transformers import CLIPImageProcessor, ViTImageProcessor

    assert processor_size(CLIPImageProcessor(size={"shortest_edge": 256}, crop_size={"height": 24, "width": 24})) == 24
    assert processor_size(CLIPImageProcessor(size={"shortest_edge": 32}, do_center_crop=False)) == 32
    assert processor_size(ViTImageProcessor(size={"height": 48, "width": 48})) == 48
    with pytest.raises(ValueError, match="that makes squares, got ViTImageProcessor"):
        processor_size(ViTImageProcessor(size={"height": 48, "width": 32}))


def test_a_picture_of_another_size_is_refused(tmp_path):
    coco = CocoAnnotations.load(write_data(tmp_path / "data") / "annotations" / "train.json")
    with pytest.raises(
        ValueError, match=r"0.png \(image id 10\): expected width x height 80 x 61 as annotated, got 80"
    ):
        read_annotated({**coco.images[0], "height": 61})


def _pictures(size, n=5):
    rng = np.random.default_rng(1)
    return [Image.fromarray(np.full((size, size, 3), rng.integers(0, 255, 3), dtype=np.uint8)) for _ in range(n)]


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    folder = write_tiny_llava(tmp_path_factory.mktemp("llava"))
    return Captioner(folder, prompt="Describe this.", max_new_tokens=4)


def test_captions_of_a_batch_are_those_of_single_crops(captioner):
    crops = _pictures(captioner.size)
    captions = captioner.caption(crops)
    assert captioner.size == 24 and len(set(captions)) > 2
    assert [captioner.caption([crop])[0] for crop in crops] == captions
    assert all(len(caption.split()) == 4 for caption in captions)


def test_padding_is_left_and_changes_no_caption(captioner):
    """Prompts of two lengths in one batch: the folder's tokenizer pads on the right, the captioner on the left."""
    crops = _pictures(captioner.size, 2)
    texts = [captioner.text, captioner.text.replace("Describe", "Describe the red cup in few words")]
    batch = captioner.processor(text=texts, images=crops, padding=True, return_tensors="pt")
    assert batch["attention_mask"][:, -1].all() and not batch["attention_mask"][0, 0]
    tokens = captioner.model.generate(**batch, max_new_tokens=4, do_sample=False)[:, -4:]
    for text, crop, both in zip(texts, crops, tokens):
        alone = captioner.processor(text=[text], images=[crop], return_tensors="pt")
        assert captioner.model.generate(**alone, max_new_tokens=4, do_sample=False)[0, -4:].equal(both)


def test_right_padding_is_refused(captioner, monkeypatch):
    call = type(captioner.processor).__call__

    def padded(self, *args, **kwargs):
        inputs = call(self, *args, **kwargs)
        inputs["attention_mask"][0, -1] = 0
        return inputs

    monkeypatch.setattr(type(captioner.processor), "__call__", padded)
    with pytest.raises(ValueError, match="expected a tokenizer that pads on the left"):
        captioner.caption(_pictures(captioner.size, 1))


def test_silence_is_an_empty_caption(captioner, monkeypatch):
    def silent(**inputs):
        ends = torch.full((len(inputs["input_ids"]), 1), captioner.processor.tokenizer.eos_token_id)
        return torch.cat([inputs["input_ids"], ends], dim=1)

    monkeypatch.setattr(captioner.model, "generate", silent)
    assert captioner.caption(_pictures(captioner.size, 2)) == ["", ""]


def test_embeddings_equal_clips_own(tmp_path):
    from transformers import CLIPModel, CLIPProcessor

    folder = write_tiny_clip(tmp_path / "clip")
    embedder = ClipEmbedder(folder)
    crops, texts = _pictures(embedder.size), ["a red cup", "a dog", "a red cup", ""]
    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    inputs = processor(text=texts, images=crops, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs)
    images, words = embedder.embed_images(crops), embedder.embed_texts(texts)
    assert images.dtype == np.float32 and images.shape == (5, 8)
    assert images == pytest.approx(expected.image_embeds.numpy(), abs=1e-5)
    assert words == pytest.approx(expected.text_embeds.numpy(), abs=1e-5)
    assert np.array_equal(words[0], words[2])
    assert embedder.embed_images(crops[2:3]) == pytest.approx(images[2:3], abs=1e-6)


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"delta": 1.5}, r"--delta must be in -1..1, got 1.5"),
        ({"num_coarse": 0}, "--num-coarse must be at least 1, got 0"),
        ({"nms_iou": float("nan")}, "--nms-iou must be in 0..1, got nan"),
    ],
)
def test_settings_refuse(setting, message):
    with pytest.raises(ValueError, match=message):
        PoolSettings(**setting)
