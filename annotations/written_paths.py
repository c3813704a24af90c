"""Files that an annotation file names in another spelling than the disk.

Annotations move between systems: backslashes, `train/0.jpg` for a file of the folder train/, %20 for a space,
decomposed accents of macOS, another case. Where one file and no other can be meant, it is taken, and said.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from decodetr.utils.paths import file_names, files_below


def find_written(folder: str | Path, names: Iterable[str]) -> dict[str, str]:
    """
    The files that names mean which are written in another spelling.

    Args:
        folder (str or Path): where they should be. Its sub-folders are looked through too.
        names (iterable of str): all names of one annotation file or list.

    Returns:
        dict: name -> path relative to `folder`, for names that are no path of a file there, but can only be that one.
    """
    names = list(dict.fromkeys(names))
    missing = missing_files(folder, names)
    if not missing or not os.path.isdir(folder):
        return {}
    paths = {}
    for path in files_below(folder, strict=False):
        path = os.path.relpath(path, folder)
        paths.setdefault(spelling_key(path), []).append(path)
    found = {name: match for name in missing if (match := _match(name, paths)) is not None}
    own = unicodedata.normalize("NFC", os.path.basename(os.path.abspath(folder))).casefold()
    beyond = {above for above, _ in found.values()} - {""}
    if len(beyond) > 1:  # of several folders above only the folder itself may be left out
        found = {name: (above, path) for name, (above, path) in found.items() if above.split("/")[-1] in ("", own)}
    taken = Counter(path for _, path in found.values())
    taken.update(os.path.normpath(name) for name in set(names) - set(missing))
    return {name: path for name, (_, path) in found.items() if taken[path] == 1}


def missing_files(folder: str | Path, names: Iterable[str]) -> list[str]:
    """The names that are no path of a file in a folder, in their order. Each folder is listed once."""
    listings, missing = {}, []
    for name in names:
        place, file = os.path.split(os.path.join(folder, name))
        if place not in listings:
            listings[place] = file_names(place)
        if file not in listings[place]:
            missing.append(name)
    return missing


def spelling_key(path: str) -> str:
    """What all spellings of a path have in common."""
    parts = unquote(path).replace("\\", "/").split("/")
    return unicodedata.normalize("NFC", "/".join(part for part in parts if part not in ("", "."))).casefold()


def _match(name, paths):
    """(folders in front that the name has too many, path) of the only file that can be meant, or None."""
    parts = spelling_key(name).split("/")
    for place in range(len(parts)):
        if found := paths.get("/".join(parts[place:])):
            return ("/".join(parts[:place]), found[0]) if len(found) == 1 else None
    return None
