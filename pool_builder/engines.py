"""Who makes the shards of a stage: this process, one after another, or the workers of a cluster (ray_engine.py)."""

from typing import Protocol

from decodetr.pool_builder.shard_makers import ShardMaker
from decodetr.pool_builder.shards import StageFolder


class Engine(Protocol):
    """Makes shards that are not there yet. What it makes is the same to the byte as what any other engine makes."""

    def run(self, folder: StageFolder, maker: ShardMaker) -> None:
        """Finish the pending shards of a stage.

        Args:
            folder (StageFolder): of the stage. maker ([`ShardMaker`]): makes them.
        """


class InProcess:
    """One shard after another in this process; of several processes that share a folder, those of its rank."""

    def run(self, folder: StageFolder, maker: ShardMaker) -> None:
        """See [`Engine`]."""
        for shard in folder.pending():
            title = f"{folder.stage}, shard {shard + 1} of {folder.count}" if folder.ranks.rank == 0 else None
            folder.write(shard, *maker(shard, title))


IN_PROCESS = InProcess()
