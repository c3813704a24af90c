"""Names as a user writes them, on a command line or in a file."""

import csv
from pathlib import Path

from decodetr.utils.documents import read_text


def read_names(text: str | None = None, file: str | Path | None = None) -> list[str] | None:
    """Names of `--names` (comma-separated, CSV quotes around names with commas) or of `--names-file` (one a line).

    Returns None where neither is given. Repeated names are taken once, in their first place.

    Raises:
        ValueError: both given, or no name in them.
    """
    if text is not None and file is not None:
        raise ValueError("give --names or --names-file, not both")
    if file is not None:
        names = read_text(file).splitlines()
    elif text is not None:
        try:
            names = [name for row in csv.reader([text], skipinitialspace=True, strict=True) for name in row]
        except csv.Error as error:
            raise ValueError(
                f"--names {text!r}: expected names with commas between them, and double quotes around a name with a "
                f"comma, such as 'cat,\"salt, pepper\"'; got: {error}"
            ) from error
    else:
        return None
    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not names:
        raise ValueError(f"no names in {f'{file}' if file is not None else f'--names {text!r}'}")
    return names
