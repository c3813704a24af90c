"""Cached features on the disk: resumed, reused, shared, projected, and refused where they cannot be."""

import pickle
import shutil

import pytest
import torch
from helpers.trainings import make_parts, make_trainer, same_state, state_of, train_command
from PIL import Image
from torch.utils.data import DataLoader

from decodetr.cli import main
from decodetr.processing import detection_collate
from decodetr.training.features import feature_building
from decodetr.training.features.feature_cache import FeatureCache, feature_collate
from decodetr.training.features.feature_shards import ShardFolder
from decodetr.utils.documents import read_json


@pytest.fixture(scope="module")
def parts(scenes):
    """Model and data set."""
    model, dataset, *_ = make_parts(scenes)
    return model, dataset


@pytest.fixture
def build(parts, tmp_path, monkeypatch):
    """Builds a cache of shards of four images in a folder, for a twelve-image data set in one view."""
    monkeypatch.setattr(feature_building, "_SHARD_IMAGES", 4)

    def build(folder="cache", **options):
        model, dataset = parts
        return FeatureCache.build(
            model, dataset, detection_collate, **{"batch_size": 4, "folder": folder and tmp_path / folder, **options}
        )

    return build


@pytest.fixture
def looked(parts, monkeypatch):
    """How many images the detector has looked at, in each call."""
    model, seen = parts[0], []
    extract = model.extract_semantic_features
    monkeypatch.setattr(
        model,
        "extract_semantic_features",
        lambda pixel_values, **more: seen.append(len(pixel_values)) or extract(pixel_values, **more),
    )
    return seen


def same_items(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        assert a.keys() == b.keys() and len(a["samples"]) == len(b["samples"])
        assert all(torch.equal(x, y) for x, y in zip(a.pop("samples"), b.pop("samples")))
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_killed_build_goes_on_where_it_was(build, looked, monkeypatch):
    whole = build("whole", views=2)
    made, write = [], ShardFolder.write

    def killed(self, shard, items, places):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(shard)
        write(self, shard, items, places)

    monkeypatch.setattr(ShardFolder, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        build(views=2)
    made[:] = [0]
    del looked[:]
    with pytest.raises(KeyboardInterrupt):
        build(views=2)
    monkeypatch.setattr(ShardFolder, "write", write)
    cache = build(views=2)
    # The first shard of the killed run is made again with none of those that it had finished.
    assert looked == [4] * 2 + [4] * 3
    files = sorted(file.name for file in whole.folder.glob("features-*"))
    assert len(files) == 6 and files[0] == "features-00000-of-00006.safetensors"
    assert all((whole.folder / name).read_bytes() == (cache.folder / name).read_bytes() for name in files)
    same_items(whole, cache)


def test_a_finished_cache_serves_again_and_a_damaged_shard_is_made_again(build, looked, caplog):
    cache = build()
    assert looked == [1, 4, 4, 4]  # one says what a query takes
    del looked[:]
    same_items(cache, build())
    assert looked == []
    file = cache.folder / "features-00001-of-00003.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    assert build().num_bytes == cache.num_bytes and looked == [4] and file.read_bytes() == content
    assert "is cut off or changed" in caplog.text and "2 of 3 shards of cached features are there" in caplog.text
    shutil.copy(cache.folder / "features-00000-of-00003.safetensors", file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"features-00001-of-00003.safetensors: expected a whole shard"):
        cls = FeatureCache.__new__(FeatureCache)
        cls.__dict__.update(cache.__getstate__())
        list(cls)


def test_the_model_keeps_its_modes(build, parts):
    model, _ = parts
    model.train().detector.eval()  # frozen, as a run has it
    modes = [module.training for module in model.modules()]
    build()
    assert [module.training for module in model.modules()] == modes and any(modes)
    model.eval()


def test_features_of_other_data_or_settings_are_refused_or_replaced(build, tmp_path):
    build(source={"annotations": "a"})
    with pytest.raises(ValueError, match='source.annotations: "a" there, "b" here') as error:
        build(source={"annotations": "b"})
    assert "Give another --cache-folder" in str(error.value)
    with pytest.raises(ValueError, match="views: 1 there, 2 here"):
        build(source={"annotations": "a"}, views=2)
    cache = build(source={"annotations": "b"}, own=True)
    assert cache.source == {"annotations": "b"}
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="expected cached features or an empty folder, got other files"):
        build("else", own=True)
    assert (tmp_path / "else" / "thesis.tex").is_file()


def test_features_of_pictures_that_are_there_no_longer_are_refused(scenes, tmp_path):
    """Pictures of the same names and sizes; and data that were copied."""

    def items(data, **options):
        settings = {"streams": "semantic", "cache_features": True, "cache_folder": str(tmp_path / "kept"), **options}
        trainer = make_trainer(data, tmp_path / "run", augment=False, **settings)
        assert "contents of pictures" not in trainer.identity()["data"]  # else a checkpoint would be refused
        return trainer.train_dataset

    copied, shard = shutil.copytree(scenes, tmp_path / "copied"), "features-00000-of-00001.safetensors"
    queries = items(scenes)[0]["queries"].clone()
    made = (tmp_path / "kept" / shard).stat().st_mtime_ns
    assert torch.equal(items(copied)[0]["queries"], queries)
    assert (tmp_path / "kept" / shard).stat().st_mtime_ns == made  # served again
    for file in (copied / "train").iterdir():
        with Image.open(file) as picture:
            other = Image.new("RGB", picture.size, "red")
        other.save(file)
    with pytest.raises(ValueError, match=r'source.contents of pictures: "\w{12}" there, "\w{12}" here') as error:
        items(copied)
    assert str(error.value).endswith("Give another --cache-folder, or remove this one.")
    shutil.rmtree(tmp_path / "kept")
    assert not torch.equal(items(copied)[0]["queries"], queries)


def test_processes_share_the_shards(build, parts, tmp_path, monkeypatch):
    alone = build("alone")
    model, dataset = parts
    builders = [
        feature_building.FeatureBuilder(model.eval(), dataset, detection_collate, 4, 0, tmp_path / "both")
        for _ in range(2)
    ]
    manifest = alone._shards.manifest
    builders[0].begin(manifest["identity"], own=False, query_bytes=None)
    pending = builders[0].shards.pending()
    monkeypatch.setattr(ShardFolder, "pending", lambda self: pending)  # what both saw at first
    made, write = [], ShardFolder.write
    monkeypatch.setattr(
        ShardFolder,
        "write",
        lambda self, shard, items, places: made.append(shard) or write(self, shard, items, places),
    )
    for rank, builder in enumerate(builders):
        builder.shards.read()
        builder._make(1, rank, 2)
    assert made == [0, 2, 1]
    builders[0].shards.finish()
    same_items(alone, FeatureCache(tmp_path / "both"))


def test_a_cache_is_read_by_loader_workers_and_travels_without_its_content(build):
    cache = build()
    loaded = DataLoader(cache, batch_size=5, num_workers=2, collate_fn=feature_collate)
    batches = [batch["semantic_features"] for batch in loaded]
    assert torch.equal(torch.cat([b["queries"] for b in batches]), torch.cat([i["queries"] for i in cache]).float())
    content = pickle.dumps(cache)
    assert len(content) < 3000 < cache.num_bytes
    same_items(cache, pickle.loads(content))
    with pytest.raises(IndexError):
        cache[len(cache)]


def test_a_temporary_cache_goes_with_its_object(build):
    cache = build(folder=None)
    folder = cache.folder
    assert folder.is_dir() and len(cache) > 1
    item = cache[0]
    del cache
    assert not folder.exists() and item["queries"].isfinite().all()  # what is read stays


def test_embeddings_lose_nothing(build, parts):
    model, dataset = parts
    model.eval()
    labels = [dataset.without_augmentation()[i] for i in range(4)]
    batch = detection_collate(labels)
    found = model.extract_semantic_features(**batch)
    for item, kept in zip([item for item in found if len(item["queries"])], build()):
        assert torch.equal(item["region_embeds"], kept["region_embeds"].float())
        assert torch.equal(item["queries"].half(), kept["queries"])
        assert all(torch.equal(a.half(), b) for a, b in zip(item["samples"], kept["samples"]))


def test_no_room_is_said_before_the_work(build, looked, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    with pytest.raises(ValueError, match=r"10\.0 kB are free there; give --cache-query-bytes \d+") as error:
        build(views=2)
    assert looked == [1]
    assert "cached features of 24 images (12 in 2 views), with about" in str(error.value)
    assert "--cache-views 1, --cache-folder on another disk, or leave out --cache-features" in str(error.value)


# Coding


def test_a_coded_cache_fits_its_budget_and_trains_an_ordinary_model(scenes, tmp_path, caplog):
    raw = make_trainer(scenes, tmp_path / "raw", augment=False, streams="semantic", cache_features=True).train_dataset
    settings = {"streams": "semantic", "cache_features": True, "cache_query_bytes": 700, "learning_rate": 1e-2}
    trainer = make_trainer(scenes, tmp_path / "run", augment=False, ema_decay=0.5, **settings)
    cache, model = trainer.train_dataset, trainer.model
    summary = read_json(cache.folder / "manifest.json")["coded"]
    sizes = summary["channels of each map, before and after"]
    assert [part.shape[1] for part in cache.coding.decode(cache[0]["samples"])] == [after for _, after in sizes]
    assert [part.shape[1] for part in raw[0]["samples"]] == [before for before, _ in sizes]
    assert sum(after for _, after in sizes) < sum(before for before, _ in sizes)
    assert all(0 < share <= 1 for share in summary["share of the variance that is kept"])
    assert "15 of 16, 23 of 24 channels in" in caplog.text
    tensors = cache._shards.open(0)
    rows = [tensors[name] for name in ("samples.0", "queries", "region_embeds", "name_index")]
    assert len(tensors["index"]) == len(cache) and tensors["samples.0"].dtype == torch.uint8
    assert 650 < sum(part.numel() * part.element_size() for part in rows) / cache.num_queries <= 700
    before = state_of(model.semantic_stream)
    trainer.train()
    projections = [name for name in before if name.startswith("region_pooling.projections") and "weight" in name]
    for name, (_, basis) in zip(projections, cache.coding.bases):
        weight = model.semantic_stream.state_dict()[name].flatten(1)
        basis = basis / basis.norm(dim=0)
        assert torch.allclose(weight @ basis @ basis.T, weight, atol=1e-6)
        assert not torch.allclose(before[name].flatten(1) @ basis @ basis.T, weight, atol=1e-4)
    # The model, saved or not, gives on images what it gives on the decoded samples, which have nearly eight bits.
    model.eval()
    items = [cache[i] for i in range(4)]
    features = cache.coding.read(feature_collate(items)["semantic_features"])
    dataset = make_parts(scenes, augment=False)[1]
    images = detection_collate([dataset[i] for i in cache._shards.open(0)["index"][:4].tolist()])
    with pytest.raises(ValueError, match=r"samples'\]\[0\] has \d+ channels, expected \d+: projected samples need"):
        model(semantic_features={name: value for name, value in features.items() if name != "bases"})
    cached, direct = model(semantic_features=features).loss_dict, model(**images).loss_dict
    for name in ("loss_align", "loss_distill"):
        assert cached[name].item() == pytest.approx(direct[name].item(), rel=2e-3)
    again = make_trainer(scenes, tmp_path / "run", augment=False, ema_decay=0.5, **settings)
    again.train()  # over the cache that is there
    assert same_state(state_of(again.model), state_of(model))


def test_large_data_are_coded_and_small_ones_are_not(build, monkeypatch, caplog):
    raw = build("raw")
    assert raw.coding is None
    bytes_of_one = read_json(raw.folder / "manifest.json")["bytes of a query"]
    monkeypatch.setattr(feature_building, "QUERY_BYTES", bytes_of_one - 300)
    assert build("small").coding is None
    monkeypatch.setattr(feature_building, "MOST_RAW", 10_000)
    large = build("large")
    assert large.coding is not None
    assert read_json(large.folder / "manifest.json")["bytes of a query"] <= bytes_of_one - 300
    assert build("enough", query_bytes=bytes_of_one).coding is None
    assert "of the variance of a map" not in caplog.text
    monkeypatch.setattr(feature_building, "_ENOUGH_VARIANCE", 1.0)
    build("little", query_bytes=bytes_of_one - 300)
    assert f"--cache-query-bytes above {bytes_of_one - 300} keeps more" in caplog.text


def test_the_command_keeps_features_where_it_is_told_to(scenes, tmp_path, caplog):
    words = ["--streams", "semantic", "--cache-features", "true", "--max-steps", "2", "--val-annotations", "none"]
    words += ["--save-strategy", "no", "--no-augmentation", "--per-device-eval-batch-size", "4"]
    assert main(train_command(scenes, tmp_path / "a", *words)) == 0
    assert not (tmp_path / "a" / "_features").exists() and (tmp_path / "a" / "model.safetensors").is_file()
    kept = ["--cache-folder", str(tmp_path / "kept")]
    assert main(train_command(scenes, tmp_path / "b", *words, *kept)) == 0
    times = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "kept").glob("features-*")}
    assert times
    assert main(train_command(scenes, tmp_path / "c", *words, *kept, "--semantic-learning-rate", "1e-2")) == 0
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "kept").glob("features-*")} == times
