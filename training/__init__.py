"""What a training run is made of. train.py is the run itself.

options.py, arguments.py, fields.py   TrainOptions, DeCoDetrTrainingArguments, and what each field is to a run
preflight.py, pairs.py, environment.py, space.py, trial.py, metrics.py, trainer_data.py   checks before the first step
starting_point.py, timm_backbone.py   the model that a run starts with
data.py, weak_labels.py, self_regions.py, replay.py, names.py   what it learns from
choices.py, chosen.py   what is chosen where nobody says it
trainer.py, searching.py   DeCoDetrTrainer
dataloading.py, streams.py, callbacks.py, ema.py, fsdp.py, memory.py   what it needs
feature_cache.py, feature_building.py, feature_shards.py   cached features of a frozen detector
feature_coding.py, quantization.py   which take fewer bits
pictures.py, predictions.py   what is kept of an evaluation
checkpoints.py, identity.py   which run a checkpoint is of
calibration.py          scores, calibrated after training
forgetting.py, learned.py, space_report.py   what a run has gained, lost, or cannot learn
provenance.py, model_card.py   what it may learn from, and the record of it
hub.py                  what goes to the Hub, and its card
"""
