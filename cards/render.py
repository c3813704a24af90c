"""Fill a template of hub_cards/templates/ with facts. What comes from data is shown as it is, and never obeyed."""

import re
from collections.abc import Mapping
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from decodetr.cards.sections import joined, renewed, sections_of
from decodetr.utils.documents import read_text
from decodetr.utils.markup import markdown_text, visible
from decodetr.utils.shipped import HUB_CARDS

TEMPLATES = HUB_CARDS / "templates"
_BLANK = re.compile(r"\n{3,}")


class Markdown(str):
    """Text that is Markdown already: a table, a block of code, a sentence of ours. Any other text gets escapes."""

    __slots__ = ()


def fill(template: str, data: ModelCardData, facts: Mapping[str, Any]) -> str:
    """A card.

    Args:
        template (str): name of a file in hub_cards/templates/, without its ending.
        data (ModelCardData): the front matter. facts (dict): what the template names. A text gets the escapes that
            show it as it is, unless it is [`Markdown`]; what is None or empty leaves its section out.
    """
    text = read_text(TEMPLATES / f"{template}.md")
    card = ModelCard.from_template(
        _sound(data), template_str=text, **{key: _safe(fact) for key, fact in facts.items()}
    )
    card.text = joined(sections_of(_BLANK.sub("\n\n", card.text)))
    return card.content


def renew(
    old: str, new: str, where: str, overwrite: bool = False, forced: tuple[str, ...] = ()
) -> tuple[str, list[str]]:
    """A card that is there, with what a new one says. Fields of the front matter that are there stay, but for
    those of `forced` and "model-index"; tags are added up.

    Args:
        old, new (str): cards. where (str): file of the old one, for messages. overwrite: see [`renewed`].

    Returns:
        (card, headings of what was kept although it differs).

    Raises:
        ValueError: the old front matter is no YAML mapping.
    """
    mine, theirs = parsed(old, where), parsed(new, "the new card")
    for key, value in theirs.data.__dict__.items():
        if value is None or (mine.data.get(key) is not None and key not in (*forced, "tags", "eval_results")):
            continue
        if key == "tags":
            value = list(dict.fromkeys([*(mine.data.get("tags") or []), *value]))
        mine.data[key] = value
    body, kept = renewed(mine.text, theirs.text, overwrite)
    mine.text = body
    return mine.content, kept


def parsed(text: str, where: str) -> ModelCard:
    """A card as `huggingface_hub` reads it.

    Raises:
        ValueError: its front matter is no YAML mapping, or has results that are none.
    """
    try:
        return ModelCard(text)
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        message = " ".join(str(error).split())
        raise ValueError(
            f"{where}: the front matter (between the two lines of ---) cannot be read: {message}"
        ) from error


def content_of(card: ModelCard) -> str:
    """The text of a card. One without front matter gets none."""
    return card.content if card.data.to_dict() else card.text


def _sound(data):
    """Without characters that YAML or a reader cannot show."""
    for key, value in data.__dict__.items():
        if isinstance(value, str):
            data[key] = visible(value)
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            data[key] = [visible(item) for item in value]
    return data


def _safe(fact):
    if isinstance(fact, Markdown):
        return fact
    if isinstance(fact, str):
        return Markdown(markdown_text(fact))
    if isinstance(fact, Mapping):
        return {key: _safe(value) for key, value in fact.items()}
    return [_safe(value) for value in fact] if isinstance(fact, list | tuple) else fact
