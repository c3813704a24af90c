"""What runs on the nodes of a Ray cluster: a look around before the work, and the workers that make shards."""

import logging
import os
import platform
import traceback
from pathlib import Path
from typing import Any

import ray
import torch
from transformers.utils.logging import disable_progress_bar

from decodetr.pool_builder.preflight import check_models
from decodetr.pool_builder.settings import PoolTask
from decodetr.pool_builder.shards import StageFolder
from decodetr.utils.documents import read_text
from decodetr.utils.limits import MAX_PIXELS_VARIABLE, OUTSIDE_VARIABLE
from decodetr.utils.versions import package_versions

logger = logging.getLogger(__name__)

MOST_DEATHS = 3  # of workers with one shard: what kills so often will do so again
# What decides rows. Python's own version is Ray's business, which refuses another.
_PACKAGES = ("decodetr", "torch", "torchvision", "transformers", "datasets", "pillow", "pyarrow", "numpy")
_VARIABLES = (MAX_PIXELS_VARIABLE, OUTSIDE_VARIABLE, "DECODETR_MAX_FILE_BYTES", "OPENAI_API_KEY")


def variables() -> dict[str, str]:
    """{name: value} of the environment variables that the workers of this process must have too."""
    return {name: os.environ[name] for name in _VARIABLES if name in os.environ}


def versions() -> dict[str, str]:
    """{package: version} of what decides rows."""
    return package_versions(_PACKAGES)


def size_of_image(path: Any) -> int | None:
    """Bytes of an image, a path or a `StoredImage`. None where it cannot be read."""
    try:
        source = path if isinstance(path, str | Path) else path.source()
        return len(source) if isinstance(source, bytes) else os.stat(source).st_size
    except (OSError, ValueError):
        return None


def look_around(
    task: PoolTask, mark: tuple[Path, str], images: list[tuple[Any, int]], expected: dict[str, str]
) -> list[str]:
    """What would keep this node from working for a task: problems, a line each.

    Args:
        task (PoolTask): what will be done.
        mark (Path, str): a file in OUT, and what the process that asks has written into it.
        images: (path or `StoredImage`, bytes) of some images, as that process sees them.
        expected (dict): its `versions()`.
    """
    file, content = mark
    folder = file.parent
    problems = []
    found = versions()
    if other := [
        f"{name} {found[name]} instead of {expected[name]}" for name in found if found[name] != expected[name]
    ]:
        problems.append(f"it has {', '.join(other)}: install the same versions everywhere")
    try:
        seen = read_text(file) == content
    except (OSError, ValueError):
        seen = False
    if not seen:
        problems.append(f"it does not see --output {folder}: give a folder on a file system that all nodes share")
    elif not os.access(folder, os.W_OK | os.X_OK):
        problems.append(f"it cannot write into --output {folder}: give a folder that all nodes may write")
    missing = [str(path) for path, size in images if size_of_image(path) != size]
    if missing:
        problems.append(f"it does not see the images, such as {missing[0]}: --data must be the same on all nodes")
    try:
        check_models(task)
    except (OSError, ValueError) as error:
        problems.append(str(error))
    return problems


class Starts:
    """Counts how often each shard was begun, in a process that no worker's death can reach."""

    def __init__(self) -> None:
        self.nodes: dict[int, list[str]] = {}

    def begin(self, shard: int, node: str) -> list[str]:
        """A worker begins a shard. Returns the names of the nodes on which it had been begun before."""
        begun = self.nodes.setdefault(shard, [])
        begun.append(node)
        return begun[:-1]


class ShardWorker:
    """Makes shards of one stage, and holds the model meanwhile.

    Args:
        work: reference to (StageFolder, [`ShardMaker`]). starts: handle of [`Starts`].
        environment (dict): see [`variables`]. threads (int): of torch.
    """

    def __init__(self, work: Any, starts: Any, environment: dict[str, str], threads: int) -> None:
        os.environ.update(environment)
        torch.set_num_threads(threads)
        disable_progress_bar()
        self.work, self.starts, self.node = work, starts, platform.node()
        self.folder: StageFolder | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make the shard of {"shard": number}.

        Returns:
            dict: "shard", and "kind" ("OSError", "ValueError" or "" for others) and "error", the text of what kept it
            from being made, or "".
        """
        shard = int(row["shard"])
        try:
            self._make(shard)
        except (OSError, ValueError) as error:
            kind = "OSError" if isinstance(error, OSError) else "ValueError"
            return {"shard": shard, "kind": kind, "error": f"{error} (on {self.node})"}
        except Exception:  # of any kind: whoever waits for the shard raises it
            name = self.folder.file(shard) if self.folder else f"shard {shard}"
            return {"shard": shard, "kind": "", "error": f"{name}, on {self.node}:\n{traceback.format_exc()}"}
        return {"shard": shard, "kind": "", "error": ""}

    def _make(self, shard):
        before = ray.get(self.starts.begin.remote(shard, self.node))
        if self.folder is None:
            self.folder, self.maker = ray.get(self.work)
        if self.folder.is_finished(shard):  # by a worker that died after it had written it
            return
        if len(before) >= MOST_DEATHS:
            raise ChildProcessError(
                f"{self.folder.file(shard)}: its worker died {len(before)} times, on {', '.join(before)}; for want of "
                f"memory, or by one of its {self.maker.content(shard)}; see the logs of Ray, give a smaller "
                "--batch-size, or take the image out"
            )
        if before:
            logger.warning("%s: its worker on %s died; it is made again", self.folder.file(shard), before[-1])
        self.folder.write(shard, *self.maker(shard))
