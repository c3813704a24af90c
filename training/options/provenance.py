"""What a run may learn from: the settings of paper 5 (docs/paper.md), as switches, and the record of what was used.

A setting says which names the teacher may score in training, and whether captions and image-level labels of the images
may be used. Boxes of novel names are forbidden in all of them: in the annotations (they are dropped), among the
regions, and in what the detector, the backbone and the proposer had seen before. What cannot be known, such as what a
backbone of another library had seen, is recorded as unknown, unless it is declared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

PARTS = ("detector", "backbone", "proposer")
# Entries of training_info that are of one run alone. What went before is in "seen".
OF_A_RUN = (
    "setting allowed novel_names_seen annotated_names training_names data regions captions image_labels replay_data "
    "replay_image_labels pseudo_boxes pseudo_box_score pool vocabulary chosen"
).split()


@dataclass(frozen=True)
class Setting:
    """
    A row of the table of paper 5.

    Args:
        name (str).
        novel_names (bool): the teacher scores novel names too in training, else base names alone.
        captions (bool): captions that people wrote for whole images may be in the pool, or move it.
        image_labels (bool): names known to be somewhere in an image may narrow what its regions can be.
    """

    name: str
    novel_names: bool = False
    captions: bool = False
    image_labels: bool = False

    def check(self, **given: str | None) -> None:
        """ValueError for inputs (captions, image_labels, replay_image_labels: a file or None) that the setting
        forbids."""
        for name, file in given.items():
            switch = name.removeprefix("replay_")
            if file and not getattr(self, switch):
                allowed = [name for name, setting in SETTINGS.items() if getattr(setting, switch)]
                option = "--" + name.replace("_", "-")
                raise ValueError(
                    f"{option} {file}: {self.name} forbids it; leave it out, or give --setting {' or '.join(allowed)}"
                )

    def describe(self) -> dict[str, bool]:
        """The switches as a dict, for the record."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "name"}


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("V-OVD"),
        Setting("C-OVD", captions=True),
        Setting("G-OVD", novel_names=True),
        Setting("WS-OVD", novel_names=True, captions=True, image_labels=True),
    )
}
UNRESTRICTED = Setting("unrestricted", novel_names=True, captions=True, image_labels=True)


def choose_setting(name: str | None, novel: Sequence[str] | None) -> Setting:
    """The setting of a run: the one that is asked for, V-OVD where a split has novel names, else no restriction.

    Raises:
        ValueError: a setting without novel names to hold back.
    """
    if name is None:
        return SETTINGS["V-OVD"] if novel else UNRESTRICTED
    if not novel:
        raise ValueError(
            f"--setting {name}: expected novel names to hold back, got none; give --names-split FILE with them"
        )
    return SETTINGS[name]


def seen_before(
    training_info: dict[str, Any] | None, pool_info: dict[str, Any] | None, declared: dict[str, list[str]]
) -> dict[str, list[str] | None]:
    """What the parts of a run had learned boxes of: {part: list of names, or None where that is unknown}.

    Args:
        training_info: `config.training_info` of the starting point. pool_info: of the pool whose regions are used, or
            None without one. declared: {part: names}, instead of what is recorded.
    """
    info, pool = training_info or {}, (pool_info or {}).get("proposer_training_info") or {}
    earlier = info.get("seen") or {}
    seen = {"detector": _boxed_names(info), "backbone": None, "proposer": _boxed_names(pool)}
    if isinstance(earlier.get("backbone"), list):
        seen["backbone"] = earlier["backbone"]
    elif "pretrained_backbone" not in info:
        del seen["backbone"]
    if not pool_info or not pool_info.get("proposer"):
        del seen["proposer"]
    return seen | declared


def _boxed_names(info):
    """Names that a model had boxes of, by its training_info. None where that says nothing."""
    keys = ("pretrained_detector_names", "annotated_names" if "annotated_names" in info else "training_names")
    known = [info[key] for key in keys if info.get(key) is not None]  # an empty list says that it had none
    # Before the run that made it: its own detector, and the proposer of its regions, which could be pseudo boxes.
    earlier = [(info.get("seen") or {}).get(part, []) for part in ("detector", "proposer")]
    if "unknown" in earlier:
        return None
    known += [names for names in earlier if names]
    return sorted(set().union(*known)) if known else None


def check_seen(
    seen: dict[str, list[str] | None], novel: Sequence[str], setting: Setting, allowed: bool
) -> dict[str, list[str]]:
    """The novel names that each part had seen, {part: names}.

    Raises:
        ValueError: there are some, and `allowed` is false.
    """
    wanted = {_plain(name): name for name in novel}
    found = {
        part: sorted({wanted[_plain(name)] for name in names or () if _plain(name) in wanted})
        for part, names in seen.items()
    }
    found = {part: names for part, names in found.items() if names}
    if found and not allowed:
        words = "; ".join(
            f"the {part} had seen {len(names)} of {len(novel)} novel names: {', '.join(names[:5])}"
            f"{', ...' if len(names) > 5 else ''}"
            for part, names in found.items()
        )
        raise ValueError(
            f"{words}. In {setting.name} they are novel, so the result would not be open-vocabulary; start from "
            "models without them, or give --allow-seen-novel, which is recorded"
        )
    return found


def _plain(name):
    """A name as data sets spell it in different ways: "Teddy_Bear", "teddy bear"."""
    return " ".join(name.replace("_", " ").casefold().split())


def record(
    setting: Setting, seen: dict[str, list[str] | None], novel_seen: dict[str, list[str]], **used: Any
) -> dict[str, Any]:
    """What goes into `config.training_info` and the card: the setting, its switches, what was seen, what was used."""
    info = {"setting": setting.name, "allowed": setting.describe()}
    info["seen"] = {part: "unknown" if names is None else names for part, names in seen.items()}
    if novel_seen:
        info["novel_names_seen"] = novel_seen
    return info | {key: value for key, value in used.items() if value is not None}
