"""Situations of a run that has to choose its quantities."""

from dataclasses import replace

from decodetr.training.planning.choices import NEW, PRETRAINED, TRAINED, Situation

SEMANTIC = Situation(
    streams="semantic", detector=PRETRAINED, semantics=NEW, images=1600, width=96, side=160, pretrained_backbone=True,
    cached=True, augmented=True,
)  # fmt: skip
LOCALIZATION = replace(SEMANTIC, streams="localization", detector=NEW, pretrained_backbone=False, cached=False)
FINE_TUNE = replace(SEMANTIC, streams="joint", detector=TRAINED, semantics=TRAINED, cached=False)
