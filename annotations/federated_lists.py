"""LVIS' lists of an image: categories verified to be absent, and those of which not every object has a box."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from decodetr.utils.excerpts import short

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from decodetr.annotations.findings import Findings

ABSENT, NOT_EXHAUSTIVE = "neg_category_ids", "not_exhaustive_category_ids"
LISTS = (ABSENT, NOT_EXHAUSTIVE)


def with_lists(entry: dict[str, Any], change: Callable[[str, list[Any]], list[Any]]) -> dict[str, Any]:
    """An image's entry with its lists changed: `change` takes key and list. The same object where nothing differs."""
    lists = {key: change(key, entry[key]) for key in LISTS if isinstance(entry.get(key), list)}
    same = all(entry[key] is values for key, values in lists.items())
    return entry if same else {**entry, **lists}


def renumber_lists(
    images: Iterable[dict[str, Any]],
    annotations: Iterable[dict[str, Any]],
    new_id: Mapping[int, int],
    shift: int,
    findings: Findings,
) -> list[dict[str, Any]]:
    """
    Entries of images whose lists are of the categories that a repair keeps.

    Args:
        images, annotations (list[dict]): repaired. new_id (dict): id of a category -> id that it becomes.
        shift (int): what makes ids of annotations right. Lists have it too, unless only as they are they are right.
    """
    images, present = list(images), defaultdict(set)
    for row in annotations:
        present[row["image_id"]].add(row["category_id"])
    listed = {value for entry in images for key in LISTS for value in _numbers(entry.get(key))}
    if shift and listed <= new_id.keys() and not all(value + shift in new_id for value in listed):
        shift = 0

    def renumbered(entry):
        def change(key, values):
            kept = {}
            for value in values:
                number = new_id.get(value + shift) if type(value) is int else None
                where = f"image id {entry['id']}: {short(value)} in {key}"
                if number is None:
                    what = "categories of LVIS' lists that are not in the file"
                    findings.add("error", what, where, "left out")
                elif key == ABSENT and number in present[entry["id"]]:
                    what = "categories that an image has and lists as absent"
                    findings.add("warning", what, where, "taken off the list")
                else:
                    kept[number] = None
            return list(kept)

        return with_lists(entry, change)

    return [renumbered(entry) for entry in images]


def _numbers(values):
    return [value for value in values if type(value) is int] if isinstance(values, list) else []
