"""What a training run is told.

options.py              TrainOptions: what `decodetr train` takes besides the training arguments
arguments.py, own_arguments.py   DeCoDetrTrainingArguments, and the fields that are its own
fields.py               what each field is to a run: it decides the result, or its length, or neither
device.py               --device
metrics.py, early_stopping.py   which metric chooses the best checkpoint; when a run ends because of it
provenance.py           what a run may learn from, and the record of it
"""
