"""Which regions are of other pictures than data have under the same image ids.

In many forms of data an image id is the number of a sorted file or of a row: with one picture more or less, all later
pictures get the ids of others. So names of files are compared too. Folders may be called otherwise than when the
regions were made, as data are moved and annotation files leave folders out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from decodetr.annotations.written_paths import spelling_key

Pair = tuple[int, str, str]  # image id, name of the file of the regions, name of the file in the data


def alike(there: str, here: str) -> bool:
    """Whether two names can be of one file whatever folder they are written from: one path ends in the other. Numbers
    of rows, of pictures that have no name, tell nothing."""
    if there == here:
        return True
    parts = [spelling_key(name).split("/") for name in (there, here)]
    shorter = min(map(len, parts))
    return parts[0][-shorter:] == parts[1][-shorter:] or there.isdecimal() or here.isdecimal()


def other_pictures(
    pairs: Iterable[Pair], all_there: Callable[[], Iterable[str]], all_here: Callable[[], Iterable[str]]
) -> list[Pair]:
    """
    The pairs whose regions are of another picture.

    Args:
        pairs (iterable): of the images that have regions. all_there, all_here: give the names of all images with
            regions, and of all images of the data.
    """
    unlike = [pair for pair in pairs if not alike(*pair[1:])]
    if not unlike:
        return []
    # A file of the same name in another folder: the folder has been renamed, unless either path is still one of
    # another image.
    known_there, known_here = ({spelling_key(name) for name in names()} for names in (all_there, all_here))

    def renamed(there, here):
        there, here = spelling_key(there), spelling_key(here)
        same_file = there.rpartition("/")[2] == here.rpartition("/")[2]
        return same_file and there not in known_here and here not in known_there

    return [pair for pair in unlike if not renamed(*pair[1:])]
