"""Names where nobody gave any: what the captions of a pool say."""

from pathlib import Path

from decodetr.modeling_decodetr import PrototypePool, Vocabulary


def pool_names(folder: Path) -> Vocabulary:
    """The distinct captions of the coarse prototypes of a pool, with their embeddings.

    Args:
        folder (Path): of the pool.

    Raises:
        ValueError: the pool has no captions.
    """
    pool = PrototypePool.from_pretrained(folder)
    if not pool.captions:
        raise ValueError(f"{folder}: the pool has no captions; give --names")
    rows = {}
    for row, caption in enumerate(pool.captions[: len(pool) - pool.num_fine]):
        rows.setdefault(caption, row)
    kept = ("encoder", "encoder_revision", "encoder_fingerprint")
    info = {key: pool.info[key] for key in kept if key in pool.info}
    return Vocabulary(list(rows), pool.prototypes[list(rows.values())], info)
