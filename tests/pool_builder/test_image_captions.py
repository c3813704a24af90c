"""C-OVD (paper 5): captions of whole images are clustered with those of regions: another pool."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers.pool_builds import build_command, bytes_of_files
from helpers.pool_data import BASE, NOVEL, write_data
from helpers.tiny_models import tiny_model

from decodetr import DeCoDetrImageProcessor, PrototypePool, Vocabulary
from decodetr.cli import main
from decodetr.pool_builder.caption_table import CaptionTable
from decodetr.pool_builder.embedder import ClipEmbedder
from decodetr.pool_builder.shards import StageFolder
from decodetr.processing import CocoAnnotations
from decodetr.processing.embedding_columns import embedding_array


def _write(file, rows):
    file.write_text(json.dumps({"annotations": [{"image_id": i, "caption": text} for i, text in rows]}))
    return str(file)


@pytest.fixture(scope="module")
def built(tmp_path_factory, models):
    """Data, their captions, a pool without and one with them."""
    folder = tmp_path_factory.mktemp("captioned")
    data = write_data(folder / "data")
    ids = [image["image_id"] for image in CocoAnnotations.load(data / "annotations/train.json").images]
    rows = [*((i, f"a photo of a {NOVEL[0]}") for i in ids), (ids[0], "zebras beside un café"), (999, "of no image")]
    captions = _write(folder / "captions.json", rows)
    assert main(build_command(data, models, folder / "without")) == 0
    assert main(build_command(data, models, folder / "with", "--image-captions", captions)) == 0
    return folder


def test_captions_of_images_become_prototypes(built, models):
    """The one that all images have weighs most, the one of an image outside of the data is not there."""
    without, joined = (PrototypePool.from_pretrained(built / name / "pool") for name in ("without", "with"))
    images = len(CocoAnnotations.load(built / "data/annotations/train.json").images)
    assert joined.info["image_captions"] == 2 and "image_captions" not in without.info
    assert joined.info["distinct_captions"] == without.info["distinct_captions"] + 2
    coarse = [int(pool.count[pool.level == 0].sum()) for pool in (without, joined)]
    assert coarse[1] == coarse[0] + images + 1  # every caption of every training image, once
    text = torch.from_numpy(ClipEmbedder(models / "clip").embed_texts([f"a photo of a {NOVEL[0]}"]))
    best = [(text @ pool.prototypes.T).max().item() for pool in (without, joined)]
    assert best[1] > best[0] + 0.005 and f"a photo of a {NOVEL[0]}" in joined.captions
    assert (
        bytes_of_files(built / "with")["regions/regions-00000-of-00001.parquet"]
        == bytes_of_files(built / "without")["regions/regions-00000-of-00001.parquet"]
    )


def test_stages_one_by_one_are_the_build(built, models, tmp_path, capsys):
    """Here the two last ones, over what the others made: the same bytes."""
    out = tmp_path / "out"
    assert main(build_command(built / "data", models, out)) == 0
    cluster = ["pool", "cluster", "--num-coarse", "5", "--num-fine", "3", "--output", str(out), "--image-captions"]
    assert main(cluster) == 1
    assert "run `decodetr pool embeddings --image-captions FILE`" in capsys.readouterr().err
    embed = ["pool", "embeddings", "--data", str(built / "data"), "--clip", str(models / "clip"), "--batch-size", "4"]
    captions = ["--image-captions", str(built / "captions.json")]
    assert main([*embed, *captions, "--device", "cpu", "--output", str(out)]) == 0
    assert main(cluster) == 1 and "image_captions: null then" in capsys.readouterr().err
    assert main([*cluster, "--overwrite"]) == 0
    assert bytes_of_files(out) == bytes_of_files(built / "with")
    # Other captions: the pool is no longer made of what is there.
    rows = [
        (image["image_id"], "other") for image in CocoAnnotations.load(built / "data/annotations/train.json").images
    ]
    captions[1] = _write(tmp_path / "other.json", rows)
    capsys.readouterr()
    assert main([*embed, *captions, "--device", "cpu", "--output", str(out), "--overwrite"]) == 0
    assert f"{out / 'clusters'}: made from what is no longer there" in capsys.readouterr().err


def test_a_caption_of_regions_and_images_counts_for_both(tmp_path):
    folder = StageFolder(tmp_path / "image_texts", "image_texts", {}, 1)
    embeds = np.array([[0, 2, 0], [0, 0, 1], [np.nan, 0, 0]], dtype=np.float16)
    columns = {"caption": ["b", "c", "d"], "count": [5, 2, 9], "text_embed": embedding_array(embeds)}
    folder.write(0, pa.table(columns))
    folder.finish()
    regions = StageFolder(tmp_path / "regions", "regions", {}, 1)
    said, kept = ["b", "a", "x", "a", "b", "b", "a", "b"], [True, True, False] + [True] * 5
    vectors = {"a": [1, 0, 0], "b": [0, 1, 0], "x": [0, 0, 4]}
    embeds = embedding_array(np.array([vectors[text] for text in said], dtype=np.float16))
    regions.write(0, pa.table({"caption": said, "kept": kept, "text_embed": embeds}))
    table = CaptionTable.gather(regions, folder, tmp_path)
    assert table.captions.to_pylist() == ["a", "b", "c"] and table.counts.tolist() == [3, 9, 2]
    assert table.embeddings[:].tolist() == np.eye(3).tolist()


def test_captions_of_other_images_are_an_error(built, models, tmp_path, capsys):
    file = _write(tmp_path / "captions.json", [(999, "of no image")])
    assert main(build_command(built / "data", models, tmp_path / "out", "--image-captions", file)) == 1
    assert f"{file}: expected captions of the images of" in " ".join(capsys.readouterr().err.split())
    nowhere = str(tmp_path / "nowhere.json")
    assert main(build_command(built / "data", models, tmp_path / "out", "--image-captions", nowhere)) == 1
    assert f"--image-captions {nowhere}: " in capsys.readouterr().err


@pytest.mark.parametrize("setting, allowed", [("V-OVD", False), ("G-OVD", False), ("C-OVD", True), ("WS-OVD", True)])
def test_a_pool_of_captions_is_for_the_settings_that_allow_them(built, models, tmp_path, capsys, setting, allowed):
    names = Vocabulary.from_text_model([*BASE, *NOVEL], str(models / "clip"))
    model = tiny_model(names=[*BASE, *NOVEL], embedding_dim=8)
    model.set_pool(PrototypePool.from_pretrained(built / "with/pool"), names)
    model.config.training_info = {"training_names": list(BASE)}
    model.save_pretrained(tmp_path / "model")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "model")
    words = [
        "train", "--data", str(built / "data"), "--model", str(tmp_path / "model"), "--setting", setting,
        "--max_steps", "1", "--report_to", "none", "--save_strategy", "no", "--val-annotations", "none",
        "--disable_tqdm", "true", "--use_cpu", "true", "--regions", "none", "--seen", "proposer=none",
    ]  # fmt: skip
    for number, more in enumerate(([], ["--pool", str(built / "with/pool")])):
        out = tmp_path / f"run-{number}"
        assert main([*words, *more, "--output_dir", str(out)]) == int(not allowed)
        said = " ".join(capsys.readouterr().err.split())
        assert (f"captions of whole images are in it, which {setting} forbids" in said) is not allowed
        if allowed:
            assert json.loads((out / "config.json").read_text())["training_info"]["captions"] == "2 in the pool"
