"""The detector that the photo world starts from: transformer layers that have seen the drawn scenes, over a backbone
that has seen ImageNet, trained to find drawings on photographs. No part of it has seen a thing of the world, or a
name.

It stands for the published detector that users start from on their data, which finds things in general.
"""

from dataclasses import replace

from decodetr.cli import main
from decodetr.scenes.command_runner import flat
from decodetr.utils.files import committed

from .backbone import ARCHITECTURE, write_backbone
from .write import write_world

START = "scenes-decodetr"
PICTURES = 4000  # of drawings
STEPS = 2000
BATCH = 8  # pictures a step
_CHANNELS = [40, 112, 320]  # of the backbone's maps with strides 8, 16, 32


def train_detector(folder, settings, *, steps=STEPS, pictures=PICTURES, batch=BATCH, workers=1):
    """DIR/detector, a bare detector that finds things, and what it is made of: DIR/backbone, DIR/drawings,
    DIR/untrained, DIR/pretrained. What is done is not done again.

    Args:
        folder: `Path`. settings: `PhotoSettings` of the world. steps: of localization. pictures: of drawings.
        batch: pictures a step. workers: processes that draw, and that read pictures for the training.

    Returns:
        Exit status of the training.
    """
    untrained, drawings, pretrained = (folder / name for name in ("untrained", "drawings", "pretrained"))
    if (folder / "detector" / "config.json").is_file():
        return 0
    if not (untrained / "config.json").is_file():  # says what is not installed before anything is drawn
        write_detector(untrained, write_backbone(folder / "backbone"), settings.image_size)
    write_world(drawings, replace(settings, train=pictures, val=100, drawings=True), workers=workers)
    if not (pretrained / "train_results.json").is_file():
        learn = {"--data": drawings, "--detector": untrained, "--freeze-backbone": "true", "--streams": "localization"}
        learn |= {"--max-steps": steps, "--batch-size": batch, "--output": pretrained, **reading(workers)}
        if status := main(["train", *map(str, flat(learn))]):
            return status
    _save_bare(pretrained, folder / "detector")
    return 0


def reading(workers):
    """Options of a command that reads pictures in other processes, which changes no result. `workers` of 1 draws in
    the main process, and reads there."""
    return {"--workers": workers} if workers > 1 else {}


def _save_bare(model, folder):
    """The detector of a trained model, with its image processor."""
    from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor

    trained = DeCoDetrForObjectDetection.from_pretrained(model)
    with committed(folder) as staging:
        trained.detector.save_pretrained(staging)
        DeCoDetrImageProcessor(**trained.config.preprocessing).save_pretrained(staging)


def write_detector(folder, backbone, side):
    """A `RTDetrV2ForObjectDetection` with its image processor.

    Args:
        folder: to write. backbone: folder of `write_backbone`. side: of the square pictures, in pixels.

    Returns:
        Names of the tensors that neither part gave: the projections of the backbone's maps.
    """
    import torch
    from transformers import AutoConfig

    from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection, DeCoDetrImageProcessor
    from decodetr.modeling_decodetr.detectors import backbone_module
    from decodetr.training.start.timm_backbone import load_timm_weights
    from decodetr.utils.shipped import resolve

    trained = DeCoDetrForObjectDetection.from_pretrained(resolve(START)).detector
    fields = trained.config.to_dict() | {
        "backbone_config": {
            "model_type": "timm_backbone",
            "backbone": ARCHITECTURE,
            "out_indices": [2, 3, 4],
            "freeze_batch_norm_2d": True,  # by timm, which keeps their activations
        },
        "freeze_backbone_batch_norms": False,
        "encoder_in_channels": _CHANNELS,
    }
    torch.manual_seed(0)
    size = {"size": {"height": side, "width": side}}
    model = DeCoDetrForObjectDetection(
        DeCoDetrConfig(
            detector_config=AutoConfig.for_model(**fields),
            num_coarse_prototypes=1,
            num_fine_prototypes=0,
            preprocessing=size,
        )
    )
    load_timm_weights(model, str(backbone))
    wanted, inside = model.detector.state_dict(), backbone_module(model.detector)
    own = {id(value) for value in inside.state_dict(keep_vars=True).values()}
    of_backbone = {name for name, value in model.detector.state_dict(keep_vars=True).items() if id(value) in own}
    given = {
        name: value
        for name, value in trained.state_dict().items()
        if name in wanted and name not in of_backbone and value.shape == wanted[name].shape
    }
    model.detector.load_state_dict(given, strict=False)
    with committed(folder) as staging:
        model.detector.save_pretrained(staging)
        DeCoDetrImageProcessor(**model.config.preprocessing).save_pretrained(staging)
    return sorted(set(wanted) - of_backbone - set(given))
