"""The predict command and its parts: names, files, pictures, and what is written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.pictures import write_image
from helpers.tiny_models import tiny_model
from helpers.tiny_teachers import write_byte_clip
from PIL import Image
from transformers import CLIPImageProcessor

from decodetr.inference.loading import load_model
from decodetr.inference.picture_files import find_images, picture_paths
from decodetr.utils import shipped
from decodetr.utils.drawing import draw_detections
from decodetr.utils.images import open_image
from decodetr.utils.name_list import read_names

NAMES = ["cat", "dog", "salt, pepper"]  # of tiny_detector_folder


def test_read_names(tmp_path):
    assert read_names() is None
    assert read_names('"salt, pepper",cup, crème brûlée ,cup,') == ["salt, pepper", "cup", "crème brûlée"]
    file = tmp_path / "names.txt"
    file.write_text("\ufeffsalt, pepper\r\n\n  cup \n", encoding="utf-8")
    assert read_names(file=file) == ["salt, pepper", "cup"]
    with pytest.raises(ValueError, match="no names in --names ' , '"):
        read_names(" , ")
    with pytest.raises(ValueError, match="not both"):
        read_names("cup", file)


def test_find_images(tmp_path):
    b, a = write_image(tmp_path / "one" / "b.PNG"), write_image(tmp_path / "one" / "a.jpg")
    c = write_image(tmp_path / "one" / "deep" / "c.png")
    (tmp_path / "one" / "notes.txt").write_text("no image")
    write_image(tmp_path / "one" / ".thumbnails" / "a.jpg")
    write_image(tmp_path / "one" / "found" / "a.png")
    (tmp_path / "one" / "film.mp4").touch()
    assert find_images([tmp_path / "one"], tmp_path / "one" / "found") == [a, b, c]
    assert find_images([b, tmp_path / "one", b], tmp_path / "one" / "found") == [b, a, c]
    films = find_images([tmp_path / "one"], tmp_path / "one" / "found", {".mp4"})
    assert films == [a, b, c, tmp_path / "one" / "film.mp4"]
    assert find_images([f"{tmp_path}/one/deep/**/*.png"]) == [c]
    with pytest.raises(FileNotFoundError, match="missing.png is no file, no folder"):
        find_images([tmp_path / "missing.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty has no images; expected files with .*webp .images.$"):
        find_images([tmp_path / "empty"])
    both = r"expected files with \.apng, .*\.webp \(images\) or \.m4v, \.mp4 \(videos\)$"
    for source, kind in (("nowhere.mp4", "is no file, no folder and matches no images or videos"),
                         ("empty", "has no images or videos")):  # fmt: skip
        with pytest.raises(FileNotFoundError, match=f"{source} {kind}; {both}"):
            find_images([tmp_path / source], None, {".mp4", ".m4v"})


def test_links_to_one_file_are_as_many_pictures(tmp_path, monkeypatch):
    """As git-annex, DVC and the Hub's cache lay out equal files. A link to a folder above is entered once."""
    one = write_image(tmp_path / "store" / "blob.png")
    links = [tmp_path / "in" / name for name in ("a.png", "b.png")]
    (tmp_path / "in").mkdir()
    for link in links:
        link.symlink_to(one)
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in", target_is_directory=True)
    assert find_images([tmp_path / "in"]) == links
    monkeypatch.chdir(tmp_path / "in")
    assert find_images(["a.png", links[0], "../in/a.png"]) == [Path("../in/a.png")]
    assert [path.stem for path in picture_paths(links, tmp_path / "out")] == ["a", "b"]


def test_pictures_never_overwrite(tmp_path):
    images = [tmp_path / folder / name for folder in ("x", "y") for name in ("a.jpg", "a.png", "A.jpg")]
    pictures = picture_paths(images, tmp_path / "out")
    assert pictures[0] == tmp_path / "out" / "a.png" and pictures[1].name == "x_a.png"
    assert len({str(path).lower() for path in pictures}) == len(images)
    assert picture_paths([tmp_path / "a.png"], tmp_path)[0] != tmp_path / "a.png"  # an input in the output folder


def test_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to be upright
    path = write_image(tmp_path / "turned.jpg", size=(80, 60), exif=exif)
    assert open_image(path).size == (60, 80)


def test_drawing():
    image = Image.new("L", (160, 100), 128)
    picture = draw_detections(image, [[10, 30, 100, 90]], ["crème brûlée, ñandú"], [0.87])
    assert picture.mode == "RGB" and picture.size == (640, 400)  # a label of legible size needs room
    pixels = np.asarray(picture).astype(int)
    assert (abs(pixels - 128).max(-1) > 60).mean() > 0.01
    box_edge = pixels[30 * 4 : 90 * 4, 10 * 4]  # the left side of the box, enlarged with the image
    assert (abs(box_edge - 128).max(-1) > 40).mean() > 0.9
    # The accents are drawn, not replaced by one and the same missing-glyph box.
    variants = [draw_detections(image, [[10, 30, 100, 90]], [text], [0.5]).tobytes() for text in ("é", "ñ", "e", "Ж")]
    assert len(set(variants)) == 4
    # A name that is wider than the picture leaves room for its score.
    endless = [draw_detections(image, [[-5, 30, 100, 90]], ["é" * 300], [score]).tobytes() for score in (0.5, 0.8)]
    assert endless[0] != endless[1]
    large = Image.new("RGB", (1000, 700))
    assert draw_detections(large, [], [], []).size == (1000, 700)
    assert draw_detections(large, [[-20, -20, 2000, 50]] * 3, ["a", "b", "a"], [0.1, 0.9, 0.5]).size == (1000, 700)


def test_load_model(tiny_detector_folder, tmp_path):
    from decodetr import Vocabulary

    model, _ = load_model(tiny_detector_folder, device="cpu")
    assert model.vocabulary.names == NAMES and not model.training
    model, _ = load_model(tiny_detector_folder, names=["salt, pepper", "cat"], device="cpu")
    assert model.vocabulary.names == ["salt, pepper", "cat"]
    with pytest.raises(ValueError, match=r"'cta' \(close: cat\).*--vocabulary"):
        load_model(tiny_detector_folder, names=["cta"], device="cpu")
    embeddings = model.vocabulary.embeddings
    Vocabulary(["yak", "gnu"], embeddings).save_pretrained(tmp_path / "vocabulary")
    model, _ = load_model(tiny_detector_folder, tmp_path / "vocabulary", ["gnu"], device="cpu")
    assert model.vocabulary.names == ["gnu"] and model.vocabulary.embeddings.equal(embeddings[1:])


def test_command(tiny_detector_folder, tmp_path, capsys):
    from decodetr.cli import main

    write_image(tmp_path / "a" / "same.png")
    write_image(tmp_path / "b" / "same.png", size=(40, 90))
    (tmp_path / "a" / "broken.jpg").write_bytes(write_image(tmp_path / "c" / "x.jpg").read_bytes()[:200])
    output = tmp_path / "out"
    arguments = ["predict", str(tmp_path / "a"), str(tmp_path / "b"), "--model", str(tiny_detector_folder)]
    options = ["--output", str(output), "--threshold", "0", "--top-k", "5", "--batch-size", "2", "--device", "cpu"]
    assert main([*arguments, *options, "--names", 'dog,"salt, pepper"']) == 1  # one image is broken
    captured = capsys.readouterr()
    assert (
        "10 detections in 2 images, 1 unreadable" in captured.out
        and "broken.jpg: expected a readable image" in captured.err
    )
    report = json.loads((output / "detections.json").read_text(encoding="utf-8"))
    assert [entry["file"] for entry in report["failed"]] == [str(tmp_path / "a" / "broken.jpg")]
    assert report["vocabulary"]["names"] == ["dog", "salt, pepper"]
    assert [entry["file"] for entry in report["images"]] == [str(tmp_path / x / "same.png") for x in "ab"]
    assert [(entry["width"], entry["height"]) for entry in report["images"]] == [(80, 60), (40, 90)]
    for entry in report["images"]:
        scores = [row["score"] for row in entry["detections"]]
        assert len(scores) == 5 and scores == sorted(scores, reverse=True)
        assert {row["name"] for row in entry["detections"]} <= {"dog", "salt, pepper"}
        assert Image.open(output / entry["picture"]).format == "PNG"
    assert len({entry["picture"] for entry in report["images"]}) == 2

    assert main([*arguments[:1], str(tmp_path / "b"), *arguments[3:], *options]) == 0
    alone = json.loads((output / "detections.json").read_text(encoding="utf-8"))
    assert alone["vocabulary"]["names"] == NAMES and alone["failed"] == []


def test_command_equals_pipeline(tiny_detector_folder, tmp_path):
    from transformers import pipeline

    from decodetr.inference.detection import detect

    model, image_processor = load_model(tiny_detector_folder, device="cpu")
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8))
    ours = detect(model, image_processor, [image], threshold=0.0, top_k=100)[0]
    theirs = pipeline("object-detection", model=model, image_processor=image_processor, device="cpu")(
        image, threshold=0
    )
    assert [row["label"] for row in theirs] == ours["names"]
    assert [row["score"] for row in theirs] == pytest.approx(ours["scores"], abs=1e-6)
    assert [list(row["box"].values()) for row in theirs] == [[int(x) for x in box] for box in ours["boxes"]]


# New names


def test_new_names_are_embedded_by_the_models_own_text_model(text_detector, caplog):
    from decodetr import Vocabulary

    folder, clip = text_detector
    names = ["crème brûlée", "dog", "salt, pepper", "cat"]
    stored, _ = load_model(folder, device="cpu")
    model, _ = load_model(folder, names=names, device="cpu")
    expected = Vocabulary.from_text_model(names, clip, ["{}", "one {}"])
    assert model.vocabulary.names == names and model.vocabulary.info == stored.vocabulary.info
    assert np.allclose(model.vocabulary.embeddings, expected.embeddings, atol=1e-6)
    assert model.vocabulary.embeddings[[3, 1]].equal(stored.vocabulary.embeddings)
    assert "2 names" in caplog.text and str(clip) in caplog.text
    assert "'crème brûlée', 'salt, pepper'" in caplog.text and "dog" not in caplog.text

    caplog.clear()
    assert load_model(folder, names=["dog"], device="cpu")[0].vocabulary.names == ["dog"] and not caplog.text


def test_new_names_fit_the_given_vocabulary(text_detector, tmp_path):
    from decodetr import Vocabulary

    folder, clip = text_detector
    Vocabulary.from_text_model(["gnu"], clip, "a drawn {}").save_pretrained(tmp_path)
    model, _ = load_model(folder, tmp_path, ["yak", "gnu"], device="cpu")
    expected = Vocabulary.from_text_model(["yak", "gnu"], clip, "a drawn {}")
    assert np.allclose(model.vocabulary.embeddings, expected.embeddings, atol=1e-6)
    assert model.vocabulary.info["templates"] == ["a drawn {}"]


def test_a_text_model_elsewhere(text_detector, tmp_path):
    from decodetr import DeCoDetrForObjectDetection, Vocabulary

    folder, clip = text_detector
    model = DeCoDetrForObjectDetection.from_pretrained(folder)
    info = {**model.vocabulary.info, "encoder": "nobody/no-such-clip"}
    model.set_vocabulary(Vocabulary(model.vocabulary.names, model.vocabulary.embeddings, info))
    model.save_pretrained(tmp_path / "detector")
    (tmp_path / "detector" / "preprocessor_config.json").write_bytes(
        (folder / "preprocessor_config.json").read_bytes()
    )
    with pytest.raises(ValueError, match="no-such-clip") as error:
        load_model(tmp_path / "detector", names=["cta"], device="cpu")
    for part in ("'cta' (close: cat)", "--clip", "--vocabulary"):
        assert part in str(error.value)
    model, _ = load_model(tmp_path / "detector", names=["cta"], device="cpu", text_model=clip)
    assert model.vocabulary.names == ["cta"]
    other = write_byte_clip(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="other.* is not the vocabulary's 'nobody/no-such-clip'"):
        load_model(tmp_path / "detector", names=["cta"], device="cpu", text_model=other)


def test_names_of_unknown_origin_are_not_mixed_with_new_ones(tiny_detector_folder, text_detector):
    with pytest.raises(ValueError, match="does not say which text model made it"):
        load_model(tiny_detector_folder, names=["cat", "yak"], device="cpu", text_model=text_detector[1])


# Shipped models


def test_resolve(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "HUB_CARDS", tmp_path / "package" / "hub_cards")
    monkeypatch.chdir(tmp_path)
    small = tmp_path / "package" / "hub_cards" / "small"
    small.mkdir(parents=True)
    assert shipped.resolve("small") == str(small)
    assert shipped.resolve("/gone/hub_cards/small") == shipped.resolve("hub_cards/small") == str(small)
    for name in ("someone/small", "/gone/small", "big", "", ".", "..", str(tmp_path)):
        assert shipped.resolve(name) == name
    (tmp_path / "small").mkdir()
    assert shipped.resolve("small") == "small"  # an existing folder comes first


def test_a_missing_model_is_explained(tmp_path, capsys):
    from decodetr.cli import main

    arguments = ["predict", str(write_image(tmp_path / "a.png")), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--model", "nobody/no-such-model"]) == 1
    error = capsys.readouterr().err
    assert "the model 'nobody/no-such-model' cannot be loaded" in error and "shipped with decodetr" in error


def test_the_shipped_model_is_the_default(text_detector, tmp_path, monkeypatch, capsys):
    from transformers import pipeline

    from decodetr.cli import main

    folder, _ = text_detector
    monkeypatch.setattr(shipped, "HUB_CARDS", tmp_path / "hub_cards")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hub_cards").mkdir()
    (tmp_path / "hub_cards" / shipped.DEFAULT_MODEL).symlink_to(folder)
    image = write_image(tmp_path / "a.png")
    arguments = ["predict", str(image), "--output", str(tmp_path / "out"), "--threshold", "0", "--device", "cpu"]
    assert main([*arguments, "--names", "cat,yak", "--explain"]) == 0
    report = json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))
    assert report["model"] == shipped.DEFAULT_MODEL and report["vocabulary"]["names"] == ["cat", "yak"]
    rows = report["images"][0]["detections"]
    assert len(rows) == 24  # 12 queries x 2 names
    for row in rows:
        assert row["score"] == pytest.approx(row["objectness"] * row["name_probability"], rel=1e-3)
        weights = [prototype["weight"] for prototype in row["prototypes"]]
        assert len(weights) == 5 and weights == sorted(weights, reverse=True)
        assert all(p["caption"] == f"caption {p['index']}" and p["level"] == "coarse" for p in row["prototypes"])
    assert Image.open(tmp_path / "out" / "a.png").width > 640  # the panel

    # transformers would ask about custom code for a video processor, which no detector has.
    path = shipped.resolve(shipped.DEFAULT_MODEL)
    detector = pipeline("object-detection", model=path, device="cpu", trust_remote_code=False)
    found = detector(str(image), threshold=0)
    assert {row["label"] for row in found} == {"cat", "dog"} and len(found) == 24


def test_a_model_without_lookup_has_no_explanations(tmp_path, capsys):
    from decodetr import DeCoDetrImageProcessor
    from decodetr.cli import main

    tiny_model(pool_use="background", distill_weight=0.0).save_pretrained(tmp_path / "model")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "model")
    arguments = ["predict", str(write_image(tmp_path / "a.png")), "--model", str(tmp_path / "model"), "--explain"]
    assert main([*arguments, "--output", str(tmp_path / "out"), "--device", "cpu"]) == 1
    assert "pool_use='background', which looks nothing up" in capsys.readouterr().err


def test_an_image_processor_of_another_kind_is_refused(tiny_detector_folder, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(tiny_detector_folder, folder)
    CLIPImageProcessor().save_pretrained(folder)
    with pytest.raises(ValueError, match="preprocessor_config.json is of CLIPImageProcessor.*, expected a DeCoDetrIm"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    "seen, said",
    [
        ({"detector": ["cat", "ball", "dog"]}, "boxes of 2 names, after boxes of 2 other names: ball, tent."),
        ({"detector": "unknown"}, "boxes of 2 names: ball, tent."),
        (None, "boxes of 2 names: ball, tent."),
    ],
)
def test_a_fine_tuned_model_says_that_it_had_boxes_of_other_names_before(seen, said):
    from types import SimpleNamespace

    from decodetr.inference.picture_run import _learned

    info = {"annotated_names": ["ball", "tent"], "seen": seen}
    assert _learned(SimpleNamespace(config=SimpleNamespace(training_info=info))).endswith(said)
