"""What `decodetr build` is told, and which stages follow from it. Nothing heavy is imported."""

import os
from dataclasses import dataclass
from pathlib import Path

# The stages in their order. Those of --localize are left out without it.
STAGES = ("photos", "coverage", "first-pool", "boxes", "pool", "names", "model", "scores", "report", "pictures")
_OF_LOCALIZE = ("first-pool", "boxes")


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """
    What is built of what. Messages call the fields by the options of `decodetr build`.

    Args:
        detector (str): folder or Hub name of a DETR of any supported family, class-agnostic or with classes, or
            folder, Hub name or shipped name of a DeCo-DETR.
        images (str): folder of photos, with its sub-folders, or a data set as `load_annotations` takes it. Boxes are
            used where there are some.
        clip, captioner (str): folder, Hub name or shipped name of a CLIP and of an image-text-to-text model.
        output (Path): folder of all stages.
        names (dict or None): names to look for, and the texts that are embedded for each. None: what the captions of
            the pool say.
        localize (bool): first train a class-agnostic localization stream on the regions that are certain.
        prompt (str or None): question to the captioner, as of `decodetr pool build`.
        keep_share (float or None): share of the regions whose captions make the pool, as of `decodetr pool build`.
        steps (int or None): of the semantic stream. None: chosen from the data.
        device (str): auto, cpu, cuda, ...
        seed (int): of training and clusters.
        engine (str), ray_address (str or None), workers (int or None): who makes the shards of pools, as of `decodetr
            pool build`. What is built is the same.
    """

    detector: str
    images: str
    clip: str
    captioner: str
    output: Path
    names: dict[str, list[str]] | None = None
    localize: bool = False
    prompt: str | None = None
    keep_share: float | None = None
    steps: int | None = None
    device: str = "auto"
    seed: int = 0
    engine: str = "datasets"
    ray_address: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        for name in ("detector", "images", "clip", "captioner", "output"):
            if str(place := getattr(self, name)).startswith("-"):  # the command of a stage would take it for an option
                object.__setattr__(self, name, type(place)(os.path.abspath(place)))
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"--max-steps must be at least 1, got {self.steps}")
        if self.keep_share is not None and not 0 < self.keep_share <= 1:
            raise ValueError(f"--keep-share must be above 0 and at most 1, got {self.keep_share}")
        if self.names is not None and not self.names:
            raise ValueError("no names: give at least one, or leave them out for what the captions say")
        for name, texts in (self.names or {}).items():
            if not (name.strip() and texts and all(text.strip() for text in texts)):
                raise ValueError(
                    f"names: expected a name and the texts that are embedded for it, got {name!r}: {texts}"
                )
        if self.seed < 0:
            raise ValueError(f"--seed must be at least 0, got {self.seed}")

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of this build, in their order."""
        return tuple(stage for stage in STAGES if self.localize or stage not in _OF_LOCALIZE)
