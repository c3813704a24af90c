"""What `decodetr eval` evaluates, from the words of a command: a predictor, its names, and what reports say of it."""

import hashlib

from decodetr.training.provenance import in_words
from decodetr.utils.hub import local_only
from decodetr.utils.model_identity import model_identity
from decodetr.utils.shipped import cannot_load, load_vocabulary, resolve


def load_predictor(
    source,
    coco,
    names,
    device,
    max_detections,
    *,
    vocabulary=None,
    oracle=None,
    clip=None,
    allow_missing_names=False,
):
    """
    A detector by folder or name.

    Args:
        source: a DeCo-DETR, or any object detector of transformers.
        coco: the annotated images, for oracles.
        names: what other people's detectors are asked for; a DeCo-DETR has its vocabulary.
        vocabulary: folder or name of a `Vocabulary` that replaces a DeCo-DETR's own.
        oracle: one of ORACLES. clip: the CLIP of "teacher"; default: the one of the vocabulary.

    Returns:
        (predictor, its names, `Vocabulary` or None, facts for the report).
    """
    from transformers import AutoConfig

    import decodetr.modeling_decodetr  # noqa: F401 (makes the model type known)

    folder = resolve(source, "model")
    try:
        with local_only(folder):
            config = AutoConfig.from_pretrained(folder)
            identity = model_identity(folder)
    except (OSError, ValueError) as error:  # transformers raises both for a folder that holds no model
        raise cannot_load("model", source, error) from error
    facts = {"model": source, "revision": identity["revision"] or f"weights {identity['weights'][:12]}"}
    if config.model_type != "decodetr":
        if oracle or vocabulary:
            raise ValueError(f"--oracle and --vocabulary need a DeCo-DETR, {source} is a {config.model_type}")
        from decodetr.evaluation.peers import load_peer

        peer = load_peer(folder, names, device, max_detections, allow_missing_names)
        return peer, names, None, facts | _where(peer) | peer.describe()
    from decodetr.evaluation.predictors import BoxOracle, DeCoDetrPredictor, NameOracle
    from decodetr.inference.loading import load_model

    model, image_processor = load_model(source, vocabulary=vocabulary, device=device)
    names, pool = model.vocabulary, model.prototype_pool
    facts |= _where(model) | {
        "vocabulary": f"{vocabulary or 'stored in the model'}, {_digest(names.names, names.embeddings)}",
        "pool": f"{len(pool)} prototypes, {_digest(pool.captions, pool.prototypes)}",
        "training_used": in_words(model.config.training_info or "not recorded"),
    }
    if oracle == "teacher":
        predictor = _teacher(model.vocabulary, coco, clip, device, max_detections)
    elif oracle:
        predictor = {"boxes": BoxOracle, "names": NameOracle}[oracle](model, image_processor, coco, max_detections)
    else:
        predictor = DeCoDetrPredictor(model, image_processor, max_detections)
    if oracle:
        facts["oracle"] = oracle
    return predictor, model.vocabulary.names, model.vocabulary, facts | predictor.describe()


def teacher_alone(vocabulary, coco, device, max_detections, *, clip=None):
    """The same of a CLIP on annotated boxes, which needs no detector: its names are those of a `Vocabulary`, by folder
    or name."""
    names = load_vocabulary(vocabulary)
    predictor = _teacher(names, coco, clip, device, max_detections)
    facts = {
        "model": f"the teacher alone, {clip or names.info['encoder']}",
        "revision": f"fingerprint {predictor.clip.info['encoder_fingerprint']}",
        "vocabulary": f"{vocabulary}, {_digest(names.names, names.embeddings)}",
        "oracle": "teacher",
    }
    return predictor, names.names, names, facts | predictor.describe()


def saved_detections(file, coco):
    """The same of detections on disk: ({image_id: detections}, names, None, facts)."""
    from decodetr.evaluation.detections import load_detections, load_facts

    names, found = load_detections(file, coco)
    return found, names, None, {"model": str(file), **load_facts(file), "detections": str(file)}


def _teacher(vocabulary, coco, clip, device, max_detections):
    from decodetr.evaluation.predictors import TeacherOracle
    from decodetr.modeling_decodetr.vocabulary import describe_encoder, same_encoder
    from decodetr.pool_builder.embedder import ClipEmbedder

    source = clip or vocabulary.info.get("encoder")
    if not source:
        raise ValueError("--oracle teacher: the vocabulary does not say which CLIP made it; give --clip NAME")
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
    return TeacherOracle(embedder, vocabulary, coco, max_detections)


def _where(model):
    return {"device_and_dtype": f"{model.device}, {str(model.dtype).removeprefix('torch.')}"}


def _digest(names, table):
    """The beginning of a SHA-256 over names (or captions) and embeddings."""
    digest = hashlib.sha256("\n".join(names or ()).encode())
    digest.update(table.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
