"""Captions and names of whole images: read, joined to training items, and what they change in training."""

import numpy as np
import pytest
import torch
from helpers.captions import CAPTIONS, write_json
from helpers.pool_data import write_data
from helpers.tiny_models import NAMES, tiny_batch, tiny_model

from decodetr import DeCoDetrImageProcessor
from decodetr.modeling_decodetr.loss_decodetr import absent_names, teacher_targets
from decodetr.processing import CocoAnnotations, DetectionDataset, detection_collate
from decodetr.training.data.weak_labels import CaptionTable, WeakLabels, read_image_labels


def _labels_file(file, annotations=((1, 1), (1, 2), (1, 1))):
    return write_json(
        file,
        {
            "images": [{"id": 1}, {"id": 2}],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "salt, pepper"}],
            "annotations": [{"image_id": image, "category_id": category} for image, category in annotations],
        },
    )


def test_image_labels_are_each_name_once_and_an_image_can_show_nothing(tmp_path):
    labels, labelled = read_image_labels(_labels_file(tmp_path / "labels.json"))
    assert labels == {1: ["cat", "salt, pepper"], 2: []} and labelled == {"cat", "salt, pepper"}
    weak = WeakLabels(image_labels=labels, labelled=labelled)
    index = {name: i for i, name in enumerate(NAMES)}
    assert weak.of_image(1, index)["absent_labels"].tolist() == []  # the third is not decided on
    assert weak.of_image(2, index)["absent_labels"].tolist() == [0, 1] and weak.of_image(3, index) == {}
    with pytest.raises(ValueError, match=r"annotations\[0\]: expected ids of an image and a category"):
        read_image_labels(_labels_file(tmp_path / "bad.json", [(7, 1)]))


def test_captions_are_embedded_once_and_kept(tmp_path, clip, monkeypatch):
    rows = [{"image_id": image, "caption": caption} for image, caption in CAPTIONS]
    file = write_json(tmp_path / "captions.json", {"annotations": rows})
    table = CaptionTable.load(file, str(clip), tmp_path / "run")
    assert len(table) == 3 and table.embeddings.shape == (2, 8)
    assert table.get(1).shape == (2, 8) and table.get(2).shape == (0, 8) and table.get(1).dtype == np.float32
    assert np.array_equal(table.get(1)[0], table.get(3)[0])
    assert np.allclose(np.linalg.norm(table.get(1), axis=1), 1, atol=1e-3)
    with monkeypatch.context() as patch:
        patch.setattr("decodetr.training.data.weak_labels._embed", None)  # not called again
        again = CaptionTable.load(file, str(clip), tmp_path / "run")
    assert np.array_equal(again.embeddings, table.embeddings)
    write_json(file, {"annotations": [*rows, {"image_id": 2, "caption": "a dog"}]})
    assert len(CaptionTable.load(file, str(clip), tmp_path / "run").embeddings) == 3


@pytest.mark.parametrize(
    "document, message",
    [
        ({"annotations": [{"image_id": 1, "caption": " "}]}, r"annotations\[0\]: expected image_id and caption"),
        ({"annotations": [{"caption": "a cat"}]}, r"annotations\[0\]: expected image_id and caption"),
        ({"annotations": []}, "expected captions, got none"),
        ([], "expected annotations with image_id and caption"),
    ],
)
def test_bad_captions_are_errors(tmp_path, document, message):
    with pytest.raises(ValueError, match=message):
        CaptionTable.load(write_json(tmp_path / "captions.json", document), "nowhere")


def test_items_have_what_is_known_of_their_image(tmp_path):
    data = write_data(tmp_path / "data")
    coco = CocoAnnotations.load(data / "annotations/train.json")
    first = coco.images[0]["image_id"]
    table = CaptionTable(np.eye(4, dtype=np.float16), {first: [2, 0]})
    weak = WeakLabels(table, {first: [coco.names[1], "nothing of the vocabulary"]}, frozenset(coco.names))
    dataset = DetectionDataset(
        coco, DeCoDetrImageProcessor(size={"height": 64, "width": 64}), coco.names, weak_labels=weak
    )
    labels = dataset[0]["labels"]
    assert labels["caption_embeds"].tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]] and labels["absent_labels"].tolist() == [
        i for i in range(len(coco.names)) if i != 1
    ]
    other = dataset[1]["labels"]
    assert other["caption_embeds"].shape == (0, 4) and "absent_labels" not in other


def test_names_that_are_not_in_the_image_teach_nothing():
    """The region resembles the first name most; where the image is known not to show it, the second gets its share."""
    model, batch = tiny_model(), tiny_batch(regions=True, batch=1)
    model.train()
    label, names = batch["labels"][0], model.vocabulary.embeddings
    label["boxes"], label["class_labels"] = label["boxes"][:0], label["class_labels"][:0]
    label["region_boxes"] = torch.tensor([[0.5, 0.5, 1.0, 1.0]])
    label["region_embeds"] = torch.nn.functional.normalize(names[:1] + 0.5 * names[1:2], dim=-1)
    model.config.region_iou_threshold = 0.0
    seen = []

    def targets(labels):
        import decodetr.modeling_decodetr.modeling_decodetr as module

        original = module.alignment_loss
        module.alignment_loss = lambda log_probs, name_targets, count: (
            seen.append(name_targets) or original(log_probs, name_targets, count)
        )
        try:
            model(batch["pixel_values"], labels=labels)
        finally:
            module.alignment_loss = original
        return seen[-1]

    free, narrowed = targets([label]), targets([{**label, "absent_labels": torch.tensor([0, 2])}])
    assert (free.argmax(1) == 0).all() and (narrowed[:, [0, 2]] == 0).all()
    share = free[:, [1, 3]] / free[:, [1, 3]].sum(1, keepdim=True)  # what is left keeps its proportions
    assert torch.allclose(narrowed[:, [1, 3]], share, atol=1e-6)
    assert (targets([{**label, "absent_labels": torch.arange(3)}])[:, 3] == 1).all()


def test_cached_features_know_the_same_names():
    from decodetr.training.features.feature_cache import FeatureCache, feature_collate

    model, batch = tiny_model(annotation_weight=0.5), tiny_batch(regions=True, batch=2)
    for label, absent in zip(batch["labels"], ([1], [0, 2])):
        label["absent_labels"], label["caption_embeds"] = torch.tensor(absent), torch.zeros(1, 16)
    model.config.region_iou_threshold = 0.0
    items = [
        {"pixel_values": pixels, "labels": label} for pixels, label in zip(batch["pixel_values"], batch["labels"])
    ]

    cache = FeatureCache.build(model, items, detection_collate)
    model.eval()
    cached = model(**feature_collate([cache[i] for i in range(len(cache))])).loss_dict
    direct = model(**batch).loss_dict
    free = [{key: value for key, value in label.items() if key != "absent_labels"} for label in batch["labels"]]
    assert cached["loss_align"].item() == pytest.approx(direct["loss_align"].item(), rel=2e-3)
    assert direct["loss_align"] != model(batch["pixel_values"], labels=free).loss_dict["loss_align"]
    assert [len(item["region_text_embeds"]) for item in cache] == [0, 0]  # the pool is frozen
    model.config.pool_update = "literal"
    cache = FeatureCache.build(model, items, detection_collate)
    assert [len(item["region_text_embeds"]) for item in cache] == [
        len(label["region_boxes"]) + 1 for label in batch["labels"]
    ]


def test_without_image_labels_nothing_is_narrowed():
    assert absent_names([{}, {}], 3, "cpu") is None
    absent = absent_names([{"absent_labels": torch.tensor([2])}, {}], 3, "cpu")
    assert absent.tolist() == [[False, False, True], [False, False, False]]


def test_exhaustive_names_are_not_what_has_no_box():
    index = {name: i for i, name in enumerate(NAMES)}
    weak = WeakLabels(exhaustive=frozenset(["cat"]))
    assert weak.of_image(7, index)["absent_labels"].tolist() == [0]
    assert weak.of_image(7, index, crowded=[0])["absent_labels"].tolist() == []  # some of a crowd have none
    both = WeakLabels(image_labels={7: ["cat", NAMES[2]]}, labelled=frozenset(NAMES), exhaustive=frozenset(["cat"]))
    assert both.of_image(7, index)["absent_labels"].tolist() == [0, 1]
    assert both.of_image(8, index)["absent_labels"].tolist() == [0]


def test_an_annotated_box_keeps_clips_opinion_of_its_own_name():
    """With a share of CLIP in its target: what is said of regions without a box does not narrow it."""
    model = tiny_model()
    options = {"annotation_weight": 0.5}
    rows = torch.tensor([0, -1]), model.vocabulary.embeddings[[0, 0]], model.tables()
    absent = torch.tensor([[True, False, False]] * 2)
    free, narrowed = (teacher_targets(*rows, **options, absent=some)[1] for some in (None, absent))
    assert torch.equal(free[0], narrowed[0]) and narrowed[1, 0] == 0 and free[1, 0] > 0.1
