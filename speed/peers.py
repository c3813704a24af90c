"""Zero-shot detectors of transformers, of random weights and published sizes, with texts as processors make them.

Tokenizers would have to be downloaded, and times do not depend on which words are asked for but on how long they are.
So names are random tokens in lengths as of COCO's and LVIS' names: 1 to 3 tokens, 2 on average.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torchvision.ops import batched_nms
from transformers import (
    AutoConfig,
    AutoModelForZeroShotObjectDetection,
    DetrImageProcessor,
    GroundingDinoImageProcessor,
    Owlv2ImageProcessor,
)
from transformers.image_transforms import center_to_corners_format

from decodetr.evaluation.zero_shot_peers import prompt_groups
from decodetr.speed.catalog import PEERS
from decodetr.speed.contestants import TOP_K, Contestant
from decodetr.speed.timing import clock

if TYPE_CHECKING:
    from typing import Any

    from transformers import PreTrainedConfig

_LENGTHS = (1, 2, 2, 3)  # tokens of the names, in turn
_CLS, _SEP, _STOP, _FIRST_WORD = 101, 102, 1012, 2000  # of BERT
_TEMPLATE = 4  # tokens of "a photo of a"
_PROBE = 32  # texts by which the time of many is told
_CHUNK = 256  # texts that are embedded at once where it is done beforehand
_NMS = 0.5  # IoU, the library's default for OmDet-Turbo


def _words(count: int, first: int, last: int) -> Iterator[list[int]]:
    """Tokens of so many names, first <= token < last."""
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        yield torch.randint(first, last, (_LENGTHS[i % len(_LENGTHS)],), generator=generator).tolist()


def best_pairs(
    scores: torch.Tensor, boxes: torch.Tensor, sizes: Sequence[tuple[int, int]]
) -> list[dict[str, torch.Tensor]]:
    """The `TOP_K` best pairs of box and name of each image.

    Args:
        scores: (B, N, K) in 0..1. boxes: (B, N, 4) as (cx, cy, w, h) in 0..1 of the images. sizes: (height, width).

    Returns:
        For each image "scores" (n,), "labels" (n,) and "boxes" (n, 4) as x0, y0, x1, y1 in pixels.
    """
    count = scores.shape[-1]
    best, pair = scores.flatten(1).topk(min(TOP_K, scores.shape[1] * count))
    corners = center_to_corners_format(boxes)
    scales = torch.tensor([(width, height, width, height) for height, width in sizes], device=boxes.device)
    corners = corners.gather(1, (pair // count)[..., None].expand(-1, -1, 4)) * scales[:, None]
    rows = zip(best, pair % count, corners)
    return [{"scores": one, "labels": label, "boxes": box} for one, label, box in rows]


def _lists(found):
    return [{key: value.tolist() for key, value in one.items()} for one in found]


class GroundingDino(Contestant):
    """Grounding DINO and MM-Grounding-DINO: as many names as fit into a prompt, and a forward for each prompt."""

    def set_names(self, count: int, batch_size: int) -> None:
        """Make the prompts "a. b. c." of at most `max_text_len` tokens."""
        config = self.module.config
        tokens = list(_words(count, _FIRST_WORD, config.text_config.vocab_size))
        names = [f"name {i}" for i in range(count)]
        groups = prompt_groups(names, [len(ids) for ids in tokens], config.max_text_len - 2)
        self.texts, self.spans = [], []
        for group in groups:
            ids, weights = [_CLS], torch.zeros(config.max_text_len, len(group))
            for column, i in enumerate(group):
                weights[len(ids) : len(ids) + len(tokens[i]), column] = 1 / len(tokens[i])
                ids += [*tokens[i], _STOP]
            row = torch.tensor([[*ids, _SEP]], device=self.device).repeat(batch_size, 1)
            self.texts.append(
                {"input_ids": row, "attention_mask": torch.ones_like(row), "token_type_ids": torch.zeros_like(row)}
            )
            self.spans.append((weights.to(self.device), group[0]))

    def finish(self, outputs: list[Any], sizes: list[tuple[int, int]]) -> list[dict[str, list]]:
        """The score of a name is the mean of its tokens'; the best over all prompts are kept."""
        prompts = []
        for output, (weights, first) in zip(outputs, self.spans):
            pairs = best_pairs(output.logits.float().sigmoid() @ weights, output.pred_boxes, sizes)
            prompts.append([{**one, "labels": one["labels"] + first} for one in pairs])
        found = []
        for parts in zip(*prompts):
            whole = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
            best = whole["scores"].argsort(descending=True)[:TOP_K]
            found.append({key: value[best] for key, value in whole.items()})
        return _lists(found)


class _Texts(Contestant, ABC):
    """One whose text encoder reads every name by itself."""

    length = 0  # of a text, in tokens

    def _clip_texts(self, words: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """Texts for a CLIP: a start, the words, an end, padding up to `length`."""
        config = self.module.config.text_config
        ids = torch.full((len(words), self.length), config.pad_token_id or 0)
        mask = torch.zeros_like(ids)
        for row, word in enumerate(words):
            text = [config.bos_token_id, *word][: self.length - 1] + [config.eos_token_id]
            ids[row, : len(text)], mask[row, : len(text)] = torch.tensor(text), 1
        return {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}

    @abstractmethod
    def encode(self, texts: dict[str, torch.Tensor]) -> torch.Tensor:
        """The embeddings of texts."""

    def text_seconds(self, texts: dict[str, torch.Tensor]) -> float:
        """About how long all these texts take, by a few of them."""
        few = {key: value[:_PROBE] for key, value in texts.items()}
        start = clock(self.device)
        self.encode(few)
        return (clock(self.device) - start) * len(texts["input_ids"]) / len(few["input_ids"])


class Owlv2(_Texts):
    """OWLv2, its names encoded in every call, as its processor and its forward have it."""

    def set_names(self, count: int, batch_size: int) -> None:
        """Make the texts "a photo of a NAME", for each picture anew."""
        config = self.module.config.text_config
        self.length = config.max_position_embeddings
        template = list(range(1, 1 + _TEMPLATE))
        words = [[*template, *word] for word in _words(count, 1 + _TEMPLATE, config.bos_token_id)]
        self.words = self._clip_texts(words)
        self.texts = [{key: value.repeat(batch_size, 1) for key, value in self.words.items()}]

    def encode(self, texts: dict[str, torch.Tensor]) -> torch.Tensor:
        """As the library does for its own forward."""
        return self.module.owlv2.get_text_features(**texts).pooler_output

    def least_seconds(self, batch: dict[str, torch.Tensor]) -> float:
        """Of the texts."""
        return self.text_seconds(self.texts[0])

    def finish(self, outputs: list[Any], sizes: list[tuple[int, int]]) -> list[dict[str, list]]:
        """Boxes are of the picture padded to a square."""
        (output,) = outputs
        squares = [(max(size), max(size)) for size in sizes]
        return _lists(best_pairs(output["logits"].sigmoid(), output["pred_boxes"], squares))


class _OfEmbeds(nn.Module):
    """OWLv2 with names that are embedded already, from the library's own parts."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, pixel_values: torch.Tensor, embeds: torch.Tensor) -> dict[str, torch.Tensor]:
        """`embeds`: (K, d) of the names."""
        grid, _ = self.model.image_embedder(pixel_values=pixel_values)
        features = grid.flatten(1, 2)
        logits, _ = self.model.class_predictor(features, embeds.expand(len(features), -1, -1))
        return {"logits": logits, "pred_boxes": self.model.box_predictor(features, grid)}


class EmbeddedOwlv2(Owlv2):
    """OWLv2, its names embedded once."""

    module: _OfEmbeds
    once = "embeds the names"

    def encode(self, texts: dict[str, torch.Tensor]) -> torch.Tensor:
        """As the library does for its own forward."""
        return self.module.model.owlv2.get_text_features(**texts).pooler_output

    def set_names(self, count: int, batch_size: int) -> None:
        """Once for all pictures."""
        super().set_names(count, 1)
        self.texts = []

    def once_seconds(self) -> float:
        """Of the texts."""
        return self.text_seconds(self.words)

    def once_for_names(self) -> None:
        """Embed the names."""
        parts = zip(*(value.split(_CHUNK) for value in self.words.values()))
        embeds = torch.cat([self.encode(dict(zip(self.words, part))) for part in parts])
        self.texts = [{"embeds": embeds}]

    def least_seconds(self, batch: dict[str, torch.Tensor]) -> float:
        """Nothing is known of it beforehand."""
        return 0.0


class OmDetTurbo(_Texts):
    """OmDet-Turbo: all names in one forward; the task, which lists them, is cut off at the length of its texts, as the
    processor does. What it has embedded it remembers. Here it forgets that before every call."""

    outputs = ("decoder_class_logits", "decoder_coord_logits")

    def set_names(self, count: int, batch_size: int) -> None:
        """Make the names and the task "Detect a, b, c."."""
        config = self.module.config.text_config
        self.length = config.max_position_embeddings
        words = list(_words(count, 1, config.bos_token_id - 1))
        comma = config.bos_token_id - 1
        listed = [token for word in words for token in (*word, comma)]
        self.words = self._clip_texts(words)
        task = self._clip_texts([[1, *listed]])
        classes = {f"classes_{key}": value.repeat(batch_size, 1) for key, value in self.words.items()}
        tasks = {f"tasks_{key}": value.repeat(batch_size, 1) for key, value in task.items()}
        structure = torch.full((batch_size,), count, device=self.device)
        self.texts = [{**classes, **tasks, "classes_structure": structure}]
        self.capacity = max(count, batch_size, self.module.config.cache_size)
        self.forget()

    def forget(self) -> None:
        """Empty what it remembers. There is room for all names; by default the library remembers 100."""
        for name in ("language_cache_class", "language_cache_prompt"):
            setattr(self.module, name, type(getattr(self.module, name))(self.capacity))

    def before(self) -> None:
        """Forget."""
        self.forget()

    def encode(self, texts: dict[str, torch.Tensor]) -> torch.Tensor:
        """As the library does for its own forward."""
        return self.module.language_backbone(texts["input_ids"], encode_type="class")

    def least_seconds(self, batch: dict[str, torch.Tensor]) -> float:
        """Of the names, which it embeds for each picture."""
        return self.text_seconds(self.words) * len(batch["pixel_values"])

    def finish(self, outputs: list[Any], sizes: list[tuple[int, int]]) -> list[dict[str, list]]:
        """With its non-maximum suppression among boxes of one name."""
        (output,) = outputs
        scores = output.decoder_class_logits.sigmoid()
        found = best_pairs(scores, output.decoder_coord_logits, sizes)
        for one in found:
            kept = batched_nms(one["boxes"].float(), one["scores"].float(), one["labels"], _NMS)
            one.update({key: value[kept] for key, value in one.items()})
        return _lists(found)


class CachedOmDetTurbo(OmDetTurbo):
    """OmDet-Turbo, which remembers its names."""

    once = "fills the language cache"

    def before(self) -> None:
        """Remember."""

    def once_seconds(self) -> float:
        """Of the texts."""
        return self.text_seconds(self.words)

    def once_for_names(self) -> None:
        """Fill the cache, a part of the names at a time."""
        for ids, mask in zip(self.words["input_ids"].split(_CHUNK), self.words["attention_mask"].split(_CHUNK)):
            self.module.get_cached_class_embeddings(ids, mask)
        (text,) = self.texts
        self.module.get_cached_task_embeddings(text["tasks_input_ids"], text["tasks_attention_mask"])

    def least_seconds(self, batch: dict[str, torch.Tensor]) -> float:
        """Nothing is known of it beforehand."""
        return 0.0


def _config(name: str, size: int | None) -> PreTrainedConfig:
    fields = dict(PEERS[name].fields)
    if size is not None and name == "owlv2":
        fields["vision_config"] = {**fields["vision_config"], "image_size": size}
    if size is not None and name == "omdet-turbo":
        fields["image_size"] = size
    return AutoConfig.for_model(name, **fields)


def peers_of(name: str, size: int | None, device: torch.device, dtype: torch.dtype) -> list[Contestant]:
    """A peer of `PEERS`, and in other rows what it is with its texts embedded once.

    Args:
        size: side of its pictures. None: as published.
    """
    entry = PEERS[name]
    torch.manual_seed(0)
    model = AutoModelForZeroShotObjectDetection.from_config(_config(name, size)).eval().to(device=device, dtype=dtype)
    sides = entry.size if size is None else {"height": size, "width": size}
    queries = getattr(model.config, "num_queries", None)
    facts: dict[str, Any] = {"queries": queries, "published": entry.published}
    if name == "owlv2":
        side = model.config.vision_config.image_size
        patches = (side // model.config.vision_config.patch_size) ** 2
        processor = Owlv2ImageProcessor(size=sides)
        facts["queries"] = patches
        return [
            Owlv2(entry.title, "peer", model, processor, **facts),
            EmbeddedOwlv2(f"{entry.title}, names embedded once", "peer", _OfEmbeds(model), processor, **facts),
        ]
    if name == "omdet-turbo":
        processor = DetrImageProcessor(size=sides, do_pad=False)
        return [
            OmDetTurbo(f"{entry.title}, language cache off", "peer", model, processor, **facts),
            CachedOmDetTurbo(f"{entry.title}, language cache on", "peer", model, processor, **facts),
        ]
    processor = GroundingDinoImageProcessor(size=sides)
    return [GroundingDino(entry.title, "peer", model, processor, **facts)]
