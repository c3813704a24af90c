"""A picture of a pool in two dimensions: what it holds, and how its two levels (paper 1.5, 1.6) hang together.

Coarse prototypes lie where t-SNE puts them (the two principal components, where there are few or very many), pushed
apart a little where they would cover each other. Fine ones are drawn around their parent, because a joint embedding
of thousands of points tears families apart: their distance from it grows with their angle to it, their order around it
follows the principal components. One thread computes the layout: on one machine equal pools give equal pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from decodetr.utils.files import replacing
from decodetr.utils.markup import one_line

if TYPE_CHECKING:
    from decodetr.modeling_decodetr import PrototypePool

SIZE = (1600, 1200)  # pixels
MOST_LABELS = 40
_TSNE = range(8, 2001)  # numbers of coarse prototypes. t-SNE of more takes minutes
_LONGEST_LABEL = 34  # letters
_DPI = 100
_ROUNDS = 40  # of pushing places apart


def layout(prototypes: np.ndarray, level: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """Where the prototypes lie on the map.

    Args:
        prototypes (np.ndarray of shape (M, d)): unit rows.
        level (np.ndarray of shape (M,)): 0 coarse, 1 fine.
        parent (np.ndarray of shape (M,)): row of the parent of a fine prototype.

    Returns:
        np.ndarray (M, 2) float64. Neighbouring parents are far enough apart for their fine prototypes.
    """
    plane = _principal_plane(prototypes)
    coarse = np.flatnonzero(level == 0)
    places = np.zeros_like(plane)
    places[coarse] = plane[coarse]
    if len(coarse) in _TSNE:
        places[coarse] = _tsne(prototypes[coarse], plane[coarse])
    places[coarse] = _apart(places[coarse])
    # The longest stem is 0.45 of the way to the next coarse prototype.
    room = np.zeros(len(plane))
    room[coarse] = np.minimum(0.45 * _distance_to_next(places[coarse]), 0.9 * _gap(len(coarse)))
    fine = np.flatnonzero(level == 1)
    if not len(fine):
        return places
    cosine = np.einsum("id,id->i", prototypes[fine], prototypes[parent[fine]])
    angle = np.arccos(np.clip(cosine, -1, 1))
    length = 0.35 + 0.65 * angle / max(angle.max(), 1e-9)
    offset = plane[fine] - plane[parent[fine]]
    turn = np.arctan2(offset[:, 1], offset[:, 0])
    for one in np.unique(parent[fine]):
        family = np.flatnonzero(parent[fine] == one)
        family = family[np.argsort(turn[family], kind="stable")]
        turns = turn[family[0]] + 2 * np.pi * np.arange(len(family)) / len(family)
        radius = room[one] * length[family]
        places[fine[family]] = places[one] + radius[:, None] * np.stack([np.cos(turns), np.sin(turns)], 1)
    return places


def draw_pool_map(pool: PrototypePool, file: str | Path) -> dict[int, list[float]]:
    """Draw a `PrototypePool` as a picture of SIZE pixels.

    Large dots are coarse prototypes, small ones fine, joined to their parent by a thin line. Their areas grow with the
    number of captions that a prototype stands for. The largest coarse prototypes are labelled with their caption, at
    most MOST_LABELS of them. One whose label would cover another label is passed over.

    Args:
        pool: with or without captions.
        file: picture to write. Its folder is made if missing.

    Returns:
        dict: {row of the pool that got a label: (x0, y0, x1, y1) of the label in pixels from the lower left corner},
        largest prototype first. Empty if the pool has no captions.

    Raises:
        ValueError: a suffix that matplotlib cannot write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection, PathCollection
    from matplotlib.figure import Figure

    file = Path(file)
    figure = Figure(figsize=(SIZE[0] / _DPI, SIZE[1] / _DPI), dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    kinds = sorted(canvas.get_supported_filetypes())
    if file.suffix.removeprefix(".").lower() not in kinds:
        raise ValueError(f"{file}: expected a file with .{', .'.join(kinds)}, got {file.suffix or 'no suffix'!r}")
    prototypes, level, parent, count = (
        getattr(pool, name).detach().cpu().numpy() for name in ("prototypes", "level", "parent", "count")
    )
    lengths = np.linalg.norm(prototypes, axis=1, keepdims=True)
    places = layout(prototypes / np.maximum(lengths, 1e-12), level, parent)
    share = np.sqrt(count / max(count.max(), 1))
    dot = min(350, 60_000 / max((level == 0).sum(), 1))  # square points: the largest coarse one
    axes = figure.add_axes((0.02, 0.05, 0.96, 0.89))
    fine, coarse = np.flatnonzero(level == 1), np.flatnonzero(level == 0)
    stems = np.stack([places[fine], places[parent[fine]]], 1)
    axes.add_collection(LineCollection(list(stems), colors="#7f9cbb", linewidths=0.6, zorder=1))
    x, y = places.T
    axes.scatter(
        x[fine], y[fine], s=dot * (0.02 + 0.1 * share[fine]), c="#2f5d8c", linewidths=0, zorder=4, label="fine"
    )
    areas = dot * (0.1 + 0.9 * share[coarse])
    axes.scatter(x[coarse], y[coarse], s=areas, c="#e08a4a", alpha=0.8, linewidths=0, zorder=3, label="coarse")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.margins(0.06, 0.04)
    figure.suptitle(f"{len(coarse)} coarse and {len(fine)} fine prototypes", y=0.985, fontsize=16)
    note = "A dot's area grows with the number of captions behind it; fine prototypes surround their coarse parent."
    figure.text(0.02, 0.015, note, fontsize=10, color="#555555")
    legend = axes.legend(loc="lower right", bbox_to_anchor=(1, -0.055), ncols=2, frameon=False)
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):  # of the dots
            handle.set_sizes([60])
    radii = dict(zip(coarse.tolist(), np.sqrt(areas / np.pi) * _DPI / 72))
    labelled = _label(axes, pool.captions, places, count, radii) if pool.captions else {}
    with replacing(file) as partial:
        figure.savefig(partial)
    return labelled


def _label(axes, captions, places, count, radii):
    """Write captions next to coarse prototypes, {row: radius in pixels}, where there is room. Returns their boxes."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    figure = axes.figure
    renderer = figure.canvas.get_renderer()
    frame, taken = figure.bbox, {}
    axes.autoscale_view()
    centres = axes.transData.transform(places)
    for row in sorted(radii, key=lambda row: (-count[row], row)):
        text = one_line(captions[row])
        if not text:
            continue
        text = text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1].rstrip() + "…"
        label = figure.text(
            0, 0, text, fontsize=10, color="#1c2430", parse_math=False, zorder=5, va="bottom",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip
        extent = label.get_window_extent(renderer)
        (x, y), gap = centres[row], radii[row] + 2
        corners = (
            (x + gap, y - extent.height / 2),
            (x - gap - extent.width, y - extent.height / 2),
            (x - extent.width / 2, y + gap),
            (x - extent.width / 2, y - gap - extent.height),
        )
        boxes = [Bbox.from_bounds(*corner, extent.width, extent.height) for corner in corners]
        free = [
            box
            for box in boxes
            if frame.x0 <= box.x0
            and box.x1 <= frame.x1
            and not any(box.overlaps(other.padded(2)) for other in taken.values())
        ]
        if not free:
            label.remove()
            continue
        label.set_position(free[0].p0 / frame.size)  # a share of the figure, whose resolution the file decides
        taken[row] = free[0]
        if len(taken) == MOST_LABELS:
            break
    return {row: box.extents.tolist() for row, box in taken.items()}


def _principal_plane(points):
    """(n, 2) float64: the two principal components of points (n, d), largest spread 1. Zeros for what is not there."""
    centred = points.astype(np.float64) - points.mean(0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :2]
    # An eigenvector's sign is open: its largest entry is positive here.
    axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0))
    plane = np.zeros((len(points), 2))
    plane[:, : axes.shape[1]] = centred @ axes
    return plane / max(np.abs(plane).max(), 1e-12)


def _tsne(points, start):
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30, (len(points) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init=(1e-4 * start).astype(np.float32), random_state=0, max_iter=500)
    with threadpool_limits(limits=1):  # threads add up in the order in which they finish
        places = tsne.fit_transform(points.astype(np.float32)).astype(np.float64)
    return places / max(np.abs(places).max(), 1e-12)


def _gap(n):
    """How far apart n places on the map, which is 2 wide, should be."""
    return 1.2 / np.sqrt(n)


def _apart(places):
    """Places (n, 2), those closer than `_gap` pushed apart."""
    from scipy.spatial import cKDTree

    n = len(places)
    if n < 2:
        return places
    # A spiral, too small to be seen, so that equal places have a direction in which to go.
    number = np.arange(n)
    spiral = np.stack([np.cos(2.4 * number), np.sin(2.4 * number)], 1) * (1 + number)[:, None] / n
    places = places + 1e-3 * _gap(n) * spiral
    for _ in range(_ROUNDS):
        distance, other = cKDTree(places).query(places, k=min(n, 9))
        lacking = np.maximum(_gap(n) - distance[:, 1:], 0)
        away = (places[:, None] - places[other[:, 1:]]) / np.maximum(distance[:, 1:, None], 1e-12)
        places = places + 0.3 * (lacking[..., None] * away).sum(1)
    return places


def _distance_to_next(places):
    """(n,) distance of each place to the nearest other one. Infinite if there is no other."""
    from scipy.spatial import cKDTree

    if len(places) < 2:
        return np.full(len(places), np.inf)
    return cKDTree(places).query(places, k=2)[0][:, 1]
