"""How long a model takes on this machine, beside its bare detector and beside other zero-shot detectors.

timing.py takes time of things in turn, machine.py says on what and how near its floor, catalog.py has our models of
random weights, contestants.py what is timed, ways.py in which ways, and peers.py the models of transformers; bench.py
runs, report.py shows.
"""
