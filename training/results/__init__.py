"""What comes out of a training run.

output.py               what lies in its output folder already
identity.py, checkpoints.py   which run a checkpoint is of, and the one that a run goes on from
time_spent.py           how long it has trained
loggers.py, pictures.py, predictions.py   what loggers get besides numbers; what is kept of an evaluation
calibration.py          scores, calibrated after training
forgetting.py, learned.py   what it has gained or lost, and whether it learned at all
model_card.py, hub.py   the card of the model; what goes to the Hub
"""
