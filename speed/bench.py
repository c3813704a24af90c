"""`decodetr bench`: every contestant at every setting, in turn, into one file that a later run goes on with.

Reading order: the options, one group of contestants at one setting (`Group`), the run over all groups (`Bench`).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from torchvision.io import encode_jpeg
from torchvision.ops import box_iou
from tqdm.auto import tqdm

from decodetr.runtime.description import find_export
from decodetr.speed.catalog import OURS
from decodetr.speed.contestants import Contestant, QueriesRead, of_folder, of_random_weights
from decodetr.speed.exported import Exported
from decodetr.speed.machine import (
    busy_warning,
    environment,
    floor,
    peak_bytes,
    reset_peak,
    share_of_floor,
    used_by_others,
    used_bytes,
)
from decodetr.speed.peers import peers_of
from decodetr.speed.timing import clock, in_turn, ratios, spread
from decodetr.speed.ways import How, precision_of
from decodetr.utils.devices import pick_device
from decodetr.utils.documents import read_json
from decodetr.utils.excerpts import first_line
from decodetr.utils.files import write_json
from decodetr.utils.images import open_image
from decodetr.utils.model_identity import folder_digest
from decodetr.utils.outputs import unwritten

if TYPE_CHECKING:
    from typing import Any

logger = logging.getLogger(__name__)

COMMAND = "decodetr bench"
FILES = ("bench.json", "bench.md", "names.png", "parameters.png")
What = Literal["forward", "file"]
PICTURE = (960, 1280)  # height, width of the JPEG
_LEAD_SECONDS = 1.0  # of a call; below, it has an untimed call before it, so that its weights are in the caches
_SAME_IOU, _SAME_SCORE = 0.9, 0.02  # of detections that are the same
_OF_THE_DAY = ("date", "load_average_before")


@dataclass(frozen=True)
class BenchOptions:
    """What is measured. The lists are crossed: every number of names at every batch size, ...

    Attributes:
        models: keys of `OURS`, or folders, Hub names and shipped names of DeCo-DETRs, or folders of `decodetr
            export`. The first is what peers are compared with. peers: keys of `PEERS`.
        names: numbers of names. queries: of the detectors of `OURS`; all others have theirs, and are measured beside
            the first. queries_read: by the semantic stream, of each image; each gets a row.
        image_size: side of all pictures that models see. None: what each was published with, or saved with.
        runs, warmup: timed and untimed rounds. limit_s: seconds that a row may take; what would take longer is
            skipped. threads: of the CPU; None: PyTorch's.
        output: folder. None: nothing is written.
    """

    models: Sequence[str] = tuple(OURS)
    peers: Sequence[str] = ()
    names: Sequence[int] = (80,)
    batch_sizes: Sequence[int] = (1,)
    queries: Sequence[int] = (300,)
    queries_read: Sequence[QueriesRead] = ("rule",)
    image_size: int | None = None
    what: Sequence[What] = ("forward", "file")
    how: Sequence[How] = ("eager",)
    runs: int = 5
    warmup: int = 1
    limit_s: float = 600.0
    threads: int | None = None
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    output: str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Setting:
    """Of a group: what all its rows have in common."""

    names: int
    batch_size: int
    queries: int
    what: What


def picture_bytes() -> bytes:
    """A JPEG of `PICTURE`, with as much detail as a photograph: large shapes and some noise."""
    generator = torch.Generator().manual_seed(0)
    shapes = F.interpolate(torch.rand(1, 3, 24, 32, generator=generator), PICTURE, mode="bicubic")[0]
    noise = 0.03 * torch.randn(shapes.shape, generator=generator)
    return encode_jpeg(((shapes + noise).clamp(0, 1) * 255).to(torch.uint8), quality=90).numpy().tobytes()


def same_share(found: list[dict[str, list]], expected: list[dict[str, list]]) -> float:
    """Share of expected detections that are found: same label, IoU at least 0.9, scores 0.02 apart at most. 1 if there
    are none."""
    total = same = 0
    for one, other in zip(found, expected, strict=True):
        total += len(other["scores"])
        if not one["scores"]:
            continue
        overlap = box_iou(torch.tensor(other["boxes"]).view(-1, 4), torch.tensor(one["boxes"]).view(-1, 4))
        for row, (label, score) in enumerate(zip(other["labels"], other["scores"])):
            same += any(
                overlap[row, column] >= _SAME_IOU and label == found_label and abs(score - found_score) <= _SAME_SCORE
                for column, (found_label, found_score) in enumerate(zip(one["labels"], one["scores"]))
            )
    return same / total if total else 1.0


class Group:
    """Contestants at one setting, timed in turn."""

    def __init__(self, setting: Setting, contestants: Sequence[Contestant], options: BenchOptions) -> None:
        self.setting, self.options = setting, options
        self.entries = [one.in_way(how) for one in contestants for how in options.how if how in one.ways]
        self.eager = {one.title: one for one in contestants}
        self.eagerly: dict[str, list[dict[str, list]]] = {}  # what they find, by their titles
        self.device = contestants[0].device
        self.files = [picture_bytes()] * setting.batch_size

    @property
    def rounds(self) -> int:
        """Calls of each, those that are not timed among them."""
        return 1 + self.options.warmup + self.options.runs

    def measure(self, bounds: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
        """Rows of all, the skipped ones among them. `bounds`: {precision: of [`floor`]}."""
        rows, calls, first = [], {}, {}
        if "compile" in self.options.how:
            torch.compiler.reset()  # sizes of an earlier group would make graphs of any size, which are slower
        for number, one in enumerate(tqdm(self.entries, desc="first calls", unit="model", leave=False)):
            row = {"title": one.title, "kind": one.kind, "how": one.how}
            rows.append(row)
            try:
                row.update(self._set_up(one))
                calls[number] = self._call(one)
                first[number] = self._first(one, calls[number], row)
            except _Skipped as reason:
                row["skipped"] = str(reason)
                calls.pop(number, None)
            except (RuntimeError, ValueError) as error:  # of the library, in this precision or way
                row["skipped"] = f"{type(error).__name__}: {first_line(error)}"
                calls.pop(number, None)
        if calls:
            self._time(rows, calls, first, bounds)
        return rows

    def _set_up(self, one):
        """Names and what is done once for them; facts of the row."""
        one.set_names(self.setting.names, self.setting.batch_size)
        self._within(one.once_seconds(), 1, f"it {one.once}, which alone takes" if one.once else "")
        one.once_for_names()
        facts = {"queries": one.queries, "passes": len(one.texts), "parameters": one.parameters()}
        return {**facts, "tables": one.tables(), "published_millions": one.published, "over": one.over}

    def _call(self, one):
        """A function without arguments, which is what is timed."""
        if self.setting.what == "file":
            return lambda: one.detect([open_image(file) for file in self.files])
        batch = one.prepare([open_image(file) for file in self.files])
        return lambda: one.forward(batch)

    def _first(self, one, call, row):
        """Seconds of a call that is no run. What would take too long is told by a part of it, if it can."""
        pictures = [open_image(file) for file in self.files]
        batch = one.prepare(pictures)
        sizes = [(picture.height, picture.width) for picture in pictures]
        row["image_size"] = list(batch["pixel_values"].shape[-2:])
        passes = f"{self.setting.names:,} names take {len(one.texts)} passes: " if len(one.texts) > 1 else ""
        self._within(one.least_seconds(batch), self.rounds, f"{passes}a call takes at least")
        if one.how != "eager":
            one.compile(batch)
            for _ in range(2):  # which compile, and record graphs
                found = one.finish(one.forward(batch), sizes)
            row["same_as_eager"] = same_share(found, self._eagerly(one.title, pictures, sizes))
            del found
        start = clock(self.device)
        result = call()
        seconds = clock(self.device) - start
        self._within(seconds, self.rounds, f"{passes}a call takes")
        if self.setting.what == "forward" and (read := one.read(result)) is not None:
            row["read"] = read
        del result
        if self.setting.what == "forward" and one.counts_flops:
            row["flops"] = flops(one, batch)
        if self.device.type == "cuda":
            before = used_bytes(self.device)
            reset_peak(self.device)
            start = clock(self.device)
            call()
            seconds = clock(self.device) - start  # the first one also loaded kernels
            row["memory_bytes"] = peak_bytes(self.device) - before
        return seconds

    def _eagerly(self, title, pictures, sizes):
        """What a model finds in eager mode, computed once for all its ways."""
        if title not in self.eagerly:
            one = self.eager[title]
            self._set_up(one)
            self.eagerly[title] = one.finish(one.forward(one.prepare(pictures)), sizes)
        return self.eagerly[title]

    def _within(self, seconds, calls, words):
        if seconds * calls > self.options.limit_s:
            times = f", and {calls} are made" if calls > 1 else ""
            raise _Skipped(f"{words} {seconds:,.0f} s{times}: more than --limit-s {self.options.limit_s:g}")

    def _time(self, rows, calls, first, bounds):
        options = self.options
        lead = {number: int(seconds < _LEAD_SECONDS) for number, seconds in first.items()}
        turns = len(calls) * (options.warmup + options.runs)
        with tqdm(total=turns, desc=words_of(self.setting), unit="call", leave=False) as bar:
            seconds = in_turn(
                calls, device=self.device, warmup=options.warmup, runs=options.runs, lead=lead, after=bar.update
            )
        first_of_ours = next((row["title"] for row in rows if row["kind"] == "ours"), None)
        places = {(rows[number]["title"], rows[number]["how"]): number for number in calls}
        for number in calls:
            row = rows[number]
            row["seconds"] = spread(seconds[number])
        fastest = fastest_of(rows[number] for number in calls if rows[number]["title"] == first_of_ours)
        for number in calls:
            row = rows[number]
            if (bare := places.get((row.pop("over"), row["how"]))) is not None:
                row["over_bare"] = ratios(seconds, number, bare)
            if (reference := places.get((first_of_ours, row["how"]))) is not None:
                row["over_reference"] = ratios(seconds, number, reference)
            if row["how"] != "eager" and (eager := places.get((row["title"], "eager"))) is not None:
                row["over_eager"] = ratios(seconds, number, eager)
            if len(options.how) > 1 and fastest is not None:
                row["over_fastest"] = ratios(seconds, number, places[(first_of_ours, fastest)])
            if "flops" in row:
                numbers = row["parameters"] + row["tables"]
                dtype = precision_of(row["how"], self.entries[number].dtype)
                bound = bounds[str(dtype).removeprefix("torch.")]
                row["share_of_floor"] = share_of_floor(
                    row["seconds"]["median"], row["flops"], numbers * dtype.itemsize, bound
                )


def fastest_of(rows: Iterable[dict[str, Any]]) -> How | None:
    """In which way some rows are fastest. None: there are none."""
    ordered = sorted(rows, key=lambda row: row["seconds"]["median"])
    return ordered[0]["how"] if ordered else None


class _Skipped(Exception):
    """Why a row is not measured."""


def words_of(setting: Setting) -> str:
    """A setting in a few words, for progress bars and titles."""
    return f"{setting.what}, {setting.names:,} names, batch {setting.batch_size}, N = {setting.queries}"


def flops(one: Contestant, batch: dict[str, torch.Tensor]) -> int:
    """FLOPs of a forward: two for every multiply-add of matrix products, convolutions and attention, nothing else; no
    `grid_sample`."""
    # The counter does not see into inference mode, and does not know the CPU's fused attention.
    fused = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    with torch.inference_mode(False), torch.no_grad():
        batch = {key: value.clone() for key, value in batch.items()}
        with FlopCounterMode(display=False, custom_mapping=fused) as counter:
            one.passes(one.module, batch)
    return counter.get_total_flops()


def _attention_flops(query, key, value, *args, out_shape=None, **kwargs):
    return sdpa_flop_count(query, key, value)


class Bench:
    """A run over all settings.

    Raises:
        ValueError: the output is somebody else's, or has rows of other settings or of another machine.
    """

    def __init__(self, options: BenchOptions) -> None:
        self.options = options
        self.device, self.dtype = pick_device(options.device), getattr(torch, options.dtype)
        # A folder that changes meanwhile is another model.
        self.digests = {name: folder_digest(name) for name in options.models if name not in OURS}
        self.document: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Measure what the output does not have yet. Returns the document that is in bench.json: "machine",
        "settings", "floors" and "groups", each with its "setting", "contestants", "limit_s" and "rows"."""
        before = torch.get_num_threads()
        try:
            if self.options.threads:
                torch.set_num_threads(self.options.threads)
            self._open()
            for queries in self.options.queries:
                self._run_queries(queries)
        finally:
            torch.set_num_threads(before)
        return self.document

    def _open(self):
        options = self.options
        others = used_by_others()
        machine = environment(self.device, used_by_others_percent=others)
        kept = ("runs", "warmup", "dtype", "image_size")
        settings = {key: value for key, value in asdict(options).items() if key in kept}
        started = {"command": COMMAND, "machine": machine, "settings": settings}
        if earlier := earlier_run(options.output, options.overwrite):
            check_same(earlier, started, options.output)
            self.document = {"floors": {}, **earlier}
            return
        if warning := busy_warning(others):
            logger.warning(warning)
        self.document = {**started, "floors": {}, "groups": []}

    def _run_queries(self, queries):
        options = self.options
        ours = [name for name in options.models if name in OURS]
        saved = [name for name in options.models if name not in OURS]
        first = queries == options.queries[0]
        wanted = [*ours, *saved, *options.peers] if first else ours
        settings = [
            Setting(names, batch_size, queries, what)
            for names, batch_size, what in itertools.product(options.names, options.batch_sizes, options.what)
        ]
        missing = [setting for setting in settings if wanted and not self._has(setting, wanted)]
        if not missing:
            return
        where = (options.image_size, self.device, self.dtype)
        made = {
            name: lambda name=name: of_random_weights(name, queries, *where, options.queries_read) for name in ours
        }
        if first:
            made |= {name: lambda name=name: self._saved(name, where) for name in saved}
            made |= {name: lambda name=name: peers_of(name, *where) for name in options.peers}
        contestants = [one for name in wanted for one in made[name]()]
        floors = self.document["floors"]
        for dtype in {precision_of(how, self.dtype) for how in options.how}:
            name = str(dtype).removeprefix("torch.")
            floors[name] = floors.get(name) or floor(self.device, dtype)
        with torch.inference_mode():
            for setting in missing:
                rows = Group(setting, contestants, options).measure(floors)
                self._keep(setting, wanted, rows)

    def _saved(self, name, where):
        if find_export(name) is not None:
            return [Exported(name, self.options.device, self.options.image_size)]
        return of_folder(name, *where, self.options.queries_read)

    def _identity(self, setting, wanted):
        asked = {"how": list(self.options.how), "queries_read": list(self.options.queries_read)}
        contestants = [[name, self.digests.get(name)] for name in wanted]
        return {"setting": asdict(setting), "contestants": contestants, **asked}

    def _has(self, setting, wanted):
        """Whether the group is there, and nothing in it was skipped that a higher limit may let through."""
        identity = self._identity(setting, wanted)
        for group in self.document["groups"]:
            if identity.items() <= group.items():
                skipped = any("--limit-s" in row.get("skipped", "") for row in group["rows"])
                if not skipped or self.options.limit_s <= group["limit_s"]:
                    return True
        return False

    def _keep(self, setting, wanted, rows):
        identity = self._identity(setting, wanted)
        new = {**identity, "limit_s": self.options.limit_s, "rows": rows}
        # A ratio holds within a group, so others stay as they are.
        groups = [group for group in self.document["groups"] if not _replaces(new, group)]
        self.document["groups"] = [*groups, new]
        if self.options.output:
            write_json(Path(self.options.output) / FILES[0], self.document)


def _replaces(new, old):
    """Whether a group has the models of an earlier one, in whatever state, and all figures that that one has: a model
    that fails now takes no earlier figure away."""
    figures = [{(row["title"], row["how"]) for row in one["rows"] if "skipped" not in row} for one in (new, old)]
    return _asked(new) == _asked(old) and figures[0] >= figures[1]


def _asked(group):
    names = [name for name, _ in group["contestants"]]
    return [group["setting"], group["how"], group["queries_read"], names]


def earlier_run(folder: str | None, overwrite: bool = False) -> dict[str, Any] | None:
    """What an earlier run has written into a folder. None: nothing, or it is to be replaced.

    Raises:
        ValueError: files there would be replaced that the command did not write.
    """
    unwritten("--output", folder, FILES, COMMAND, True, is_ours)
    file = Path(folder or "", FILES[0])
    return None if folder is None or overwrite or not file.exists() else read_json(file, dict)


def is_ours(file: Path) -> bool:
    """Whether a file is bench.json of the command."""
    return file.is_file() and read_json(file, dict).get("command") == COMMAND


def check_same(earlier: dict[str, Any], now: dict[str, Any], folder: str | None) -> None:
    """Refuse to add rows to those of another machine or of other settings.

    Raises:
        ValueError: which names what differs.
    """
    differ = []
    for part in ("machine", "settings"):
        before, after = earlier.get(part, {}), now[part]
        for key in after:
            if key not in (*_OF_THE_DAY, "used_by_others_percent") and before.get(key) != after[key]:
                differ.append(f"{key} was {before.get(key)!r} and is {after[key]!r}")
    if differ:
        raise ValueError(
            f"--output {folder}: its rows were measured otherwise ({'; '.join(differ)}), and cannot be compared with "
            "new ones; give another --output, or --overwrite to replace them"
        )
