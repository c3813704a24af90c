"""What a folder of a saved DeCo-DETR must hold, and which fields of its config may differ from the stored ones.

The library fills what is missing or of another shape with random values and a warning. Random name embeddings or
prototypes are wrong answers.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel

from .embedding_artifact import table_digest
from .excerpts import short, some_of
from .hub_repository import it_has, weight_files
from .prototype_pool import PrototypePool
from .semantic_stream import SemanticStream
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from .configuration_decodetr import DeCoDetrConfig

_HUB = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
# Fields that say what the stored tables are, and how they are changed.
_NAMES = "model.set_vocabulary(Vocabulary.from_text_model(names, TEXT_MODEL)) gives a loaded model other names"
_POOL = "model.set_pool(pool) gives a loaded model another pool"
_DESCRIBE = {
    "id2label": _NAMES,
    "label2id": _NAMES,
    "vocabulary_info": _NAMES,
    "num_coarse_prototypes": _POOL,
    "num_fine_prototypes": _POOL,
    "prototype_captions": _POOL,
    "pool_info": _POOL,
    "table_digests": "they are computed whenever a model is saved",
    "embedding_dim": "a stream of another width starts from the detector, by from_detector",
    "preprocessing": "give these values to the image processor, which is loaded by itself",
}


@contextlib.contextmanager
def damaged_file(where: str | Path) -> Iterator[None]:
    """Inside, what the readers of weights say of a damaged file becomes a ValueError that names the folder."""
    try:
        yield
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"{where}: a weight file (*.safetensors, *.safetensors.index.json) cannot be read ({error}); it is "
            "damaged or was not copied to its end. Copy, download or save the model again."
        ) from error
    except OSError as error:
        if not Path(where).exists() and "does not appear to have a file named" in str(error):
            raise OSError(f"{where} holds no DeCo-DETR{it_has(str(where))}.") from error
        pickles = sorted(file.name for file in Path(where).glob("*.bin"))
        if not pickles or any(Path(where).glob("*.safetensors*")):
            raise
        raise OSError(
            f"{where} has no model.safetensors, but {pickles[0]}: pickled weights are not loaded, because reading "
            "them can run any code. Save the model as safetensors where they come from, with save_pretrained."
        ) from error


def check_requested(
    config_class: type[DeCoDetrConfig], where: str | Path, config: PreTrainedConfig | str | Path | None, kwargs: dict
) -> None:
    """ValueError where the config to load with, or fields among the keyword arguments, describe other tables than the
    folder or Hub repository `where` stores."""
    hub = {key: kwargs[key] for key in _HUB if key in kwargs}
    given = {key: kwargs[key] for key in _DESCRIBE if key in kwargs}
    if "num_labels" in kwargs:
        given["num_labels"] = kwargs["num_labels"]
    if config is None and not given:
        return
    try:
        stored = config_class.from_pretrained(where, **hub)
    except OSError:
        return  # no config there: an adapter, or nothing, as the library will say
    if config is None or isinstance(config, PreTrainedConfig):
        asked = stored if config is None else config
    else:
        asked = config_class.from_pretrained(config, **hub)
    if given:
        asked = config_class.from_dict({**asked.to_dict(), **given})
    for field, remedy in _DESCRIBE.items():
        if getattr(asked, field) != getattr(stored, field):
            raise ValueError(
                f"{where}: {field} cannot be changed while a model is loaded, because it describes what is stored: "
                f"expected {short(getattr(stored, field))}, got {short(getattr(asked, field))}. Leave it out; "
                f"{remedy}."
            )


def check_loaded(model: PreTrainedModel, info: dict, where: str | Path) -> None:
    """ValueError unless every tensor of the model came from the folder `where`, and the tables are sound.

    Args:
        info (`dict`): the library's loading info.
    """
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"{where}: the weight files (*.safetensors) lack {len(missing)} tensors: {some_of(missing, 3, str)}. The "
            "folder is damaged, holds another kind of model, or fields were given that add weights. Download or save "
            "it again, without such fields; a bare detector becomes a DeCo-DETR by "
            "DeCoDetrForObjectDetection.from_detector."
        )
    if other := sorted(info["mismatched_keys"]):
        shapes = [f"{name} {tuple(found)} instead of {tuple(expected)}" for name, found, expected in other]
        raise ValueError(
            f"{where}: {len(other)} tensors have other shapes than the config says: {some_of(shapes, 3, str)}. Fields "
            "that change shapes cannot be given while a model is loaded; if none were, config.json and weights are "
            "not of one model: download or save it again."
        )
    check_placed(getattr(model, "hf_device_map", None))
    pool, names = model.prototype_pool, model.vocabulary
    try:
        PrototypePool(pool.prototypes, pool.level, pool.parent, pool.count, pool.captions)
        Vocabulary(names.names, names.embeddings)
        check_tables(model)
    except ValueError as error:
        raise ValueError(
            f"{where}: the tables of the model are damaged: {error} Download or save it again."
        ) from error
    for name, digest in (model.config.table_digests or {}).items():
        if digest != (found := getattr(model, name).digest()) and None not in (digest, found):
            raise ValueError(
                f"{where}: {name} and config.json do not belong together: names or captions were changed, or a file "
                "was copied, by itself. Names are changed with model.set_vocabulary, which takes their embeddings "
                "too; a damaged folder must be saved again."
            )


def check_placed(device_map: dict[str, int | str | torch.device] | None) -> None:
    """ValueError where the semantic stream or a table is not where the model computes. Accelerate fetches what lies
    elsewhere when a module's `forward` is called, and theirs are called by other methods too.

    Args:
        device_map: {name of a module: its device, or "disk"}, as the library has filled it in.
    """
    placed = {name: str(device) for name, device in (device_map or {}).items()}
    accelerators = set(placed.values()) - {"cpu", "disk"}
    own = {device for name, device in placed.items() if name.partition(".")[0] != "detector"}
    if own and (len(own) > 1 or own != (accelerators or {"cpu"})):
        raise ValueError(
            "device_map: semantic_stream, prototype_pool and vocabulary must be on one device, that on which the "
            f"model computes, not on {', '.join(sorted(own))}; only parts of the detector can be offloaded, to cpu or "
            "disk. They are small: give them the device of the GPU (cpu where there is none)."
        )


def check_quantized(model: PreTrainedModel) -> None:
    """ValueError for a model that torchao has quantized while it was loaded: the library saves it, and does not load
    what it saved, of bare detectors neither."""
    quantization = getattr(model.config, "quantization_config", None)
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
    if getattr(method, "quant_method", method) == "torchao":
        raise ValueError(
            "a model that torchao has quantized can be saved, but not be loaded again: save the model that it was "
            "loaded from, without quantization_config, and quantize it after loading."
        )


def check_tables(model: PreTrainedModel) -> None:
    """ValueError unless the config of a model says of its tables and weights what they are: it may have been changed
    by hand."""
    names, pool, config = model.vocabulary.names, model.prototype_pool, model.config
    if config.id2label != dict(enumerate(names)) or any(
        not 0 <= i < len(names) or names[i] != name for name, i in (config.label2id or {}).items()
    ):
        raise ValueError(
            "config.id2label and config.label2id must name the rows of the model's vocabulary; they were changed by "
            "themselves, so the embeddings are still those of other names. Use model.set_vocabulary(names) for stored "
            "names, or model.set_vocabulary(Vocabulary.from_text_model(names, TEXT_MODEL)) for new ones."
        )
    fine = pool.num_fine if pool.level.device.type != "meta" else config.num_fine_prototypes
    says = (config.num_coarse_prototypes, config.num_fine_prototypes, config.prototype_captions)
    if says != (len(pool) - fine, fine, pool.captions) or config.embedding_dim != pool.embedding_dim:
        raise ValueError(
            "config.embedding_dim, num_coarse_prototypes, num_fine_prototypes and prototype_captions must describe "
            "the model's pool; they were changed by themselves. Use model.set_pool for another pool."
        )
    for field, table, remedy in (("pool_info", pool, _POOL), ("vocabulary_info", model.vocabulary, _NAMES)):
        if (getattr(config, field) or {}) != table.info:
            raise ValueError(
                f"config.{field} must be what the model's table says; one of them was changed by itself, so that "
                f"another model would be saved. {remedy}."
            )
    stream = model.semantic_stream
    with torch.device("meta"):
        asked = SemanticStream(config, *stream.built_from)
    if changed := sorted({name for name, _ in asked.shapes.items() ^ stream.shapes.items()}):
        raise ValueError(
            f"the config asks for another semantic stream than the model has: {some_of(changed, 3, str)} would have "
            "other shapes. Its fields semantic_* and region_* that change shapes were changed by themselves; set them "
            "back. A stream of another shape starts from the detector, by from_detector."
        )


def table_digests(model: PreTrainedModel, state_dict: dict[str, torch.Tensor] | None = None) -> dict[str, str | None]:
    """Digests of the tables of a model, {name: SHA-256}, with tensors of `state_dict` where it has them. ValueError
    for a table on the meta device."""
    tensors, digests = state_dict or {}, {}
    for name in ("prototype_pool", "vocabulary"):
        table = getattr(model, name)
        rows = {key: tensors.get(f"{name}.{key}", own) for key, own in table.named_buffers(recurse=False)}
        digests[name] = table_digest(table.texts(), rows)
        if digests[name] is None:
            raise ValueError(
                f"{name} is on the meta device, which has shapes without values: there is nothing to save. Load the "
                "model with from_pretrained, or give its weights as state_dict to save_pretrained."
            )
    return digests


def old_weights(folder: str | Path, new: set[str]) -> list[str]:
    """Weight files in a folder that a save with other files, whole or in shards, leaves without a meaning: the library
    would load model.safetensors before the new shards."""
    old = weight_files(file.name for file in Path(folder).iterdir())
    return old if weight_files(new) else []
