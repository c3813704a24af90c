"""What was chosen for the drawn world, for its shipped models and the quickstart. docs/scenes.md says why. Everything
else is a command's default. Plain Python, because `--help` shows some of it."""

from typing import Any

TRAIN_SCENES, SEMANTIC_STEPS, CACHE_VIEWS = 4000, 2400, 2
# Two cycles of the learning rate, (peak, warm-up, steps). In the second one, certain proposals of the first are
# objects too: what has no annotation because its name is novel is not learned as background.
LOCALIZATION = ((5e-4, 200, 2500), (4e-4, 100, 2000))
PSEUDO_BOX_SCORE = 0.4
POOL = {"--num-coarse": 180, "--num-fine": 360}
SHIFTS = {"--blur": 0.8, "--noise": 13}  # augmentation beyond the default
# Steps, rates, batch and views of the shipped semantic stream are those that `decodetr train` chooses.
SEMANTIC = {
    "--streams": "semantic",
    "--cache_features": "true",
    **SHIFTS,
    "--save_strategy": "no",
    "--report_to": "none",
    "--dataloader_pin_memory": "false",
    "--val-annotations": "none",
}
# The shipped model was trained before these were other defaults (docs/model.md).
DEFAULTS_THEN = ("region_channels=32", "semantic_dropout=0", "distill_at=query")
KEPT_REGIONS = {"--unkept-regions": "ignore"}
# Of runs that are compared, and of the quickstart, which is to be short.
SEMANTIC_TRAINING: dict[str, Any] = {
    **SEMANTIC,
    "--semantic_learning_rate": 4e-3,
    "--align_weight_start": 1,
    "--lr_scheduler_type": "cosine",
    "--warmup_steps": 50,
    "--per_device_train_batch_size": 8,
    "--per_device_eval_batch_size": 32,
}
