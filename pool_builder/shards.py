"""A stage's output on disk: numbered Parquet shards, a record for each, and a manifest that says what they are.

    captions/
      manifest.json                      stage, settings and input that the shards belong to; totals once all are there
      captions-00003-of-00012.parquet    rows
      captions-00003-of-00012.json       its record: rows, counts, problems, SHA-256 of the Parquet file

A shard is finished when its record is there and the file is the one that the record speaks of. Both are written
together or not at all, so a process may die at any moment. Several processes
share a folder: shard k belongs to rank k mod N, and nobody writes what another one owns.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from decodetr.processing.region_shards import texts_of
from decodetr.utils.documents import read_json
from decodetr.utils.excerpts import short_json
from decodetr.utils.files import committed, is_unused, reading, write_json

logger = logging.getLogger(__name__)

MANIFEST, FORMAT_VERSION = "manifest.json", 2
# The command that makes a stage, where it has another name.
COMMANDS = {"texts": "embeddings", "image_texts": "embeddings", "regions": "filter", "clusters": "cluster"}
CONTENTS = "contents_of_pictures"  # in an identity: the stage has looked at pictures of this digest
_POLL = 0.2  # seconds between two looks at what other processes do


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is. `accelerate launch` and `torchrun` say so by environment variables."""

    rank: int = 0
    count: int = 1

    @classmethod
    def from_environment(cls) -> Self:
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


class StageFolder:
    """
    The shards of one stage.

    Args:
        folder: OUT/<stage>, made if missing.
        stage (str): its name, and the beginning of the names of its files.
        identity (dict): everything that decides the rows, JSON. A folder of another identity is refused.
        shards (int): how many there will be.
        ranks (Ranks).
        overwrite (bool): remove a folder of another identity instead.

    Raises:
        ValueError: the folder holds shards of another identity (the message lists what differs), or other files.

    Attributes:
        totals (dict), digest (str): of a finished stage that was opened by [`StageFolder.open`]; see `finish`.
    """

    totals: dict[str, Any]
    digest: str

    def __init__(
        self,
        folder: str | Path,
        stage: str,
        identity: dict[str, Any],
        shards: int,
        ranks: Ranks | None = None,
        overwrite: bool = False,
    ) -> None:
        self.folder, self.stage, self.count, self.ranks = Path(folder), stage, shards, ranks or Ranks()
        self.identity = json.loads(json.dumps({"stage": stage, "format_version": FORMAT_VERSION, **identity}))
        self._records = {}
        if self.ranks.rank == 0:
            self._claim(overwrite)
        else:
            self._await(lambda: self._goes_on((self._manifest() or {}).get("identity")))

    @classmethod
    def open(cls, folder: str | Path, stage: str) -> Self:
        """A finished stage, to read from. `digest` is that of its totals.

        Raises:
            ValueError: the stage is not finished.
        """
        self = cls.__new__(cls)
        self.folder, self.stage, self.ranks, self._records = Path(folder), stage, Ranks(), {}
        with reading(self.folder):
            manifest = self._manifest() or {}
        if "totals" not in manifest:
            got = "an unfinished one" if manifest else "none"
            raise ValueError(
                f"{self.folder}: expected the finished stage {stage!r}, got {got}; "
                f"run `decodetr pool {COMMANDS.get(stage, stage)}` with the same --output first"
            )
        self.identity, self.count, self.totals = manifest["identity"], manifest["shards"], manifest["totals"]
        self.digest = self.totals["digest"]
        return self

    def _claim(self, overwrite):
        if not is_unused(self.folder):
            manifest = self._manifest()
            if manifest is None:
                raise ValueError(
                    f"{self.folder}: expected a folder of the stage {self.stage!r}, got files without {MANIFEST}; "
                    "choose another --output, or remove them"
                )
            if self._goes_on(manifest["identity"]):
                return
            if not overwrite:
                raise ValueError(
                    f"{self.folder} was made with other settings or data:\n"
                    + _differences(manifest["identity"], self.identity)
                    + "\nchoose another --output, or --overwrite to make this stage and the later ones again"
                )
            shutil.rmtree(self.folder)
        write_json(self.folder / MANIFEST, {"identity": self.identity, "shards": self.count})

    def _goes_on(self, stored):
        """Whether shards of the identity `stored` are those that are wanted. What an earlier version made does not
        tell its pictures, and keeps its identity."""
        mine = {name: value for name, value in self.identity.items() if name != CONTENTS or name in (stored or {})}
        if stored != mine:
            return False
        self.identity = mine
        return True

    def _manifest(self):
        try:
            manifest = read_json(self.folder / MANIFEST, dict)
        except (OSError, ValueError):
            return None
        ours = isinstance(manifest.get("identity"), dict) and type(manifest.get("shards")) is int
        return manifest if ours and isinstance(manifest.get("totals", {}), dict) else None

    def file(self, shard: int) -> Path:
        """Path of a shard."""
        return self.folder / f"{self.stage}-{shard:05d}-of-{self.count:05d}.parquet"

    def pending(self) -> list[int]:
        """Numbers of the shards of this rank that are not finished, ascending. Damaged ones are named in a warning."""
        mine = range(self.ranks.rank, self.count, self.ranks.count)
        with reading(self.folder):
            return [shard for shard in mine if not self._finished(shard)]

    def is_finished(self, shard: int) -> bool:
        """Whether a shard is there, whole."""
        with reading(self.folder):
            return self._finished(shard)

    def _finished(self, shard):
        file = self.file(shard)
        record = self._read_record(shard)
        if record is None:
            return False
        if not file.is_file() or _sha256(file) != record["sha256"]:
            logger.warning("%s is cut off, changed or missing; it is made again", file)
            file.with_suffix(".json").unlink()
            return False
        self._records[shard] = record
        return True

    def _read_record(self, shard):
        try:
            record = read_json(self.file(shard).with_suffix(".json"), dict)
        except (OSError, ValueError):
            return None
        return record if "sha256" in record else None

    def write(
        self, shard: int, table: pa.Table, counts: dict[str, int] | None = None, problems: Iterable[dict] = ()
    ) -> None:
        """Finish a shard.

        Args:
            shard (int). table (pyarrow.Table).
            counts (dict of int): what the report adds up over shards.
            problems (list of dict): what could not be used, with "image_id", "file_name" and "problem".
        """
        name = self.file(shard).name
        record = {"rows": table.num_rows, "counts": counts or {}, "problems": list(problems)}
        with committed(self.folder) as staging:
            pq.write_table(table, staging / name, use_dictionary=texts_of(table))
            record["sha256"] = _sha256(staging / name)
            write_json((staging / name).with_suffix(".json"), record)
        self._records[shard] = record

    def write_blocks(self, shard: int, blocks: Iterable[pa.Table], counts: dict[str, int]) -> None:
        """Finish a shard whose rows come in blocks, at least one, that are not held together. See `write`."""
        name, record, writer = self.file(shard).name, {"rows": 0, "counts": counts, "problems": []}, None
        with committed(self.folder) as staging:
            try:
                for block in blocks:
                    writer = writer or pq.ParquetWriter(staging / name, block.schema)
                    writer.write_table(block)
                    record["rows"] += block.num_rows
            finally:
                if writer is not None:
                    writer.close()
            record["sha256"] = _sha256(staging / name)
            write_json((staging / name).with_suffix(".json"), record)
        self._records[shard] = record

    def read(self, shard: int, columns: list[str] | None = None) -> pa.Table:
        """The rows of a finished shard: pyarrow.Table."""
        file = self.file(shard)
        try:
            return pq.read_table(file, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{file}: expected a whole Parquet shard, got {type(error).__name__}: {error}; start the same command "
                "again: the shard will be replaced"
            ) from error

    def read_blocks(self, shard: int, columns: list[str]) -> Iterator[pa.Table]:
        """The rows of a finished shard, some at a time."""
        with pq.ParquetFile(self.file(shard)) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns)

    def finish(self) -> dict[str, Any]:
        """Wait until all ranks have finished their shards. Then the totals are in the manifest.

        Returns:
            dict: "rows", "counts" (summed), "problems" (of all shards, in order) and "digest", SHA-256 over the
            shards, and of the pictures that they are of, by which the next stage knows its input.
        """
        if self.ranks.rank > 0:
            self._await(lambda: "totals" in (self._manifest() or {}))
            return self._manifest()["totals"]
        # Whole files get their record last, so the record of another rank's shard is enough.
        self._await(lambda: all(self._records.get(k) or self._collect(k) for k in range(self.count)))
        records = [self._records[shard] for shard in range(self.count)]
        counts = {}
        for record in records:
            for name, number in record["counts"].items():
                counts[name] = counts.get(name, 0) + number
        content = [record["sha256"] for record in records]
        if CONTENTS in self.identity:  # other pictures may have given the same rows
            content.append(self.identity[CONTENTS])
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        totals = {
            "rows": sum(record["rows"] for record in records),
            "counts": counts,
            "problems": [problem for record in records for problem in record["problems"]],
            "digest": digest,
        }
        write_json(self.folder / MANIFEST, {"identity": self.identity, "shards": self.count, "totals": totals})
        return totals

    def _collect(self, shard):
        if (record := self._read_record(shard)) is not None:
            self._records[shard] = record
        return record

    def _await(self, done):
        while not done():
            time.sleep(_POLL)


def _differences(old, new):
    """The fields in which two identities differ, a line each."""
    lines = []
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            lines.append(f"  {name}: {short_json(old.get(name))} then, {short_json(new.get(name))} now")
    return "\n".join(lines)


def _sha256(file):
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
