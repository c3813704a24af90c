"""The map of a pool as a page that can be moved, enlarged and searched: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from decodetr.pool_builder.pool_map import layout
from decodetr.utils.documents import read_text
from decodetr.utils.files import write_text
from decodetr.utils.markup import html_text

if TYPE_CHECKING:
    from decodetr.modeling_decodetr import PrototypePool

_PAGE = Path(__file__).with_name("pool_page.html")


def write_pool_page(pool: PrototypePool, file: str | Path) -> None:
    """Write the page.

    Args:
        pool (PrototypePool). file: .html to write. Its folder is made if missing.
    """
    prototypes, level, parent, count = (
        getattr(pool, name).detach().cpu().numpy() for name in ("prototypes", "level", "parent", "count")
    )
    lengths = np.linalg.norm(prototypes, axis=1, keepdims=True)
    places = layout(prototypes / np.maximum(lengths, 1e-12), level, parent)
    places = (places - (places.max(0) + places.min(0)) / 2) / max(np.ptp(places, axis=0).max() / 2, 1e-12)
    points = {
        "x": places[:, 0].round(4).tolist(),
        "y": (-places[:, 1]).round(4).tolist(),  # as on the picture: upwards
        "level": level.tolist(),
        "parent": parent.tolist(),
        "count": count.tolist(),
        "caption": list(pool.captions or [""] * len(pool)),
        "order": np.argsort(-count, kind="stable").tolist(),
    }
    title = f"{len(pool) - pool.num_fine} coarse and {pool.num_fine} fine prototypes"
    # A caption must not be able to end the script.
    data = json.dumps(points, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", " ").replace("\u2029", " ")
    page = read_text(_PAGE).replace("@TITLE@", html_text(title)).replace("@POINTS@", data)
    write_text(file, page)
