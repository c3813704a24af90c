"""Detections on disk, ours and COCO's results, and what rotten ones get: an error or a correct mapping."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.detections import BOX
from helpers.evaluations import run_eval, write_coco

from decodetr.annotations.coco import CocoAnnotations
from decodetr.cli import main
from decodetr.evaluation.detection_evaluator import DetectionEvaluator
from decodetr.evaluation.detections import load_detections, save_detections

ROWS = {5: [("cat", BOX), ("salt, pepper", [50, 20, 90, 60])], 6: [], 8: [("cat", [0, 0, 96, 64])]}
NAMES = ["cat", "salt, pepper"]  # ids 3 and 13


@pytest.fixture
def coco(tmp_path):
    return CocoAnnotations.load(write_coco(tmp_path / "data", NAMES, ROWS))


def test_round_trip(coco, tmp_path):
    names = ["crème brûlée", "salt, pepper", "cat"]
    evaluator = DetectionEvaluator(coco, names)
    rows = {
        8: {"scores": [0.25], "labels": [0], "boxes": [[1.5, 2.0, 3.0, 4.0]]},
        5: {"scores": [0.5, 0.75], "labels": [1, 2], "boxes": [[0.0, 0.0, 9.0, 9.0], BOX]},
        6: {"scores": [], "labels": [], "boxes": []},
    }
    evaluator.update(list(rows), list(rows.values()))
    save_detections(tmp_path / "d.parquet", evaluator)
    loaded, found = load_detections(tmp_path / "d.parquet", coco)
    assert loaded == names and list(found) == [5, 8]
    assert found[5]["labels"].tolist() == [2, 1] and found[5]["scores"].tolist() == [0.75, 0.5]  # best first
    assert np.array_equal(found[5]["boxes"], np.float32([BOX, [0, 0, 9, 9]])) and found[8]["labels"].tolist() == [0]
    empty = DetectionEvaluator(coco, names)
    save_detections(tmp_path / "none.parquet", empty)
    assert load_detections(tmp_path / "none.parquet", coco) == (names, {})


# The same pictures under other image ids


def renumbered(coco, tmp_path, file_names):
    """`coco` with the images {id: file name} instead."""
    document = json.loads(coco.file.read_text())
    document["images"] = [
        {"id": image_id, "file_name": name, "width": 96, "height": 64} for image_id, name in file_names.items()
    ]
    document["annotations"] = []
    file = tmp_path / "renumbered.json"
    file.write_text(json.dumps(document))
    return CocoAnnotations.load(file, check_images=False)


def saved(coco, tmp_path, scores=((5, 0.5), (6, 0.25), (8, 0.75))):
    """Detections of the images 5.png, 6.png and 8.png, one each, of a score that tells which; or of some of them."""
    evaluator = DetectionEvaluator(coco, NAMES)
    evaluator.update(
        [5, 6, 8],
        [{"scores": [], "labels": [], "boxes": []}] * (3 - len(scores))
        + [{"scores": [score], "labels": [0], "boxes": [BOX]} for _, score in scores],
    )
    save_detections(tmp_path / "d.parquet", evaluator)
    return tmp_path / "d.parquet"


def scores_of(file, coco):
    return {image_id: rows["scores"].tolist() for image_id, rows in load_detections(file, coco)[1].items()}


@pytest.mark.parametrize(
    "file_names, expected",
    [
        ({5: "5.png", 6: "6.png", 8: "8.png"}, {5: 0.5, 6: 0.25, 8: 0.75}),
        ({6: "5.png", 8: "6.png", 5: "8.png"}, {6: 0.5, 8: 0.25, 5: 0.75}),  # the same ids for other pictures
        ({0: "images/val/8.png", 1: "images/val/5.png", 2: "images/val/6.png"}, {0: 0.75, 1: 0.5, 2: 0.25}),
        ({5: "val/6.PNG", 6: "val\\5.png", 7: "8.png", 9: "more.png"}, {5: 0.25, 6: 0.5, 7: 0.75}),
        ({5: "a/5.png", 6: "b/6.png", 8: "c/8.png"}, {5: 0.5, 6: 0.25, 8: 0.75}),
    ],
)
def test_images_that_have_other_ids_are_found_by_their_file_names(coco, tmp_path, file_names, expected):
    found = scores_of(saved(coco, tmp_path), renumbered(coco, tmp_path, file_names))
    assert found == {image_id: [score] for image_id, score in expected.items()}


def test_of_files_of_one_name_that_of_the_same_folder_is_taken(coco, tmp_path):
    there = renumbered(coco, tmp_path, {5: "a/x.png", 6: "b/x.png", 8: "c/y.png"})
    file = saved(there, tmp_path)
    here = renumbered(coco, tmp_path, {8: "b/x.png", 6: "data/a/x.png", 5: "y.png"})
    assert scores_of(file, here) == {6: [0.5], 8: [0.25], 5: [0.75]}


@pytest.mark.parametrize(
    "file_names, message",
    [
        ({5: "6.png", 6: "5.png", 8: "9.png"}, "image_id 8, 8.png: expected one image of .*renumbered.json.*got none"),
        ({5: "6.png", 6: "5.png", 8: "a/8.png", 9: "b/8.png"}, "image_id 8, 8.png: expected one image .* got 2; give"),
        ({1: "other.png", 2: "another.png"}, "image_id 5, 5.png: .* got none; give the annotation file that belongs"),
    ],
)
def test_images_that_cannot_be_told_by_their_file_names_are_named(coco, tmp_path, file_names, message):
    with pytest.raises(ValueError, match=message):
        load_detections(saved(coco, tmp_path), renumbered(coco, tmp_path, file_names))


def test_two_images_of_a_file_are_never_one_of_the_data(coco, tmp_path):
    file = saved(renumbered(coco, tmp_path, {5: "a/x.png", 6: "b/x.png", 8: "y.png"}), tmp_path)
    with pytest.raises(ValueError, match="image_id 6, b/x.png: .* got the one of image_id 5, a/x.png; give"):
        load_detections(file, renumbered(coco, tmp_path, {5: "y.png", 6: "c/x.png"}))


def test_an_image_without_detections_may_be_missing(coco, tmp_path):
    file = saved(coco, tmp_path, scores=[(8, 0.75)])
    assert scores_of(file, renumbered(coco, tmp_path, {5: "8.png"})) == {5: [0.75]}


def test_files_without_file_names_go_by_their_ids(coco, tmp_path):
    file = saved(coco, tmp_path)
    table = pq.read_table(file)
    metadata = {key: value for key, value in table.schema.metadata.items() if key != b"decodetr_files"}
    assert len(metadata) == len(table.schema.metadata) - 1
    pq.write_table(table.replace_schema_metadata(metadata), file)
    assert scores_of(file, coco) == {5: [0.5], 6: [0.25], 8: [0.75]}
    with pytest.raises(ValueError, match=r"row 0: expected an image of .*, got image_id 5 \(2 such rows\)"):
        load_detections(file, renumbered(coco, tmp_path, {8: "8.png"}))
    for wrong in ("[]", '{"a": "5.png"}', '{"5": 5}'):
        pq.write_table(table.replace_schema_metadata(metadata | {b"decodetr_files": wrong}), file)
        with pytest.raises(ValueError, match="d.parquet: decodetr_files: expected"):
            load_detections(file, coco)


def results(tmp_path, rows):
    file = tmp_path / "results.json"
    file.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return file


def row(**changed):
    x0, y0, x1, y1 = BOX
    return {"image_id": 5, "category_id": 3, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": 0.9, **changed}


def test_results_of_other_programs(coco, tmp_path, capsys):
    """Categories by id, whatever the order of the file's list."""
    document = json.loads(coco.file.read_text())
    document["categories"].reverse()
    coco.file.write_text(json.dumps(document))
    rows = [row(), row(category_id=13, bbox=[50, 20, 40, 40]), row(image_id=8, bbox=[0, 0, 96, 64])]
    assert run_eval("--detections", results(tmp_path, rows), "--annotations", coco.file) == 0
    printed = capsys.readouterr().out
    assert "| AP | 100.0 |" in printed and "| AP50 | 100.0 |" in printed and "class_agnostic" not in printed
    wrong = [{**entry, "category_id": {3: 13, 13: 3}[entry["category_id"]]} for entry in rows]
    assert run_eval("--detections", results(tmp_path, wrong), "--annotations", coco.file) == 0
    assert "| AP | 0.0 |" in capsys.readouterr().out


@pytest.mark.parametrize("write_id", [str, float, lambda number: f"{number:08d}"])
def test_ids_of_results_are_read_as_those_of_annotations(coco, tmp_path, write_id):
    """A program that writes texts, or 12.0, writes them in both files."""
    document = json.loads(coco.file.read_text())
    for entry in (*document["images"], *document["categories"]):
        entry["id"] = write_id(entry["id"])
    for entry in document["annotations"]:
        entry |= {key: write_id(entry[key]) for key in ("image_id", "category_id")}
    coco.file.write_text(json.dumps(document))
    there = CocoAnnotations.load(coco.file, check_images=False)
    rows = [row(), row(category_id=13), row(image_id=8)]
    expected = load_detections(results(tmp_path, rows), coco)
    rows = [{**entry, **{key: write_id(entry[key]) for key in ("image_id", "category_id")}} for entry in rows]
    found = load_detections(results(tmp_path, rows), there)
    assert found[0] == expected[0] and found[1].keys() == expected[1].keys() == {5, 8}
    for image, columns in expected[1].items():
        assert all((found[1][image][key] == values).all() for key, values in columns.items())


ROTTEN = {
    "unknown image": ([row(), row(image_id=77)], "row 1: expected an image of", "got image_id 77 (1 such rows)"),
    "unknown category": ([row(category_id=4)], "row 0: expected a category_id of", "(3 to 13), got 4"),
    "a category that is a text": ([row(category_id="cat")], "whole numbers of 64 bits, got 5 and 'cat'", "row 0"),
    "a truth value as an id": ([row(image_id=True)], "whole numbers of 64 bits, got True and 3", "row 0"),
    "a box of texts": ([row(bbox=["1", "2", "3", "4"])], "expected bbox as four numbers x, y, width, height", "'1'"),
    "a box that is none": ([row(bbox=None)], "row 0: expected image_id, category_id, bbox", ""),
    "categories from 0": ([row(category_id=0)], "are the categories numbered from 0, or renumbered?", "row 0"),
    "NaN score": ([row(score=float("nan"))], "image 5: NaN or infinite scores or boxes", ""),
    "an id that is no integer": ([row(image_id=5.9)], "row 0: expected image_id", "whole numbers of 64 bits, got 5.9"),
    "no score": ([{k: v for k, v in row().items() if k != "score"}], "row 0: expected image_id", "bbox [x, y"),
    "negative size": ([row(bbox=[10, 10, -5, 20])], "has a negative size", "image 5"),
    "three numbers": ([row(bbox=[1, 2, 3])], "row 0: expected bbox as four numbers", "got [1, 2, 3]"),
    "no list": ({"annotations": []}, "expected a list of detections (COCO's results format)", ""),
    "cut off": ('[{"image_id": 5, ', "expected a JSON file", "cut off"),
}


@pytest.mark.parametrize("case", ROTTEN)
def test_rotten_results(coco, tmp_path, capsys, case):
    rows, *messages = ROTTEN[case]
    assert run_eval("--detections", results(tmp_path, rows), "--annotations", coco.file) == 1
    error = capsys.readouterr().err
    assert all(message in error for message in messages), error


def test_rotten_tables(coco, tmp_path):
    file = tmp_path / "d.parquet"
    file.write_bytes(b"PAR1 half")
    with pytest.raises(ValueError, match="d.parquet: expected a Parquet file"):
        load_detections(file, coco)
    evaluator = DetectionEvaluator(coco, NAMES)
    save_detections(file, evaluator)
    pq.write_table(pq.read_table(file).drop_columns(["score"]), file)
    with pytest.raises(ValueError, match=r"\['score'\] are missing"):
        load_detections(file, coco)
    save_detections(file, evaluator)
    broken = {"image_id": [5], "name": [None], "score": [0.5], "x0": [1.0], "y0": [1.0], "x1": [2.0], "y1": [2.0]}
    pq.write_table(pa.table(broken), file)
    with pytest.raises(ValueError, match=r"\['name'\] have rows without one"):
        load_detections(file, coco)


def test_images_that_the_protocol_leaves_out_are_no_mistake(coco, tmp_path, capsys):
    """Image 6 has no object: a protocol of annotated images does not count what was found there."""
    protocol = tmp_path / "annotated.json"
    protocol.write_text(json.dumps({"description": "annotated images only", "images": "annotated"}))
    rows = [row(), row(category_id=13, bbox=[50, 20, 40, 40]), row(image_id=8, bbox=[0, 0, 96, 64])]
    file = results(tmp_path, [*rows, row(image_id=6, score=0.99)])
    assert run_eval("--detections", file, "--annotations", coco.file) == 0
    assert "| AP | 100.0 |" not in capsys.readouterr().out
    assert run_eval("--detections", file, "--annotations", coco.file, "--protocol", protocol) == 0
    printed = capsys.readouterr().out
    assert "| AP | 100.0 |" in printed and "| images | 2 |" in printed and "| protocol | annotated |" in printed


def test_a_report_survives_names_with_bars_and_pictures_that_are_gone(coco, tmp_path):
    document = json.loads(coco.file.read_text())
    document["categories"][0]["name"] = "cat | <b>dog</b>"
    coco.file.write_text(json.dumps(document))
    for picture in (tmp_path / "data" / "val").iterdir():
        picture.write_bytes(b"gone")
    file = results(tmp_path, [row(bbox=[0, 0, 9, 9])])
    words = ["--annotations", coco.file, "--novel-names", '"cat | <b>dog</b>"', "--output", tmp_path / "out"]
    assert run_eval("--detections", file, *words) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<td>cat | &lt;b&gt;dog&lt;/b&gt;</td>" in page and "It cannot be shown" in page
    assert "| names split | cat \\| &lt;b&gt;dog&lt;/b&gt; |" in (tmp_path / "out" / "report.md").read_text().replace(
        '"', ""
    )


def test_names_of_another_vocabulary_are_named(coco, tmp_path, capsys):
    evaluator = DetectionEvaluator(coco, ["cat"], allow_missing_names=True)
    evaluator.update([5], [{"scores": [0.5], "labels": [0], "boxes": [BOX]}])
    save_detections(tmp_path / "d.parquet", evaluator)
    words = ["--detections", tmp_path / "d.parquet", "--annotations", coco.file]
    assert run_eval(*words) == 1
    assert "['salt, pepper']" in capsys.readouterr().err
    assert run_eval(*words, "--allow-missing-names") == 0
    assert "| missing names | salt, pepper |" in capsys.readouterr().out


def test_names_that_look_equal_are_the_categories_of_the_file(tmp_path):
    """Annotations have another form of Unicode than who types; reports have theirs."""
    written, typed = "cafe\u0301", "caf\u00e9"
    coco = CocoAnnotations.load(write_coco(tmp_path / "data", ["cat", written], {5: [("cat", BOX), (written, BOX)]}))
    evaluator = DetectionEvaluator(coco, ["cat", typed], allow_missing_names=True)
    evaluator.update([5], [{"scores": [0.5, 0.4], "labels": [0, 1], "boxes": [BOX, BOX]}])
    save_detections(tmp_path / "d.parquet", evaluator)
    words = ["--detections", tmp_path / "d.parquet", "--annotations", coco.file, "--output", tmp_path / "out"]
    assert run_eval(*words, "--novel-names", typed) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["metrics"]["AP_novel"] == report["metrics"]["AP"] == 100 and set(report["per_name"]) == {
        "cat",
        written,
    }


# Of decodetr predict


def predictions(coco, **changed):
    """detections.json of predict for the images of `coco`: in image 5 both objects, in 8 nothing."""
    rows = [
        {"name": "salt, pepper", "score": 0.75, "box": [50, 20, 90, 60]},
        {"name": "cat", "score": 0.5, "box": BOX},
    ]
    found = {5: rows, 6: [], 8: []}
    images = [
        {"file": str(entry["path"]), "picture": "x.png", "width": 96, "height": 64, "turned": False}
        | {"detections": found[entry["image_id"]]}
        for entry in coco.images
    ]
    document = {"model": "m", "threshold": 0.25, "box_format": "x0, y0, x1, y1", "images": images, "missing": []}
    return document | {"vocabulary": {"names": ["dog", "cat", "salt, pepper"]}} | changed


def test_what_predict_wrote(coco, tmp_path, capsys):
    file = results(tmp_path, predictions(coco))
    names, found = load_detections(file, coco)
    assert names == ["dog", "cat", "salt, pepper"] and list(found) == [5]
    assert found[5]["labels"].tolist() == [2, 1] and found[5]["scores"].tolist() == [0.75, 0.5]
    assert np.array_equal(found[5]["boxes"], np.float32([[50, 20, 90, 60], BOX]))
    status = run_eval("--detections", file, "--annotations", coco.file, "--output", tmp_path / "report")
    assert status == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["metrics"]["AP50"] == pytest.approx(100 * (51 / 101 + 1) / 2)  # one of two cats
    assert report["protocol"]["score_threshold"] == "0.25, of predict: what is below is lost"
    capsys.readouterr()


def test_images_of_predict_are_found_by_their_last_folders(coco, tmp_path):
    document = predictions(coco)
    for entry in document["images"]:
        entry["file"] = f"elsewhere/val/{entry['file'].rpartition('/')[2]}"
    more = [{**document["images"][0], "file": f"elsewhere/train/{i}.png", "detections": []} for i in (5, 6, 99)]
    document["images"] += more
    assert list(load_detections(results(tmp_path, document), coco)[1]) == [5]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d["images"].pop(0), "expected detections of the image '5.png', got none; run `decodetr predict`"),
        (lambda d: d["images"].append(d["images"][0]), "'5.png', got those of 2 files of that name"),
        (lambda d: d["missing"].append("x.png"), "1 images are missing; run the same"),
        (
            lambda d: d["images"][0].update(width=64, height=96),
            "the 96 x 64 pixels that are annotated, .* 64 x 96",
        ),
        (
            lambda d: d["images"][0].update(width=64, height=96, turned=True),
            "turned upright as its EXIF orientation says",
        ),
        (lambda d: d["images"][0]["detections"][0].update(name="gnu"), "expected what `decodetr predict` writes"),
        (lambda d: d.update(vocabulary=3), "expected what `decodetr predict` writes"),
        (lambda d: d.pop("box_format"), "COCO's results format.* or detections.json of `decodetr predict`, got"),
    ],
)
def test_what_predict_wrote_must_fit_the_data(coco, tmp_path, change, message):
    document = predictions(coco)
    change(document)
    with pytest.raises(ValueError, match=message):
        load_detections(results(tmp_path, document), coco)


def test_detections_are_not_replaced_by_their_own_evaluation(coco, tmp_path, capsys):
    command = ["--annotations", str(coco.file), "--output", str(tmp_path / "report")]
    assert run_eval("--detections", results(tmp_path, predictions(coco)), *command) == 0
    file = tmp_path / "report" / "detections.parquet"
    before = file.read_bytes()
    assert main(["eval", "--detections", str(file), *command]) == 1
    assert "which would be written over" in capsys.readouterr().err and file.read_bytes() == before


@pytest.mark.parametrize(
    "boxes, said",
    [
        ([[10, 8, 50, 58], [40, 20, 90, 60], [60, 30, 95, 62]], "boxes seem to be two corners: 2 of 3"),
        ([[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.6, 0.7]], "all boxes lie within 0..1: relative, not pixels"),
        ([[10, 8, 40, 50], [40, 20, 50, 40], [0, 0, 0, 0]], None),
    ],
)
def test_boxes_of_another_form_are_said(coco, tmp_path, caplog, boxes, said):
    load_detections(results(tmp_path, [row(bbox=box) for box in boxes]), coco)
    assert (said in caplog.text) if said else not caplog.text


@pytest.mark.parametrize(
    "change", [{"image_id": 2**70}, {"image_id": True}, {"score": "0.5"}, {"bbox": ["1", 2, 3, 4]}]
)
def test_values_that_are_no_numbers(coco, tmp_path, change):
    with pytest.raises(ValueError, match="row 0: expected "):
        load_detections(results(tmp_path, [row(**change)]), coco)


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv"])
def test_forms_of_predict_without_a_list_of_names_point_to_the_one_that_has_it(coco, tmp_path, form):
    file = tmp_path / f"detections.{form}"
    if form == "parquet":
        pq.write_table(pa.table({"file": ["a.png"], "frame": [None], "name": ["cat"], "score": [0.5]}), file)
    else:
        file.write_text("{}\n")
    with pytest.raises(ValueError, match=f"the {form} of `decodetr predict` .*; give its detections.json"):
        load_detections(file, coco)


def test_tables_with_other_columns(coco, tmp_path):
    file = tmp_path / "d.parquet"
    columns = {"image_id": [5], "name": ["cat"], "score": [0.5], "x0": [1.0], "y0": [1.0], "x1": [2.0], "y1": [2.0]}
    for change, message in (
        ({"image_id": ["5"]}, "expected integers, texts and floats in .*, got string in image_id"),
        ({"name": [1]}, "got int64 in name"),
        ({"x0": ["a"]}, "got string in x0"),
    ):
        pq.write_table(pa.table(columns | change), file)
        with pytest.raises(ValueError, match=message):
            load_detections(file, coco)
    for names, message in (("[" * 5000, "nested more than 100 deep"), ('["dog"]', r"got \['cat'\]; write it again")):
        pq.write_table(pa.table(columns).replace_schema_metadata({"decodetr_names": names}), file)
        with pytest.raises(ValueError, match=message):
            load_detections(file, coco)


@pytest.mark.parametrize("scale", [lambda score: 100 * score, lambda score: np.log(score / (1 - score))])
def test_scores_that_are_no_shares_have_no_calibration_and_no_thresholds(coco, tmp_path, caplog, scale):
    """AP, errors and the worst images are those of the same ranking; what an earlier report had is gone."""
    scores = {3: [0.9, 0.6, 0.3, 0.2], 13: [0.8, 0.4]}
    rows = [
        row(image_id=5 + 3 * (place % 2), category_id=category, score=score, bbox=[10 + 9 * place, 8, 40, 50])
        for category, values in scores.items()
        for place, score in enumerate(values)
    ]
    command = ["--annotations", str(coco.file), "--output", str(tmp_path / "report")]
    reports = []
    for change in (float, scale):
        found = [{**entry, "score": float(change(entry["score"]))} for entry in rows]
        assert run_eval("--detections", results(tmp_path, found), *command, "--overwrite") == 0
        reports.append(json.loads((tmp_path / "report" / "report.json").read_text()))
    plain, other = reports
    assert plain["metrics"]["AP50"] > 0 and {"threshold", "calibration"} <= set(plain)
    assert not {"threshold", "calibration"} & set(other)
    for key in ("metrics", "per_name", "curves", "errors", "confusion", "worst_images"):
        assert other[key] == plain[key], key
    left = {file.name for file in (tmp_path / "report").iterdir()}
    assert not left & {"thresholds.json", "calibration.png"} and {"errors.png", "report.html"} <= left
    page = (tmp_path / "report" / "report.html").read_text()
    assert "at the score where F1 is best" in page and "thresholds.json" not in page and "<h2>Calibration" not in page
    assert caplog.text.count("expected scores in 0..1, got ") == 1
    assert run_eval("--detections", results(tmp_path, rows), *command, "--overwrite") == 0
    assert (tmp_path / "report" / "thresholds.json").is_file()


def test_a_report_without_an_object_draws_without_a_warning(coco, tmp_path, recwarn):
    document = json.loads(coco.file.read_text())
    coco.file.write_text(json.dumps({**document, "annotations": []}))
    command = ["--annotations", str(coco.file), "--output", str(tmp_path / "report")]
    assert run_eval("--detections", results(tmp_path, [row()]), *command) == 0
    assert not [str(warning.message) for warning in recwarn if "No artists with labels" in str(warning.message)]
