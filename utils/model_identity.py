"""What tells one model from another without loading its weights: a stage must know whether its shards were made by the
model that is asked for now."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from decodetr.utils.documents import read_json
from decodetr.utils.model_room import load

# What training writes next to a model: how it went, which differs from run to run.
_OF_A_RUN = re.compile(r".*_results\.json|trainer_state\.json|(forgetting|pool_drift|run|complete)\.json")
# Of a config: what is compared elsewhere, or says where something came from.
_NOT_SETTINGS = frozenset(
    """
    id2label label2id prototype_captions pool_info vocabulary_info table_digests training_info preprocessing
    architectures auto_map transformers_version use_cache dtype torch_dtype name_or_path _name_or_path _commit_hash
    """.split()
)


def model_identity(name_or_path: str | Path, revision: str | None = None) -> dict[str, str | None]:
    """
    Args:
        name_or_path: folder or Hub name.

    Returns:
        dict: "name" (of a folder its last part, so that a moved folder is the same model), "revision" (the Hub's
        commit, or None) and "weights": for a folder a SHA-256 over the contents of its weights, config and
        preprocessing files. None for a Hub name, which the commit tells.

    Raises:
        OSError: from transformers, when there is no such model.
    """
    from transformers import AutoConfig

    folder = Path(name_or_path)
    config = load("safe_loading").load_safely(AutoConfig, str(name_or_path), revision=revision)
    if not folder.is_dir():
        return {"name": str(name_or_path), "revision": getattr(config, "_commit_hash", None), "weights": None}
    return {"name": folder.resolve().name, "revision": None, "weights": folder_digest(folder)}


def folder_digest(folder: str | Path) -> str | None:
    """SHA-256 over the contents of the weights, configs and tables of a folder, or of one such file, without what a
    training records of itself. None where there is neither, as of a Hub name."""
    folder = Path(folder)
    if not folder.exists():
        return None
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()) if folder.is_dir() else [folder]:
        if file != folder and _OF_A_RUN.fullmatch(file.name):
            continue
        if file.suffix == ".json":
            content = read_json(file)  # as a whole: indentation and order of keys do not matter
            digest.update(file.name.encode() + json.dumps(content, sort_keys=True).encode())
        elif file.suffix in (".safetensors", ".jinja", ".txt", ".model"):
            with open(file, "rb") as stream:
                digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def config_settings(stored: Any) -> Any:
    """A config of transformers as a dict, those in it too, without what is no setting."""
    if not isinstance(stored, dict):
        return stored
    return {key: config_settings(value) for key, value in stored.items() if key not in _NOT_SETTINGS}


def json_digest(value: Any, digits: int = 64) -> str:
    """The first hexadecimal digits of the SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:digits]


def without_place(value: Any) -> Any:
    """Names of local folders without the folders above them, also inside a dict. Anything else as it is."""
    if isinstance(value, dict):
        return {key: without_place(item) for key, item in value.items()}
    if isinstance(value, str) and value and (Path(value).is_absolute() or Path(value).is_dir()):
        return Path(value).resolve().name
    return value
