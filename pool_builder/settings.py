"""The one home of the pool builder's defaults. The paper gives M1 and M2 (paper 1.5, 1.6) and no other value."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What captioners are asked about a crop. The paper gives no prompt. These are ours. Any other text serves as well.
PROMPTS = {
    # The default: the name of the thing with what strikes the eye, about the length of the names to be found.
    "short": "Describe the object in this image in a few words.",
    # As a vocabulary has it, without colours and places.
    "name": "What is the main object in this image? Answer with its name only.",
    # Richer texts, for pools whose prototypes should tell like things apart.
    "attributes": "Describe the object in this image in one sentence: what it is, its colour, material and parts.",
}


ENGINES = ("datasets", "ray")


def prompt_text(prompt: str) -> str:
    """The prompt of a name of `PROMPTS`. Any other text as it is."""
    return PROMPTS.get(prompt, prompt)


def setting(default: Any, text: str) -> Any:
    """A field of settings that are options of a command. `text` is its help."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class PoolSettings:
    """What decides a pool besides data and models. Every field is an option of `decodetr pool build`.

    Raises:
        ValueError: a value out of its range.
    """

    prompt: str = setting(PROMPTS["short"], f"question to the captioner: {', '.join(PROMPTS)}, or any text")
    max_new_tokens: int = setting(32, "longest caption, in tokens")
    captioner_dtype: str = setting("auto", "precision of the captioner: auto, float32, bfloat16 or float16")
    captioner_bits: int = setting(
        0, "load the captioner with 4 or 8 bits per weight, by bitsandbytes; 0: do not quantize"
    )
    delta: float = setting(
        None,
        "keep a region if the cosine of its crop and its caption in CLIP is above this, -1 to 1 (default: the "
        "value that the caption of another region exceeds once in 100)",
    )
    keep_share: float = setting(
        None,
        "keep this share of the regions instead, those whose crop and caption agree best, 0 to 1 (default: --delta "
        "decides)",
    )
    num_coarse: int = setting(1203, "number of coarse prototypes, M1, by K-Means")
    kmeans: str = setting(
        "auto", "K-Means algorithm: lloyd, minibatch, faiss, or auto: lloyd up to 50,000 captions, minibatch above"
    )
    num_fine: int = setting(4800, "largest number of fine prototypes, M2, by DBSCAN in each coarse cluster")
    min_samples: int = setting(2, "DBSCAN: least number of regions in the neighbourhood of a core caption")
    min_objectness: float = setting(0.05, "drop proposals with a lower objectness, 0 to 1")
    min_side: float = setting(2.0, "drop proposals with a smaller width or height, in pixels")
    nms_iou: float = setting(
        0.7, "of two proposals that overlap more than this IoU, keep the one with the higher objectness"
    )
    context: float = setting(0.0, "enlarge a crop on every side by this share of its box")
    max_proposals: int = setting(20, "largest number of proposals per image; annotated boxes do not count")
    batch_size: int = setting(32, "images of the detector, and crops of captioner and CLIP, per batch")
    shard_groups: int = setting(32, "a shard file holds the regions of this many batches of images")
    seed: int = setting(0, "seed of K-Means")

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", prompt_text(self.prompt))
        least = {"max_new_tokens": 1, "num_coarse": 1, "num_fine": 0, "min_samples": 1, "max_proposals": 0}
        least |= {"batch_size": 1, "shard_groups": 1, "seed": 0}
        ranges = {name: (low, float("inf")) for name, low in least.items()}
        ranges.update(
            delta=(-1, 1),
            min_side=(0, float("inf")),
            context=(0, float("inf")),
            min_objectness=(0, 1),
            nms_iou=(0, 1),
            keep_share=(0, 1),
        )
        choices = {"captioner_dtype": ("auto", "float32", "bfloat16", "float16"), "captioner_bits": (0, 4, 8)}
        choices["kmeans"] = ("auto", "lloyd", "minibatch", "faiss")
        for name, values in choices.items():
            if getattr(self, name) not in values:
                expected = ", ".join(map(str, values))
                raise ValueError(f"--{name.replace('_', '-')} must be one of {expected}, got {getattr(self, name)}")
        for name, (low, high) in ranges.items():
            if getattr(self, name) is not None and not low <= getattr(self, name) <= high:
                expected = f"at least {low}" if high == float("inf") else f"in {low}..{high}"
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{option} must be {expected}, got {getattr(self, name)}")

    def of(self, *names: str) -> dict[str, Any]:
        """{name: value} of some settings."""
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class PoolData:
    """Where the training images are.

    Args:
        folder (str): the data set. annotations, images (str, optional): its annotation file and image folder.
        names_split (str, optional): file of base and novel names, or "none". Default: that of the data set.
        form (dict): see [`form_of`].
    """

    folder: str
    annotations: str | None
    images: str | None
    names_split: str | None
    form: dict[str, Any]


@dataclass(frozen=True)
class PoolTask:
    """A stage of a pool, or `build`, and what it is given.

    Args:
        stage (str): "proposals", "captions", "embeddings", "filter", "cluster" or "build", which is all of them.
        output (Path): folder of all stages.
        settings (PoolSettings).
        data (PoolData, optional): of a stage that looks at images.
        models (dict): "detector", "captioner" and "clip", as far as the stage has them: folder, Hub or shipped name.
            Where the detector is None, there are annotated boxes only.
        device (str), device_map (str, optional): where models run.
        image_captions (str, optional): file of captions of the training images, which join those of regions.
        join_image_captions (bool): of "cluster": so do those that "embeddings" has embedded.
        vocabulary (str, optional): of "cluster" and "build": folder, Hub or shipped name of a vocabulary, whose
            embeddings stand for the annotated names that it has.
        overwrite (bool): make stages of other settings again.
        engine (str): who makes the shards: one of `ENGINES`. ray_address (str, optional), workers (int, optional): of
            "ray".
    """

    stage: str
    output: Path
    settings: PoolSettings
    data: PoolData | None = None
    models: dict[str, str | None] = field(default_factory=dict)
    device: str = "auto"
    device_map: str | None = None
    image_captions: str | None = None
    join_image_captions: bool = False
    vocabulary: str | None = None
    overwrite: bool = False
    engine: str = "datasets"
    ray_address: str | None = None
    workers: int | None = None
