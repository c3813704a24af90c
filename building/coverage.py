"""How much of what the teacher sees a detector finds. A closed detector is blind to what resembles no class of its own,
and without boxes nobody else can say so.

Windows of a fixed grid are looked at, whatever the detector says. A window counts if its caption passed the filter, as
well as most captions of regions do, and CLIP rather gives it one of the names than the background. That name is looked
for among the regions of the detector in the same photo.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from decodetr.building.teacher_boxes import all_regions, teacher_names
from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
from decodetr.processing import RegionTable

ENOUGH = 0.6  # with less, most of what can be seen has no box
_SURE = 0.25  # share of the regions with a lower CLIP score than the windows that count


def coverage(model: DeCoDetrForObjectDetection, grid: Path, built: Path) -> dict[str, Any]:
    """
    Args:
        model (DeCoDetrForObjectDetection): whose names and background compete.
        grid (Path): regions of windows of some photos. built (Path): regions of a detector in all of them.

    Returns:
        dict: "photos", "things" (pairs of a photo and a name that one of its windows has), "found" (of these, with a
        region of the detector that has it), "share" (None where there is nothing to find) and "missed" (up to ten
        names that are missed most, with the number of photos).
    """
    windows, kept, regions = RegionTable.load(grid), RegionTable.load(built), all_regions(built)
    scores = np.concatenate([kept.get(image_id)["scores"] for image_id in kept.image_ids])
    least, things, found = np.quantile(scores, _SURE), 0, 0
    missed: Counter[str] = Counter()
    for image_id in windows.image_ids:
        seen = windows.get(image_id)
        said = _names(model, seen["image_embeds"][seen["scores"] >= least])
        own = _names(model, regions.get(image_id)["image_embeds"])
        things, found = things + len(said), found + len(said & own)
        missed.update(said - own)
    most = sorted(missed.items(), key=lambda item: (-item[1], item[0]))[:10]
    return {
        "photos": len(windows.image_ids),
        "things": things,
        "found": found,
        "share": found / things if things else None,
        "missed": [{"name": name, "photos": count} for name, count in most],
    }


def _names(model, image_embeds):
    name, share = teacher_names(model, image_embeds)
    return {model.vocabulary.names[row] for row in name[share > 0.5].tolist()}


def coverage_text(found: dict[str, Any], what: str = "The detector") -> str:
    """A line for people. Args: found: of [`coverage`]. what: who finds it."""
    if found["share"] is None:
        return f"In {found['photos']} photos the teacher sees nothing that could be looked for."
    text = (
        f"{what} finds {100 * found['share']:.0f} % of what the teacher sees in {found['photos']} photos "
        f"({found['found']} of {found['things']} pairs of a photo and a name)."
    )
    names = [f"{one['name']!r}" for one in found["missed"][:5]]
    return text + (f" Missed most: {', '.join(names)}." if names else "")
