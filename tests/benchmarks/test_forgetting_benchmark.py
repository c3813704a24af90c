"""benchmarks/forgetting.py: the data that it fine-tunes on."""

import json

import pytest
from forgetting import choose, write_subset

from decodetr.processing import CocoAnnotations
from decodetr.scenes.world import SceneSettings
from decodetr.scenes.write import write_scenes


def test_the_subset_has_the_boxes_of_its_names_alone(tmp_path):
    scenes = write_scenes(tmp_path / "scenes", SceneSettings(train=30, val=4, test=1, image_size=64, seed=1))
    names, split = choose(scenes, 10), json.loads((scenes / "names.json").read_text())
    assert sum(name in split["novel"].values() for name in names) == 5 and names == choose(scenes, 10)
    whole = CocoAnnotations.load(scenes / "annotations/train_full.json")
    shown = {whole.names[row["category"]] for rows in whole.annotations_by_image.values() for row in rows}
    names = sorted(shown)[:7]
    images, boxes = write_subset(scenes, tmp_path / "data", names)
    subset = CocoAnnotations.load(tmp_path / "data/annotations/train.json")
    assert set(subset.names) == set(names) and len(subset.images) == images
    expected = sum(
        whole.names[row["category"]] in names for rows in whole.annotations_by_image.values() for row in rows
    )
    assert sum(map(len, subset.annotations_by_image.values())) == boxes == expected
    assert all(subset.annotations_by_image.values())  # every picture shows one of them
    with pytest.raises(ValueError, match="expected names of the scenes, got \\['a unicorn'\\]"):
        write_subset(scenes, tmp_path / "other", ["a unicorn"])
