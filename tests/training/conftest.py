"""Data, models and teachers of the training tests. What is made once for a whole session is read, never changed."""

import json
import shutil

import pytest
import torch
import yaml
from helpers.pool_data import BASE, NOVEL, WHOLE, write_data
from helpers.settings_runs import region_row
from helpers.tiny_models import tiny_config, tiny_model
from helpers.tiny_teachers import write_tiny_clip
from standin import write_standin

from decodetr import DeCoDetrImageProcessor, PrototypePool, Vocabulary
from decodetr.processing import CocoAnnotations
from decodetr.processing.regions import write_regions
from decodetr.scenes.world import SceneSettings
from decodetr.scenes.write import write_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A dozen scenes with the stand-in's artifacts (d = 16)."""
    folder = tmp_path_factory.mktemp("scenes") / "data"
    write_scenes(folder, SceneSettings(train=12, val=6, test=1, image_size=64, seed=1))
    write_standin(folder, folder / "standin", dim=16)
    return folder


@pytest.fixture(scope="session")
def one_step(tmp_path_factory):
    """`decodetr train` of one step on a few scenes, without starting point and output."""
    folder = tmp_path_factory.mktemp("start")
    data = folder / "data"
    write_scenes(data, SceneSettings(train=8, val=1, test=1, image_size=64, seed=1))
    write_standin(data, data / "standin", dim=16)
    fields = tiny_config().to_dict()
    kept = ("detector_config", "embedding_dim", "semantic_hidden_dim", "region_channels", "region_grid")
    config = {**{name: fields[name] for name in kept}, "preprocessing": {"size": {"height": 64, "width": 64}}}
    (data / "config.yaml").write_text(yaml.safe_dump(config))
    options = {
        "--data": data,
        "--pool": data / "standin/pool",
        "--vocabulary": data / "standin/vocabulary-base",
        "--regions": data / "standin/regions",
        "--val-annotations": "none",
        "--max_steps": 1,
        "--per_device_train_batch_size": 4,
        "--report_to": "none",
    }
    return ["train", *(str(word) for pair in options.items() for word in pair)]


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Data with base and novel names, a CLIP, and a model whose names and pool that CLIP made."""
    folder = tmp_path_factory.mktemp("world")
    data = write_data(folder / "data")
    write_tiny_clip(folder / "clip")
    names = Vocabulary.from_text_model([*BASE, *NOVEL], str(folder / "clip"))
    model = tiny_model(names=[*BASE, *NOVEL], embedding_dim=names.embedding_dim, num_coarse_prototypes=4,
                       num_fine_prototypes=0)  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    pool = PrototypePool.random(4, 0, names.embedding_dim, generator)
    pool.info = {key: names.info[key] for key in ("encoder", "encoder_fingerprint")}
    model.set_pool(pool, names)
    model.config.training_info = {"training_names": list(BASE)}
    model.save_pretrained(folder / "model")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "model")
    coco = CocoAnnotations.load(data / "annotations/train.json")
    ids = [image["image_id"] for image in coco.images]
    (folder / "captions.json").write_text(
        json.dumps({"annotations": [{"image_id": i, "caption": f"a {NOVEL[0]} number {i}"} for i in ids]})
    )
    labels = json.loads((data / "annotations/train.json").read_text())  # one name is in each image, and no other
    labels["annotations"] = [{"image_id": i, "category_id": labels["categories"][-1]["id"]} for i in ids]
    (folder / "labels.json").write_text(json.dumps(labels))
    # The whole of every image is a region.
    embeds = torch.nn.functional.normalize(torch.randn(len(ids), names.embedding_dim, generator=generator), dim=-1)
    write_regions(folder / "regions", (region_row(*pair) for pair in zip(coco.images, embeds.tolist())))
    return folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A CLIP of width 8."""
    folder = tmp_path_factory.mktemp("clip")
    write_tiny_clip(folder)
    return folder


@pytest.fixture(scope="module")
def two_clips(tmp_path_factory):
    """Data, two CLIPs of widths 8 and 12, and a model, a pool and a vocabulary of the first."""
    folder = tmp_path_factory.mktemp("preflight")
    data = write_data(folder / "data")
    shutil.copytree(data / "train", data / "val")
    document = json.loads((data / "annotations/train.json").read_text())
    (data / "annotations/val.json").write_text(json.dumps(document))
    for name, width in (("clip", 8), ("other-clip", 12)):
        write_tiny_clip(folder / name, dim=width)
    names = Vocabulary.from_text_model(WHOLE, str(folder / "clip"))
    names.save_pretrained(folder / "vocabulary")
    names.select(BASE).save_pretrained(folder / "base")
    Vocabulary.from_text_model(WHOLE, str(folder / "other-clip")).save_pretrained(folder / "other-vocabulary")
    pool = PrototypePool.random(4, 0, 8, torch.Generator().manual_seed(0))
    pool.info = {key: names.info[key] for key in ("encoder", "encoder_fingerprint")}
    pool.save_pretrained(folder / "pool")
    model = tiny_model(names=WHOLE, embedding_dim=8, num_coarse_prototypes=4, num_fine_prototypes=0)
    model.set_pool(pool, names)
    model.save_pretrained(folder / "model")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "model")
    detector = tiny_model("detr").detector
    detector.save_pretrained(folder / "detector")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "detector")
    return folder
