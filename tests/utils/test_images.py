"""The opener of pictures: modes, orientations, limits, and hostile files in every reader."""

import ast
import json
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.paths import sources
from PIL import Image, ImageFile

from decodetr.cli import main
from decodetr.utils import images
from decodetr.utils.images import annotated_frame, image_header, in_batches, is_image, open_image

RAMP = np.linspace(0, 1, 256).reshape(16, 16)  # 0..255 as shares


def _saved(tmp_path, image, name="a.tif", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jp2"])
def test_16_bit_pictures_are_scaled_not_clipped(tmp_path, name):
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    options = {"irreversible": False} if name == "a.jp2" else {}
    path = _saved(tmp_path, Image.fromarray(levels * 257), name, **options)
    expected = np.repeat(levels[..., None], 3, axis=2)
    np.testing.assert_array_equal(np.asarray(open_image(path)), expected)


def _tiff(bits, values, kind=1):
    """A little-endian TIFF of one grey row: values that are packed already, tags as (number, form, value)."""
    count = {8: 1, 12: 2}[bits]
    tags = [(256, 4, count), (257, 4, 1), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 4, 1), (279, 4, len(values)), (339, 3, kind)]
    pixels = values + b"\0" * (-len(values) % 2)
    entries = b"".join(
        struct.pack("<HHIHH" if t == 3 else "<HHII", n, t, 1, *((v, 0) if t == 3 else (v,))) for n, t, v in tags
    )
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + b"\0" * 4


def test_12_bit_pictures_are_scaled_by_12_bits(tmp_path):
    (tmp_path / "a.tif").write_bytes(_tiff(12, bytes([0xFF, 0xF8, 0x00])))  # 4095, 2048
    assert [open_image(tmp_path / "a.tif").getpixel((x, 0))[0] for x in (0, 1)] == [255, 128]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 32896, 65535]], np.int32), [0, 128, 255]),  # mode I
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),  # mode F
        (np.array([[0, 128, 255]], np.float32), [0, 128, 255]),
        (np.array([[False, True]]), [0, 255]),  # mode 1
    ],
)
def test_values_of_other_modes(tmp_path, array, expected):
    picture = open_image(_saved(tmp_path, Image.fromarray(array)))
    assert picture.mode == "RGB" and np.asarray(picture)[0, :, 1].tolist() == expected


@pytest.mark.parametrize(
    "values", [[-1, 3], [0, 70000], [0.0, float("nan")], [0.0, float("inf")], [-0.5, 0.5], [0.0, 3e4]]
)
def test_values_that_are_no_colours_are_refused(tmp_path, values):
    path = _saved(
        tmp_path, Image.fromarray(np.array([values], np.float32 if isinstance(values[0], float) else np.int32))
    )
    with pytest.raises(ValueError, match=r"a\.tif: .*expected colours.*convert the picture to 8 bits"):
        open_image(path)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "La", "RGBa", "CMYK", "YCbCr", "HSV", "LAB"]
)
def test_every_8_bit_mode_becomes_rgb_without_transparency(mode):
    from decodetr.processing.picture_modes import to_rgb

    base = Image.new("RGBA" if "A" in mode else "RGB", (4, 3), "white")
    picture = base.convert("RGBA").convert(mode) if mode in ("La", "RGBa", "PA") else base.convert(mode)
    rgb = to_rgb(picture)
    assert rgb.mode == "RGB" and rgb.size == (4, 3) and min(rgb.getpixel((0, 0))) >= 253


def _grey():
    return Image.fromarray((RAMP * 255).round().astype(np.uint8))


PROCESSED = {
    "PIL, 16 bits": lambda: Image.fromarray((RAMP * 65535).round().astype(np.uint16)),
    "PIL, floats": lambda: Image.fromarray(RAMP.astype(np.float32)),
    "uint16": lambda: np.repeat((RAMP * 65535).round().astype(np.uint16)[..., None], 3, 2),
    "int64 of 8 bits": lambda: np.repeat((RAMP * 255).round().astype(np.int64)[..., None], 3, 2),
    "floats of 0 to 1": lambda: np.repeat(RAMP[..., None], 3, 2),
    "floats of 0 to 255": lambda: np.repeat((RAMP * 255).round()[..., None], 3, 2),
    "tensor of floats": lambda: torch.from_numpy(RAMP).float().expand(3, 16, 16),
    "transparent": lambda: Image.merge(
        "LA", [Image.fromarray((RAMP * 255).round().astype(np.uint8)), Image.new("L", (16, 16))]
    ),
}


@pytest.mark.parametrize("backend", ["DeCoDetrImageProcessor", "DeCoDetrImageProcessorPil"])
@pytest.mark.parametrize("kind", PROCESSED)
def test_the_image_processor_sees_the_same_picture_of_any_kind(backend, kind):
    import decodetr.processing

    processor = getattr(decodetr.processing, backend)(size={"height": 16, "width": 16})
    expected = processor(_grey().convert("RGB"), return_tensors="pt")
    found = processor(PROCESSED[kind](), return_tensors="pt")
    torch.testing.assert_close(found["pixel_values"], expected["pixel_values"], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="expected colours"):
        processor(np.full((16, 16, 3), -1.0), return_tensors="pt")
    prepared = np.random.default_rng(0).normal(size=(3, 16, 16)).astype(np.float32)  # by whoever turned the steps off
    steps = {"do_rescale": False, "do_normalize": False, "do_resize": False, "input_data_format": "channels_first"}
    assert np.allclose(processor(prepared, return_tensors="np", **steps)["pixel_values"][0], prepared)


def test_detect_scales_16_bit_pictures():
    from helpers.tiny_models import tiny_model

    from decodetr import DeCoDetrImageProcessor
    from decodetr.inference.detection import detect

    model, processor = tiny_model().eval(), DeCoDetrImageProcessor(size={"height": 64, "width": 64})
    deep = PROCESSED["PIL, 16 bits"]()
    assert detect(model, processor, [deep], 0.0) == detect(model, processor, [_grey()], 0.0)
    with pytest.raises(ValueError, match="expected colours"):
        detect(model, processor, [Image.fromarray(RAMP.astype(np.float32) * 1e6)])


# EXIF


def _turned(path, orientation, size=(6, 4)):
    """A picture that is stored so that EXIF turns it back; returns it as it is meant."""
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(orientation).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image)), pixels


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_obeyed_unless_the_annotated_size_says_otherwise(tmp_path, name, orientation):
    if name == "a.webp":
        pytest.importorskip("PIL._webp")
    path = tmp_path / name
    upright, stored = _turned(path, orientation)
    if name != "a.webp":  # which is not lossless here
        np.testing.assert_array_equal(np.asarray(open_image(path)), upright)
        as_stored = np.asarray(open_image(path, size=(6, 4)))
        np.testing.assert_array_equal(as_stored, stored if orientation > 4 else upright)
    assert open_image(path).size == upright.shape[1::-1]
    assert image_header(path) == ((6, 4), orientation)


def _late(path, kind, content):
    """A PNG file with a chunk behind its pixels."""
    file = _png(6, 4, b"".join(b"\0" + bytes(18) for _ in range(4)))
    chunk = len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
    path.write_bytes(file[:-12] + chunk + file[-12:])


def test_what_stands_behind_the_pixels_of_a_png_turns_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    text = b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta tiff:Orientation="6"/>'
    for number, (kind, content) in enumerate([(b"eXIf", exif.tobytes()[6:]), (b"iTXt", text)]):
        path = tmp_path / f"{number}.png"
        _late(path, kind, content)
        assert image_header(path) == ((6, 4), 6) and image_header(path.read_bytes()) == ((6, 4), 6)
        assert open_image(path).size == (4, 6)


def test_a_header_is_read_without_the_pixels(tmp_path, monkeypatch):
    def load(image):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", load)
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    _late(tmp_path / "a.png", b"tEXt", b"date:create\x002026")
    assert image_header(tmp_path / "a.png") == ((6, 4), 1)


@pytest.mark.parametrize(
    ("size", "orientation", "declared", "expected"),
    [
        ((6, 4), 1, (6, 4), ("upright", True)),
        ((6, 4), 6, (6, 4), ("stored", True)),
        ((6, 4), 6, (4, 6), ("upright", True)),
        ((6, 4), 6, None, ("upright", False)),
        ((6, 4), 3, (6, 4), ("upright", False)),
        ((5, 5), 8, (5, 5), ("upright", False)),
        ((6, 4), 6, (9, 9), ("upright", False)),
    ],
)
def test_the_frame_of_annotations(size, orientation, declared, expected):
    assert annotated_frame(size, orientation, declared) == expected


# Hostile files


def _png(width, height, rows=b""):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _eps():
    return (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(/tmp/pwned) (w) file\nshowpage\n%%EOF\n"
    )


HOSTILE = {
    "PostScript": (lambda path: path.write_bytes(_eps()), "expected a readable image"),
    "a pipe": (os.mkfifo, "expected a regular file, got a device, pipe or socket"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "expected a regular file, got a device, pipe or socket"),
    "a folder": (lambda path: path.mkdir(), "expected a regular file, got a folder"),
    "a text": (lambda path: path.write_text("no picture"), "expected a readable image"),
    "nothing": (lambda path: path.write_bytes(b""), "expected a readable image"),
    "no rows": (lambda path: path.write_bytes(_png(20, 20)), "expected a readable image"),
    "68 megapixels": (lambda path: path.write_bytes(_png(8193, 8193)), "more than the 67,108,864 pixels"),
    "170 megapixels": (lambda path: path.write_bytes(_png(17000, 10000)), "more than the 67,108,864 pixels"),
    "2 gigapixels": (lambda path: path.write_bytes(_png(2**31 - 1, 1)), "more than the 67,108,864 pixels"),
    "66 thousand rows": (
        lambda path: path.write_bytes(_png(1, 65_536)),
        "65536 pixels, more than the 65,535 pixels a",
    ),
    "a link to nowhere": (lambda path: path.symlink_to("gone.png"), "no such"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "cannot be read"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_an_error_that_names_them(tmp_path, case):
    make, message = HOSTILE[case]
    make(tmp_path / "photo.jpg")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        open_image(tmp_path / "photo.jpg")
    assert "photo.jpg" in str(error.value)
    with pytest.raises((ValueError, FileNotFoundError), match="photo.jpg"):
        open_image(tmp_path / "photo.jpg", "photo.jpg of row 3", size=(3, 3))


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    from helpers.tiny_models import tiny_model

    from decodetr import DeCoDetrImageProcessor

    folder = tmp_path_factory.mktemp("detector")
    tiny_model(names=["cat"]).save_pretrained(folder)
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def test_predict_names_every_hostile_file_and_does_the_rest(tmp_path, detector, capsys):
    (tmp_path / "in").mkdir()
    for number, (make, _) in enumerate(HOSTILE.values()):
        make(tmp_path / "in" / f"{number:02}.jpg")
    Image.new("RGB", (30, 20)).save(tmp_path / "in" / "good.png")
    words = ["predict", str(tmp_path / "in"), "--model", str(detector), "--output", str(tmp_path / "out")]
    assert main([*words, "--device", "cpu"]) == 1
    report = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [Path(entry["file"]).name for entry in report["images"]] == ["good.png"]
    folder = list(HOSTILE).index("a folder")  # is a sub-folder, in which nobody looks
    assert len(report["failed"]) == len(HOSTILE) - 1
    for entry, (case, (_, message)) in zip(report["failed"], [e for e in HOSTILE.items() if e[0] != "a folder"]):
        assert message in entry["error"] and entry["file"] in entry["error"], case
    error = capsys.readouterr().err
    assert "Traceback" not in error and f"{folder:02}.jpg" not in error


def test_hostile_files_in_a_data_set_are_errors_in_training_and_findings_of_validate(tmp_path, capsys):
    from helpers.broken_data import good, training_says, write

    for number, case in enumerate(HOSTILE):
        folder = write(tmp_path / str(number), good())
        (folder / "train" / "1.png").unlink()
        HOSTILE[case][0](folder / "train" / "1.png")
        assert "1.png" in training_says(folder), case
        assert main(["validate", str(folder), "--names-split", "none"]) == 1
        printed = capsys.readouterr().out
        assert "1.png" in printed and ("cannot be read" in printed or "not there" in printed), case


def test_no_decoder_of_another_program_is_ever_started(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    def fail(*args, **options):
        raise AssertionError("Ghostscript")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", fail)
    (tmp_path / "a.jpg").write_bytes(_eps())
    with pytest.raises(ValueError, match="a.jpg"):
        open_image(tmp_path / "a.jpg")


def test_the_limit_of_pixels_is_an_option_for_one_command(tmp_path, detector, monkeypatch, capsys):
    monkeypatch.setattr(images, "MAX_PIXELS", 500)
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    words = ["predict", str(tmp_path / "a.png"), "--model", str(detector), "--output", str(tmp_path / "out")]
    assert main([*words, "--device", "cpu"]) == 1
    assert "30 x 20 pixels, more than the 500 pixels" in capsys.readouterr().err
    assert main([*words, "--device", "cpu", "--max-image-pixels", "600"]) == 0
    assert "DECODETR_MAX_IMAGE_PIXELS" not in os.environ
    monkeypatch.setenv("DECODETR_MAX_IMAGE_PIXELS", "600")
    assert open_image(tmp_path / "a.png").size == (30, 20)
    with pytest.raises(SystemExit):
        main([*words, "--max-image-pixels", "0"])


def test_opening_changes_nothing_of_the_process(tmp_path, monkeypatch):
    """Threads of others have Pillow's limit and filters of warnings of their own."""
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    opened, seen = Image.open, []

    def watched(*args, **more):
        seen.append((list(warnings.filters), Image.MAX_IMAGE_PIXELS))
        return opened(*args, **more)

    monkeypatch.setattr(Image, "open", watched)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # a user's, below ours
    before = list(warnings.filters)
    assert open_image(tmp_path / "a.png").size == (30, 20) and seen == [(before, 1000)]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(images.TooManyPixels, match="600 pixels.*, more than the 400 pixels"):
        open_image(tmp_path / "a.png")
    monkeypatch.setenv("DECODETR_MAX_IMAGE_PIXELS", "600")  # asked for, of the process
    assert open_image(tmp_path / "a.png").size == (30, 20) and Image.MAX_IMAGE_PIXELS == 600


def test_a_warning_of_pillow_that_is_an_error_is_too_many_pixels(tmp_path, monkeypatch):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with warnings.catch_warnings(), pytest.raises(images.TooManyPixels, match="a.png: .*600 pixels"):
        warnings.simplefilter("error")
        open_image(tmp_path / "a.png")


def test_large_pictures_are_taken_one_at_a_time():
    pixels = {"a": 1, "b": 40 << 20, "c": 40 << 20, "d": 20 << 20, "e": 1, "f": 1, "g": 1, "h": 1}
    assert list(in_batches(list(pixels), 4, pixels.get)) == [["a", "b"], ["c", "d", "e", "f"], ["g", "h"]]
    assert list(in_batches([], 4, pixels.get)) == []


_MEASURE = """
import resource, sys
from decodetr.cli import main
status = main(["predict", *sys.argv[1:]])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert status == 0 and peak < 2 << 20, (status, peak)
"""


@pytest.mark.slow
def test_three_of_the_largest_pictures_need_less_than_2_gigabytes(tmp_path, detector):
    row = b"\0" + b"\x60" * (3 * 8192)
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(_png(8192, 8192, row * 8192))
    words = [str(tmp_path / f"{name}.png") for name in "abc"]
    words += ["--model", str(detector), "--output", str(tmp_path / "out"), "--device", "cpu", "--threshold", "0"]
    done = subprocess.run([sys.executable, "-c", _MEASURE, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# The only opener


def _calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr, ast.unparse(node.func), node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id, node.func.id, node


_EXAMPLES = "modeling_decodetr/image_encoder.py"
_ALONE = "modeling_decodetr/zero_shot_pipeline.py"  # runs where there is no decodetr, and opens as the library does


def test_nothing_else_opens_a_picture_or_clips_one():
    assert len(sources()) > 100
    wrong = []
    for name, tree in sources().items():
        for attribute, text, node in _calls(tree):
            opens = attribute in ("imread", "load_image", "decode_image", "decode_jpeg", "imdecode", "frombytes")
            opens |= text.endswith(("Image.open", "io.read_image", "image.open_file"))
            if opens and name not in ("utils/images.py", _ALONE):
                wrong.append(f"{name}:{node.lineno}: {text} instead of utils.images.open_image")
            # The model room cannot import picture_modes.py, and takes examples of 8 bits alone.
            if attribute == "convert" and name not in ("processing/picture_modes.py", _EXAMPLES, _ALONE):
                wrong.append(f"{name}:{node.lineno}: {text} instead of processing.picture_modes.to_rgb")
    assert not wrong, "\n".join(wrong)


def test_one_list_of_suffixes():
    assert all(map(is_image, ["a.JPG", "b.jfif", "c.avif", "d.mpo", "e.jp2", "f.gif", "g.ppm", "h.jpe", "i.tiff"]))
    assert not any(map(is_image, ["a", "b.txt", "c.eps", "d.svg", ".jpg"]))
