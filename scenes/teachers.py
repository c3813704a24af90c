"""Train the small CLIP and the small LLaVA, measure both and write them with cards.

The CLIP gets a real one's cosines (scenes/clip_geometry.py), as `decodetr scenes reshape` gives them to one that is
there.

Drawing, either training and the measurements go on where they stopped when the same command is given again.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelCardData
from transformers import CLIPModel, CLIPProcessor

from decodetr.cards.parts import licensing
from decodetr.cards.render import Markdown, content_of, fill, parsed
from decodetr.cards.sections import Section, with_section
from decodetr.modeling_decodetr.safe_loading import load_safely
from decodetr.modeling_decodetr.text_encoder import encode_texts
from decodetr.pool_builder.captioner import Captioner
from decodetr.pool_builder.embedder import ClipEmbedder
from decodetr.pool_builder.settings import PoolSettings
from decodetr.scenes.captions import mentioned_name
from decodetr.scenes.clip_geometry import reshape
from decodetr.scenes.clip_teacher import train_clip
from decodetr.scenes.llava_teacher import train_llava
from decodetr.scenes.teacher_data import CROP_SIDE, teacher_crops
from decodetr.scenes.world import NAMES, WORLD_VERSION
from decodetr.utils.documents import read_json, read_text
from decodetr.utils.files import committed, regular_file, replacing, write_json, write_text
from decodetr.utils.tables import markdown_table

VALIDATION_SCENES = 600
_MEANING = {
    "CLIP": {
        "image_to_name": "crop to name: the nearest of 240 names is the right one",
        "colour": "its colour is right",
        "pattern": "its pattern is right",
        "shape": "its shape is right",
        "name_to_image": "name to crop: the nearest of 1,000 crops shows it",
    },
    "LLaVA": {
        "object": "captions of objects that say colour, pattern and shape rightly",
        "empty": "captions of empty regions that name no object",
    },
}
_GEOMETRY = {
    "text": "two names, mean",
    "nearest": "a name and the nearest other one, mean",
    "right": "a crop and its name, mean",
    "right_std": "its standard deviation",
    "other": "a crop and another name, mean",
    "image": "two crops, mean",
}
_EXACT = ("text_projection.weight", "visual_projection.weight", "logit_scale")  # rounding would move the constants


def write_teachers(
    output: str | Path,
    *,
    scenes: int,
    clip_steps: int,
    llava_steps: int,
    seed: int = 0,
    geometry: str = "clip",
    workers: int = 1,
) -> Path:
    """Train both teachers and write `output/scenes-clip` and `output/scenes-llava`, each with a card.

    Args:
        output: folder. `output/work` holds the drawn crops and checkpoints, and may be deleted afterwards.
        scenes: scenes to draw crops from.
        clip_steps, llava_steps: optimizer steps.
        seed: of scenes, weights and batches.
        geometry: "clip" gives the CLIP the cosines of a real one, "drawn" leaves what training made. The other one can
            be had later without training again, as long as `output/work` is there.
        workers: processes that draw. More than one needs a `__main__` guard.

    Returns:
        `output` as a `Path`.

    Raises:
        ValueError: the folder has teachers of other settings, or the CLIP is too weak for the cosines of a real one.
    """
    output = Path(output)
    work = output / "work"
    settings = {"scenes": scenes, "clip_steps": clip_steps, "llava_steps": llava_steps, "seed": seed}
    take_work_folder(work, settings | {"world_version": WORLD_VERSION})
    crops, names = drawn_once(work, "teachers", lambda: teacher_crops("teachers", scenes, seed, workers))
    validation = drawn_once(
        work, "teachers-val", lambda: teacher_crops("teachers-val", VALIDATION_SCENES, seed, workers)
    )
    words = f"--scenes {scenes} --clip-steps {clip_steps} --llava-steps {llava_steps} --seed {seed}"
    facts = {"command": f"decodetr scenes teachers DIR {words}", "crops": len(crops), "scenes": scenes}

    drawn, folder = work / "scenes-clip", output / "scenes-clip"
    if not (drawn / "README.md").exists():
        model, processor = train_clip(work / "clip", crops, names, steps=clip_steps, seed=seed)
        _save(model, processor, drawn)
        measured = measure_clip(drawn, *validation)
        _write_card(drawn, "CLIP", facts | {"steps": clip_steps, "measured": measured})
    if _geometry(folder) != geometry:
        if geometry == "drawn":
            with committed(folder) as staging:
                shutil.copytree(drawn, staging, dirs_exist_ok=True)
        else:
            try:
                reshape_clip(drawn, folder, *validation)
            except ValueError as error:
                raise ValueError(f"{error}; --geometry drawn leaves the CLIP as training made it") from error
    clip = load_safely(CLIPModel, folder)
    load_safely(CLIPProcessor, folder)  # a broken folder is found here and not after the next training
    folder = output / "scenes-llava"
    if not (folder / "README.md").exists():
        model, processor = train_llava(work / "llava", clip, crops, names, steps=llava_steps, seed=seed)
        _save(model, processor, folder)
        measured = measure_llava(folder, *validation)
        _write_card(folder, "LLaVA", facts | {"steps": llava_steps, "measured": measured})
    return output


def reshape_clip(
    source: str | Path, folder: str | Path, crops: np.ndarray, names: np.ndarray, **cosines: float
) -> None:
    """Write the CLIP in `source` with the cosines of a real one into `folder`. Its card says what it was and is.

    Args:
        source, folder: folders.
        crops, names: of `teacher_crops`, to measure on. Regions without an object are left out.
        cosines: of [`clip_geometry.reshape`].

    Raises:
        ValueError: it holds no CLIPModel for such crops, or cannot have these cosines.
    """
    check_small_clip(source)
    source, folder = Path(source), Path(folder)
    objects = names >= 0
    captions = [NAMES[name].name for name in names[objects]]
    clip, processor = load_safely(CLIPModel, source).eval(), load_safely(CLIPProcessor, source)
    clip, found = reshape(clip, processor, crops[objects], captions, **cosines)
    with committed(folder) as staging:
        shutil.copytree(source, staging, dirs_exist_ok=True)  # the processor is the same
        clip.save_pretrained(staging, state_dict=_weights(clip))
        found = {when: {**found[when], **measure_clip(at, crops, names)} for when, at in zip(found, (source, staging))}
        card = parsed(read_text(source / "README.md"), str(source / "README.md"))
        card.text = with_section(card.text, Section("\n".join(_geometry_section(found)), "geometry"), after="measured")
        write_text(staging / "README.md", content_of(card))


def check_small_clip(folder: str | Path) -> None:
    """Refuse what is no CLIPModel for crops of the drawn world in a folder with a card.

    Raises:
        ValueError, FileNotFoundError: it is something else.
    """
    config = read_json(Path(folder) / "config.json", dict)
    kind, side = config.get("model_type"), config.get("vision_config", {}).get("image_size")
    if (kind, side) != ("clip", CROP_SIDE):
        raise ValueError(
            f"{folder}: expected a CLIP for crops of {CROP_SIDE} x {CROP_SIDE} pixels, as `decodetr scenes teachers` "
            f"makes it, got a model of type {kind!r} for {side}"
        )
    regular_file(Path(folder) / "README.md")


def _geometry_section(found):
    """Lines of a card. found: {"before": statistics and retrieval, "after": the same}."""
    before, after = found["before"], found["after"]
    rows = [(words, key, "{:.3f}" if key == "right_std" else "{:.2f}") for key, words in _GEOMETRY.items()]
    rows += [("logit scale", "scale", "{:.1f}"), ("CLIP's softmax over all names: the right one", "share", "{:.3f}")]
    rows += [("principal components that the names spread over", "components", "{:.1f}")]
    rows += [(f"{words}, %", key, "{:.1f}") for key, words in _MEANING["CLIP"].items()]
    percent = set(_MEANING["CLIP"])
    table = []
    for words, key, form in rows:
        table.append(
            [words, *(form.format(values[key] * (100 if key in percent else 1)) for values in (before, after))]
        )
    return [
        _GEOMETRY_TITLE,
        "Training left embeddings that fill the sphere. The two projections and the logit scale were then replaced, "
        "without training, so that the cosines are those of a real CLIP (0.74 to 0.80 between texts, usually about "
        "0.27 between an image and its text and 0.19 to others): `decodetr scenes reshape`. Cosines, and what this "
        "CLIP says, before and after:",
        "",
        markdown_table(["", "before", "after"], table).rstrip(),
    ]


_GEOMETRY_TITLE = "## Geometry"


def _geometry(folder):
    """ "clip" or "drawn": what a finished CLIP's card says. None if there is none."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    return "clip" if _GEOMETRY_TITLE in read_text(card) else "drawn"


def validation_crops(workers: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(crops, names) of scenes that no picture, no detector and no training of a teacher has seen."""
    return teacher_crops("teachers-val", VALIDATION_SCENES, 0, workers)


def take_work_folder(work: Path, settings: dict[str, Any]) -> None:
    """Take a folder of crops and checkpoints, or go on in it where the settings are the same."""
    file = work / "settings.json"
    if file.exists() and (found := read_json(file)) != settings:
        raise ValueError(
            f"{file} is of teachers with other settings: {found}, now {settings}; repeat them to go on, or choose "
            "another folder"
        )
    write_json(file, settings)


def drawn_once(
    work: Path, split: str, draw: Callable[[], tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """(crops, names) of a split, from the work folder or, the first time, drawn."""
    file = work / f"{split}.npz"
    if not file.exists():
        crops, names = draw()
        with replacing(file) as partial:
            np.savez(partial, crops=crops, names=names)
    with np.load(file, allow_pickle=False) as arrays:
        crops, names = arrays.values()
        return crops, names


def _save(model, processor, folder):
    with committed(folder) as staging:
        model.save_pretrained(staging, state_dict=_weights(model))
        processor.save_pretrained(staging)


def _weights(model):
    """Half precision, which halves the folder. They load as float32, as the config says. What gives a CLIP its
    geometry stays exact."""
    return {name: value if name in _EXACT else value.half() for name, value in model.state_dict().items()}


def measure_clip(folder: str | Path, crops: np.ndarray, names: np.ndarray) -> dict[str, float]:
    """What a saved CLIP makes of crops with objects.

    Returns:
        dict of shares in 0..1: `image_to_name`, the crop's nearest of the 240 names is its own; `colour`, `pattern`,
        `shape` of that name; `name_to_image`, the nearest of 1,000 crops to a name is one of it.
    """
    clip = ClipEmbedder(folder)
    crops, right = crops[names >= 0], torch.from_numpy(names[names >= 0])
    images = torch.cat([torch.from_numpy(clip.embed_images(list(part))) for part in _batches(crops)])
    texts = encode_texts([name.name for name in NAMES], clip.model, clip.tokenizer)
    predicted = (images @ texts.T).argmax(1)
    pairs = [(NAMES[a], NAMES[b]) for a, b in zip(predicted.tolist(), right.tolist())]
    result = {"image_to_name": (predicted == right).float().mean().item()}
    for part in ("colour", "pattern", "shape"):
        result[part] = float(np.mean([getattr(a, part) == getattr(b, part) for a, b in pairs]))
    present = right[:1000].unique()
    nearest = (texts[present] @ images[:1000].T).argmax(1)
    result["name_to_image"] = (right[nearest] == present).float().mean().item()
    return result


def measure_llava(folder: str | Path, crops: np.ndarray, names: np.ndarray) -> dict[str, float]:
    """What a saved LLaVA says of crops.

    Returns:
        dict of shares in 0..1: `object`, of crops with an object, that the caption says colour, pattern and shape of
        it. `empty`, of crops without one, that the caption names no object.
    """
    captioner = Captioner(folder, prompt=PoolSettings().prompt, max_new_tokens=24)
    captions = [text for part in _batches(crops[:2000]) for text in captioner.caption(list(part))]
    said = [mentioned_name(caption) for caption in captions]
    objects = names[: len(said)] >= 0
    right = np.array([word == (NAMES[name] if name >= 0 else None) for name, word in zip(names, said)])
    return {"object": right[objects].mean().item(), "empty": right[~objects].mean().item()}


def _batches(crops, size=256):
    return [crops[start : start + size] for start in range(0, len(crops), size)]


_USE = {
    "CLIP": "`--clip scenes-clip` in each command that takes a CLIP, or `CLIPModel.from_pretrained` of its folder.",
    "LLaVA": "`decodetr pool build --captioner scenes-llava`, or `LlavaForConditionalGeneration.from_pretrained` of "
    "its folder.",
}


def _write_card(folder, kind, facts):
    """README.md of a teacher: what it is, what it saw, the command, what was measured."""
    measured = [(_MEANING[kind][key], f"{100 * value:.1f}") for key, value in facts["measured"].items()]
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification" if kind == "CLIP" else "image-text-to-text",
        tags=["decodetr"],
    )
    text = fill(
        "teacher",
        data,
        {
            "kind": kind,
            "names": len(NAMES),
            "use": Markdown(_USE[kind]),
            **{key: f"{facts[key]:,}" for key in ("crops", "scenes", "steps")},
            "world_version": WORLD_VERSION,
            "validation_scenes": VALIDATION_SCENES,
            "measured": Markdown(markdown_table(["", "%"], measured).rstrip()),
            "licensing": licensing(data),
            "command": Markdown(f"`{facts['command']}`"),
        },
    )
    write_text(folder / "README.md", text)
