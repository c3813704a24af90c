"""What can be wrong with a build and is looked at before anything long, and what it then starts from."""

import os
from dataclasses import replace
from pathlib import Path

from transformers import AutoConfig

from decodetr.building.commands import Start
from decodetr.building.options import BuildOptions
from decodetr.building.photos import has_boxes
from decodetr.modeling_decodetr import DeCoDetrConfig
from decodetr.modeling_decodetr.detectors import detector_family
from decodetr.modeling_decodetr.safe_loading import load_safely
from decodetr.pool_builder.preflight import check_engine
from decodetr.utils.devices import pick_device
from decodetr.utils.files import output_folder
from decodetr.utils.hub import local_only
from decodetr.utils.outputs import apart
from decodetr.utils.preflight import run_checks
from decodetr.utils.shipped import expect, loading, resolve


def check_start(options: BuildOptions) -> Start:
    """The [`Start`] of a build, after everything that can be wrong was looked at.

    Raises:
        OSError, ValueError: what cannot be built.
    """
    apart("--output", options.output, {"--images": options.images, "DETECTOR": resolve(options.detector)}, ())
    if Path(os.path.realpath(options.images)) in Path(os.path.realpath(options.output)).parents:
        raise ValueError(
            f"--output {options.output} lies in --images {options.images}, so that its pictures would become photos; "
            "give a folder outside of it"
        )
    boxed, *_, start = run_checks(
        lambda: has_boxes(options.images),
        lambda: output_folder(options.output, "--output"),
        lambda: expect("CLIP", options.clip, "config.json"),
        lambda: None if "@http" in options.captioner else expect("captioner", options.captioner, "config.json"),
        lambda: _check_device(options.device),
        lambda: check_engine(options.engine, options.ray_address, options.workers, options.device),
        lambda: _start_of(options),
    )
    return replace(start, boxed=boxed)


def _check_device(device):
    """Training sees one GPU of a number by the environment, which is read once, and earlier stages have read it."""
    number = pick_device(device).index
    if number and device != "auto":
        raise ValueError(
            f"--device {device}: stages of one process see the same devices; set CUDA_VISIBLE_DEVICES={number} and "
            "give --device auto"
        )


def _start_of(options):
    expect("detector", options.detector, "config.json")
    with loading("detector", options.detector) as folder, local_only(folder):
        config = load_safely(AutoConfig, folder)
    if isinstance(config, DeCoDetrConfig):
        return Start(True, config.detector_config.num_labels)
    try:
        detector_family(config)
    except ValueError as error:
        raise ValueError(f"DETECTOR {options.detector}: expected a DETR or a DeCo-DETR: {error}") from error
    return Start(False, config.num_labels)
