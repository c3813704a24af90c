"""What a training run is made of. train.py is the run itself. Each folder uses those before it alone:

options/    what a run is told
data/       what it learns from
start/      the model that it starts with, and the space of its names
results/    what comes out of it
features/   cached features of a frozen detector
planning/   what it chooses itself, and what it will take
checks/     what is looked at before the first step

trainer.py              DeCoDetrTrainer
callbacks.py, ema.py    what it does between steps; averaged weights
streams.py, loss_terms.py   which stream learns what; the terms of the loss in the log
running_statistics.py, fsdp.py   several processes
searching.py            a search for hyper-parameters
"""
