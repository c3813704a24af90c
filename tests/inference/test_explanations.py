"""What `predict --explain` says is what the model did, and the panel shows it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_batch, tiny_model
from PIL import Image

from decodetr import DeCoDetrImageProcessor, PrototypePool
from decodetr.inference.detection import detect
from decodetr.inference.explanations import explain_detections, queries_of_detections
from decodetr.modeling_decodetr import DeCoDetrObjectDetectionOutput
from decodetr.utils.drawing import MOST_EXPLAINED, draw_detections, draw_explanations

CAPTIONS = [f"caption {i}" for i in range(12)]


@pytest.fixture(scope="module")
def model():
    model = tiny_model().eval()
    pool = model.prototype_pool
    model.set_pool(PrototypePool(pool.prototypes, pool.level, pool.parent, pool.count, CAPTIONS))
    return model


@pytest.fixture(scope="module")
def outputs(model):
    with torch.no_grad():
        return model(tiny_batch(batch=3)["pixel_values"], output_prototype_weights=True)


def post_process(outputs, **options):
    return DeCoDetrImageProcessor().post_process_object_detection(outputs, **options)


def corners(boxes):
    x, y, w, h = boxes.unbind(-1)
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)


@pytest.mark.parametrize("threshold, top_k", [(0.0, 100), (0.0, 5), (0.15, 100), (0.99, 7)])
def test_queries_are_those_of_the_detections(outputs, threshold, top_k):
    results = post_process(outputs, threshold=threshold, top_k=top_k)
    pairs = queries_of_detections(outputs.logits, threshold, top_k)
    for b, (result, (queries, names)) in enumerate(zip(results, pairs, strict=True)):
        assert torch.equal(names, result["labels"])
        assert torch.allclose(outputs.logits[b, queries, names].sigmoid(), result["scores"], rtol=1e-6)
        assert torch.allclose(corners(outputs.pred_boxes[b, queries]), result["boxes"], atol=1e-6)


def test_equal_scores_and_half_precision():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-3, 3, (2, 50, 7), generator=generator).to(torch.bfloat16)  # most scores are ties
    boxes = torch.arange(50.0)[None, :, None].expand(2, 50, 4) * torch.tensor([1.0, 1.0, 0.0, 0.0])  # box n is (n, n)
    results = post_process(SimpleNamespace(logits=logits, pred_boxes=boxes), threshold=0.5, top_k=200)
    for result, (queries, names) in zip(results, queries_of_detections(logits, 0.5, 200)):
        assert result["boxes"][:, 0].long().tolist() == queries.tolist()
        assert torch.equal(names, result["labels"]) and 50 < len(names) < 200


def test_explanations_are_the_models_own(model, outputs):
    results = post_process(outputs, threshold=0.0, top_k=20)
    explained = explain_detections(outputs, model.prototype_pool, threshold=0.0, top_k=20, num_prototypes=5)
    pairs = queries_of_detections(outputs.logits, 0.0, 20)
    for b, (result, explanation, (queries, _)) in enumerate(zip(results, explained, pairs)):
        objectness = outputs.objectness_logits[b, queries].sigmoid()
        assert explanation["objectness"] == pytest.approx(objectness.tolist())
        product = torch.tensor(explanation["objectness"]) * torch.tensor(explanation["name_probability"])
        assert torch.allclose(product, result["scores"], rtol=1e-4)
        for query, rows in zip(queries.tolist(), explanation["prototypes"], strict=True):
            weights = outputs.prototype_weights[b, query]
            order = sorted(range(12), key=lambda j: -weights[j])[:5]
            assert [row["index"] for row in rows] == order
            assert [row["weight"] for row in rows] == pytest.approx(weights[order].tolist())
            assert [row["caption"] for row in rows] == [CAPTIONS[j] for j in order]
            assert [row["level"] for row in rows] == ["coarse" if j < 5 else "fine" for j in order]


def test_small_pools_and_pools_without_captions(outputs):
    pool = PrototypePool(torch.eye(16)[:12])
    explained = explain_detections(outputs, pool, threshold=0.0, top_k=3, num_prototypes=50)
    for rows in explained[0]["prototypes"]:
        assert len(rows) == 12 and sum(row["weight"] for row in rows) == pytest.approx(1)
        assert {row["caption"] for row in rows} == {None} and {row["level"] for row in rows} == {"coarse"}
    none = explain_detections(outputs, pool, threshold=1.0)
    assert none == [{"objectness": [], "name_probability": [], "prototypes": []}] * 3


def test_outputs_without_weights_cannot_be_explained(outputs):
    bare = DeCoDetrObjectDetectionOutput(logits=outputs.logits, objectness_logits=outputs.objectness_logits)
    with pytest.raises(ValueError, match="output_prototype_weights=True"):
        explain_detections(bare, PrototypePool(torch.eye(16)[:12]))


def test_detect_explains_without_changing_detections(model):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)) for _ in range(2)]
    processor = DeCoDetrImageProcessor(size={"height": 64, "width": 64})
    plain = detect(model, processor, images, threshold=0.0, top_k=9)
    explained = detect(model, processor, images, threshold=0.0, top_k=9, explain=2)
    for without, result in zip(plain, explained, strict=True):
        assert result["names"] == without["names"] and "prototypes" not in without
        assert result["scores"] == pytest.approx(without["scores"], rel=1e-4)
        assert result["boxes"] == without["boxes"]
        assert [len(rows) for rows in result["prototypes"]] == [2] * 9


# The panel


def prototypes(count, weights=(0.6, 0.3, 0.1), caption="a red star"):
    captions = [caption if caption is None else f"{caption} {j}" for j in range(len(weights))]
    return [[{"index": 17 + j, "caption": captions[j], "weight": weight} for j, weight in enumerate(weights)]] * count


def panel(size, count=1, rows=None, names=None):
    names = names or [f"name {i}" for i in range(count)]
    scores = [0.9] * len(names)
    picture = draw_detections(Image.new("RGB", size, (90, 90, 90)), [[1, 1, 9, 9]] * len(names), names, scores)
    return picture, draw_explanations(picture, names, scores, rows or prototypes(len(names)))


@pytest.mark.parametrize(
    "size, below", [((160, 160), False), ((640, 480), False), ((900, 300), True), ((60, 20), True)]
)
def test_the_panel_is_beside_or_below_the_picture(size, below):
    picture, explained = panel(size, count=3)
    assert np.array_equal(np.asarray(explained.crop((0, 0, *picture.size))), np.asarray(picture))
    column = 34 * 16 if size == (900, 300) else 34 * 13  # in proportion to the font
    assert explained.width == (max(picture.width, column) if below else picture.width + column)
    assert explained.height > picture.height if below else explained.height >= picture.height
    box = (0, picture.height, *explained.size) if below else (picture.width, 0, *explained.size)
    assert (np.asarray(explained.crop(box)) < 128).any()


def test_bars_are_proportional_to_weights():
    picture, explained = panel((640, 640), rows=prototypes(1, (0.6, 0.3, 0.0)))
    pixels = np.asarray(explained)[:, picture.width :]
    size = 13
    color = pixels[size + size // 2, size + size // 2]  # of the square before the name
    lengths = [(pixels[y] == color).all(-1).sum() for y in range(size + size // 2 + 19, 6 * size, 19)]
    assert lengths[0] == 5 * size + 1 and lengths[1] == pytest.approx(lengths[0] / 2, abs=1) and lengths[2] <= 1


def test_a_long_name_leaves_room_for_its_score():
    picture = Image.new("RGB", (640, 640))
    explained = [draw_explanations(picture, ["é" * 300], [score], prototypes(1)) for score in (0.5, 0.8)]
    assert explained[0].tobytes() != explained[1].tobytes()


def test_prototypes_of_one_caption_are_one_line():
    (twice,), (once,) = prototypes(1, (0.2, 0.5, 0.1, 0.1)), prototypes(1, (0.5, 0.3, 0.1))
    for row, caption in zip(twice, ("a coin", "a ring", "a coin", None)):
        row["caption"] = caption
    for row, index, caption in zip(once, (18, 17, 20), ("a ring", "a coin", None)):
        row |= {"index": index, "caption": caption}
    assert panel((640, 640), rows=[twice])[1].tobytes() == panel((640, 640), rows=[once])[1].tobytes()
    assert [row["weight"] for row in twice] == [0.2, 0.5, 0.1, 0.1], "what was given stays"


def test_captions_are_drawn_and_cut():
    pictures = [
        panel((640, 640), rows=prototypes(1, caption=caption))[1]
        for caption in ("a red star", "a blue star", None, "é\nñ", "word " * 400)
    ]
    assert len({picture.tobytes() for picture in pictures}) == 5 and len({picture.size for picture in pictures}) == 1
    margin = np.asarray(pictures[-1])[:, -12:]
    assert (margin == 255).all()  # nothing runs over the edge
    unnamed = prototypes(1, caption="prototype 17")
    unnamed[0] = [{**row, "caption": f"prototype {row['index']}"} for row in unnamed[0]]
    assert panel((640, 640), rows=unnamed)[1].tobytes() == pictures[2].tobytes()


def test_many_detections_and_none():
    sizes = {count: panel((360, 300), count)[1].size for count in (MOST_EXPLAINED, MOST_EXPLAINED + 1, 50)}
    assert sizes[MOST_EXPLAINED + 1] == sizes[50]
    assert 0 < sizes[50][1] - sizes[MOST_EXPLAINED][1] < 25  # one line: how many more there are
    image = Image.new("RGB", (640, 640))
    assert draw_explanations(image, [], [], []).tobytes() == image.tobytes()


def test_labels_carry_the_number_of_their_block():
    image = Image.new("RGB", (640, 640))
    plain, numbered = (draw_detections(image, [[10, 90, 300, 300]], ["a"], [0.5], numbered=n) for n in (False, True))
    assert plain.tobytes() != numbered.tobytes()
