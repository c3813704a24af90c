"""What a run says of its teacher, lookup, names and momentum before it trains: on embeddings with a real CLIP's
cosines, where the paper's temperatures cannot work, and on wide ones, where they do."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.clip_like import DIM, OTHERS, RIGHT, SPREAD, TEXTS, clip_images, clip_texts
from helpers.pool_data import BASE, NOVEL, write_data
from helpers.tiny_models import tiny_config, tiny_model
from torch.nn import functional as F

from decodetr import PrototypePool, Vocabulary
from decodetr.cli import main
from decodetr.modeling_decodetr.embedding_space import Scales
from decodetr.pool_builder.space import choose_scales
from decodetr.pool_builder.space import space_without_names as measure
from decodetr.processing import CocoAnnotations, RegionTable, write_regions
from decodetr.training.start.space_report import (
    SpaceReport,
    best_scores,
    describe_space,
    literal_drift,
    mean_effective_number,
    own_shares,
    sample_regions,
)

TEMPERATURES = [f"{name}_temperature" for name in ("assignment", "teacher", "teacher_name", "name")]
PAPER = dict.fromkeys(TEMPERATURES, 0.07) | {"background_threshold": -1.0, "centred": False}
SHARP = dict.fromkeys(TEMPERATURES, 0.01) | {"centred": False}
NAMES, PROTOTYPES = 65, 1200


def _model(names, prototypes, **fields):
    model = tiny_model(names=["x"], embedding_dim=names.shape[1], num_coarse_prototypes=1, num_fine_prototypes=0,
                       **fields)  # fmt: skip
    model.set_pool(PrototypePool(prototypes), Vocabulary([f"name {i}" for i in range(len(names))], names))
    return model


@pytest.fixture(scope="module")
def space():
    """(names, prototypes, images of the names, captions)."""
    texts = clip_texts(NAMES + PROTOTYPES)
    return texts[:NAMES], texts[NAMES:], clip_images(texts[:NAMES]), texts[NAMES:]


def test_the_generated_space_has_the_cosines_of_clip(space):
    names, prototypes, images, _ = space
    cosines = images @ names.T
    others = cosines[~torch.eye(NAMES, dtype=torch.bool)]
    between = PrototypePool(prototypes).mean_cosine()
    assert images.norm(dim=-1).allclose(torch.ones(NAMES)) and between == pytest.approx(TEXTS, abs=0.01)
    assert cosines.diagonal().mean().item() == pytest.approx(RIGHT, abs=0.005)
    assert (others.mean().item(), others.std().item()) == pytest.approx((OTHERS, SPREAD), abs=0.005)
    nearest = (prototypes @ prototypes.T).fill_diagonal_(-1).amax(-1).mean().item()
    assert 0.83 < nearest < 0.9


def test_effective_numbers_by_hand():
    half = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log()
    assert mean_effective_number(half[:1]) == pytest.approx(2.0) and mean_effective_number(half) == pytest.approx(1.5)
    assert mean_effective_number(torch.full((3, 7), -math.log(7))) == pytest.approx(7.0)


def test_the_best_score_of_a_name_is_that_of_the_best_embedding():
    """Two names at a right angle and a background exactly between them: the best embedding turns away from it."""
    names = torch.eye(2)
    middle = F.normalize(names.sum(0), dim=0)

    def log_probs(embeds, temperature=1.0):
        unit = F.normalize(embeds, dim=-1)
        return torch.cat([unit @ names.T, unit @ middle[:, None]], -1).div(temperature).log_softmax(-1)[:, :2]

    angles = torch.linspace(0, 2 * math.pi, 3601)
    around = log_probs(torch.stack([angles.cos(), angles.sin()], -1)).exp().amax(0)
    assert log_probs(names).exp().diagonal().max() < around.min() - 0.02  # there is something to look for
    assert best_scores(log_probs, names, steps=300).tolist() == pytest.approx(around.tolist(), abs=1e-3)


def test_the_papers_temperatures_in_a_real_clips_space_are_said_to_fail(space):
    names, prototypes, images, captions = space
    model = _model(names, prototypes, pool_update="literal", **PAPER)
    report = describe_space(model, images, torch.arange(NAMES), captions)
    assert report.named and report.prototypes == PROTOTYPES and report.background == 0  # the paper has none
    by_hand = (images @ names.T / 0.07).softmax(-1).diagonal().mean().item()
    assert report.right == pytest.approx(by_hand) and 0.03 < report.right < 0.06
    assert report.own == pytest.approx(own_shares(images, names).diagonal().mean().item()) and report.own > 0.5
    assert report.lookup > 0.9 * PROTOTYPES
    assert report.cosine == pytest.approx(0.75, abs=0.01) and report.moved > 0.95
    said = report.problems()
    assert [line.split("=")[0] for line in said] == [
        "teacher_name_temperature",
        "teacher_temperature",
        "pool_update",
    ]
    assert report.best > 0.5  # 65 names alone can be told apart by an embedding that no region teaches
    assert f"the right name of a region {report.right:.2%} and the background 0.0%" in said[0]
    assert f"{report.lookup:,.0f} of 1,200 prototypes" in said[1] and f" to {report.moved:.3f} (1: " in said[2]
    assert all("; --set " in line for line in said)


def test_the_background_of_the_defaults_takes_everything_there(space):
    names, prototypes, images, captions = space
    model = _model(names, prototypes, **{**PAPER, "background_threshold": 0.95})
    report = describe_space(model, images, torch.arange(NAMES), captions)
    assert report.background > 0.9 and report.right < 0.01 and report.moved is None  # it does not move literally
    said = report.problems()
    assert f"the background {report.background:.1%}" in said[0] and len(said) == 3
    assert (
        report.best < 0.45
        and f"name_temperature=0.07: no embedding can give its name more than {report.best:.2f}" in said[2]
    )


def test_the_best_score_is_that_of_any_predictor(space):
    names, prototypes, _, _ = space
    nothing, found = torch.zeros(0, DIM), []
    for seed in range(3):
        model = _model(names, prototypes, seed=seed, **{**PAPER, "background_threshold": 0.95})
        if seed == 2:
            torch.nn.init.eye_(model.semantic_stream.predictor.weight)
        found.append(describe_space(model, nothing, torch.zeros(0, dtype=torch.int64), nothing).best)
    assert found == pytest.approx([found[0]] * 3, abs=2e-3) and 0.3 < found[0] < 0.5


def test_sharp_temperatures_pass_without_a_word(space):
    names, prototypes, images, captions = space
    model = _model(names, prototypes, pool_update="frozen", background_threshold=-1.0, **SHARP)
    report = describe_space(model, images, torch.arange(NAMES), captions)
    assert report.problems() == []
    assert report.right == pytest.approx(report.own) and report.best > 0.9 and report.lookup < PROTOTYPES / 4


@pytest.mark.slow
def test_what_was_chosen_from_data_passes_and_mends_the_papers_values(space):
    names, prototypes, images, captions = space
    seen, labels = clip_images(names.repeat(4, 1), seed=3), torch.arange(NAMES).repeat(4)
    measured = measure(seen, names.repeat(4, 1), prototypes[:300])
    pool = PrototypePool(
        prototypes, info={"space": measured | choose_scales(measured, prototypes, seen, labels, names)}
    )
    said = {}
    for key, fields in (("chosen", {}), ("paper", {**PAPER, "background_level": -1, "pool_update": "literal"})):
        model = _model(names, prototypes, **fields)
        model.set_pool(pool)
        report = describe_space(model, images, torch.arange(NAMES), captions)
        said[key] = report.problems()
    assert said["chosen"] == []
    assert [line.split("; ")[1] for line in said["paper"]] == [
        "--set centred=true teacher_name_temperature=null background_level=null",
        "--set centred=true teacher_temperature=null assignment_temperature=null",
        "--set pool_update=frozen",
    ]


def test_what_the_run_chose_itself_is_no_alarm():
    """Figures as of ordinary builds. Only what the config states can be taken back."""
    scales = Scales(0.3, 0.3, 0.07, 0.03, *[0.2] * (len(Scales._fields) - 4))
    figures = {"right": 0.0, "background": 1.0, "own": 1.0, "lookup": 6.0, "prototypes": 14, "best": 0.37}
    chosen = SpaceReport(scales, measured=True, **figures)
    assert chosen.problems() == []
    for field in ("teacher_name_temperature", "assignment_temperature", "name_temperature"):
        (said,) = replace(chosen, given=frozenset([field])).problems()
        assert f"{field}=" in said and "; --set " in said
    boxes = replace(chosen, by="annotations").problems()
    assert len(boxes) == 3 and all("annotated names chose this" in line and "--vocabulary" in line for line in boxes)
    assert len(replace(chosen, centred=False).problems()) == len(replace(chosen, measured=False).problems()) == 3


def test_a_run_over_names_that_clip_does_not_know_says_so(space):
    names, prototypes, images, captions = space
    model = _model(names, prototypes, pool_update="frozen", background_threshold=-1.0, **SHARP)
    called = model.vocabulary.names
    pool = PrototypePool(prototypes, info={"space": {"unknown_names": called[:10]}})
    for told, said in ((0, [f"CLIP does not know 10 of {NAMES} training names"]), (5, [])):
        texts = dict.fromkeys(called[:told], "it")
        model.set_pool(pool, Vocabulary(called, names, {"prompts": texts}))
        problems = describe_space(model, images, torch.arange(NAMES), captions).problems()
        assert [line.split(" (")[0] for line in problems] == said


def test_a_wide_space_takes_the_papers_temperatures(space):
    """Right texts at a cosine of 0.9, others at 0 +- 0.09, as a CLIP has them that was trained on few things."""
    generator = torch.Generator().manual_seed(0)
    texts = F.normalize(torch.randn(NAMES + PROTOTYPES, DIM, generator=generator), dim=-1)
    names, prototypes = texts[:NAMES], texts[NAMES:]
    noise = F.normalize(torch.randn(NAMES, DIM, generator=generator), dim=-1)
    images = F.normalize(0.9 * names + 0.4 * noise, dim=-1)
    model = _model(names, torch.cat([prototypes[:200], names]), **PAPER)
    report = describe_space(model, images, torch.arange(NAMES), prototypes)
    assert report.problems() == [] and report.right > 0.9 and report.lookup < 40


def test_without_regions_the_names_alone_are_judged(space):
    names, prototypes, images, _ = space
    nothing, model = torch.zeros(0, DIM), _model(names, prototypes, **{**PAPER, "background_threshold": 0.95})
    report = describe_space(model, nothing, torch.zeros(0, dtype=torch.int64), nothing)
    assert report.right is report.lookup is report.moved is None
    assert [line.split("=")[0] for line in report.problems()] == ["name_temperature"]


def test_without_right_names_the_most_likely_ones_are_judged(space):
    names, prototypes, images, captions = space
    model = _model(names, prototypes, **PAPER)
    report = describe_space(model, images, torch.full((NAMES,), -1), captions)
    likely = own_shares(images, names)
    assert not report.named and report.own == pytest.approx(likely.amax(-1).mean().item())
    assert "the most likely name of a region" in report.problems()[0]


def test_literal_momentum_is_that_of_the_pool_and_leaves_it(space):
    _, prototypes, _, captions = space
    pool = PrototypePool(prototypes)
    moved = literal_drift(pool, captions[:1], 0.07, 0.99, steps=1, batch=4)
    again = PrototypePool(prototypes)
    again.update(again.assignment_sums(captions[:1].repeat(4, 1), 0.07), 0.99)
    assert moved == pytest.approx(again.mean_cosine(), abs=1e-5) and torch.equal(pool.prototypes, prototypes)


def test_regions_on_annotated_boxes_have_their_names(tmp_path):
    coco = CocoAnnotations.load(write_data(tmp_path / "data") / "annotations/train.json").select(BASE)
    columns = {name: [] for name in ("image_id", "box", "proposal_score", "image_embed", "text_embed", "clip_score")}
    expected = 0
    for image in coco.images:
        rows = coco.annotations_by_image.arrays(image["image_id"])
        boxes = [[x, y, x + w, y + h] for x, y, w, h in rows["bbox"].tolist()]
        # The embedding says which category it is; one more region lies on nothing.
        for box, category in [*zip(boxes, rows["category"]), ([0.0, 0.0, 1.0, 1.0], len(BASE))]:
            embed = np.eye(len(BASE) + 1, dtype=np.float32)[category]
            row = (image["image_id"], box, 1.0, embed, embed, 1.0)
            for values, value in zip(columns.values(), row):
                values.append(value)
        expected += int((rows["iscrowd"] == 0).sum())
    columns = {name: np.array(values) for name, values in columns.items()}
    table = RegionTable.of_columns("here", tmp_path / "regions", [columns])
    vocabulary = ["something else", *reversed(coco.names)]
    embeds, names, texts = sample_regions(coco, table, vocabulary)
    assert len(names) == expected and len(texts) == len(table)
    assert [coco.names[i] for i in embeds.argmax(-1).tolist()] == [vocabulary[i] for i in names.tolist()]
    embeds, names, _ = sample_regions(coco, table, ["nothing of it"])
    assert len(embeds) == len(table) and (names == -1).all()
    assert len(sample_regions(coco, table, vocabulary, limit=3)[0]) == 3


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """Words of a run over data whose pool, names and regions have a real CLIP's cosines; every base object is seen."""
    folder = tmp_path_factory.mktemp("narrow")
    data = write_data(folder / "data")
    texts = clip_texts(len(BASE) + 200)
    info = {"encoder": "clip-like", "encoder_fingerprint": "0"}
    Vocabulary([*BASE, *NOVEL], torch.cat([texts[: len(BASE)], clip_texts(len(NOVEL), 7)]), info).save_pretrained(
        folder / "names"
    )
    PrototypePool(texts[len(BASE) :], info=info).save_pretrained(folder / "pool")
    coco = CocoAnnotations.load(data / "annotations/train.json").select(BASE)
    rows = []
    for image in coco.images:
        for row in coco.annotations_by_image[image["image_id"]]:
            x, y, w, h = row["bbox"]
            text = texts[BASE.index(coco.names[row["category"]])][None]
            rows.append({"image_id": image["image_id"], "file_name": "", "box": [x, y, x + w, y + h], "caption": "it",
                         "proposal_score": 1.0, "image_embed": clip_images(text, len(rows))[0].tolist(),
                         "text_embed": text[0].tolist(), "clip_score": RIGHT, "kept": True})  # fmt: skip
    write_regions(folder / "regions", rows)
    config = tiny_config(embedding_dim=DIM, preprocessing={"size": {"height": 64, "width": 64}})
    (folder / "config.json").write_text(json.dumps(config.to_diff_dict()))
    return [
        "train", "--data", str(data), "--config", str(folder / "config.json"), "--pool", str(folder / "pool"),
        "--vocabulary", str(folder / "names"), "--regions", str(folder / "regions"), "--val-annotations", "none",
        "--max_steps", "1", "--report_to", "none", "--save_strategy", "no", "--disable_tqdm", "true",
        "--use_cpu", "true",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "fields, said",
    [
        ({**PAPER, "pool_update": "literal"}, ["teacher_temperature", "pool_update"]),
        ({**SHARP, "pool_update": "frozen", "background_threshold": -1}, []),
    ],
)
def test_a_run_says_it_before_its_first_step(narrow, tmp_path, caplog, fields, said):
    """Of three names the teacher tells enough, but of nothing else."""
    words = [f"{name}={value}" for name, value in fields.items()]
    assert main([*narrow, "--output_dir", str(tmp_path), "--set", *words]) == 0
    lines = [record.getMessage() for record in caplog.records]
    found = [line.removeprefix("This cannot work: ").split("=")[0] for line in lines if "cannot work" in line]
    assert found == said


def test_a_run_that_learns_no_names_says_nothing_of_them(narrow, tmp_path, caplog):
    words = [f"{name}={value}" for name, value in PAPER.items()]
    assert main([*narrow, "--output_dir", str(tmp_path), "--streams", "localization", "--set", *words]) == 0
    assert "cannot work" not in caplog.text
