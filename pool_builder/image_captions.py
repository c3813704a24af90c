"""Captions that people wrote of whole training images, clustered with those of regions: C-OVD and WS-OVD may use them
(paper 5). They are not filtered by delta, which compares a caption with a region.
"""

import hashlib
from collections import Counter
from pathlib import Path

from decodetr.annotations.captions import read_captions
from decodetr.annotations.coco import CocoAnnotations
from decodetr.pool_builder.engines import IN_PROCESS, Engine
from decodetr.pool_builder.lazy_model import Model
from decodetr.pool_builder.shards import Ranks, StageFolder
from decodetr.pool_builder.stages import embed_texts, text_shards

STAGE = "image_texts"


def embed_image_captions(
    coco: CocoAnnotations,
    file: str | Path,
    output: Path,
    clip: Model,
    ranks: Ranks | None = None,
    overwrite: bool = False,
    engine: Engine = IN_PROCESS,
) -> dict:
    """OUTPUT/image_texts: CLIP's embeddings of the distinct captions of the training images.

    Args:
        coco (CocoAnnotations): captions of other images, such as those of a validation set, are left out.
        file: JSON with `annotations` [{"image_id", "caption"}], as COCO has its captions.
        output (Path): OUTPUT. clip, engine: as in [`stages.embed_regions`].

    Returns:
        dict: totals.

    Raises:
        FileNotFoundError, ValueError: no such file, or not of this form. No caption of a training image.
    """
    rows, numbers = read_captions(file)
    texts = list(numbers)
    counts = Counter(texts[number] for image in coco.images for number in rows.get(image["image_id"], ()))
    if not counts:
        raise ValueError(f"{file}: expected captions of the images of {coco.file}, got none with an image_id of them")
    captions = sorted(counts)
    count = [counts[caption] for caption in captions]
    said = hashlib.sha256(repr(list(zip(captions, count))).encode()).hexdigest()
    identity = {"image_captions": said, **clip.identity}
    folder = StageFolder(output / STAGE, STAGE, identity, text_shards(captions), ranks, overwrite)
    return embed_texts(folder, captions, clip, engine, count=count)


def open_image_captions(output: Path, texts: StageFolder) -> StageFolder:
    """OUTPUT/image_texts, finished and of the CLIP that embedded `texts` (StageFolder), to read from.

    Raises:
        ValueError: there is none, or it is of another CLIP.
    """
    mend = "run `decodetr pool embeddings --image-captions FILE` with the same --output"
    try:
        folder = StageFolder.open(output / STAGE, STAGE)
    except ValueError as error:
        raise ValueError(f"{output / STAGE}: expected embedded captions of images, got none; {mend} first") from error
    key = "encoder_fingerprint"
    if folder.identity.get(key) != texts.identity.get(key):
        raise ValueError(f"{folder.folder} is of another CLIP than {texts.folder}; {mend} and --overwrite")
    return folder
