"""A calibrated model: its scores and thresholds in detect, predict, the pipeline, training and its own command."""

import json

import numpy as np
import pytest
import torch
from helpers.tiny_models import NAMES, tiny_batch, tiny_model
from PIL import Image
from transformers import pipeline

from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection, DeCoDetrImageProcessor, Vocabulary
from decodetr.cli import main
from decodetr.inference.detection import detect
from decodetr.inference.loading import load_model
from decodetr.modeling_decodetr.configuration_decodetr import UNCALIBRATED
from decodetr.processing import CocoAnnotations
from decodetr.training.options.options import TrainOptions
from decodetr.training.results.calibration import KeptImages, keep_aside, why_none_kept

IMAGES, SIDE = 60, 64


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model, and pictures in which its surest boxes are annotated with the names that it gives them: it is right, so
    that its scores can be calibrated. The pictures are noise, of which it knows nothing else."""
    return _write_world(tmp_path_factory.mktemp("calibration"), tiny_model(detector={"num_queries": 12}).eval())


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """The same with a model whose boxes are so wide that they overlap; of those that do, the surest is annotated."""
    model = tiny_model(detector={"num_queries": 12}, nms_iou=0.5).eval()
    with torch.no_grad():
        model.detector.model.enc_bbox_head.layers[-1].bias[2:] += 3.5
    folder = _write_world(tmp_path_factory.mktemp("crowded"), model, apart=True)
    model.config.nms_iou = None
    model.config.save_pretrained(folder / "model")
    return folder


def _write_world(folder, model, apart=False):
    processor = DeCoDetrImageProcessor(size={"height": SIDE, "width": SIDE})
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "data/train").mkdir(parents=True)
    (folder / "data/annotations").mkdir()
    rng, images, rows = np.random.default_rng(0), [], []
    for number in range(IMAGES):
        picture = Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))
        picture.save(folder / "data/train" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        found = detect(model, processor, [picture], threshold=1e-6, top_k=36)[0]
        objects = list(zip(found["names"], found["boxes"]))
        if apart:  # one name a box, the surest, which is the last that a dict is given
            objects = [(name, box) for box, name in {tuple(box): name for name, box in reversed(objects)}.items()]
        for name, (x0, y0, x1, y1) in objects if apart else objects[: 3 + number % 4]:
            low, high = np.clip([x0, y0], 0, SIDE), np.clip([x1, y1], 0, SIDE)
            box = [*low.tolist(), *(high - low).tolist()]
            rows.append({"id": len(rows), "image_id": number, "category_id": NAMES.index(name), "bbox": box})
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    document = {"images": images, "annotations": rows, "categories": categories}
    (folder / "data/annotations/train.json").write_text(json.dumps(document))
    return folder


def _calibrated(world, output, *more):
    words = ["calibrate", "--model", str(world / "model"), "--data", str(world / "data"), "--output", str(output)]
    return main([*words, *more])


def _train(world, output, *more):
    return main([
        "train", "--model", str(world / "model"), "--data", str(world / "data"), "--output_dir", str(output),
        "--streams", "semantic", "--semantic_learning_rate", "1e-6", "--max_steps", "2", "--report_to", "none",
        "--val-annotations", "none", "--regions", "none", "--save_strategy", "no", "--dataloader_pin_memory", "false",
        "--disable_tqdm", "true", *more,
    ])  # fmt: skip


def test_logits_are_a_line_of_those_before():
    model, pixels = tiny_model().eval(), tiny_batch()["pixel_values"]
    with torch.no_grad():
        before = model(pixels)
        model.config.score_scale, model.config.score_bias = 2.5, 0.75
        after = model(pixels)
    assert torch.allclose(after.logits, 2.5 * before.logits + 0.75)
    assert torch.equal(after.objectness_logits, before.objectness_logits)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"score_scale": 0.0}, "score_scale must be positive"),
        ({"score_bias": float("nan")}, "must be finite"),
        ({"score_threshold": 1.5}, r"threshold of 'score_threshold' must lie in \[0, 1\], got 1.5"),
        ({"name_thresholds": {"cat": -0.1}}, "threshold of 'cat' must lie"),
    ],
)
def test_the_config_refuses_what_is_no_calibration(fields, words):
    with pytest.raises(ValueError, match=words):
        DeCoDetrConfig(**fields)


def test_it_is_saved_and_stays_when_names_change(tmp_path):
    fields = {"score_scale": 1.5, "score_bias": -0.5, "score_threshold": 0.2, "name_thresholds": {"cat": 0.6}}
    model = tiny_model(**fields).eval()
    model.save_pretrained(tmp_path)
    loaded, pixels = DeCoDetrForObjectDetection.from_pretrained(tmp_path).eval(), tiny_batch()["pixel_values"]
    with torch.no_grad():
        assert torch.equal(loaded(pixels).logits, model(pixels).logits)
    loaded.set_vocabulary(Vocabulary.random(["dog", "cat"], 16))
    assert {key: getattr(loaded.config, key) for key in fields} == fields
    assert loaded.config.thresholds(["dog", "cat"]) == [0.2, 0.6]
    assert loaded.config.thresholds(["dog", "cat"], 0.4) == [0.4, 0.4]
    assert DeCoDetrConfig().thresholds(["dog"]) == [0.3]


def test_detect_obeys_the_thresholds_of_names(world):
    model, processor = load_model(world / "model", device="cpu")
    picture = Image.open(world / "data/train/0.png")
    everything = detect(model, processor, [picture], threshold=0.0)[0]
    middle = float(np.median(everything["scores"]))
    model.config.score_threshold, model.config.name_thresholds = middle, {"cat": 0.0}
    found = detect(model, processor, [picture], explain=2)[0]
    expected = [
        (name, score)
        for name, score in zip(everything["names"], everything["scores"])
        if score > (0.0 if name == "cat" else middle)
    ]
    names, scores = zip(*expected)
    assert found["names"] == list(names) and 12 < len(expected) < 36
    assert found["scores"] == pytest.approx(list(scores), rel=1e-4)
    assert {len(values) for values in found.values()} == {len(expected)}  # explanations too
    assert detect(model, processor, [picture], threshold=0.0)[0] == everything


def test_explanations_are_of_the_score_before_calibration(world):
    model, processor = load_model(world / "model", device="cpu")
    picture = [Image.open(world / "data/train/0.png")]
    before = detect(model, processor, picture, threshold=0.0, explain=1)[0]
    model.config.score_scale, model.config.score_bias = 2.0, 1.0
    after = detect(model, processor, picture, threshold=0.0, explain=1)[0]
    assert after["name_probability"] == pytest.approx(before["name_probability"], rel=1e-4)
    assert after["scores"] != before["scores"]


def test_the_command_makes_a_calibrated_copy_with_a_card(world, tmp_path, capsys):
    original = (world / "model/config.json").read_bytes()
    assert _calibrated(world, tmp_path / "copy") == 0
    printed, config = capsys.readouterr().out, DeCoDetrConfig.from_pretrained(tmp_path / "copy")
    info = config.calibration_info
    assert (world / "model/config.json").read_bytes() == original
    assert info["images"] == IMAGES and info["kept_aside"] is False and config.score_threshold > 0
    assert info["after"]["error"] < info["before"]["error"]
    assert f"the default threshold is {config.score_threshold:g}" in printed
    card = (tmp_path / "copy/README.md").read_text()
    assert (
        "what it reaches on them is too good" in card
        and card.count("## Scores") == 1
        and f"scores above {config.score_threshold:g}" in card
    )
    assert f"| these images | {100 * info['after']['precision']:.1f} |" in printed
    raw, loaded = (DeCoDetrForObjectDetection.from_pretrained(f).eval() for f in (world / "model", tmp_path / "copy"))
    pixels = tiny_batch()["pixel_values"]
    with torch.no_grad():
        assert torch.allclose(config.calibrated(raw(pixels).logits), loaded(pixels).logits, atol=1e-5)
    detector = pipeline("object-detection", str(tmp_path / "copy"), trust_remote_code=False)
    picture = Image.open(world / "data/train/1.png")
    (ours,) = detect(*load_model(tmp_path / "copy", device="cpu"), [picture])
    if config.name_thresholds is None:
        shown = detector(picture, threshold=config.score_threshold)
        assert [row["label"] for row in shown] == ours["names"]
        assert [row["score"] for row in shown] == pytest.approx(ours["scores"], abs=1e-5)


def test_the_command_calibrates_in_place_and_again_to_the_same(world, tmp_path):
    assert _calibrated(world, tmp_path / "copy") == 0
    first = DeCoDetrConfig.from_pretrained(tmp_path / "copy")
    entries = json.loads((tmp_path / "copy/config.json").read_text())
    card = "# Mine\n\nText.\n\n## Measured\nA table.\n\n## Scores\nOld.\n\n## Made\nBy me.\n"
    (tmp_path / "copy/README.md").write_text(card)
    weights = (tmp_path / "copy/model.safetensors").stat().st_mtime_ns
    assert main(["calibrate", "--model", str(tmp_path / "copy"), "--data", str(world / "data")]) == 0
    second = DeCoDetrConfig.from_pretrained(tmp_path / "copy")
    for name in UNCALIBRATED:  # from the scores as they were, not from calibrated ones
        assert getattr(second, name) == getattr(first, name), name
    assert (tmp_path / "copy/model.safetensors").stat().st_mtime_ns == weights
    again = json.loads((tmp_path / "copy/config.json").read_text())
    assert "custom_pipelines" in again and {name: again[name] for name in ("auto_map", "custom_pipelines")} == {
        name: entries[name] for name in ("auto_map", "custom_pipelines")
    }  # what programs without decodetr need
    written = (tmp_path / "copy/README.md").read_text()
    assert "Old." not in written and written.startswith(
        "# Mine\n\nText.\n\n## Measured\nA table.\n\n<!-- decodetr:scores "
    )
    assert written.endswith("\n\n## Made\nBy me.\n")


@pytest.mark.slow
def test_the_command_suppresses_duplicates_where_it_is_asked_to(crowded, world, tmp_path, caplog):
    for name, more, given, suppressed in (
        ("asked", ["--duplicates"], crowded, True),
        ("unasked", [], crowded, False),
        ("needless", ["--duplicates"], world, False),
    ):
        caplog.clear()
        assert _calibrated(given, tmp_path / name, *more) == 0
        nms_iou = json.loads((tmp_path / name / "config.json").read_text())["nms_iou"]
        assert (nms_iou is not None) == suppressed, name
        assert ("AP50 of the boxes is" in caplog.text) == bool(more), name


@pytest.mark.parametrize(
    "words, message",
    [
        (["--model", "scenes-decodetr", "--data", "{data}"], "give --output DIR for a copy"),
        (["--model", "{model}", "--data", "{data}", "--output", "{model}"], "is the model's own folder; leave it out"),
        (["--model", "{model}", "--output", "{out}"], "give --data DIR or --annotations FILE"),
        (["--model", "{model}", "--data", "{data}", "--output", "{out}", "--most", "0"], "--most must be at least 1"),
        (["--model", "{model}", "--data", "{data}", "--output", "{out}", "--most", "5"], "5 images: they have"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(world, tmp_path, capsys, words, message):
    places = {"data": world / "data", "model": world / "model", "out": tmp_path / "out"}
    assert main(["calibrate", *(word.format(**places) for word in words)]) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "out/config.json").exists()


def test_training_calibrates_on_images_that_it_keeps_aside(world, tmp_path, caplog):
    assert _train(world, tmp_path / "out", "--calibration-share", "0.5") == 0
    config = DeCoDetrConfig.from_pretrained(tmp_path / "out")
    info = config.calibration_info
    assert info["images"] == 30 and info["kept_aside"] and config.score_threshold is not None
    assert f"30 training images with {info['objects']} objects are kept aside" in caplog.text
    card = (tmp_path / "out/README.md").read_text()
    assert "Calibrated on 30 training images that were kept aside" in card
    assert f"| images kept aside | {100 * info['after']['precision']:.1f} |" in card
    state = json.loads((tmp_path / "out/trainer_state.json").read_text())
    assert state["epoch"] == 0.5  # two of the four batches that 30 images make


def test_a_run_that_deploys_none_of_its_training_names_is_not_lost(world, tmp_path, caplog):
    Vocabulary.random(["heron", "yak"], 16).save_pretrained(tmp_path / "others")
    options = ("--calibration-share", "0.5", "--deploy-vocabulary", str(tmp_path / "others"))
    assert _train(world, tmp_path / "out", *options) == 0
    model = DeCoDetrForObjectDetection.from_pretrained(tmp_path / "out")
    assert model.vocabulary.names == ["heron", "yak"] and model.config.score_threshold is None
    assert "none of the names of the 30 images kept aside is one of the saved model's" in caplog.text
    assert "none of the names of the 30 images kept aside" in (tmp_path / "out/README.md").read_text()


def test_an_error_on_the_kept_images_does_not_lose_the_trained_model(world, tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("a picture is damaged")

    monkeypatch.setattr("decodetr.training.results.calibration._detections", fail)
    options = ("--calibration-share", "0.5", "--semantic_learning_rate", "0.1")
    assert _train(world, tmp_path / "out", *options) == 1
    begun, trained = (
        DeCoDetrForObjectDetection.from_pretrained(f).state_dict() for f in (world / "model", tmp_path / "out")
    )
    assert not torch.equal(*(state["semantic_stream.predictor.weight"] for state in (begun, trained)))


def test_a_run_that_finds_objects_twice_suppresses_the_duplicates(crowded, tmp_path, caplog):
    options = ("--calibration-share", "0.5")
    assert _train(crowded, tmp_path / "out", *options) == 0
    chosen = DeCoDetrConfig.from_pretrained(tmp_path / "out").nms_iou
    assert chosen == 0.5 and "boxes that overlap by more than 0.5 the most certain one stays" in caplog.text
    # What a later stage finds is kept, and what the user says is obeyed.
    assert _train(crowded, tmp_path / "kept", "--model", str(tmp_path / "out")) == 0
    assert DeCoDetrConfig.from_pretrained(tmp_path / "kept").nms_iou == chosen
    assert _train(crowded, tmp_path / "said", *options, "--set", "nms_iou=null") == 0
    assert DeCoDetrConfig.from_pretrained(tmp_path / "said").nms_iou is None


@pytest.mark.parametrize(
    "fields, streams, kept",
    [
        ({}, "localization", True),
        ({"set": ["nms_iou=null"]}, "localization", False),
        ({"set": ["nms_iou=null"]}, "semantic", True),
        ({"config": {"nms_iou": None}}, "localization", False),
        ({"config": {"align_weight": 2.0}}, "localization", True),
        ({"model": "somewhere", "set": ["nms_iou=0.6"]}, "localization", True),  # its names are known: its scores
    ],
)
def test_images_are_kept_aside_where_something_is_found_on_them(fields, streams, kept):
    assert (why_none_kept(TrainOptions(**fields), streams) is None) == kept


def test_a_run_without_duplicates_suppresses_nothing(world, tmp_path):
    assert _train(world, tmp_path / "out", "--calibration-share", "0.5") == 0
    assert DeCoDetrConfig.from_pretrained(tmp_path / "out").nms_iou is None


@pytest.mark.slow
def test_a_run_that_goes_on_ends_with_the_same_calibration(world, tmp_path):
    options = ("--calibration-share", "0.5", "--save_strategy", "steps", "--save_steps", "1")
    options += ("--lr_scheduler_type", "constant")
    assert _train(world, tmp_path / "whole", *options) == 0
    assert _train(world, tmp_path / "parts", *options, "--max_steps", "1") == 0
    assert DeCoDetrConfig.from_pretrained(tmp_path / "parts/checkpoint-1").score_threshold is None
    assert _train(world, tmp_path / "parts", *options, "--resume_from_checkpoint", "last") == 0
    one, other = (DeCoDetrConfig.from_pretrained(tmp_path / name) for name in ("whole", "parts"))
    assert other.score_scale == pytest.approx(one.score_scale, rel=1e-4)
    assert other.calibration_info["objects"] == one.calibration_info["objects"]


@pytest.mark.parametrize(
    "more, reason",
    [
        (["--calibration-share", "0"], "--calibration-share 0"),
        (["--no-exhaustive"], "whether a detection without a box is wrong is not known"),
        (["--calibration-share", "0.1"], "annotated objects, and at least 50 are needed"),
    ],
)
def test_a_run_without_calibration_says_why(world, tmp_path, more, reason):
    assert _train(world, tmp_path / "out", *more) == 0
    assert reason in (tmp_path / "out/README.md").read_text()
    assert DeCoDetrConfig.from_pretrained(tmp_path / "out").score_scale == 1.0


@pytest.mark.parametrize(
    "more, message",
    [
        (["--calibration-share", "1"], "--calibration-share must lie between 0 and 1, got 1.0"),
        (["--calibration-share", "0.2", "--no-exhaustive"], "--calibration-share 0.2: --no-exhaustive"),
        (["--set", "score_bias=1"], "--set score_bias: this run calibrates its scores itself"),
    ],
)
def test_training_refuses_what_contradicts_it(world, tmp_path, capsys, more, message):
    assert _train(world, tmp_path / "out", *more) == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_stream_that_begins_anew_has_no_calibration(world, tmp_path):
    assert _calibrated(world, tmp_path / "copy") == 0
    more = ("--model", str(tmp_path / "copy"), "--calibration-share", "0")
    assert _train(world, tmp_path / "goes_on", *more) == 0
    kept = DeCoDetrConfig.from_pretrained(tmp_path / "goes_on")
    assert kept.score_threshold == DeCoDetrConfig.from_pretrained(tmp_path / "copy").score_threshold
    assert "Those of before stay." in (tmp_path / "goes_on/README.md").read_text()
    assert _train(world, tmp_path / "anew", *more, "--reset-semantics") == 0
    assert DeCoDetrConfig.from_pretrained(tmp_path / "anew").score_threshold is None


def test_images_are_kept_aside_without_taking_the_last_box_of_a_name(world):
    coco = CocoAnnotations.load(world / "data/annotations/train.json")
    kept = keep_aside(coco, 0.5)
    assert kept == keep_aside(coco, 0.5) and len(kept) == 30 and keep_aside(coco, 0.25) < kept
    alone = coco.select_images([coco.images[0]["image_id"]])
    assert keep_aside(alone, 0.9) == set() and keep_aside(coco, 0.0) == set()


def _crowded(folder, images, objects, own_names):
    """Annotations without pictures: so many objects in each image, of names of their own or of one."""
    rows = [{"id": n, "file_name": f"{n}.jpg", "width": 99, "height": 99} for n in range(1, images + 1)]
    names = images * objects if own_names else 1
    boxes = [
        {"id": n + 1, "image_id": 1 + n // objects, "category_id": 1 + n % names, "bbox": [1, 1, 9, 9], "area": 81,
         "iscrowd": 0}
        for n in range(images * objects)
    ]  # fmt: skip
    document = {
        "images": rows,
        "annotations": boxes,
        "categories": [{"id": n + 1, "name": f"{n}"} for n in range(names)],
    }
    (folder / "boxes.json").write_text(json.dumps(document))
    return CocoAnnotations.load(folder / "boxes.json", folder, check_images=False)


def test_where_no_name_learns_its_last_box_may_be_kept_aside(tmp_path):
    coco = _crowded(tmp_path, 60, 10, own_names=True)
    assert keep_aside(coco, 0.1) == set()
    assert len(keep_aside(coco, 0.1, names_learn=False)) == 6
    assert len(keep_aside(coco, 1.0, names_learn=False)) == 59, "a box is left to learn from"
    common = coco.select(coco.names[:30])  # in three images, each with the last box of its names
    kept = keep_aside(common, 0.5)
    assert kept <= keep_aside(common, 0.5, names_learn=False), "what other stages keep comes first"


@pytest.mark.parametrize(
    "images, objects, own_names, streams, more, enough",
    [
        (60, 10, False, "semantic", (), True),
        (60, 10, True, "semantic", (), None),  # no share would help
        (60, 10, True, "localization", (), True),
        (30, 60, False, "semantic", (), False),  # three pictures, but 180 objects
        (30, 60, False, "semantic", (0.2,), True),
        (8, 5, False, "semantic", (), None),
    ],
)
def test_enough_objects_in_enough_pictures_are_kept_aside(
    tmp_path, caplog, images, objects, own_names, streams, more, enough
):
    """Advice that no share can follow is not given."""
    coco = _crowded(tmp_path, images, objects, own_names)
    options = TrainOptions(data="d", detector="m", calibration_share=more[0] if more else None)
    found, left = KeptImages.divide(options, streams, coco)
    assert (found.kept is not None) == bool(enough) == (len(left) < images)
    assert ("--calibration-share keeps more" in caplog.text) == (enough is False)
    assert ("at least 50 are needed, in 5 images or more" in caplog.text) == (not enough)


def test_predict_shows_what_the_calibration_says(world, tmp_path, capsys):
    assert _calibrated(world, tmp_path / "copy") == 0
    config = DeCoDetrConfig.from_pretrained(tmp_path / "copy")
    config.name_thresholds = {"cat": 1.0}
    config.save_pretrained(tmp_path / "copy")
    words = ["predict", str(world / "data/train/0.png"), "--model", str(tmp_path / "copy"), "--output"]
    assert (
        main([*words, str(tmp_path / "own")]) == 0 and main([*words, str(tmp_path / "given"), "--threshold", "0"]) == 0
    )
    assert f"that of the model's calibration, {config.score_threshold:g}" in capsys.readouterr().out
    own, given = (json.loads((tmp_path / name / "detections.json").read_text()) for name in ("own", "given"))
    assert own["threshold"] == config.score_threshold and own["name_thresholds"] == {"cat": 1.0}
    assert given["threshold"] == 0 and "name_thresholds" not in given
    rows = given["images"][0]["detections"]
    assert own["images"][0]["detections"] == [
        row for row in rows if row["name"] != "cat" and row["score"] > config.score_threshold
    ]
    assert any(row["name"] == "cat" for row in rows)


def test_the_benchmark_of_calibration_measures_small_vocabularies(world, capsys):
    import score_calibration

    (world / "data/names.json").write_text(json.dumps({"base": {0: NAMES[0], 1: NAMES[1]}, "novel": {2: NAMES[2]}}))
    words = ["--model", str(world / "model"), "--data", str(world / "data"), "--images", "40", "--draws", "2"]
    try:
        score_calibration.main([*words, "--splits", "train"])
    finally:
        (world / "data/names.json").unlink()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:3] for row in rows] == [
        ["train", words, when] for words in ("all names", "12 names", "one name") for when in ("before", "after")
    ]
    assert rows[0] == ["train", "all names", *rows[2][2:]] and rows[1][3:] == rows[3][3:]  # there are but three names
    assert "(+-" in rows[1][3] and "(+-" not in rows[0][3]
    assert float(rows[1][6]) < float(rows[0][6])  # the calibration error
