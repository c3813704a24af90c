"""The image processor: round trips of boxes, scores, saving and loading with and without decodetr."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from decodetr.inference.explanations import queries_of_detections
from decodetr.processing import DeCoDetrImageProcessor, DeCoDetrImageProcessorPil
from decodetr.processing.image_processing_pil_decodetr import top_pairs

PROCESSORS = [DeCoDetrImageProcessor, DeCoDetrImageProcessorPil]
SIZES = [
    {"size": {"height": 96, "width": 96}},
    {"size": {"shortest_edge": 60, "longest_edge": 100}, "do_pad": True},
    {"size": {"shortest_edge": 60, "longest_edge": 100}, "do_pad": True, "pad_size": {"height": 128, "width": 112}},
]


def _logit(probability):
    return torch.logit(torch.tensor(probability))


@pytest.mark.parametrize("processor_class", PROCESSORS)
@pytest.mark.parametrize("options", SIZES)
def test_boxes_survive_the_round_trip_in_portrait_and_landscape(processor_class, options):
    processor = processor_class(**options)
    images = [Image.new("RGB", (201, 83)), Image.new("RGB", (77, 190))]
    xywh = [[[10.25, 5.5, 100.5, 60.0], [0, 0, 201, 83]], [[3.0, 100.5, 40.25, 89.5]]]
    annotations = [
        {
            "image_id": i,
            "annotations": [{"bbox": box, "category_id": 1, "area": box[2] * box[3], "iscrowd": 0} for box in xywh[i]],
        }
        for i in range(2)
    ]
    inputs = processor(images, annotations=annotations, return_tensors="pt")
    for i, image in enumerate(images):
        predicted = torch.as_tensor(inputs["labels"][i]["boxes"])[None]
        logits = torch.linspace(3, 2, predicted.shape[1])[None, :, None]  # keeps the order of the boxes
        outputs = {"logits": logits, "pred_boxes": predicted}
        (result,) = processor.post_process_object_detection(outputs, 0.5, [(image.height, image.width)])
        expected = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in xywh[i]])
        torch.testing.assert_close(result["boxes"], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("processor_class", PROCESSORS)
def test_padding_is_bottom_right_and_masked(processor_class):
    processor = processor_class(size={"shortest_edge": 40, "longest_edge": 80}, do_pad=True)
    white = Image.new("RGB", (80, 40), (255, 255, 255))
    inputs = processor([white, white.resize((40, 80))], return_tensors="pt")
    assert inputs["pixel_values"].shape == (2, 3, 80, 80)
    mask = torch.zeros(2, 80, 80, dtype=torch.int64)
    mask[0, :40] = 1
    mask[1, :, :40] = 1
    assert torch.equal(inputs["pixel_mask"], mask)
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(inputs["pixel_values"][0, :, 20, 20], expected, atol=1e-5, rtol=0)
    assert inputs["pixel_values"][0, :, 50, 20].abs().max() == 0


@pytest.mark.parametrize("processor_class", PROCESSORS)
def test_defaults_and_grey_images(processor_class):
    inputs = processor_class()(Image.new("L", (30, 20), 128), return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 640, 640)
    assert "pixel_mask" not in inputs
    expected = (128 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(inputs["pixel_values"][0, :, 0, 0], expected, atol=1e-5, rtol=0)


def test_backends_agree():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).resize((140, 100))
    size = {"height": 64, "width": 64}
    first, second = (cls(size=size)(image, return_tensors="pt")["pixel_values"] for cls in PROCESSORS)
    # Both resample in 8 bits; they may round a level apart, and one level is 1 / 255 / 0.225 after normalisation.
    assert (first - second).abs().max() < 2.5 / 255 / 0.224


def _outputs():
    """One image, two queries, three names, scores by hand."""
    scores = torch.tensor([[[0.9, 0.2, 0.6], [0.1, 0.8, 0.3]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [0.25, 0.25, 0.5, 0.1]]])
    return {"logits": torch.logit(scores), "pred_boxes": boxes}


@pytest.mark.parametrize("processor_class", PROCESSORS)
def test_best_pairs_over_queries_and_names(processor_class):
    processor = processor_class()
    (result,) = processor.post_process_object_detection(_outputs(), 0.25, torch.tensor([[100, 200]]))
    torch.testing.assert_close(result["scores"], torch.tensor([0.9, 0.8, 0.6, 0.3]))
    assert result["labels"].tolist() == [0, 1, 2, 2]
    assert result["labels"].dtype == torch.int64
    first, second = [50, 25, 150, 75], [0, 20, 100, 30]
    torch.testing.assert_close(result["boxes"], torch.tensor([first, second, first, second], dtype=torch.float32))
    (best,) = processor.post_process_object_detection(_outputs(), 0.25, [(100, 200)], top_k=1)
    assert best["labels"].tolist() == [0]
    (relative,) = processor.post_process_object_detection(_outputs(), 0.85)
    torch.testing.assert_close(relative["boxes"], torch.tensor([[0.25, 0.25, 0.75, 0.75]]))
    (none,) = processor.post_process_object_detection(_outputs(), 0.95)
    assert none["boxes"].shape == (0, 4)


@pytest.mark.parametrize("num_names", [1, 2, 10_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_any_number_of_names_equals_a_full_sort(num_names, dtype):
    generator = torch.Generator().manual_seed(num_names)
    logits = torch.randn(2, 30, num_names, generator=generator).to(dtype)
    boxes = torch.rand(2, 30, 4, generator=generator).to(dtype)
    outputs = SimpleNamespace(logits=logits, pred_boxes=boxes)
    results = DeCoDetrImageProcessor().post_process_object_detection(outputs, 0.0, [(10, 20), (30, 40)], top_k=50)
    for i, result in enumerate(results):
        expected = logits[i].flatten().float().sigmoid().sort(descending=True).values[:50]
        torch.testing.assert_close(result["scores"], expected)
        assert result["scores"].dtype == result["boxes"].dtype == torch.float32
        assert len(result["scores"]) == min(50, 30 * num_names)
        # Every returned score is that of the pair it names.
        height, width = [(10, 20), (30, 40)][i]
        sizes = torch.tensor([width, height, width, height])
        cx, cy, w, h = boxes[i].float().unbind(1)
        corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1) * sizes
        for score, label, box in zip(result["scores"][:5], result["labels"][:5], result["boxes"][:5]):
            query = int((corners - box).abs().sum(1).argmin())
            torch.testing.assert_close(logits[i, query, label].float().sigmoid(), score)


@pytest.mark.parametrize("shape, top_k", [((2, 300, 1203), 100), ((1, 7, 12_345), 300), ((2, 9, 4096), 1)])
def test_the_best_pairs_are_those_of_a_full_sort_wherever_they_lie(shape, top_k):
    generator = torch.Generator().manual_seed(top_k)
    few = torch.randn(*shape[:2], 1, generator=generator) * 9  # queries have most of them
    for logits in (
        torch.randn(shape, generator=generator),
        few + torch.randn(shape, generator=generator),
        torch.linspace(-9, 9, shape[1] * shape[2]).reshape(1, *shape[1:]).repeat(shape[0], 1, 1),  # in the last pairs
    ):
        values, queries, names = top_pairs(logits, top_k)
        expected = logits.flatten(1).sort(dim=1, descending=True)
        assert values.equal(expected.values[:, :top_k])
        assert logits[torch.arange(shape[0])[:, None], queries, names].equal(values)
        assert all(len(set(zip(*pair))) == top_k for pair in zip(queries.tolist(), names.tolist()))
    assert top_pairs(logits[:, :2, :3], 100)[0].shape == (shape[0], 6)
    logits[0, -1, -1] = float("nan")
    assert top_pairs(logits, top_k)[0][0, 0].isnan()


@pytest.mark.parametrize("num_names", [3, 5000])
def test_queries_whose_names_were_not_looked_up_are_never_returned(num_names):
    logits = torch.full((2, 40, num_names), -float("inf"))
    logits[0, 7] = torch.linspace(-3, 3, num_names)
    outputs = {"logits": logits, "pred_boxes": torch.rand(2, 40, 4)}
    for least in (0.0, -1.0, [-1.0] * num_names):
        first, second = DeCoDetrImageProcessor().post_process_object_detection(outputs, least, top_k=100)
        assert len(first["scores"]) == min(100, num_names) and len(second["scores"]) == 0
        assert (first["scores"] > 0).all() and first["labels"][0] == num_names - 1
        corners = outputs["pred_boxes"][0, 7]
        torch.testing.assert_close(first["boxes"][0][2:] - first["boxes"][0][:2], corners[2:])
    kept = queries_of_detections(logits, 0.0, 100)
    assert set(kept[0][0].tolist()) == {7} and kept[0][1].tolist() == first["labels"].tolist() and not len(kept[1][0])


def test_errors_of_post_processing():
    post_process = DeCoDetrImageProcessor().post_process_object_detection
    with pytest.raises(ValueError, match="one \\(height, width\\) for each of the 1 images"):
        post_process(_outputs(), 0.5, [(1, 1), (2, 2)])
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        post_process(_outputs(), top_k=0)
    broken = _outputs()
    broken["logits"][0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="scores are NaN"):
        post_process(broken, 0.5)
    with pytest.raises(ValueError, match="must have 'pred_boxes'"):
        post_process({"logits": torch.zeros(1, 2, 3)})
    with pytest.raises(ValueError, match="pred_boxes \\(B, N, 4\\), got \\(1, 2, 3\\) and \\(1, 3, 4\\)"):
        post_process({"logits": torch.zeros(1, 2, 3), "pred_boxes": torch.zeros(1, 3, 4)})


@pytest.mark.parametrize(
    "threshold, target_sizes, message",
    [
        *((value, None, f"threshold must be a score, not above 1, got {value}") for value in (2, float("nan"))),
        ([0.5, 1.5, 0.5], None, r"threshold must be a score, not above 1, got \[0\.5, 1\.5, 0\.5\]"),
        *((value, None, "threshold must be a number, or one for each of the 3 names, got") for value in (None, "0.5")),
        *((0.5, value, r"one \(height, width\) for each of the 1 images, got") for value in ((10, 20), [None])),
        *(
            (0.5, [(10, side)], r"target_sizes must be finite and above 0, got \[\[10")
            for side in (0, -1, float("nan"), float("inf"))
        ),
        (0.5, torch.tensor([[0, 4]]), r"target_sizes must be finite and above 0, got \[\[0, 4"),
    ],
)
def test_thresholds_and_sizes_that_mean_nothing_are_refused(threshold, target_sizes, message):
    outputs = {"logits": torch.zeros(1, 2, 3), "pred_boxes": torch.full((1, 2, 4), 0.5)}
    with pytest.raises(ValueError, match=message):
        DeCoDetrImageProcessor().post_process_object_detection(outputs, threshold, target_sizes)


def test_supervision_reads_the_result():
    supervision = pytest.importorskip("supervision")
    (result,) = DeCoDetrImageProcessor().post_process_object_detection(_outputs(), 0.5, [(100, 200)])
    detections = supervision.Detections.from_transformers(result, id2label={0: "cat", 1: "dog", 2: "salt, pepper"})
    np.testing.assert_allclose(detections.xyxy, [[50, 25, 150, 75], [0, 20, 100, 30], [50, 25, 150, 75]], rtol=1e-6)
    assert detections.class_id.tolist() == [0, 1, 2]
    assert list(detections.data["class_name"]) == ["cat", "dog", "salt, pepper"]


@pytest.mark.parametrize("trust", [None, True])
def test_saved_folder_loads_by_registration(tmp_path, trust):
    from transformers import AutoImageProcessor

    import decodetr

    decodetr.DeCoDetrImageProcessor(size={"height": 48, "width": 32}).save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path, trust_remote_code=trust)
    assert type(loaded) is DeCoDetrImageProcessor
    assert (loaded.size.height, loaded.size.width) == (48, 32)
    pil = AutoImageProcessor.from_pretrained(tmp_path, backend="pil", trust_remote_code=trust)
    assert type(pil) is DeCoDetrImageProcessorPil


@pytest.mark.parametrize("processor_class", PROCESSORS)
@pytest.mark.parametrize("size", [{"height": 100_000, "width": 100_000}, {"height": -5, "width": 64}])
def test_a_size_that_no_memory_holds_is_refused_when_the_processor_is_made(processor_class, size):
    with pytest.raises(ValueError, match="size: expected sides above 0 and at most 67,108,864 pixels, got .*correct"):
        processor_class(size=size)


@pytest.mark.parametrize("size", [{"height": 64, "width": 48}, {"shortest_edge": 50, "longest_edge": 90}])
def test_pictures_give_the_tensors_that_their_arrays_give(size):
    processor, rng = DeCoDetrImageProcessor(size=size), np.random.default_rng(0)
    pixels = rng.integers(0, 255, (120, 170, 3), dtype=np.uint8)
    of_picture = processor(images=[Image.fromarray(pixels)], return_tensors="pt")["pixel_values"]
    of_array = processor(images=[pixels], return_tensors="pt")["pixel_values"]  # as the library takes it
    assert of_picture.equal(of_array) and of_picture.is_contiguous()
    as_is = processor(images=[Image.fromarray(pixels)], do_resize=False, return_tensors="pt")["pixel_values"]
    assert as_is.equal(processor(images=[pixels], do_resize=False, return_tensors="pt")["pixel_values"])
