"""The command `decodetr vocabulary build`: names in, a Vocabulary folder out (paper 2.7).

Heavy imports are inside the functions, so that `decodetr vocabulary build --help` is instant.
"""

import argparse
import sys
from pathlib import Path

from decodetr.cli.options import add_clip, add_device, add_output, add_overwrite
from decodetr.utils.documents import read_text
from decodetr.utils.excerpts import some_of
from decodetr.utils.files import claim, output_folder
from decodetr.utils.name_list import read_prompts
from decodetr.utils.outputs import apart, unwritten
from decodetr.utils.preflight import run_checks
from decodetr.utils.shipped import expect, resolve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `build` with its options to the parser of `decodetr vocabulary`."""
    commands = parser.add_subparsers(dest="vocabulary_command", required=True, metavar="{build}")
    build = commands.add_parser(
        "build",
        help="embed class names and write a vocabulary folder",
        description="Embed class names, or example images of things, with a CLIP-like model. Write a vocabulary "
        "folder, for --vocabulary of the other commands.",
    )
    source = build.add_mutually_exclusive_group()
    source.add_argument(
        "--names", help="""embed these names: 'cat,"salt, pepper"', or those of a .txt or .json file"""
    )
    source.add_argument(
        "--names-file",
        help="embed the names in this file, one per line. 'name: prompt; prompt' embeds other texts for a name, the "
        "mean of them; so does a .json file with {name: prompt or list of prompts}",
    )
    source.add_argument(
        "--names-split", help='embed the names of this JSON file: {"base": {id: name}, "novel": {...}}'
    )
    source.add_argument(
        "--annotations", help="embed the category names of this COCO file; with --images, what its boxes show"
    )
    build.add_argument(
        "--images",
        metavar="DIR",
        help="embed example images instead of words: a folder with a sub-folder of pictures for each name, or the "
        "image folder of --annotations. Names of --names and the others are embedded too",
    )
    measured = build.add_mutually_exclusive_group()
    measured.add_argument(
        "--pool",
        help="with --images, pool of the detector, which says where images and texts of the text model lie: folder, "
        "Hub name or shipped name",
    )
    measured.add_argument("--model", help="with --images, take the pool of this DeCo-DETR")
    build.add_argument(
        "--most", type=int, metavar="N", help="with --images, use at most this many examples of a name (default: all)"
    )
    build.add_argument(
        "--synonyms",
        action="store_true",
        help="with --annotations, embed the mean over the synonyms of each category, as LVIS has them",
    )
    build.add_argument(
        "--keep-underscores",
        action="store_true",
        help="embed names with their underscores (default: with spaces instead; the names stay as they are)",
    )
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
    _check(args)
    inputs = {"--names-file": args.names_file, "--names-split": args.names_split, "--annotations": args.annotations}
    inputs |= {"--images": args.images, "--templates-file": args.templates_file}
    inputs |= {"--clip": resolve(args.clip)}
    inputs |= {option: resolve(name) for option, name in (("--pool", args.pool), ("--model", args.model)) if name}
    written = ("vocabulary.json", "vocabulary.safetensors", "README.md")
    names, *_ = run_checks(
        lambda: _names(args),
        lambda: output_folder(args.output, "--output"),
        lambda: apart("--output", args.output, inputs, written),
        lambda: unwritten("--output", args.output, written, "decodetr vocabulary build", args.overwrite),
        lambda: expect("text model", args.clip, "config.json"),
        lambda: expect("pool", args.pool, "pool.json"),
        lambda: expect("model", args.model, "config.json"),
    )
    with claim(args.output, "decodetr vocabulary build"):
        return _build(args, names)


def _check(args):
    """ValueError for options that do not go together."""
    if args.part and not args.names_split:
        raise ValueError("--part chooses from a --names-split, which is not given")
    if args.synonyms and (args.images or not args.annotations):
        raise ValueError("--synonyms are those of --annotations FILE, embedded as texts: give that, without --images")
    if not (args.names or args.names_file or args.names_split or args.annotations or args.images):
        raise ValueError(
            "give names: --names, --names-file, --names-split, --annotations, or examples by --images DIR"
        )
    if args.images and not (args.pool or args.model):
        raise ValueError(
            "--images needs --pool or --model, of the detector that the names are for: its pool says how far images "
            "lie from texts"
        )
    if not args.images and (alone := [o for o in ("pool", "model", "most") if getattr(args, o) is not None]):
        raise ValueError(f"--{alone[0]} goes with --images DIR, which is not given")
    if args.most is not None and args.most < 1:
        raise ValueError(f"--most must be at least 1, got {args.most}")


def _build(args, names):
    from decodetr.inference.names import embed_names
    from decodetr.modeling_decodetr.vocabulary import describe_encoder

    templates, vocabulary, said = _lines(args.templates_file) if args.templates_file else args.template, None, []
    if names:
        vocabulary = embed_names(names, args.clip, templates, args.device, not args.keep_underscores)
        if own := vocabulary.info.get("prompts"):
            others = [f"{name!r} as {' and '.join(map(repr, some))}" for name, some in own.items()]
            said.append(f"{len(own)} of them by other texts: {some_of(others, 3, str)}")
    if args.images:
        shown = _embed_examples(args)
        said.append(f"{len(shown)} of them by {sum(shown.info['examples'].values())} example images")
        vocabulary = shown if vocabulary is None else vocabulary.joined(shown)
    vocabulary.save_pretrained(args.output)
    sys.stdout.write(
        f"{args.output}: {len(vocabulary)} names, d = {vocabulary.embedding_dim}, encoder "
        f"{describe_encoder(vocabulary.info)}\n" + "".join(f"{line}\n" for line in said)
    )
    return 0


def _embed_examples(args):
    """The Vocabulary of --images."""
    from decodetr.inference.examples import examples_of_boxes, examples_of_folders
    from decodetr.inference.loading import load_model
    from decodetr.inference.names import embed_examples
    from decodetr.utils.shipped import load_pool

    pool = load_pool(args.pool) if args.pool else load_model(args.model, device="cpu")[0].prototype_pool
    if args.annotations:
        from decodetr.annotations.sources import load_annotations

        examples = examples_of_boxes(load_annotations(None, "val", args.annotations, args.images), args.most)
    else:
        examples = examples_of_folders(args.images, args.most)
    return embed_examples(examples, args.clip, pool, args.device)


def _names(args):
    """{name: its texts} of the names that the arguments ask for, each once. None where there are examples alone."""
    if args.names_split:
        from decodetr.annotations.names_split import read_split

        base, novel = read_split(args.names_split)
        names = {"base": base, "novel": novel}.get(args.part, base + novel)
        if not names:
            raise ValueError(f"{args.names_split}: expected {args.part or 'base or novel'} names, got none")
        return {name: [name] for name in names}
    if args.annotations and not args.images:
        from decodetr.annotations.coco_checks import read_categories, read_document

        file = Path(args.annotations)
        entries = read_document(file)["categories"]
        _, names = read_categories(file, entries)
        if not names:
            raise ValueError(f"{file}: expected categories, got none; give the names by --names or --names-file")
        return _synonyms(file, entries) if args.synonyms else {name: [name] for name in names}
    return read_prompts(args.names, args.names_file)


def _synonyms(file, entries):
    """{name: its synonyms with spaces instead of underscores, and without what LVIS adds in brackets}."""
    found = {}
    for entry in sorted(entries, key=lambda entry: entry["id"]):
        words = entry.get("synonyms")
        if not isinstance(words, list) or not words or not all(isinstance(word, str) and word for word in words):
            raise ValueError(
                f"{file}: expected a list of texts as synonyms of the category {entry['name']!r}, got {words!r}; "
                "leave --synonyms out"
            )
        found[entry["name"]] = [word.split("_(")[0].replace("_", " ") for word in words]
    return found


def _lines(file):
    """The lines of a UTF-8 file that are not blank, or a ValueError if there are none."""
    lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{file}: expected one template a line, got none")
    return lines
