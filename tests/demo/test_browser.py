"""The page in a headless Chromium, as people use it: by mouse, by keyboard alone, on a phone, two at once."""

import re
import shutil
from pathlib import Path

import pytest
from helpers.browsers import chromium, demo_process, until, watched
from helpers.paths import ROOT

from decodetr.demo.desk import Visit
from decodetr.demo.searches import OWN

pytestmark = pytest.mark.slow
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}

# Of the element that has the focus: in which part of the page it is, and whether that can be seen.
_FOCUS = """() => {
    const node = document.activeElement, style = getComputedStyle(node);
    const parts = [...document.querySelectorAll("#names, #choice, #detections, #threshold, #detect, #stage")];
    return {
        inside: parts.find((one) => one.contains(node))?.id,
        seen: style.outlineStyle !== "none" || style.boxShadow !== "none",
    };
}"""


@pytest.fixture(scope="module")
def demo():
    """(address, process) of `decodetr demo`."""
    with demo_process(["-m", "decodetr", "demo", "--port", "0", "--vocabulary", "scenes-vocabulary"]) as started:
        yield started


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, demo):
    with watched(browser, demo[0], viewport=DESKTOP) as page:
        yield page


def upload(page, file):
    page.locator("#picture input[type=file]").set_input_files(file)
    page.locator(".stage-image[src]").wait_for()


def said(page):
    return page.locator("#said").inner_text()


def wait_said(page, pattern):
    until(lambda: re.search(pattern, said(page)))


def labels(page):
    """What is written at the boxes, the surest first."""
    return page.locator(".found span").all_inner_texts()[::-1]


def type_names(page, text):
    page.get_by_role("textbox", name="Names").fill(text)
    until(page.get_by_label("the names that I type").is_checked)


def tagged(shown):
    return [f"{name} {score:.2f}" for name, score in zip(shown["names"], shown["scores"])]


def at(page, x, y):
    """Where a point of the picture is on the screen."""
    page.locator(".stage-frame").scroll_into_view_if_needed()
    area = page.locator(".stage-frame").bounding_box()
    return area["x"] + x / 480 * area["width"], area["y"] + y / 480 * area["height"]


def move_slider(page, value):
    number = page.locator("#threshold input[type=number]")
    number.fill(str(value))
    number.press("Enter")


def test_a_walk_by_mouse(page, desk, scene):
    upload(page, scene.file)
    wait_said(page, r"detections? above the thresholds of the model, of 240 names")
    visit = desk.detect(Visit(), scene.file, OWN)
    shown = desk.shown(visit, desk.start)
    assert labels(page) == tagged(shown)

    # Names that are typed, and the button.
    type_names(page, 'yellow striped ring, "salt, pepper"')
    page.get_by_role("button", name="Detect").click()
    wait_said(page, "of 2 names")
    assert {label.rpartition(" ")[0] for label in labels(page)} <= {"yellow striped ring", "salt, pepper"}
    assert re.search(r"The model took \d+ ms, all together \d+ ms\.", said(page))

    # The box of the ring, and what is behind it.
    box = next(box for name, box in scene.objects if name == "yellow striped ring")
    page.mouse.click(*at(page, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
    page.locator("#why h2").wait_for()
    assert re.fullmatch(r"Why “yellow striped ring”, 0\.\d\d", page.locator("#why h2").inner_text())
    assert re.search("yellow.* ring", page.locator("#why tbody").inner_text())
    assert page.locator(".picked").count() == 1
    assert page.locator("#detections input:checked").count() == 1

    # The threshold.
    move_slider(page, 0)
    wait_said(page, "100 detections above 0.00, of 2 names")
    until(lambda: len(labels(page)) == 100)
    move_slider(page, 1)
    wait_said(page, r"Nothing \(best score 0\.\d\d\) above 1\.00")
    assert not labels(page)
    move_slider(page, desk.start)
    wait_said(page, "above the thresholds of the model")

    # Another vocabulary, and everything.
    page.get_by_label("the 240 names of scenes-vocabulary").check()
    wait_said(page, "of 240 names")
    assert labels(page) == tagged(shown)
    page.get_by_label("everything that the pool speaks of").check()
    wait_said(page, r"of (?!240)\d+ names")
    assert labels(page) and all(re.search(r" 0\.\d\d$", label) for label in labels(page))


def test_a_name_from_a_drawn_box(page, scene):
    upload(page, scene.file)
    wait_said(page, "of 240 names")
    box = next(box for name, box in scene.objects if name == "green striped diamond")
    page.get_by_role("button", name="Draw a box").click()
    page.mouse.move(*at(page, *box[:2]))
    page.mouse.down()
    page.mouse.move(*at(page, 200, 300))
    page.mouse.move(*at(page, *box[2:]))
    page.mouse.up()
    until(lambda: page.get_by_role("textbox", name="Box").input_value())
    drawn = [float(x) for x in page.get_by_role("textbox", name="Box").input_value().split(",")]
    assert drawn == pytest.approx(box, abs=2)
    page.get_by_role("textbox", name="Its name").fill("my diamond")
    page.get_by_role("button", name="Look for this").click()
    wait_said(page, "of one name")
    assert labels(page)[0].startswith("my diamond 0.")
    assert page.get_by_role("textbox", name="Names").input_value() == "my diamond"

    # The same by two clicks, a name with a comma, and both names are looked for.
    page.get_by_role("button", name="Draw a box").click()
    page.mouse.click(*at(page, 50, 16))
    page.mouse.click(*at(page, 192, 158))
    until(lambda: page.get_by_role("textbox", name="Box").input_value().startswith(("49", "50")))
    page.get_by_role("textbox", name="Its name").fill("ring, mine")
    page.get_by_role("textbox", name="Its name").press("Enter")
    wait_said(page, "of 2 names")
    assert page.get_by_role("textbox", name="Names").input_value() == 'my diamond, "ring, mine"'
    assert any(label.startswith("ring, mine 0.") for label in labels(page))


def test_examples_and_errors_in_sentences(page, tmp_path):
    page.get_by_role("button", name="Detect").click()
    wait_said(page, "Give a picture first")
    page.get_by_role("button", name="Example 2").click()
    wait_said(page, "of 240 names")
    page.get_by_label("the names that I type").check()
    wait_said(page, "Type what to look for")
    assert labels(page), "what was found stays"
    (tmp_path / "bad.png").write_bytes(b"no picture")
    page.locator("#picture").get_by_label("Remove").or_(page.locator("#picture").get_by_label("Clear")).first.click()
    wait_said(page, "Give a picture first")
    page.get_by_label("the 240 names of the model").check()
    page.locator("#picture input[type=file]").set_input_files(tmp_path / "bad.png")
    wait_said(page, "This is no picture that can be read")


def test_names_are_shown_and_never_obeyed(page, scene):
    upload(page, scene.file)
    bad = "<img src=x onerror=document.title='hit'>"
    type_names(page, f"{bad}, ${{document.title='hit'}}, {{{{constructor}}}}")
    page.get_by_role("textbox", name="Names").press("Enter")
    wait_said(page, "of 3 names")
    move_slider(page, 0)
    wait_said(page, "above 0.00")
    until(lambda: len(labels(page)) == 100)
    assert any(label.startswith(bad) for label in labels(page))
    page.locator("#detections input").first.check()
    page.locator("#why h2").wait_for()
    assert page.title() == "decodetr: scenes-decodetr"
    assert page.locator("#stage img, #why img, #said img, #detections img").count() == 1


def test_two_people_at_once_have_their_own_names(browser, demo, scene):
    with watched(browser, demo[0], viewport=DESKTOP) as one, watched(browser, demo[0], viewport=DESKTOP) as other:
        for page, name in ((one, "yellow striped ring"), (other, "green striped diamond")):
            upload(page, scene.file)
            type_names(page, name)
        for page in (one, other):
            page.get_by_role("button", name="Detect").click()
        for page, name in ((one, "yellow striped ring"), (other, "green striped diamond")):
            wait_said(page, "of one name")
            assert labels(page) and all(label.startswith(name) for label in labels(page))
        one.get_by_label("the 240 names of the model").check()
        wait_said(one, "of 240 names")


def test_a_phone(browser, demo, scene):
    with watched(browser, demo[0], viewport=PHONE, has_touch=True, is_mobile=True) as page:
        upload(page, scene.file)
        wait_said(page, "of 240 names")
        page.get_by_role("button", name="Detect").tap()
        until(lambda: page.locator(".stage-frame").bounding_box()["y"] < 500)  # the result comes into sight
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        area = page.locator(".stage-frame").bounding_box()
        assert area["width"] > 280 and area["x"] >= 0 and area["x"] + area["width"] <= 390
        box = next(box for name, box in scene.objects if name == "yellow striped ring")
        page.touchscreen.tap(*at(page, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
        page.locator("#why h2").wait_for()
        page.get_by_role("button", name="Draw a box").tap()
        for corner in ((97, 207), (249, 423)):
            page.touchscreen.tap(*at(page, *corner))
        until(lambda: page.get_by_role("textbox", name="Box").input_value())


def test_the_keyboard_alone(browser, demo, scene):
    with watched(browser, demo[0], viewport=DESKTOP) as page:
        upload(page, scene.file)  # of the system's own dialog, which a keyboard operates
        wait_said(page, "of 240 names")
        page.locator("body").press("Home")

        def tab_to(wanted):
            for _ in range(40):
                page.keyboard.press("Tab")
                focus = page.evaluate(_FOCUS)
                if focus["inside"] == wanted:
                    assert focus["seen"], f"the focus in #{wanted} cannot be seen"
                    return
            raise AssertionError(f"Tab never came to #{wanted}")

        for wanted in ("choice", "names"):
            tab_to(wanted)
        page.keyboard.type("yellow striped ring")
        page.keyboard.press("Enter")
        wait_said(page, "of one name")
        for wanted in ("detect", "threshold", "stage", "detections"):
            tab_to(wanted)
        page.keyboard.press("Space")
        page.locator("#why h2").wait_for()
        assert "yellow striped ring" in page.locator("#why h2").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser, demo, scene, scheme):
    from axe_playwright_python.sync_playwright import Axe

    with watched(browser, demo[0], viewport=DESKTOP, color_scheme=scheme) as page:
        page.get_by_role("button", name="Example 6").wait_for()
        first = Axe().run(page)
        assert first.violations_count == 0, first.generate_report()
        upload(page, scene.file)
        wait_said(page, "of 240 names")
        page.locator("#detections input").first.check()
        page.locator("#why h2").wait_for()
        page.get_by_role("button", name="A name from a box").click()
        page.get_by_role("textbox", name="Its name").wait_for()
        then = Axe().run(page)
        assert then.violations_count == 0, then.generate_report()


def test_pictures_are_gone_from_the_disk_at_the_end(browser, tmp_path, scene):
    with demo_process(["-m", "decodetr", "demo", "--port", "0"], env={"TMPDIR": str(tmp_path)}) as (address, process):
        with watched(browser, address) as page:
            upload(page, scene.file)
            wait_said(page, "of 240 names")
            size = Path(scene.file).stat().st_size
            kept = [file for file in tmp_path.rglob("*") if file.is_file() and file.stat().st_size == size]
            assert len(kept) == 1 and "decodetr-demo-" in str(kept[0])
    assert process.returncode == 0 and not list(tmp_path.iterdir())


def test_the_space_runs_as_it_is(browser, tmp_path):
    shutil.copytree(ROOT / "demo/space", tmp_path / "space")
    environment = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": "7979", "NAMES": "pool"}
    with demo_process(["app.py"], cwd=tmp_path / "space", env=environment) as (address, _):
        assert address == "http://127.0.0.1:7979/"
        with watched(browser, address) as page:
            page.get_by_role("button", name="Example 1").click()
            wait_said(page, r"detections above the thresholds of the model, of \d+ names")
            assert page.get_by_label("everything that the pool speaks of").is_checked() and labels(page)
