"""COCO's size without COCO: seconds to the first training step and memory of each process, as the data grow.

    python benchmarks/scale.py --folder DIR --shares 0.01 0.1                            # minutes, 1.5 GB of disk
    python benchmarks/scale.py --folder DIR --shares 0.01 0.1 1 --output scale.json      # 16 GB of disk
    python benchmarks/scale.py --folder DIR --shares 1 --alike --remove                  # 8 GB of disk

A share of 1 is 118,287 images with 860,001 boxes and polygons, and 30 regions each of unit vectors of 512 dimensions,
random, in float16. With --alike the regions of all images have the same 30 vectors, so that their Parquet files are
small; what is mapped into memory is as large. Images are links to a few small JPEGs: what a picture weighs does not
grow with the data.

Then `decodetr train` runs in a fresh process over a frozen tiny detector, with loader workers: once with an empty
cache of data sets (HF_DATASETS_CACHE), and once more. Memory is that of /proc/PID/smaps_rollup. Pss counts a page that
n processes share as 1/n of it, private pages belong to one process, and what is mapped from files is counted apart,
because the system takes it back when it needs room. A world is made once, and stays in DIR without --remove.
"""

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from decodetr.utils.arguments import extend_lists
from decodetr.utils.files import committed, write_json

IMAGES, BOXES, REGIONS, WIDTH, NAMES = 118_287, 860_001, 30, 512, 80
SIDE, PICTURES, SHARD = 64, 16, 50_000  # pixels; different pictures; regions of a Parquet file
DETECTOR = {  # an RT-DETRv2 of integers
    "model_type": "rt_detr_v2",
    "backbone_config": {
        "model_type": "rt_detr_resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 16, 24], "depths": [1, 1, 1, 1],
        "layer_type": "basic", "out_features": ["stage3", "stage4"],
    },
    "encoder_in_channels": [16, 24], "encoder_hidden_dim": 32, "encoder_ffn_dim": 32, "d_model": 32,
    "feat_strides": [16, 32], "encode_proj_layers": [1], "num_feature_levels": 2, "decoder_in_channels": [32, 32],
    "decoder_ffn_dim": 32, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "num_queries": 15, "num_labels": 1, "num_denoising": 4, "decoder_n_levels": 2,
}  # fmt: skip
STREAM = {"embedding_dim": WIDTH, "semantic_hidden_dim": 64, "region_channels": 16}


def write_world(folder: Path, share: float, alike: bool) -> None:
    """Images, annotations, regions, and the tables and config of a model, into `folder`."""
    import numpy as np
    import torch

    from decodetr import PrototypePool, Vocabulary

    rng = np.random.default_rng(0)
    count = max(round(IMAGES * share), 64)
    # Numbers that are in no order, as COCO's are not.
    ids = rng.permutation(np.arange(1, 5 * count)[::4][:count]).tolist()
    with committed(folder) as staging:
        _write_images(staging / "data" / "train", ids, rng)
        _write_annotations(staging / "data" / "annotations" / "train.json", ids, round(BOXES * share), rng)
        _write_regions(staging / "regions", ids, alike, rng)
        unit = torch.nn.functional.normalize(torch.randn(NAMES + 36, WIDTH), dim=-1)
        info = {"encoder": "random", "encoder_fingerprint": "0"}
        Vocabulary([f"name {i}" for i in range(NAMES)], unit[:NAMES], info).save_pretrained(staging / "names")
        PrototypePool(unit[NAMES:], info=info).save_pretrained(staging / "pool")
        config = {**STREAM, "num_coarse_prototypes": 12, "num_fine_prototypes": 24, "detector_config": DETECTOR}
        write_json(staging / "config.json", config)


def _write_images(staging, ids, rng):
    import numpy as np
    from PIL import Image

    staging.mkdir(parents=True)
    for number in range(min(PICTURES, len(ids))):
        picture = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((SIDE, SIDE))
        picture.save(staging / f"{ids[number]:012d}.jpg")
    for number in range(PICTURES, len(ids)):
        os.link(staging / f"{ids[number % PICTURES]:012d}.jpg", staging / f"{ids[number]:012d}.jpg")


def _write_annotations(staging, ids, boxes, rng):
    """As COCO's, with a polygon of 24 points for each box."""
    staging.parent.mkdir(parents=True)
    with (staging).open("w", encoding="utf-8") as file:
        images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": SIDE, "height": SIDE} for i in ids]
        categories = [{"id": i + 1, "name": f"name {i}"} for i in range(NAMES)]
        file.write(f'{{"images": {json.dumps(images)}, "categories": {json.dumps(categories)}, "annotations": [\n')
        of_image = rng.integers(0, len(ids), boxes)
        for number in range(boxes):
            x, y, w, h = (round(value, 2) for value in (*rng.uniform(0, 30, 2), *rng.uniform(4, 30, 2)))
            row = {"id": number + 1, "image_id": ids[of_image[number]], "category_id": number % NAMES + 1}
            row |= {"bbox": [x, y, w, h], "area": round(w * h, 2), "iscrowd": 0}
            row["segmentation"] = [[x, y, x + w, y] * 12]
            file.write(json.dumps(row) + (",\n" if number + 1 < boxes else "]}\n"))


def _write_regions(staging, ids, alike, rng):
    """Shards as `write_regions` writes them, without looking at each row."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from decodetr.processing.region_shards import texts_of

    staging.mkdir()
    count = len(ids) * REGIONS
    shards = -(-count // SHARD)
    image_ids = np.repeat(np.array(ids), REGIONS)
    embeds = {}
    for number in range(shards):
        rows = image_ids[number * SHARD : (number + 1) * SHARD]
        n = len(rows)
        if not (embeds and alike):
            for name in ("image_embed", "text_embed"):
                unit = rng.standard_normal((REGIONS if alike else n, WIDTH), dtype=np.float32)
                unit /= np.linalg.norm(unit, axis=1, keepdims=True)
                embeds[name] = np.resize(unit.astype(np.float16), (SHARD, WIDTH)) if alike else unit.astype(np.float16)
        corners = rng.uniform(0, 30, (n, 2)).astype(np.float32)
        boxes = np.concatenate([corners, corners + rng.uniform(4, 30, (n, 2)).astype(np.float32)], 1)
        columns = {"image_id": rows, "file_name": pa.array([f"{i:012d}.jpg" for i in rows]), "box": _lists(boxes)}
        columns |= {"proposal_score": rng.random(n, dtype=np.float32), "caption": pa.array(["a thing"] * n)}
        columns |= {name: _lists(values[:n]) for name, values in embeds.items()}
        columns |= {"clip_score": np.full(n, 0.3, dtype=np.float32), "kept": np.ones(n, dtype=bool)}
        name = f"regions-{number:05d}-of-{shards:05d}.parquet"
        table, compression = pa.table(columns), "zstd" if alike else "snappy"
        pq.write_table(table, staging / name, compression=compression, use_dictionary=texts_of(table))


def _lists(values):
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def train(folder: Path, cache: Path, steps: int, workers: int, batch: int) -> dict:
    """`decodetr train` of a world: seconds to its first step, and memory after the first and after the last step."""
    output = folder / "run"
    shutil.rmtree(output, ignore_errors=True)
    words = [
        sys.executable, "-m", "decodetr", "train", "--data", folder / "data", "--config", folder / "config.json",
        "--pool", folder / "pool", "--vocabulary", folder / "names", "--regions", folder / "regions",
        "--output", output, "--image-size", SIDE, "--streams", "semantic", "--val-annotations", "none",
        "--set", "region_pixels=0", "--max-steps", 10**6, "--batch-size", batch, "--num-workers", workers,
        "--logging_steps", 1, "--report_to", "none", "--use_cpu", "true", "--save_strategy", "no", "--disable_tqdm",
        "true", "--dataloader_pin_memory", "false",
    ]  # fmt: skip
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cache), "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    run = subprocess.Popen(
        [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    lines = queue.Queue()
    threading.Thread(target=_read, args=(run.stdout, lines), daemon=True).start()
    said, done, found = [], 0, {}
    try:
        while done < steps:
            line = lines.get()
            if line is None:
                raise RuntimeError("the training ended early:\n" + "".join(said[-30:]))
            said.append(line)
            if "'loss'" not in line:
                continue
            done += 1
            if done == 1:
                found["seconds"] = time.perf_counter() - started
                found["peak_mb"] = _status(run.pid, "VmHWM")
                found["first"] = memory(run.pid)
        found["last"] = memory(run.pid)
        return found
    finally:
        _end(run)


def _read(stream, lines):
    for line in stream:
        lines.put(line)
    lines.put(None)


def _end(run):
    """End the training that `run` started, and its workers."""
    import psutil

    processes = (
        [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)] if run.poll() is None else []
    )
    for process in processes:
        process.terminate()
    psutil.wait_procs(processes, timeout=20)
    run.wait(timeout=20)


def memory(pid: int) -> list[dict]:
    """MB of a process and of each loader worker: resident, its share of it (Pss), private, and mapped from files."""
    import psutil

    processes = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    found = []
    for process in processes:
        rows = {}
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
            name, size = line.split(":")
            rows[name] = int(size.split()[0]) / 1024
        files = _status(process, "RssFile")
        found.append(
            {
                "rss": rows["Rss"], "pss": rows["Pss"], "private": rows["Private_Clean"] + rows["Private_Dirty"],
                "shared": rows["Shared_Clean"] + rows["Shared_Dirty"], "files": files,
            }
        )  # fmt: skip
    return found


def _status(pid, name):
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def size_of(folder: Path) -> float:
    """GB of the files of a folder, links once."""
    files = {file.stat().st_ino: file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    return sum(files.values()) / 1e9


def parser() -> argparse.ArgumentParser:
    """Arguments of the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("--folder", required=True, help="where the worlds, the cache and the runs are written")
    add("--shares", type=float, nargs="+", default=[0.01, 0.1], help="of COCO's size")
    add("--steps", type=int, default=20, help="after which memory is measured again")
    add("--workers", type=int, default=4, help="loader workers")
    add("--batch-size", type=int, default=16)
    add("--alike", action="store_true", help="all images have the same embeddings, so that Parquet files are small")
    add("--remove", action="store_true", help="remove each world after it was measured")
    add("--output", help="write all numbers to this JSON file")
    return extend_lists(arguments)


def main(argv=None) -> int:
    """Measure and report."""
    args = parser().parse_args(argv)
    from harness import say, table

    from decodetr.speed.machine import environment

    machine, results, rows = environment("cpu", workers=args.workers, batch_size=args.batch_size), {}, []
    say(table(["setting", "value"], machine.items()))
    for share in args.shares:
        folder = Path(args.folder) / f"share-{share:g}{'-alike' if args.alike else ''}"
        if not (folder / "config.json").is_file():
            write_world(folder, share, args.alike)
        cache = folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        for start in ("first", "second"):
            found = train(folder, cache, args.steps, args.workers, args.batch_size)
            found["disk_gb"] = {part: size_of(folder / part) for part in ("data", "regions", "cache")}
            results[f"{share:g}, {start} start"] = found
            for when in ("first", "last"):
                main_process, *workers = found[when]
                cells = [f"{share:g}", start, found["seconds"], found["peak_mb"], 1 if when == "first" else args.steps]
                for key in ("rss", "pss", "private", "files"):
                    cells += [main_process[key], max((worker[key] for worker in workers), default=0)]
                rows.append([cell if isinstance(cell, str) else f"{cell:.0f}" for cell in cells])
                say(f"{rows[-1]}")
            say(f"share {share:g}: GB on disk { ({name: round(size, 2) for name, size in found['disk_gb'].items()}) }")
        if args.remove:
            shutil.rmtree(folder)
    head = ["share", "start", "to first step, s", "peak until then, MB", "after steps"]
    head += [f"{what} {who}" for what in ("RSS", "Pss", "private", "of files") for who in ("main", "worker, most")]
    say(table(head, rows))
    if args.output:
        write_json(args.output, {"environment": machine, "results": results})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
