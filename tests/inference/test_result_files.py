"""What predict writes, a form each, and what goes back in: eval, validate, train."""

import csv
import importlib.util
import json
import os
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.pictures import write_image
from PIL import Image

from decodetr.annotations.sources import load_annotations
from decodetr.cli import main
from decodetr.inference import detection, result_files
from decodetr.inference.result_files import Results, write_results
from decodetr.scenes.world import SceneSettings
from decodetr.scenes.write import write_scenes

FORMS = "json,jsonl,coco,yolo,voc,csv,parquet"


@pytest.fixture(scope="module")
def written(tiny_detector_folder, tmp_path_factory):
    """(output folder, detections.json) of three pictures, two of one name, in all forms."""
    folder = tmp_path_factory.mktemp("forms")
    write_image(folder / "in" / "a.png"), write_image(folder / "in" / "images" / "a.jpg", size=(90, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # upright it is 60 x 80
    write_image(folder / "in" / "turned.jpg", size=(80, 60), exif=exif)
    words = ["predict", folder / "in", "--model", tiny_detector_folder, "--output", folder / "out", "--top-k", 6]
    words += ["--threshold", 0, "--device", "cpu", "--no-pictures", "--save-crops", "--format", FORMS]
    for _ in range(2):  # the second time over what the first one wrote
        assert main(list(map(str, words))) == 0
    return folder / "out", json.loads((folder / "out" / "detections.json").read_text())


def inside(entry):
    """[(name, x0, y0, x1, y1)] of what lies in the picture."""
    found = []
    for row in entry["detections"]:
        low = np.clip(row["box"][:2], 0, None)
        high = np.minimum(row["box"][2:], [entry["width"], entry["height"]])
        if (high > low).all():
            found.append((row["name"], *low, *high))
    return found


def of_data_set(coco, entry):
    """The same of an entry of a data set that was read."""
    rows = coco.annotations_by_image[entry["image_id"]]
    return [(coco.names[row["category"]], *corners(row["bbox"])) for row in rows]


def corners(box):
    return box[0], box[1], box[0] + box[2], box[1] + box[3]


def assert_same(found, wanted, atol):
    assert [row[0] for row in found] == [row[0] for row in wanted]
    np.testing.assert_allclose([row[1:] for row in found], [row[1:] for row in wanted], atol=atol)


def test_no_pictures_but_every_form(written):
    output, report = written
    assert len(report["images"]) == 3 and all("picture" not in entry for entry in report["images"])
    assert {name for name in os.listdir(output)} == {
        *(f"detections.{suffix}" for suffix in ("json", "jsonl", "csv", "parquet")), "coco", "yolo", "voc", "crops",
    }  # fmt: skip


def test_lines_and_tables_hold_what_the_json_does(written):
    output, report = written
    lines = (output / "detections.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == report["images"]
    rows = [(entry, row) for entry in report["images"] for row in entry["detections"]]
    table = pq.read_table(output / "detections.parquet").to_pylist()
    with open(output / "detections.csv", newline="", encoding="utf-8") as file:
        sheet = list(csv.DictReader(file))
    assert len(table) == len(sheet) == len(rows) == 18
    for (entry, row), of_table, of_sheet in zip(rows, table, sheet):
        assert of_table["file"] == of_sheet["file"] == entry["file"]
        assert of_table["name"] == of_sheet["class_name"] == row["name"]
        assert (of_table["width"], of_table["height"]) == (entry["width"], entry["height"])
        box = [of_table[side] for side in ("x0", "y0", "x1", "y1")]
        np.testing.assert_allclose([of_table["score"], *box], [row["score"], *row["box"]], rtol=1e-5)
        box = [float(of_sheet[side]) for side in ("x_min", "y_min", "x_max", "y_max")]
        np.testing.assert_allclose([float(of_sheet["confidence"]), *box], [row["score"], *row["box"]], rtol=1e-5)
        assert of_table["track"] is None and of_table["frame"] is None


@pytest.mark.parametrize("form, atol", [("coco", 1e-4), ("yolo", 1e-4)])
def test_data_sets_are_read_back(written, form, atol):
    output, report = written
    coco = load_annotations(output / form, "train")
    by_name = {os.path.realpath(entry["path"]): entry for entry in coco.images}
    assert coco.names == report["vocabulary"]["names"] and len(by_name) == 3
    for entry in report["images"]:
        read = by_name[os.path.realpath(entry["file"])]
        assert (read["width"], read["height"]) == (entry["width"], entry["height"])
        assert_same(of_data_set(coco, read), inside(entry), atol)


def test_voc_has_the_same_in_whole_pixels(written):
    import supervision as sv

    output, report = written
    voc = sv.DetectionDataset.from_pascal_voc(str(output / "voc" / "JPEGImages"), str(output / "voc" / "Annotations"))
    wanted = {os.path.realpath(entry["file"]): inside(entry) for entry in report["images"]}
    for path, found in voc.annotations.items():
        rows = wanted[os.path.realpath(path)]
        assert [voc.classes[label] for label in found.class_id] == [row[0] for row in rows]
        np.testing.assert_allclose(found.xyxy, [row[1:] for row in rows], atol=1.01)


def test_crops_are_what_lies_in_the_boxes(written):
    output, report = written
    (entry,) = [entry for entry in report["images"] if entry["file"].endswith("a.png")]
    crops = {path.relative_to(output / "crops").as_posix() for path in (output / "crops").rglob("a_*.png")}
    names = [row[0].replace(", ", "_") for row in inside(entry)]
    assert crops == {f"{name}/a_{number}.png" for number, name in enumerate(names, 1)}
    for number, (name, *box) in enumerate(inside(entry), 1):
        crop = Image.open(output / "crops" / name.replace(", ", "_") / f"a_{number}.png")
        assert abs(crop.width - (box[2] - box[0])) <= 1 and abs(crop.height - (box[3] - box[1])) <= 1


def test_what_is_not_ours_is_not_replaced(written, tiny_detector_folder, tmp_path, capsys):
    (tmp_path / "out" / "yolo").mkdir(parents=True)
    image = str(write_image(tmp_path / "a.png"))
    words = ["predict", image, "--model", str(tiny_detector_folder), "--output", str(tmp_path / "out")]
    assert main([*words, "--format", "yolo"]) == 1
    assert "yolo is there and not of `decodetr predict`" in capsys.readouterr().err
    assert main([*words, "--format", "json", "--format", "xml"]) == 1
    assert "--format xml: expected some of json, jsonl" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "yolo"]


@pytest.fixture
def latin(tiny_detector_folder, tmp_path):
    """(words of the command without forms, folder of its results) of two pictures. One of them and the folder have old
    names in Latin-1."""
    write_image(tmp_path / "in" / "a.png")
    write_image(tmp_path / "in" / "b.png", size=(90, 40)).rename(os.fsdecode(bytes(tmp_path / "in") + b"/caf\xe9.png"))
    output = tmp_path / os.fsdecode(b"\xe9t\xe9")
    words = ["predict", tmp_path / "in", "--model", tiny_detector_folder, "--output", output, "--top-k", 2]
    return [*map(str, words), "--threshold", "0", "--device", "cpu", "--no-pictures"], output


def test_names_that_are_no_utf_8_are_in_every_form(latin):
    words, output = latin
    assert main([*words, "--format", FORMS]) == 0
    report = json.loads((output / "detections.json").read_text(encoding="utf-8"))
    files = [entry["file"] for entry in report["images"] for _ in entry["detections"]]
    assert sum(file.endswith("caf\udce9.png") for file in files) == 2
    wanted = [file.replace("\udce9", "\\udce9") for file in files]
    assert pq.read_table((output / "detections.parquet").open("rb"))["file"].to_pylist() == wanted
    with open(output / "detections.csv", newline="", encoding="utf-8") as file:
        assert [row["file"] for row in csv.DictReader(file)] == wanted
    for form in ("coco", "yolo", "voc"):
        data = load_annotations(output / form, "train")
        by_name = {os.path.realpath(entry["path"]): entry for entry in data.images}
        for entry in report["images"]:
            found = of_data_set(data, by_name[os.path.realpath(entry["file"])])
            assert_same(found, inside(entry), 1.01)


def test_names_of_things_that_xml_or_utf_8_cannot_hold(tmp_path):
    picture, odd = write_image(tmp_path / "a.png"), ["caf\udce9 & <co>", "bell\x07", "last\ufffe"]
    rows = [{"name": name, "score": 0.5, "box": [1.0, 2.0, 30.0, 40.0]} for name in odd]
    entry = {"file": str(picture), "width": 80, "height": 60, "detections": rows}
    results = Results({"model": "m"}, {}, odd, lambda: iter([entry]))
    staging = tmp_path / "staging"
    staging.mkdir()
    assert write_results(FORMS.split(","), tmp_path / "out", staging, results) == ([], {})
    assert pq.read_table(staging / "detections.parquet")["name"].to_pylist() == ["caf\\udce9 & <co>", *odd[1:]]
    root = ElementTree.parse(staging / "voc" / "Annotations" / "a.xml").getroot()
    names = [element.findtext("name") for element in root.findall("object")]
    assert names == ["caf\\udce9 & <co>", "bell\\x07", "last\\ufffe"]


def test_a_form_that_fails_does_not_take_the_others_along(latin, monkeypatch, capsys):
    words, output = latin
    with monkeypatch.context() as broken:
        broken.setattr(result_files, "detections_to_pascal_voc", lambda *_: 1 / 0)
        broken.setitem(result_files._PLAIN, "csv", fails_in_the_middle)
        assert main([*words, "--format", "csv,voc,json,coco"]) == 1
    out, err = capsys.readouterr()
    assert "--format csv could not be written: OSError: no space" in err
    assert "--format voc could not be written: ZeroDivisionError: division by zero; the same command tries" in err
    assert "4 detections in 2 images" in out and "detections.json" in out
    assert {file.name for file in output.iterdir()} == {"detections.json", "coco", ".decodetr-predict.jsonl"}
    assert len(load_annotations(output / "coco", "train").images) == 2
    monkeypatch.setattr(detection, "detect", lambda *_, **__: pytest.fail("detected again"))
    assert main([*words, "--format", "csv,voc,json,coco"]) == 0
    assert {file.name for file in output.iterdir()} == {"detections.json", "coco", "voc", "detections.csv"}


def fails_in_the_middle(staging, results):
    (staging / "detections.csv").write_text("x_min")
    raise OSError("no space")


def test_vocabularies_are_not_gone_through_for_every_picture(tmp_path):
    class Counted(list):
        count = 0

        def __iter__(self):
            self.count += 1
            return super().__iter__()

    names, rows = Counted(["cat", "dog"]), [{"name": "dog", "score": 0.5, "box": [1.0, 2.0, 30.0, 40.0]}]
    files = [str(write_image(tmp_path / f"{number}.png")) for number in range(9)]
    entries = [{"file": file, "width": 80, "height": 60, "detections": rows} for file in files]
    (tmp_path / "staging").mkdir()
    write_results(
        ["csv", "voc"], tmp_path / "out", tmp_path / "staging", Results({}, {}, names, lambda: iter(entries))
    )
    assert names.count <= 2


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "data"
    write_scenes(folder, SceneSettings(train=1, val=6, test=1, seed=3))
    return folder


def average_precision(words, report):
    assert main([*map(str, words), "--output", str(report), "--device", "cpu"]) == 0
    return json.loads((report / "report.json").read_text())["metrics"]


@pytest.mark.slow
def test_what_the_shipped_model_finds_goes_back_in(scenes, tmp_path, capsys):
    """AP of the files is AP of the model, and the data sets are data sets."""
    names = ["--names-split", scenes / "names.json"]
    words = ["predict", scenes / "val", "--output", tmp_path / "out", "--format", "json,coco,yolo", "--no-pictures"]
    assert main([*map(str, words), "--threshold", "0", "--top-k", "300", "--device", "cpu"]) == 0
    data = ["--annotations", scenes / "annotations" / "val.json", *names]
    of_model = average_precision(["eval", "--model", "scenes-decodetr", *data], tmp_path / "model")
    for file in ("detections.json", "coco/annotations/train.json"):
        of_file = average_precision(["eval", "--detections", tmp_path / "out" / file, *data], tmp_path / file[:4])
        common = set(of_model) & set(of_file)
        assert {"AP50", "AP", "AP75", "AP50_novel", "AP50_base", "AR100"} <= common and of_model["AP50"] > 0.3
        for key in common - {"seconds"}:
            assert of_file[key] == pytest.approx(of_model[key], abs=2e-3, nan_ok=True), key
    for form in ("coco", "yolo"):
        assert main(["validate", str(tmp_path / "out" / form), "--parts", "train"]) == 0
    capsys.readouterr()


def test_packages_that_are_missing_are_named_in_one_line(tmp_path, monkeypatch, capsys):
    find_spec, hidden = importlib.util.find_spec, {"pyarrow"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name in hidden else find_spec(name))
    write_image(tmp_path / "in" / "a.png")
    words = ["predict", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--format"]
    assert main([*words, "json,parquet"]) == 1
    said = "decodetr predict: error: --format parquet needs pyarrow, which is not installed: pip install pyarrow\n"
    assert capsys.readouterr().err == said
    hidden |= {"filelock", "supervision"}
    assert main([*words, "json"]) == 1
    said = "decodetr predict needs filelock, supervision, which are not installed: pip install filelock supervision"
    assert capsys.readouterr().err == f"decodetr predict: error: {said}\n"
