"""What the stages of a pool took: OUT/spent.json, and the section of the pool's card."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from decodetr.cards.cost import cost_section, counted, put_sections
from decodetr.pool_builder.shards import Ranks
from decodetr.pool_builder.stages import finished_stages
from decodetr.utils.documents import read_json
from decodetr.utils.files import write_json

SPENT = "spent.json"
_COUNTED = ("proposals", "captions", "embeddings", "regions", "clusters")  # "texts" is made with embeddings


@contextmanager
def timed(output: Path, stage: str, machine: str, ranks: Ranks) -> Iterator[None]:
    """Inside, the seconds of a stage are counted in OUT/spent.json, by the clock of the first process. A stage that
    is finished and kept is not counted; of one that is made again for other settings only this run is.

    Args:
        output (Path): OUT. stage (str): its folder. machine (str): what it runs on. ranks (Ranks).
    """
    if ranks.rank > 0:
        yield
        return
    output.mkdir(parents=True, exist_ok=True)
    before = _digest(output, stage)
    if before is None:
        spent = _read(output)
        with counted(spent, stage, machine, lambda: write_json(output / SPENT, spent)):
            yield
        return
    started = time.perf_counter()
    yield
    if _digest(output, stage) != before:
        once = {"seconds": time.perf_counter() - started, "begun": 1, "ended": 1, "machines": [machine]}
        write_json(output / SPENT, _read(output) | {stage: once})


def write_cost(output: Path) -> None:
    """Put what the finished stages took into the card of OUT/pool. Where one was finished by a version that did not
    count, nothing is said."""
    finished, spent = finished_stages(output), _read(output)
    if "clusters" in finished and all(stage in spent for stage in _COUNTED):
        stages = {stage: spent[stage] for stage in finished if stage in spent}
        put_sections(output / "pool" / "README.md", cost_section(stages))


def _read(output) -> dict[str, Any]:
    return read_json(output / SPENT, dict) if (output / SPENT).is_file() else {}


def _digest(output, stage):
    """Of a finished stage, or None."""
    return getattr(finished_stages(output).get(stage), "digest", None)
