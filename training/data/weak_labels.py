"""What is known of whole images, without boxes: captions that people wrote, and names that are somewhere in them.

Settings C-OVD and WS-OVD may use them (paper 5). Captions belong into the pool when it is built
(`pool_builder/image_captions.py`). Where the pool moves in training, they can join the regions' captions in its
momentum step too (paper 3.4, 3.5), embedded once, before training, by the text model that made the pool. Names narrow
what CLIP may take a region for (paper 2.8).
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from decodetr.annotations.captions import read_captions
from decodetr.annotations.coco_checks import read_categories, read_document
from decodetr.modeling_decodetr.text_encoder import encode_texts, load_text_model
from decodetr.utils.devices import pick_device
from decodetr.utils.excerpts import short
from decodetr.utils.files import replacing
from decodetr.utils.hub import local_only
from decodetr.utils.model_identity import folder_digest
from decodetr.utils.shipped import cannot_load, resolve

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeakLabels:
    """
    Args:
        captions (`CaptionTable`, *optional*).
        image_labels (`dict`, *optional*): image_id -> names, of `read_image_labels`. Images that are not in it can
            show anything.
        labelled (names): that `image_labels` decide on. Others can be anywhere.
        exhaustive (names, *optional*): all objects of these names have a box, so a region without a box is none of
            them. Crowds are excepted.
    """

    captions: "CaptionTable | None" = None
    image_labels: dict[int, list[str]] | None = None
    labelled: frozenset[str] = frozenset()
    exhaustive: frozenset[str] = frozenset()

    def of_image(
        self, image_id: int, label_of_name: Mapping[str, int], crowded: Iterable[int] = ()
    ) -> dict[str, torch.Tensor]:
        """Label entries: `caption_embeds` (c, d) and `absent_labels` (L,) int64, the classes that no unannotated
        region shows, as indices into the vocabulary. Each entry is there only if something is known. Objects of
        `crowded` labels have no separate boxes."""
        entries = {}
        if self.captions is not None:
            entries["caption_embeds"] = torch.from_numpy(self.captions.get(image_id))
        absent = {label_of_name[name] for name in self.exhaustive if name in label_of_name} - set(crowded)
        if self.image_labels is not None and image_id in self.image_labels:
            elsewhere = self.labelled.difference(self.image_labels[image_id])
            absent |= {label_of_name[name] for name in elsewhere if name in label_of_name}
        elif not self.exhaustive:
            return entries
        return entries | {"absent_labels": torch.tensor(sorted(absent), dtype=torch.int64)}


def read_image_labels(file: str | Path) -> tuple[dict[int, list[str]], frozenset[str]]:
    """
    Names that are somewhere in an image.

    Args:
        file: JSON with `images` [{"id"}], `categories` [{"id", "name"}] and `annotations` [{"image_id",
            "category_id"}], such as a COCO annotation file, whose boxes are not read.

    Returns:
        (dict, frozenset): image_id -> list of names, each once, empty for an image without annotation, where none of
        the file's names is, and the file's names.

    Raises:
        FileNotFoundError, ValueError: no such file, or not of this form. The message names file and row.
    """
    file = Path(file)
    document = read_document(file)
    name_of = dict(zip(*read_categories(file, document["categories"])))
    labels = {row["id"]: {} for row in document["images"] if type(row.get("id")) is int}
    for number, row in enumerate(document["annotations"]):
        image_id, category = row.get("image_id"), row.get("category_id")
        if not (type(image_id) is type(category) is int and image_id in labels and category in name_of):
            raise ValueError(
                f"{file}: annotations[{number}]: expected ids of an image and a category of this file, got image_id "
                f"{short(image_id)} and category_id {short(category)}; correct it or leave it out"
            )
        labels[image_id][name_of[category]] = None
    return {image_id: list(found) for image_id, found in labels.items()}, frozenset(name_of.values())


class CaptionTable:
    """
    Text embeddings of captions of whole images.

    Args:
        embeddings (np.ndarray of shape (n, d)): unit rows. rows (dict): image_id -> rows of its captions.
    """

    def __init__(self, embeddings: np.ndarray, rows: dict[int, list[int]]) -> None:
        self.embeddings, self._rows = embeddings, rows

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def get(self, image_id: int) -> np.ndarray:
        """(c, d) float32, with c = 0 for an image without captions."""
        return self.embeddings[self._rows.get(image_id, [])].astype(np.float32)

    @classmethod
    def load(
        cls, file: str | Path, text_model: str, folder: str | Path | None = None, given: bool = True
    ) -> "CaptionTable":
        """
        Read and embed captions.

        Args:
            file: JSON with `annotations` [{"image_id", "caption"}], as COCO has its captions.
            text_model: folder, Hub or shipped name of the CLIP that made the pool.
            given (bool): the user named it, else what the pool says, which is looked for on this machine alone.
            folder: where the embeddings are kept, captions.safetensors, so that a resumed run has them at once.

        Raises:
            FileNotFoundError, ValueError: no such file or model, or not of this form. The message names file and row.
        """
        rows, numbers = read_captions(Path(file))
        made_by = folder_digest(resolve(text_model)) or text_model  # a folder by what it holds
        key = hashlib.sha256("\n".join([str(made_by), *numbers]).encode()).hexdigest()
        kept = Path(folder) / "captions.safetensors" if folder else None
        if kept is not None and kept.is_file():
            try:
                with safe_open(kept, "numpy") as stored:
                    if (stored.metadata() or {}).get("key") == key:
                        return cls(stored.get_tensor("embeddings"), rows)
            except SafetensorError as error:
                logger.warning("%s is damaged (%s); the captions are embedded again", kept, error)
        embeddings = _embed(list(numbers), text_model, given)
        if kept is not None:
            with replacing(kept) as partial:
                save_file({"embeddings": embeddings}, partial, {"key": key})
        return cls(embeddings, rows)


def _embed(texts, text_model, given):
    asked_by = None if given else f"the pool says that it was made with it; --clip {text_model} fetches it"
    folder = resolve(text_model, "text model")
    try:
        with local_only(folder, asked_by):
            model, tokenizer = load_text_model(folder, device=pick_device("auto"))
    except OSError as error:
        raise cannot_load("text model", text_model, error) from error
    logger.info("embedding %d captions by %s", len(texts), text_model)
    return encode_texts(texts, model, tokenizer, progress=True).numpy().astype(np.float16)
