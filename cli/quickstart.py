"""`decodetr quickstart`: write scenes, train, evaluate and draw, in a few minutes on a CPU."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from decodetr.cli import main
from decodetr.cli.options import at_least
from decodetr.scenes.options import QuickstartOptions
from decodetr.utils.files import output_folder
from decodetr.utils.preflight import run_checks
from decodetr.utils.shipped import expect


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `decodetr quickstart`."""
    for setting in fields(QuickstartOptions):
        option = "--" + setting.name.replace("_", "-")
        if setting.type is bool:
            parser.add_argument(option, action="store_true", help=setting.metadata["help"])
            continue
        text = f"{setting.metadata['help']} (default: %(default)s)"
        parser.add_argument(option, type=setting.type, default=setting.default, help=text)


def run(args: argparse.Namespace) -> int:
    """Run `decodetr quickstart`. Returns the exit status."""
    options = QuickstartOptions(**{setting.name: getattr(args, setting.name) for setting in fields(QuickstartOptions)})

    run_checks(
        lambda: at_least(args, train_images=1, val_images=1, semantic_steps=1),
        lambda: output_folder(options.output, "--output"),
        lambda: expect("model", options.model, "config.json"),
        lambda: expect("CLIP", options.clip, "config.json"),
        lambda: expect("captioner", options.captioner, "config.json"),
    )
    from decodetr.scenes.quickstart import measured, quickstart
    from decodetr.utils.tables import markdown_tables

    if status := quickstart(options, main):
        return status
    output = Path(options.output)
    report = output / "report.html"
    tables = markdown_tables(measured(output))
    sys.stdout.write(f"\n{tables}\nLook at {report}, which shows everything, and {output / 'README.md'}.\n")
    return 0
