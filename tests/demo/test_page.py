"""The page as Gradio has it, without a browser or a socket; the command; the folder of the Space."""

import importlib.util
import json
import re
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from helpers.paths import ROOT

from decodetr.cli import main
from decodetr.demo import server
from decodetr.demo.picture import Picture
from decodetr.demo.settings import DemoSettings
from decodetr.serving.settings import ServeSettings


@pytest.mark.parametrize(
    "words, message",
    [
        (["--threshold", "1.5"], "--threshold must be in 0..1, got 1.5"),
        (["--port", "-1"], "--port must be in 0..65535, got -1"),
        (["--names", ","], "no names in --names ','"),
        (["--model", "no/such/place/"], "the model 'no/such/place/' cannot be loaded"),
        (["--vocabulary", "scenes-pool"], "expected a vocabulary, 'scenes-pool' is a pool"),
        (["--clip", "scenes-decodetr"], "'scenes-decodetr' is a detector; give a CLIP"),
        (["--device", "tpu"], "--device tpu: expected one of auto, cpu"),
        (["--examples", "no/such/folder"], "no/such/folder is no file, no folder and matches no image"),
    ],
)
def test_what_cannot_work_is_refused_first(capsys, monkeypatch, words, message):
    monkeypatch.setattr(server, "load_model", None)
    assert main(["demo", "--port", "0", *words]) == 1
    assert message in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else find(name))
    assert main(["demo"]) == 1
    assert (
        "decodetr demo needs gradio, which is not installed: pip install 'decodetr[demo]'" in capsys.readouterr().err
    )


def test_the_options_reach_the_page(capsys, monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr(server, "launch", lambda *args, **options: seen.update(args=args, **options))
    words = ["--model", "scenes-decodetr", "--names", "a", "--vocabulary", "scenes-vocabulary", "scenes-vocabulary"]
    words += [
        "--clip",
        "scenes-clip",
        "--threshold",
        "0.4",
        "--examples",
        str(tmp_path),
        "--port",
        "7",
        "--device",
        "cpu",
    ]
    assert main(["demo", *words]) == 0
    assert seen["args"] == (
        "scenes-decodetr", "a", ["scenes-vocabulary"] * 2, "scenes-clip", DemoSettings(threshold=0.4), "cpu",
        str(tmp_path), "127.0.0.1", 7, False,
    )  # fmt: skip
    seen["tell"]("http://there/")
    assert capsys.readouterr().out == "http://there/  (Ctrl-C ends it)\n"
    assert main(["demo", "--share", "true", "--port", "7"]) == 0 and seen["args"][-1] is True


def test_the_limits_are_those_of_serving():
    demo, serve = DemoSettings(), ServeSettings()
    assert (demo.max_names, demo.max_bytes, demo.max_queue) == (serve.max_names, serve.max_body_bytes, serve.max_queue)


@pytest.fixture(scope="module")
def page(desk):
    from decodetr.demo.page import build_page

    return build_page(desk, "pool")


def test_the_page_asks_nothing_of_others_and_tells_nothing(page):
    config = page.get_config_file()
    assert config["analytics_enabled"] is False and page.delete_cache == (60, 900)
    theme = server._theme()
    assert theme._stylesheets == [] and "http" not in "".join(theme._font_css)
    for name in ("stage.html", "stage.js", "page.js", "page.css"):
        assert not re.search(r"https?:|//\w", (ROOT / "demo" / name).read_text().replace("// ", ""))


def test_nothing_of_the_page_is_an_address_for_programs(page):
    assert page.get_api_info()["named_endpoints"] == {} and page.get_api_info()["unnamed_endpoints"] == {}


def test_the_model_is_run_by_one_at_a_time_and_pictures_come_as_they_are(page, tmp_path):
    functions = {one.fn.__name__: one for one in page.fns.values() if one.fn}
    for name in ("detect", "arrive", "name_box"):
        assert functions[name].concurrency_id == "model" and functions[name].concurrency_limit == 1
    (picture,) = [block for block in page.blocks.values() if isinstance(block, Picture)]
    assert picture.sources == ["upload", "clipboard", "webcam"]
    (tmp_path / "bad.tiff").write_bytes(b"no picture")
    from gradio.data_classes import ImageData

    assert picture.preprocess(ImageData(path=str(tmp_path / "bad.tiff"), orig_name="x.png")) == str(
        tmp_path / "bad.tiff"
    )
    assert not list((ROOT / "demo").glob("*.pyi"))


def test_what_is_shown_of_errors_is_text(page, desk, scene):
    from decodetr.demo.desk import Visit
    from decodetr.demo.searches import TYPED

    detect = next(one.fn for one in page.fns.values() if one.fn and one.fn.__name__ == "detect")
    visit, sentence, stage, rows, why = detect(None, scene.file, TYPED, '"<script>" x', 0.5)
    assert visit == Visit() and stage is None and rows.choices == [] and rows.visible is False
    assert sentence.startswith('<p class="wrong">') and "<script>" not in sentence and "&lt;script&gt;" in sentence


def _function(page, name):
    return next(one.fn for one in page.fns.values() if one.fn and one.fn.__name__ == name)


def test_a_file_that_cannot_be_read_shows_nothing_of_the_picture_before(page, scene, tmp_path):
    from decodetr.demo.searches import OWN, TYPED

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    arrive = _function(page, "arrive")
    visit, _, stage, rows, _ = arrive(None, scene.file, OWN, "", 0.3)
    assert stage["boxes"] and rows.choices
    box = ",".join(map(str, scene.objects[0][1]))
    _, _, visit, *_ = _function(page, "name_box")(visit, box, "mine", "", scene.file, 0.3)
    for choice, text in ((OWN, ""), (TYPED, "mine"), (TYPED, "")):
        after, sentence, stage, rows, _ = arrive(visit, str(broken), choice, text, 0.3)
        assert "no picture that can be read" in sentence and stage is None and rows.choices == []
        assert after.sighting is None and after.drawn.names == ["mine"]
    # Names that cannot be looked for: the new picture is there, without boxes.
    after, sentence, stage, *_ = arrive(after, scene.file, TYPED, '"a" b', 0.3)
    assert "double quotes" in sentence and stage["boxes"] == [] and after.sighting.file == scene.file


def test_a_name_from_a_box_outlives_names_that_cannot_be_looked_for(page, scene):
    from decodetr.demo.searches import OWN

    visit, *_ = _function(page, "arrive")(None, scene.file, OWN, "", 0.3)
    box, name_box = ",".join(map(str, scene.objects[0][1])), _function(page, "name_box")
    choice, text, visit, sentence, *_ = name_box(visit, box, "thing A", '"cup', scene.file, 0.3)
    assert text == '"cup, thing A' and "double quotes" in sentence
    visit, _, _, rows, _ = _function(page, "detect")(visit, scene.file, choice, "thing A", 0.3)
    assert [label for label, _ in rows.choices][0].startswith("thing A 0.")
    choice, text, after, sentence, *_ = name_box(visit, box, " ", "thing A", scene.file, 0.3)
    assert "value" not in choice and "value" not in text and "Write a name" in sentence and after == visit


def test_examples_of_the_shipped_model_are_drawn_and_others_are_of_a_folder(tmp_path, scene):
    drawn = server._drawn_scenes(tmp_path)
    assert len(drawn) == 6 and all(Path(file).is_file() for file in drawn)
    assert server._examples_of(Path(scene.file).parent) == [scene.file] and server._examples_of(None) == []


def test_a_port_that_is_taken_is_refused_with_its_option(monkeypatch, shipped, page):
    from decodetr.demo import page as module

    def taken(**options):
        raise OSError("Cannot find empty port in range: 80-80")

    monkeypatch.setattr(server, "load_model", lambda model, device: shipped)
    monkeypatch.setattr(module, "build_page", lambda *_: page)
    monkeypatch.setattr(page, "launch", taken)
    with pytest.raises(ValueError, match=r"cannot listen at --host 127.0.0.1 --port 80: Cannot find .*; give others"):
        server.launch(host="127.0.0.1", port=80)


def test_the_space_names_what_it_needs():
    folder = ROOT / "demo/space"
    assert sorted(file.name for file in folder.iterdir() if file.is_file()) == [
        "README.md",
        "app.py",
        "requirements.txt",
    ]
    _, front, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["sdk"] == "gradio" and front["app_file"] == "app.py" and front["license"] == "apache-2.0"
    assert front["models"] == [] and len(front["short_description"]) <= 60
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    (floor,) = re.findall(r"^gradio>=(.+)$", setup["options.extras_require"]["demo"], re.MULTILINE)
    assert front["sdk_version"] == f"{floor}.0" and json.dumps(front["title"]) == '"decodetr"'
    wanted = [line for line in (folder / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert wanted == ["decodetr[demo]"]
