"""docs/ablations.md and its pictures, from the JSON files of the results. Nothing else goes into the page but the
words of rows.py and of this file."""

import math
import statistics
from itertools import product
from pathlib import Path

from ablations.conflict import FILE as CONFLICT
from ablations.conflict import conflict_part, conflict_picture
from ablations.costs import FILE as COSTS
from ablations.costs import costs_part
from ablations.earlier import EARLIER, NOT_BUILT
from ablations.goals import goals_part
from ablations.plots import draw
from ablations.rows import CLAIMS, QUESTIONS, ROWS
from ablations.verdicts import RULE, UNMEASURED, UNTOLD, differences, in_words, told, verdict
from decodetr.scenes.run_records import teacher_cells
from decodetr.utils.documents import read_json
from decodetr.utils.files import write_text
from decodetr.utils.tables import markdown_table

VAL = "val"
NOVEL, BASE, ALL = "AP50_novel, all", "AP50_base, all", "AP50, all"
_METRICS = {
    NOVEL: "without boxes",
    BASE: "with boxes",
    ALL: "all",
    "AP50, 12": "all, 12 names",
    "absent, 12": "absent",
}
_HEAD = """# Ablations

What each part of the method is worth. **All of it is small**: drawn scenes, a world of composed photographs, and short
runs. Nothing of it is COCO, and the paper's figures are the paper's ([paper.md](paper.md#4-reported-results)). This
page is written by `python benchmarks/ablate.py write` from the runs in `docs/ablations/`, and its verdicts follow from
a rule.
`ablate.py list` names all rows with their questions, `ablate.py run` measures those that are missing.
"""
_OVER = {row for question in QUESTIONS.values() if question.over == "base names" for row in question.rows}
_MEASURED = """{when}, each world on the machine that the second table names, with {threads}. Each run trains a
semantic stream from random weights over cached features of one frozen detector, with the defaults but for what its row
says, and a joint one both streams over the images. A step reads 8 images, and of each some of the queries that
something supervises, others each time (a joint one: all of them). Seconds are those of the processor for the training:
on a GPU that several runs share, with its waiting. Runs of the full size are in [scenes.md](scenes.md).

{table}
{machines}
Figures are AP50 in percent on validation images: the mean, and in brackets lowest and highest of the seeds. "Without
boxes" are the names that have none in training, with all names in the vocabulary. "All, 12 names" is AP50 where the
vocabulary holds only 12, pooled over all such vocabularies; "absent" is the share of names that are not in an image
and have a query above 0.5 there, in percent. The last column of a table is the difference from its first row, of names
without boxes, with its 95 % interval: in bold where 0 lies outside of it. Which names keep their boxes is one fixed
draw for each number of them, and so is every changed pool: the seeds say nothing of that.

**Runs are short**, so a difference is also how fast a row learns. Worlds with more steps, where there are such, tell
how much of it stays.
"""
_SHORT = """All of it is of runs that are short ("How it was measured")."""
_BEFORE = """## Measured before, elsewhere
Of what has no rows above. Each line leads to its table, with command, machine and spread.

{table}
"""
_NOT_BUILT = """
## Not built
What could be a row and is none.

{table}"""


def load_results(folder: Path) -> dict[str, dict]:
    """{key of a world: content of its file}, by name and number of base names, of those in which a run has ended."""
    found = {file.stem: read_json(file, dict) for file in folder.glob("[!.]*.json")}  # without locks of runs
    measured = [(key, content) for key, content in found.items() if content["runs"]]
    return dict(sorted(measured, key=lambda item: _place(item[1])))


def _place(content):
    settings = content["settings"]
    return settings["name"], settings["base_names"] or math.inf


def values_of(content: dict, row: str, metric: str = NOVEL) -> dict[str, float]:
    """{seed: value} of the runs of a row."""
    return {seed: run[VAL][metric] for seed, run in content["runs"].get(row, {}).items()}


def write_page(results: Path, page: Path) -> None:
    """Write the page, and the pictures into `results`.

    Raises:
        ValueError: there are no results.
    """
    found = load_results(results)
    if not found:
        raise ValueError(f"{results} has no results; measure some with `ablate.py run`")
    pictures = {key: spec for key in QUESTIONS if (spec := picture_of(key, found)) is not None}
    for key, spec in pictures.items():
        draw(results / f"{key}.svg", **spec)
    if (curves := conflict_picture(found)) is not None:
        draw(results / CONFLICT, **curves)
    write_text(page, page_of(found, pictures, results))


def page_of(found: dict[str, dict], pictures: dict, results: Path) -> str:
    """The page's text. `results`: the folder, beside the page."""
    folder = results.name
    parts = [_HEAD, _claims(found), goals_part(found, _of_names), _how(found)]
    for key, question in QUESTIONS.items():
        tables = _tables(question, found)
        if not tables:
            continue
        parts.append(f"## {question.title}\n{question.asks}\n")
        if key in pictures:
            parts.append(f"![{question.title} AP50 by {question.label or 'row'}]({folder}/{key}.svg)\n")
        parts += tables
    parts += [conflict_part(found, folder), costs_part(found, results / COSTS, values_of), _missing(found)]
    return "\n".join(part.strip("\n") + "\n" for part in parts if part)


def _of_names(content, row, part):
    return values_of(content, row, {"novel": NOVEL, "base": BASE}[part])


def _how(found):
    rows = []
    for key, content in found.items():
        settings, runs = content["settings"], [run for seeds in content["runs"].values() for run in seeds.values()]
        seconds = [run["seconds"] for run in runs]
        teacher = [" / ".join(cells) for cells in teacher_cells(content["ceiling"][VAL], ("AP50_novel", "AP50_base"))]
        teacher += [""] * (2 - len(teacher))
        sizes = [settings[name] for name in ("base_names", "train_images", "val_images", "steps", "queries")]
        cells = ["all" if size is None else str(size) for size in sizes]
        words = f"{key}, from random weights" if settings.get("from_scratch") else key
        words += f", {views} views" if (views := settings.get("views")) else ""
        rows.append([words, *cells, str(len(runs)), f"{statistics.median(seconds):.0f}", *teacher])
    heads = ["world", "names with boxes", "training images", "validation images", "steps", "queries of an image"]
    table = _numbers([*heads, "runs", "s, median", "teacher: without / with boxes", "on the same boxes"], rows)
    some = [run for content in found.values() for seeds in content["runs"].values() for run in seeds.values()]
    threads = {run["machine"].get("threads", 1) for run in some}
    words = "one thread" if threads == {1} else f"{min(threads)} to {max(threads)} threads"
    dates = sorted({run["date"] for run in some})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    text = _MEASURED.format(when=when, threads=words, table=table, machines=_machines(found))
    return f"## How it was measured\n{text}"


def _machines(found):
    """Which worlds were measured on which machine."""
    worlds: dict[str, list[str]] = {}
    for key, content in found.items():
        runs = [run["machine"] for seeds in content["runs"].values() for run in seeds.values()]
        for machine in sorted({f"{run['device']}, torch {run['torch']}" for run in runs}):
            worlds.setdefault(machine, []).append(key)
    return _texts(["machine", "worlds"], [[machine, ", ".join(keys)] for machine, keys in worlds.items()])


def _tables(question, found):
    """Tables and answers of a question, for each world that tells something."""
    if question.over == "base names":
        return _over_base_names(question, found)
    parts = []
    for key, content in found.items():
        reference = question.rows[0]
        there = [row for row in question.rows if values_of(content, row)]
        if reference not in there or len(there) < 2 or set(there) <= _OVER:
            continue
        rows = []
        for row in there:
            values = differences(values_of(content, row), values_of(content, reference))
            less = "" if row == reference or not values else in_words(values)
            rows.append([ROWS[row].words, str(len(content["runs"][row])), *_figures(content, row), less])
        heads = ["row", "seeds", *_METRICS.values(), f"than {ROWS[reference].words}"]
        parts += [f"World `{key}`:\n", _numbers(heads, rows), _answer(content, there), ""]
    return parts


def _numbers(header, rows):
    return markdown_table(header, rows, escape=False)


def _texts(header, rows):
    """A table whose columns are texts."""
    return _numbers(header, rows).replace("---:", "---")


def _figures(content, row):
    return [spread(list(values_of(content, row, metric).values())) for metric in _METRICS]


def spread(values: list[float]) -> str:
    """Mean, and lowest and highest in brackets."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.fmean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def _answer(content, there):
    """One sentence: what is more, what is less, what seeds do not tell."""
    reference, groups = there[0], {1: [], -1: [], 0: [], None: []}
    for row in there[1:]:
        values = differences(values_of(content, row), values_of(content, reference))
        groups[told(values) if len(values) > 1 else None].append((row, statistics.fmean(values) if values else 0))
    words = {1: "better", -1: "worse", 0: "not told apart by the seeds", None: "measured with one seed only"}
    parts = []
    for group, rows in groups.items():
        rows = sorted(rows, key=lambda item: -abs(item[1]))
        if rows:
            named = ", ".join(f"{ROWS[row].words} ({mean:+.1f})" for row, mean in rows)
            parts.append(f"{words[group]}: {named}")
    return f"**Against {ROWS[reference].words}**, names without boxes: {'; '.join(parts)}.\n"


def _over_base_names(question, found):
    parts = []
    for name in dict.fromkeys(content["settings"]["name"] for content in found.values()):
        worlds = [content for content in found.values() if content["settings"]["name"] == name]
        rows, gains = [], []
        for content in worlds:
            there = [values_of(content, row) for row in question.rows]
            if not (there[0] and there[1]):
                continue
            values = differences(there[1], there[0])
            count = content["settings"]["base_names"] or "all"
            gains.append((count, values))
            seeds = str(min(len(there[0]), len(there[1])))
            cells = [spread(list(some.values())) if some else "" for some in there]
            rows.append([str(count), seeds, *cells, in_words(values) if values else ""])
        if len(rows) > 1:
            heads = ["names with boxes", "seeds", *(ROWS[row].words for row in question.rows)]
            table = _numbers([*heads, "the pool adds"], rows)
            steps = worlds[0]["settings"]["steps"]
            parts += [f"World `{name}`, {steps} steps, AP50 of names without boxes:\n", table, _answer_over(gains), ""]
    return parts


def _answer_over(gains):
    """One sentence of (number of names, differences by seed)."""
    groups: dict[str, list[str]] = {"the pool adds": [], "one seed says": [], "no gain is told with": []}
    for count, values in gains:
        mean = f"{statistics.fmean(values):+.1f} with {count}" if values else ""
        if len(values) < 2:
            groups["one seed says"] += [mean] if values else []
        elif told(values) > 0:
            groups["the pool adds"].append(mean)
        else:
            groups["no gain is told with"].append(str(count))
    text = "; ".join(f"{words} {', '.join(named)}" for words, named in groups.items() if named)
    return f"**Names with boxes**: {text}.\n"


def picture_of(key: str, found: dict[str, dict]) -> dict | None:
    """What `draw` needs for the picture of a question: lines of (x, values). None where it has none."""
    question, lines = QUESTIONS[key], {}
    if question.over == "base names":
        names = list(dict.fromkeys(content["settings"]["name"] for content in found.values()))
        for name, row in product(names, question.rows):
            points = [
                (content["settings"]["base_names"], list(values_of(content, row).values()))
                for content in found.values()
                if content["settings"]["name"] == name and values_of(content, row)
            ]
            points = [(count, values) for count, values in points if count is not None]
            if len(points) > 1:
                lines[ROWS[row].words if len(names) == 1 else f"{ROWS[row].words}, {name}"] = points
    elif question.axis is not None:
        for world, content in found.items():
            points = [(x, list(values_of(content, row).values())) for row, x in question.axis.items()]
            points = sorted((x, values) for x, values in points if values)
            if len(points) > 2:
                lines[world] = points
    if not lines:
        return None
    return {"lines": lines, "label": question.label, "title": question.title, "log": question.log}


def _claims(found):
    """A line for each claim of the paper."""
    rows = []
    for number, claim in enumerate(CLAIMS, 1):
        if claim.row is None:
            rows.append([str(number), claim.words, "", f"{UNTOLD}: needs {claim.why}", ""])
            continue
        measured = {
            key: values
            for key, content in found.items()
            if (values := differences(values_of(content, claim.row), values_of(content, claim.reference)))
        }
        command = f"`--rows {claim.reference} {claim.row}`"
        if not measured:
            rows.append([str(number), claim.words, "", UNMEASURED, command])
        said = [str(number), claim.words]
        for key, values in measured.items():
            cell = f"{key}: {in_words(values)}, {len(values)} seed{'s' if len(values) > 1 else ''}"
            rows.append([*said, cell, verdict(values, claim.points, claim.stand_in), command])
            said, command = ["", ""], ""
    table = _texts(["claim", "the paper claims, in novel AP50", "measured here", "verdict", "rows"], rows)
    return f"## What holds of the paper's claims\n{RULE} {_SHORT}\n\n{table}\n"


def _missing(found):
    """Questions without results, and what was measured of them before."""
    told_here = {key for key, question in QUESTIONS.items() if _tables(question, found)}
    open_ones = [question.title for key, question in QUESTIONS.items() if key not in told_here]
    rows = [[asks, came, f"[{text}]({link})"] for asks, key, came, text, link in EARLIER if key not in told_here]
    earlier = _texts(["Question", "What came out", "Table"], rows)
    text = _BEFORE.format(table=earlier)
    if open_ones:
        titles = "\n".join(f"- {title}" for title in open_ones)
        text += f"\nThere are rows, and no results yet, for:\n\n{titles}\n"
    return text + _NOT_BUILT.format(table=_texts(["Idea", "Why not"], NOT_BUILT))
