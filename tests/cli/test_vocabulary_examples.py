"""`decodetr vocabulary build` with names that are not what is embedded: texts, synonyms, example images. And what
`predict` makes of such names."""

import json

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_model
from helpers.tiny_teachers import write_tiny_clip
from PIL import Image

from decodetr import DeCoDetrImageProcessor, PrototypePool, Vocabulary
from decodetr.cli import main
from decodetr.inference.examples import examples_of_folders
from decodetr.modeling_decodetr.text_encoder import encoder_info, load_text_model


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"), length=32)


@pytest.fixture(scope="module")
def pool(clip, tmp_path_factory):
    """The folder of a pool of that CLIP, with means."""
    folder = tmp_path_factory.mktemp("pool")
    space = {"text_mean": [0.1] * 8, "image_mean": [-0.1] * 8}
    info = {**encoder_info(load_text_model(clip)[0]), "space": space}
    PrototypePool(torch.eye(8), captions=[f"thing {i}" for i in range(8)], info=info).save_pretrained(folder)
    return folder


@pytest.fixture
def build(clip, tmp_path):
    def run(*arguments):
        model = ["--text-model", str(clip), "--output", str(tmp_path / "v"), "--overwrite", "--device", "cpu"]
        code = main(["vocabulary", "build", *map(str, arguments), *model])
        return code or Vocabulary.from_pretrained(tmp_path / "v")

    return run


@pytest.fixture
def pictures(tmp_path):
    """A folder with sub-folders of example pictures."""
    for name, count in {"my mug": 2, "fork": 1}.items():
        (tmp_path / "examples" / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 255, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "examples" / name / f"{i}.png")
    return tmp_path / "examples"


def test_a_names_file_with_texts(build, clip, tmp_path, capsys):
    file = tmp_path / "names.txt"
    file.write_text("cone_1: cone; pylon\nred_cat\ndog\n")
    made = build("--names-file", file)
    names = {"cone_1": ["cone", "pylon"], "red_cat": "red cat", "dog": "dog"}
    assert made.names == list(names)
    assert torch.equal(made.embeddings, Vocabulary.from_text_model(names, clip).embeddings)
    assert made.info["underscores_to_spaces"] is True
    assert (
        "2 of them by other texts: 'cone_1' as 'cone' and 'pylon', 'red_cat' as 'red cat'" in capsys.readouterr().out
    )
    kept = build("--names-file", file, "--keep-underscores")
    assert torch.allclose(kept["red_cat"], Vocabulary.from_text_model(["red_cat"], clip)["red_cat"], atol=1e-6)
    assert kept.info["prompts"] == {"cone_1": ["cone", "pylon"]} and "underscores_to_spaces" not in kept.info


def test_synonyms_of_lvis(build, clip, tmp_path, capsys):
    file = tmp_path / "lvis.json"
    categories = [
        {"id": 2, "name": "bob", "synonyms": ["bob_(hair)"]}, {"id": 1, "name": "a_b", "synonyms": ["a_b", "c"]},
    ]  # fmt: skip
    document = {"images": [], "annotations": [], "categories": categories}
    file.write_text(json.dumps(document))
    made = build("--annotations", file, "--synonyms")
    assert made.names == ["a_b", "bob"] and made.info["prompts"] == {"a_b": ["a b", "c"]}
    expected = Vocabulary.from_text_model({"a_b": ["a b", "c"], "bob": "bob"}, clip)
    assert torch.equal(made.embeddings, expected.embeddings)
    del categories[0]["synonyms"]
    file.write_text(json.dumps(document))
    assert build("--annotations", file, "--synonyms") == 1
    assert "expected a list of texts as synonyms of the category 'bob'" in capsys.readouterr().err


def test_example_images_and_words_together(build, clip, pool, pictures, capsys):
    made = build("--images", pictures, "--pool", pool, "--names", "dog,fork")
    shown = Vocabulary.from_images(examples_of_folders(pictures), clip, PrototypePool.from_pretrained(pool))
    assert made.names == ["dog", "fork", "my mug"]
    assert torch.allclose(made["dog"], Vocabulary.from_text_model(["dog"], clip)["dog"], atol=1e-6)
    assert torch.allclose(made.embeddings[1:], shown.embeddings, atol=1e-6)
    assert made.info["examples"] == {"fork": 1, "my mug": 2} and made.info["templates"] == ["a photo of a {}."]
    assert "2 of them by 3 example images" in capsys.readouterr().out
    fewer = build("--images", pictures, "--pool", pool, "--most", 1)
    assert fewer.info["examples"] == {"fork": 1, "my mug": 1} and fewer.names == ["fork", "my mug"]


def test_boxes_of_a_file_and_the_pool_of_a_model(build, clip, pool, pictures, tmp_path):
    model = tiny_model(embedding_dim=8)
    model.set_pool(PrototypePool.from_pretrained(pool), Vocabulary.from_text_model(["dog"], clip))
    model.save_pretrained(tmp_path / "model")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "model")
    file = tmp_path / "boxes.json"
    image = {"id": 1, "file_name": "0.png", "width": 40, "height": 30}
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [3, 4, 20, 9], "area": 180, "iscrowd": 0}
    file.write_text(json.dumps({"images": [image], "annotations": [row], "categories": [{"id": 1, "name": "mug"}]}))
    made = build("--images", pictures / "my mug", "--annotations", file, "--model", tmp_path / "model")
    crop = Image.open(pictures / "my mug/0.png").crop((3, 4, 23, 13))
    expected = Vocabulary.from_images({"mug": [crop]}, clip, PrototypePool.from_pretrained(pool))
    assert made.names == ["mug"] and torch.allclose(made.embeddings, expected.embeddings, atol=1e-6)
    picture, found = str(pictures / "fork/0.png"), tmp_path / "found"
    predict = ["predict", picture, "--model", str(tmp_path / "model"), "--output", str(found), "--device", "cpu"]
    assert main([*predict, "--vocabulary", str(tmp_path / "v")]) == 0
    assert json.loads((found / "detections.json").read_text())["vocabulary"]["names"] == ["mug"]
    assert main([*predict, "--names", "pool"]) == 0
    everything = json.loads((found / "detections.json").read_text())["vocabulary"]
    assert everything["names"] == [f"thing {i}" for i in range(8)] and everything["info"]["names_of"] == "pool"
    names = tmp_path / "names.txt"
    names.write_text("puma: cat\ndog\n")
    assert main([*predict, "--names-file", str(names)]) == 0
    written = json.loads((found / "detections.json").read_text())["vocabulary"]
    assert written["names"] == ["puma", "dog"] and written["info"]["prompts"] == {"puma": ["cat"]}


def test_what_does_not_go_together_is_refused(build, pool, pictures, tmp_path, capsys):
    for arguments, message in (
        ([], "give names: --names"),
        (["--images", pictures], "--images needs --pool or --model"),
        (["--names", "cat", "--pool", pool], "--pool goes with --images DIR"),
        (["--names", "cat", "--most", 3], "--most goes with --images DIR"),
        (["--names", "cat", "--synonyms"], "--synonyms are those of --annotations FILE"),
        (["--images", pictures, "--pool", pool, "--most", 0], "--most must be at least 1"),
        (["--images", pictures / "fork", "--pool", pool], "has no sub-folders"),
        (["--images", pictures, "--model", pool], "is a pool"),
    ):
        assert build(*arguments) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "v" / "vocabulary.json").exists()
