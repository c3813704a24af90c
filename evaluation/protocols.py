"""Protocols of evaluation, as data: which names are base and novel, which images count, how many detections.

A protocol is a JSON file. Those in `protocols/` are known by name. `counts` are those of the published set:
`Protocol.differences` says where a file departs from them, so that a report never calls a part of a set the whole.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Self

from decodetr.annotations.names_split import _check_apart, _names
from decodetr.evaluation import PROTOCOLS
from decodetr.utils.documents import read_json
from decodetr.utils.excerpts import short

if TYPE_CHECKING:
    from decodetr.annotations.coco import CocoAnnotations

_FOLDER = Path(__file__).parent / "protocols"

_GROUPS = {"r": "rare", "c": "common", "f": "frequent"}


@dataclass(frozen=True)
class Protocol:
    """
    What `decodetr eval` measures.

    Args:
        name (str), description (str), source (str): for the report.
        max_detections (int): the best predictions of an image over all names that count.
        federated (bool): LVIS' rules (paper 6).
        images (str): "all", or "annotated": only images with an annotation of one of the names.
        base, novel (dict or None): category id as text -> name. None: every name of the file that the other lacks.
        novel_frequencies (str): instead of `novel`, the names of these LVIS frequencies ("r"). Others are base.
        counts (dict): "names", "base", "novel", "images" of the published validation set.
        headline (list): the metrics that papers quote, best known first.
    """

    name: str
    description: str
    source: str = ""
    max_detections: int = 100
    federated: bool = False
    images: str = "all"
    base: dict | None = None
    novel: dict | None = None
    novel_frequencies: str = ""
    counts: dict = field(default_factory=dict)
    headline: tuple = ()

    @classmethod
    def load(cls, name: str | Path) -> Self:
        """A protocol by its name (one of PROTOCOLS), or from a JSON file with the fields of this class.

        Raises:
            FileNotFoundError: neither. ValueError: unknown or wrong fields. The message names the file.
        """
        file = _FOLDER / f"{name}.json" if name in PROTOCOLS else Path(name)
        try:
            document = read_json(file, dict, unique=True)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{name}: no such protocol; give one of {', '.join(PROTOCOLS)}, or a file"
            ) from error
        known = {entry.name for entry in fields(cls)} - {"name"}
        if "description" not in document or set(document) - known:
            unknown = sorted(set(document) - known)
            raise ValueError(
                f"{file}: expected an object with description and some of {sorted(known)}, got "
                f"{f'also {unknown[:5]}' if unknown else 'no description'}"
            )
        for key, (expected, right) in _FIELDS.items():
            if key in document and not right(document[key]):
                raise ValueError(f"{file}: expected {key} {expected}, got {short(document[key])}")
        of_ours = file.stem in PROTOCOLS and name not in PROTOCOLS  # a file of somebody's under a name of ours
        protocol = cls(name=f"{file.stem} (a file)" if of_ours else file.stem, **document)
        groups = [_names(file, group, getattr(protocol, group) or {}) for group in ("base", "novel")]
        _check_apart(file, *groups)
        return protocol

    def split(self, coco: "CocoAnnotations") -> dict:
        """The split of a file: {"base": names or None, "novel": names or None, "groups": {group: names}}. The groups
        are those of LVIS' frequencies, where federated rules count and the file has them.

        Raises:
            ValueError: the file lacks names or frequencies of the protocol.
        """
        base, novel = (None if group is None else list(group.values()) for group in (self.base, self.novel))
        listed = [*(base or ()), *(novel or ())]
        if self.counts and (missing := set(listed) - set(coco.names)):
            raise ValueError(
                f"{coco.file}: expected the {len(listed)} names of {self.name}, got none called "
                f"{sorted(missing)[:5]}; give the annotation file of that data set"
            )
        if base is not None and novel is None:
            known = set(base)
            novel = [name for name in coco.names if name not in known]
        if self.novel_frequencies and coco.frequencies is None:
            raise ValueError(f"{coco.file}: {self.name} needs the frequency of every category, as LVIS has it")
        pairs = list(zip(coco.names, coco.frequencies or ()))
        groups = {
            group: [name for name, frequency in pairs if frequency == letter] for letter, group in _GROUPS.items()
        }
        groups = groups if self.federated and pairs else {}
        if not self.novel_frequencies:
            return {"base": base, "novel": novel, "groups": groups}
        novel = [name for name, frequency in pairs if frequency in self.novel_frequencies]
        base = [name for name, frequency in pairs if frequency not in self.novel_frequencies]
        return {"base": base, "novel": novel, "groups": groups}

    def select_images(self, coco: "CocoAnnotations") -> "CocoAnnotations":
        """The file with the images that count."""
        if self.images == "all":
            return coco
        split = self.split(coco)
        names = set(coco.names) if split["base"] is None else {*split["base"], *(split["novel"] or ())}
        index = coco.annotations_by_image
        counts = [name in names for name in coco.names]
        rows = [row for row, category in zip(index.image_rows, index.column("category")) if counts[category]]
        ids = list(index)
        return coco.select_images({ids[row] for row in set(rows)})

    def differences(self, coco: "CocoAnnotations") -> list[str]:
        """Where a file, its images selected, departs from the published set: list of texts, empty if nowhere."""
        split = self.split(coco)
        base, novel = split["base"], split["novel"]
        if base is None and novel is not None:
            base = set(coco.names) - set(novel)
        found = {
            "names": len(coco.names) if base is None else len(base) + len(novel),
            "base": len(base or ()),
            "novel": len(novel or ()),
            "images": len(coco.images),
        }
        return [
            f"{found[key]:,} {key} instead of {count:,}" for key, count in self.counts.items() if found[key] != count
        ]


def _is_counts(value):
    return isinstance(value, dict) and all(type(number) is int and number >= 0 for number in value.values())


def _is_texts(value):
    return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)


def _is_text(value):
    return isinstance(value, str)


# Of a protocol's file: what a field must be, and whether a value is that.
_FIELDS = {
    "description": ("as a text", _is_text),
    "source": ("as a text", _is_text),
    "max_detections": ("of at least 1", lambda value: type(value) is int and value >= 1),
    "federated": ("true or false", lambda value: isinstance(value, bool)),
    "images": ('"all" or "annotated"', lambda value: value in ("all", "annotated")),
    "novel_frequencies": (
        "with some of r, c and f",
        lambda value: _is_text(value) and set(value) <= set("rcf"),
    ),
    "counts": ("with counts of names, base, novel or images", _is_counts),
    "headline": ("as a list of metrics", _is_texts),
}
