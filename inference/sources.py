"""What `decodetr predict` reads: pictures, addresses and videos, from files, folders, lists and patterns."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from tqdm.auto import tqdm

from decodetr.inference.picture_files import find_images
from decodetr.inference.videos import VIDEO_SUFFIXES, is_live, is_video
from decodetr.utils.documents import read_text
from decodetr.utils.download import fetch, is_url
from decodetr.utils.files import replacing

_LIST = ".txt"
_LIST_BYTES = 256 << 20
DOWNLOADS = "downloads"


@dataclass
class Sources:
    """
    Args:
        pictures (list[Path]): files. addresses (dict[Path, str]): of those that are fetched into these files.
        videos (list[str]): files, streams and cameras.
    """

    pictures: list[Path] = field(default_factory=list)
    addresses: dict[Path, str] = field(default_factory=dict)
    videos: list[str] = field(default_factory=list)


def find_sources(sources: Iterable[str | Path], output: str | Path, allow_urls: bool = False) -> Sources:
    """
    Args:
        sources: files of pictures and videos, folders (with their sub-folders), glob patterns, text files (.txt) with
            a source in each line, http(s):// addresses of pictures or videos, streams (rtsp://...), "camera:0".
        output: folder into which pictures are fetched. What lies in it below a folder is no source.
        allow_urls (bool): addresses are accepted.

    Raises:
        FileNotFoundError: a source that does not exist, or holds nothing. ValueError: an address without `allow_urls`,
            or a list that is no text or names a list.
    """
    found, names = Sources(), []
    for source in _listed(sources):
        if is_url(source) or is_live(source):
            if not allow_urls and not source.startswith("camera:"):
                raise ValueError(f"{source}: addresses are read only with --allow-urls")
            if is_live(source) or PurePosixPath(urlsplit(source).path).suffix.lower() in VIDEO_SUFFIXES:
                found.videos.append(source)
            else:
                file = Path(output) / DOWNLOADS / _file_name(source)
                found.addresses[file] = source
                names.append(file)
        elif is_video(source) and Path(source).is_file():
            found.videos.append(source)
        else:
            names.append(source)
    local = [name for name in names if name not in found.addresses]
    files = find_images(local, output, VIDEO_SUFFIXES) if local else []
    found.pictures = [*(file for file in files if not is_video(file)), *found.addresses]
    found.videos = list(dict.fromkeys([*found.videos, *(str(file) for file in files if is_video(file))]))
    return found


def download(addresses: dict[Path, str]) -> dict[Path, str]:
    """Fetch what is not there yet. Returns {file: what went wrong}."""
    failed = {}
    for file, address in tqdm(addresses.items(), desc="downloads", disable=not addresses):
        if file.is_file():
            continue
        try:
            content = fetch(address)
        except (OSError, ValueError) as error:
            failed[file] = str(error)
            continue
        with replacing(file) as partial:
            partial.write_bytes(content)
    return failed


def _listed(sources):
    """The sources, and in the place of each list what stands in it. A path in a list begins at the list's folder, or
    where the command runs if nothing is there."""
    for source in map(str, sources):
        file = Path(source)
        if file.suffix.lower() != _LIST or not file.is_file():
            yield source
            continue
        lines = [line.strip() for line in read_text(file, _LIST_BYTES).splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        if not lines:
            raise ValueError(f"{file}: expected a source in each line, got none")
        for line in lines:
            if is_live(line):
                raise ValueError(f"{file}: {line}: cameras and streams are named in the command, not in a list")
            beside = file.parent / line
            if Path(line).suffix.lower() == _LIST and not is_url(line):
                raise ValueError(f"{file}: {line}: lists in lists are not read; name it in the command")
            yield str(beside) if not is_url(line) and beside.exists() else line


def _file_name(address):
    """A file name for an address: its own, and a digest that keeps addresses apart."""
    name = PurePosixPath(urlsplit(address).path)
    stem = re.sub(r"[^\w.-]", "_", name.stem)[:80].strip(".") or "picture"
    suffix = re.sub(r"[^\w.]", "", name.suffix)[:8] or ".jpg"
    return f"{stem}-{hashlib.sha256(address.encode()).hexdigest()[:8]}{suffix}"
