"""`decodetr pool build` from end to end on tiny teachers: what it writes, that it repeats to the byte and knows
nothing of novel annotations, and its errors. Also `decodetr train`'s side of the names split."""

import json

import pytest
import torch
from helpers.pool_builds import FILES, build_command, read_regions
from helpers.pool_data import BASE, NOVEL, write_data
from helpers.tiny_models import tiny_model
from safetensors.torch import load_file

from decodetr import PrototypePool
from decodetr.cli import main
from decodetr.pool_builder.crops import crop_region
from decodetr.pool_builder.embedder import ClipEmbedder
from decodetr.processing import RegionTable, read_image


@pytest.fixture(scope="module")
def built(tmp_path_factory, models):
    folder = tmp_path_factory.mktemp("built")
    assert main(build_command(write_data(folder / "data"), models, folder / "out")) == 0
    return folder


def test_regions_say_what_the_teachers_say(built, models):
    rows = read_regions(built / "out")
    assert len(rows) > 20 and 0 < sum(row["kept"] for row in rows) < len(rows)
    embedder = ClipEmbedder(models / "clip")
    for row in rows[::5]:
        image = read_image(built / "data" / "train" / row["file_name"])
        image_embed = embedder.embed_images([crop_region(image, row["box"], 16)])[0]
        text_embed = embedder.embed_texts([row["caption"]])[0]
        assert row["image_embed"] == pytest.approx(image_embed, abs=1e-3)
        assert row["text_embed"] == pytest.approx(text_embed, abs=1e-3)
        assert row["clip_score"] == pytest.approx(image_embed @ text_embed, abs=1e-3)
    assert all(row["kept"] == (row["clip_score"] > -0.25) for row in rows)
    assert len(RegionTable.load(built / "out" / "regions")) == sum(row["kept"] for row in rows)


def test_pool_stands_for_the_kept_captions(built, models):
    pool = PrototypePool.from_pretrained(built / "out" / "pool")
    kept = [row for row in read_regions(built / "out") if row["kept"]]
    fine = pool.level == 1
    assert (int((~fine).sum()), int(fine.sum())) == (5, 3) and set(pool.captions) <= {row["caption"] for row in kept}
    assert int(pool.count[~fine].sum()) == len(kept)
    assert (pool.count[fine] <= pool.count[pool.parent[fine]]).all()
    texts = torch.tensor([row["text_embed"] for row in kept])
    nearest = (texts @ pool.prototypes[~fine].T).argmax(1)
    counts = torch.bincount(nearest, minlength=5)
    assert counts.tolist() == pool.count[~fine].tolist()
    for cluster in range(5):
        mean = torch.nn.functional.normalize(texts[nearest == cluster].sum(0), dim=0)
        assert torch.allclose(mean, pool.prototypes[cluster], atol=2e-3)
    model = tiny_model(embedding_dim=8)
    model.set_pool(pool)
    assert len(model.prototype_pool) == 8


def test_provenance_has_no_places(built, models):
    info = PrototypePool.from_pretrained(built / "out" / "pool").info
    rows = read_regions(built / "out")
    assert (info["encoder"], info["captioner"], info["proposer"]) == ("clip", "llava", "detector")
    assert info["encoder_fingerprint"] == ClipEmbedder(models / "clip").info["encoder_fingerprint"]
    assert info["proposer_training_info"] == {"training_names": BASE, "pretrained_detector": "detector"}
    assert info["annotated_names"] == BASE and info["delta"] == -0.25 and info["seed"] == 0 and info["eps"] > 0
    assert info["prompt"] == "Describe the object in this image in a few words."
    assert info["regions"] == len(rows) and info["kept"] == sum(row["kept"] for row in rows)
    assert info["distinct_captions"] == len({row["caption"] for row in rows if row["kept"]})
    assert str(built) not in (built / "out" / "pool" / "pool.json").read_text()
    stages = ["captions", "clusters", "embeddings", "proposals", "regions", "texts"]
    assert sorted(path.name for path in (built / "out").iterdir()) == sorted(
        [*stages, "pool", "report.json", "spent.json"]
    )
    for file in (built / "out").rglob("*.json"):
        assert str(built) not in file.read_text()


@pytest.mark.parametrize("novel", ["present", "absent", "scrambled"])
def test_every_byte_repeats_whatever_the_novel_annotations_are(built, models, tmp_path, novel):
    assert main(build_command(write_data(tmp_path / "data", novel), models, tmp_path / "out")) == 0
    for file in FILES:
        assert (tmp_path / "out" / file).read_bytes() == (built / "out" / file).read_bytes(), file


def test_without_the_split_all_names_count(built, models, tmp_path, capsys):
    command = build_command(built / "data", models, tmp_path / "out", "--names-split", "none", "--max-proposals", "0")
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("40 regions, ")  # 10 images with 4 annotated boxes each
    assert PrototypePool.from_pretrained(tmp_path / "out" / "pool").info["annotated_names"] == [
        "cat",
        "cup",
        "dog",
        "yak",
    ]


def test_other_settings_are_refused_with_the_difference_or_made_again(built, models, tmp_path, capsys):
    command = build_command(built / "data", models, tmp_path / "out", "--max-proposals", "0")
    assert main(command) == 0
    first = (tmp_path / "out" / FILES[2]).read_bytes()
    assert main(command) == 0 and (tmp_path / "out" / FILES[2]).read_bytes() == first
    capsys.readouterr()
    assert main([*command, "--seed", "1"]) == 1
    error = capsys.readouterr().err
    assert "clusters was made with other settings or data:\n  seed: 0 then, 1 now\nchoose another" in error
    proposed = (tmp_path / "out" / "proposals" / "proposals-00000-of-00001.parquet").stat().st_mtime_ns
    assert main([*command, "--overwrite", "--seed", "1"]) == 0
    assert json.loads((tmp_path / "out" / FILES[2]).read_text())["seed"] == 1 != json.loads(first)["seed"]
    assert (tmp_path / "out" / "proposals" / "proposals-00000-of-00001.parquet").stat().st_mtime_ns == proposed
    assert len(read_regions(tmp_path / "out")) == 20
    (tmp_path / "foreign" / "captions").mkdir(parents=True)
    (tmp_path / "foreign" / "captions" / "mine.txt").write_text("precious")
    assert main(build_command(built / "data", models, tmp_path / "foreign")) == 1
    assert "got files without manifest.json" in capsys.readouterr().err
    assert (tmp_path / "foreign" / "captions" / "mine.txt").exists()


def _empty(data, _):
    file = data / "annotations" / "train.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "annotations": []}))


def _no_clip(_, models):
    return ["--clip", str(models / "llava")]


def _no_llava(_, models):
    return ["--captioner", str(models / "clip")]


ERRORS = {
    "no region": (_empty, ["got none: no annotated box of the 2 names", "--detector"]),
    "none kept": (
        lambda *_: ["--delta", "0.99"],
        ["above 0.99, got none of 20: minimum", "median", "maximum", "lower --delta"],
    ),
    "captioner as CLIP": (_no_clip, ["holds a Llava", "expected a model with text features such as CLIPModel"]),
    "CLIP as captioner": (_no_llava, ["AutoModelForImageTextToText"]),
    "missing CLIP": (lambda *_: ["--clip", "no-such-clip"], ["the CLIP 'no-such-clip' cannot be loaded"]),
    "missing split": (lambda *_: ["--names-split", "none.json"], ["none.json: no such file"]),
    "setting": (lambda *_: ["--num-fine", "-1"], ["--num-fine must be at least 0, got -1"]),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_name_the_remedy(models, tmp_path, capsys, case):
    spoil, messages = ERRORS[case]
    data = write_data(tmp_path / "data")
    more = spoil(data, models) or []
    command = build_command(data, models, tmp_path / "out")
    at = command.index("--detector")
    assert main([*command[:at], *command[at + 2 :], *more]) == 1
    error = capsys.readouterr().err
    assert "decodetr pool: error:" in error and all(message in error for message in messages), error
    assert not (tmp_path / "out" / "pool").exists()


def _train(data, models, output, *more):
    command = [
        "train", "--data", str(data), "--model", str(models / "detector"), "--output_dir", str(output),
        "--max_steps", "1", "--per_device_train_batch_size", "3", "--report_to", "none", "--use_cpu", "true",
        "--dataloader_pin_memory", "false", *more,
    ]  # fmt: skip
    assert main(command) == 0
    return load_file(output / "model.safetensors"), json.loads((output / "config.json").read_text())


def test_training_does_not_know_novel_annotations(models, tmp_path):
    runs = {}
    for novel in ("present", "absent", "scrambled"):
        runs[novel] = _train(write_data(tmp_path / novel / "data", novel), models, tmp_path / novel / "run")
    weights, config = runs["present"]
    assert config["training_info"]["training_names"] == BASE
    assert len(config["id2label"]) == 4  # deployed with all the names of the model
    for novel in ("absent", "scrambled"):
        assert all(torch.equal(weights[name], tensor) for name, tensor in runs[novel][0].items())
    whole, config = _train(tmp_path / "present/data", models, tmp_path / "whole", "--names-split", "none")
    assert config["training_info"]["annotated_names"] == ["cat", "cup", "dog", "yak"]
    assert config["training_info"]["training_names"] == BASE + NOVEL  # in the order of the model
    assert any(not torch.equal(weights[name], tensor) for name, tensor in whole.items())
