"""`decodetr card`: the README.md of a model, a pool, a vocabulary or an exported model, from what its folder holds."""

import argparse
import sys

from decodetr.cli.options import add_overwrite


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `decodetr card`."""
    add = parser.add_argument
    add("source", metavar="FOLDER", help="a model, a pool, a vocabulary or an exported model; or a shipped name")
    add(
        "--results",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="report.json of `decodetr eval --output`, of this model; each data set becomes a table and results of "
        "the Hub's model-index",
    )
    add("--name", metavar="OWNER/NAME", help="where it lies, or will lie, on the Hub; the snippets load it from there")
    add("--license", metavar="ID", help="license of the weights or tables, as the Hub spells it, such as apache-2.0")
    add("--license-name", metavar="NAME", help="with --license other: its name")
    add("--license-link", metavar="URL", help="with --license other: where it can be read")
    add("--output", metavar="FILE", help="write the card, and renew the one that is there (default: print it)")
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Run `decodetr card`. Returns the exit status."""
    from pathlib import Path

    from decodetr.cards.model_card import License
    from decodetr.cards.renewal import CARD, CardOptions, card_of
    from decodetr.utils.card_leftovers import card_leftovers
    from decodetr.utils.files import write_text
    from decodetr.utils.markup import one_line

    if (args.license_name or args.license_link) and args.license != "other":
        raise ValueError("--license-name and --license-link go with --license other")
    output = args.output
    if output and Path(output).is_dir():
        output = str(Path(output, CARD))
    options = CardOptions(
        source=args.source,
        results=args.results,
        name=args.name,
        license=License(id=args.license, name=args.license_name, link=args.license_link),
        old=output if output and Path(output).is_file() else None,
        overwrite=args.overwrite,
    )
    text, kept = card_of(options)
    if output:
        write_text(output, text)
    else:
        sys.stdout.write(text)
    for heading in kept:
        sys.stderr.write(
            f"kept as somebody wrote it: {one_line(heading)}; delete it to get decodetr's own (--overwrite does so "
            "where decodetr wrote it first)\n"
        )
    for leftover in card_leftovers(text):
        sys.stderr.write(f"before it is published: {one_line(leftover)}\n")
    return 0
