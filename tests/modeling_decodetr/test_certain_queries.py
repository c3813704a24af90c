"""In inference the semantic stream reads the queries that can still become a detection. What they score is exact."""

import contextlib
import copy

import pytest
import torch
from helpers.tiny_models import tiny_batch, tiny_model
from torch.nn import functional as F

from decodetr import PrototypePool, Vocabulary
from decodetr.modeling_decodetr import certain_queries as rule
from decodetr.modeling_decodetr import semantic_stream
from decodetr.modeling_decodetr.embedding_space import background_mass, look_up
from decodetr.modeling_decodetr.semantic_stream import RegionPooling, derive

N = 60  # queries


@pytest.fixture(scope="module")
def model():
    return tiny_model("detr", detector={"num_queries": N}).eval()


@pytest.fixture(autouse=True)
def few_queries(monkeypatch):
    monkeypatch.setattr(rule, "LEAST_QUERIES", 8)
    monkeypatch.setattr(rule, "BEST_QUERIES", 3)


def _objectness(model, monkeypatch, values):
    """The detector is that sure of its queries (B, N)."""
    from decodetr.modeling_decodetr import modeling_decodetr

    monkeypatch.setattr(modeling_decodetr, "objectness_logits", lambda logits, config: values[: len(logits)].clone())


@contextlib.contextmanager
def _rows_read(model):
    """A list that gets the number of rows whenever the semantic stream reads some."""
    read = []
    hook = model.semantic_stream.input_projection.register_forward_pre_hook(
        lambda module, inputs: read.append(len(inputs[0]))
    )
    yield read
    hook.remove()


@pytest.fixture
def sure(model, monkeypatch):
    """Image 0 has 20 queries above a score of 0.5, image 1 has 5."""
    values = torch.linspace(-9, -5, N).repeat(2, 1)[:, torch.randperm(N, generator=torch.Generator().manual_seed(3))]
    values[0, 30:50] = torch.linspace(0.1, 2, 20)
    values[1, 7:12] = 1.0
    _objectness(model, monkeypatch, values)
    return values


def test_what_is_read_scores_as_if_all_were(model, sure):
    pixels = tiny_batch()["pixel_values"][:2]
    with torch.no_grad():
        every = model(pixels, min_score=0.0)
        old = model(pixels, output_prototype_weights=True)  # through what training uses
        found = model(pixels, min_score=0.5)
    torch.testing.assert_close(every.logits, old.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(every.semantic_embeds, old.semantic_embeds, rtol=1e-4, atol=1e-5)
    least = model.config.calibrated(semantic_stream.LEAST_LOG_SCORE)
    for image, rows in enumerate((range(30, 50), range(7, 12))):
        rows = list(rows)
        others = [row for row in range(N) if row not in rows]
        torch.testing.assert_close(found.logits[image, rows], every.logits[image, rows], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.semantic_embeds[image, rows], every.semantic_embeds[image, rows])
        assert (found.logits[image, others] == least).all() and (found.semantic_embeds[image, others] == 0).all()
        assert (every.logits[image, others].sigmoid() <= 0.5).all()  # so nothing above 0.5 was left out
    torch.testing.assert_close(found.pred_boxes, every.pred_boxes)
    torch.testing.assert_close(found.objectness_logits, every.objectness_logits)


@pytest.mark.parametrize(
    "options, read", [({"min_score": 0.5}, 20), ({}, 20), ({"min_score": 0.0}, N), ({"semantic_queries": 7}, 7)]
)
def test_no_more_queries_are_read_than_may_matter(model, sure, options, read):
    with torch.no_grad(), _rows_read(model) as rows:
        model(tiny_batch()["pixel_values"][:2], **options)
    assert rows == [2 * read]


def test_in_a_picture_without_objects_the_best_ones_are_read(model, monkeypatch):
    values = torch.linspace(-9, -5, N)[None]
    _objectness(model, monkeypatch, values)
    pixels = tiny_batch()["pixel_values"][:1]
    with torch.no_grad():
        least = model.config.calibrated(semantic_stream.LEAST_LOG_SCORE)
        for options, count in (({}, 8), ({"min_score": 0.3}, 3)):
            logits = model(pixels, **options).logits
            assert (logits[0] > least).all(-1).nonzero()[:, 0].tolist() == list(range(N - count, N))


def test_an_image_has_the_same_scores_alone_and_in_a_batch(model, sure, monkeypatch):
    pixels = tiny_batch()["pixel_values"][:2]
    with torch.no_grad():
        both = model(pixels)
        _objectness(model, monkeypatch, sure[1:])
        alone = model(pixels[1:])
    torch.testing.assert_close(both.logits[1:], alone.logits, rtol=1e-4, atol=1e-4)
    assert (both.logits[1:] > -20).any(-1).sum() == 8


def test_the_calibration_counts(model, sure):
    """A score of 0.5 is what objectness and names give before the calibration moves it."""
    calibrated = copy.deepcopy(model)
    calibrated.config.score_bias = -20.0
    with torch.no_grad(), _rows_read(calibrated) as rows:
        calibrated(tiny_batch()["pixel_values"][:2], min_score=0.5)
    assert rows == [2 * 3]


def test_a_number_of_queries_is_obeyed_and_gives_the_most_certain_ones(model, sure):
    pixels = tiny_batch()["pixel_values"][:2]
    with torch.no_grad():
        every = model(pixels, min_score=0.0)
        some = model(pixels, semantic_queries=6)
        assert torch.equal(model(pixels, semantic_queries=1000).logits, every.logits)
    least = model.config.calibrated(semantic_stream.LEAST_LOG_SCORE)
    for image in range(2):
        rows = (some.logits[image] > least).any(-1).nonzero()[:, 0]
        assert len(rows) == 6 and sure[image, rows].min() >= sure[image].sort().values[-6]
        torch.testing.assert_close(some.logits[image, rows], every.logits[image, rows], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_model_takes_a_number_and_else_reads_all(model):
    pixels = tiny_batch()["pixel_values"][:2]
    for options in ({"semantic_queries": 6}, {}):
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        with torch.no_grad():
            expected = model(pixels, **(options or {"min_score": 0.0})).logits
            torch.testing.assert_close(compiled(pixels, **options).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"min_score": 1.5}, r"min_score must lie in \[0, 1\], got 1.5"),
        ({"min_score": -0.1}, "min_score must lie"),
        ({"semantic_queries": 0}, "semantic_queries must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(model, options, words):
    with pytest.raises(ValueError, match=words):
        model(tiny_batch()["pixel_values"], **options)


def test_a_score_of_one_is_never_exceeded(model):
    with torch.no_grad(), _rows_read(model) as rows:
        model(tiny_batch()["pixel_values"][:1], min_score=1.0)
    assert rows == [3]


@pytest.mark.parametrize("fields", [{}, {"residual_weight": None}, {"pool_use": "background", "distill_weight": 0.0}])
@pytest.mark.parametrize("level, margin", [(-1.0, 0.0), (0.3, 0.1)])
def test_scores_of_inference_are_those_of_training(fields, level, margin, monkeypatch):
    """By hand: softmax over names and background, in blocks of rows that do not divide them."""
    model = tiny_model(
        "detr", background_level=level, background_margin=margin, background_threshold=0.5, **fields
    ).eval()
    monkeypatch.setattr(semantic_stream, "_ROWS", 3)
    stream, tables = model.semantic_stream, model.tables()
    width = stream.input_projection[0].normalized_shape[0]
    inputs = torch.randn(2, 5, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embeds, names = stream.score(inputs, tables)
        expected = stream(inputs, tables)[1]
        by_training, _ = stream.name_log_probs(expected, tables)
        unit = F.normalize(stream.predictor(expected), dim=-1)
        temperature, texts = tables.scales.name_temperature, tables.scales.of_texts()
        mass = background_mass(unit @ tables.prototypes.T, tables.background, temperature, *texts)
        logits = unit @ tables.names.T / temperature
        by_hand = logits - torch.logaddexp(tables.vocabulary.log_normaliser(logits), mass)[..., None]
    torch.testing.assert_close(embeds, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(names, by_hand, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(names, by_training, rtol=1e-4, atol=1e-4)


def test_recall_is_what_the_lookup_finds(model):
    from decodetr.modeling_decodetr.embedding_space import look_up_rows

    tables = model.tables()
    queries = torch.randn(7, model.config.embedding_dim, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(look_up_rows(queries, tables), look_up(queries, tables)[1], rtol=1e-4, atol=1e-5)


def test_the_order_of_sampling_and_projecting_changes_nothing():
    """Few points of a large map are sampled first, many of a small one projected first. Channels are split in both."""
    torch.manual_seed(0)
    pooling = RegionPooling([6, 64], 32, grid=2)
    maps, boxes = [torch.randn(2, 6, 5, 7), torch.randn(2, 64, 12, 12)], torch.rand(2, 9, 4)
    boxes[..., 2:] *= 0.5
    pixels = torch.zeros(2, 3, 8, 8)
    with torch.no_grad():
        found = pooling(maps, pixels, boxes)
        raw = pooling.project_samples([part.flatten(0, 1) for part in pooling.sample(maps, pixels, boxes)])
        by_hand = []
        for feature_map, project in zip(maps, pooling.projections):
            centres = torch.tensor([-0.25, 0.25])
            offsets = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1).reshape(-1, 2)
            points = boxes[..., None, :2] + offsets * boxes[..., None, 2:]
            sampled = F.grid_sample(project(feature_map), 2 * points - 1, padding_mode="border", align_corners=False)
            by_hand.append(sampled.transpose(1, 2).flatten(2))
    torch.testing.assert_close(found, torch.cat(by_hand, -1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.flatten(0, 1), raw, rtol=1e-4, atol=1e-5)


def _tables(seed):
    generator = torch.Generator().manual_seed(seed)
    pool = PrototypePool.random(4, 8, 16)
    return pool, Vocabulary(["a", "b", "c"], torch.randn(3, 16, generator=generator))


def test_names_that_were_in_use_are_remembered_until_something_changes():
    pool, vocabulary = _tables(0)
    first = derive(pool, vocabulary)
    assert derive(pool, vocabulary)["closest"] is first["closest"]
    by_hand = (first["prototypes"] @ F.normalize(vocabulary.embeddings, dim=-1).T).amax(-1)
    torch.testing.assert_close(first["closest"], by_hand)

    vocabulary.embeddings[0] = -vocabulary.embeddings[0]  # in place
    moved = derive(pool, vocabulary)
    assert not torch.equal(moved["closest"], first["closest"])
    torch.testing.assert_close(moved["names"][0], -first["names"][0])

    pool.info["space"] = {"text_mean": [0.1] * 16}
    centred = derive(pool, vocabulary)
    assert not torch.equal(centred["names"], moved["names"])
    assert derive(pool, vocabulary, centre=False)["names"].equal(moved["names"])

    other, _ = _tables(1)
    other.prototypes.neg_()
    torch.testing.assert_close(derive(other, vocabulary)["prototypes"], -moved["prototypes"])
    assert not torch.equal(derive(other, vocabulary)["closest"], centred["closest"])
    with torch.inference_mode():  # such tensors do not tell whether they were changed
        _, fresh = _tables(2)
        before = derive(pool, fresh)["closest"].clone()
        fresh.embeddings.neg_()
        assert not torch.equal(derive(pool, fresh)["closest"], before)


def test_a_model_keeps_its_own_names_when_the_callers_change(model):
    model = copy.deepcopy(model)
    names = ["x", "y"]
    vocabulary = Vocabulary(names, torch.randn(2, model.config.embedding_dim))
    model.set_vocabulary(vocabulary)
    kept = model.vocabulary.embeddings.clone()
    vocabulary.embeddings.zero_()
    vocabulary.names[0] = "other"
    assert torch.equal(model.vocabulary.embeddings, kept) and model.vocabulary.names == ["x", "y"]
