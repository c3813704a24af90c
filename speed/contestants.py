"""What is timed: a model with its way from pictures to boxes. Here ours and bare detectors; peers.py has others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional as F

from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection, DeCoDetrImageProcessor, Vocabulary
from decodetr.inference.detection import detect
from decodetr.inference.loading import load_model
from decodetr.modeling_decodetr.detectors import num_queries
from decodetr.speed.catalog import HOWS, OURS, STREAM
from decodetr.speed.timing import clock
from decodetr.speed.ways import OPENVINO, How, OpenVinoModule, copy_for, precision_of

if TYPE_CHECKING:
    from typing import Any

    import PIL.Image
    from transformers import BaseImageProcessor

QueriesRead = int | Literal["rule", "all"]
TOP_K = 100  # detections of an image, as `decodetr predict` keeps


class Contestant:
    """A model of which a call is timed: a batch of pictures in, detections out.

    Args:
        title: for reports. kind: "ours", "bare" or "peer".
        module: what a call runs, on its device and in its precision, in evaluation mode.
        image_processor: makes `pixel_values` of pictures.
        over: title of the bare detector that it is compared with.
        queries: boxes that it gives an image.
    """

    ways: tuple[str, ...] = HOWS
    outputs: tuple[str, ...] = ("logits", "pred_boxes")  # what `finish` reads of a pass
    counts_flops = True
    once = ""  # what is done once for a list of names, before any call; for the report
    how: How = "eager"

    def __init__(
        self,
        title: str,
        kind: Literal["ours", "bare", "peer"],
        module: nn.Module,
        image_processor: BaseImageProcessor,
        over: str | None = None,
        queries: int | None = None,
        published: float | None = None,
    ) -> None:
        self.title, self.kind, self.module, self.image_processor = title, kind, module, image_processor
        self.over, self.queries, self.published = over, queries, published
        weight = next(module.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.texts: list[dict[str, torch.Tensor]] = [
            {}
        ]  # of each pass of a call, what it is given beside the pictures
        self._running: Any = module  # what a call calls: the module, or what has been made of it

    def in_way(self, how: How) -> Contestant:
        """The same model, to be run in one of its `ways`. Names are set afterwards."""
        if how == "eager":
            return self
        other = copy.copy(self)
        other.how = how
        other.module = other._running = copy_for(how, self.module)
        if how not in OPENVINO:  # which reads and gives float32
            other.dtype = precision_of(how, self.dtype)
        return other

    def parameters(self) -> int:
        """Numbers that are learned by gradient."""
        return sum(weight.numel() for weight in self.module.parameters())

    def tables(self) -> int:
        """Numbers of the tables of embeddings that a call reads beside the parameters."""
        return 0

    def set_names(self, count: int, batch_size: int) -> None:
        """Look for so many names from now on, in batches of so many pictures. Costs next to nothing."""

    def once_seconds(self) -> float:
        """About how long [`once_for_names`] takes, by a part of it."""
        return 0.0

    def once_for_names(self) -> None:
        """What users do once for a list of names, and not in every call."""

    def least_seconds(self, batch: dict[str, torch.Tensor]) -> float:
        """What a call takes at least, by a part of it. 0 where the call itself tells as fast."""
        if len(self.texts) == 1:
            return 0.0
        start = clock(self.device)
        self.module(**batch, **self.texts[0])
        return len(self.texts) * (clock(self.device) - start)

    def before(self) -> None:
        """Called before every call, and a part of it."""

    def compile(self, batch: dict[str, torch.Tensor]) -> None:
        """Where its way needs a graph: make it, for such batches and the names of now.

        Raises:
            ImportError, ValueError: it cannot be made, or takes more than one.
        """
        if self.how == "compile":
            mode = "reduce-overhead" if self.device.type == "cuda" else "default"  # with CUDA graphs
            self._running = torch.compile(self.module, mode=mode)
        if self.how in OPENVINO:
            if len(self.texts) > 1:
                raise ValueError(f"a picture takes {len(self.texts)} passes, each of which would need a graph")
            example, dtype = {**batch, **self.texts[0]}, precision_of(self.how, self.dtype)
            self._running = OpenVinoModule(self.module, example, self.options(), self.outputs, dtype)

    def prepare(self, pictures: Sequence[PIL.Image.Image]) -> dict[str, torch.Tensor]:
        """The model's input, on its device: `pixel_values` (B, 3, H, W) and what else its image processor gives."""
        batch = self.image_processor(images=list(pictures), return_tensors="pt")
        batch = {key: value.to(self.device) for key, value in batch.items()}
        batch["pixel_values"] = batch["pixel_values"].to(self.dtype)
        return batch

    def options(self) -> dict[str, Any]:
        """What a forward is told beside pictures and texts."""
        return {}

    def forward(self, batch: dict[str, torch.Tensor]) -> list[Any]:
        """The forward alone: what each pass gives."""
        if self.how == "compile" and self.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        return self.passes(self._running, batch)

    def passes(self, module: Callable[..., Any], batch: dict[str, torch.Tensor]) -> list[Any]:
        """As [`forward`], of another module that computes the same."""
        self.before()
        return [module(**batch, **text, **self.options()) for text in self.texts]

    def read(self, outputs: list[Any]) -> int | None:
        """Of ours, how many queries of an image the semantic stream read at most."""
        return None

    def finish(self, outputs: list[Any], sizes: list[tuple[int, int]]) -> list[dict[str, list]]:
        """Detections of each image from what the passes gave: "scores", "labels" and "boxes" (x0, y0, x1, y1 in pixels
        of the image), best first, at most `TOP_K`. `sizes`: (height, width) of the images."""
        (output,) = outputs
        found = self.image_processor.post_process_object_detection(
            output, threshold=0.0, target_sizes=sizes, top_k=TOP_K
        )
        return [{key: value.tolist() for key, value in one.items()} for one in found]

    def detect(self, pictures: Sequence[PIL.Image.Image]) -> list[dict[str, list]]:
        """Prepare, forward and finish."""
        outputs = self.forward(self.prepare(pictures))
        return self.finish(outputs, [(picture.height, picture.width) for picture in pictures])


class Ours(Contestant):
    """A DeCo-DETR. Its names are random embeddings.

    Args:
        queries_read: how many queries of an image the semantic stream reads: a number, all, or by rule, as the model
            decides by their objectness, which with random weights says nothing of real pictures.
    """

    module: DeCoDetrForObjectDetection

    def __init__(self, *args: Any, queries_read: QueriesRead = "rule", **facts: Any) -> None:
        super().__init__(*args, **facts)
        self.queries_read = queries_read
        if queries_read != "rule":
            self.title += f", {queries_read} read"

    def options(self) -> dict[str, Any]:
        """A graph reads all where no number is given, as its shapes must be known."""
        if isinstance(self.queries_read, int):
            return {"semantic_queries": self.queries_read}
        return {"min_score": 0.0} if self.queries_read == "all" or self.how in ("compile", *OPENVINO) else {}

    def read(self, outputs: list[Any]) -> int | None:
        """Those whose embedding is not zero."""
        if self.how in OPENVINO:  # whose graph does not give embeddings
            return self.options().get("semantic_queries", self.queries)
        return int(outputs[0].semantic_embeds.ne(0).any(-1).sum(1).max())

    def tables(self) -> int:
        """Pool and vocabulary."""
        return self.module.prototype_pool.prototypes.numel() + self.module.vocabulary.embeddings.numel()

    def set_names(self, count: int, batch_size: int) -> None:
        """Swap the vocabulary."""
        self.module.set_vocabulary(random_names(count, self.module.config.embedding_dim))

    def detect(self, pictures: Sequence[PIL.Image.Image]) -> list[dict[str, list]]:
        """Where no number of queries is given as `decodetr predict` does it, with the model's threshold. "labels" are
        names then."""
        if self.queries_read != "rule" or self.how in OPENVINO:
            return super().detect(pictures)
        found = detect(self._running, self.image_processor, pictures, top_k=TOP_K)
        return [{"scores": one["scores"], "labels": one["names"], "boxes": one["boxes"]} for one in found]


def random_names(count: int, width: int) -> Vocabulary:
    """So many names, with random embeddings."""
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(0))
    return Vocabulary([f"name {i}" for i in range(count)], F.normalize(rows, dim=-1))


def with_bare(
    title: str,
    model: DeCoDetrForObjectDetection,
    image_processor: BaseImageProcessor,
    queries_read: Sequence[QueriesRead] = ("rule",),
) -> list[Contestant]:
    """[its bare detector, alone and class-agnostic where the model is; the model, for each of `queries_read`]."""
    bare, queries = f"{title}, bare", num_queries(model.detector.config)
    return [
        Contestant(bare, "bare", model.detector, image_processor, queries=queries),
        *(
            Ours(title, "ours", model, image_processor, over=bare, queries=queries, queries_read=read)
            for read in queries_read
        ),
    ]


def of_random_weights(
    name: str,
    queries: int,
    size: int | None,
    device: torch.device,
    dtype: torch.dtype,
    queries_read: Sequence[QueriesRead] = ("rule",),
) -> list[Contestant]:
    """A model of `OURS` with `queries` detector queries, and its bare detector. `size`: side of its pictures."""
    entry = OURS[name]
    torch.manual_seed(0)
    config = DeCoDetrConfig(detector_config={**entry.fields, "num_queries": queries}, id2label={0: "name 0"}, **STREAM)
    model = DeCoDetrForObjectDetection(config).eval().to(device=device, dtype=dtype)
    sides = entry.size if size is None else {"height": size, "width": size}
    return with_bare(entry.title, model, DeCoDetrImageProcessor(size=sides), queries_read)


def of_folder(
    name: str,
    size: int | None,
    device: torch.device,
    dtype: torch.dtype,
    queries_read: Sequence[QueriesRead] = ("rule",),
) -> list[Contestant]:
    """A saved DeCo-DETR and its bare detector. Pictures have the size of its image processor, or `size`.

    Raises:
        FileNotFoundError, ValueError: as [`load_model`].
    """
    model, image_processor = load_model(name, device=device)
    if size is not None:
        sides = {"size": {"height": size, "width": size}, "do_resize": True, "do_pad": False, "pad_size": None}
        image_processor = type(image_processor).from_dict(image_processor.to_dict() | sides)
    return with_bare(title_of(name), model.to(dtype=dtype), image_processor, queries_read)


def title_of(model: str) -> str:
    """What a report calls a model of `--models`."""
    return OURS[model].title if model in OURS else Path(model).resolve().name
