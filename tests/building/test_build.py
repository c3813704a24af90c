"""`decodetr build` over a tiny detector with classes, tiny teachers and a folder of photos without boxes."""

import json
import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.tiny_models import TINY_DETECTORS
from helpers.tiny_teachers import write_tiny_clip, write_tiny_llava
from PIL import Image
from transformers import AutoModelForObjectDetection, RTDetrV2Config

import decodetr
from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor, PrototypePool, Vocabulary
from decodetr.building import build_run, caption_names, commands
from decodetr.building.options import BuildOptions
from decodetr.building.photos import (
    KEPT,
    LEARNED,
    coco_document,
    find_photos,
    has_boxes,
    photos_of,
    photos_root,
    write_photos,
)
from decodetr.building.plan import Plan, measure
from decodetr.building.shown import shown_words
from decodetr.cards.model_card import License
from decodetr.cards.renewal import CardOptions, card_of
from decodetr.cli import main
from decodetr.pool_builder.settings import PROMPTS
from decodetr.processing import CocoAnnotations
from decodetr.utils.card_leftovers import card_leftovers
from decodetr.utils.files import write_json

NAMES = ["red dotted star", "salt, pepper", "cup"]
PHOTOS = 14
SAME = ("model/model.safetensors", "built/pool/pool.safetensors", "names/vocabulary.safetensors")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Folders: a detector of three classes, its teachers, and photos in sub-folders, of which one is broken."""
    folder, rng = tmp_path_factory.mktemp("given"), np.random.default_rng(0)
    torch.manual_seed(0)
    config = RTDetrV2Config(**{**TINY_DETECTORS["rt_detr_v2"], "decoder_n_levels": 2, "num_labels": 3})
    AutoModelForObjectDetection.from_config(config).save_pretrained(folder / "detector")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "detector")
    write_tiny_clip(folder / "clip")
    write_tiny_llava(folder / "llava")
    for number in range(PHOTOS):
        place = folder / "photos" / ("", "of a, b", "crème")[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        size = (80, 64) if number % 2 else (64, 96)
        picture = Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
        picture.save(place / f"{number}{'.JPG' if number % 4 else '.png'}")
    (folder / "photos" / ".hidden.jpg").write_bytes(b"no photo of the user")
    (folder / "photos" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (folder / "photos" / "notes.docx").write_text("no picture either")
    return folder


def _build(given, output, **more):
    how = {"names": NAMES, "steps": 3, "device": "cpu", "keep_share": 0.9, **more}
    return decodetr.build(
        given / "detector", given / "photos", given / "clip", given / "llava", output, **how
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def few_windows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "GRID_WINDOWS", 2)
        yield


@pytest.fixture(scope="module")
def built(given, tmp_path_factory):
    output = tmp_path_factory.mktemp("built") / "out"
    assert _build(given, output) == output / "model"
    return output


def test_boxes_and_objectness_stay_those_of_the_detector(given, built):
    bare = AutoModelForObjectDetection.from_pretrained(given / "detector").eval()
    model = DeCoDetrForObjectDetection.from_pretrained(built / "model").eval()
    assert all(torch.equal(tensor, model.detector.state_dict()[name]) for name, tensor in bare.state_dict().items())
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own, before = model(pixels), bare(pixels)
    assert torch.equal(own.pred_boxes, before.pred_boxes)
    assert torch.equal(own.objectness_logits, before.logits.amax(-1)), "the best of its classes"
    assert model.vocabulary.names == NAMES and not model.config.class_agnostic


def test_photos_are_listed_and_those_that_cannot_be_read_are_named(given, built):
    learned, kept = (photos_of(built / "data", name) for name in (LEARNED, KEPT))
    assert len(learned) == PHOTOS - 1 and len(kept) == 1 and not {p["id"] for p in learned} & {p["id"] for p in kept}
    places = {entry["file_name"] for entry in (*learned, *kept)}
    assert {"of a, b/1.JPG", "crème/2.JPG", "0.png"} <= places and "broken.jpg" not in places
    (problem,) = json.loads((built / "data/unreadable.json").read_text())
    assert problem["file"].endswith("broken.jpg") and "readable image" in problem["error"]
    card = (built / "model/README.md").read_text()
    spent = json.loads((built / "build.json").read_text())["spent"]
    together = f"| together | {sum(one['seconds'] for one in spent.values()):,.0f} |"
    assert f"| pool | {spent['pool']['seconds']:,.0f} | {spent['pool']['begun']} |" in card and together in card
    options = CardOptions(source=str(built / "model"), name="me/built", license=License(id="mit"))
    assert card_leftovers(card_of(options)[0]) == []
    of_pool = (built / "built/pool/README.md").read_text().partition("## What it took")[2]
    assert "| captions |" in of_pool and "| clusters |" in of_pool and "on the CPU, " in card
    assert f"Of {PHOTOS} photos without a box (1 could not be read)" in card and "No name was ever boxed" in card


def test_photos_can_be_a_list_of_files(given, tmp_path):
    places = [given / "photos" / "0.png", given / "photos" / "crème" / "2.JPG", given / "photos" / "broken.jpg"]
    file = tmp_path / "list.txt"
    file.write_text("".join(f"{place}\n\n" for place in [*places, places[0]]), encoding="utf-8")
    assert find_photos(file) == places and photos_root(file) == given / "photos" and not has_boxes(file)
    assert write_photos(file, tmp_path / "data") == {"photos": 2, "kept": 1, "unreadable": 1}
    assert {entry["file_name"] for entry in photos_of(tmp_path / "data", "train.json")} == {"0.png", "crème/2.JPG"}
    coco = CocoAnnotations.load(tmp_path / "data/annotations/train.json")
    assert [image["width"] for image in coco.images] == [64, 64]
    file.write_text("nowhere.jpg\n")
    with pytest.raises(FileNotFoundError, match="list.txt, line 1: .*nowhere.jpg: no such file"):
        find_photos(file)


def test_boxes_of_other_names_fine_tune_what_was_built(built, tmp_path, capsys, caplog):
    """As README goes on. The detector has no class for these names, so that its boxes stay."""
    images, boxes = [], []
    (tmp_path / "data/train").mkdir(parents=True)
    for number in range(1, 5):
        Image.new("RGB", (64, 64), (40 * number, 90, 120)).save(tmp_path / f"data/train/{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        row = {"id": number, "image_id": number, "category_id": 1, "bbox": [8, 8, 30, 30], "area": 900, "iscrowd": 0}
        boxes.append(row)
    write_json(tmp_path / "data/annotations/train.json", {**coco_document(images, ["wheel"], boxes), "info": {}})
    words = ["train", "--model", str(built / "model"), "--data", str(tmp_path / "data"), "--use-cpu", "true"]
    words += ["--max-steps", "1", "--output", str(tmp_path / "mine")]
    assert main([*words, "--streams", "joint"]) == 1
    assert "none for 'wheel', so it cannot learn their boxes; give --streams semantic" in capsys.readouterr().err
    assert main(words) == 0 and "Chosen: --streams semantic" in caplog.text
    before, after = (
        DeCoDetrForObjectDetection.from_pretrained(folder) for folder in (built / "model", tmp_path / "mine")
    )
    same = before.detector.state_dict()
    assert all(torch.equal(tensor, same[name]) for name, tensor in after.detector.state_dict().items())
    assert "wheel" in after.vocabulary.names


def test_what_is_done_is_not_done_again_and_another_wish_names_the_stage(given, built, capsys):
    before = {name: (built / name).read_bytes() for name in (*SAME, "model/README.md", "build.json")}
    assert _build(given, built) == built / "model"
    assert {name: (built / name).read_bytes() for name in before} == before
    assert capsys.readouterr().out.count("done before") == 8
    with pytest.raises(ValueError, match="stage names(.|\n)*--overwrite names"):
        _build(given, built, names=NAMES[:2])
    with pytest.raises(ValueError, match="stage names was made of other order of names; give --overwrite names"):
        _build(given, built, names=NAMES[::-1])
    with pytest.raises(ValueError, match="stage model was made by another command(.|\n)*--overwrite model"):
        _build(given, built, steps=4)


def test_what_changes_nothing_is_not_refused(given, built, capsys, monkeypatch):
    assert " --device cpu" in json.loads((built / "build.json").read_text())["done"]["pool"]["command"]
    monkeypatch.setenv("DECODETR_MAX_IMAGE_PIXELS", str(64 * 96))  # as many as the largest photo has
    for prompt in ("short", PROMPTS["short"]):
        _build(given, built, device="auto", prompt=prompt)
        assert capsys.readouterr().out.count("done before") == 8
    with pytest.raises(ValueError, match="stage coverage was made by another command(.|\n)*--prompt=What is the main"):
        _build(given, built, prompt="name")


def test_another_limit_of_pixels_is_refused_where_other_photos_are_read(given, built, tmp_path, monkeypatch):
    other = (
        "stage photos was made of other pictures that can be read within --max-image-pixels; give --overwrite photos"
    )
    with monkeypatch.context() as patch, pytest.raises(ValueError, match=other):
        patch.setenv("DECODETR_MAX_IMAGE_PIXELS", str(64 * 96 - 1))
        _build(given, built)
    output = tmp_path / "out"
    shutil.copytree(built, output, symlinks=True)
    listed = output / "data/annotations/train.json"
    document = json.loads(listed.read_text())
    write_json(listed, document | {"images": document["images"][1:]})  # as with a lower limit
    with pytest.raises(ValueError, match=other):
        _build(given, output)


@pytest.mark.parametrize("ended_in", [pytest.param("pool", marks=pytest.mark.slow), "train"])
def test_a_build_that_was_ended_goes_on_to_the_same_bytes(given, built, tmp_path, monkeypatch, ended_in):
    output, run_command = tmp_path / "out", build_run.run_command
    shutil.copytree(built, output, symlinks=True)

    def ended(name, words):
        if name != ended_in:
            return run_command(name, words)
        if name == "pool":  # after its first stage
            kept = ("--data", "--detector", "--output", "--device")
            run_command(name, ["proposals", *(w for p in zip(words[1::2], words[2::2]) for w in p if p[0] in kept)])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build_run, "run_command", ended)
        _build(given, output, overwrite={"pool": "pool", "train": "model"}[ended_in])
    assert not (output / "model").exists()
    _build(given, output)
    for name in SAME:
        assert (output / name).read_bytes() == (built / name).read_bytes(), name


@pytest.mark.slow
def test_without_names_they_are_what_the_captions_say(given, built, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(built, output, symlinks=True)
    model = _build(given, output, names=None, overwrite="names")
    captions = json.loads((output / "built/pool/pool.json").read_text())["captions"]
    found = DeCoDetrForObjectDetection.from_pretrained(model).vocabulary.names
    assert found and set(found) <= set(captions)


def test_captions_that_say_nothing_are_left_out_of_names_and_counted(given, built, tmp_path, monkeypatch, caplog):
    options = BuildOptions(
        detector=str(given / "detector"), images=str(given / "photos"), clip=str(given / "clip"),
        captioner=str(given / "llava"), output=tmp_path / "out", device="cpu",
    )  # fmt: skip
    shutil.copytree(built, tmp_path / "out", symlinks=True)
    monkeypatch.setattr(caption_names, "say_nothing", lambda rows, _: torch.arange(len(rows)) == 1)
    all_names = Vocabulary.from_pool(PrototypePool.from_pretrained(built / "built/pool")).names
    assert build_run.BuildRun(options)._names("names", []) == 0
    left = [all_names[0], *all_names[2:]]
    assert json.loads((tmp_path / "out/names/vocabulary.json").read_text())["names"] == left
    learned = json.loads((tmp_path / "out/data/annotations" / LEARNED).read_text())
    assert [category["name"] for category in learned["categories"]] == left
    assert f"Left out, as they say that there is nothing: 1 ({all_names[1]!r})" in caplog.text


def test_what_cannot_be_built_is_said_before_any_work(given, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    common = ["--clip", str(given / "clip"), "--captioner", str(given / "llava"), "--output", str(tmp_path / "out")]

    def error(detector, images, *more):
        assert main(["build", str(detector), "--images", str(images), *common, *more]) == 1
        return capsys.readouterr().err

    assert "There is: nothing" in error(given / "detector", tmp_path / "empty")
    assert "no such folder" in error(given / "detector", tmp_path / "nowhere")
    of_file = error(given / "detector", given / "photos" / "0.png")
    assert (
        f"--images {given}/photos/0.png: a file of another kind; expected a folder of photos, a .txt file" in of_file
    )
    assert "--max-steps must be at least 1" in error(given / "detector", given / "photos", "--max-steps", "0")
    assert "detector" in error(tmp_path / "nowhere", given / "photos")
    found = error(given / "clip", given / "photos")
    assert "clip" in found, "no detector"
    (tmp_path / "out").mkdir()
    write_json(tmp_path / "out" / "mine.json", {})
    assert "expected an empty or new folder" in error(given / "detector", given / "photos")
    assert json.loads((tmp_path / "out" / "mine.json").read_text()) == {}


def test_the_plan_says_what_each_stage_costs_and_makes_nothing(given, tmp_path, capsys):
    output = tmp_path / "out"
    command = ["build", str(given / "detector"), "--images", str(given / "photos"), "--clip", str(given / "clip")]
    command += ["--captioner", str(given / "llava"), "--output", str(output), "--plan", "--device", "cpu"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert f"Plan for {PHOTOS + 1} photos" in out and ", of which cached features " in out
    rows = {line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| ")}
    assert {"coverage", "pool", "model", "report", "together"} <= rows
    assert not [path for path in output.rglob("*") if path.is_file() and not path.name.startswith(".")]


def test_the_plan_of_few_photos_says_how_many_and_one_alone_is_refused(given, tmp_path, capsys, monkeypatch):
    (tmp_path / "photos").mkdir()
    command = ["build", str(given / "detector"), "--images", str(tmp_path / "photos"), "--clip", str(given / "clip")]
    command += ["--captioner", str(given / "llava"), "--output", str(tmp_path / "out"), "--plan", "--device", "cpu"]
    shutil.copy(given / "photos/0.png", tmp_path / "photos")
    with monkeypatch.context() as patch:
        patch.setattr(build_run, "measure", lambda *_: pytest.fail("models were loaded"))
        for some in (command, [word for word in command if word != "--plan"]):
            assert main(some) == 1
            assert "expected at least two pictures that can be read, got 1" in capsys.readouterr().err
    for name in ("1.png", "2.png"):
        shutil.copy(given / "photos/0.png", tmp_path / "photos" / name)
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "Plan for 3 photos, from 3 of them:" in out
    rows = {line.split("|")[1].strip(): line for line in out.splitlines() if line.startswith("| ")}
    assert "| 1 photos x " in rows["scores"] and "| 1 photos x " in rows["report"]
    assert "2 views of 2 photos x " in rows["model"] and ", 85 steps x " in rows["model"], "those not kept aside"


def test_the_plan_counts_the_queries_that_are_cached_and_refuses_a_full_disk(given, tmp_path, monkeypatch):
    options = BuildOptions(
        detector=str(given / "detector"), images=str(given / "photos"), clip=str(given / "clip"),
        captioner=str(given / "llava"), output=tmp_path / "out", device="cpu",
    )  # fmt: skip
    plan = measure(options, commands.Start(False, 3, False), find_photos(given / "photos"), ["pool", "model"])
    assert plan.queries == pytest.approx(12, abs=0.5), "as a training announces"
    assert plan.cached == pytest.approx(2 * (plan.photos - 2) * 12 * 1400, rel=0.1)
    assert plan.disk > plan.cached
    plan.disk, plan.cached = 3e9, 2e9
    monkeypatch.setattr("decodetr.utils.preflight.free_bytes", lambda _: 1_000_000_000)
    with pytest.raises(ValueError, match=r"cached features: 2.* take at least 3.*, and 1.* are free there; choose"):
        plan.check_room(tmp_path / "out")


def test_places_are_the_same_however_they_are_spelled(given, built, monkeypatch, capsys):
    monkeypatch.chdir(given)
    arguments = ("detector", "photos", "clip", str(given / "photos" / ".." / "llava"), built)
    decodetr.build(*arguments, names=NAMES, steps=3, device="cpu", keep_share=0.9)
    assert capsys.readouterr().out.count("done before") == 8


def test_a_project_that_was_moved_goes_on(given, built, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(given, moved)
    shutil.copytree(built, moved / "out", symlinks=True)
    assert (moved / "out/data/photos").readlink() == given / "photos"
    capsys.readouterr()
    _build(moved, moved / "out")
    assert capsys.readouterr().out.count("done before") == 8
    assert (moved / "out/data/photos").readlink() == moved / "photos"
    other = "stage photos was made of other photos; give --overwrite photos"
    photo = find_photos(moved / "photos")[0]
    same = photo.read_bytes()
    photo.write_bytes(same[:-1] + bytes([same[-1] ^ 1]))  # another photo, of as many bytes
    with pytest.raises(ValueError, match=other):
        _build(moved, moved / "out")
    photo.write_bytes(same)
    (moved / "photos/one more.jpg").write_bytes(b"other photos")
    with pytest.raises(ValueError, match=other):
        _build(moved, moved / "out")


def test_scores_that_cannot_be_calibrated_say_why_and_other_errors_end_the_build(given, built, tmp_path, monkeypatch):
    output, asked = tmp_path / "out", []
    shutil.copytree(built, output, symlinks=True)

    def refused(options):
        asked.append(options)
        raise error

    monkeypatch.setattr(build_run, "LEAST_OBJECTS", 1)
    monkeypatch.setattr(build_run, "calibrate_model", refused)
    error = OSError("no space left")
    with pytest.raises(OSError, match="no space left"):
        _build(given, output, overwrite="scores")
    error = ValueError("7 of their 60 objects were found.")
    _build(given, output)
    card = (output / "model/README.md").read_text()
    assert "Scores are not calibrated: 7 of their 60 objects were found.\n" in card
    (options, _) = asked
    same = BuildOptions(detector="", images="", clip="", captioner="", output=output)
    words = commands.command_of("scores", same, commands.Start(False, 3, False))
    assert options.duplicates == ("--duplicates" in words) and options.model in words and options.annotations in words


def test_scores_that_are_not_calibrated_are_shown_from_the_best_f1(given, built, tmp_path, capsys):
    output = tmp_path / "out 'é'"
    shutil.copytree(built, output, symlinks=True)
    assert shown_words(output) == ["--threshold", "0", "--top-k", "5"], "of one photo that is kept aside"
    shown = json.loads((output / "pictures/detections.json").read_text())
    assert (shown["threshold"], shown["top_k"]) == (0.0, 5) and len(shown["images"]) == 1
    report = json.loads((output / "report/report.json").read_text())
    report |= {"threshold": 0.0169, "per_name": {"cup": {"support": 22}}}
    write_json(output / "report/report.json", report)
    _build(given, output, overwrite="pictures")
    out, card = capsys.readouterr().out, (output / "model/README.md").read_text()
    assert "--threshold 0.0169 --device cpu" in out
    words = shlex.split(out.splitlines()[-1])
    assert words[:3] == ["decodetr", "predict", "PHOTOS"] and words[4] == f"{output}/model"
    assert words[5:] == ["--threshold", "0.0169", "--output", "found"]
    assert "give `decodetr predict` --threshold 0.0169. This is the score at which F1 was best in the report" in card
    assert "there were no validation images" not in card and "run: --calibration-share" not in card
    assert "## Measured\nAP50 " in card and "Not calibrated by this run: boxes that CLIP named in the 1 photos" in card
    assert "F1 is best at a score of 0.0169" in card and card.count("## Scores") == 1
    config = json.loads((output / "model/config.json").read_text())
    write_json(output / "model/config.json", config | {"score_threshold": 0.4})
    assert shown_words(output) == []


@pytest.mark.parametrize("engine", ["datasets", "ray"])
def test_a_plan_of_what_is_finished_says_so(given, built, capsys, engine):
    options = BuildOptions(
        detector=str(given / "detector"), images=str(given / "photos"), clip=str(given / "clip"),
        captioner=str(given / "llava"), output=built, names={name: [name] for name in NAMES}, steps=3, device="cpu",
        keep_share=0.9, engine=engine, workers=2 if engine == "ray" else None,
    )  # fmt: skip
    words = commands.command_of("pool", options, commands.Start(False, 3, False))
    assert (words[words.index("--seed") + 2 :] == ["--engine", "ray", "--workers", "2", "--device", "cpu"]) == (
        engine == "ray"
    )
    assert build_run.BuildRun(options, plan_only=True).run() == 0
    assert capsys.readouterr().out == f"{built} is finished: nothing is left to do\n"


def test_what_is_refused_with_overwrite_removes_nothing(given, built):
    with pytest.raises(ValueError, match="stage names(.|\n)*--overwrite names"):
        _build(given, built, names=NAMES[:2], overwrite="model")
    assert (built / "model" / "model.safetensors").is_file()
    assert "model" in json.loads((built / "build.json").read_text())["done"]


@pytest.mark.parametrize("place, stage", [("data", "photos"), ("report", "report")])
def test_what_was_removed_by_hand_names_its_stage(given, built, tmp_path, monkeypatch, place, stage):
    output = tmp_path / "out"
    shutil.copytree(built, output, symlinks=True)
    (output / "report").mkdir(exist_ok=True)
    _build(given, output)
    shutil.rmtree(output / place)
    if stage == "report":  # which is not made where CLIP named nothing
        record = json.loads((output / "build.json").read_text())
        record["found"]["teacher_boxes"] = 3
        write_json(output / "build.json", record)
    with pytest.raises(ValueError, match=f"out/{place}: expected what the stage {stage} .*--overwrite {stage} to"):
        _build(given, output)


def test_what_is_half_removed_is_not_done(given, tmp_path, monkeypatch):
    options = BuildOptions(
        detector=str(given / "detector"), images=str(given / "photos"), clip=str(given / "clip"),
        captioner=str(given / "llava"), output=tmp_path,
    )  # fmt: skip
    run = build_run.BuildRun(options)
    run.record = {"models": {}, "done": {"pool": {}}, "found": {}, "plan": "the old one"}
    (tmp_path / "report").mkdir()

    def ended(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(build_run, "shutil", SimpleNamespace(rmtree=ended))
    with pytest.raises(KeyboardInterrupt):
        run._remove(["report"])
    assert json.loads((tmp_path / "build.json").read_text()) == {"models": {}, "done": {"pool": {}}, "found": {}}


@pytest.mark.parametrize("stage", ["coverage", "pool"])
def test_a_command_that_ctrl_c_ends_ends_the_build(given, tmp_path, monkeypatch, stage):
    def ended(name, words):
        return 130 if (words[words.index("--detector") + 1] == "grid") == (stage == "coverage") else 0

    monkeypatch.setattr(build_run, "run_command", ended)
    monkeypatch.setattr(build_run, "measure", lambda *_: Plan(PHOTOS))
    with pytest.raises(KeyboardInterrupt):
        _build(given, tmp_path / "out")
    assert stage not in json.loads((tmp_path / "out" / "build.json").read_text())["done"]


def test_a_pool_that_fails_says_what_goes_with_other_options(given, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build_run, "run_command", lambda _, words: "grid" not in words)
    monkeypatch.setattr(build_run, "measure", lambda *_: Plan(PHOTOS))
    with pytest.raises(RuntimeError, match="the stage 'pool' of the build"):
        _build(given, tmp_path / "out")
    said = "the stage pool failed, as said above; with another --prompt or --keep-share, give --overwrite coverage too"
    assert said in capsys.readouterr().err


def test_names_and_outputs_that_cannot_work_are_refused(given, tmp_path, capsys):
    for names in ("cat", [], ["cat", " "], {"cat": []}):
        with pytest.raises(ValueError, match="names"):
            _build(given, tmp_path / "out", names=names)
    with pytest.raises(ValueError, match="lies in --images"):
        _build(given, given / "photos" / "out")
    common = ["--images", str(given / "photos"), "--clip", str(given / "clip"), "--captioner", str(given / "llava")]
    words = ["build", str(given / "detector"), *common, "--output", str(tmp_path / "out"), "--names", "missing.txt"]
    assert main(words) == 1 and "missing.txt: no such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_detector_that_finds_nothing_is_told_of_localize(given, built, caplog, monkeypatch):
    nothing = {"photos": 1, "things": 4, "found": 0, "share": 0.0, "missed": []}
    monkeypatch.setattr(build_run, "coverage", lambda *_: nothing)
    options = BuildOptions(
        detector=str(given / "detector"), images=str(given / "photos"), clip=str(given / "clip"),
        captioner=str(given / "llava"), output=built,
    )  # fmt: skip
    run = build_run.BuildRun(options)
    run.record = {"found": {}}
    run._tell_coverage(None)
    assert "finds 0 %" in caplog.text and "--localize trains" in caplog.text
