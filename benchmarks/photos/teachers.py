"""The small CLIP and LLaVA of the photo world: trained as those of the drawn scenes are, on separate pictures.

They see crops of composed pictures that no folder holds, of all names, base and novel, as the web shows a real CLIP.
Of a name with several photographs they see those of training alone. The CLIP gets the cosines of a real one afterwards
(`decodetr.scenes.clip_geometry`).
"""

from functools import partial
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from decodetr.pool_builder.crops import crop_region
from decodetr.scenes.clip_teacher import train_clip
from decodetr.scenes.llava_teacher import train_llava
from decodetr.scenes.teacher_data import CROP_SIDE
from decodetr.scenes.teachers import drawn_once, take_work_folder
from decodetr.utils.devices import pick_device
from decodetr.utils.documents import read_json
from decodetr.utils.files import committed, write_json
from decodetr.utils.shipped import resolve

from .scene import draw_scene
from .texts import Texts
from .write import each_scene, photographs_of

CLIP, RAW_CLIP, LLAVA = "photo-clip", "photo-clip-unshaped", "photo-llava"
VALIDATION_SCENES = 300
STARTS = ("scenes-clip", "scenes-llava")  # they have seen no photograph
EMBEDDING_DIM, CLIP_BATCH = 128, 96
TEXT_COSINE = 0.75  # mean of two texts of a real CLIP: 0.74 to 0.80
_EMPTY_SIDES = (0.1, 0.45)  # of regions without an object, as shares of the picture's side


def write_teachers(output, settings, *, scenes, clip_steps, llava_steps, workers=1):
    """Train both and write `output/photo-clip`, `output/photo-clip-unshaped` and `output/photo-llava`.

    What is finished is not made again. An interrupted training goes on from its last checkpoint.

    Args:
        output: folder. `output/work` holds crops and checkpoints, and may be deleted afterwards.
        settings: `PhotoSettings`.
        scenes: pictures to take crops from.
        clip_steps, llava_steps: optimizer steps.

    Returns:
        What was measured, as in `output/measured.json`.

    Raises:
        ValueError: the folder has teachers of other settings.
    """
    from transformers import CLIPModel, CLIPProcessor, LlavaForConditionalGeneration

    output = Path(output)
    work, texts = output / "work", Texts(photographs_of(settings).world)
    said = {"scenes": scenes, "clip_steps": clip_steps, "llava_steps": llava_steps, "seed": settings.seed}
    take_work_folder(work, said | {"photographs": photographs_of(settings).world.digest})
    crops, stamps = _crops(work, "teachers", scenes, settings, workers)
    validation = _crops(work, "teachers-val", VALIDATION_SCENES, settings, workers)
    file = output / "measured.json"
    measured = read_json(file, dict) if file.exists() else {}
    steps = {"texts": texts, "seed": settings.seed}
    if "unshaped" not in measured:
        clip, processor = train_clip(
            work / "clip",
            crops,
            stamps,
            steps=clip_steps,
            embedding_dim=EMBEDDING_DIM,
            batch_size=CLIP_BATCH,
            start=CLIPModel.from_pretrained(resolve(STARTS[0])),
            **steps,
        )
        _save(clip, processor, output / RAW_CLIP)
        measured["unshaped"] = measure_clip(output / RAW_CLIP, texts, *validation)
        write_json(file, measured)
    clip, processor = (kind.from_pretrained(output / RAW_CLIP) for kind in (CLIPModel, CLIPProcessor))
    if "clip" not in measured:
        shaped, measured["geometry"] = _shape(clip, processor, texts, crops, stamps)
        _save(shaped, processor, output / CLIP)
        measured["clip"] = measure_clip(output / CLIP, texts, *validation)
        write_json(file, measured)
    if "llava" not in measured:
        start = LlavaForConditionalGeneration.from_pretrained(resolve(STARTS[1]))
        model, llava_processor = train_llava(
            work / "llava", clip, crops, stamps, steps=llava_steps, start=start, class_token=True, **steps
        )
        _save(model, llava_processor, output / LLAVA)
        measured["llava"] = measure_llava(output / LLAVA, texts, *validation)
        write_json(file, measured)
    return measured


def write_captioner(output, settings, *, hidden_size, layers, llava_steps, workers=1):
    """Train a LLaVA of another size on the crops of the teachers and write `output/photo-llava-HIDDENxLAYERS`. Its
    language model begins with random weights.

    Args:
        output: folder of `write_teachers`, with its `photo-clip`. settings: of it.
        hidden_size, layers: of the language model. llava_steps: optimizer steps.

    Returns:
        What was measured of it, as in `output/measured.json`.

    Raises:
        FileNotFoundError: there are no teachers. ValueError: they are of other settings.
    """
    from transformers import CLIPModel

    output, name = Path(output), f"{LLAVA}-{hidden_size}x{layers}"
    work, texts = output / "work", Texts(photographs_of(settings).world)
    made_of = read_json(work / "settings.json", dict)
    take_work_folder(work, made_of | {"seed": settings.seed, "photographs": photographs_of(settings).world.digest})
    model, processor = train_llava(
        work / name,
        CLIPModel.from_pretrained(output / CLIP),
        *_crops(work, "teachers", made_of["scenes"], settings, workers),
        steps=llava_steps,
        class_token=True,
        hidden_size=hidden_size,
        layers=layers,
        texts=texts,
        seed=settings.seed,
    )
    _save(model, processor, output / name)
    validation = _crops(work, "teachers-val", VALIDATION_SCENES, settings, workers)
    measured = measure_llava(output / name, texts, *validation)
    measured |= {"parameters": model.model.language_model.num_parameters(), "steps": llava_steps}
    write_json(output / "measured.json", read_json(output / "measured.json", dict) | {name: measured})
    return measured


def _shape(clip, processor, texts, crops, stamps, most=4000):
    """The CLIP with a real one's cosines, by the names of crops of named things."""
    from decodetr.scenes.clip_geometry import reshape, statistics

    chosen = [i for i, stamp in enumerate(stamps) if stamp >= 0 and texts.things[stamp].name][:most]
    pairs = crops[chosen], [texts.things[stamps[i]].name for i in chosen]
    now = statistics(clip, processor, *pairs)["text"]  # the start had a real one's already, and only more can be added
    return reshape(clip, processor, *pairs, text_cosine=max(TEXT_COSINE, now + 0.005))


def teacher_crops(split, scenes, settings, workers=1):
    """Crops of the objects of composed pictures, each as its box and once more loosely, and a region without one.

    Returns:
        (crops (n, 48, 48, 3) uint8 RGB, number of the stamp (n,) int64, -1 without an object).
    """
    found = each_scene(partial(_crops_of_scene, settings, split), range(scenes), workers)
    crops, stamps = zip(*tqdm(found, total=scenes, desc=f"pictures of {split}", unit="image"))
    return np.concatenate(crops), np.concatenate(stamps)


def _crops_of_scene(settings, split, index):
    side = settings.image_size
    picture, things = draw_scene(photographs_of(settings), settings.seed, split, index, side)
    rng = np.random.default_rng([settings.seed, index, 1])
    corners = [np.array([x, y, x + w, y + h], dtype=float) for x, y, w, h in (thing.box for thing in things)]
    boxes = [(thing.stamp, box) for thing, box in zip(things, corners)]
    for thing, box in zip(things, corners):
        loose = np.clip(box + np.tile(box[2:] - box[:2], 2) * rng.uniform(-0.1, 0.1, 4), 0, side)
        boxes.append((thing.stamp, loose))
    length = side * np.exp(rng.uniform(*np.log(_EMPTY_SIDES)))
    x, y = rng.uniform(0, side - length, 2)
    empty = np.array([x, y, x + length, y + length])
    if all(_covered(empty, box) < 0.15 for box in corners):
        boxes.append((-1, empty))
    crops = [np.asarray(crop_region(picture, box, CROP_SIDE)) for _, box in boxes]
    return np.array(crops).reshape(-1, CROP_SIDE, CROP_SIDE, 3), np.array([stamp for stamp, _ in boxes], dtype=int)


def _covered(one, other):
    """The intersection as a share of the smaller of two boxes."""
    sides = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None)
    return sides.prod() / min((one[2:] - one[:2]).prod(), (other[2:] - other[:2]).prod())


def _crops(work, split, scenes, settings, workers):
    return drawn_once(work, split, lambda: teacher_crops(split, scenes, settings, workers))


def _save(model, processor, folder):
    with committed(folder) as staging:
        model.save_pretrained(staging)
        processor.save_pretrained(staging)


def measure_clip(folder, texts, crops, stamps):
    """Shares in 0..1 of crops of named things: `right`, the nearest of all names is theirs. `right_of_five`, one
    of the five nearest."""
    import torch

    from decodetr.modeling_decodetr.text_encoder import encode_texts
    from decodetr.pool_builder.embedder import ClipEmbedder

    clip = ClipEmbedder(folder, pick_device("auto"))
    names = sorted({thing.name for thing in texts.things if thing.name})
    chosen = [i for i, stamp in enumerate(stamps) if stamp >= 0 and texts.things[stamp].name]
    images = torch.cat([torch.from_numpy(clip.embed_images(list(crops[part]))) for part in _parts(chosen)])
    nearest = (images @ encode_texts(names, clip.model, clip.tokenizer).T).topk(min(5, len(names))).indices
    own = torch.tensor([names.index(texts.things[stamps[i]].name) for i in chosen])
    hits = nearest == own[:, None]
    return {"right": hits[:, 0].float().mean().item(), "right_of_five": hits.any(1).float().mean().item()}


def measure_llava(folder, texts, crops, stamps, most=1000):
    """Shares in 0..1: `object`, of crops with an object, that the caption names it, in whatever words. `empty`, of
    crops without one, that the caption names none."""
    from decodetr.pool_builder.captioner import Captioner
    from decodetr.pool_builder.settings import PoolSettings
    from decodetr.scenes.captions import EMPTY

    captioner = Captioner(folder, prompt=PoolSettings().prompt, max_new_tokens=24, device=pick_device("auto"))
    chosen = range(min(most, len(crops)))
    captions = [text for part in _parts(chosen) for text in captioner.caption(list(crops[part]))]
    right = {"object": [], "empty": []}
    for i, caption in zip(chosen, captions):
        if stamps[i] >= 0:
            right["object"].append(texts.says(caption, texts.things[stamps[i]]))
        else:
            right["empty"].append(caption.strip() in EMPTY)
    return {kind: float(np.mean(hits)) for kind, hits in right.items() if hits}


def _parts(numbers, size=256):
    return [list(numbers[start : start + size]) for start in range(0, len(numbers), size)]
