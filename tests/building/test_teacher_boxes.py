"""What the teacher sees where nobody has drawn a box, and how much of it a detector finds."""

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_model

from decodetr.building import coverage as coverage_module
from decodetr.building import teacher_boxes as boxes_module
from decodetr.building.coverage import coverage, coverage_text
from decodetr.building.teacher_boxes import teacher_boxes, teacher_names
from decodetr.processing.regions import RegionTable, write_regions

DIM = 16


def _regions(folder, rows):
    """A table of (image_id, box, objectness, row of the identity that is the embedding, CLIP score)."""
    unit = np.eye(DIM, dtype=np.float32)
    write_regions(
        folder,
        [
            {
                "image_id": image, "file_name": "x.jpg", "box": box, "proposal_score": score, "caption": "c",
                "image_embed": unit[kind], "text_embed": unit[kind], "clip_score": clip, "kept": True,
            }
            for image, box, score, kind, clip in rows
        ],
    )  # fmt: skip
    return RegionTable.load(folder)


@pytest.fixture
def named(monkeypatch):
    """Names by the embedding: kind 0 and 1 are the first and second name for sure, all else is background."""
    model = tiny_model(names=["cat", "dog"]).eval()

    def names(model, embeds):
        kind = torch.from_numpy(embeds).argmax(-1)
        return kind.clamp(max=1), (kind < 2).float() * 0.9

    for module in (coverage_module, boxes_module):
        monkeypatch.setattr(module, "teacher_names", names)
    return model


def test_boxes_of_the_teacher_are_certain_named_and_said_once(named, tmp_path):
    rows = [
        (1, [0, 0, 10, 10], 0.8, 0, 0.3),
        (1, [0, 0, 10, 11], 0.6, 0, 0.3),  # the same thing
        (1, [20, 20, 30, 40], 0.5, 1, 0.3),
        (1, [40, 0, 50, 10], 0.3, 1, 0.3),  # less than half of the median best objectness, 0.7
        (1, [60, 0, 70, 10], 0.8, 5, 0.3),  # background
        (2, [0, 0, 10, 10], 0.6, 1, 0.3),  # of an image that is not asked for
    ]
    found = teacher_boxes(named, _regions(tmp_path / "r", rows), [1, 3])
    assert [(row["id"], row["image_id"], row["category_id"], row["bbox"]) for row in found] == [
        (1, 1, 1, [0, 0, 10, 10]),
        (2, 1, 2, [20, 20, 10, 20]),
    ]
    assert [row["area"] for row in found] == [100, 200]


def test_a_window_is_found_by_a_named_region_in_it_or_around_it(named, tmp_path):
    _regions(
        tmp_path / "grid",
        [
            (1, [0, 0, 20, 20], 0.5, 0, 0.3),  # has a region in it
            (1, [40, 0, 60, 20], 0.5, 1, 0.3),  # has one around it
            (1, [0, 40, 20, 60], 0.5, 1, 0.3),  # has one that is background
            (1, [40, 40, 60, 60], 0.5, 0, 0.1),  # whose caption does not fit: does not count
            (1, [60, 60, 80, 80], 0.5, 7, 0.3),  # shows nothing with a name
        ],
    )
    _regions(
        tmp_path / "own",
        [
            (1, [2, 2, 8, 8], 0.9, 1, 0.2),
            (1, [30, 0, 80, 30], 0.9, 1, 0.2),
            (1, [0, 40, 20, 60], 0.9, 9, 0.2),
            (1, [100, 0, 120, 20], 0.9, 9, 0.25),
        ],
    )
    found = coverage(named, tmp_path / "grid", tmp_path / "own")
    assert found == {
        "photos": 1, "things": 3, "found": 2, "share": 2 / 3, "missed": [{"name": "dog", "windows": 1}]
    }  # fmt: skip
    assert "finds 67 % of what the teacher sees in windows of 1 photos (2 of 3). Missed most: 'dog'." in coverage_text(
        found
    )
    assert "nothing that could be looked for" in coverage_text({**found, "share": None})


def test_the_share_of_names_is_what_the_background_leaves():
    model = tiny_model(names=["cat", "dog"]).eval()
    embeds = torch.nn.functional.normalize(torch.randn(5, DIM, generator=torch.Generator().manual_seed(0)), dim=-1)
    names, share = teacher_names(model, embeds.numpy())
    assert names.shape == share.shape == (5,) and set(names.tolist()) <= {0, 1}
    assert ((share > 0) & (share <= 1)).all()
    name, _ = teacher_names(model, model.vocabulary.embeddings.numpy())
    assert name.tolist() == [0, 1], "its own name is the likeliest"
