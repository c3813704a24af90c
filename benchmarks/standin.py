"""A text-free stand-in for CLIP and LLaVA: fixed random codes per name, for annotated boxes only.

It writes the very artifacts that a teacher writes: a regions data set, a pool and two vocabularies, so
that everything downstream is the real code. What it cannot do is name an object that was never annotated: its codes
say nothing about how names relate, so novel names stay unknown until real teachers replace it.
"""

import hashlib
from pathlib import Path

import numpy as np

ENCODER = "decodetr-random-codes-v1"


def name_code(name: str, dim: int) -> np.ndarray:
    """The unit vector (dim,) of a name, float32: the same on every machine, nearly orthogonal to that of any other
    name."""
    seed = int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:8], "little")
    return _unit(np.random.default_rng(seed).standard_normal(dim))


def write_standin(data, output, *, dim=64, fine_per_name=2, noise=0.25, seed=0):
    """Write regions, pool and vocabularies for a COCO-format folder.

    Args:
        data (`str` or `Path`): folder with annotations/train.json and names.json.
        output (`str` or `Path`): gets `regions/`, `pool/`, `vocabulary-base/` and `vocabulary/` (all names).
        dim: d. fine_per_name: fine prototypes per base name. noise: length of the noise that a region's "image
            embedding"
            and a fine prototype have besides the unit code of the name (cosine to the code about 1 / sqrt(1 +
            noise^2)).
        seed: of the noise.
    """
    import torch

    from decodetr.modeling_decodetr import PrototypePool, Vocabulary
    from decodetr.processing import CocoAnnotations, write_regions
    from decodetr.utils.documents import read_json

    data, output = Path(data), Path(output)
    coco = CocoAnnotations.load(data / "annotations" / "train.json")
    split = read_json(data / "names.json")
    every = {int(i): name for part in ("base", "novel") for i, name in split[part].items()}
    codes = {name: name_code(name, dim) for name in every.values()}
    rng = np.random.default_rng(seed)

    def noisy(code):
        return _unit(code + noise * _unit(rng.standard_normal(dim)))

    def rows():
        for image in coco.images:
            for annotation in coco.annotations_by_image.get(image["image_id"], []):
                x, y, w, h = annotation["bbox"]
                name = coco.names[annotation["category"]]
                image_embed = noisy(codes[name])
                yield {
                    "image_id": image["image_id"],
                    "file_name": image["file_name"],
                    "box": [x, y, x + w, y + h],
                    "proposal_score": 1.0,
                    "caption": name,
                    "image_embed": image_embed,
                    "text_embed": codes[name],
                    "clip_score": float(image_embed @ codes[name]),
                    "kept": True,
                }

    write_regions(output / "regions", rows())
    info = {"encoder": ENCODER, "captioner": "none (annotated names)", "seed": seed}
    base = coco.names
    coarse = np.stack([codes[name] for name in base])
    fine = np.stack([noisy(codes[name]) for name in base for _ in range(fine_per_name)])
    level = torch.tensor([0] * len(coarse) + [1] * len(fine))
    parent = torch.tensor([-1] * len(coarse) + [i for i in range(len(base)) for _ in range(fine_per_name)])
    captions = [*base, *(name for name in base for _ in range(fine_per_name))]
    pool = PrototypePool(torch.from_numpy(np.concatenate([coarse, fine])), level, parent, captions=captions, info=info)
    pool.save_pretrained(output / "pool")
    for folder, names in (("vocabulary-base", base), ("vocabulary", [every[i] for i in sorted(every)])):
        embeddings = torch.from_numpy(np.stack([codes[name] for name in names]))
        Vocabulary(names, embeddings, {"encoder": ENCODER}).save_pretrained(output / folder)


def _unit(vector):
    return (vector / np.linalg.norm(vector)).astype(np.float32)
