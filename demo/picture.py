"""The place for a picture. Gradio's own, but for who opens the file."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest.mock import patch

import gradio as gr

if TYPE_CHECKING:
    from gradio.data_classes import ImageData

with patch("gradio.component_meta.create_or_modify_pyi", create=True):  # it would write a file beside this one

    class Picture(gr.Image):
        """`gradio.Image`, which hands over the file as it came: `open_image` has limits, and turns it as EXIF says."""

        def preprocess(self, payload: ImageData | None) -> str | None:
            """The place of the file."""
            return None if payload is None else payload.path

        def get_block_name(self) -> str:
            """That of the component in the browser."""
            return "image"
