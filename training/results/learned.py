"""Whether a run has visibly not learned: said at its end, with what was seen and what to do, from its own losses and
metrics."""

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decodetr.training.planning.choices import Situation

_LAST = 3  # log entries whose mean is the end of a run
_LEARNED = 0.7  # of the first loss: what a stream that began with random weights must be below in the end
_FOUND = 10.0  # class-agnostic AP50, in percent, below which next to no object is found
_RECALLED = 50.0  # class-agnostic recall, in percent, of which this cannot be: others are found that are not annotated
_NAMED = 1 / 3  # of it: AP50 of the names below which boxes are right and names are not
_NOVEL = 1 / 3  # of AP50 of base names: that of novel ones below which what has no box was not learned
_WORSE = 1.0  # points of AP50 by which a fine-tune may end below its start
_TERMS = {"loss_align": "names", "loss_distill": "prototypes", "loss_det": "boxes"}
_CHOSEN = ("max_steps", "num_train_epochs", "learning_rate", "semantic_learning_rate")


def doubts(
    history: list[dict[str, float]],
    metrics: dict[str, float] | None,
    situation: "Situation",
    before_after: dict[str, tuple[float, float]] | None = None,
    given: Collection[str] = (),
    steps: int = 0,
) -> list[str]:
    """
    List what speaks against a run (sentences). Nothing where there is nothing to see.

    Args:
        history: `log_history` of the Trainer, with the loss terms. metrics (dict or None): of the final evaluation.
        situation ([`choices.Situation`]).
        before_after (dict, *optional*): {group, in words: (AP50 before, AP50 after)} of a fine-tune, in percent.
        given: fields of the training arguments that were given. steps (int): of the run.
    """
    cure = _cure(given, steps)
    found = [*_losses(history, situation, cure), *_metrics(metrics or {}, situation, cure)]
    return [*found, *_worse(before_after or {}, situation)]


def _losses(history, situation, cure):
    new = {"loss_det"} if situation.detector == "random" and situation.streams != "semantic" else set()
    if situation.semantics == "random" and situation.streams != "localization":
        new |= {"loss_align", "loss_distill"}
    for term, what in _TERMS.items():
        values = [entry[term] for entry in history if term in entry]
        if any(not math.isfinite(value) for value in values):
            yield f"{term} ({what}) was not finite: lower the rates, or train without half precision"
            continue
        if term not in new or len(values) <= _LAST or values[0] <= 0:
            continue
        last = sum(values[-_LAST:]) / _LAST
        if last > _LEARNED * values[0]:
            yield (
                f"{term} ({what}) is {last:.3g} at the end and was {values[0]:.3g} at first: next to nothing was "
                f"learned; {cure}"
            )


def _metrics(metrics, situation, cure):
    boxes = metrics.get("eval_class_agnostic_AP50", math.nan)
    names = metrics.get("eval_AP50_base", metrics.get("eval_AP50", math.nan))
    recall = metrics.get("eval_class_agnostic_AR50", 0.0)
    if boxes < _FOUND and recall < _RECALLED:
        if situation.streams == "semantic":
            cure = "train the localization stream first (--streams localization), or start from a detector that does"
        yield f"class-agnostic AP50 is {boxes:.1f} %: next to no object is found; {cure}"
    elif situation.streams == "localization":
        return  # names are those of the stream that it started with
    elif names < _NAMED * boxes:
        yield (
            f"boxes are found (class-agnostic AP50 {boxes:.1f} %), their names are not (AP50 {names:.1f} %); "
            f"{cure}, and look at what the captions say of the regions (decodetr pool inspect)"
        )
    elif metrics.get("eval_AP50_novel", math.nan) < _NOVEL * names:
        yield (
            f"names without a box are hardly found (AP50 {metrics['eval_AP50_novel']:.1f} %, of base names "
            f"{names:.1f} %): they are learned from regions alone; give --regions, and look at what the captions say "
            "of them (decodetr pool inspect)"
        )


def _worse(before_after, situation):
    rates = "--semantic-learning-rate" if situation.streams == "semantic" else "--learning-rate"
    cure = f"give more images, or a third of its {rates}"
    cure += "" if situation.streams == "semantic" else ", or --streams semantic"
    for group, (before, after) in before_after.items():
        if after < before - _WORSE:
            yield f"AP50 of {group} was {before:.1f} % and is {after:.1f} %: the starting point is better; {cure}"


def _cure(given, steps):
    shortened = [f"--{name.replace('_', '-')}" for name in _CHOSEN if name in given]
    if shortened:
        return f"leave out {', '.join(shortened)}, which are chosen from the data then, or give more"
    return f"look for what is wrong with the data (decodetr validate), or give more steps (--max-steps {3 * steps})"
