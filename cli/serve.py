"""The command `decodetr serve`: a model behind HTTP.

Heavy imports are inside the functions, so that `decodetr serve --help` is instant.
"""

import argparse
import sys

from decodetr.cli.options import (
    add_clip,
    add_device,
    add_picture_limit,
    add_threshold,
    add_vocabulary,
    asked_names,
    at_least,
)
from decodetr.serving.settings import ServeSettings
from decodetr.utils.preflight import require_package, run_checks
from decodetr.utils.shipped import DEFAULT_MODEL, expect

_DEFAULTS = ServeSettings()
_PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
_LIMITS = {
    "batch_size": "images that go through the model at once, if they wait",
    "max_wait_ms": "milliseconds that an image waits for others while the model has nothing to do",
    "max_queue": "images that are let in and not answered yet; beyond these a request gets 429",
    "max_images": "images of a request",
    "max_names": "names of a request",
    "top_k": "detections to keep per image, where a request says no number",
    "max_top_k": "detections per image that a request may ask for",
    "max_body_bytes": "bytes of a request",
    "kept_names": "names of earlier requests that are kept",
    "workers": "threads that decode images",
    "body_seconds": "seconds that the body of a request may take to arrive",
    "shutdown_seconds": "seconds that answers may take that are on their way when the server is told to end",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `decodetr serve`."""
    add = parser.add_argument
    add(
        "--model",
        default=DEFAULT_MODEL,
        help="folder, Hub name or shipped name of a DeCo-DETR, or what `decodetr export` wrote, which needs no torch "
        f"(default: {DEFAULT_MODEL}, which knows drawn scenes only)",
    )
    add("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: all of this machine (default: 127.0.0.1)")
    add("--port", type=int, default=8000, help="port to listen at; 0: a free one (default: 8000)")
    add(
        "--names",
        help="""look for these names where a request says none: 'cat,"salt, pepper"'. pool: all that the pool of the
        model speaks of (default: all names of the model)""",
    )
    add("--names-file", help="look for the names in this file, one per line, where a request says none")
    add_vocabulary(parser)
    add_clip(parser)
    add("--no-new-names", action="store_true", help="refuse names without a stored embedding (default: embed them)")
    add_threshold(parser)
    add_device(parser)
    add("--threads", type=int, help="threads of the model on the CPU (default: its own choice)")
    for name, text in _LIMITS.items():
        default = getattr(_DEFAULTS, name)
        option = "--" + name.replace("_", "-")
        add(option, type=type(default), default=default, metavar="N", help=f"{text} (default: {default:,})")
    add_picture_limit(parser)
    add("--access-log", action="store_true", help="print a line for each request (default: none)")
    add(
        "--allow-host",
        action="append",
        metavar="NAME",
        help="take requests for this host name, too, where --host is a loopback address, as of a proxy that passes "
        "its own name on; repeat it for more (default: localhost, 127.0.0.1, [::1])",
    )
    add(
        "--allow-origin",
        action="append",
        metavar="ADDRESS",
        help="let scripts of web pages at this address, such as https://example.org, read answers; repeat it for more "
        "(default: none)",
    )


def run(args: argparse.Namespace) -> int:
    """Load the model, answer requests until a signal, and what is let in by then."""
    at_least(args, threads=1)
    settings, names, *_ = run_checks(
        lambda: _settings(args),
        lambda: asked_names(args),
        _check_packages,
        lambda: _check_model(args),
        lambda: expect("vocabulary", args.vocabulary, "vocabulary.json"),
        lambda: expect("text model", args.clip, "config.json"),
    )
    from decodetr.serving.server import Server, address_of, bind

    with bind(args.host, args.port) as bound:
        engine = _engine(args, names, settings)

        def tell():
            sys.stdout.write(f"{_chosen(engine.facts(), settings)}\n{address_of(bound)}  (/docs says how to ask)\n")
            sys.stdout.flush()

        server = Server(engine, settings, tell, access_log=args.access_log)
        server.run_on(bound)
    sys.stdout.write("ended: all that was let in has been answered\n")
    return 0


def _check_model(args):
    """Check that a model can be there, and runs on the device."""
    from decodetr.runtime.description import find_export
    from decodetr.runtime.providers import providers_of
    from decodetr.utils.devices import pick_device

    if find_export(args.model) is None:
        expect("model", args.model, "config.json")
        pick_device(args.device)
        return
    providers_of(args.model, args.device)
    if args.clip:
        raise ValueError(f"--clip: {args.model} is exported, and embeds no names; give the model itself")


def _engine(args, names, settings):
    """The model, loaded."""
    from decodetr.runtime.description import find_export

    if find_export(args.model) is not None:  # before torch is imported, which it does without
        from decodetr.inference.exported_model import ExportedModel
        from decodetr.runtime.providers import providers_of
        from decodetr.serving.exported_engine import ExportedEngine

        providers = providers_of(args.model, args.device)
        exported = ExportedModel(args.model, names, args.vocabulary, providers, args.threads)
        return ExportedEngine(exported.detector, args.model, settings.kept_names)
    import torch

    from decodetr.inference.loading import load_model
    from decodetr.serving.model_engine import ModelEngine

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    model, image_processor = load_model(args.model, args.vocabulary, names, args.device, args.clip)
    return ModelEngine(model, image_processor, args.model, args.clip, settings.kept_names)


def _check_packages():
    for package in _PACKAGES:
        require_package(package, "decodetr serve", "'decodetr[serve]'")


def _settings(args):
    given = {name: getattr(args, name) for name in _LIMITS}
    return ServeSettings(
        **given,
        threshold=args.threshold,
        new_names=not args.no_new_names,
        hosts=tuple(args.allow_host or ()),
        origins=tuple(args.allow_origin or ()),
    )


def _chosen(facts, settings):
    """What is served, and how, for people."""
    names, threads = facts["names"], facts.get("threads")
    more = f", others by {facts['text_model']}" if settings.new_names and facts["text_model"] else ""
    least = facts["threshold"] if settings.threshold is None else settings.threshold
    at_work = f", {threads} thread{'s' * (threads > 1)}" if threads else ""
    return (
        f"{facts['model']}: {len(names):,} names{more}; threshold {least:g}; {facts['device']}"
        f"{at_work}; batches of {settings.batch_size}, {settings.max_wait_ms:g} ms "
        f"apart; at most {settings.max_queue} images at once"
    )
