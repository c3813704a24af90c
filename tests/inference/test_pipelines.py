"""The pipelines of transformers with a DeCo-DETR: the interface of Grounding DINO, one pass for all labels, and no
question about the code next to the weights."""

import base64
import builtins
import subprocess
import sys
import threading

import datasets
import numpy as np
import pytest
import torch
from helpers import tiny_peers
from helpers.pictures import write_image
from helpers.tiny_models import tiny_model
from PIL import Image
from transformers import ObjectDetectionPipeline, pipeline
from transformers.pipelines.pt_utils import KeyDataset
from transformers.pipelines.zero_shot_object_detection import ZeroShotObjectDetectionPipeline

from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor, Vocabulary
from decodetr.inference.candidates import name_of
from decodetr.inference.loading import load_model
from decodetr.modeling_decodetr.zero_shot_pipeline import DeCoDetrZeroShotPipeline

NAMES = ["cat", "dog", "salt, pepper"]  # of tiny_detector_folder


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch):
    def ask(*question):
        raise AssertionError(question)

    monkeypatch.setattr(builtins, "input", ask)


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8))


@pytest.fixture(scope="module")
def zero_shot(tiny_detector_folder):
    return pipeline("zero-shot-object-detection", model=str(tiny_detector_folder), device="cpu")


def expected(folder, image, names):
    """[(score, name, box)] of the model's own forward, best first."""
    model, processor = load_model(folder, names=names, device="cpu")
    with torch.inference_mode():
        outputs = model(**processor(images=[image], return_tensors="pt"))
    (found,) = processor.post_process_object_detection(outputs, 0.0, [(image.height, image.width)])
    return [(s.item(), names[i], box.int().tolist()) for s, i, box in zip(*(found[key] for key in found))]


@pytest.mark.parametrize("family", ["ours", "grounding-dino"])
def test_the_same_program_runs_with_grounding_dino_and_ours(family, tiny_detector_folder, image):
    model = str(tiny_detector_folder) if family == "ours" else tiny_peers.folder(family)

    detector = pipeline("zero-shot-object-detection", model=model, device="cpu")
    found = detector(image, candidate_labels=["a cat.", "a dog."], threshold=0.0)

    assert found and {row["label"] for row in found} == {"a cat.", "a dog."}
    for row in found:
        assert set(row) == {"score", "label", "box"} and set(row["box"]) == {"xmin", "ymin", "xmax", "ymax"}
        assert 0 <= row["score"] <= 1 and all(isinstance(side, int) for side in row["box"].values())
    scores = [row["score"] for row in found]
    assert scores == sorted(scores, reverse=True)
    assert type(detector) is not ZeroShotObjectDetectionPipeline or family != "ours"


def test_labels_are_scored_in_one_pass_as_names_of_the_model_are(tiny_detector_folder, zero_shot, image, monkeypatch):
    calls, run = [], zero_shot.model.forward
    monkeypatch.setattr(zero_shot.model, "forward", lambda *args, **kw: calls.append(1) or run(*args, **kw))
    labels = ["salt, pepper", "cat"]
    found = zero_shot(image, candidate_labels=labels, threshold=0.0)
    wanted = expected(tiny_detector_folder, image, labels)
    assert [row["label"] for row in found] == [name for _, name, _ in wanted] and len(found) == 24
    np.testing.assert_allclose([row["score"] for row in found], [score for score, *_ in wanted], rtol=1e-5)
    assert [list(row["box"].values()) for row in found] == [box for *_, box in wanted]
    assert len(calls) == 1 and zero_shot.model.vocabulary.names == NAMES
    few = zero_shot(image, candidate_labels=labels, threshold=0.0, top_k=3)
    assert [row["box"] for row in few] == [row["box"] for row in found[:3]]
    assert {row["label"] for row in zero_shot(image, threshold=0.0)} == set(NAMES)  # the model's own


def test_several_pictures_with_labels_of_their_own(zero_shot, image, tmp_path):
    files = [str(write_image(tmp_path / f"{i}.png", color=(90 * i, 90, 90))) for i in range(3)]
    labels = [["cat"], ["dog", "cat"], ["cat"]]
    one_by_one = [zero_shot(file, candidate_labels=wanted, threshold=0.0) for file, wanted in zip(files, labels)]
    for size in (1, 3):
        found = zero_shot(files, candidate_labels=labels, threshold=0.0, batch_size=size)
        assert [[row["label"] for row in rows] for rows in found] == [
            [row["label"] for row in rows] for rows in one_by_one
        ]
        for rows, others in zip(found, one_by_one):
            np.testing.assert_allclose([row["score"] for row in rows], [row["score"] for row in others], rtol=1e-4)
    assert zero_shot([image, image], candidate_labels="cat, dog", threshold=0.0)[1] == zero_shot(
        image, candidate_labels=["cat", "dog"], threshold=0.0
    )
    with pytest.raises(ValueError, match="3 images but 2 lists of candidate_labels"):
        zero_shot(files, candidate_labels=labels[:2])


def test_labels_without_a_stored_embedding_are_embedded_once(text_detector, image, monkeypatch):
    detector = pipeline("zero-shot-object-detection", model=str(text_detector[0]), device="cpu")
    loads, load = [], Vocabulary.from_text_model
    monkeypatch.setattr(
        Vocabulary, "from_text_model", lambda names, *a, **k: loads.append(names) or load(names, *a, **k)
    )
    found = detector(image, candidate_labels=["a yak.", "Cat", "the gnu"], threshold=0.0)
    again = detector(image, candidate_labels=["gnu", "yak", "cat"], threshold=0.0)
    assert [list(names) for names in loads] == [["yak", "gnu"]]
    assert [{"a yak.": "yak", "Cat": "cat", "the gnu": "gnu"}[row["label"]] for row in found] == [
        row["label"] for row in again
    ]
    np.testing.assert_allclose([row["score"] for row in found], [row["score"] for row in again], rtol=1e-5)
    with pytest.raises(ValueError, match="does not say which text model"):
        model = detector.model
        model.set_vocabulary(Vocabulary(["cat"], model.vocabulary.embeddings[:1]))
        detector(image, candidate_labels=["zebra"])


@pytest.mark.parametrize(
    "label, name",
    [("a cat.", "cat"), ("cat", "cat"), ("The Cat", "cat"), ("a yak.", "yak"), ("A.", "A"), ("an owl", "an owl")],
)
def test_what_a_label_stands_for(label, name):
    assert name_of(label, ["cat", "an owl"]) == name


def test_threads_have_labels_of_their_own(zero_shot, image):
    wanted = {name: zero_shot(image, candidate_labels=[name], threshold=0.0) for name in NAMES}
    wrong = []

    def work(name):
        for _ in range(4):
            found = zero_shot(image, candidate_labels=[name], threshold=0.0)
            if not np.allclose([row["score"] for row in found], [row["score"] for row in wanted[name]], rtol=1e-3):
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in NAMES]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert wrong == [] and zero_shot.model.vocabulary.names == NAMES


def test_the_threshold_of_a_pipeline_is_that_of_the_model(tiny_detector_folder, image):
    model = DeCoDetrForObjectDetection.from_pretrained(tiny_detector_folder)
    processor = DeCoDetrImageProcessor.from_pretrained(tiny_detector_folder)
    scores = [score for score, *_ in expected(tiny_detector_folder, image, NAMES)]
    model.config.score_threshold = float(np.mean(scores[5:7]))
    own = {"dog": 0.999}
    for task in ("object-detection", "zero-shot-object-detection"):
        model.config.name_thresholds = None
        detector = pipeline(task, model=model, image_processor=processor, device="cpu")
        assert isinstance(detector, ObjectDetectionPipeline | ZeroShotObjectDetectionPipeline)
        found = detector(image)
        assert len(found) == 6 and len(detector(image, threshold=0.0)) == 36
        model.config.name_thresholds = own
        assert detector(image) == [row for row in found if row["label"] != "dog"]


def test_a_pipeline_opens_files_as_predict_does(tiny_detector_folder, tmp_path):
    deep = tmp_path / "deep.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 65535, (60, 80), np.uint16)).save(deep)
    with open(deep, "rb") as file, Image.open(file) as opened:
        scaled = Image.fromarray((np.asarray(opened) / 257).round().astype(np.uint8)).convert("RGB")
    model, processor = load_model(tiny_detector_folder, device="cpu")
    for task in ("object-detection", "zero-shot-object-detection"):
        detector = pipeline(task, model=model, image_processor=processor, device="cpu")
        of_file, of_image = detector(str(deep), threshold=0.0), detector(scaled, threshold=0.0)
        np.testing.assert_allclose([r["score"] for r in of_file], [r["score"] for r in of_image], atol=2e-3)


PROGRAM = """
import builtins
def ask(*question):
    raise SystemExit("asked")
builtins.input = ask
{first}
{second}
detector = pipeline("{task}", model={model!r}, device="cpu")
print(type(detector).__name__, type(detector.model).__module__)
"""
IMPORTS = ("import decodetr", "from transformers import pipeline")


@pytest.mark.slow
@pytest.mark.parametrize("first, second", [IMPORTS, IMPORTS[::-1]])
def test_importing_decodetr_is_enough_for_a_saved_model(tiny_detector_folder, first, second):
    assert (tiny_detector_folder / "modeling_decodetr.py").is_file()  # what would be asked about
    code = PROGRAM.format(first=first, second=second, task="object-detection", model=str(tiny_detector_folder))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["DeCoDetrDetector", "decodetr.modeling_decodetr.modeling_decodetr"], done.stderr


def test_post_processing_with_names(tiny_detector_folder, image):
    model, processor = load_model(tiny_detector_folder, device="cpu")
    with torch.inference_mode():
        outputs = model(**processor(images=[image, image], return_tensors="pt"))
    sizes = [(60, 90), (30, 40)]
    plain = processor.post_process_object_detection(outputs, 0.0, sizes)
    named = processor.post_process_grounded_object_detection(outputs, 0.0, sizes, [NAMES, ["a", "b", "c"]])
    for one, other, names in zip(plain, named, (NAMES, ["a", "b", "c"])):
        assert list(other) == ["scores", "labels", "boxes", "text_labels"]
        assert all(one[key].equal(other[key]) for key in one)
        assert other["text_labels"] == [names[label] for label in one["labels"].tolist()]
    assert processor.post_process_grounded_object_detection(outputs)[0]["text_labels"] is None
    for wrong, message in (([NAMES], r"got \[3\]"), ([NAMES, NAMES[:2]], r"got \[3, 2\]"), ([NAMES, "abc"], "'abc'")):
        with pytest.raises(ValueError, match=f"3 names for each of the 2 images, {message}|{message}"):
            processor.post_process_grounded_object_detection(outputs, text_labels=wrong)


@pytest.mark.parametrize("task", ["object-detection", "zero-shot-object-detection"])
@pytest.mark.parametrize("threshold, least", [(None, 0.25), (0.6, 0.6), (0.0, 0.0), (1.0, 1.0)])
def test_the_model_reads_the_queries_that_can_reach_the_threshold(task, threshold, least, monkeypatch):
    model = tiny_model("detr", score_threshold=0.5, name_thresholds={"cat": 0.25}).eval()
    detector = pipeline(task, model=model, image_processor=DeCoDetrImageProcessor(size={"height": 64, "width": 64}))
    asked, forward = [], type(model).forward

    def watched(self, *args, min_score="none", **kwargs):
        asked.append(min_score)
        return forward(self, *args, min_score=min_score, **kwargs)

    monkeypatch.setattr(type(model), "forward", watched)
    options = {} if threshold is None else {"threshold": threshold}
    if task.startswith("zero"):
        options["candidate_labels"] = ["cat"]
    detector(Image.new("RGB", (80, 60)), **options)
    assert asked == [least]


@pytest.mark.parametrize("task", ["object-detection", "zero-shot-object-detection"])
@pytest.mark.parametrize("threshold", [40, -0.1, float("nan")])
def test_a_threshold_that_is_no_score_is_refused(task, threshold, tiny_detector_folder, image):
    model, processor = load_model(tiny_detector_folder, device="cpu")
    detector = pipeline(task, model=model, image_processor=processor, device="cpu")
    saved = DeCoDetrZeroShotPipeline(model=model, image_processor=processor, device=torch.device("cpu"))
    message = f"threshold must be in 0 to 1, got {threshold}"
    for run in (detector, saved):
        labels = {} if run is detector and task == "object-detection" else {"candidate_labels": ["cat"]}
        with pytest.raises(ValueError, match=message):
            run(image, threshold=threshold, **labels)
        assert run(image, threshold=0, **labels)
    with pytest.raises(ValueError, match=message):
        pipeline(task, model=model, image_processor=processor, device="cpu", threshold=threshold)
    if task == "object-detection":
        with pytest.raises(ValueError, match=message):
            detector(image, threshold=[0.5, threshold, 0.5])
    batch = processor(images=[image], return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**batch)
    assert len(processor.post_process_object_detection(outputs, -1.0)[0]["scores"]) == 36  # as the library's takes any


@pytest.mark.parametrize("task", ["object-detection", "zero-shot-object-detection"])
def test_pictures_of_every_kind_give_the_same(task, tiny_detector_folder, image, tmp_path):
    detector = pipeline(task, model=str(tiny_detector_folder), device="cpu")
    image.save(tmp_path / "a.png")
    pixels = np.array(image)
    text = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    kinds = [tmp_path / "a.png", str(tmp_path / "a.png"), image, pixels, torch.from_numpy(pixels).permute(2, 0, 1)]
    kinds += [text, f"data:image/png;base64,{text}", "\n".join(text[i : i + 76] for i in range(0, len(text), 76))]
    wanted = detector(image, threshold=0.0)
    assert wanted and all(detector(kind, threshold=0.0) == wanted for kind in kinds)
    for several in (kinds, tuple(kinds), datasets.Dataset.from_dict({"x": [str(tmp_path / "a.png")]})["x"]):
        found = detector(several, threshold=0.0)
        assert len(found) == len(several) and all(rows == wanted for rows in found)
    assert [rows == wanted for rows in detector((kind for kind in kinds[:3]), threshold=0.0)] == [True] * 3
    assert detector([]) == []


@pytest.mark.parametrize("task", ["object-detection", "zero-shot-object-detection"])
@pytest.mark.parametrize("given, message", [
    (b"abc", "expected a picture .* got bytes"), (7, "expected a picture .* got int"),
    (np.zeros((2, 2, 7), np.uint8), r"got an array of shape \(2, 2, 7\)"), ("A" * 65, "base64 text cannot be decoded"),
    ("A" * 64, "base64 text"), ("nothing.png", "nothing.png"),
])  # fmt: skip
def test_what_is_no_picture_is_refused(task, given, message, tiny_detector_folder):
    detector = pipeline(task, model=str(tiny_detector_folder), device="cpu")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        detector(given)


def test_labels_of_a_call_are_those_of_all_its_pictures(zero_shot, image):
    wanted = zero_shot(image, candidate_labels=["dog"], threshold=0.0)
    data = KeyDataset([{"picture": image}, {"picture": np.asarray(image)}], "picture")
    for several in (data, (one for one in [image, image]), [image, {"image": image}]):
        assert list(zero_shot(several, candidate_labels=["dog"], threshold=0.0)) == [wanted] * 2
    own = {"image": image, "candidate_labels": ["cat"]}
    of_cat = zero_shot([own, image], candidate_labels="dog", threshold=0.0)
    assert [{row["label"] for row in rows} for rows in of_cat] == [{"cat"}, {"dog"}]
    assert zero_shot(own, threshold=0.0) == zero_shot(image, ["cat"], threshold=0.0) == of_cat[0]
