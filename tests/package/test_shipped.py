"""What travels with the package: complete, small, made for each other, and what it says of itself is true."""

import ast
import json

import pytest
import torch
from helpers.card_snippets import run_snippets
from transformers import CLIPModel, LlavaForConditionalGeneration, pipeline

from decodetr import DeCoDetrForObjectDetection, PrototypePool, Vocabulary
from decodetr.cli import main
from decodetr.modeling_decodetr.text_encoder import encoder_info
from decodetr.utils.shipped import HUB_CARDS, resolve

FOLDERS = ("scenes-clip", "scenes-llava", "scenes-decodetr", "scenes-pool", "scenes-vocabulary")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped") / "scenes"
    assert main(["scenes", "write", str(folder), "--train", "1", "--val", "6", "--test", "1", "--workers", "1"]) == 0
    return folder


def test_every_folder_has_a_card_and_all_are_small():
    for name in FOLDERS:
        card = (HUB_CARDS / name / "README.md").read_text(encoding="utf-8")
        assert "\nlicense: apache-2.0\n" in card and "decodetr scenes" in card and "<!-- decodetr:made " in card
        assert "@@" not in card and "{" not in card.replace("{}", "") and "/tmp/" not in card and "/work" not in card
    assert sum(file.stat().st_size for file in HUB_CARDS.rglob("*") if file.is_file()) < 20e6
    assert not [file for file in HUB_CARDS.rglob("*") if file.suffix in (".bin", ".pt", ".pkl", ".pth")]


def test_tables_and_models_are_of_one_space():
    clip = CLIPModel.from_pretrained(resolve("scenes-clip"))
    model = DeCoDetrForObjectDetection.from_pretrained(resolve("scenes-decodetr"))
    pool = PrototypePool.from_pretrained(resolve("scenes-pool"))
    vocabulary = Vocabulary.from_pretrained(resolve("scenes-vocabulary"))
    fingerprint = encoder_info(clip)["encoder_fingerprint"]
    for info in (pool.info, vocabulary.info, model.config.pool_info, model.config.vocabulary_info):
        assert info["encoder_fingerprint"] == fingerprint and info["encoder"] == "scenes-clip"
    assert pool.info["captioner"] == "scenes-llava"
    assert model.dtype == torch.float32 and model.vocabulary.names == vocabulary.names
    assert torch.equal(model.vocabulary.embeddings, vocabulary.embeddings)  # the tables are not rounded
    assert (model.prototype_pool.prototypes * pool.prototypes).sum(-1).min() > 0.9  # moved by momentum, not replaced
    again = Vocabulary.from_text_model(vocabulary.names[:5], resolve("scenes-clip"), vocabulary.info["templates"])
    assert torch.allclose(again.embeddings, vocabulary.embeddings[:5], atol=1e-5)


def test_training_saw_base_names_alone(scenes):
    split = json.loads((scenes / "names.json").read_text())
    model = DeCoDetrForObjectDetection.from_pretrained(resolve("scenes-decodetr"))
    base = set(split["base"].values())
    assert set(model.config.training_info["training_names"]) == base == set(model.config.pool_info["annotated_names"])
    assert set(model.config.pool_info["proposer_training_info"]["training_names"]) == base
    assert set(model.vocabulary.names) == base | set(split["novel"].values())


def test_llava_says_what_it_sees(scenes):
    from decodetr.pool_builder.captioner import Captioner
    from decodetr.pool_builder.settings import PoolSettings
    from decodetr.scenes.captions import mentioned_name
    from decodetr.scenes.teacher_data import teacher_crops
    from decodetr.scenes.world import NAMES

    assert LlavaForConditionalGeneration.from_pretrained(resolve("scenes-llava")).dtype == torch.float32
    crops, names = teacher_crops("teachers-val", 10, seed=5)
    captioner = Captioner(resolve("scenes-llava"), prompt=PoolSettings().prompt, max_new_tokens=24)
    captions = captioner.caption(list(crops))
    said = [mentioned_name(caption) for caption in captions]
    right = [name == (NAMES[index] if index >= 0 else None) for name, index in zip(said, names)]
    assert sum(right) > 0.5 * len(right)


def test_predict_does_something_sensible_without_a_model(scenes, tmp_path, capsys):
    images = [str(path) for path in sorted((scenes / "val").glob("*.jpg"))]
    assert main(["predict", *images, "--output", str(tmp_path), "--threshold", "0.3", "--explain"]) == 0
    report = json.loads((tmp_path / "detections.json").read_text())
    annotations = json.loads((scenes / "annotations" / "val.json").read_text())
    names = {row["id"]: row["name"] for row in annotations["categories"]}
    truth = {}
    for row in annotations["annotations"]:
        truth.setdefault(row["image_id"], set()).add(names[row["category_id"]])
    found = {i: {d["name"] for d in image["detections"]} for i, image in enumerate(report["images"], start=1)}
    hits = sum(len(truth[i] & found[i]) for i in truth)
    assert hits > 0.5 * sum(map(len, truth.values()))
    assert all(d["prototypes"][0]["caption"] for image in report["images"] for d in image["detections"])


def test_new_names_are_embedded_by_the_named_text_model(scenes, tmp_path, caplog):
    image = str(scenes / "val" / "000001.jpg")
    words = ["predict", image, "--names", "red solid star,a crème brûlée,star", "--output", str(tmp_path)]
    assert main(words) == 0
    assert "were embedded by scenes-clip: 'a crème brûlée', 'star'" in caplog.text
    assert "2 names without a stored embedding were" in caplog.text
    assert json.loads((tmp_path / "detections.json").read_text())["vocabulary"]["names"][1] == "a crème brûlée"
    assert main(["predict", image, "--names", "red solid star,star", "--output", str(tmp_path / "one")]) == 0
    assert "1 name without a stored embedding was embedded by scenes-clip: 'star'" in caplog.text


def test_pipeline_runs_offline(scenes):
    detector = pipeline("object-detection", model=resolve("scenes-decodetr"), trust_remote_code=False)
    found = detector(str(scenes / "val" / "000001.jpg"), threshold=0.05)
    assert found and {"score", "label", "box"} == set(found[0])


def _annotations(folder, novel):
    """An annotation file of the training scenes whose novel boxes are deleted (as written), present or scrambled."""
    if novel == "deleted":
        return folder / "annotations" / "train.json"
    content = json.loads((folder / "annotations" / "train_full.json").read_text())
    numbers = [int(number) for number in json.loads((folder / "names.json").read_text())["novel"]]
    for i, row in enumerate(content["annotations"]):
        if novel == "scrambled" and row["category_id"] in numbers:
            row["category_id"], row["bbox"] = numbers[i % len(numbers)], [7 * i % 90, 5 * i % 90, 9 + i % 40, 20]
    file = folder / "annotations" / f"{novel}.json"
    file.write_text(json.dumps(content))
    return file


@pytest.mark.slow
def test_novel_annotations_change_no_byte_of_the_real_chain(tmp_path):
    """Shipped teachers and detector: proposals, captions, pool and trained weights of both streams are the same,
    whatever the file says of novel objects."""
    scenes = tmp_path / "scenes"
    assert main(["scenes", "write", str(scenes), "--train", "12", "--val", "1", "--test", "1", "--workers", "1"]) == 0
    made = {}
    for novel in ("deleted", "present", "scrambled"):
        built, model = tmp_path / novel / "built", tmp_path / novel / "model"
        annotations = str(_annotations(scenes, novel))
        data = ["--data", str(scenes), "--names-split", str(scenes / "names.json")]
        teachers = ["--detector", "scenes-decodetr", "--clip", "scenes-clip", "--captioner", "scenes-llava"]
        build = ["--annotations", annotations, "--images", str(scenes / "train"), "--num-coarse", "20"]
        build += ["--num-fine", "20", "--output", str(built)]
        assert main(["pool", "build", *data, *teachers, *build]) == 0
        train = ["--train-annotations", annotations, "--val-annotations", "none", "--model", "scenes-decodetr"]
        train += ["--reset-semantics", "--streams", "joint", "--pool", str(built / "pool"), "--regions"]
        train += [str(built / "regions"), "--pseudo-box-score", "0.4"]
        train += ["--vocabulary", "scenes-vocabulary", "--max_steps", "4", "--report_to"]
        train += ["none", "--save_strategy", "no", "--dataloader_pin_memory", "false", "--output_dir", str(model)]
        assert main(["train", *data, *train]) == 0
        files = sorted(path for path in built.rglob("*") if path.is_file())
        made[novel] = [(file.relative_to(built), file.read_bytes()) for file in files]
        made[novel].append(("weights", (model / "model.safetensors").read_bytes()))
    names = {str(name) for name, _ in made["deleted"]}
    assert {"weights", "pool/pool.safetensors", "pool/pool.json", "regions/regions-00000-of-00001.parquet"} <= names
    assert made["present"] == made["deleted"] and made["scrambled"] == made["deleted"]


@pytest.mark.parametrize("new", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_python_of_the_cards_runs(tmp_path, new):
    cards = {file.parent.name: file.read_text(encoding="utf-8") for file in HUB_CARDS.glob("*/README.md")}
    printed = {name: run_snippets(card, tmp_path, new) for name, card in cards.items()}
    assert {name for name, texts in printed.items() if texts} == {
        "scenes-decodetr",
        "scenes-pool",
        "scenes-vocabulary",
    }
    assert [printed[name][0].strip() for name in ("scenes-pool", "scenes-vocabulary")] == ["540", "240"]
    assert isinstance(ast.literal_eval(printed["scenes-decodetr"][1]), list)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["val", "test"])
def test_shipped_model_reaches_what_its_card_says(tmp_path, split):
    """Novel AP50 at least 85 % of the teacher's, novel / base at least 0.9, absent names above 0.5 in at most 1 %."""
    data, file = tmp_path / "scenes", tmp_path / "measured.json"
    assert main(["scenes", "write", str(data), "--train", "1", "--workers", "2"]) == 0
    assert main(["scenes", "measure", str(data), "--split", split, "--output", str(file)]) == 0
    report = json.loads(file.read_text())
    measured, ceiling = report["measured"], report["ceiling"]
    assert 75 <= ceiling["AP50_novel"] <= 95
    assert measured["AP50_novel, all"] >= 0.85 * ceiling["AP50_novel"]
    assert measured["AP50_novel, all"] >= 0.9 * measured["AP50_base, all"]
    assert max(measured[f"absent, {size}"] for size in ("all", 12, 1)) <= 1
    card = (HUB_CARDS / "scenes-decodetr" / "README.md").read_text()
    assert f"| {measured['AP50_novel, all']:.1f} | {measured['AP50_base, all']:.1f} |" in card
