"""The stages of a pool: resume after a kill, damaged shards, several processes, pictures that cannot be read."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.pool_builds import FILES, build_command, bytes_of_files, read_regions
from helpers.pool_data import write_data
from helpers.processes import run_command, run_pair
from PIL import Image

from decodetr.cli import main
from decodetr.pool_builder.shard_makers import _spans
from decodetr.pool_builder.shards import Ranks, StageFolder
from decodetr.processing import RegionTable

SHARDS = ["--shard-groups", "1"]  # ten images in groups of four: three shards


@pytest.fixture(scope="module")
def sharded(tmp_path_factory, models):
    folder = tmp_path_factory.mktemp("sharded")
    assert main(build_command(write_data(folder / "data"), models, folder / "out", *SHARDS)) == 0
    return folder


def _launch(command):
    # The interpreter of the tests, whatever is first on the path; quiet, as it may be killed in the middle.
    words = [sys.executable, "-m", "decodetr", *command]
    # Sums in another number of threads round otherwise.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def test_size_of_shards_changes_nothing(sharded, models, tmp_path):
    assert main(build_command(sharded / "data", models, tmp_path / "out")) == 0
    for file in FILES[1:]:
        assert (tmp_path / "out" / file).read_bytes() == (sharded / "out" / file).read_bytes()
    shards = sorted((sharded / "out" / "regions").glob("*.parquet"))
    assert len(shards) == 3 and pa.concat_tables(map(pq.read_table, shards)).to_pylist() == read_regions(
        tmp_path / "out"
    )


def test_spans():
    assert _spans([0, 0, 0, 1, 1, 3]) == [(0, 3), (3, 5), (5, 6)]
    assert _spans([7]) == [(0, 1)] and _spans([]) == []


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_the_same(sharded, models, tmp_path):
    """SIGKILL at 20 random moments; no shard that was finished is made again."""
    command, rng = build_command(sharded / "data", models, tmp_path / "out", *SHARDS), random.Random(0)
    started, finished = time.monotonic(), {}
    assert _launch(build_command(sharded / "data", models, tmp_path / "whole", *SHARDS)).wait() == 0
    whole, kills, kept = time.monotonic() - started, 0, 0
    while kills < 20:
        process = _launch(command)
        try:
            process.wait(timeout=rng.uniform(0.3, 1.0) * whole)
            break_now = True  # it got through; begin anew for the kills that are left
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills, break_now = kills + 1, False
        for record in (tmp_path / "out").rglob("*-of-*.json"):
            shard = record.with_suffix(".parquet")
            kept += shard in finished
            assert finished.setdefault(shard, shard.stat().st_mtime_ns) == shard.stat().st_mtime_ns
        if break_now:
            assert bytes_of_files(tmp_path / "out") == bytes_of_files(sharded / "out")
            subprocess.run(["rm", "-r", tmp_path / "out"], check=True)
            finished.clear()
    assert kept
    assert main(command) == 0
    assert bytes_of_files(tmp_path / "out") == bytes_of_files(sharded / "out")


def test_a_run_that_stopped_is_finished_without_making_shards_again(sharded, models, tmp_path, monkeypatch):
    """Interrupted in the second shard of captions; what is damaged on disk is found and made again."""
    from decodetr.pool_builder.captioner import Captioner

    out, describe, calls = tmp_path / "out", Captioner.describe, []

    def stops(self, crops, prepared=None):
        calls.append(len(crops))
        if len(calls) == 8:
            raise KeyboardInterrupt
        return describe(self, crops, prepared)

    monkeypatch.setattr(Captioner, "describe", stops)
    command = build_command(sharded / "data", models, out, *SHARDS)
    assert main(command) == 130
    made = {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet")}
    assert len(list((out / "captions").glob("*.parquet"))) == 1 and not (out / "embeddings").exists()
    (out / "captions" / ".decodetr-staging-killed").mkdir()
    (out / "captions" / ".decodetr-staging-killed" / "captions-00001-of-00003.parquet").write_bytes(b"half")
    monkeypatch.setattr(Captioner, "describe", describe)
    assert main(command) == 0
    assert bytes_of_files(out) == bytes_of_files(sharded / "out")
    assert made == {file: file.stat().st_mtime_ns for file in made}


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "no record"])
def test_a_damaged_shard_is_made_again(sharded, models, tmp_path, caplog, damage):
    command = build_command(sharded / "data", models, tmp_path / "out", *SHARDS)
    shutil.copytree(sharded / "out", tmp_path / "out")  # what was built says nothing of its place
    shard = tmp_path / "out" / "embeddings" / "embeddings-00001-of-00003.parquet"
    content = shard.read_bytes()
    if damage == "cut":
        shard.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        shard.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    else:
        (shard if damage == "gone" else shard.with_suffix(".json")).unlink()
    assert main(command) == 0
    assert damage == "no record" or f"{shard} is cut off, changed or missing; it is made again" in caplog.text
    assert bytes_of_files(tmp_path / "out") == bytes_of_files(sharded / "out")


def test_stages_of_pictures_that_are_there_no_longer_are_made_again(sharded, models, tmp_path, capsys):
    """Annotated boxes alone: the proposals have the same rows, whatever the pictures show."""
    data = shutil.copytree(sharded / "data", tmp_path / "data")
    boxes = ["--max-proposals", "0", "--delta", "-1", *SHARDS]
    command = build_command(data, models, tmp_path / "out", *boxes)
    assert main(command) == 0
    for file in (data / "train").iterdir():
        os.utime(file, (1, 1))  # as copies have
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.parquet")}
    assert main(command) == 0
    assert made == {file: file.stat().st_mtime_ns for file in made}
    for file in (data / "train").iterdir():
        with Image.open(file) as picture:
            other = Image.effect_noise(picture.size, 90).convert("RGB")
        other.save(file)
    capsys.readouterr()
    assert main(command) == 1
    assert 'contents_of_pictures: "' in capsys.readouterr().err
    captions = ["--captioner", str(models / "llava"), "--max-new-tokens", "4", "--batch-size", "4", "--device", "cpu"]
    assert main(["pool", "captions", "--data", str(data), *captions, "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "proposals was made from pictures of the same names that" in error and "with --overwrite" in error
    assert main([*command, "--overwrite"]) == 0
    assert main(build_command(data, models, tmp_path / "new", *boxes)) == 0
    mine, new = bytes_of_files(tmp_path / "out"), bytes_of_files(tmp_path / "new")
    assert mine == new


def test_stages_of_an_earlier_version_are_gone_on_with(sharded, models, tmp_path):
    """Their manifests do not tell the pictures, and the next stage knows them by their rows alone."""
    out, before = shutil.copytree(sharded / "out", tmp_path / "out"), None
    for stage in ("proposals", "captions", "embeddings", "texts", "regions", "clusters"):
        file = out / stage / "manifest.json"
        manifest = json.loads(file.read_text())
        manifest["identity"].pop("contents_of_pictures", None)
        records = sorted((out / stage).glob("*-of-*.json"))
        rows = [json.loads(record.read_text())["sha256"] for record in records]
        manifest["totals"]["digest"] = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        if before:
            source = {"texts": "captions"}.get(stage, before)
            manifest["identity"]["input"] = json.loads((out / source / "manifest.json").read_text())["totals"][
                "digest"
            ]
        before = stage if stage != "texts" else before
        file.write_text(json.dumps(manifest))
    (out / "clusters" / "manifest.json").unlink()
    shutil.rmtree(out / "clusters")
    made = {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet")}
    assert main(build_command(sharded / "data", models, out, *SHARDS)) == 0
    assert made == {file: file.stat().st_mtime_ns for file in made}
    for file in FILES[1:]:
        assert (out / file).read_bytes() == (sharded / "out" / file).read_bytes()


def test_two_processes_build_the_same_pool(sharded, models, tmp_path):
    run_pair(run_command, build_command(sharded / "data", models, tmp_path / "out", *SHARDS))
    assert bytes_of_files(tmp_path / "out") == bytes_of_files(sharded / "out")


def test_the_shards_of_a_dead_rank_are_picked_up(tmp_path):
    def folder(ranks=None):
        return StageFolder(tmp_path / "s", "s", {"a": 1}, 5, ranks)

    first = folder(Ranks(0, 2))
    second = folder(Ranks(1, 2))
    assert first.pending() == [0, 2, 4] and second.pending() == [1, 3]
    for shard in first.pending():
        first.write(shard, pa.table({"x": [shard]}), {"n": shard})
    second.write(1, pa.table({"x": [1]}), {"n": 10})
    alone = folder()  # rank 1 has died; one process goes on
    assert alone.pending() == [3]
    alone.write(3, pa.table({"x": [3, 3]}), {"n": 100}, [{"problem": "p"}])
    totals = alone.finish()
    assert (totals["rows"], totals["counts"], totals["problems"]) == (6, {"n": 116}, [{"problem": "p"}])
    assert StageFolder.open(tmp_path / "s", "s").read(3)["x"].to_pylist() == [3, 3]


def test_stages_one_by_one_are_the_build(sharded, models, tmp_path, capsys):
    out, data = ["--output", str(tmp_path / "out")], ["--data", str(sharded / "data")]
    size, cpu = ["--batch-size", "4"], ["--device", "cpu"]
    assert main(["pool", "captions", *data, "--captioner", str(models / "llava"), *out]) == 1
    assert "run `decodetr pool proposals` with the same --output first" in capsys.readouterr().err
    limits = ["--min-objectness", "0", "--nms-iou", "0.5", "--max-proposals", "4", *SHARDS]
    assert main(["pool", "proposals", *data, "--detector", str(models / "detector"), *limits, *size, *cpu, *out]) == 0
    say = ["--captioner", str(models / "llava"), "--max-new-tokens", "4"]
    assert main(["pool", "captions", *data, *say, *size, *cpu, *out]) == 0
    assert main(["pool", "embeddings", *data, "--clip", str(models / "clip"), *size, *cpu, *out]) == 0
    assert main(["pool", "cluster", *out]) == 1
    assert "run `decodetr pool filter` with the same --output first" in capsys.readouterr().err
    assert main(["pool", "filter", "--delta", "-0.25", *out]) == 0
    capsys.readouterr()
    assert main(["pool", "cluster", "--num-coarse", "5", "--num-fine", "3", *out]) == 0
    assert "M1 = 5, M2 = 3" in capsys.readouterr().out
    mine, built = bytes_of_files(tmp_path / "out"), bytes_of_files(sharded / "out")
    assert mine == built


def test_pictures_that_cannot_be_read_are_left_out_and_named(sharded, models, tmp_path, capsys):
    """Truncated, missing, of another size; while CMYK, 16-bit, palette and EXIF-turned ones are read."""
    data = write_data(tmp_path / "data")
    folder = data / "train"
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:60])
    Image.new("RGB", (60, 80)).save(folder / "2.png")
    Image.effect_noise((80, 60), 50).save(folder / "1.png", "JPEG")
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:700])
    kinds = {"3": ("CMYK", "TIFF"), "4": ("I;16", "PNG"), "5": ("P", "PNG"), "6": ("L", "PNG")}
    for stem, (mode, kind) in kinds.items():
        Image.new(mode, (80, 60), 7).save(folder / f"{stem}.png", kind)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 60), "red").save(folder / "7.png", exif=exif)
    assert main(build_command(data, models, tmp_path / "out", *SHARDS)) == 0
    errors = capsys.readouterr().err
    assert "0.png (image id 10): expected a readable image" in errors and "3 images were left out" in errors
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [problem["image_id"] for problem in report["problems"]] == [10, 11, 12]
    assert "truncated" in report["problems"][1]["problem"]
    assert "expected width x height 80 x 60" in report["problems"][2]["problem"]
    assert report["proposals"]["images"] == 10
    shards = sorted((tmp_path / "out" / "regions").glob("*.parquet"))
    seen = {row["image_id"] for shard in shards for row in pq.read_table(shard).to_pylist()}
    assert seen == set(range(10, 20)) - {10, 11, 12}
    counts = report["regions"]
    assert counts["rows"] == sum(counts[k] for k in ("kept", "empty_caption", "no_embedding", "low_score"))


def test_silent_captions_and_embeddings_that_are_not_numbers(sharded, models, tmp_path, monkeypatch):
    from decodetr.pool_builder.captioner import Captioner
    from decodetr.pool_builder.embedder import ClipEmbedder

    describe, embed = Captioner.describe, ClipEmbedder.embed_images

    def silent(self, crops, prepared=None):
        captions, whole = describe(self, crops, prepared)
        return ["", *captions[1:]], whole

    def broken(self, crops, prepared=None):
        embeddings = embed(self, crops, prepared)
        embeddings[-1, 0] = np.nan
        return embeddings

    monkeypatch.setattr(Captioner, "describe", silent)
    monkeypatch.setattr(ClipEmbedder, "embed_images", broken)
    assert main(build_command(sharded / "data", models, tmp_path / "out", "--delta", "-1", *SHARDS)) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    counts = report["regions"]
    assert report["captions"]["empty"] == counts["empty_caption"] > 2 and counts["no_embedding"] > 2
    assert report["embeddings"]["not_finite"] >= counts["no_embedding"]  # one may have no caption either
    assert (
        counts["low_score"] == 0
        and counts["kept"] + counts["empty_caption"] + counts["no_embedding"] == counts["rows"]
    )
    assert report["captions"]["cut"] == counts["rows"]  # this captioner never ends by itself


def test_the_report_says_why_there_are_fewer_prototypes(sharded, models, tmp_path):
    more = ["--num-coarse", "7", "--num-fine", "5000"]
    assert main(build_command(sharded / "data", models, tmp_path / "out", *more)) == 0
    clusters = json.loads((tmp_path / "out" / "report.json").read_text())["clusters"]
    assert clusters["coarse"] == 7 and "fewer_coarse" not in clusters and 0 < clusters["fine"] < clusters["rows"]
    said = f"M2 is {clusters['fine']} instead of 5000: the captions carry no more clusters at any eps"
    assert clusters["fewer_fine"] == said


def test_a_shard_without_any_region(sharded, models, tmp_path):
    """The images of the second group have no annotation, and nothing proposes."""
    data = write_data(tmp_path / "data")
    file = data / "annotations" / "train.json"
    content = json.loads(file.read_text())
    content["annotations"] = [row for row in content["annotations"] if not 14 <= row["image_id"] < 18]
    file.write_text(json.dumps(content))
    assert main(build_command(data, models, tmp_path / "out", "--max-proposals", "0", "--delta", "-1", *SHARDS)) == 0
    shards = sorted((tmp_path / "out" / "regions").glob("*.parquet"))
    assert [pq.read_metadata(shard).num_rows for shard in shards] == [8, 0, 4]
    assert len(RegionTable.load(tmp_path / "out" / "regions")) == 12


def test_keep_share(sharded, models, tmp_path):
    assert main(build_command(sharded / "data", models, tmp_path / "out", "--keep-share", "0.25")) == 0
    rows = read_regions(tmp_path / "out")
    scores = sorted((row["clip_score"] for row in rows), reverse=True)
    kept = [row["clip_score"] for row in rows if row["kept"]]
    assert len(kept) == pytest.approx(len(rows) / 4, abs=2) and min(kept) == scores[len(kept) - 1]
    with Image.open(tmp_path / "out" / "regions" / "scores.png") as picture:
        assert picture.size == (800, 400)
