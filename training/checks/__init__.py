"""What a training run looks at before its first step.

preflight.py            all checks before data and model are read
pairs.py                options that are of no use together
environment.py          whether this machine has what the arguments ask for
crowded.py              pictures of more objects than can be found in them
trainer_data.py         what the Trainer asks of its data sets
"""
