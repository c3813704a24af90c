"""Runs of rows on a world. Each is written as soon as it is there, so that a killed command goes on."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ablations.rows import ROWS, Row, Setup
from decodetr.scenes.recipes import LOCALIZATION

VAL = "val"
SIZES = ("all", 12)  # of vocabularies that are asked
# Of a detector with random weights, as the shipped one began.
_FROM_SCRATCH = {"--learning_rate": LOCALIZATION[0][0], "--warmup_steps": LOCALIZATION[0][1]}


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
        from_scratch (bool): joint rows begin with a detector of random weights, not with the model's.
        views: of each image that are cached; all but the first are augmented.
        captioners: of rows with another captioner, its word and what `decodetr pool build` made with it.
        device: where it all runs; "auto": an accelerator if there is one.
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
    from_scratch: bool = False
    views: int = 1
    captioners: tuple[tuple[str, str], ...] = ()
    device: str = "auto"

    @property
    def key(self) -> str:
        """Of its file: "scenes-12"."""
        return self.name if self.base_names is None else f"{self.name}-{self.base_names}"

    def settings(self) -> dict[str, Any]:
        """What its runs have in common, without places: those are known by their contents."""
        left_out = {"data", "built", "model", "vocabulary", "clip", "captioners", "device"}
        left_out |= {name for name, usual in (("from_scratch", False), ("views", 1)) if getattr(self, name) == usual}
        return {name: value for name, value in asdict(self).items() if name not in left_out}

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
    all rows. Processes may share both folders: each takes runs that no other one has begun.

    Args:
        rows: keys of ROWS. work: for cached features, which stay. say: is told what a run reached.
    """
    from decodetr.scenes.comparison import contents_of
    from decodetr.scenes.run_records import RunRecords
    from decodetr.utils.files import LOCK

    results.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    opened: dict[tuple[World, Setup], Any] = {}
    records = {}

    def runs(world, setup):
        if (world, setup) not in opened:
            opened[world, setup] = _runs(world, setup, work)
        return opened[world, setup]

    for world in worlds:
        file = results / f"{world.key}.json"
        found = records[world] = RunRecords(file, world.settings(), contents_of(world.options()))
        with _unless_held(work / f"{LOCK}-{world.key}-ceiling") as alone:
            if alone and "AP50_novel, own boxes" not in found.content["ceiling"].get(VAL, {}):  # of earlier versions
                found.add("ceiling", VAL, runs(world, Setup()).ceiling(VAL))
    for seed, world, row in product(seeds, worlds, rows):
        name, found = f"{world.key}-{row}-{seed}".replace("/", "-"), records[world]
        with _unless_held(work / f"{LOCK}-{name}") as mine:
            if not mine or found.has(row, seed):
                continue
            entry = runs(world, ROWS[row].setup).entry(ROWS[row], seed)
            found.add("runs", row, {str(seed): entry})
            reached = ", ".join(f"{part} {entry[VAL][f'AP50_{part}, all']:.1f}" for part in ("novel", "base"))
            say(f"{world.key}: {row}, seed {seed}: AP50 {reached}; {entry['seconds']:.0f} s")


def run_costs(world: World, results: Path, work: Path, rounds: int, say: Callable[[str], None]) -> None:
    """
    Time what each part costs, in the training steps of a world, and write it to `results`.

    Args:
        work: for cached features, which stay. rounds: timed ones. say: is told what is being measured.
    """
    from ablations.costs import FILE, measure_costs
    from decodetr.utils.files import write_json

    work.mkdir(parents=True, exist_ok=True)
    file = results / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"world": world.key, **measure_costs(_runs(world, Setup(), work), rounds, say)})


@contextmanager
def _unless_held(file):
    """Hold a lock. False where another process has it."""
    try:
        held = FileLock(file).acquire(timeout=0)
    except Timeout:
        yield False
        return
    with held:
        yield True


def _runs(world, setup, work):
    """The [`Comparison`] of a world, over features that stay in `work`, for all worlds of the same images."""
    from ablations.beginnings import BEGINNINGS, random_detector
    from ablations.conflict_trainer import ConflictTrainer
    from ablations.extension import ENDINGS
    from ablations.setups import SetUpComparison
    from ablations.some_queries import SomeQueries
    from decodetr import PrototypePool
    from decodetr.scenes.comparison import SAMPLED, contents_of
    from decodetr.scenes.pool_variants import PoolChange, check_same_regions
    from decodetr.speed.machine import environment
    from decodetr.utils.documents import read_json
    from decodetr.utils.files import LOCK, committed, is_unused, write_json
    from decodetr.utils.model_identity import json_digest

    contents = contents_of(world.options())
    features = work / f"features-{json_digest([contents, world.base_names, world.train_images], 12)}"

    class Runs(SetUpComparison):
        """Pools and features are made once for all rows."""

        def __init__(self) -> None:
            super().__init__(setup, world.options(), world.train_images, world.val_images, world.device)
            self.pools: dict[PoolChange | str, Any] = {}
            self.conflict: dict[str, Any] | None = None

        def make_cache(self, views: int = world.views, fields: Mapping[str, Any] | None = None, **options: Any):
            fields = dict(fields or {})
            own = "" if views == 1 else f"-views-{views}"
            own += "".join(f"-{name}-{fields[name]}" for name in SAMPLED if name in fields) + self.of_features
            fields["pool_update"] = "literal"  # with the captions that a pool that moves reads
            with FileLock(work / f"{LOCK}-{features.name}{own}"):  # the first process makes them, the others wait
                cache = super().make_cache(views, fields, folder=Path(f"{features}{own}"), **options)
            return cache if world.queries is None else SomeQueries(cache.folder, world.queries)

        def space(self, pool: PrototypePool) -> dict[str, Any]:
            """Measured once for all processes."""
            file = work / f"space-{json_digest([pool.prototypes.tolist(), self.base, contents], 12)}.json"
            with FileLock(work / f"{LOCK}-{file.name}"):
                if not file.exists():
                    write_json(file, super().space(pool))
            return read_json(file, dict)

        def changed_pool(self, change: PoolChange) -> PrototypePool:
            """Made once for all processes."""
            folder = work / f"pool-{json_digest([asdict(change), asdict(setup), self.base, contents], 12)}"
            with FileLock(work / f"{LOCK}-{folder.name}"):
                if is_unused(folder):
                    with committed(folder) as staging:
                        super().changed_pool(change).save_pretrained(staging)
            return PrototypePool.from_pretrained(folder)

        def pool_of(self, row: Row) -> PrototypePool:
            """Of a row, made once."""
            key = row.captioner or PoolChange(**row.pool)
            if key not in self.pools:
                self.pools[key] = self.pool_of_captioner(key) if row.captioner else self.changed_pool(key)
            return self.pools[key]

        def pool_of_captioner(self, word: str) -> PrototypePool:
            """The pool that was built of the same regions with another captioner."""
            built = dict(world.captioners).get(word)
            if built is None:
                raise ValueError(
                    f"a row needs --captioners {word}=BUILT, of `decodetr pool build` of the same regions"
                )
            check_same_regions(self.built / "regions", Path(built) / "regions")
            pool = PrototypePool.from_pretrained(Path(built) / "pool")
            pool.info["space"] = self.space(pool)
            return pool

        def trainer(self, model: Any, arguments: Any, data: Any) -> Any:
            """Of both streams: one that watches how their losses pull."""
            if arguments.streams != "joint":
                return super().trainer(model, arguments, data)
            trainer = ConflictTrainer(model, arguments, data)
            self.conflict = trainer.conflict
            return trainer

        def entry(self, row: Row, seed: int) -> dict[str, Any]:
            """What a run reached, what it took, and where."""
            pool = self.pool_of(row)
            begin = BEGINNINGS[row.begin] if row.begin else None
            if not row.joint:
                self.features(row.fields)  # made once, and no part of what this run takes
            training = row.training
            if world.from_scratch:
                training, begin = {**training, **_FROM_SCRATCH}, random_detector
            train, start = self.train_jointly if row.joint else self.train, time.process_time()
            model = train(pool, row.fields, seed, training, begin)
            trained = time.process_time() - start
            if row.end:
                ENDINGS[row.end](self, model)
            machine = environment(self.device)
            return {
                **self.measure(model, SIZES),
                **({"conflict": self.conflict} if row.joint else {}),
                "prototypes": [len(pool) - pool.num_fine, pool.num_fine],
                "seconds": round(trained, 1),  # of the processor, without waiting for others
                "date": date.today().isoformat(),
                "machine": {name: machine[name] for name in ("device", "cores", "threads", "torch", "transformers")},
            }

    return Runs()
