"""What the comparison of pools and the quickstart are told. Plain Python, because `--help` shows some of it."""

from dataclasses import dataclass, fields

from decodetr.pool_builder.settings import setting

SPLITS = {"val": "Validation", "test": "The shifted split"}
VARIANTS = {
    "captions": "captions",
    "silent": "captions, none mentions a novel name",
    "random": "random pool",
    "background": "pool as background only",
    "none": "no pool",
    "no-thumbnails": "captions; query and maps, no thumbnails",
    "query": "captions; query only",
    "free": "captions; lookup + MLP, unbounded",
    "distill-query": "captions; L_distill at q^ alone",
    "wide": "captions; the paper's 0.07, nothing centred, the background of prototypes alone",
}


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions:
    """
    What is compared, on what. Messages call the fields by the options of `decodetr scenes compare`.

    Args:
        folder: of `decodetr scenes write`. built: output of `decodetr pool build`.
        model: DeCo-DETR with a trained localization stream. vocabulary: of all names. clip: the teacher.
        variants: keys of VARIANTS. seeds: of the semantic stream. splits: keys of SPLITS.
        steps: of the semantic stream.
        base_names: so many of the base names keep their boxes. The others are novel. None: all.
        trained: a trained model that counts as seed 0 of captions.
        output: folder for runs.json and table.md.
    """

    folder: str
    model: str
    built: str
    vocabulary: str
    clip: str
    variants: list[str]
    seeds: list[int]
    splits: list[str]
    steps: int
    base_names: int | None
    trained: str | None
    output: str

    def settings(self) -> dict:
        """Those fields that are the same for all runs of a folder, for the record."""
        own = ("variants", "seeds", "output")
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in own}


@dataclass(frozen=True, kw_only=True)
class QuickstartOptions:
    """What the quickstart makes, and where."""

    output: str = setting("decodetr-quickstart", "write everything into this folder")
    train_images: int = setting(640, "number of training images to draw")
    val_images: int = setting(128, "number of validation images to draw")
    semantic_steps: int = setting(640, "training steps of the semantic stream")
    model: str = setting("scenes-decodetr", "DeCo-DETR whose detector is used: folder or shipped name")
    clip: str = setting("scenes-clip", "CLIP that is the teacher: folder or shipped name")
    captioner: str = setting("scenes-llava", "LLaVA that captions regions: folder or shipped name")
    overwrite: bool = setting(False, "delete an earlier quickstart in the folder first (default: continue it)")

    def settings(self) -> dict:
        """What decides the result, for the record."""
        own = ("output", "overwrite")
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in own}
