"""What a pool holds, and how well it covers what one wants to find.

Cosines are in the space of the pool's encoder. "Coverage" of a name is the cosine to its nearest prototype: where it
is low, no caption speaks of the name, the enhanced query has nothing to look up, and nothing stands for it in the
background of other vocabularies.
"""

from pathlib import Path
from typing import Any

import numpy as np

from decodetr.annotations.coco import read_image
from decodetr.modeling_decodetr import PrototypePool, Vocabulary
from decodetr.modeling_decodetr.vocabulary import describe_encoder, same_encoder
from decodetr.pool_builder.crops import crop_region
from decodetr.pool_builder.embedder import ClipEmbedder
from decodetr.pool_builder.pool_map import draw_pool_map
from decodetr.pool_builder.pool_page import write_pool_page
from decodetr.utils.files import committed, write_json
from decodetr.utils.shipped import loading

_SHOWN = 10  # rows of a printed list
_NEAREST = 5
_DUPLICATE = 0.99  # cosine from which two prototypes of a level are called duplicates


def inspect_pool(
    pool: PrototypePool, vocabulary: Vocabulary | None = None, queries: dict[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """
    Args:
        pool (PrototypePool). vocabulary (Vocabulary, optional): of the same encoder.
        queries (dict, optional): {text or file: unit embedding (d,)}.

    Returns:
        dict:
            coarse, fine: numbers of prototypes. regions: that the coarse ones stand for.
            count: of a coarse prototype, its regions: minimum, median, maximum.
            in_fine: share of the regions that a fine prototype stands for. mean_cosine: between prototypes.
            duplicates: list of {"rows", "cosine", "captions"}, the closest first.
            nearest: {query: list of {"row", "caption", "cosine", "count"}}.
            names: with a vocabulary, list of {"name", "cosine", "row", "caption"}, the worst covered first.

    Raises:
        ValueError: pool and vocabulary come from different encoders, or have embeddings of different widths.
    """
    rows = pool.prototypes.double().cpu().numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    level, count = pool.level.cpu().numpy(), pool.count.cpu().numpy()
    captions = pool.captions or [""] * len(pool)
    coarse = count[level == 0]
    found = {
        "coarse": len(coarse),
        "fine": pool.num_fine,
        "regions": int(coarse.sum()),
        "count": [int(coarse.min()), float(np.median(coarse)), int(coarse.max())],
        "in_fine": float(count[level == 1].sum() / max(coarse.sum(), 1)),
        "mean_cosine": pool.mean_cosine(),
        "duplicates": _duplicates(rows, level, captions),
        "nearest": {query: _nearest(rows @ embed, captions, count) for query, embed in (queries or {}).items()},
    }
    if vocabulary is not None:
        if not same_encoder(pool.info, vocabulary.info):
            raise ValueError(
                f"the pool was made with encoder {describe_encoder(pool.info)}, the vocabulary with "
                f"{describe_encoder(vocabulary.info)}: build both with the same one."
            )
        if vocabulary.embedding_dim != rows.shape[1]:
            raise ValueError(
                f"expected embeddings of width {rows.shape[1]}, as those of the pool, got {vocabulary.embedding_dim}; "
                "make it again with the pool's CLIP: decodetr vocabulary build --clip CLIP"
            )
        cosine = vocabulary.embeddings.double().cpu().numpy() @ rows.T
        best = cosine.argmax(1)
        names = [
            {"name": name, "cosine": float(cosine[i, row]), "row": int(row), "caption": captions[row]}
            for i, (name, row) in enumerate(zip(vocabulary.names, best))
        ]
        found["names"] = sorted(names, key=lambda entry: entry["cosine"])
    return found


def _nearest(cosine, captions, count):
    rows = np.argsort(-cosine, kind="stable")[:_NEAREST].tolist()
    return [
        {"row": row, "caption": captions[row], "cosine": float(cosine[row]), "count": int(count[row])} for row in rows
    ]


def _duplicates(rows, level, captions):
    """Pairs of one level that are nearly the same, the closest first."""
    pairs = []
    for one in (0, 1):
        members = np.flatnonzero(level == one)
        for start in range(0, len(members), 1024):
            cosine = rows[members[start : start + 1024]] @ rows[members].T
            for i, j in zip(*np.nonzero(cosine > _DUPLICATE)):
                if start + i < j:
                    pair = [int(members[start + i]), int(members[j])]
                    pairs.append(
                        {"rows": pair, "cosine": float(cosine[i, j]), "captions": [captions[r] for r in pair]}
                    )
    return sorted(pairs, key=lambda pair: -pair["cosine"])


def summary(found: dict[str, Any]) -> str:
    """What `inspect_pool` found, as text."""
    low, middle, high = found["count"]
    lines = [
        f"{found['coarse']} coarse and {found['fine']} fine prototypes for {found['regions']:,} regions",
        f"regions of a coarse prototype: {low:,} to {high:,}, median {middle:,.0f}",
        f"{100 * found['in_fine']:.0f} % of the regions are in a fine one too",
        f"mean cosine between prototypes: {found['mean_cosine']:.2f}",
        f"pairs of one level with a cosine above {_DUPLICATE}: {len(found['duplicates'])}",
    ]
    for pair in found["duplicates"][:_SHOWN]:
        lines.append(f"  {pair['cosine']:.3f}  {pair['captions'][0]!r}, {pair['captions'][1]!r}")
    for query, nearest in found["nearest"].items():
        lines.append(f"nearest to {query!r}:")
        lines += [f"  {entry['cosine']:.3f}  {entry['caption']!r} ({entry['count']:,} regions)" for entry in nearest]
    if names := found.get("names"):
        cosines = np.array([entry["cosine"] for entry in names])
        lines.append(
            f"{len(names)} names, cosine to the nearest prototype: {cosines.min():.2f} to {cosines.max():.2f}, median "
            f"{np.median(cosines):.2f}"
        )
        for title, some in (("worst", names[:_SHOWN]), ("best", names[::-1][:_SHOWN])):
            lines.append(f"{title} covered:")
            lines += [f"  {entry['cosine']:.3f}  {entry['name']!r}: {entry['caption']!r}" for entry in some]
    return "\n".join(lines) + "\n"


def write_inspection(pool: PrototypePool, found: dict[str, Any], folder: str | Path) -> None:
    """Write map.png, map.html and pool.json, which has what `inspect_pool` found."""
    with committed(folder) as staging:
        draw_pool_map(pool, staging / "map.png")
        write_pool_page(pool, staging / "map.html")
        write_json(staging / "pool.json", found)


def embed_queries(
    pool: PrototypePool, texts: list[str], files: list[str], clip: str | None = None
) -> dict[str, np.ndarray]:
    """Embed texts and pictures by the pool's encoder.

    Args:
        pool (PrototypePool). texts (list of str), files (list of str): of pictures.
        clip (str, optional): folder, Hub or shipped name of the encoder. Default: as the pool says.

    Returns:
        dict: {text or file: unit embedding (d,)}.

    Raises:
        FileNotFoundError: the encoder cannot be loaded. ValueError: it is unknown, or not the pool's.
    """
    name = clip or pool.info.get("encoder")
    if not name:
        raise ValueError("the pool does not say which encoder made it; give --clip")
    asked_by = None if clip else f"the pool says that it was made with it; --clip {name} fetches it"
    with loading("CLIP", name, asked_by) as folder:
        embedder = ClipEmbedder(folder)
    if not same_encoder(embedder.info, pool.info):
        raise ValueError(
            f"--clip is {describe_encoder(embedder.info)}, but the pool was made with {describe_encoder(pool.info)}; "
            "give that one"
        )
    if embedder.dim != pool.embedding_dim:
        raise ValueError(
            f"{name}: expected a CLIP with embeddings of width {pool.embedding_dim}, as those of the pool, got "
            f"{embedder.dim}; give the one that made the pool with --clip"
        )
    queries = dict(zip(texts, embedder.embed_texts(texts))) if texts else {}
    for file in files:
        picture = read_image(file)
        crop = crop_region(picture, (0, 0, *picture.size), embedder.size)
        queries[file] = embedder.embed_images([crop])[0]
    return queries
