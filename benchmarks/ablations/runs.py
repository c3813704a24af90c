"""Runs of rows on a world. Each is written as soon as it is there, so that a killed command goes on."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

from ablations.rows import ROWS, Row, Setup

VAL = "val"
SIZES = ("all", 12)  # of vocabularies that are asked


@dataclass(frozen=True, kw_only=True)
class World:
    """
    Data with what was built of them. Names of models are those of a folder or shipped.

    Args:
        name: of its results, "scenes". Runs of another size have another one.
        data: in COCO's form. built: of `decodetr pool build`.
        model: a trained localization stream. vocabulary: of all names. clip: the teacher.
        base_names: so many keep their boxes; None: all.
        train_images, val_images: so many are used; None: all. steps: of a run.
        queries: of an image that a step reads; None: all that something supervises.
    """

    name: str
    data: str
    built: str
    model: str
    vocabulary: str
    clip: str
    base_names: int | None
    train_images: int | None
    val_images: int | None
    steps: int
    queries: int | None

    @property
    def key(self) -> str:
        """Of its file: "scenes-12"."""
        return self.name if self.base_names is None else f"{self.name}-{self.base_names}"

    def settings(self) -> dict[str, Any]:
        """What its runs have in common, without places: those are known by their contents."""
        places = ("data", "built", "model", "vocabulary", "clip")
        return {name: value for name, value in asdict(self).items() if name not in places}

    def options(self):
        """The same for a [`Comparison`]."""
        from decodetr.scenes.options import ComparisonOptions

        return ComparisonOptions(
            folder=self.data, built=self.built, model=self.model, vocabulary=self.vocabulary, clip=self.clip,
            variants=[], seeds=[], splits=[VAL], steps=self.steps, base_names=self.base_names, trained=None, output="",
        )  # fmt: skip


def run_rows(
    worlds: Sequence[World],
    rows: Sequence[str],
    seeds: Sequence[int],
    results: Path,
    work: Path,
    say: Callable[[str], None],
) -> None:
    """
    Train and measure what `results`/KEY.json does not have, seed by seed, so that what there is after a while covers
    all rows. Processes with different rows may share both folders.

    Args:
        rows: keys of ROWS. work: for cached features, which stay. say: is told what a run reached.
    """
    from decodetr.scenes.comparison import contents_of
    from decodetr.scenes.run_records import RunRecords
    from decodetr.utils.files import claim

    with ExitStack() as held:
        opened: dict[World, dict[Setup, Any]] = {world: {} for world in worlds}
        records = {}
        for world in worlds:
            for row in rows:
                part = f"{world.key}-{row}".replace("/", "-")
                held.enter_context(claim(work, f"ablate.py run --rows {row}", part))
            file = results / f"{world.key}.json"
            records[world] = RunRecords(file, world.settings(), contents_of(world.options()))
        for seed, world, row in product(seeds, worlds, rows):
            found = records[world]
            if found.has(row, seed):
                continue
            needed = {ROWS[row].setup} | (set() if VAL in found.content["ceiling"] else {Setup()})
            for setup in needed - opened[world].keys():
                opened[world][setup] = _runs(world, setup, work)
            if VAL not in found.content["ceiling"]:
                found.add("ceiling", VAL, opened[world][Setup()].ceiling(VAL))
            entry = opened[world][ROWS[row].setup].entry(ROWS[row], seed)
            found.add("runs", row, {str(seed): entry})
            reached = ", ".join(f"{part} {entry[VAL][f'AP50_{part}, all']:.1f}" for part in ("novel", "base"))
            say(f"{world.key}: {row}, seed {seed}: AP50 {reached}; {entry['seconds']:.0f} s")


def _runs(world, setup, work):
    """The [`Comparison`] of a world, over features that stay in `work`, for all worlds of the same images."""
    from ablations.beginnings import BEGINNINGS
    from ablations.extension import ENDINGS
    from ablations.setups import SetUpComparison
    from decodetr.scenes.comparison import SAMPLED, SomeQueries, contents_of
    from decodetr.scenes.pool_variants import PoolChange
    from decodetr.speed.machine import environment

    read = json.dumps([contents_of(world.options()), world.base_names, world.train_images], sort_keys=True)
    features = work / f"features-{hashlib.sha256(read.encode()).hexdigest()[:12]}"

    class Runs(SetUpComparison):
        """Pools and features are made once for all rows."""

        def __init__(self) -> None:
            super().__init__(setup, world.options(), world.train_images, world.val_images)
            self.pools: dict[PoolChange, Any] = {}

        def make_cache(self, views: int = 1, fields: Mapping[str, Any] | None = None, **options: Any):
            fields = dict(fields or {})
            own = "".join(f"-{name}-{fields[name]}" for name in SAMPLED if name in fields) + self.of_features
            fields["pool_update"] = "stable"  # with the captions that a pool that moves reads
            cache = super().make_cache(views, fields, folder=Path(f"{features}{own}"), **options)
            return cache if world.queries is None else SomeQueries(cache.folder, world.queries)

        def entry(self, row: Row, seed: int) -> dict[str, Any]:
            """What a run reached, what it took, and where."""
            change = PoolChange(**row.pool)
            if change not in self.pools:
                self.pools[change] = self.changed_pool(change)
            pool = self.pools[change]
            begin = BEGINNINGS[row.begin] if row.begin else None
            if not row.joint:
                self.features(row.fields)  # made once, and no part of what this run takes
            train, start = self.train_jointly if row.joint else self.train, time.process_time()
            model = train(pool, row.fields, seed, row.training, begin)
            trained = time.process_time() - start
            if row.end:
                ENDINGS[row.end](self, model)
            machine = environment("cpu")
            return {
                **self.measure(model, SIZES),
                "prototypes": [len(pool) - pool.num_fine, pool.num_fine],
                "seconds": round(trained, 1),  # of the processor, without waiting for others
                "date": date.today().isoformat(),
                "machine": {name: machine[name] for name in ("device", "cores", "threads", "torch", "transformers")},
            }

    return Runs()
