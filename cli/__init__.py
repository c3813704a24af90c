"""The `decodetr` command: names the subcommands and imports each only when it is called, so that --help is instant.

One file a command, which parses, calls and prints. Nothing outside this folder imports it. options.py has what several
commands share, parser.py what all of them understand, loudness.py -q and -v; recipe.py and train_help.py belong to
`decodetr train`.
"""

import importlib
import io
import os
import select
import sys
from collections.abc import Iterable
from types import ModuleType

from decodetr.cli.parser import CommandParser, complete, tell_old
from decodetr.utils.spelling import closest

# name: module with add_arguments(parser) and run(args), what it does
COMMANDS = {
    "quickstart": (
        "decodetr.cli.quickstart",
        "draw a small data set, train on it, evaluate and detect, in a few minutes on a CPU",
    ),
    "build": ("decodetr.cli.build", "make any detector open-vocabulary, from photos, in one command"),
    "scenes": ("decodetr.cli.scenes", "make the drawn scenes, their small CLIP and LLaVA, and measure models on them"),
    "vocabulary": ("decodetr.cli.vocabulary", "embed class names with the text encoder of a CLIP-like model"),
    "pool": ("decodetr.cli.pool", "build a prototype pool from region proposals, captions and CLIP; inspect one"),
    "validate": ("decodetr.cli.validate", "find errors in a data set before training, and repair a copy"),
    "train": ("decodetr.cli.train", "train or fine-tune a model on annotated images"),
    "eval": ("decodetr.cli.eval", "evaluate a model on annotated images"),
    "calibrate": ("decodetr.cli.calibrate", "calibrate the scores of a model on annotated images"),
    "predict": ("decodetr.cli.predict", "detect objects in images"),
    "export": ("decodetr.cli.export", "write a model for ONNX Runtime, OpenVINO or torch.export, and check it"),
    "bench": ("decodetr.cli.bench", "measure how long models take here, beside other zero-shot detectors"),
    "serve": ("decodetr.cli.serve", "answer requests for detections over HTTP"),
    "push": ("decodetr.cli.push", "send a model, a pool, a vocabulary or an exported model to the Hub"),
    "demo": ("decodetr.cli.demo", "try a model in the browser: drop a picture, type names"),
    "card": ("decodetr.cli.card", "make or renew the card (README.md) of a model, pool, vocabulary or export"),
    "info": ("decodetr.cli.info", "say what a model is, knows and learned from, and how fast it is here"),
}

_CLOSED_PIPE = 141  # 128 + SIGPIPE, as shells report it

_AFTER = (
    "`decodetr COMMAND --help` describes the arguments of a command.",
    "`decodetr --version --verbose` prints what a bug report needs.",
)


def usage() -> str:
    """The text of `decodetr --help`."""
    lines = [
        "usage: decodetr COMMAND [arguments]",
        "",
        "DeCo-DETR: open-vocabulary object detection.",
        "",
        "commands:",
    ]
    lines += [f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join([*lines, "", *_AFTER, ""])


def command_parser(name: str) -> tuple[ModuleType, CommandParser]:
    """(module, [`CommandParser`]) of a command."""
    module_name, description = COMMANDS[name]
    module = importlib.import_module(module_name)
    parser = CommandParser(prog=f"decodetr {name}", description=description)
    module.add_arguments(parser)
    parser.more_help = getattr(module, "more_help", None)
    complete(parser)
    return module, parser


def _version(words):
    """`decodetr --version`, and with --verbose what a bug report needs."""
    if unknown := [word for word in words if word not in ("--verbose", "-v")]:
        sys.stderr.write(f"decodetr --version: expected --verbose or nothing, got {' '.join(unknown)}\n")
        return 2
    from decodetr.utils.versions import environment, version_line

    sys.stdout.write(environment() if words else version_line())
    return 0


def main(argv: Iterable[str] | None = None) -> int:
    """Run a subcommand. Returns its exit status. Errors that a user can cause are printed without a traceback.
    Where nobody reads the output any more (`decodetr ... | head`), it ends without a word, as other programs do."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        status = _run(argv)
        sys.stdout.flush()  # here, where a closed pipe is caught, and not when Python ends
    except BrokenPipeError as error:
        if _reader_gone():
            return _CLOSED_PIPE
        sys.stderr.write(f"decodetr {argv[0]}: error: {error}\n")  # another pipe, of a process that has ended
        return 1
    return status


def _reader_gone():
    """Whether standard output has no reader. What it still holds is dropped then."""
    if not isinstance(sys.stdout, io.TextIOWrapper) or not hasattr(select, "poll"):  # Windows has none
        return False
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if not output.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _run(argv):
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console of another encoding, a file name that is no UTF-8
            stream.reconfigure(errors="backslashreplace")
    if (encoding := sys.getfilesystemencoding()) != "utf-8":
        sys.stderr.write(
            f"decodetr: file names and words are read as {encoding} here, so those with letters outside of ASCII are "
            "not found or refused; set PYTHONUTF8=1\n"
        )
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        return _version(argv[1:])
    if argv[0] not in COMMANDS:
        near = closest(argv[0], [*COMMANDS, "--help", "--version"])
        sys.stderr.write(f"decodetr: unknown command {argv[0]!r}{near}\n\n{usage()}")
        return 2
    from decodetr.cli.loudness import loudness
    from decodetr.cli.options import own_variables

    module, parser = command_parser(argv[0])
    try:
        with own_variables():
            args, rest = parser.parse_known_args(argv[1:])
            if argv[0] == "train":  # the rest are fields of TrainingArguments
                args.training_arguments, args.words = rest, argv[1:]
            elif rest:
                parser.refuse(rest, args)
            said = vars(args)
            with loudness(said.pop("quiet", False), said.pop("verbose", False)):
                tell_old(word for word in argv if word.startswith("--"))
                return module.run(args) or 0
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        from decodetr.utils.markup import visible

        sys.stderr.write(f"decodetr {argv[0]}: error: {visible(error)}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"decodetr {argv[0]}: interrupted\n")
        return 130
