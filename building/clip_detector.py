"""A detector's boxes with the names that CLIP gives to what is in them: before anything is trained, and slow.

One crop a box goes through CLIP's image tower, where a DeCo-DETR looks names up in a table. It is the yardstick for
the model that `decodetr build` makes of the same two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch

from decodetr.inference.loading import weights_digest
from decodetr.modeling_decodetr.configuration_decodetr import DeCoDetrConfig
from decodetr.modeling_decodetr.vocabulary import Vocabulary
from decodetr.pool_builder.build import clip_model
from decodetr.pool_builder.crops import crop_region
from decodetr.pool_builder.proposals import select_proposals
from decodetr.pool_builder.proposers import proposer_model
from decodetr.processing.picture_modes import to_rgb
from decodetr.utils.devices import pick_device
from decodetr.utils.model_identity import config_settings, json_digest
from decodetr.utils.shipped import loading

if TYPE_CHECKING:
    from PIL import Image

    from decodetr.pool_builder.embedder import ClipEmbedder
    from decodetr.pool_builder.proposals import Proposer

# What is none of the names competes with them: CLIP's softmax over one name alone would always be sure of it.
NOTHING = (
    "a photo of the background.",
    "a part of the background.",
    "a photo without an object.",
    "a photo of a texture.",
    "a part of an object.",
)
_LIMITS = {"min_objectness": 0.05, "min_side": 2.0, "nms_iou": 0.7, "max_proposals": 50}
_CROPS = 64  # at once


class ClipDetector:
    """
    Args:
        proposer: of pool_builder/proposers.py: boxes and objectness of pictures.
        clip ([`ClipEmbedder`]): names the crops.
        vocabulary ([`Vocabulary`]): K names, embedded by that CLIP.

    A score is the geometric mean of objectness and CLIP's softmax, at its own logit scale, over the names and
    `NOTHING`, as in RegionCLIP (Zhong et al., CVPR 2022): detectors are less sure than softmaxes.
    """

    def __init__(self, proposer: Proposer, clip: ClipEmbedder, vocabulary: Vocabulary) -> None:
        self.proposer, self.clip, self.vocabulary = proposer, clip, vocabulary
        self.config = DeCoDetrConfig()  # for its thresholds, which nothing has calibrated
        scale = clip.info.get("logit_scale")
        self.scale = 100.0 if scale is None else float(scale)  # what CLIP's training ends with
        nothing = torch.from_numpy(clip.embed_texts(list(NOTHING)))
        self._texts = torch.cat([vocabulary.embeddings.cpu().float(), nothing])

    @classmethod
    def from_pretrained(
        cls, detector: str, clip: str, names: Sequence[str] | Mapping[str, list[str]], device: str = "auto"
    ) -> Self:
        """Load both.

        Args:
            detector: folder or Hub name of any detector of transformers, or of a DeCo-DETR. clip: of a CLIP.
            names: to look for, embedded with CLIP's prompt "a photo of a {}."; or {name: texts} that are embedded
                instead.

        Raises:
            FileNotFoundError: there is no such model. ValueError: it is of another kind.
        """
        place = pick_device(device)
        with loading("CLIP", clip) as folder:
            embedder = clip_model(folder, place).load()
        with loading("detector", detector) as folder:
            proposer = proposer_model(folder, place).load()
        vocabulary = Vocabulary.from_text_model(names, embedder.model, tokenizer=embedder.tokenizer)
        return cls(proposer, embedder, vocabulary)

    def __call__(
        self, images: Iterable[Image.Image], threshold: float | None = None, top_k: int = 100
    ) -> list[dict[str, list]]:
        """Detections as [`decodetr.inference.detection.detect`] gives them: of each picture "names", "scores" and
        "boxes" (x0, y0, x1, y1 in pixels), best first.

        Args:
            images: PIL pictures. threshold (float, *optional*): only scores above it (default: 0.3). top_k (int): at
                most so many of a picture.
        """
        pictures = [to_rgb(image) for image in images]
        least = self.config.common_threshold if threshold is None else threshold
        return [self._named(*one, least, top_k) for one in zip(pictures, self.proposer(pictures))]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The weights of both, and the embeddings of names."""
        detector = getattr(self.proposer, "detector", None)
        parts = {"clip": self.clip.model.state_dict(), "detector": detector.state_dict() if detector else {}}
        found = {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
        return found | {"texts": self._texts}

    def digest(self) -> str:
        """SHA-256 of all that decides a detection: weights, names, configs and preprocessing."""
        detector, processor = (getattr(self.proposer, name, None) for name in ("detector", "image_processor"))
        configs = [getattr(one, "config", None) for one in (self.clip.model, detector)]
        settings = [config_settings(config.to_dict()) for config in configs if config is not None]
        pictures = [one.to_json_string() for one in (self.clip.image_processor, processor) if one is not None]
        return json_digest([weights_digest(self.state_dict()), settings, pictures])

    def _named(self, image, proposed, least, top_k):
        boxes, objectness, _ = select_proposals(*proposed, torch.zeros(0, 4), image.width, image.height, **_LIMITS)
        if not len(boxes):
            return {"names": [], "scores": [], "boxes": []}
        crops = [crop_region(image, box, self.clip.size) for box in boxes.tolist()]
        parts = [self.clip.embed_images(crops[start : start + _CROPS]) for start in range(0, len(crops), _CROPS)]
        embeds = torch.cat([torch.from_numpy(part) for part in parts])
        shares = (self.scale * embeds @ self._texts.T).softmax(-1)[:, : len(self.vocabulary)]
        scores = (objectness[:, None] * shares).sqrt()
        best, place = scores.flatten().topk(min(top_k, scores.numel()))
        kept = place[best > least]
        row, name = kept // len(self.vocabulary), kept % len(self.vocabulary)
        found: dict[str, list[Any]] = {"names": [self.vocabulary.names[one] for one in name.tolist()]}
        return found | {"scores": best[best > least].tolist(), "boxes": boxes[row].tolist()}
