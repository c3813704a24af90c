"""Pictures are told from others of the same names; copies of them are the same."""

import io
import os
import shutil

import datasets
import numpy as np
import pytest
from PIL import Image

from decodetr.annotations.hub_dataset import read_dataset
from decodetr.annotations.picture_digest import READ, picture_digest


def _same(path):
    return path


@pytest.fixture
def files(tmp_path):
    """Many more than are read."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4 * READ):
        (folder / f"{number:04d}.png").write_bytes(bytes([number % 251]) * 40)
    return sorted(map(str, folder.iterdir()))


def test_copies_are_the_same_pictures(files, tmp_path):
    copied = shutil.copytree(os.path.dirname(files[0]), tmp_path / "elsewhere")
    places = sorted(map(str, copied.iterdir()))
    for place in places:
        os.utime(place, (1, 1))
    assert picture_digest(places, _same) == picture_digest(files, _same)
    assert len(picture_digest(files, _same)) == 12


def test_what_tells_pictures_from_others(files):
    """The size of every file, and the bytes of every fourth here."""
    found = [picture_digest(files, _same)]

    def changed(place, content):
        with open(files[place], "rb") as file:
            before = file.read()
        with open(files[place], "wb") as file:
            file.write(content)
        found.append(picture_digest(files, _same))
        with open(files[place], "wb") as file:
            file.write(before)

    changed(1, b"x" * 41)
    changed(4, b"x" * 40)
    changed(2, b"x" * 40)
    assert found[0] == found[3] and len(set(found)) == 3
    os.unlink(files[1])
    assert picture_digest(files, _same) not in found
    assert picture_digest(files[:-1], _same) != picture_digest(files, _same)


def test_few_are_all_read_and_of_large_ones_the_first_megabyte(tmp_path):
    content = np.zeros((1 << 20) + 2, dtype=np.uint8)

    def digest(place):
        changed = content.copy()
        changed[place] = 1
        (tmp_path / "a.bmp").write_bytes(changed.tobytes())
        return picture_digest([str(tmp_path / "a.bmp")], _same)

    assert digest(0) != digest(1) != digest(-1) == digest(-2)


def test_pictures_in_a_data_set(tmp_path):
    def rows(color):
        content = io.BytesIO()
        Image.new("RGB", (16, 16), color).save(content, "PNG")
        Image.new("RGB", (16, 16), color).save(tmp_path / "a.png")
        values = {"image": [{"bytes": content.getvalue(), "path": None}, {"path": str(tmp_path / "a.png")}]}
        values["objects"] = [{"bbox": [[1.0, 1.0, 4.0, 4.0]], "category": ["thing"]}] * 2
        return read_dataset(datasets.Dataset.from_dict(values).cast_column("image", datasets.Image()), "rows")

    red = rows("red").picture_digest()
    assert red == rows("red").picture_digest() != rows("blue").picture_digest()
