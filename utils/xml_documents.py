"""The one reader of XML that somebody else wrote: no entities, no document types, nothing from elsewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from decodetr.utils.files import regular_file

if TYPE_CHECKING:
    from pathlib import Path
    from xml.etree.ElementTree import Element

_ROOT = re.compile(rb"<([A-Za-z_][\w.-]*)[\s/>]")
_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)


def read_xml(file: str | Path, root: str, most: int | None = None) -> Element:
    """The root element of an XML file.

    Args:
        file (`str` or `Path`). root (`str`): the tag that it must have.
        most (`int`, *optional*): bytes. Default [`decodetr.utils.files.max_bytes`].

    Raises:
        FileNotFoundError: no such file. ValueError: no regular file, too large, no XML, entities or a document type,
            or another root. The message names the file.
    """
    try:
        found = fromstring(regular_file(file, most).read_bytes(), forbid_dtd=True)
    except ParseError as error:
        raise ValueError(f"{file}: expected XML, got: {error}; it may be cut off: write it again") from error
    except DefusedXmlException as error:
        raise ValueError(
            f"{file}: {error}; entities and document types are not read, take them out: no annotation tool writes them"
        ) from error
    except (LookupError, ValueError) as error:  # an encoding that the parser does not have
        where = "" if str(file) in str(error) else f"{file}: "
        raise ValueError(f"{where}{error}") from error
    if found.tag != root:
        raise ValueError(f"{file}: expected the root element <{root}>, got <{found.tag!s:.80}>")
    return found


def root_tag(head: bytes) -> str:
    """The tag of the root element of a file that begins with these bytes. Empty where it is no XML."""
    if not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return ""
    found = _ROOT.search(_COMMENT.sub(b"", head))
    return found[1].decode() if found else ""
