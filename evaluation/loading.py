"""Load what is evaluated: a predictor by folder or name, its names, and what reports say of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import (
    MODEL_FOR_OBJECT_DETECTION_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForObjectDetection,
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
)

from decodetr.evaluation.detections import load_detections, load_facts
from decodetr.evaluation.peers import ClosedSetPeer, Peer, some
from decodetr.evaluation.predictors import (
    BoxOracle,
    DeCoDetrPredictor,
    NameOracle,
    TeacherNamesOracle,
    TeacherOracle,
)
from decodetr.evaluation.zero_shot_peers import ZERO_SHOT
from decodetr.inference.loading import load_model
from decodetr.modeling_decodetr.safe_loading import load_safely
from decodetr.modeling_decodetr.vocabulary import describe_encoder, same_encoder
from decodetr.pool_builder.embedder import ClipEmbedder
from decodetr.utils.devices import pick_device
from decodetr.utils.hub import local_only
from decodetr.utils.markup import in_words
from decodetr.utils.model_identity import model_identity
from decodetr.utils.shipped import cannot_load, load_vocabulary, resolve

if TYPE_CHECKING:
    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.modeling_decodetr.vocabulary import Vocabulary


def load_predictor(
    source: str,
    coco: CocoAnnotations,
    names: list[str],
    device: str | torch.device,
    max_detections: int,
    *,
    vocabulary: str | None = None,
    oracle: str | None = None,
    clip: str | None = None,
    allow_missing_names: bool = False,
) -> tuple[DeCoDetrPredictor | TeacherOracle | Peer, list[str], Vocabulary | None, dict[str, str | None]]:
    """
    A detector by folder or name.

    Args:
        source: a DeCo-DETR, or any object detector of transformers.
        coco: the annotated images, for oracles.
        names: what other people's detectors are asked for. A DeCo-DETR has its vocabulary.
        vocabulary: folder or name of a `Vocabulary` that replaces a DeCo-DETR's own.
        oracle: one of ORACLES. clip: the CLIP of "teacher" and "teacher-names". Default: the one of the vocabulary.

    Returns:
        (predictor, its names, `Vocabulary` or None, facts for the report).
    """
    folder = resolve(source, "model")
    try:
        with local_only(folder):
            config = load_safely(AutoConfig, folder)
            identity = model_identity(folder)
    except (OSError, ValueError) as error:  # transformers raises both for a folder that holds no model
        raise cannot_load("model", source, error) from error
    weights = f"weights {(identity['weights'] or 'not known')[:12]}"
    facts: dict[str, str | None] = {"model": source, "revision": identity["revision"] or weights}
    if config.model_type != "decodetr":
        if oracle or vocabulary:
            raise ValueError(f"--oracle and --vocabulary need a DeCo-DETR, {source} is a {config.model_type}")
        peer = load_peer(folder, names, device, max_detections, allow_missing_names)
        return peer, names, None, facts | _where(peer) | peer.describe()
    model, image_processor = load_model(source, vocabulary=vocabulary, device=device)
    own, pool = model.vocabulary, model.prototype_pool
    facts |= _where(model) | {
        "vocabulary": f"{vocabulary or 'stored in the model'}, {_digest(own.names, own.embeddings)}",
        "pool": f"{len(pool)} prototypes, {_digest(pool.captions, pool.prototypes)}",
        "training_used": in_words(model.config.training_info or "not recorded"),
    }
    predictor: DeCoDetrPredictor | TeacherOracle
    if oracle == "teacher":
        predictor = TeacherOracle(_clip(own, clip, device, oracle), own, coco, max_detections)
    elif oracle == "teacher-names":
        teacher = _clip(own, clip, device, oracle)
        predictor = TeacherNamesOracle(model, image_processor, teacher, max_detections)
    elif oracle:
        predictor = {"boxes": BoxOracle, "names": NameOracle}[oracle](model, image_processor, coco, max_detections)
    else:
        predictor = DeCoDetrPredictor(model, image_processor, max_detections)
    if oracle:
        facts["oracle"] = oracle
    return predictor, own.names, own, facts | predictor.describe()


def teacher_alone(
    vocabulary: str, coco: CocoAnnotations, device: str | torch.device, max_detections: int, *, clip: str | None = None
) -> tuple[TeacherOracle, list[str], Vocabulary, dict[str, str | None]]:
    """The same of a CLIP on annotated boxes, which needs no detector: its names are those of a `Vocabulary`, by folder
    or name."""
    names = load_vocabulary(vocabulary)
    predictor = TeacherOracle(_clip(names, clip, device, "teacher"), names, coco, max_detections)
    facts: dict[str, str | None] = {
        "model": f"the teacher alone, {clip or names.info['encoder']}",
        "revision": f"fingerprint {predictor.clip.info['encoder_fingerprint']}",
        "vocabulary": f"{vocabulary}, {_digest(names.names, names.embeddings)}",
        "oracle": "teacher",
    }
    return predictor, names.names, names, facts | predictor.describe()


def saved_detections(
    file: str | Path, coco: CocoAnnotations
) -> tuple[dict[int, dict[str, np.ndarray]], list[str], None, dict[str, str | None]]:
    """The same of detections on disk: ({image_id: detections}, names, None, facts)."""
    names, found = load_detections(file, coco)
    return found, names, None, {"model": str(file), **load_facts(file), "detections": str(file)}


def load_peer(
    source: str | Path,
    names: list[str],
    device: str | torch.device = "cpu",
    max_detections: int = 100,
    allow_missing_names: bool = False,
) -> Peer:
    """The detector of a folder or of the Hub as a [`Peer`] that looks for names, in float32.

    Only safetensors are loaded, and no code of the Hub is run.

    Args:
        names (list[str]): the vocabulary. A zero-shot detector is asked for them in its own kind of prompt.
        device: "auto" takes an accelerator if there is one.
        max_detections: per image, over all names.
        allow_missing_names: a closed-set detector may lack some names, which then are never detected.

    Raises:
        FileNotFoundError: it cannot be loaded.
        ValueError: not a detector of a supported kind. Names that it lacks or cannot read, repeated ones, or none.
    """
    if not names or len(set(names)) < len(names) or max_detections < 1:
        raise ValueError(
            "expected different names, at least one, and max_detections of at least 1; got "
            f"{some(names) or 'no names'} and {max_detections}"
        )
    try:
        with local_only(source):
            config = load_safely(AutoConfig, source)
            peer = ZERO_SHOT.get(config.model_type)
            if peer is None and type(config) not in MODEL_FOR_OBJECT_DETECTION_MAPPING:
                raise ValueError(
                    f"{source} holds a {config.model_type!r} model; expected one of AutoModelForObjectDetection, or a "
                    f"zero-shot detector of type {', '.join(ZERO_SHOT)}"
                )
            auto = AutoModelForZeroShotObjectDetection if peer else AutoModelForObjectDetection
            model = load_safely(auto, source, dtype=torch.float32)
            processor = load_safely(AutoProcessor if peer else AutoImageProcessor, source)
    except OSError as error:
        raise cannot_load("detector", source, error) from error
    model = model.to(pick_device(device)).eval()
    if peer:
        return peer(model, processor, names, max_detections)
    return ClosedSetPeer(model, processor, names, max_detections, allow_missing_names)


def _clip(vocabulary: Vocabulary, clip: str | None, device: str | torch.device, oracle: str) -> ClipEmbedder:
    source = clip or vocabulary.info.get("encoder")
    if not source:
        raise ValueError(f"--oracle {oracle}: the vocabulary does not say which CLIP made it; give --clip NAME")
    asked_by = None if clip else f"the vocabulary says that it made the names; --clip {source} fetches it"
    folder = resolve(source, "CLIP")
    try:
        with local_only(folder, asked_by):
            embedder = ClipEmbedder(folder, device)
    except OSError as error:
        raise cannot_load("CLIP", source, error) from error
    if not same_encoder(embedder.info, vocabulary.info):
        raise ValueError(
            f"--clip: {describe_encoder(embedder.info)} is not the vocabulary's {describe_encoder(vocabulary.info)}"
        )
    return embedder


def _where(model):
    return {"device_and_dtype": f"{model.device}, {str(model.dtype).removeprefix('torch.')}"}


def _digest(names, table):
    """The beginning of a SHA-256 over names (or captions) and embeddings."""
    digest = hashlib.sha256("\n".join(names or ()).encode())
    digest.update(table.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
