"""What a command writes is never what it reads, and never replaces what somebody else wrote."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path


def apart(
    option: str,
    output: str | Path | None,
    inputs: Mapping[str, str | Path | list | tuple | None],
    written: Collection[str] | None = None,
) -> None:
    """Refuse an output that lies where the inputs do, before any work.

    Args:
        option (`str`): of the output, for the message, such as "--output".
        output (`str`, `Path` or None): folder or file that will be written.
        inputs (`dict`): what names an input -> its path or list of paths. Those that are None, or no local file or
            folder, cannot be overwritten.
        written (collection of `str`, *optional*): names of the files that are written into the folder `output`. An
            input file in it is refused if it is one of them. Default: any name can be written.

    Raises:
        ValueError: an input is the output, or would be replaced by a file in it.
    """
    if output is None:
        return
    place = _place(output)
    for name, paths in inputs.items():
        for path in paths if isinstance(paths, list | tuple) else [paths]:
            if path is None or not os.path.exists(path):
                continue
            read = _place(path)
            inside = os.path.isfile(path) and _same(read.parent, place)
            if _same(read, place) or (inside and (written is None or read.name in written)):
                raise ValueError(
                    f"{option} {output}: {name} reads {path}, which would be written over; give another {option}"
                )


def unwritten(
    option: str,
    output: str | Path | None,
    files: Sequence[str],
    command: str,
    overwrite: bool = False,
    ours: Callable[[Path], bool] = Path.exists,
) -> None:
    """Refuse a folder that has what a command would write, before any work. Other files in it stay as they are.

    Args:
        option (`str`): of the output, for the message, such as "--output".
        output (`str`, `Path` or None): folder that will be written.
        files (sequence of `str`): names of the files that are written into it, the one first that the others go with.
        command (`str`): that asks, such as "decodetr eval".
        overwrite (`bool`): replace what the command itself wrote.
        ours (function, *optional*): whether the first file was written by the command. Default: it is there.

    Raises:
        ValueError: the output is finished, or one of the files is somebody else's, which `overwrite` does not change.
    """
    there = [Path(output, name) for name in files if output is not None and os.path.lexists(Path(output, name))]
    if not there:
        return
    if not ours(Path(str(output), files[0])):
        raise ValueError(
            f"{option} {output}: `{command}` would replace {there[0]}, which it did not write; give another {option}"
        )
    if not overwrite:
        raise ValueError(
            f"{option} {output} has the result of an earlier `{command}`; give --overwrite to replace it, or another "
            f"{option}"
        )


def unwritten_file(option: str, output: str | Path | None, overwrite: bool = False) -> None:
    """As [`unwritten`], of a command whose output is one file."""
    if output is not None and os.path.lexists(output) and not overwrite:
        raise ValueError(f"{option} {output} is there; give --overwrite to replace it, or another {option}")


def _place(path):
    return Path(os.path.realpath(path))


def _same(one, other):
    """Whether two paths are one place, on file systems too that do not tell upper and lower case apart."""
    return one == other or (one.exists() and other.exists() and os.path.samefile(one, other))
