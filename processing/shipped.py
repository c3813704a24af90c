"""The models and tables that travel with the package, by name: the folders of hub_cards/ (DESIGN.md 6).

Wherever a folder or Hub name is asked for, "scenes-decodetr" is one too, and needs no network.
"""

from pathlib import Path

HUB_CARDS = Path(__file__).resolve().parent.parent / "hub_cards"
DEFAULT_MODEL = "scenes-decodetr"


def resolve(name) -> str:
    """Where to load a model or table from.

    An existing folder stays as it is; else NAME, or a path that ends in hub_cards/NAME (as provenance written on
    another machine has it), becomes the folder of that name in the package, if there is one; anything else stays too:
    a Hub name.
    """
    path = Path(name)
    shipped = HUB_CARDS / path.name
    named = str(name) == path.name or path.parent.name == HUB_CARDS.name
    return str(shipped) if path.name and named and not path.is_dir() and shipped.is_dir() else str(name)


def cannot_load(what, name, error) -> FileNotFoundError:
    """The error for a user whose `what` ("model", "text model") `name` did not load, with the reason and a remedy."""
    shipped = sorted({file.parent.name for file in HUB_CARDS.glob("*/*.safetensors")})
    return FileNotFoundError(
        f"the {what} {name!r} cannot be loaded: {error}\nGive a folder, a Hub name, or a name shipped with decodetr "
        f"({', '.join(shipped) or 'none in this copy'})."
    )
