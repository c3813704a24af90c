"""The command `decodetr predict`: images in, annotated pictures and detections.json out.

Reading order: names and files of the command line, the detector and its names, detection of a batch, the command.
Heavy imports are inside the functions, so that `decodetr predict --help` is instant.
"""

import csv
import glob
import logging
import os
import sys
from pathlib import Path

from decodetr.utils.documents import read_text
from decodetr.utils.files import claim, output_folder
from decodetr.utils.hub import local_only, recorded_place
from decodetr.utils.limits import add_picture_limit
from decodetr.utils.preflight import run_checks
from decodetr.utils.shipped import (
    DEFAULT_MODEL,
    HUB_CARDS,
    cannot_load,
    expect,
    expect_file,
    load_vocabulary,
    resolve,
)

logger = logging.getLogger(__name__)

SIGNATURE = "decodetr predict"  # in the header of its pictures


def read_names(text=None, file=None):
    """Names of `--names` (comma-separated, CSV quotes around names with commas) or of `--names-file` (one a line).

    Returns None where neither is given. Repeated names are taken once, in their first place.

    Raises:
        ValueError: both given, or no name in them.
    """
    if text is None and file is None:
        return None
    if text is not None and file is not None:
        raise ValueError("give --names or --names-file, not both")
    if file is not None:
        names = read_text(file).splitlines()
    else:
        try:
            names = [name for row in csv.reader([text], skipinitialspace=True, strict=True) for name in row]
        except csv.Error as error:
            raise ValueError(
                f"--names {text!r}: expected names with commas between them, and double quotes around a name with a "
                f"comma, such as 'cat,\"salt, pepper\"'; got: {error}"
            ) from error
    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not names:
        raise ValueError(f"no names in {f'{file}' if file is not None else f'--names {text!r}'}")
    return names


def find_images(sources):
    """Image files of files, folders (not their sub-folders) and glob patterns (** too); each file once, in that order.

    Files that are given by name are taken whatever they are called, of the others those with the suffix of a picture;
    a warning says which are passed over.

    Raises:
        FileNotFoundError: a source that does not exist, or holds no images.
    """
    from decodetr.annotations.left_over import NO_PICTURE, in_a_line, sort_out
    from decodetr.utils.images import IMAGE_SUFFIXES

    paths, left_over = [], {NO_PICTURE: [], "sub-folders, for whose pictures give a pattern such as 'DIR/**/*'": []}
    for source in map(str, sources):
        path = Path(source)
        if os.path.lexists(path) and not path.is_dir():
            paths.append(path)
            continue
        entries = sorted(path.iterdir() if path.is_dir() else map(Path, glob.glob(source, recursive=True)))
        folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        found, others = sort_out(entry for entry in entries if not entry.is_dir())
        for what, more in zip(left_over, (others, folders if path.is_dir() else [])):
            left_over[what] += more
        if not found:
            kind = "has no images" if path.is_dir() else "is no file, no folder and matches no image"
            rest = f"; passed over: {line}" if (line := in_a_line(left_over)) else ""
            raise FileNotFoundError(f"{source} {kind}; expected files with {', '.join(sorted(IMAGE_SUFFIXES))}{rest}")
        paths += found
    if line := in_a_line(left_over):
        logger.warning("passed over: %s", line)
    return list({os.path.realpath(path): path for path in paths}.values())


def picture_paths(images, output, taken=()):
    """A different output file for every image, also for equal names from different folders; never an image, a file of
    `taken`, or one that is there and is not a picture of this command.

    Compared without case, because some file systems do.
    """
    taken = {os.path.realpath(path).lower() for path in (*images, *taken)}
    result = []
    for image in images:
        stems = [image.stem, f"{Path(os.path.realpath(image)).parent.name}_{image.stem}"]
        number = 1
        while True:
            stem = stems[number - 1] if number <= 2 else f"{stems[1]}_{number - 1}"
            path = Path(output) / f"{stem}.png"
            free = not os.path.lexists(path) or _is_ours(path)
            if (key := os.path.realpath(path).lower()) not in taken and free:
                break
            number += 1
        taken.add(key)
        result.append(path)
    return result


def _is_ours(path):
    """Whether a file is a picture that this command wrote."""
    try:
        with open(path, "rb") as file:
            return SIGNATURE.encode() in file.read(1024)
    except OSError:
        return False


def load_detector(model, vocabulary=None, names=None, device="auto", text_model=None):
    """A saved DeCo-DETR in evaluation mode, and its image processor.

    Args:
        model: folder, Hub name or name of a shipped model (`resolve`).
        vocabulary: the same for a `Vocabulary` that replaces the stored one.
        names: look for these names, in this order. Those without an embedding in `vocabulary` (or in the stored one)
            are embedded by the text model that made the others.
        device: "auto" takes an accelerator if there is one.
        text_model: folder, Hub name or shipped name of that text model; default: the one which the vocabulary says.

    Returns:
        (DeCoDetrForObjectDetection, image processor); the names are `model.vocabulary.names`.

    Raises:
        FileNotFoundError: no such model or vocabulary.
        ValueError: not a DeCo-DETR, or names that have no embedding (with close matches) and cannot get one.
    """
    from transformers import AutoConfig, AutoImageProcessor

    from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection  # also tells the Auto classes of it
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrProcessingMixin

    folder = resolve(model, "model")
    try:
        with local_only(folder):
            config = AutoConfig.from_pretrained(folder)
            if config.model_type != DeCoDetrConfig.model_type:
                raise ValueError(
                    f"{model} holds a model of type {config.model_type!r}, expected a DeCo-DETR; `decodetr train "
                    "--detector` makes one of a detector of transformers"
                )
            detector = DeCoDetrForObjectDetection.from_pretrained(folder)
            image_processor = AutoImageProcessor.from_pretrained(folder)
            if not isinstance(image_processor, DeCoDetrProcessingMixin):
                raise ValueError(
                    f"{model}: preprocessor_config.json is of {type(image_processor).__name__}, expected a "
                    "DeCoDetrImageProcessor; copy or download the file again"
                )
    except OSError as error:
        raise cannot_load("model", model, error) from error
    chosen = detector.vocabulary
    if vocabulary is not None:
        chosen = load_vocabulary(vocabulary)
    if names is not None:
        chosen = choose_names(chosen, names, text_model)
    if chosen is not detector.vocabulary:
        detector.set_vocabulary(chosen)
    return detector.to(pick_device(device)).eval(), image_processor


def pick_device(device):
    """The torch.device of a `--device` argument; "auto" is the accelerator if there is one, else the CPU; of several
    processes on a machine each takes its own.

    Raises:
        ValueError: no device of that name, or none on this machine; the message names those that there are.
    """
    import torch

    there = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if there else 0
    if str(device) == "auto":
        if there is None:
            return torch.device("cpu")
        rank = int(os.environ.get("LOCAL_RANK", -1))
        return torch.device(there.type, rank) if 0 <= rank < count else there
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        chosen = None
        reason = error
    else:
        reason = "there is none on this machine"
    kinds = {"cpu": 1} | ({there.type: count} if there else {})
    if chosen is None or chosen.type not in kinds or (chosen.index or 0) >= kinds[chosen.type]:
        known = ", ".join(["auto", *kinds, *(f"{there.type}:{i}" for i in range(count))])
        raise ValueError(f"--device {device}: expected one of {known}, got {device!r} ({str(reason).splitlines()[0]})")
    return chosen


def choose_names(vocabulary, names, text_model=None):
    """A vocabulary of `names` alone, in this order; those that are not stored get embedded by the text model and
    templates that made the others.

    Args:
        vocabulary: a `Vocabulary`.
        names (list[str]).
        text_model: folder, Hub name or shipped name; default: the vocabulary's own record of it.

    Raises:
        ValueError: some names are not stored, and the text model is unknown, cannot be loaded, or is not the one that
            made the vocabulary.
    """
    import torch

    try:
        return vocabulary.select(names)
    except ValueError as error:
        not_stored = error
    stored = set(vocabulary.names)
    new = [name for name in names if name not in stored]
    try:
        fresh = _embed_names(new, vocabulary.info, text_model)
    except (FileNotFoundError, ImportError, ValueError) as error:
        raise ValueError(
            f"{not_stored} They could not be embedded either: {str(error).rstrip('.')}. Give --text-model NAME if the "
            "text model that made the stored embeddings lies elsewhere, or --vocabulary DIR with all names, as "
            "`decodetr vocabulary build` makes it."
        ) from error
    embeddings = torch.cat([vocabulary.embeddings.cpu(), fresh.embeddings])
    return type(vocabulary)([*vocabulary.names, *new], embeddings, vocabulary.info).select(names)


def _embed_names(names, info, text_model):
    """A Vocabulary of names, in the embedding space and with the templates of a vocabulary's info."""
    from decodetr.modeling_decodetr.vocabulary import Vocabulary, describe_encoder, same_encoder

    if not info.get("encoder") and not info.get("encoder_fingerprint"):
        raise ValueError("the vocabulary does not say which text model made it")
    source, revision = (text_model, None) if text_model else (info.get("encoder"), info.get("encoder_revision"))
    if not source:
        raise ValueError("the vocabulary does not say where its text model is")
    asked_by = None if text_model else f"the vocabulary says that it made the names; --text-model {source} fetches it"
    options = {"templates": info["templates"]} if info.get("templates") else {}
    folder = resolve(source, "text model")
    try:
        with local_only(folder, asked_by):
            fresh = Vocabulary.from_text_model(names, folder, revision=revision, **options)
    except OSError as error:
        raise cannot_load("text model", source, error) from error
    fresh.info["encoder"] = recorded_place(source)
    if not same_encoder(fresh.info, info):
        raise ValueError(f"{describe_encoder(fresh.info)} is not the vocabulary's {describe_encoder(info)}")
    some = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
    what = (
        "1 name without a stored embedding was"
        if len(names) == 1
        else f"{len(names)} names without a stored embedding were"
    )
    logger.warning("%s embedded by %s: %s", what, source, some)
    return fresh


def detect(model, image_processor, images, threshold=None, top_k=100, explain=0):
    """Detections of a batch of PIL images.

    Args:
        images: of any mode, as they are to be seen: their EXIF orientation is not applied. 16-bit and float ones are
            scaled, see [`open_image`].
        threshold (float, *optional*): only scores above it; default: what the model's config says, for each name.
        top_k (int): at most so many an image, chosen before the threshold.
        explain: with k > 0, also what each detection is made of, with the k prototypes that its query looked up most.

    Returns:
        One dict per image, best first: "names" (list of n strings, the vocabulary's own), "scores" (n floats) and
        "boxes" (n lists of x0, y0, x1, y1 in pixels of the image, not clipped to it); with `explain` also the lists
        "objectness", "name_probability" and "prototypes" of `explain_detections`.
    """
    import torch

    from decodetr.inference.explanations import explain_detections
    from decodetr.processing.picture_modes import to_rgb

    images = [to_rgb(image) for image in images]
    inputs = image_processor(images=images, return_tensors="pt").to(model.device)
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    tables = model.tables()  # another thread may swap the names meanwhile
    with torch.inference_mode():
        outputs = model(**inputs, output_prototype_weights=explain > 0, tables=tables)
    sizes = [(image.height, image.width) for image in images]
    names = tables.vocabulary.names
    least = min(model.config.thresholds(names, threshold))
    results = image_processor.post_process_object_detection(outputs, threshold=least, target_sizes=sizes, top_k=top_k)
    found = [
        {
            "names": [names[label] for label in result["labels"].tolist()],
            "scores": result["scores"].tolist(),
            "boxes": result["boxes"].tolist(),
        }
        for result in results
    ]
    if explain:
        explained = explain_detections(outputs, tables.pool, least, top_k, explain, model.config)
        found = [{**result, **explanation} for result, explanation in zip(found, explained)]
    return [above(result, model.config, threshold) for result in found]


def above(result, config, threshold=None):
    """Of what [`detect`] found in an image, what scores above `threshold`, or what its name needs by the config."""
    least = config.thresholds(result["names"], threshold)
    kept = [row for row, (score, needed) in enumerate(zip(result["scores"], least)) if score > needed]
    return {key: [values[row] for row in kept] for key, values in result.items()}


def add_arguments(parser):
    """Arguments of `decodetr predict`."""
    parser.add_argument("images", nargs="+", help="image files, folders or glob patterns")
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help=f"folder or Hub name of a DeCo-DETR (default: {DEFAULT_MODEL}, shipped)"
    )
    parser.add_argument("--output", required=True, help="folder for detections.json and the annotated pictures")
    parser.add_argument("--names", help="""names to look for, e.g. 'cat,"salt, pepper"'; default: all stored names""")
    parser.add_argument("--names-file", help="the same from a file, one name a line")
    parser.add_argument("--vocabulary", help="folder or Hub name of a Vocabulary that replaces the stored one")
    parser.add_argument("--text-model", help="where the text model is that embeds new names; default: as stored")
    parser.add_argument(
        "--threshold",
        type=float,
        help="least score, 0 to 1 (default: what the calibration of the model says; 0.3 where there is none)",
    )
    parser.add_argument("--top-k", type=int, default=100, help="most detections per image (default: 100)")
    parser.add_argument(
        "--explain", action="store_true", help="also the prototypes that each detection looked up, with captions"
    )
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--font", help="TrueType file for the labels, for scripts that DejaVu Sans lacks")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ... (default: auto)")
    add_picture_limit(parser)


def run(args):
    """Detect, draw, write. Returns 1 if some image could not be read (the others are done), else 0."""
    if (args.threshold is not None and not 0 <= args.threshold <= 1) or args.top_k < 1 or args.batch_size < 1:
        raise ValueError(
            "--threshold must be in 0..1, --top-k and --batch-size at least 1, got "
            f"{args.threshold}, {args.top_k}, {args.batch_size}"
        )
    names, paths, *_ = run_checks(
        lambda: read_names(args.names, args.names_file),
        lambda: find_images(args.images),
        lambda: output_folder(args.output, "--output"),
        lambda: expect("model", args.model, "config.json"),
        lambda: expect("vocabulary", args.vocabulary, "vocabulary.json"),
        lambda: expect("text model", args.text_model, "config.json"),
        lambda: expect_file("--font", args.font),
        lambda: pick_device(args.device),
    )
    with claim(args.output, "decodetr predict"):
        return _predict(args, names, paths)


def _predict(args, names, paths):
    device = pick_device(args.device)
    if resolve(args.model) == str(HUB_CARDS / DEFAULT_MODEL):
        sys.stderr.write(
            f"{DEFAULT_MODEL} knows small drawn scenes and nothing of the real world; for photos train a model "
            "(docs/training.md) and give it with --model\n"
        )
    model, image_processor = load_detector(args.model, args.vocabulary, names, device, args.text_model)
    if args.explain and model.config.pool_use != "lookup+background":
        raise ValueError(
            f"--explain shows what the queries looked up in the pool, but {args.model} was trained with pool_use="
            f"{model.config.pool_use!r}, which looks nothing up"
        )

    from decodetr.inference.picture_run import PredictRun

    return PredictRun(args, model, image_processor, paths).run()
