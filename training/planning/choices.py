"""What a run takes for its length, rates, batch and views where nobody says them: chosen from the data and the start.

`choose` is a function of a few stated quantities alone, so that the same command on the same data chooses the same.
docs/training.md has the table, and what was measured. A field that the command line or the recipe gives is never
chosen.
"""

import math
from collections.abc import Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import SchedulerType

if TYPE_CHECKING:
    from decodetr.training.options.arguments import DeCoDetrTrainingArguments

NEW, PRETRAINED, TRAINED = "random", "pretrained", "trained"  # weights that a stream begins with
BATCH, SMALL_BATCH = 8, 4  # images a step
_LARGE_SIDE = 800  # pixels: from here on, images of a detector that learns are memory
_LARGE_WIDTH = 200  # of the detector's queries: published detectors, of 256 and more, are trained with 1e-4
_ENOUGH = 600  # images of a fine-tune with full rates. With fewer they are lower, by the root
_FEW = 1_000  # images of a fine-tune that leaves the backbone as it is


@dataclass(frozen=True)
class Situation:
    """
    What the choice depends on.

    Args:
        streams (str): as of [`DeCoDetrTrainingArguments`].
        detector, semantics (str): what the weights of each stream are at first: "random", "pretrained" (of another
            run or another task), or "trained" (of the run that this one goes on from).
        images (int): that teach something. 0 where that is not known (streamed data).
        width (int): of the detector's queries. side (int): the longest that an image becomes, in pixels.
        pretrained_backbone (bool): its weights are not random.
        cached (bool): features are cached. augmented (bool): images may be changed.
        parts (int): processes times accumulated batches, which divide the images of a step.
        empty (int): images without anything that an epoch has besides.
    """

    streams: str
    detector: str
    semantics: str
    images: int
    width: int
    side: int
    pretrained_backbone: bool
    cached: bool
    augmented: bool
    parts: int = 1
    empty: int = 0

    @property
    def drawn(self) -> int:
        """Images of an epoch."""
        return self.images + self.empty


def choose(situation: Situation, given: Set[str], training: "DeCoDetrTrainingArguments") -> dict[str, Any]:
    """
    Args:
        situation (Situation). given (set[str]): fields that are not chosen.
        training (DeCoDetrTrainingArguments): with the given fields.

    Returns:
        dict: {field of DeCoDetrTrainingArguments: value}, without those that are given.
    """
    found: dict[str, Any] = {"per_device_train_batch_size": _batch(situation)}
    own_batch = "per_device_train_batch_size" in given
    batch = (training.per_device_train_batch_size if own_batch else _batch(situation)) * situation.parts
    if "learning_rate" not in given:  # which is also that of the groups without a given rate
        found |= _rates(situation)
    if not {"max_steps", "num_train_epochs"} & given and situation.images:
        found["max_steps"] = steps(situation, batch)
    if situation.cached and situation.augmented and _seen_twice(situation):
        found["cache_views"] = 2  # each of which such a run sees at least once
    if situation.streams == "semantic" or situation.semantics == TRAINED:
        found["align_weight_start"] = 1.0  # no localization that has to come first
    if situation.detector == TRAINED and situation.streams != "semantic" and situation.images < _FEW:
        found["freeze_backbone"] = True  # few images have other batch norm statistics than many
    length = _length(situation, found, given, training, batch)
    found["lr_scheduler_type"] = "cosine"
    if "lr_scheduler_type" not in given or training.lr_scheduler_type != SchedulerType.CONSTANT:
        found["warmup_steps"] = min(200 if situation.detector == NEW else 50, length // 10)
    return {name: value for name, value in found.items() if name not in given}


def _seen_twice(situation):
    """Whether a run of the chosen length goes twice over its images."""
    return bool(situation.images) and steps(situation, BATCH) * BATCH >= 2 * situation.drawn


def _batch(situation):
    large = situation.streams != "semantic" and situation.side > _LARGE_SIDE
    return max((SMALL_BATCH if large else BATCH) // situation.parts, 1)


def _rates(situation):
    """Rates of the detector, its backbone and the semantic stream, as far as they learn and differ."""
    found = {}
    # What few images say is not to change what many have taught.
    gentle = min(1.0, math.sqrt((situation.images or _ENOUGH) / _ENOUGH))
    if situation.streams != "semantic":
        large = situation.width >= _LARGE_WIDTH
        rate = 2e-5 * gentle if situation.detector == TRAINED else 1e-4 if large else 4e-4
        found["learning_rate"] = float(f"{rate:.1e}")
        # A small detector that is pretrained has learned another world, with its backbone.
        if situation.pretrained_backbone and situation.detector != TRAINED and (large or situation.detector == NEW):
            found["backbone_learning_rate"] = found["learning_rate"] / 10
    if situation.streams != "localization":
        found["semantic_learning_rate"] = float(f"{1e-3 * gentle if situation.semantics == TRAINED else 4e-3:.1e}")
    return found


def steps(situation: Situation, batch: int) -> int:
    """Optimizer steps: the root of the number of images that teach something, so that few are seen often and many
    still often enough, and at least so many passes over all of them. The others of an epoch are steps besides.

    Args:
        situation (Situation). batch (int): images a step.
    """
    needed = []
    if situation.streams != "semantic":
        needed.append({NEW: (80, 12), PRETRAINED: (40, 3), TRAINED: (15, 1)}[situation.detector])
    if situation.streams != "localization":
        needed.append({NEW: (60, 1), TRAINED: (15, 1)}[situation.semantics])
    images, besides = situation.images, situation.drawn / situation.images
    return max(
        _round(max(factor * math.sqrt(images) * BATCH, passes * images) * besides / batch) for factor, passes in needed
    )


def _round(value):
    """Two digits, upwards: what people read and type again."""
    scale = 10 ** max(math.floor(math.log10(value)) - 1, 0)
    return math.ceil(value / scale) * scale


def _length(situation, found, given, training, batch):
    """Steps of `batch` images that the run has, as far as they are known: chosen, given, or of the given epochs."""
    if "max_steps" in found:
        return found["max_steps"]
    if training.max_steps > 0:
        return training.max_steps
    images = situation.drawn * (training.cache_views if "cache_views" in given else found.get("cache_views", 1))
    an_epoch = images // batch if training.dataloader_drop_last else math.ceil(images / batch)
    return math.ceil(training.num_train_epochs * an_epoch)
