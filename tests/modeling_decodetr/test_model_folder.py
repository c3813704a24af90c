"""What a saved model must hold to be loaded, and what may be asked of it then: nothing of it is random, unread or of
other names."""

import contextlib
import copy
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from helpers.tiny_models import NAMES, TINY_DETECTORS, tiny_batch, tiny_config, tiny_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForObjectDetection

from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection, PrototypePool, Vocabulary
from decodetr.modeling_decodetr.detectors import detector_family
from decodetr.modeling_decodetr.model_folder import check_placed

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    model = tiny_model("detr", background_threshold=0.3).eval()
    model.set_vocabulary(model.vocabulary)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def _write_config(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def _write_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


# Names and tables


@pytest.mark.parametrize(
    "fields",
    [
        {"id2label": {0: "forklift", 1: "pallet", 2: "crate"}},
        {"id2label": {0: "forklift"}, "label2id": {"forklift": 0}, "ignore_mismatched_sizes": True},
        {"num_labels": 5, "ignore_mismatched_sizes": True},
        {"label2id": {"forklift": 0}},
        {"prototype_captions": ["a crate"] * 12},
        {"num_coarse_prototypes": 6, "num_fine_prototypes": 6},
        {"pool_info": {"encoder": "other/clip"}},
        {"vocabulary_info": {"encoder": "other/clip"}},
        {"embedding_dim": 8},
        {"preprocessing": {"size": {"height": 32, "width": 32}}},
        {"table_digests": {"a": "b"}},
    ],
)
@pytest.mark.parametrize("loader", [AutoModelForObjectDetection, DeCoDetrForObjectDetection])
def test_fields_that_describe_stored_tables_cannot_be_given(saved, fields, loader):
    with pytest.raises(ValueError, match="cannot be changed while a model is loaded|label2id follows from id2label"):
        loader.from_pretrained(saved, **fields)


def test_a_config_with_other_names_is_refused_with_the_remedy(saved):
    config = AutoConfig.from_pretrained(saved)
    config.id2label = {0: "forklift", 1: "pallet", 2: "crate"}
    with pytest.raises(
        ValueError, match="id2label cannot be changed .*model.set_vocabulary\\(Vocabulary.from_text_model"
    ):
        DeCoDetrForObjectDetection.from_pretrained(saved, config=config)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"id2label": {0: "forklift", 1: "pallet", 2: "crate"}}, "set_vocabulary"),
        ({"id2label": {0: "cat"}}, "set_vocabulary"),
        ({"label2id": {"cat": 2}}, "set_vocabulary"),
        ({"prototype_captions": ["a crate"] * 12}, "set_pool"),
        ({"num_coarse_prototypes": 6, "num_fine_prototypes": 6}, "set_pool"),
        ({"pool_info": {"space": {"name_temperature": 0.5}}}, "config.pool_info .*set_pool"),
        ({"vocabulary_info": {"encoder": "other/clip"}}, "config.vocabulary_info .*set_vocabulary"),
        ({"semantic_inputs": "query"}, "another semantic stream than .*: input_projection.0.bias"),
        ({"region_channels": 8}, "another semantic stream"),
        ({"region_grid": 2}, "another semantic stream"),
        ({"region_pixels": 8}, "another semantic stream"),
        ({"semantic_hidden_dim": 5}, "another semantic stream"),
    ],
)
def test_a_model_whose_config_describes_another_one_is_not_saved(tmp_path, fields, message):
    model = tiny_model("detr")
    for field, value in fields.items():
        setattr(model.config, field, value)
    with pytest.raises(ValueError, match=message):
        model.save_pretrained(tmp_path / "model")
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    "part", ["vocabulary.embeddings", "prototype_pool.prototypes", "semantic_stream.", "detector."]
)
def test_a_folder_without_some_tensors_is_refused(folder, part):
    _write_tensors(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(part)])
    with pytest.raises(ValueError, match=rf"{folder}.*lack \d+ tensors: {part}.*from_detector"):
        AutoModelForObjectDetection.from_pretrained(folder)


# Fields are obeyed


def _background(model, threshold):
    similarity = model.prototype_pool.prototypes @ model.vocabulary.embeddings.T
    return [max(row) < threshold for row in similarity.tolist()]


@pytest.mark.parametrize("fields", [{"background_threshold": 0.1}, {"pool_use": "none", "distill_weight": 0.0}])
def test_what_is_background_follows_the_given_fields(saved, fields):
    model = DeCoDetrForObjectDetection.from_pretrained(saved, **fields).eval()
    expected = _background(model, 0.1) if "background_threshold" in fields else [False] * 12
    assert model.tables().background.tolist() == expected != _background(model, 0.3)
    pixels = tiny_batch()["pixel_values"]
    with torch.no_grad():
        logits = model(pixels).logits
        model.set_vocabulary(model.vocabulary)
        assert torch.equal(model(pixels).logits, logits)


@pytest.mark.parametrize(
    "fields",
    [
        {"background_threshold": 0.1},
        {"background_level": 0.5},
        {"name_temperature": 0.2},
        {"assignment_temperature": 0.5},
        {"pool_use": "none", "distill_weight": 0.0},
        {"nms_iou": 0.01},
    ],
)
def test_a_field_changes_the_same_given_at_loading_or_set_afterwards(saved, fields):
    pixels = tiny_batch()["pixel_values"]
    given = DeCoDetrForObjectDetection.from_pretrained(saved, **fields).eval()
    later = DeCoDetrForObjectDetection.from_pretrained(saved).eval()
    with torch.no_grad():
        before = later(pixels).logits
        for field, value in fields.items():
            setattr(later.config, field, value)
        assert torch.equal(later(pixels).logits, given(pixels).logits)
        assert not torch.equal(later(pixels).logits, before)


def test_centring_set_afterwards_is_that_given_at_loading(tmp_path):
    """In a call, in the tables of other names, after a swap, and in the folder that is saved."""
    model = tiny_model("detr")
    pool, pixels = model.prototype_pool, tiny_batch()["pixel_values"]
    pool.info = {"space": {"text_mean": pool.prototypes[:3].mean(0).tolist(), "image_mean": [0.1] * 16}}
    model.set_pool(pool)
    model.save_pretrained(tmp_path / "model")
    load = DeCoDetrForObjectDetection.from_pretrained
    given, before = load(tmp_path / "model", centred=False).eval(), load(tmp_path / "model").eval()
    later = load(tmp_path / "model").eval()
    other = given.vocabulary.select(NAMES[:2])
    with torch.no_grad():
        expected = given(pixels).logits
        two = given(pixels, tables=given.semantic_stream.tables_with(given.tables(), other)).logits
        assert not torch.equal(before(pixels).logits, expected)
        taken = later.tables()
        later.config.centred = False
        held = before(pixels, tables=before.semantic_stream.tables_with(before.tables(), other)).logits
        assert torch.equal(later(pixels, tables=later.semantic_stream.tables_with(taken, other)).logits, held)
        assert torch.equal(later(pixels).logits, expected)
        assert torch.equal(later(pixels, tables=later.semantic_stream.tables_with(later.tables(), other)).logits, two)
        later.set_vocabulary(NAMES)
        assert torch.equal(later(pixels).logits, expected)
        later.save_pretrained(tmp_path / "saved")
        assert torch.equal(load(tmp_path / "saved").eval()(pixels).logits, expected)
        later.config.centred = True
        assert torch.equal(later(pixels).logits, before(pixels).logits)


@pytest.mark.parametrize(
    "fields",
    [
        {"semantic_inputs": "query"},
        {"region_channels": 8},
        {"region_grid": 2},
        {"region_pixels": 8},
        {"semantic_hidden_dim": 5},
        {"detector_config": {"num_queries": 9}},
    ],
)
def test_fields_that_change_the_weights_cannot_be_given(saved, fields):
    with pytest.raises(ValueError, match="other shapes than the config says|lack"):
        AutoModelForObjectDetection.from_pretrained(saved, **fields)


def test_a_field_given_at_loading_is_checked(saved):
    with pytest.raises(ValueError, match=r"nms_iou must lie in \(0, 1\]"):
        AutoModelForObjectDetection.from_pretrained(saved, nms_iou=5)
    with pytest.raises(ValueError, match="distill_weight must be 0"):
        DeCoDetrForObjectDetection.from_pretrained(saved, pool_use="none")


def test_weights_loaded_into_a_model_bring_their_background():
    first, other = (tiny_model("detr", background_threshold=0.3) for _ in range(2))
    other.set_vocabulary(Vocabulary(NAMES, torch.eye(16)[:3]))
    assert not torch.equal(first.tables().background, other.tables().background)
    other.load_state_dict(first.state_dict())
    assert torch.equal(first.tables().background, other.tables().background)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tables_loaded_in_half_precision_are_exact(saved, dtype):
    exact = DeCoDetrForObjectDetection.from_pretrained(saved)
    half = DeCoDetrForObjectDetection.from_pretrained(saved, dtype=dtype)
    for name in ("prototype_pool", "vocabulary", "semantic_stream"):
        mine, other = (dict(getattr(model, name).named_buffers(recurse=False)) for model in (half, exact))
        assert mine.keys() == other.keys()
        assert all(mine[key].dtype == other[key].dtype and torch.equal(mine[key], other[key]) for key in mine)


# Damage


def _cut(folder, size):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:size])


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: _cut(f, 5000), "weight file .* cannot be read .*[Cc]opy, download"),
        (lambda f: _cut(f, -50), "weight file .* cannot be read"),
        (lambda f: _cut(f, 0), "weight file .* cannot be read"),
        (lambda f: (f / WEIGHTS).write_bytes(b"\x80\x04K\x01." * 100), "weight file .* cannot be read"),
        (lambda f: _write_config(f, embedding_dim="64"), "config.json.*'embedding_dim' expected int"),
        (lambda f: _write_config(f, embedding_dim=8), "other shapes than the config says: .*prototypes"),
        (
            lambda f: _write_config(f, id2label={"0": "a", "2": "b"}),
            "id2label must have the keys 0 to 1.*1 is missing",
        ),
        (lambda f: _write_config(f, id2label={"a": "a"}), "config.json.*cannot be used"),
        (lambda f: _write_config(f, id2label=["a"]), "config.json.*cannot be used"),
        (lambda f: _write_config(f, id2label={"0": ""}), "non-empty strings"),
        (lambda f: _write_config(f, id2label={"0": "x", "1": "y", "2": "z"}), "do not belong together"),
        (lambda f: _write_config(f, detector_config=5), "config.json.*'detector_config'"),
        (lambda f: _write_config(f, detector_config={"model_type": "nope"}), "must be a detector .* got 'nope'"),
        (
            lambda f: _write_tensors(f, lambda t: t.update({"semantic_stream.predictor.weight": torch.zeros(3, 3)})),
            r"semantic_stream.predictor.weight \(3, 3\) instead of \(16, 16\)",
        ),
        (lambda f: _write_tensors(f, lambda t: t["vocabulary.embeddings"].fill_(torch.nan)), "NaN"),
        (lambda f: _write_tensors(f, lambda t: t["prototype_pool.parent"].fill_(77)), "parent"),
        (lambda f: _write_tensors(f, lambda t: t["vocabulary.log_share"].fill_(7)), "do not belong together"),
    ],
)
def test_damage_is_named_with_its_folder(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=f"(?s){folder}.*{message}|{message}.*{folder}"):
        AutoModelForObjectDetection.from_pretrained(folder)


def test_pickled_weights_are_refused_with_the_remedy(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(OSError, match="pytorch_model.bin: pickled weights are not loaded.*save_pretrained"):
        AutoModelForObjectDetection.from_pretrained(folder)
    with pytest.raises(ValueError, match="use_safetensors=False"):
        DeCoDetrForObjectDetection.from_pretrained(folder, use_safetensors=False)


def test_another_kind_of_model_is_named(tmp_path):
    AutoModelForObjectDetection.from_config(tiny_config("detr").detector_config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="type 'detr', expected 'decodetr'; .*from_detector"):
        DeCoDetrForObjectDetection.from_pretrained(tmp_path)


def test_unknown_fields_of_a_stored_config_are_left_out_with_a_warning(folder, caplog):
    _write_config(folder, from_the_future=3)
    config = AutoModelForObjectDetection.from_pretrained(folder).config
    assert "from_the_future" in caplog.text and not hasattr(config, "from_the_future")
    with pytest.raises(ValueError, match="no field 'from_the_future'"):
        DeCoDetrConfig(from_the_future=3)


@pytest.mark.parametrize("family", sorted(TINY_DETECTORS))
def test_every_family_is_saved_whole(family, tmp_path):
    tiny_model(family).save_pretrained(tmp_path)
    loaded, info = DeCoDetrForObjectDetection.from_pretrained(tmp_path, output_loading_info=True)
    assert detector_family(loaded.config.detector_config) and not info["missing_keys"] and not info["unexpected_keys"]


# Values out of range


@pytest.mark.parametrize("scale", [1e30, 3e38, 1e-30, 1e-40])
def test_names_of_any_length_are_normalised(scale):
    rows = torch.nn.functional.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    rows = rows / rows.abs().amax(-1, keepdim=True)
    embeddings = Vocabulary(NAMES, rows * scale).embeddings
    atol = 1e-6 if scale > 1e-38 else 1e-4
    assert torch.allclose(embeddings, Vocabulary(NAMES, rows).embeddings, atol=atol)
    assert torch.allclose(embeddings.norm(dim=-1), torch.ones(3))


@pytest.mark.parametrize("length", [3e38, 1e30, 1e7, 1e-7, 0.0])
def test_a_pool_of_other_than_unit_rows_is_refused(length):
    rows = torch.eye(16)[:4].clone()
    rows[2, 2] = length
    with pytest.raises(ValueError, match="rows of length 1, got length .* in row 2"):
        PrototypePool(rows)


def test_a_negative_count_is_refused():
    with pytest.raises(ValueError, match="count must not be negative, got -1"):
        PrototypePool(torch.eye(4), count=torch.tensor([1, -1, 2, 3]))


def test_a_device_map_by_which_no_forward_works_is_refused(tmp_path):
    model, batch = tiny_model().eval(), tiny_batch()
    model.save_pretrained(tmp_path / "model")
    placed = {"detector": "cpu", "semantic_stream": "cpu", "prototype_pool": "cpu", "vocabulary": "cpu"}

    def load(device_map):
        offload = {"offload_folder": tmp_path / "offload"}
        return DeCoDetrForObjectDetection.from_pretrained(tmp_path / "model", device_map=device_map, **offload)

    with torch.no_grad():
        expected = model(batch["pixel_values"]).logits
        assert torch.equal(load({**placed, "detector": "disk"}).eval()(batch["pixel_values"]).logits, expected)
    for wrong in ({**placed, "semantic_stream": "disk"}, {**placed, "vocabulary": "disk"}, {"": "disk"}):
        with pytest.raises(ValueError, match="must be on one device, .* not on (cpu, )?disk; only parts of the det"):
            load(wrong)


@pytest.mark.parametrize(
    "detector, stream, table, fits",
    [(0, 0, 0, True), ("disk", 0, 0, True), ("cpu", 0, 0, True), (0, "cpu", 0, False), (0, 1, 1, False),
     (0, 0, 1, False), (0, "cpu", "cpu", False)],
)  # fmt: skip
def test_a_device_map_over_accelerators_is_judged_by_where_the_stream_is(detector, stream, table, fits):
    placed = {"detector.model": detector, "semantic_stream": stream, "prototype_pool": table, "vocabulary": table}
    with contextlib.nullcontext() if fits else pytest.raises(ValueError, match="device_map: semantic_stream"):
        check_placed(placed)
    check_placed(None)


@pytest.mark.parametrize("config", [{"quant_method": "torchao"}, SimpleNamespace(quant_method="torchao")])
def test_a_model_that_could_not_be_loaded_again_is_not_saved(tmp_path, config):
    model = tiny_model("detr")
    model.config.quantization_config = config
    with pytest.raises(ValueError, match="torchao .* without quantization_config, and quantize it after loading"):
        model.save_pretrained(tmp_path / "quantized")
    assert not (tmp_path / "quantized").exists()


def test_a_model_without_values_is_not_saved(tmp_path):
    model = tiny_model("detr")
    empty = copy.deepcopy(model).to("meta")
    with pytest.raises(ValueError, match="prototype_pool is on the meta device, .* as state_dict to save_pretrained"):
        empty.save_pretrained(tmp_path / "empty")
    assert not (tmp_path / "empty").exists()
    empty.save_pretrained(tmp_path / "given", state_dict=model.state_dict())
    loaded = DeCoDetrForObjectDetection.from_pretrained(tmp_path / "given")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_cached_names_out_of_range_are_named():
    model = tiny_model("detr", semantic_inputs="query").train()
    features = {"queries": torch.randn(2, 32), "samples": [], "region_embeds": torch.zeros(2, 16)}
    with pytest.raises(ValueError, match="names of the vocabulary, got values from -2 to 1"):
        model(semantic_features={**features, "name_index": torch.tensor([-2, 1])})
    known = {**features, "name_index": torch.tensor([-1, 1]), "image": torch.zeros(2).long()}
    for absent in (torch.zeros(1, 2, dtype=torch.bool), torch.zeros(1, 3)):
        with pytest.raises(ValueError, match=r"\['absent'\] must be bool of shape \(B, 3\)"):
            model(semantic_features={**known, "absent": absent})


# Names by hand


def test_stored_names_are_chosen_by_a_list():
    model = tiny_model("detr")
    rows = model.vocabulary.embeddings.clone()
    model.set_vocabulary([NAMES[2], NAMES[0]])
    assert model.vocabulary.names == [NAMES[2], NAMES[0]] and torch.equal(model.vocabulary.embeddings, rows[[2, 0]])
    assert model.config.id2label == {0: NAMES[2], 1: NAMES[0]}
    with pytest.raises(ValueError, match=r"'dog'.*Vocabulary.from_text_model\(names"):
        model.set_vocabulary(["dog"])
    with pytest.raises(ValueError, match=r"write \['cat'\]"):
        model.set_vocabulary("cat")


def test_tables_say_what_they_are():
    vocabulary = Vocabulary(NAMES, torch.eye(16)[:3], {"encoder": "some/clip"})
    pool = PrototypePool(torch.eye(16)[:2], torch.tensor([0, 1]), torch.tensor([-1, 0]))
    said = "Vocabulary('cat', 'salt, pepper', 'crème brûlée'; 3 of width 16, encoder some/clip)"
    assert repr(vocabulary) == said
    assert repr(pool) == "PrototypePool(1 coarse and 1 fine prototypes of width 16, encoder unknown)"


def test_a_swap_that_is_refused_changes_nothing():
    model = tiny_model("detr")
    before = model.prototype_pool
    with pytest.raises(ValueError, match="width 8"):
        model.set_pool(PrototypePool(torch.eye(16)[:4]), Vocabulary(["a"], torch.ones(1, 8)))
    assert model.prototype_pool is before and model.vocabulary.names == NAMES
