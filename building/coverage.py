"""How much of what the teacher sees a detector finds. A closed detector is blind to what resembles none of its
classes, and without boxes nobody else can say so.

Windows of a fixed grid are looked at, whatever the detector says. A window shows a thing if its caption passed the
filter, as well as most captions of regions do, and CLIP rather gives it one of the names than the background. The
detector has found it if one of its regions lies in the window, or around it, and CLIP gives that one a name too.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from decodetr.building.teacher_boxes import all_regions, teacher_names
from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
from decodetr.processing import RegionTable

ENOUGH = 0.6  # with less, many things that can be seen have no box
_SURE = 0.25  # share of the regions with a lower CLIP score than the windows that count
_INSIDE = 0.7  # share of the smaller one of window and region that both have, from which it lies in the other


def coverage(model: DeCoDetrForObjectDetection, grid: Path, built: Path) -> dict[str, Any]:
    """
    Args:
        model (DeCoDetrForObjectDetection): whose names and background compete.
        grid (Path): regions of windows of some photos. built (Path): regions of a detector in all of them.

    Returns:
        dict: "photos", "things" (windows that show one), "found" (of these), "share" (None where there is nothing to
        find) and "missed" (up to ten names of windows without a region, with their number).
    """
    windows, kept, regions = RegionTable.load(grid), RegionTable.load(built), all_regions(built)
    scores = np.concatenate([kept.get(image_id)["scores"] for image_id in kept.image_ids])
    least, things, found = np.quantile(scores, _SURE), 0, 0
    missed: Counter[str] = Counter()
    for image_id in windows.image_ids:
        seen, own = windows.get(image_id), regions.get(image_id)
        names, share = teacher_names(model, seen["image_embeds"])
        shows = (share.numpy() > 0.5) & (seen["scores"] >= least)
        _, of_own = teacher_names(model, own["image_embeds"])
        near = _overlap(seen["boxes"], own["boxes"][of_own.numpy() > 0.5]) >= _INSIDE
        has = near.any(1)
        things, found = things + int(shows.sum()), found + int((shows & has).sum())
        missed.update(model.vocabulary.names[row] for row in names.numpy()[shows & ~has])
    most = sorted(missed.items(), key=lambda item: (-item[1], item[0]))[:10]
    return {
        "photos": len(windows.image_ids),
        "things": things,
        "found": found,
        "share": found / things if things else None,
        "missed": [{"name": name, "windows": count} for name, count in most],
    }


def _overlap(one, other):
    """(n, m): the area that two boxes share, over that of the smaller one. Boxes (x0, y0, x1, y1)."""
    low, high = np.maximum(one[:, None, :2], other[None, :, :2]), np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (one, other)]
    return shared / np.maximum(np.minimum(areas[0][:, None], areas[1][None]), 1e-9)


def coverage_text(found: dict[str, Any], what: str = "The detector") -> str:
    """A line for people. Args: found: of [`coverage`]. what: who finds it."""
    if found["share"] is None:
        return f"In the windows of {found['photos']} photos the teacher sees nothing that could be looked for."
    text = (
        f"{what} finds {100 * found['share']:.0f} % of what the teacher sees in windows of {found['photos']} photos "
        f"({found['found']} of {found['things']})."
    )
    names = [f"{one['name']!r}" for one in found["missed"][:5]]
    return text + (f" Missed most: {', '.join(names)}." if names else "")
