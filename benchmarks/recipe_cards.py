"""The commands of each recipe for OV-COCO, OV-LVIS and one's own data, with hours and memory, into its card.

    python benchmarks/recipe_cards.py                    # writes hub_cards/decodetr-*/README.md, some minutes each
    python benchmarks/recipe_cards.py --recipes decodetr-fast
    python benchmarks/recipe_cards.py --commands-only    # counts nothing: the cards say which command does

Hours, memory and disk are *computed*, as `decodetr train --recipe NAME --plan coco` does it
(training/planning/plan.py): one step of one image is counted here on the very model. `tests/cli/test_recipe_cards.py`
runs the commands at tiny size.
"""

import argparse
import re
from pathlib import Path

from harness import say

from decodetr.utils.arguments import extend_lists

CARDS = Path(__file__).resolve().parents[1] / "hub_cards"
CLIP, CAPTIONER = "openai/clip-vit-base-patch16", "llava-hf/llava-1.5-7b-hf"
DETECTOR = "PekingU/rtdetr_v2_r50vd"
OWN = "own"
# Recipe: processes (GPUs) of a run, and the data that it is for.
ALL = ("ov-coco", "ov-lvis", OWN)
RECIPES = {
    "decodetr-r50": (8, ALL),
    "decodetr-r50-paper": (8, ALL),
    "decodetr-swin-t": (8, ALL),
    "decodetr-clip-r50": (1, ALL),
    "decodetr-fast": (1, (OWN,)),
    "decodetr-fast-ov": (1, ("ov-coco", "ov-lvis")),
}
TITLES = {"ov-coco": "OV-COCO", "ov-lvis": "OV-LVIS", OWN: "Your own data"}
TAGS = ["decodetr", "open-vocabulary-detection", "arxiv:2604.02753"]
PLANS = {"ov-coco": "coco", "ov-lvis": "lvis", OWN: OWN}
OWN_IMAGES = 1_000  # of the example, with five boxes each
NOTE = (
    "DIR is a data set in any form of docs/data.md, with validation images (or give `--val-share 0.1`). For forms "
    "other than COCO's, name the classes: `vocabulary build --names 'cat,dog'`."
)


def commands(recipe: str, data: str) -> list[str]:
    """The commands from data to a report, in order."""
    processes, _ = RECIPES[recipe]
    place, names = (data, f"--names-split {data}/names.json") if data != OWN else ("DIR", "")
    names = names or "--annotations DIR/annotations/train.json"
    launch = f"accelerate launch --num_processes {processes} -m decodetr.train" if processes > 1 else "decodetr train"
    more = ""
    if data == OWN and processes > 1:  # one GPU, and the same batch
        launch, more = "decodetr train", f" --gradient-accumulation-steps {processes}"
    official = " --official LVIS" if data == "ov-lvis" else ""
    train = f"{launch} --recipe {recipe} --data {place} --vocabulary names{more}"
    detector = DETECTOR if recipe == "decodetr-fast" else "boxes"
    protocol = f"--protocol {data} " if data != OWN else ""
    teachers = f"--clip {CLIP} --captioner {CAPTIONER}"
    lines = [
        f"decodetr eval prepare {data} --coco COCO{official} --output {data}" if data != OWN else "",
        f"decodetr validate {place}",
        f"decodetr vocabulary build {names} --clip {CLIP} --output names",
        f"{train} --streams localization --output boxes" if detector == "boxes" else "",
        f"decodetr pool build --data {place} --detector {detector} {teachers} --output built",
        f"{train} --pool built/pool --regions built/regions --output run",
        f"decodetr eval --model run {protocol}--data {place} --output report",
    ]
    return [line for line in lines if line]


def _wrapped(line, width=118):
    rows, row = [], ""
    for word in re.split(r" (?=--)", line):
        if row and len(row) + 1 + len(word) > width - 2:
            rows.append(row + " \\")
            row = "    " + word
        else:
            row = f"{row} {word}" if row else word
    return "\n".join([*rows, row])


def where_computed(recipe: str) -> dict[str, str]:
    """{data: the command that computes what the trainings of a recipe take}."""
    processes, kinds = RECIPES[recipe]
    found = {}
    for data in kinds:
        what = "data --data DIR" if data == OWN else PLANS[data]
        gpus = f"{1 if data == OWN else processes}xh100"
        line = f"`decodetr train --recipe {recipe} --plan {what} --plan-gpus {gpus}`"
        found[data] = f"Hours, memory and disk of the trainings: {line} computes them."
    return found


def computed(recipe: str) -> dict[str, str]:
    """{data: what the trainings of a recipe take, as a table}, as `decodetr train --plan` computes it. A step is
    counted once, with the boxes of an image of COCO."""
    from decodetr.cli.recipe import recipe_file
    from decodetr.cli.train import read_options
    from decodetr.training.checks.preflight import make_arguments
    from decodetr.training.planning.plan import COLUMNS, SIZES, DataSize, count_steps, plan_rows

    options, fields = read_options({"recipe": str(recipe_file(recipe))})
    if options.detector:  # its config on the Hub has the library's defaults
        options.config, options.detector = published(options), None
    processes, kinds = RECIPES[recipe]
    stages = {"joint": "run"} if recipe == "decodetr-fast" else {"localization": "boxes", "joint": "run"}
    counted = count_steps(options, SIZES["coco"], list(stages))
    sizes = {**SIZES, OWN: DataSize(OWN_IMAGES, 5 * OWN_IMAGES, 10, 30 * OWN_IMAGES)}
    found = {}
    for data in kinds:
        options.plan_gpus = f"{1 if data == OWN else processes}xh100"
        given = {**fields, "use_cpu": True}
        if data == OWN and processes > 1:
            given["gradient_accumulation_steps"] = processes
        training = make_arguments("unused", given)
        rows = plan_rows(counted, options, training, frozenset(given), sizes[PLANS[data]])
        size = f"{OWN_IMAGES:,} images with five boxes each" if data == OWN else f"{PLANS[data].upper()}'s size"
        what = f"`--plan {'data --data DIR' if data == OWN else PLANS[data]} --plan-gpus {options.plan_gpus}`"
        table = ["| training | hours | memory a GPU | disk |", "|---|---:|---:|---:|"]
        for stage, cells in zip(stages.values(), (dict(zip(COLUMNS, row)) for row in rows), strict=True):
            table.append(f"| `{stage}` | {cells['hours']} | {cells['memory a GPU']} | {cells['disk']} |")
        found[data] = "\n".join([f"**Computed, not measured** (as {what} does), for {size}:", "", *table])
    return found


def published(options) -> dict:
    """The config of the published detector of a recipe, as far as this machine has it: the library's defaults, which
    are those of RT-DETRv2-R50, and its image size."""
    from decodetr.utils.yaml_documents import parse_yaml

    fields = {name: parse_yaml(value, "set") for name, value in (word.split("=", 1) for word in options.set)}
    options.set = []
    size = {"preprocessing": {"size": {"height": 640, "width": 640}}}
    return {"detector_config": {"model_type": "rt_detr_v2", "num_labels": 1}, **fields, **size}


def card(recipe: str, figures: dict[str, str]) -> str:
    """The card of a recipe: what a person wrote, and a section for each kind of data.

    Args:
        recipe (str): name. figures (dict): {data: what the trainings take, in Markdown}.
    """
    from huggingface_hub import ModelCardData

    from decodetr.cards.render import Markdown, fill, renew
    from decodetr.utils.documents import read_text
    from decodetr.utils.markup import code_block

    ways = [
        {
            "key": data.replace("-", "_"),
            "title": TITLES[data],
            "commands": Markdown(code_block("\n".join(map(_wrapped, commands(recipe, data))))),
            "note": Markdown(NOTE) if data == OWN else None,
            "figures": Markdown(figures[data]),
        }
        for data in RECIPES[recipe][1]
    ]
    data = ModelCardData(license="apache-2.0", library_name="decodetr", pipeline_tag="object-detection", tags=TAGS)
    file = CARDS / recipe / "README.md"
    return renew(read_text(file), fill("recipe", data, {"title": recipe, "ways": ways}), str(file))[0]


def parser() -> argparse.ArgumentParser:
    """The options of this script."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--recipes", nargs="+", choices=tuple(RECIPES), default=list(RECIPES), help="default: all")
    made.add_argument("--commands-only", action="store_true", help="count nothing")
    return extend_lists(made)


def main(argv: list[str] | None = None) -> None:
    """Write the cards."""
    from decodetr.utils.files import write_text

    args = parser().parse_args(argv)
    for recipe in args.recipes:
        figures = where_computed(recipe) if args.commands_only else computed(recipe)
        write_text(CARDS / recipe / "README.md", card(recipe, figures))
        say(str(CARDS / recipe / "README.md"))


if __name__ == "__main__":
    main()
