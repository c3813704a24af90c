"""The command `decodetr predict`: images in, annotated pictures and detections.json out.

Reading order: names and files of the command line, the detector, detection of a batch, the command. Heavy imports are
inside the functions, so that `decodetr predict --help` is instant.
"""

import csv
import glob
import json
import sys
from pathlib import Path

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


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
        names = Path(file).read_text(encoding="utf-8-sig").splitlines()
    else:
        names = [name for row in csv.reader([text], skipinitialspace=True, strict=True) for name in row]
    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not names:
        raise ValueError(f"no names in {f'{file}' if file is not None else f'--names {text!r}'}")
    return names


def find_images(sources):
    """Image files of files, folders (not their sub-folders) and glob patterns (** too); each file once, in that order.

    Raises:
        FileNotFoundError: a source that does not exist, or holds no images.
    """
    paths = []
    for source in map(str, sources):
        path = Path(source)
        if path.is_file():
            paths.append(path)
            continue
        found = path.iterdir() if path.is_dir() else map(Path, glob.glob(source, recursive=True))
        found = sorted(file for file in found if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        if not found:
            kind = "has no images" if path.is_dir() else "is no file, no folder and matches no image"
            raise FileNotFoundError(f"{source} {kind}; expected files with {', '.join(sorted(IMAGE_SUFFIXES))}")
        paths += found
    return list({path.resolve(): path for path in paths}.values())


def picture_paths(images, output):
    """A different output file for every image, also for equal names from different folders, and never an input image.

    Compared without case, because some file systems do.
    """
    taken = {str(path.resolve()).lower() for path in images}
    result = []
    for image in images:
        stems = [image.stem, f"{image.resolve().parent.name}_{image.stem}"]
        number = 1
        while True:
            stem = stems[number - 1] if number <= 2 else f"{stems[1]}_{number - 1}"
            path = Path(output) / f"{stem}.png"
            if (key := str(path.resolve()).lower()) not in taken:
                break
            number += 1
        taken.add(key)
        result.append(path)
    return result


def load_detector(model, vocabulary=None, names=None, device="auto"):
    """A saved DeCo-DETR in evaluation mode, and its image processor.

    Args:
        model: folder or Hub name.
        vocabulary: folder or Hub name of a `Vocabulary` that replaces the stored one.
        names: keep only these names, in this order (of `vocabulary`, or of the stored one).
        device: "auto" takes an accelerator if there is one.

    Returns:
        (DeCoDetrForObjectDetection, image processor); the names are `model.vocabulary.names`.

    Raises:
        ValueError: not a DeCo-DETR, or names without a stored embedding (with close matches).
    """
    import torch
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    from decodetr import DeCoDetrForObjectDetection, Vocabulary  # also makes the model known to the Auto classes

    detector = AutoModelForObjectDetection.from_pretrained(model)
    if not isinstance(detector, DeCoDetrForObjectDetection):
        raise ValueError(
            f"{model} holds a {type(detector).__name__}, expected a DeCoDetrForObjectDetection; make one by "
            "DeCoDetrForObjectDetection.from_detector(...) and train it"
        )
    chosen = detector.vocabulary if vocabulary is None else Vocabulary.from_pretrained(vocabulary)
    if names is not None:
        try:
            chosen = chosen.select(names)
        except ValueError as error:
            raise ValueError(f"{error} (--vocabulary DIR)") from error
    if chosen is not detector.vocabulary:
        detector.set_vocabulary(chosen)
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        device = accelerator if accelerator is not None else torch.device("cpu")
    return detector.to(device).eval(), AutoImageProcessor.from_pretrained(model)


def open_image(path):
    """RGB PIL image, turned upright as its EXIF orientation says. Damaged files raise ValueError."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # PIL's decoders raise a dozen types, SyntaxError and struct.error among them
        raise ValueError(f"{path} cannot be read as an image: {type(error).__name__}: {error}") from error


def detect(model, image_processor, images, threshold=0.5, top_k=100):
    """Detections of a batch of PIL images.

    Returns:
        One dict per image, best first: "names" (list of n strings, the vocabulary's own), "scores" (n floats) and
        "boxes" (n lists of x0, y0, x1, y1 in pixels of the image, not clipped to it).
    """
    import torch

    inputs = image_processor(images=images, return_tensors="pt").to(model.device)
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    with torch.inference_mode():
        outputs = model(**inputs)
    sizes = [(image.height, image.width) for image in images]
    results = image_processor.post_process_object_detection(
        outputs, threshold=threshold, target_sizes=sizes, top_k=top_k
    )
    return [
        {
            "names": [model.vocabulary.names[label] for label in result["labels"].tolist()],
            "scores": result["scores"].tolist(),
            "boxes": result["boxes"].tolist(),
        }
        for result in results
    ]


def add_arguments(parser):
    """Arguments of `decodetr predict`."""
    parser.add_argument("images", nargs="+", help="image files, folders or glob patterns")
    parser.add_argument("--model", required=True, help="folder or Hub name of a DeCo-DETR")
    parser.add_argument("--output", required=True, help="folder for detections.json and the annotated pictures")
    parser.add_argument("--names", help="""names to look for, e.g. 'cat,"salt, pepper"'; default: all stored names""")
    parser.add_argument("--names-file", help="the same from a file, one name a line")
    parser.add_argument("--vocabulary", help="folder of a Vocabulary that replaces the stored one")
    parser.add_argument("--threshold", type=float, default=0.5, help="least score, 0 to 1 (default: 0.5)")
    parser.add_argument("--top-k", type=int, default=100, help="most detections per image (default: 100)")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--font", help="TrueType file for the labels, for scripts that DejaVu Sans lacks")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ... (default: auto)")


def run(args):
    """Detect, draw, write. Returns 1 if some image could not be read (the others are done), else 0."""
    from tqdm.auto import tqdm

    import decodetr
    from decodetr.processing.drawing import draw_detections

    if not 0 <= args.threshold <= 1 or args.top_k < 1 or args.batch_size < 1:
        raise ValueError(
            "--threshold must be in 0..1, --top-k and --batch-size at least 1, got "
            f"{args.threshold}, {args.top_k}, {args.batch_size}"
        )
    names = read_names(args.names, args.names_file)
    paths = find_images(args.images)
    model, image_processor = load_detector(args.model, args.vocabulary, names, args.device)
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    pictures = picture_paths(paths, output)
    done, failed = [], []
    with tqdm(total=len(paths), desc="predict", unit="image") as progress:
        for start in range(0, len(paths), args.batch_size):
            batch = []
            for path, picture in list(zip(paths, pictures))[start : start + args.batch_size]:
                try:
                    batch.append((path, picture, open_image(path)))
                except ValueError as error:
                    failed.append({"file": str(path), "error": str(error)})
                    progress.write(str(error), file=sys.stderr)
                    progress.update()
            if not batch:
                continue
            found = detect(model, image_processor, [image for *_, image in batch], args.threshold, args.top_k)
            for (path, picture, image), result in zip(batch, found):
                drawn = draw_detections(image, result["boxes"], result["names"], result["scores"], args.font)
                drawn.save(picture)
                rows = zip(result["names"], result["scores"], result["boxes"])
                done.append(
                    {
                        "file": str(path),
                        "picture": picture.name,
                        "width": image.width,
                        "height": image.height,
                        "detections": [{"name": name, "score": score, "box": box} for name, score, box in rows],
                    }
                )
                progress.update()
    report = {
        "decodetr": decodetr.__version__,
        "model": args.model,
        "vocabulary": {
            "source": args.vocabulary or "stored in the model",
            "info": model.vocabulary.info,
            "names": model.vocabulary.names,
        },
        "threshold": args.threshold,
        "top_k": args.top_k,
        "box_format": "x0, y0, x1, y1 in pixels of the upright image",
        "images": done,
        "failed": failed,
    }
    (output / "detections.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    count = sum(len(entry["detections"]) for entry in done)
    unread = f", {len(failed)} unreadable (see the messages above)" if failed else ""
    sys.stdout.write(f"{count} detections in {len(done)} images{unread}: {output / 'detections.json'}\n")
    return 1 if failed else 0
