"""What the benchmarks share: config files, and lines and Markdown tables of a report. Timing in turn and the machine
are in speed/, with which `decodetr bench` measures.
"""

import sys


def read_config(file) -> dict:
    """Fields of a DeCoDetrConfig from a YAML or JSON file, read as `decodetr train` does."""
    from decodetr.utils.yaml_documents import read_yaml

    return read_yaml(file, dict)


def say(text=""):
    """A line of the report, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(header, rows) -> str:
    """A Markdown table for a terminal: first column to the left, numbers to the right."""
    from decodetr.utils.tables import markdown_table

    return markdown_table(header, rows, escape=False)
