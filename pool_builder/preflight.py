"""What is checked before `decodetr pool build`, or one of its stages, reads images or loads a model."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from decodetr.annotations.names_split import names_split_file
from decodetr.annotations.sources import kind_of
from decodetr.pool_builder.served_captioner import ServedCaptioner
from decodetr.utils.files import output_folder
from decodetr.utils.outputs import apart
from decodetr.utils.preflight import require_package, require_room, run_checks, written
from decodetr.utils.shipped import WEIGHTS, expect, expect_file

if TYPE_CHECKING:
    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.pool_builder.settings import PoolTask

_NOT_ON_DISK = ("grid", "torchvision:")


def check(task: PoolTask) -> None:
    """Check what a stage, or `build`, is given.

    Args:
        task ([`PoolTask`]).

    Raises:
        ValueError, OSError: what does not go together or is not there. Several problems as one ValueError.
    """
    data, settings = task.data, task.settings
    read = {"--data": data.folder, "--images": data.images, "--annotations": data.annotations} if data else {}
    read |= {f"--{option}": name for option, name in task.models.items()} | {"--image-captions": task.image_captions}
    read["--vocabulary"] = task.vocabulary
    apart("--output", task.output, read, ())
    checks: list[Callable[[], object]] = [partial(output_folder, task.output, "--output")]
    if data is not None:
        checks.append(partial(_check_data, data))
    checks.append(partial(expect_file, "--image-captions", task.image_captions))
    checks += [*_model_checks(task), partial(check_engine, task.engine, task.ray_address, task.workers, task.device)]
    if settings.captioner_bits and "@http" not in (task.models.get("captioner") or ""):
        what = f"--captioner-bits {settings.captioner_bits}"
        checks.append(partial(require_package, "bitsandbytes", what, "'decodetr[quantized]'"))
    if settings.kmeans == "faiss":
        checks.append(partial(require_package, "faiss", "--kmeans faiss", "'decodetr[faiss]'"))
    run_checks(*checks)


def check_models(task: PoolTask) -> None:
    """Check that the models of a task can be there, on this machine. A server of captions is asked once.

    Raises:
        ValueError, OSError: as [`check`].
    """
    run_checks(*_model_checks(task))


def _model_checks(task):
    checks: list[Callable[[], object]] = []
    for option in ("detector", "clip", "captioner"):
        name = task.models.get(option)
        if name is not None and not name.startswith(_NOT_ON_DISK) and "@http" not in name:
            what = "CLIP" if option == "clip" else option
            checks += [partial(expect, what, name, "config.json"), partial(expect, what, name, *WEIGHTS)]
    if "@http" in (task.models.get("captioner") or ""):
        checks.append(partial(_check_server, task))
    return checks


def check_engine(engine: str, ray_address: str | None, workers: int | None, device: str) -> None:
    """Check the options that say who makes the shards.

    Args:
        engine (str), ray_address (str, optional), workers (int, optional), device (str): as of [`PoolTask`].

    Raises:
        ValueError: they do not go together, or Ray is not installed.
    """
    if engine != "ray":
        for option, value in (("--ray-address", ray_address), ("--workers", workers)):
            if value is not None:
                raise ValueError(f"{option} {value} is of --engine ray; give that too, or leave {option} out")
        return
    require_package("ray", "--engine ray", "'decodetr[ray]'")
    if workers is not None and workers < 1:
        raise ValueError(f"--workers must be at least 1, got {workers}")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("--engine ray starts its workers itself; start it once, without torchrun or accelerate")
    if (ray_address or os.environ.get("RAY_ADDRESS", "")).startswith("ray://"):
        raise ValueError(
            "--ray-address: Ray Data is driven from a node of the cluster, got the address of a Ray client; start the "
            "command on a node, and give HOST:6379 or auto"
        )
    if ":" in device:
        raise ValueError(f"--device {device}: Ray chooses among GPUs; give auto, cuda or cpu with --engine ray")


def check_room(coco: CocoAnnotations, width: int, output: Path) -> None:
    """Check that the disk has room for what `build` writes of annotated boxes alone: three embeddings of each, of
    float16.

    Args:
        coco (CocoAnnotations). width (int): d of the CLIP. output (Path): OUT.

    Raises:
        ValueError: it has not. With the numbers.
    """
    boxes = len(coco.annotations_by_image.column("id", crowds=False))
    needed = 3 * 2 * width * boxes - written(output)
    require_room(output, needed, f"the embeddings of {boxes:,} annotated boxes", "choose another --output")


def _check_data(data):
    if data.annotations is None:
        kind_of(data.folder)
    expect_file("--annotations", data.annotations)
    if data.images is not None and not Path(data.images).is_dir():
        raise FileNotFoundError(f"--images {data.images}: no such folder")
    names_split_file(data.folder, data.names_split)


def _check_server(task):
    """A server of captions is asked once. What it costs is one caption of a grey square."""
    settings, address = task.settings, task.models["captioner"]
    if settings.captioner_bits or settings.captioner_dtype != "auto" or task.device_map:
        raise ValueError(
            "--captioner-bits, --captioner-dtype and --device-map are the server's business, which "
            f"{address} names; leave them out"
        )
    captioner = ServedCaptioner(address, **settings.of("prompt", "max_new_tokens"))
    captioner.describe([Image.new("RGB", (64, 64), (127, 127, 127))])
