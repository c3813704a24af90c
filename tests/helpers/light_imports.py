"""Code for a fresh process: a command of decodetr that must import nothing heavy."""

PROBE = """
import sys
from decodetr.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
heavy = {"torch", "transformers", "numpy", "datasets", "PIL"} & set(sys.modules)
assert not heavy, heavy
"""
