"""Zero-shot detectors of transformers as peers: Grounding DINO, OWL-ViT and OWLv2, OmDet-Turbo.

The library's post-processing of OWL and Grounding DINO gives a box one name (of Grounding DINO a phrase), where AP
wants the best pairs of box and name. Boxes are the library's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch

from decodetr.evaluation.peers import Peer, some

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


def _spoken(name):
    """As text models know it: "alarm clock" for LVIS' "alarm_clock"."""
    return " ".join(name.replace("_", " ").split())


def _check_lengths(names, lengths, limit):
    unreadable = [name for name, length in zip(names, lengths) if not 0 < length <= limit]
    if unreadable:
        raise ValueError(
            f"names must have 1 to {limit} tokens for this text model, which fails for {some(unreadable)}"
        )


def prompt_groups(names: Sequence[str], lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Indices of names in groups, in order, so that their lengths and one separator each sum up to at most limit.

    Raises:
        ValueError: a name alone is too long, or has no tokens.
    """
    _check_lengths(names, lengths, limit - 1)
    groups, room = [], 0
    for i, length in enumerate(lengths):
        if length + 1 > room:
            groups.append([])
            room = limit
        groups[-1].append(i)
        room -= length + 1
    return groups


class GroundingDinoPeer(Peer):
    """Grounding DINO and MM-Grounding-DINO, scored as in the authors' COCO evaluation. A forward per prompt."""

    prompt = '"a. b. c.", as many names as fit; in lower case; underscores, full stops and question marks as spaces'
    score = "mean sigmoid of the name's tokens; best pairs of box and name over all prompts"

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin, names: list[str], max_detections: int
    ) -> None:
        super().__init__(model, processor.image_processor, names, max_detections)
        tokenizer, limit = processor.tokenizer, model.config.max_text_len
        stop = tokenizer.convert_tokens_to_ids(".")  # ends a phrase, as "?" does: within a name it would cut it in two
        texts = [_spoken(re.sub("[.?]", " ", name)).lower() for name in names]
        # One by one, so that it is known whose each token is: a word's tokens do not depend on the words before it.
        tokens = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        self.prompts = []
        for group in prompt_groups(names, [len(ids) for ids in tokens], limit - 2):
            ids, weights = [tokenizer.cls_token_id], torch.zeros(limit, len(group))
            for column, i in enumerate(group):
                weights[len(ids) : len(ids) + len(tokens[i]), column] = 1 / len(tokens[i])
                ids += [*tokens[i], stop]
            ids = torch.tensor([[*ids, tokenizer.sep_token_id]], device=self.device)
            self.prompts.append((ids, weights.to(self.device), torch.tensor(group)))

    def _detect(self, batch, sizes):
        for ids, weights, group in self.prompts:
            outputs = self.model(input_ids=ids.expand(len(sizes), -1), **batch)
            yield self.best_pairs(outputs.logits.sigmoid() @ weights, outputs, sizes, group)


class OwlPeer(Peer):
    """OWL-ViT and OWLv2. The names are embedded once."""

    template = "a photo of a {}"
    prompt = f'"{template}", underscores as spaces'
    score = "sigmoid of the name's logit; best pairs of box and name"

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin, names: list[str], max_detections: int
    ) -> None:
        super().__init__(model, processor.image_processor, names, max_detections)
        tokenizer, limit = processor.tokenizer, model.config.text_config.max_position_embeddings
        texts = [self.template.format(_spoken(name)) for name in names]
        _check_lengths(names, [len(ids) for ids in tokenizer(texts).input_ids], limit)
        tokens = tokenizer(texts, padding="max_length", max_length=limit, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            embeds = [
                model.base_model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
                for ids, mask in zip(tokens.input_ids.split(256), tokens.attention_mask.split(256))
            ]
        self.embeds, self.labels = torch.cat(embeds), torch.arange(len(names))

    def _detect(self, batch, sizes):
        grid, _ = self.model.image_embedder(**batch)
        features = grid.flatten(1, 2)
        logits, _ = self.model.class_predictor(features, self.embeds.expand(len(sizes), -1, -1))
        outputs = SimpleNamespace(logits=logits, pred_boxes=self.model.box_predictor(features, grid))
        yield self.best_pairs(logits.sigmoid(), outputs, sizes, self.labels)


class OmDetTurboPeer(Peer):
    """OmDet-Turbo: the names in groups that its task, which lists them, has tokens for. A forward per group."""

    prompt = 'the name; the task is "Detect a, b, c." with as many names as fit; underscores as spaces'
    nms = 0.5  # IoU, the library's default
    score = f"sigmoid of the name's logit, after the library's NMS per name at {nms}"

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin, names: list[str], max_detections: int
    ) -> None:
        super().__init__(model, processor.image_processor, names, max_detections)
        post_process = processor.post_process_grounded_object_detection
        self.post_process = partial(post_process, threshold=0.0, nms_threshold=self.nms)
        tokenizer, limit = processor.tokenizer, model.config.text_config.max_position_embeddings
        encode = partial(tokenizer, padding="max_length", truncation=True, max_length=limit, return_tensors="pt")
        texts = [_spoken(name) for name in names]
        lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False).input_ids]
        self.prompts = []
        for group in prompt_groups(names, lengths, limit - len(tokenizer("Detect.").input_ids)):
            asked = [texts[i] for i in group]
            classes, task = encode(asked), encode([f"Detect {', '.join(asked)}."])
            inputs = {f"classes_{key}": classes[key].to(self.device) for key in ("input_ids", "attention_mask")}
            inputs |= {f"tasks_{key}": task[key].to(self.device) for key in ("input_ids", "attention_mask")}
            self.prompts.append((inputs, torch.tensor(group)))
        # The model remembers the embeddings of 100 texts. With more names it would make all of them every time.
        model.language_cache_class.capacity, model.language_cache_prompt.capacity = len(names), len(self.prompts)

    def _detect(self, batch, sizes):
        for inputs, group in self.prompts:
            texts = {key: value.repeat(len(sizes), 1) for key, value in inputs.items()}
            structure = torch.full((len(sizes),), len(group), device=self.device)
            outputs = self.model(**texts, classes_structure=structure, **batch)
            found = self.post_process(outputs, target_sizes=sizes)
            yield [{**one, "labels": group[one["labels"].cpu()]} for one in found]


ZERO_SHOT: dict[str, Callable[..., Peer]] = {
    "grounding-dino": GroundingDinoPeer,
    "mm-grounding-dino": GroundingDinoPeer,
    "omdet-turbo": OmDetTurboPeer,
    "owlv2": OwlPeer,
    "owlvit": OwlPeer,
}
