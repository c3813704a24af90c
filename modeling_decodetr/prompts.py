"""Names and what is embedded for them: a name itself, or other texts, its prompts."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_ARTICLE = re.compile(r"(a|an|the)\s+", re.IGNORECASE)


def checked_names(names: Any) -> list[str]:
    """names as a list (of a dict its keys), or a ValueError that says which one is no name."""
    if isinstance(names, str):
        raise ValueError(f"names must be a list of strings, got the string {names!r}; write [{names!r}].")
    names = list(names or [])
    if not names:
        raise ValueError("names must hold at least one name, got none.")
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"names must be non-empty strings, got {name!r} at position {i}.")
    return names


def spaced(name: str) -> str:
    """The name with spaces in the place of underscores."""
    return name.replace("_", " ").strip() or name


def prompts_of(
    names: Sequence[str] | Mapping[str, str | Sequence[str]], underscores_to_spaces: bool = False
) -> list[list[str]]:
    """What is embedded for each of K names: one text or several.

    Args:
        names: a list, or a dict that has the text or texts of each name.
        underscores_to_spaces (`bool`): for names that have no other texts.

    Raises:
        ValueError: what is no text, or cannot be encoded.
    """
    prompts = []
    for i, name in enumerate(checked_names(names)):
        given = names[name] if isinstance(names, Mapping) else name
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, Sequence) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
            raise ValueError(f"the prompts of {name!r} must be a text or a list of texts, got {given!r}.")
        texts = list(dict.fromkeys(texts))
        if underscores_to_spaces and texts == [name]:
            texts = [spaced(name)]
        for text in texts:  # no tokenizer takes half of a surrogate pair
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError(f"names must be texts, got {text!r} at position {i}: was it written in UTF-8?")
        prompts.append(texts)
    return prompts


def own_prompts(names: Sequence[str], prompts: Sequence[list[str]]) -> dict[str, list[str]]:
    """{name: its prompts} of those names that are not their own and only prompt, for `Vocabulary.info["prompts"]`."""
    return {name: texts for name, texts in zip(names, prompts) if texts != [name]}


def recorded(info: Mapping[str, Any], key: str) -> dict[str, Any]:
    """What a vocabulary's info has of its names under "prompts" or "examples". Nothing where it is no mapping, as a
    config of others may have it."""
    found = info.get(key)
    return dict(found) if isinstance(found, Mapping) else {}


def name_of(label: str, known: Sequence[str] | dict[str, int]) -> str:
    """The name that a label stands for: itself if it is known, else without the article and full stop that prompts of
    other detectors have ("a cat."), in the spelling that is known.

    Args:
        label (str). known: names with an embedding.
    """
    bare = label.strip().rstrip(".").rstrip() or label
    short = _ARTICLE.sub("", bare, count=1) if _ARTICLE.match(bare) else bare
    forms = (label, bare, short, short.lower())
    return next((form for form in forms if form in known), short)
