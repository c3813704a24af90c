"""`decodetr pool build` with tiny teachers, and what it writes."""

import pyarrow.parquet as pq

FILES = ("regions/regions-00000-of-00001.parquet", "pool/pool.safetensors", "pool/pool.json")


def build_command(data, models, output, *more):
    return [
        "pool", "build", "--data", str(data), "--output", str(output), "--clip", str(models / "clip"),
        "--captioner", str(models / "llava"), "--detector", str(models / "detector"), "--delta", "-0.25",
        "--num-coarse", "5", "--num-fine", "3", "--max-proposals", "4", "--min-objectness", "0", "--nms-iou", "0.5",
        "--max-new-tokens", "4", "--batch-size", "4", "--device", "cpu", *more,
    ]  # fmt: skip


def read_regions(folder):
    return pq.read_table(folder / FILES[0]).to_pylist()


def bytes_of_files(out):
    """{file: bytes} of all that a build leaves behind, but for the seconds that it took."""
    files = [file for file in sorted(out.rglob("*")) if file.is_file() and file.name != "spent.json"]
    return {str(file.relative_to(out)): file.read_bytes().partition(b"<!-- decodetr:cost")[0] for file in files}
