"""The parts of a model or table, and what is known of their licenses on this machine. Nothing is fetched."""

from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import CardData, ModelCardData, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from decodetr.cards.places import shown_place
from decodetr.cards.render import Markdown, parsed
from decodetr.utils.documents import read_text
from decodetr.utils.shipped import resolve
from decodetr.utils.tables import markdown_table

_UNKNOWN = "not known here: see where it comes from"
_STATED = "{} It covers these weights; the parts keep their own licenses."
_ASK = (
    "**None is stated.** It follows from the licenses of the parts above, and of the data. Who publishes this states "
    "it with `decodetr card --license`, in the Hub's spelling."
)


def license_of(name: str) -> str | None:
    """The license that the card of a folder, or of a Hub name whose card is in the cache, states. None: not known."""
    if (data := card_data_of(name)) is None:
        return None
    found = data.get("license_name") if data.get("license") == "other" else data.get("license")
    return str(found) if found else None


def card_data_of(name: str) -> CardData | None:
    """The front matter of the card of a folder, or of a Hub name whose card is in the cache."""
    folder = Path(resolve(name))
    try:
        file = folder / "README.md" if folder.is_dir() else try_to_load_from_cache(str(name), "README.md")
        if file is None or not isinstance(file, str | Path) or not Path(file).is_file():
            return None
        return parsed(read_text(file), str(file)).data
    except (OSError, ValueError, HFValidationError):  # a card that cannot be read says nothing
        return None


def parts_table(parts: Iterable[tuple[str, str | None]]) -> Markdown:
    """A table of (role, name), and the license that each part's own card states."""
    rows = [[role, shown_place(name), license_of(name) or _UNKNOWN] for role, name in parts if name]
    if not rows:
        return Markdown("Nothing is recorded.")
    return Markdown(markdown_table(["part", "what", "license, as its own card states it"], rows, left=3).rstrip())


def licensing(data: ModelCardData) -> str:
    """What a card says of the license of what it describes."""
    if not data.license:
        return Markdown(_ASK)
    stated = data.get("license_name") or data.license
    link = data.get("license_link")
    return _STATED.format(f"{stated}{f' ({link})' if link else ''}.")
