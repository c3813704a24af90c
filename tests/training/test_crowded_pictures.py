"""More objects in a picture than can be found in it are told before the work."""

import json

from helpers.tiny_models import tiny_config
from PIL import Image

from decodetr.annotations.coco import CocoAnnotations
from decodetr.cli import main
from decodetr.training.checks.crowded import crowded


def _coco(folder, part, counts):
    """So many objects in each image, and a crowd."""
    (folder / part).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for n, count in enumerate(counts, 1):
        Image.effect_noise((99, 99), 50 + n).save(folder / part / f"{n}.png")
        images.append({"id": n, "file_name": f"{n}.png", "width": 99, "height": 99})
        annotations += [
            {"image_id": n, "category_id": 1, "bbox": [place % 40, place // 40, 9, 9], "area": 81,
             "iscrowd": int(place == count)}
            for place in range(count + 1)
        ]  # fmt: skip
    annotations = [{"id": n, **row} for n, row in enumerate(annotations, 1)]
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "car"}]}
    (folder / f"annotations/{part}.json").write_text(json.dumps(document))
    return CocoAnnotations.load(folder / f"annotations/{part}.json")


def test_limits_that_pictures_exceed_are_said(tmp_path, capsys):
    config = tiny_config()
    queries = config.detector_config.num_queries
    train = _coco(tmp_path, "train", [queries, queries + 1, queries + 5])
    val = _coco(tmp_path, "val", [100, 101, 150])
    few, many = crowded(config, train, val, None)
    assert f"2 of 3 images have more than {queries} objects, up to {queries + 5}, and the detector finds" in few
    assert f"3 of 3 images have more than {queries} objects, up to 150, and the detector has" in many
    config.detector_config.num_queries = 300
    (kept,) = crowded(config, train, val, None)
    assert "2 of 3 images have more than 100 objects, up to 150, and evaluation keeps 100" in kept
    assert list(crowded(config, train, val, 150)) == list(crowded(config, train, None, None)) == []
    assert main(["validate", str(tmp_path)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "more objects than an evaluation keeps" in line]
    assert len(rows) == 1 and "| 2 | image id 2: 101 objects |" in rows[0]
    assert "num_queries" not in rows[0]
