"""Compare variants of the pool: what it does for names that never had a box, and what seeds do.

The detector of a model runs once over the training scenes. Over these cached features the semantic stream is trained
again for every variant and seed, with the defaults of a new one, and each is measured as `decodetr scenes measure`
does it.
Runs that OUTPUT/runs.json has already are not repeated. Processes with different variants may share a folder. With
--base-names, few names keep their boxes, and those of the others are regions without a name.
"""

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from itertools import product
from pathlib import Path

from decodetr import PrototypePool
from decodetr.inference.loading import load_model
from decodetr.scenes.comparison import Comparison, contents_of
from decodetr.scenes.options import SPLITS, VARIANTS, ComparisonOptions
from decodetr.scenes.pool_variants import PoolChange, silent_pool
from decodetr.scenes.run_records import RunRecords, teacher_cells
from decodetr.utils.files import claim, write_text
from decodetr.utils.tables import markdown_tables

_WIDE = {f"{name}_temperature": 0.07 for name in ("assignment", "teacher", "teacher_name", "name")}
_WIDE |= {"centred": False, "background_threshold": 0.9, "background_level": -1, "background_margin": 0}
_NO_LOOKUP = {"distill_weight": 0.0}
_COLUMNS = {
    "AP50_novel, all": "novel",
    "AP50_never_boxed, all": "crescents",
    "AP50_base, all": "base",
    "AP50, all": "AP50",
    "AP50, 12": "12 names",
    "AP50, 1": "one name",
    "absent, all": "absent > 0.5, %",
    "absent, 1": "with one name, %",
}


def variants(
    pool: PrototypePool, silent: PrototypePool | None, random: PrototypePool
) -> dict[str, tuple[PrototypePool, dict]]:
    """{key of VARIANTS: (pool, fields of the config that differ)}; "silent" where there is such a pool."""
    return {
        "captions": (pool, {}),
        **({} if silent is None else {"silent": (silent, {})}),
        "random": (random, {}),
        "background": (pool, {"pool_use": "background", **_NO_LOOKUP}),
        "none": (pool, {"pool_use": "none", **_NO_LOOKUP}),
        "no-thumbnails": (pool, {"region_pixels": 0}),
        "query": (pool, {"semantic_inputs": "query"}),
        "free": (pool, {"residual_weight": None}),
        "distill-query": (pool, {"distill_at": "query"}),
        "wide": (pool, _WIDE),
    }


def tables(results: dict) -> list[tuple[str, list[str], list[list[str]]]]:
    """Make a table for each split with a row for each variant: mean and, in brackets, lowest and highest of the seeds.
    Where few names keep their boxes, "base" are those, and "novel" all the others.

    Returns:
        list of (title, header, rows).
    """
    found, few = [], results["settings"].get("base_names")
    for split, ceiling in results["ceiling"].items():
        columns = {key: head for key, head in _COLUMNS.items() if head != "crescents" or "AP50_never_boxed" in ceiling}
        heads = ["variant", "seeds", *columns.values(), "novel, % of teacher", "novel, % of base"]
        rows = []
        for variant, words in VARIANTS.items():
            if not (runs := results["runs"].get(variant)):
                continue
            measured = [run[split] for run in runs.values()]
            values = [[run[column] for run in measured] for column in columns]
            values.append([_percent(run["AP50_novel, all"], ceiling["AP50_novel"]) for run in measured])
            values.append([_percent(run["AP50_novel, all"], run["AP50_base, all"]) for run in measured])
            rows.append([words, str(len(runs)), *map(_cell, values)])
        reached = [key.removesuffix(", all") for key in columns if key.startswith("AP50") and key.endswith("all")]
        for words, cells in zip(("annotated boxes", "the same boxes"), teacher_cells(ceiling, reached)):
            rows.append([f"the teacher itself, on {words}", "", *cells, *[""] * (len(heads) - 2 - len(cells))])
        recall = f"finds {ceiling['recall_novel']:.1f} % of novel and {ceiling['recall_base']:.1f} % of base objects"
        kept = f"{few} names have boxes; " if few else ""
        found.append((f"{SPLITS[split]}; {kept}localization {recall}", heads, rows))
    return found


def _percent(part, whole):
    return 100 * part / whole if whole else float("nan")


def _cell(values):
    digits = 1 if max(values) >= 1 else 2
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.fmean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _in_a_line(name, seed, measured):
    """What a run reached with all names in the vocabulary. The tables have the rest."""
    keys = {"novel": "AP50_novel, all", "base": "AP50_base, all", "all": "AP50, all"}
    splits = (
        f"{split} AP50 " + ", ".join(f"{word} {found[key]:.1f}" for word, key in keys.items())
        for split, found in measured.items()
    )
    return f"{name}, seed {seed}: " + "; ".join(splits)


def compare_pools(options: ComparisonOptions, say: Callable[[str], None]) -> str:
    """
    Train and measure what OUTPUT/runs.json does not have yet, and write it and table.md.

    Args:
        options: processes with different variants may share the output.
        say: is told, in a line, what a run reached.

    Returns:
        The tables, as Markdown.

    Raises:
        ValueError: the output has runs of other settings or contents.
    """
    with ExitStack() as held:
        for variant in options.variants:
            held.enter_context(claim(options.output, f"decodetr scenes compare --variants {variant}", variant))
        output = Path(options.output)
        results = RunRecords(output / "runs.json", options.settings(), contents_of(options))
        comparison = Comparison(options)
        for split in options.splits:
            if split not in results.content["ceiling"]:
                results.add("ceiling", split, comparison.ceiling(split))
        silent = None
        if "silent" in options.variants:
            regions = comparison.built / "regions"
            silent = silent_pool(regions, comparison.clip, comparison.pool, comparison.novel, say)
        compared = variants(comparison.pool, silent, comparison.changed_pool(PoolChange(random=True)))
        for name, seed in product(options.variants, options.seeds):
            if results.has(name, seed):
                continue
            if (name, seed) == ("captions", 0) and options.trained:
                model, _ = load_model(options.trained)
            else:
                model = comparison.train(*compared[name], seed)
            results.add("runs", name, {str(seed): (measured := comparison.measure(model))})
            say(_in_a_line(name, seed, measured))
        page = markdown_tables(tables(results.content))
        write_text(output / "table.md", page)
        return page
