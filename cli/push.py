"""`decodetr push`: a folder to the Hub."""

import argparse
import sys

from decodetr.utils.markup import one_line

_SHOWN = 6  # files and folders that stay


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `decodetr push`."""
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="folder of a model, a pool, a vocabulary or an exported model, with its card")
    add("repo_id", metavar="REPOSITORY", help="ACCOUNT/NAME, or NAME for your own account; made if missing")
    add("--private", action="store_true", help="make a new repository private (default: what the account does)")
    add("--revision", metavar="BRANCH", help="branch, made if missing (default: main)")
    add("--commit-message", metavar="TEXT", help="(default: 'Upload model', or what it is)")
    add(
        "--everything",
        action="store_true",
        help="send also files that nobody needs to load it, but no pickles, checkpoints and hidden files (default: "
        "what loading reads, the card, and what the card shows)",
    )
    add("--dry-run", action="store_true", help="check the folder and say what would be sent; send nothing")


def run(args: argparse.Namespace) -> int:
    """Run `decodetr push`. Returns the exit status."""
    from huggingface_hub.utils import validate_repo_id

    from decodetr.publishing.contents import contents
    from decodetr.publishing.push import push

    if args.dry_run:
        validate_repo_id(args.repo_id)
        found = contents(args.folder, args.everything)
        sys.stdout.write(f"{_sent(found)}{_left(found)}nothing was sent, as --dry-run says\n")
        return 0
    private, message = args.private or None, args.commit_message
    pushed = push(args.folder, args.repo_id, private, args.revision, message, everything=args.everything)
    found, commit = pushed.contents, pushed.commit[:8]
    sys.stdout.write(f"{_sent(found)}{_left(found)}{pushed.address} (commit {commit})\n")
    return 0


def _sent(found):
    names = ", ".join(map(one_line, found.sent))
    return f"{found.kind}: {len(found.sent)} files, {found.bytes / 2**20:.1f} MiB: {names}\n"


def _left(found):
    if not found.left:
        return ""
    more = f", ... ({len(found.left)})" if len(found.left) > _SHOWN else ""
    return f"stays here: {', '.join(map(one_line, found.left[:_SHOWN]))}{more}\n"
