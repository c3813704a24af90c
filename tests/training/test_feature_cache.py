"""Cached features on the disk: resumed, reused, shared, projected, and refused where they cannot be."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from helpers.trainings import make_parts, make_trainer, same_state, state_of, train_command
from sklearn.decomposition import PCA
from torch.utils.data import DataLoader

from decodetr.cli import main
from decodetr.modeling_decodetr.semantic_stream import RegionPooling
from decodetr.processing import detection_collate
from decodetr.training import feature_building
from decodetr.training.feature_cache import FeatureCache, feature_collate
from decodetr.training.feature_projection import Moments, _most, channels_within
from decodetr.training.feature_shards import ShardFolder
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


# Projection


def test_the_projection_is_pca():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator)
    samples = torch.einsum("dc,ncp->ndp", mixing, torch.randn(40, 6, 4, generator=generator)) + 1000.0
    moments = Moments()
    for part in samples.split(7):
        moments.add([part])
    projection = moments.fit(3)
    rows = samples.transpose(1, 2).flatten(0, 1).double().numpy()
    pca = PCA(3).fit(rows)
    ((mean, basis),) = projection.bases
    assert np.allclose(mean, pca.mean_, atol=1e-2)
    assert projection.kept[0] == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-4)
    steps = basis.norm(dim=0)
    assert np.allclose(np.abs(pca.components_ @ (basis / steps).double().numpy()), np.eye(3), atol=1e-3)
    assert np.allclose(steps, 8 * np.sqrt(pca.explained_variance_) / 127, rtol=1e-2)
    (projected,) = projection.project([samples])
    assert projected.dtype == torch.int8
    found = (projected.transpose(1, 2).flatten(0, 1) * steps).numpy()
    assert (np.abs(np.abs(found) - np.abs(pca.transform(rows))) <= 0.5 * steps.numpy() + 2e-2).all()


def test_channels_go_where_the_variance_is():
    assert _most([[0.5, 0.3, 0.2], [0.9, 0.1, 0.0]], 4) == [3, 1]
    assert _most([[0.4, 0.3, 0.3], [0.4, 0.35, 0.25]], 3) == [1, 2]
    assert _most([[1.0, 0.0], [0.6, 0.4]], 2) == [1, 1]
    assert channels_within(1000, 100, points=9, levels=3) == 100
    with pytest.raises(ValueError, match=r"--cache-query-bytes 120: .* take 100 bytes, .* 9; give at least 128"):
        channels_within(120, 100, points=9, levels=3)


def test_weights_in_the_span_read_whole_maps_as_projected_samples():
    torch.manual_seed(0)
    pooling = RegionPooling([5, 8], out_channels=3, grid=2)
    samples = [torch.randn(7, channels, 4) + 2 for channels in (5, 8)]
    moments = Moments()
    moments.add(samples)
    projection = moments.fit(5)
    projected = [part.float() for part in projection.project(samples)]
    assert [part.shape[1] for part in projected] == [len(basis.T) for _, basis in projection.bases]
    # Of any weights: what they say of the samples that the projected ones stand for.
    stand_for = [mean[:, None] + basis @ part for part, (mean, basis) in zip(projected, projection.bases)]
    before = pooling.project_samples(stand_for)
    assert torch.allclose(pooling.project_samples(projected, projection.bases), before, atol=1e-5)
    assert not torch.allclose(pooling.project_samples(samples), before, atol=1e-2)
    # Of weights in the span: what they say of the samples themselves, but for the rounding.
    pooling.restrict(projection.bases)
    whole = pooling.project_samples(samples)
    assert torch.allclose(pooling.project_samples(projected, projection.bases), whole, atol=5e-2)
    exact = [
        (basis / basis.square().sum(0)).T @ (x - mean[:, None]) for x, (mean, basis) in zip(samples, projection.bases)
    ]
    assert torch.allclose(pooling.project_samples(exact, projection.bases), whole, atol=1e-5)


def test_a_projected_cache_fits_its_budget_and_trains_an_ordinary_model(scenes, tmp_path, caplog):
    raw = make_trainer(scenes, tmp_path / "raw", augment=False, streams="semantic", cache_features=True).train_dataset
    settings = {"streams": "semantic", "cache_features": True, "cache_query_bytes": 700, "learning_rate": 1e-2}
    trainer = make_trainer(scenes, tmp_path / "run", augment=False, ema_decay=0.5, **settings)
    cache, model = trainer.train_dataset, trainer.model
    summary = read_json(cache.folder / "manifest.json")["projected"]
    sizes = summary["channels of each map, before and after"]
    assert [part.shape[1] for part in cache[0]["samples"]] == [after for _, after in sizes]
    assert [part.shape[1] for part in raw[0]["samples"]] == [before for before, _ in sizes]
    assert sum(after for _, after in sizes) < sum(before for before, _ in sizes)
    assert all(0 < share <= 1 for share in summary["share of the variance that is kept"])
    assert "channels projected to" in caplog.text
    tensors = [(*item["samples"], item["queries"], item["region_embeds"], item["name_index"]) for item in cache]
    used = sum(part.numel() * part.element_size() for parts in tensors for part in parts)
    assert 650 < used / cache.num_queries <= 700
    before = state_of(model.semantic_stream)
    trainer.train()
    projections = [name for name in before if name.startswith("region_pooling.projections") and "weight" in name]
    for name, (_, basis) in zip(projections, cache.projection.bases):
        weight = model.semantic_stream.state_dict()[name].flatten(1)
        basis = basis / basis.norm(dim=0)
        assert torch.allclose(weight @ basis @ basis.T, weight, atol=1e-6)
        assert not torch.allclose(before[name].flatten(1) @ basis @ basis.T, weight, atol=1e-4)
    # The model, saved or not, gives on images what it gives on the projected samples.
    model.eval()
    items = [cache[i] for i in range(4)]
    features = feature_collate(items)["semantic_features"] | {"bases": cache.bases()}
    dataset = make_parts(scenes, augment=False)[1]
    images = detection_collate([dataset[i] for i in cache._shards.open(0)["index"][:4].tolist()])
    with pytest.raises(ValueError, match=r"samples'\]\[0\] has \d+ channels, expected \d+: projected samples need"):
        model(semantic_features=feature_collate(items)["semantic_features"])
    cached, direct = model(semantic_features=features).loss_dict, model(**images).loss_dict
    for name in ("loss_align", "loss_distill"):
        assert cached[name].item() == pytest.approx(direct[name].item(), rel=2e-3)
    again = make_trainer(scenes, tmp_path / "run", augment=False, ema_decay=0.5, **settings)
    again.train()  # over the cache that is there
    assert same_state(state_of(again.model), state_of(model))


def test_large_data_are_projected_and_small_ones_are_not(build, monkeypatch, caplog):
    raw = build("raw")
    assert raw.projection is None
    bytes_of_one = read_json(raw.folder / "manifest.json")["bytes of a query"]
    monkeypatch.setattr(feature_building, "QUERY_BYTES", bytes_of_one - 300)
    assert build("small").projection is None
    monkeypatch.setattr(feature_building, "MOST_RAW", 10_000)
    large = build("large")
    assert large.projection is not None
    assert read_json(large.folder / "manifest.json")["bytes of a query"] <= bytes_of_one - 300
    assert build("enough", query_bytes=bytes_of_one).projection is None
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
