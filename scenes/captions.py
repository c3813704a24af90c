"""What people would write about a drawn object: paraphrases of its name, and captions of regions without an object.

The small CLIP and LLaVA learn from these. Their authors saw all names, as the web did. No box of a
detector's training set is described here, because the teachers' pictures come from separate splits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from decodetr.pool_builder.settings import prompt_text
from decodetr.scenes.world import NAMES, SceneName

if TYPE_CHECKING:
    import numpy as np

_PATTERN_WORDS = {"solid": {"solid", "plain"}, "striped": {"striped", "stripes"}, "dotted": {"dotted", "dots"}}
_PATTERN_PHRASES = {"solid": "in plain colour", "striped": "with stripes", "dotted": "with dots"}
# {c} colour, {p} pattern, {s} shape, {w} pattern as a phrase, {a} article of the colour
_FULL = (
    "{a} {c} {p} {s}",
    "{c} {p} {s}",
    "a photo of {a} {c} {p} {s}",
    "{a} {c} {s} {w}",
    "a {p} {s} in {c}",
    "this is {a} {c} {p} {s}",
)
_PARTIAL = ("{a} {c} {s}", "a {p} {s}", "a {s}", "{s}", "something {c}", "something {c} and {p}")
EMPTY = ("background", "an empty background", "a part of the background", "no object", "a photo without an object")
PROMPTS = (
    prompt_text("short"),
    "What is in this image?",
    "Describe this region.",
)


def clip_caption(name: SceneName | None, rng: np.random.Generator, partial: float = 0.1) -> str:
    """A caption for the contrastive pairs: with probability `partial` one that leaves something out, as the web's do.
    `name` None is a region without an object."""
    if name is None:
        return str(rng.choice(EMPTY))
    return _fill(str(rng.choice(_PARTIAL if rng.uniform() < partial else _FULL)), name)


def answer(name: SceneName | None, rng: np.random.Generator) -> str:
    """What the captioner should say: one of the full captions. `name` None is a region without an object."""
    return str(rng.choice(EMPTY)) if name is None else _fill(str(rng.choice(_FULL)), name)


def mentioned_name(caption: str) -> SceneName | None:
    """The `SceneName` that a text says everything of, in whatever words of this file. None if it leaves a part out."""
    words = set(re.findall(r"[a-z]+", caption.lower()))
    for name in NAMES:
        if {name.colour, name.shape} <= words and words & _PATTERN_WORDS[name.pattern]:
            return name
    return None


class SceneTexts:
    """What the teachers of the drawn scenes learn to say: of `things`, or of a region without one (None).

    Another world has its own class with the same attributes and methods.
    """

    things = NAMES
    merges = 200  # of the CLIP's tokenizer. As many as its words need
    clip_caption = staticmethod(clip_caption)
    answer = staticmethod(answer)

    def every(self) -> list[str]:
        """All texts that can occur, sorted."""
        return every_caption(NAMES)


SCENE_TEXTS = SceneTexts()


def every_caption(names: Iterable[SceneName]) -> list[str]:
    """All texts that can occur, sorted: what the tokenizers are trained on."""
    texts = {_fill(template, name) for name in names for template in (*_FULL, *_PARTIAL)}
    return sorted(texts | set(EMPTY) | set(PROMPTS))


def _fill(template, name):
    return template.format(
        c=name.colour,
        p=name.pattern,
        s=name.shape,
        w=_PATTERN_PHRASES[name.pattern],
        a="an" if name.colour == "orange" else "a",
    )
