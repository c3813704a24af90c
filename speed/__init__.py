"""How long a model takes on this machine, beside its bare detector and beside other zero-shot detectors.

timing.py takes time of things in turn, machine.py says on what and how near its floor, families.py has our models of
random weights, contestants.py what is timed and peers.py those of transformers; bench.py runs, report.py shows.
"""
