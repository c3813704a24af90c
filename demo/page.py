"""The page: Gradio's components around a Desk. What is of one person lies in the state of that person's page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from decodetr.demo.desk import Desk, Visit, start_of, told
from decodetr.demo.picture import Picture
from decodetr.demo.searches import POOL, TYPED
from decodetr.demo.stage import reasons
from decodetr.utils.documents import read_text
from decodetr.utils.markup import html_text

_TO_STAGE = """() => {
    const stage = document.getElementById("stage");
    const { top, bottom } = stage.getBoundingClientRect();
    if (top < 0 || bottom > window.innerHeight) stage.scrollIntoView({ block: "start" });
}"""


def build_page(desk: Desk, names: str | None = None, examples: Sequence[str] = ()) -> gr.Blocks:
    """
    The page of a model.

    Args:
        desk ([`Desk`]). names (*optional*): "pool", or names that are typed already. examples: files of pictures.

    Returns:
        `gradio.Blocks`, which [`launch`] puts on a socket.

    Raises:
        ValueError: names that cannot be.
    """
    choice_first, text_first = start_of(names, desk.searches)
    settings = desk.settings
    with gr.Blocks(
        title=f"decodetr: {desk.name}", analytics_enabled=False, delete_cache=(60, settings.kept_seconds)
    ) as page:
        visit = gr.State(None, time_to_live=4 * settings.kept_seconds)  # a Visit, once something has been done
        gr.HTML(_title(desk), elem_id="title")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                picture = Picture(
                    label="Picture", sources=["upload", "clipboard", "webcam"], type="filepath", height=240,
                    buttons=[], elem_id="picture",
                )  # fmt: skip
                choice = gr.Radio(
                    [(label, key) for key, label in desk.searches.choices.items()], value=choice_first,
                    label="Look for", elem_id="choice",
                )  # fmt: skip
                typed = gr.Textbox(
                    text_first, label="Names", info='With commas: cat, "salt, pepper". Enter detects.', max_lines=1,
                    placeholder='cat, traffic cone', elem_id="names",
                )  # fmt: skip
                press = gr.Button("Detect", variant="primary", elem_id="detect")
                if examples:
                    gr.Examples([[str(file)] for file in examples], [picture], label="Examples", elem_id="examples")
            with gr.Column(scale=3, min_width=300):
                said = gr.HTML(
                    _sentence(desk.said(Visit(), desk.start)), html_template='<div role="status">${value}</div>',
                    elem_id="said",
                )  # fmt: skip
                slider = gr.Slider(
                    0, 1, desk.start, step=0.01, label="Threshold", info="Boxes with a higher score are shown.",
                    buttons=[], elem_id="threshold",
                )  # fmt: skip
                stage = gr.HTML(
                    None, html_template=asset("stage.html"), js_on_load=asset("stage.js"),
                    elem_id="stage",
                )  # fmt: skip
                rows = gr.Radio([], label="Detections", visible=False, elem_id="detections")
                why = gr.HTML(reasons({}, None), elem_id="why")
                with gr.Accordion("A name from a box", open=False, elem_id="from-box") as own:
                    gr.HTML(_from_box(desk))
                    box = gr.Textbox(label="Box", info="Left, top, right, bottom in pixels", elem_id="box")
                    box_name = gr.Textbox(label="Its name", info="Enter looks for it.", elem_id="box-name")
                    add = gr.Button("Look for this", elem_id="add")

        shown = [said, stage, rows, why]

        def view(visit: Visit | None, slider: float, wrong: str | None = None) -> list[Any]:
            visit = visit or Visit()
            text = _sentence(desk.said(visit, slider)) if wrong is None else _sentence(wrong, "wrong")
            listed = desk.rows(visit, slider)
            picked = visit.picked if visit.picked in [row for _, row in listed] else None
            found = visit.sighting.found if visit.sighting else {}
            radio = gr.Radio(choices=listed, value=picked, visible=bool(listed))
            return [text, desk.stage(visit, slider), radio, reasons(found, visit.picked)]

        def act(action: Callable[[Visit], Visit], visit: Visit | None, slider: float) -> list[Any]:
            visit, wrong = told(action, visit or Visit())
            return [visit, *view(visit, slider, wrong)]

        def detect(visit: Visit | None, file: str | None, choice: str, text: str, slider: float) -> list[Any]:
            return act(lambda visit: desk.detect(visit, file, choice, text), visit, slider)

        def arrive(visit: Visit | None, file: str | None, choice: str, text: str, slider: float) -> list[Any]:
            seen, wrong = told(lambda visit: desk.see(visit, file), visit or Visit())
            if wrong:  # what was found in the picture before is not of this one
                seen = Visit(drawn=seen.drawn)
            if wrong or file is None or (choice == TYPED and not text.strip()):
                return [seen, *view(seen, slider, wrong)]
            return detect(seen, file, choice, text, slider)

        def pick(visit: Visit | None, slider: float, event: gr.EventData) -> list[Any]:
            return act(lambda visit: desk.click(visit, float(event.x), float(event.y), slider), visit, slider)

        def choose(visit: Visit | None, row: int | None, slider: float) -> list[Any]:
            return act(lambda visit: desk.pick(visit, row), visit, slider)

        def draw(visit: Visit | None, slider: float, event: gr.EventData) -> list[Any]:
            found = act(lambda visit: desk.draw(visit, str(event.corners)), visit, slider)
            return [str(event.corners), gr.Accordion(open=True), *found]

        def name_box(
            visit: Visit | None, corners: str, name: str, text: str, file: str | None, slider: float
        ) -> list[Any]:
            given = []

            def action(visit: Visit) -> Visit:
                visit, one = desk.name_box(visit, corners, name)
                given.append(one)
                return visit

            named, wrong = told(action, visit or Visit())
            if wrong:
                return [gr.skip(), gr.skip(), named, *view(named, slider, wrong)]
            typed = _with(text, given[0])  # what it stands for stays, also where the other names cannot be looked for
            return [TYPED, typed, *detect(named, file, TYPED, typed, slider)]

        model = {"concurrency_id": "model", "concurrency_limit": 1}  # one thread runs it
        private: dict[str, Any] = {"api_visibility": "private"}
        heavy = {**model, **private, "show_progress_on": stage}
        light = {**private, "show_progress": "hidden", "trigger_mode": "always_last"}
        asked = [visit, picture, choice, typed, slider]
        found = [visit, *shown]
        press.click(detect, asked, found, **heavy).then(None, js=_TO_STAGE)
        typed.change(
            None, [typed, choice], choice, js=f"(text, choice) => text.trim() ? '{TYPED}' : choice", **private
        )
        typed.submit(None, None, choice, js=f"() => '{TYPED}'", **private).then(detect, asked, found, **heavy).then(
            None, js=_TO_STAGE
        )
        choice.input(detect, asked, found, trigger_mode="always_last", **heavy)
        picture.change(arrive, asked, found, **heavy)
        slider.change(view, [visit, slider], shown, **light)
        rows.input(choose, [visit, rows, slider], found, **light)
        stage.pick(pick, [visit, slider], found, **light)
        stage.draw(draw, [visit, slider], [box, own, *found], **light)
        gr.on(
            [add.click, box_name.submit],
            name_box,
            [visit, box, box_name, typed, picture, slider],
            [choice, typed, *found],
            **heavy,
        )
    return page


def asset(name: str) -> str:
    """A file of this folder that belongs to the page."""
    return read_text(Path(__file__).parent / name)


def _with(text, name):
    """Typed names and one more, quoted where it has a comma or quotes."""
    quoted = '"' + name.replace('"', '""') + '"' if {",", '"'} & set(name) else name
    return f"{text}, {quoted}" if text.strip() else quoted


def _sentence(text, kind=""):
    return f'<p class="{kind}">{html_text(text)}</p>'


def _title(desk):
    pool = " or everything that its pool speaks of," if POOL in desk.searches.choices else ""
    return (
        f"<h1>decodetr</h1><p>Open-vocabulary detection by <b>{html_text(desk.name)}</b>: look for its names, for any "
        f"others,{pool} and see why.</p>"
    )


def _from_box(desk):
    if desk.searches.clip is None:
        return "<p>The model does not record the CLIP that made its names, which a name from a box needs.</p>"
    return (
        "<p>Draw a box around a thing, or write its corners, and name it: the name then stands for what is in the "
        f"box, on this page alone. It is embedded by <b>{html_text(desk.searches.clip)}</b>.</p>"
    )
