"""The whole of DeCo-DETR in a few minutes on a CPU.

It only runs commands that a user could type, and shows each one: write scenes, embed names, build a pool with the
shipped detector, CLIP and LLaVA, train the semantic stream on it, compare it with other pools and with none, detect
names that were never boxed. Then it draws pictures and writes README.md and report.html. Finished stages are skipped
when it is started again. `--overwrite` starts from the beginning.
"""

import platform
from collections.abc import Callable
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from decodetr.modeling_decodetr.configuration_decodetr import DEFAULT_THRESHOLD
from decodetr.scenes.command_runner import claim, flat, run_stages
from decodetr.scenes.options import QuickstartOptions
from decodetr.scenes.pool_ablation import tables
from decodetr.scenes.recipes import CACHE_VIEWS, SEMANTIC_TRAINING
from decodetr.scenes.recipes import POOL as SHIPPED_POOL
from decodetr.utils.documents import read_json
from decodetr.utils.drawing import MOST_EXPLAINED
from decodetr.utils.files import claim as hold
from decodetr.utils.files import committed, replacing, write_text
from decodetr.utils.html_page import code, links, paragraph, picture, table, write_report
from decodetr.utils.images import open_image
from decodetr.utils.paths import inside
from decodetr.utils.tables import markdown_table, markdown_tables
from decodetr.utils.versions import package_versions

STAGES = 9
POOL = {**SHIPPED_POOL, "--max-proposals": 8}  # fewer than the shipped pool's: captions take most of the time
COMPARED = ("captions", "random", "background", "none")  # variants of `decodetr scenes compare`
EXPLAINED_PICTURES = 6
PICTURES = 12

_INTRODUCTION = (
    "A detector proposed regions in {train_images} drawn scenes, a LLaVA captioned them, a CLIP embedded crops and "
    "captions, and the captions became a pool of prototypes. The semantic stream then learned, in {semantic_steps} "
    "steps over the frozen detector, to name objects with the help of this pool; boxes of {base} base names are all "
    "the annotations of these scenes. Below it finds objects of {novel} further, novel names, for which there is no "
    "box in them, and no text encoder runs while it does."
)


def quickstart(options: QuickstartOptions, run_command: Callable[[list[str]], int]) -> int:
    """Run the stages that are not done yet, then write pictures, summary and report. `run_command`: see
    [`run_stages`]. Returns the exit status."""
    with hold(options.output, "decodetr quickstart"):
        output = Path(options.output)
        models = [options.model, options.clip, options.captioner]
        record = claim(output, options.settings(), options.overwrite, models=models)
        status, commands = run_stages(output, _stages(output, options), STAGES, record, run_command)
        if status:
            return status
        with committed(output) as staging:
            _draw_curves(output, staging)
            _draw_sheet(output / "novel", staging / "detections.jpg", columns=2, width=1000)
            _draw_sheet(output / "all", staging / "all-names.jpg", columns=4, width=420)
            write_text(staging / "README.md", _summary(output, record))
            _write_report(output, staging, record, commands)
        return 0


def _stages(output, options):
    """(file that tells that a stage is finished, its command) in order. A generator, for later stages look at
    files."""
    data, base, names = output / "scenes", output / "vocabulary-base", output / "vocabulary"
    concepts, model = output / "concepts", output / "model"
    # The shifted split is not used.
    images = {"--train": options.train_images, "--val": options.val_images, "--test": 1}
    yield data / "names.json", ["scenes", "write", data, *flat(images)]
    for part, folder in (("base", base), ("all", names)):
        embed = {"--names-split": data / "names.json", "--part": part, "--clip": options.clip}
        yield folder / "vocabulary.json", ["vocabulary", "build", *flat(embed), "--output", folder]
    models = {"--detector": options.model, "--clip": options.clip, "--captioner": options.captioner}
    build = ["--data", data, *flat(models), *flat(POOL), "--output", concepts]
    yield concepts / "pool" / "pool.json", ["pool", "build", *build]
    drawing = output / "pool-map.png"
    yield drawing, ["pool", "map", concepts / "pool", "--output", drawing]
    training = {
        "--data": data,
        "--regions": concepts / "regions",
        "--pool": concepts / "pool",
        "--vocabulary": base,
        "--deploy-vocabulary": names,
        **SEMANTIC_TRAINING,
        "--cache_views": CACHE_VIEWS,
        "--max_steps": options.semantic_steps,
        "--logging_steps": 25,
        "--logging_first_step": "true",
        "--output_dir": model,
    }
    yield model / "train_results.json", ["train", "--model", options.model, "--reset-semantics", *flat(training)]
    compared = output / "compared"
    compare = {"--model": model, "--trained": model, "--built": concepts, "--vocabulary": names}
    compare |= {"--clip": options.clip}
    compare |= {"--steps": options.semantic_steps, "--seeds": 0, "--splits": "val", "--output": compared}
    yield compared / "table.md", ["scenes", "compare", data, "--variants", *COMPARED, *flat(compare)]
    pictures = _pictures(data)
    novel, everything = output / "novel", output / "all"
    names_file = output / "novel-names.txt"
    write_text(names_file, "\n".join(_names(output)["novel"].values()) + "\n")
    shown = ["--model", model, "--threshold", DEFAULT_THRESHOLD]
    explained = [*pictures[:EXPLAINED_PICTURES], *shown, "--names-file", names_file, "--explain"]
    yield novel / "detections.json", ["predict", *explained, "--output", novel]
    yield everything / "detections.json", ["predict", *pictures, *shown, "--output", everything]


def _names(output):
    """names.json of the scenes: {"base": {id: name}, "novel": {...}}."""
    return read_json(output / "scenes" / "names.json", dict)


def _pictures(data):
    """The first validation scenes, those with novel objects before the others."""
    novel = {int(number) for number in _names(data.parent)["novel"]}
    content = read_json(data / "annotations" / "val.json", dict)
    shown = {row["image_id"] for row in content["annotations"] if row["category_id"] in novel}
    images = sorted(content["images"], key=lambda image: image["id"] not in shown)
    return [data / "val" / image["file_name"] for image in images[:PICTURES]]


def _draw_curves(output, staging):
    """curves.png: the losses of the semantic stream over its optimizer steps."""
    history = read_json(output / "model" / "trainer_state.json", dict)["log_history"]
    figure = Figure(figsize=(10, 3.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    titles = {"loss_align": "names: L_align", "loss_distill": "prototypes: L_distill"}
    for axis, (name, title) in zip(figure.subplots(1, 2), titles.items()):
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        axis.plot(*zip(*points), marker=".")
        axis.set(title=title, xlabel="optimizer step", ylim=(0, None))
        axis.grid(alpha=0.3)
    figure.savefig(staging / "curves.png", dpi=110)


def _detections(folder):
    return read_json(folder / "detections.json", dict)["images"]


def _draw_sheet(folder, file, columns, width):
    """The annotated pictures of a `predict` folder side by side, the widest of them `width` pixels wide."""
    pictures = []
    for entry in _detections(folder):
        pictures.append(open_image(inside([folder], entry["picture"], f"{folder / 'detections.json'}")))
    scale = width / max(picture.width for picture in pictures)
    pictures = [ImageOps.scale(picture, scale) for picture in pictures]
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    heights = [max(picture.height for picture in row) + 8 for row in rows]
    sheet = Image.new("RGB", (columns * (width + 8), sum(heights)), "white")
    for i, row in enumerate(rows):
        for j, drawn in enumerate(row):
            sheet.paste(drawn, (j * (width + 8) + 4, sum(heights[:i]) + 4))
    with replacing(file) as partial:
        sheet.save(partial, quality=90)


def measured(output: Path) -> list[tuple[str, list[str], list[list[str]]]]:
    """What the quickstart in a folder measured: tables as (title, header, rows)."""
    return tables(read_json(output / "compared" / "runs.json", dict))


def _seconds(record):
    """Rows (stage, seconds), in the order of the stages, and their sum."""
    seconds = dict(sorted(record["seconds"].items()))
    return [*seconds.items(), ("together", round(sum(seconds.values()), 1))]


def _introduction(output, record):
    names = _names(output)
    return _INTRODUCTION.format(**record["settings"], base=len(names["base"]), novel=len(names["novel"]))


def _summary(output, record):
    """README.md: what was made and measured, as Markdown."""
    lines = [
        "# Quickstart",
        "",
        _introduction(output, record),
        "",
        markdown_tables(measured(output)),
        markdown_table(("stage", "s"), _seconds(record)).rstrip(),
        "",
        "`report.html` shows all of it. Detections of novel names, with the prototypes they looked up:",
        "",
        "![detections of novel names, explained](detections.jpg)",
        "![detections of all names](all-names.jpg)",
        "![the pool](pool-map.png)",
        "![losses](curves.png)",
    ]
    return "\n".join(lines) + "\n"


def _write_report(output, staging, record, commands):
    """report.html, with the pictures that are in `staging` already."""
    explained = []
    for entry in _detections(output / "novel"):
        found = ", ".join(f"{row['name']} {row['score']:.2f}" for row in entry["detections"][:MOST_EXPLAINED])
        caption = f"{Path(entry['file']).name}: {found or 'nothing above the threshold'}"
        explained.append(picture(output / "novel" / entry["picture"], caption))
    pool = read_json(output / "concepts" / "pool" / "pool.json", dict)
    packages = ("decodetr", "torch", "transformers", "datasets", "scikit-learn")
    versions = [("python", platform.python_version()), *package_versions(packages).items()]
    sections = {
        "What was measured": [
            *(block for title, *cells in measured(output) for block in (paragraph(f"{title}:"), table(*cells))),
            paragraph(
                f"On {record['settings']['val_images']} validation scenes, in percent. '12 names' and 'one name' are "
                "AP50 of all names when the vocabulary holds only so many at a time; 'absent' are the (image, name) "
                "pairs without such an object whose best score is above 0.5. The first row is the model of the "
                "pictures below, the others are trained as it was. Numbers differ a little from machine to machine."
            ),
        ],
        "Names that were never boxed": [
            paragraph(
                f"Only novel names are detected, above a score of {DEFAULT_THRESHOLD}. Next to each picture are the "
                "prototypes that a detection looked up, with their captions and their share of the lookup."
            ),
            *explained,
        ],
        "All names": [
            picture(staging / "all-names.jpg", f"Base and novel names at once, detections above {DEFAULT_THRESHOLD}.")
        ],
        "The pool": [
            picture(
                output / "pool-map.png",
                f"{pool['regions']} regions were captioned; {pool['kept']} captions agree with their picture and are "
                f"in the pool, {pool['distinct_captions']} distinct ones. Labels are captions of the largest coarse "
                "prototypes.",
            )
        ],
        "Training of the semantic stream": [
            picture(staging / "curves.png", "The two losses of the semantic stream, means between two points.")
        ],
        "How it was made": [
            table(("stage", "seconds"), _seconds(record)),
            code(commands),
            table(("software", "version"), versions),
            links(
                {
                    "scenes/": "the drawn scenes, in COCO format",
                    "vocabulary-base/": "embeddings of the base names",
                    "vocabulary/": "embeddings of all names",
                    "concepts/regions/": "the regions with captions and embeddings, as Parquet",
                    "concepts/pool/": "the prototype pool",
                    "model/": "the trained DeCo-DETR",
                    "compared/": "everything that was measured",
                    "novel/": "pictures and detections of novel names, with explanations",
                    "all/": "pictures and detections of all names",
                }
            ),
        ],
    }
    write_report(staging / "report.html", "DeCo-DETR quickstart", _introduction(output, record), sections)
