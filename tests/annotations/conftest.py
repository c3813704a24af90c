"""The training items that every form of the same data must give."""

import pytest
from helpers.data_forms import items, write_coco

from decodetr.annotations.sources import has_part, kind_of, load_annotations


@pytest.fixture(scope="session")
def expected(tmp_path_factory):
    folder = write_coco(tmp_path_factory.mktemp("coco") / "data")
    assert kind_of(folder) == "coco" and has_part(folder, "train") and not has_part(folder, "val")
    return items(load_annotations(folder, "train"))
