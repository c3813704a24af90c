"""The command `decodetr vocabulary build`: names in, a Vocabulary folder out (paper 2.7).

Heavy imports are inside the functions, so that `decodetr vocabulary build --help` is instant.
"""

import argparse
import sys
from pathlib import Path

from decodetr.cli.options import add_clip, add_device, add_output, add_overwrite
from decodetr.utils.documents import read_text
from decodetr.utils.files import claim, output_folder
from decodetr.utils.name_list import read_names
from decodetr.utils.outputs import apart, unwritten
from decodetr.utils.preflight import run_checks
from decodetr.utils.shipped import expect, resolve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `build` with its options to the parser of `decodetr vocabulary`."""
    commands = parser.add_subparsers(dest="vocabulary_command", required=True, metavar="{build}")
    build = commands.add_parser(
        "build",
        help="embed class names and write a vocabulary folder",
        description="Embed class names with the text encoder of a CLIP-like model. Write a vocabulary folder, for "
        "--vocabulary of the other commands.",
    )
    source = build.add_mutually_exclusive_group(required=True)
    source.add_argument("--names", help="""embed these names: 'cat,"salt, pepper"'""")
    source.add_argument("--names-file", help="embed the names in this file, one per line")
    source.add_argument(
        "--names-split", help='embed the names of this JSON file: {"base": {id: name}, "novel": {...}}'
    )
    source.add_argument("--annotations", help="embed the category names of this COCO file")
    build.add_argument(
        "--part", choices=("base", "novel", "all"), help="names of --names-split to embed (default: all)"
    )
    add_clip(
        build, "CLIP-like model that embeds: folder, Hub name or shipped name, such as scenes-clip", required=True
    )
    templates = build.add_mutually_exclusive_group()
    templates.add_argument(
        "--template",
        action="append",
        help="prompt with {} in place of the name; repeat the option to average several (default: 'a photo of a {}.')",
    )
    templates.add_argument("--templates-file", help="read prompts from this file, one per line")
    add_output(build, "write the vocabulary into this folder", required=True)
    add_overwrite(build)
    add_device(build)


def run(args: argparse.Namespace) -> int:
    """Run `decodetr vocabulary build`: embed, write, say what was written. Returns the exit code."""
    if args.part and not args.names_split:
        raise ValueError("--part chooses from a --names-split, which is not given")
    inputs = {"--names-file": args.names_file, "--names-split": args.names_split, "--annotations": args.annotations}
    inputs |= {"--clip": resolve(args.clip), "--templates-file": args.templates_file}
    written = ("vocabulary.json", "vocabulary.safetensors", "README.md")
    names, *_ = run_checks(
        lambda: _names(args),
        lambda: output_folder(args.output, "--output"),
        lambda: apart("--output", args.output, inputs, written),
        lambda: unwritten("--output", args.output, written, "decodetr vocabulary build", args.overwrite),
        lambda: expect("text model", args.clip, "config.json"),
    )
    with claim(args.output, "decodetr vocabulary build"):
        return _build(args, names)


def _build(args, names):
    from decodetr.inference.names import embed_names
    from decodetr.modeling_decodetr.vocabulary import describe_encoder

    templates = _lines(args.templates_file) if args.templates_file else args.template
    vocabulary = embed_names(names, args.clip, templates, args.device)
    vocabulary.save_pretrained(args.output)
    sys.stdout.write(
        f"{args.output}: {len(vocabulary)} names, d = {vocabulary.embedding_dim}, encoder "
        f"{describe_encoder(vocabulary.info)}\n"
    )
    return 0


def _names(args):
    """The names that the arguments ask for, each once."""
    if args.names_split:
        from decodetr.annotations.names_split import read_split

        base, novel = read_split(args.names_split)
        names = {"base": base, "novel": novel}.get(args.part, base + novel)
        if not names:
            raise ValueError(f"{args.names_split}: expected {args.part or 'base or novel'} names, got none")
        return list(dict.fromkeys(names))
    if args.annotations:
        from decodetr.annotations.coco_checks import read_categories, read_document

        file = Path(args.annotations)
        _, names = read_categories(file, read_document(file)["categories"])
        if not names:
            raise ValueError(f"{file}: expected categories, got none; give the names by --names or --names-file")
        return names
    return read_names(args.names, args.names_file)


def _lines(file):
    """The lines of a UTF-8 file that are not blank, or a ValueError if there are none."""
    lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{file}: expected one template a line, got none")
    return lines
