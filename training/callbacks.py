"""What happens beside the steps of a training run."""

import copy
import json
from pathlib import Path

from transformers import TrainerCallback

from decodetr.pool_builder.drift import pool_drift


class PoolMomentum(TrainerCallback):
    """The momentum step of the pool, after each optimizer step, over all micro-batches and processes of the step; and
    pool_drift.json at the end: how far it went."""

    def __init__(self, trainer):
        self.trainer, self.before = trainer, copy.deepcopy(trainer.model.prototype_pool)

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.trainer.step_pool()

    def on_train_end(self, args, state, control, **kwargs):
        model = self.trainer.model
        if not state.is_world_process_zero or model.config.pool_update == "frozen" or args.streams == "localization":
            return
        drift = pool_drift(self.before, model.prototype_pool)
        text = json.dumps(drift, indent=1, ensure_ascii=False) + "\n"
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        (Path(args.output_dir) / "pool_drift.json").write_text(text, encoding="utf-8")
