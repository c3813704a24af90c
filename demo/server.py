"""The page on a socket, until a signal ends it. Nothing is asked of other machines, and nothing is sent to any."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decodetr.demo.desk import Desk
from decodetr.demo.settings import HOST, DemoSettings
from decodetr.inference.loading import load_model
from decodetr.inference.picture_files import find_images
from decodetr.scenes.rendering import draw_scene
from decodetr.utils.files import replacing
from decodetr.utils.shipped import DEFAULT_MODEL, resolve

if TYPE_CHECKING:
    import torch

_SCENES, _SCENE_SIDE = 6, 480  # examples of the shipped model
_MOST_EXAMPLES = 12


def launch(
    model: str | Path = DEFAULT_MODEL,
    names: str | None = None,
    vocabularies: Sequence[str | Path] = (),
    clip: str | Path | None = None,
    settings: DemoSettings | None = None,
    device: str | torch.device = "auto",
    examples: str | Path | None = None,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    tell: Callable[[str], Any] | None = None,
) -> None:
    """
    Load a model, and show its page until SIGTERM or Ctrl-C. Then what it kept on the disk is removed.

    Args:
        model: folder, Hub name or shipped name. names (*optional*): "pool", or names to begin with, as `--names` has
            them. vocabularies: that can be chosen besides. clip (*optional*): that made the model's names, if it lies
            elsewhere than recorded. device: see [`pick_device`].
        examples (*optional*): a folder of pictures to try. Default: drawn scenes for the shipped model, else none.
        host, port (*optional*): where to listen. Default: GRADIO_SERVER_NAME and GRADIO_SERVER_PORT, as a Space sets
            them, else 127.0.0.1 and the first free port from 7860. Port 0: a free one.
        share (bool): let Gradio make a public address for some days, through a server of theirs.
        tell (callable, *optional*): is given the address once the page is there.

    Raises:
        FileNotFoundError: no such model, vocabulary or examples. ValueError: one that cannot be used, or the port.
    """
    settings = DemoSettings() if settings is None else settings
    files = _examples_of(examples)
    loaded, image_processor = load_model(model, device=device)
    desk = Desk(loaded, image_processor, str(model), settings, vocabularies, clip)
    with _own_folder() as folder:
        from decodetr.demo.page import asset, build_page  # Gradio reads its settings when it is imported

        if not files and Path(resolve(model)) == Path(resolve(DEFAULT_MODEL)):
            files = _drawn_scenes(folder)
        page = build_page(desk, names, files)
        page.queue(max_size=settings.max_queue)
        port = _free_port(host) if port == 0 else port
        with _until_signal() as ended:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)
                    _, address, public = page.launch(
                        server_name=host, server_port=port, share=share, prevent_thread_lock=True, quiet=True,
                        footer_links=[], run_history=False, allowed_paths=files, max_file_size=settings.max_bytes,
                        state_session_capacity=settings.sessions, enable_monitoring=False, ssr_mode=False, pwa=False,
                        mcp_server=False, css=asset("page.css"), js=asset("page.js"), theme=_theme(), show_error=False,
                    )  # fmt: skip
            except OSError as error:
                raise ValueError(f"cannot listen at --host {host} --port {port}: {error}; give others") from error
            try:
                if tell is not None:
                    tell(public or address)
                ended.wait()
            finally:
                page.close(verbose=False)


def _theme():
    import gradio as gr

    fonts = ["system-ui", "sans-serif"]  # of the machine: nothing is fetched
    theme = gr.themes.Default(primary_hue="indigo", font=fonts, font_mono=["ui-monospace", "monospace"])
    # Darker than by default, so that it can be read (WCAG 2, AA).
    return theme.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
    )


def _examples_of(folder):
    return [] if folder is None else [str(file.absolute()) for file in find_images([folder])[:_MOST_EXAMPLES]]


def _drawn_scenes(folder):
    files = []
    for number in range(_SCENES):
        file = folder / "examples" / f"scene {number + 1}.png"
        with replacing(file) as partial:
            draw_scene(0, "demo", number, _SCENE_SIDE).image.save(partial, "PNG")
        files.append(str(file))
    return files


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A folder for what Gradio keeps on the disk, which is gone at the end. And its telemetry is off."""
    wanted = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with tempfile.TemporaryDirectory(prefix="decodetr-demo-") as folder:
        os.environ.update(wanted, GRADIO_TEMP_DIR=folder)
        yield Path(folder)


@contextmanager
def _until_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, so that the folder is removed."""
    ended = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield ended
        return
    before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        yield ended
    finally:
        signal.signal(signal.SIGTERM, before)


def _free_port(host):
    host = host or HOST
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]
