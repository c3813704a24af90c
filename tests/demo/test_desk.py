"""What the page does when somebody does something, without a browser: values, and that nobody sees another's names."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import decodetr
from decodetr.demo.desk import Desk, Unclear, Visit, start_of, told
from decodetr.demo.searches import OWN, POOL, TYPED
from decodetr.demo.settings import DemoSettings
from decodetr.demo.stage import box_at, own_box, reasons
from decodetr.inference.loading import load_model


def iou(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inside = max(w, 0) * max(h, 0)
    return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)


def same(shown, expected):
    assert shown["names"] == expected.data["class_name"].tolist()
    np.testing.assert_allclose(shown["scores"], expected.confidence, atol=1e-5)
    np.testing.assert_allclose(shown["boxes"], expected.xyxy, atol=1e-2)


@pytest.mark.parametrize("threshold", [None, 0.05, 0.6])
def test_the_boxes_are_those_of_detect(desk, shipped, scene, threshold):
    visit = desk.detect(Visit(), scene.file, OWN)
    model, processor = shipped
    expected = decodetr.detect(model, scene.image, threshold=threshold, image_processor=processor)
    shown = desk.shown(visit, desk.start if threshold is None else threshold)
    assert len(shown["names"]) >= 2
    same(shown, expected)
    assert {name for name, _ in scene.objects} & set(shown["names"])


def test_typed_names_are_those_of_detect_and_of_this_call_alone(desk, shipped, scene):
    model, processor = shipped
    before = list(model.vocabulary.names)
    names = [scene.objects[0][0], "orange cross in plain colour", "salt, pepper"]
    visit = desk.detect(Visit(), scene.file, TYPED, f'{names[0]},{names[1]},"salt, pepper"')
    same(desk.shown(visit, 0.02), decodetr.detect(model, scene.image, names, 0.02, image_processor=processor))
    assert visit.sighting.looked_for == 3 and model.vocabulary.names == before


def test_the_threshold_drops_what_scores_less(desk, scene):
    visit = desk.detect(Visit(), scene.file, OWN)
    counts = []
    for threshold in (0.0, 0.3, 0.9, 1.0):
        shown = desk.shown(visit, threshold)
        assert all(score > threshold for score in shown["scores"])
        kept = [score for score in visit.sighting.found["scores"] if score > threshold]
        assert shown["scores"] == kept
        counts.append(len(kept))
    assert counts[0] == 100 > counts[1] > counts[2] >= counts[3] == 0
    assert desk.said(visit, 1.0).startswith(
        f"Nothing (best score {visit.sighting.best:.2f}) above 1.00, of 240 names."
    )
    assert f"{counts[1]} detections above 0.30" in desk.said(visit, 0.3)
    assert re.search(r"The model took \d+ ms, all together \d+ ms\.$", desk.said(visit, 0.3))
    assert 0 < visit.sighting.forward < visit.sighting.whole


def test_where_the_slider_begins_the_thresholds_are_the_models_own(shipped):
    desk = Desk(*shipped, "scenes-decodetr")
    assert desk.start == round(shipped[0].config.common_threshold, 2)
    assert desk.threshold(desk.start) is None and desk.threshold(desk.start + 0.01) == desk.start + 0.01
    given = Desk(*shipped, "scenes-decodetr", DemoSettings(threshold=0.5))
    assert given.start == given.threshold(0.5) == 0.5


def test_a_click_chooses_the_smallest_box_around_it(desk, scene):
    boxes = [[0, 0, 100, 100], [10, 10, 30, 30], [20, 20, 90, 90], [10, 10, 30, 30]]
    rows = [5, 6, 7, 8]
    assert [box_at(*at, boxes, rows) for at in ((25, 25), (50, 50), (1, 1), (100, 100), (101, 5))] == [
        6,
        7,
        5,
        5,
        None,
    ]
    visit = desk.detect(Visit(), scene.file, OWN)
    shown = desk.shown(visit, 0.3)
    for row, (x0, y0, x1, y1) in zip(shown["row"], shown["boxes"]):
        picked = desk.click(visit, (x0 + x1) / 2, (y0 + y1) / 2, 0.3).picked
        px0, py0, px1, py1 = visit.sighting.found["boxes"][picked]
        assert picked == row or (px1 - px0) * (py1 - py0) <= (x1 - x0) * (y1 - y0)
    assert desk.click(visit, 0.1, 479.9, 0.3).picked is None
    assert desk.click(visit, 240, 240, 1.0).picked is None  # nothing is shown there
    assert desk.pick(visit, 100).picked is None and desk.pick(visit, 3).picked == 3


def test_the_reasons_are_those_of_explain(desk, shipped, scene):
    from decodetr.inference.detection import detect

    model, processor = shipped
    (expected,) = detect(model, processor, [scene.image], threshold=0.3, explain=5)
    visit = desk.detect(Visit(), scene.file, OWN)
    shown = desk.shown(visit, 0.3)
    assert [[one["caption"] for one in rows] for rows in shown["prototypes"]] == [
        [one["caption"] for one in rows] for rows in expected["prototypes"]
    ]
    page = reasons(visit.sighting.found, shown["row"][0])
    best = expected["prototypes"][0][0]
    assert f"<td>{best['weight']:.1%}</td><td>{best['caption']}</td><td>{best['level']}</td>" in page
    assert (
        f"<b>{expected['objectness'][0]:.2f}</b>" in page and f"<b>{expected['name_probability'][0]:.2f}</b>" in page
    )


def test_detect_everything_looks_for_what_the_pool_speaks_of(desk, scene):
    model, processor = load_model("scenes-decodetr", names="pool", device="cpu")
    visit = desk.detect(Visit(), scene.file, POOL)
    same(desk.shown(visit, 0.1), decodetr.detect(model, scene.image, threshold=0.1, image_processor=processor))
    assert visit.sighting.looked_for == len(model.vocabulary)
    assert set(desk.shown(visit, 0.1)["names"]) <= set(model.prototype_pool.captions)


def test_vocabularies_can_be_chosen(desk, scene, tmp_path, shipped):
    few = shipped[0].vocabulary.select([scene.objects[0][0], "red solid ring"])
    few.save_pretrained(tmp_path / "few")
    two = Desk(*shipped, "scenes-decodetr", vocabularies=["scenes-vocabulary", tmp_path / "few"])
    assert list(two.searches.choices.values())[2:4] == [
        "the 240 names of scenes-vocabulary", f"the 2 names of {tmp_path / 'few'}",
    ]  # fmt: skip
    key = list(two.searches.choices)[3]
    visit = two.detect(Visit(), scene.file, key)
    assert visit.sighting.looked_for == 2 and set(visit.sighting.found["names"]) == set(few.names)
    with pytest.raises(Unclear, match="there is no 'other'"):
        two.detect(visit, scene.file, "other")


def test_names_of_a_given_vocabulary_need_no_text_model(scene, tmp_path, tiny_detector_folder):
    model, processor = load_model(tiny_detector_folder, device="cpu")
    known = decodetr.Vocabulary(["bird"], -model.vocabulary.embeddings[:1].cpu(), model.vocabulary.info)
    known.save_pretrained(tmp_path / "birds")
    desk = Desk(model, processor, "tiny", vocabularies=[tmp_path / "birds"])
    visit = desk.detect(Visit(), scene.file, TYPED, "bird, cat")
    assert set(visit.sighting.found["names"]) == {"bird", "cat"}
    with pytest.raises(Unclear, match=r"'horse' \(close: .*--clip NAME"):
        desk.detect(Visit(), scene.file, TYPED, "horse")


def test_a_drawn_box_becomes_a_name_of_its_own_visit(desk, shipped, scene):
    name, box = max(scene.objects, key=lambda one: (one[1][2] - one[1][0]) * (one[1][3] - one[1][1]))
    seen = desk.see(Visit(), scene.file)
    corners = f"{box[2]}, {box[3]}, {box[0]}, {box[1]}"
    visit, given = desk.name_box(seen, corners, " my, thing ")
    assert given == "my, thing" and visit.box == box and visit.drawn.names == ["my, thing"]
    visit = desk.detect(visit, scene.file, TYPED, '"my, thing", red solid ring')
    found = visit.sighting.found
    best = next(i for i, one in enumerate(found["names"]) if one == "my, thing")
    assert iou(found["boxes"][best], box) > 0.5 and found["scores"][best] > desk.start
    again, _ = desk.name_box(visit, "0, 0, 60, 60", "other")
    assert again.drawn.names == ["my, thing", "other"] and visit.drawn.names == ["my, thing"]
    # For everybody else it is what the text model says of these words.
    other = desk.detect(Visit(), scene.file, TYPED, '"my, thing", red solid ring')
    model, processor = shipped
    words = decodetr.detect(model, scene.image, ["my, thing", "red solid ring"], 0.0, image_processor=processor)
    same(desk.shown(other, 0.0), words)
    assert other.drawn is None and abs(max(found["scores"]) - max(words.confidence)) > 1e-3


def test_two_visits_at_once_do_not_mix(desk, scene):
    lists = ["red solid ring", "green striped diamond, yellow dotted ring", "purple dotted heart"]
    alone = [desk.detect(Visit(), scene.file, TYPED, names) for names in lists]
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(desk.detect, Visit(), scene.file, TYPED, names) for names in lists * 3]
    for i, job in enumerate(jobs):
        found, expected = job.result().sighting.found, alone[i % 3].sighting.found
        assert found["names"] == expected["names"] and set(found["names"]) <= set(lists[i % 3].split(", "))
        np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-5)


def test_what_cannot_be_done_is_said_in_a_sentence(desk, shipped, scene, tmp_path, monkeypatch):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    visit = desk.detect(Visit(), scene.file, OWN)
    for action, message in (
        (lambda visit: desk.detect(visit, None, OWN), "Give a picture first"),
        (lambda visit: desk.detect(visit, str(broken), OWN), "This is no picture that can be read; expected AVIF"),
        (lambda visit: desk.see(visit, str(tmp_path / "gone.png")), "files are kept for 15 minutes. Give it again."),
        (lambda visit: desk.detect(visit, scene.file, TYPED, " "), "Type what to look for"),
        (lambda visit: desk.detect(visit, scene.file, TYPED, ",,"), "no names in Names ',,'"),
        (lambda visit: desk.detect(visit, scene.file, TYPED, '"a" b'), "double quotes around a name"),
        (lambda visit: desk.detect(visit, scene.file, TYPED, "x" * 501), "has 501 characters, at most 500"),
        (lambda visit: desk.detect(visit, scene.file, TYPED, ",".join(map(str, range(2001)))), "2,001 given"),
        (lambda visit: desk.draw(Visit(), "1, 2, 3, 4"), "Give a picture first"),
        (lambda visit: desk.draw(visit, "1, 2, 3"), "Draw a box on the picture"),
        (lambda visit: desk.draw(visit, "1, 2, nan, 4"), "Draw a box on the picture"),
        (lambda visit: desk.draw(visit, "500, 0, 600, 90"), "less than 2 pixels in the picture of 480 x 480"),
        (lambda visit: desk.name_box(visit, "1, 2, 30, 40", " ")[0], "Write a name"),
    ):
        after, wrong = told(action, visit)
        assert after is visit and message in wrong
    monkeypatch.setenv("DECODETR_MAX_IMAGE_PIXELS", "1000")
    assert told(lambda visit: desk.see(visit, scene.file), visit)[1].startswith("The picture has more than the 1,000")


def test_what_nobody_expected_is_logged_and_not_shown(desk, caplog):
    def action(visit):
        raise RuntimeError("secret/path")

    visit = Visit()
    assert told(action, visit) == (visit, "That failed. The log of the demo says why.")
    assert "secret/path" in caplog.text


def test_a_name_from_a_box_says_which_clip_it_needs(scene, tiny_detector_folder, text_detector):
    desk = Desk(*load_model(tiny_detector_folder, device="cpu"), "tiny")
    with pytest.raises(Unclear, match="which the model does not record; start the demo with --clip NAME"):
        desk.name_box(desk.see(Visit(), scene.file), "0, 0, 50, 50", "mine")
    folder, clip = text_detector
    desk = Desk(*load_model(folder, device="cpu"), "text", clip="no/such-clip")
    with pytest.raises(
        Unclear,
        match="of the model, no/such-clip: the CLIP 'no/such-clip' cannot be loaded: .* Start the demo with --clip",
    ):
        desk.name_box(desk.see(Visit(), scene.file), "0, 0, 50, 50", "mine")
    desk = Desk(*load_model(folder, device="cpu"), "text")
    assert desk.searches.clip == str(clip)
    with pytest.raises(
        Unclear, match=f"of the model, {clip}: .* Start the demo with --clip NAME, where NAME is that CLIP"
    ):
        desk.name_box(desk.see(Visit(), scene.file), "0, 0, 50, 50", "mine")


def test_names_and_captions_are_no_markup(desk, scene):
    visit = desk.detect(Visit(), scene.file, TYPED, "<img src=x onerror=alert(1)>, ${alert(1)}, {{name}}")
    page = reasons(
        {**visit.sighting.found, "prototypes": [[{"caption": "<b>", "index": 0, "weight": 1, "level": "fine"}]] * 100},
        0,
    )
    assert "<img" not in page and "&lt;" in page and "<b></td>" not in page
    _, wrong = told(lambda visit: desk.detect(visit, scene.file, TYPED, '"<script>" x'), visit)
    assert "<script>" in wrong  # as text: page.py makes it HTML


def test_the_stage_has_what_the_browser_draws(desk, scene, tmp_path):
    visit = desk.detect(Visit(), scene.file, OWN)
    stage = desk.stage(visit, 0.3)
    shown = desk.shown(visit, 0.3)
    assert (stage["width"], stage["height"]) == (480, 480) and stage["picture"].startswith("data:image/jpeg;base64,")
    assert [box["row"] for box in stage["boxes"]] == shown["row"]
    assert stage["boxes"][0]["label"] == f"{shown['names'][0]} {shown['scores'][0]:.2f}"
    assert all(0 <= value <= 480 for box in stage["boxes"] for value in box["box"])
    assert stage["alt"].startswith(f"Your picture with {len(shown['names'])} boxes: {shown['names'][0]}")
    assert desk.stage(Visit(), 0.3) is None and desk.rows(Visit(), 0.3) == []
    turned = Image.new("RGB", (60, 20))
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=turned.getexif())
    assert desk.see(Visit(), str(tmp_path / "turned.jpg")).sighting.size == (20, 60)
    assert own_box("9, 8; 3, -5", (20, 60)) == [3, 0, 9, 8]


def test_another_picture_leaves_the_names_of_a_visit(desk, scene):
    visit, _ = desk.name_box(desk.see(Visit(), scene.file), "0, 0, 90, 90", "mine")
    assert desk.see(visit, None) == Visit(drawn=visit.drawn) and desk.see(visit, scene.file).box is None


def test_a_page_begins_with_the_names_of_the_option(desk, tiny_detector_folder):
    assert start_of(None, desk.searches) == (OWN, "") and start_of("pool", desk.searches) == (POOL, "")
    assert start_of("cat, dog", desk.searches) == (TYPED, "cat, dog")
    tiny = Desk(*load_model(tiny_detector_folder, device="cpu"), "tiny")
    with pytest.raises(ValueError, match="--names pool: the pool of this model has no captions"):
        start_of("pool", tiny.searches)
