"""`decodetr.detect`: pictures of any kind in, `supervision.Detections` out."""

import copy
import io
import json
import pickle
import shutil
import urllib.error
import urllib.request

import numpy as np
import pytest
import supervision as sv
import torch
from helpers.hub_server import TOKEN
from helpers.pictures import write_image
from huggingface_hub import HfApi
from PIL import Image
from transformers import AutoModelForObjectDetection

import decodetr
from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor
from decodetr.cli import main
from decodetr.inference.detection import detect as detect_batch
from decodetr.inference.journal import Journal
from decodetr.inference.loading import load_model
from decodetr.inference.one_call import processor_of
from decodetr.inference.picture_files import fitting, picture_paths, unique_names
from decodetr.inference.video_run import video_names
from decodetr.utils import download

NAMES = ["cat", "dog", "salt, pepper"]  # of tiny_detector_folder


@pytest.fixture(scope="module")
def loaded(tiny_detector_folder):
    return load_model(tiny_detector_folder, device="cpu")


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)


def same(found, other):
    np.testing.assert_allclose(found.xyxy, other.xyxy, atol=1e-2)
    np.testing.assert_allclose(found.confidence, other.confidence, rtol=1e-3)
    return found.class_id.tolist() == other.class_id.tolist()


def test_every_kind_of_picture_gives_the_same(loaded, pixels, tmp_path):
    model, processor = loaded
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (wanted,) = detect_batch(model, processor, [Image.fromarray(pixels)], 0.0)
    found = decodetr.detect(model, pixels, threshold=0.0)
    assert isinstance(found, sv.Detections) and found.data["class_name"].tolist() == wanted["names"]
    np.testing.assert_allclose(found.confidence, wanted["scores"], rtol=1e-4)
    np.testing.assert_allclose(found.xyxy, wanted["boxes"], atol=1e-2)
    assert [NAMES[label] for label in found.class_id] == wanted["names"]
    chw = torch.from_numpy(pixels).permute(2, 0, 1)
    kinds = [Image.fromarray(pixels), tmp_path / "a.png", str(tmp_path / "a.png"), chw, chw.float() / 255]
    several = decodetr.detect(model, kinds, threshold=0.0, batch_size=3)
    assert len(several) == 5 and all(same(one, found) for one in several)
    grey = decodetr.detect(model, pixels[..., 0], threshold=0.0)
    assert same(grey, decodetr.detect(model, np.repeat(pixels[..., :1], 3, 2), threshold=0.0))
    assert decodetr.detect(model, []) == []


def test_a_folder_stays_loaded_until_it_changes(tiny_detector_folder, loaded, pixels):
    from decodetr.inference import one_call

    one_call._loaded.cache_clear()
    first = decodetr.detect(tiny_detector_folder, pixels, threshold=0.0, device="cpu")
    again = decodetr.detect(str(tiny_detector_folder), [pixels], threshold=0.0, device="cpu")
    assert isinstance(again, list) and same(again[0], first) and one_call._loaded.cache_info().misses == 1
    assert same(first, decodetr.detect(loaded[0], pixels, threshold=0.0))


def test_a_changed_processor_is_noticed_and_so_is_another_folder_of_that_name(
    tiny_detector_folder, pixels, tmp_path, monkeypatch
):
    from decodetr.inference import one_call

    for place, side in (("a", 64), ("b", 96)):
        shutil.copytree(tiny_detector_folder, tmp_path / place / "model")
        DeCoDetrImageProcessor(size={"height": side, "width": side}).save_pretrained(tmp_path / place / "model")
    seen = []
    detect_labels = one_call.detect_labels

    def watched(model, processor, *rest, **more):
        seen.append(processor.size["height"])
        return detect_labels(model, processor, *rest, **more)

    monkeypatch.setattr(one_call, "detect_labels", watched)
    for place in "ab":
        monkeypatch.chdir(tmp_path / place)
        decodetr.detect("model", pixels, device="cpu")
    DeCoDetrImageProcessor(size={"height": 128, "width": 128}).save_pretrained("model")
    decodetr.detect("model", pixels, device="cpu")
    assert seen == [64, 96, 128]


def test_names_that_were_embedded_are_not_kept_for_ever():
    from decodetr.inference import one_call
    from decodetr.serving.settings import ServeSettings

    assert one_call._CANDIDATES.kept == ServeSettings().kept_names


def test_names_are_of_this_call_and_thresholds_of_the_model(loaded, pixels):
    model, _ = loaded
    found = decodetr.detect(model, pixels, names=["salt, pepper", "a dog."], threshold=0.0)
    assert set(found.data["class_name"]) == {"salt, pepper", "a dog."} and model.vocabulary.names == NAMES
    assert [["salt, pepper", "a dog."][label] for label in found.class_id] == found.data["class_name"].tolist()
    model.config.score_threshold, model.config.name_thresholds = float(found.confidence[5]), {"dog": 0.9}
    try:
        shown = decodetr.detect(model, pixels, names=["salt, pepper", "a dog."])
    finally:
        model.config.score_threshold = model.config.name_thresholds = None
    kept = [i for i in range(5) if found.data["class_name"][i] != "a dog."]
    assert same(shown, found[kept])
    for wrong in ("cat", [], ["cat", " "]):
        with pytest.raises(ValueError, match="labels must be a list of names, at least one"):
            decodetr.detect(model, pixels, names=wrong)
    empty = decodetr.detect(model, pixels, threshold=1.0)
    assert len(empty) == 0 and empty.xyxy.shape == (0, 4)


@pytest.mark.parametrize(
    "picture, message",
    [
        (np.zeros((4, 4, 4), np.uint8), r"got an array of shape \(4, 4, 4\)"),
        (
            np.full((4, 4, 3), 300, np.int64),
            "expected an array of uint8, or of floats from 0 to 1, got int64 from 300",
        ),
        (np.full((4, 4, 3), 7.0), "got float64 from 7.0 to 7.0"),
        (np.zeros((0, 0, 3), np.uint8), r"at least one pixel: .*, got an array of shape \(0, 0, 3\)"),
        (np.zeros((0, 4)), r"got an array of shape \(0, 4\)"),
        (torch.zeros(3, 5, 0), r"got an array of shape \(5, 0, 3\)"),
        (Image.new("RGB", (0, 7)), "at least one pixel: .*, got an image of 0 x 7 pixels"),
        (None, "got NoneType"),
        ("https://example.org/a.png", "fetched only with allow_urls=True"),
    ],
)
def test_what_is_no_picture_is_refused(loaded, picture, message):
    with pytest.raises(ValueError, match=message):
        decodetr.detect(loaded[0], picture)
    with pytest.raises(ValueError, match=message):
        detect_batch(*loaded, [picture])


def test_a_batch_may_be_arrays_and_tensors(loaded, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (wanted,) = detect_batch(*loaded, [Image.fromarray(pixels)], 0.0)
    chw = torch.from_numpy(pixels).permute(2, 0, 1)
    for found in detect_batch(*loaded, [pixels, pixels / 255, chw, chw / 255, tmp_path / "a.png"], 0.0):
        assert found["names"] == wanted["names"] and len(found["names"]) == 36
        np.testing.assert_allclose(found["scores"], wanted["scores"], rtol=1e-3)
        np.testing.assert_allclose(found["boxes"], wanted["boxes"], atol=1e-2)
    for alone in (pixels, chw, Image.fromarray(pixels), "a.png"):  # the planes of a tensor are no pictures
        with pytest.raises(ValueError, match=r"images must be a list, got \w+; write \[image\]"):
            detect_batch(*loaded, alone)


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"threshold": 40}, "threshold must be in 0 to 1, got 40"),
        ({"threshold": -1}, "threshold must be in 0 to 1, got -1"),
        ({"threshold": float("nan")}, "threshold must be in 0 to 1, got nan"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(loaded, pixels, asked, message):
    for pictures in (pixels, [pixels], []):
        with pytest.raises(ValueError, match=message):
            decodetr.detect(loaded[0], pictures, **asked)
    with pytest.raises(ValueError, match=message):
        decodetr.detect("no/such/model", pixels, **asked)  # before anything is loaded
    if "batch_size" not in asked:
        with pytest.raises(ValueError, match=message):
            detect_batch(*loaded, [Image.fromarray(pixels)], **asked)


def test_addresses_are_fetched_up_to_a_limit(loaded, pixels, monkeypatch):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    asked = []

    def urlopen(request, timeout):
        asked.append(request.full_url)
        return io.BytesIO(stream.getvalue())

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    found = decodetr.detect(loaded[0], "https://example.org/a.png", threshold=0.0, allow_urls=True)
    assert same(found, decodetr.detect(loaded[0], pixels, threshold=0.0)) and asked == ["https://example.org/a.png"]
    monkeypatch.setenv(download.MAX_BYTES_VARIABLE, "100")
    with pytest.raises(ValueError, match="more than the 100 bytes"):
        download.fetch("https://example.org/a.png")
    with pytest.raises(ValueError, match="expected an address"):
        download.fetch("file:///etc/passwd")


def test_the_command_fetches_what_it_is_told_to(tiny_detector_folder, pixels, tmp_path, monkeypatch, capsys):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    asked = []

    def urlopen(request, timeout):
        asked.append(request.full_url)
        if "gone" in request.full_url:
            raise urllib.error.URLError("not found")
        return io.BytesIO(stream.getvalue())

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    good, gone = "https://example.org/a.png?size=1", "https://example.org/gone.png"
    words = ["predict", good, gone, "--model", tiny_detector_folder, "--output", tmp_path, "--device", "cpu"]
    assert main(list(map(str, words))) == 1 and asked == []
    assert "only with --allow-urls" in capsys.readouterr().err
    assert main([*map(str, words), "--allow-urls", "--no-pictures"]) == 1 and asked == [good, gone]
    report = json.loads((tmp_path / "detections.json").read_text())
    (entry,), (failed,) = report["images"], report["failed"]
    assert entry["address"] == good and (entry["width"], entry["height"]) == (90, 60)
    assert failed["error"].startswith(f"{gone}: cannot be fetched") and report["missing"] == []


def test_names_of_many_files_are_found_in_linear_time(tmp_path):
    files = [tmp_path / f"{i}" / "same" / "frame.png" for i in range(3000)]
    names = [path.name for path in picture_paths(files, tmp_path / "out")]
    assert len(set(names)) == 3000 and names[:3] == ["frame.png", "same_frame.png", "same_frame_2.png"]
    assert list(unique_names(["x/a.png", "y/A.jpg", "a_2.gif", "z/a.bmp"])) == [
        "a.png",
        "A_2.jpg",
        "a_2_2.gif",
        "a_3.bmp",
    ]


def test_names_that_file_systems_do_not_take_are_cut_and_stay_different(tmp_path):
    long, letter = "x" * 251, "\u00e9" * 150  # two bytes each
    files = [tmp_path / f"{folder}" / f"{stem}.jpg" for folder in "ab" for stem in (long, f"{letter[:125]}z")]
    files += [tmp_path / "c" / f"{long}.png"] * 2 + [tmp_path / letter]
    paths = picture_paths(files, tmp_path / "out")
    names = [path.name for path in paths]
    assert names[:2] == [f"{long}.png", f"{letter[:125]}z.png"] and len(set(names)) == len(names)
    assert names[-1].startswith(f"{letter[:100]}-") and len(names[-1].encode()) == 200 + 9 + 4
    assert fitting(f"a{letter}").startswith(f"a{letter[:99]}-")  # no half of a letter
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert fitting("x" * 255) == "x" * 255 and fitting("x" * 256)[:201] == "x" * 200 + "-"
    assert fitting("x" * 256) != fitting("x" * 257) and fitting("x" * 250, "_1.png").endswith("_1.png")
    copies = list(unique_names([f"a/{long}.jpg", f"b/{long}.jpg"]))
    assert copies[0] == f"{long}.jpg" and copies[1] != copies[0] and len(copies[1]) < 255
    assert len(video_names([f"{'v' * 250}.mp4"])[f"{'v' * 250}.mp4"]) == 209


def test_a_journal_holds_places_not_results(tmp_path):
    image = write_image(tmp_path / "a.png")
    journal = Journal(tmp_path, {})
    entries = [{"file": str(image), "frame": i, "detections": [{}] * i, "best_score": i / 10} for i in range(50)]
    journal.add(entries[:20])
    journal.add(entries[20:])
    journal.end(str(image))
    for again in (journal, Journal(tmp_path, {})):
        keys = again.frames(str(image))
        assert list(again.read(keys)) == entries and list(again.read(keys[7:9])) == entries[7:9]
        assert again.found(keys[7]) == (7, 0.7) and again.has_video(str(image)) and not again.has(image)
    assert Journal(tmp_path, {"other": 1}).frames(str(image)) == []


@pytest.fixture(scope="module")
def two_sizes(tiny_detector_folder, tmp_path_factory):
    """A folder of a model, and of the same one below v2/, whose image processor makes other sizes."""
    folder = tmp_path_factory.mktemp("two") / "model"
    shutil.copytree(tiny_detector_folder, folder)
    shutil.copytree(tiny_detector_folder, folder / "v2")
    DeCoDetrImageProcessor(size={"height": 96, "width": 96}).save_pretrained(folder / "v2")
    return folder


def test_the_image_processor_is_of_the_same_subfolder(two_sizes, loaded, pixels):
    model = DeCoDetrForObjectDetection.from_pretrained(two_sizes, subfolder="v2")
    assert processor_of(model).size["height"] == 96
    found = decodetr.detect(model, pixels, threshold=0.0)
    assert same(found, decodetr.detect(two_sizes / "v2", pixels, threshold=0.0))
    other = decodetr.detect(two_sizes, pixels, threshold=0.0)
    assert np.abs(found.xyxy - other.xyxy).max() > 1e-2
    model = AutoModelForObjectDetection.from_pretrained(two_sizes, subfolder="v2")
    assert processor_of(model).size["height"] == 96 and processor_of(copy.deepcopy(model)).size["height"] == 96


def test_a_relative_folder_is_found_from_another_one(two_sizes, monkeypatch, tmp_path):
    monkeypatch.chdir(two_sizes.parent)
    model = DeCoDetrForObjectDetection.from_pretrained("model/v2")
    (tmp_path / "model" / "v2").mkdir(parents=True)
    DeCoDetrImageProcessor(size={"height": 160, "width": 160}).save_pretrained(tmp_path / "model" / "v2")
    monkeypatch.chdir(tmp_path)
    assert processor_of(model).size["height"] == 96


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_the_image_processor_is_of_the_same_revision(hub, two_sizes, tmp_path, monkeypatch):
    api = HfApi()
    api.create_repo("me/model")
    api.create_branch("me/model", branch="two")
    for folder, branch in ((two_sizes, "main"), (two_sizes / "v2", "two")):
        files = {"folder_path": folder, "ignore_patterns": "v2/*"}
        api.upload_folder(repo_id="me/model", revision=branch, **files)
    cache = tmp_path / "cache"
    first = DeCoDetrForObjectDetection.from_pretrained("me/model", revision="two", cache_dir=cache, token=TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub.repos["me/model"].private = True  # the token is that of the model
    assert processor_of(first).size["height"] == 96
    assert list((tmp_path / "home").rglob("preprocessor_config.json")) == []  # in the cache of the model
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    moved = AutoModelForObjectDetection.from_pretrained("me/model", revision="two")
    api.upload_file(
        path_or_fileobj=two_sizes / "preprocessor_config.json", path_in_repo="preprocessor_config.json",
        repo_id="me/model", revision="two",
    )  # fmt: skip
    assert processor_of(moved).size["height"] == 96
    assert processor_of(DeCoDetrForObjectDetection.from_pretrained("me/model")).size["height"] == 64
    first.save_pretrained(tmp_path / "saved")
    stored = pickle.dumps(first)
    written = (tmp_path / "saved" / "config.json").read_text() + repr(first) + repr(first.origin)
    assert TOKEN not in written and "cache" not in written and TOKEN.encode() not in stored
    assert processor_of(copy.deepcopy(first)).size["height"] == 96


def test_a_folder_without_an_image_processor_says_what_to_give(two_sizes, tmp_path):
    shutil.copytree(two_sizes / "v2", tmp_path / "model")
    model = DeCoDetrForObjectDetection.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").unlink()
    with pytest.raises(OSError, match="give image_processor="):
        decodetr.detect(model, np.zeros((8, 8, 3), np.uint8))


def test_wrapped_models_are_taken_out_of_their_wrappers(loaded, tiny_detector_folder, pixels):
    model, processor = loaded
    wanted = decodetr.detect(model, pixels, threshold=0.0)
    compiled, parallel = torch.compile(model), torch.nn.DataParallel(model)
    assert same(decodetr.detect(compiled, pixels, threshold=0.0), wanted)
    assert same(decodetr.detect(parallel, pixels, threshold=0.0), wanted)
    peft = pytest.importorskip("peft")
    own = DeCoDetrForObjectDetection.from_pretrained(tiny_detector_folder)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, modules_to_save=["predictor"])
    adapted = peft.get_peft_model(own, settings)
    with torch.no_grad():
        [weight.normal_() for weight in adapted.parameters() if weight.requires_grad]
    found = decodetr.detect(torch.compile(adapted), pixels, threshold=0.0)
    assert not np.allclose(found.confidence, wanted.confidence, rtol=1e-3)
    assert same(found, decodetr.detect(adapted.merge_and_unload(), pixels, threshold=0.0, image_processor=processor))


@pytest.mark.parametrize("given", [torch.nn.Linear(2, 2), 7, None, torch.compile(torch.nn.Linear(2, 2))])
def test_what_is_no_model_is_refused(given, pixels):
    with pytest.raises(ValueError, match="model: expected a folder, a Hub name, .* got (Linear|int|NoneType); "):
        decodetr.detect(given, pixels)
