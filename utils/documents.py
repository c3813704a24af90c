"""The one reader of JSON, YAML and text that somebody else wrote.

Everything that a file can do to its reader is an error that names the file: no regular file, too many bytes, another
encoding, a depth that no data have, aliases that unfold into more than a machine holds, keys that are there twice.
"""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from yaml.cyaml import CParser

from decodetr.utils.excerpts import short
from decodetr.utils.files import regular_file
from decodetr.utils.lazy import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

TEXT_BYTES = 64 << 20  # of a list of names, a label file
YAML_BYTES = 4 << 20  # data.yaml of 40,000 names has 1 MB
_MAX_DEPTH = 100  # of lists in lists. A config has 6
_NESTED = frozenset((dict, list))
_DIGITS = 300  # of a number; beyond, no float holds it
_YAML_NODES = 200_000  # of a YAML file once its aliases are unfolded; data.yaml of 10,000 names has 20,000
_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)


def read_text(file: str | Path, most: int = TEXT_BYTES) -> str:
    """Return the text of a UTF-8 file, or of a UTF-16 or UTF-32 one that begins with a byte order mark.

    Raises:
        FileNotFoundError: no such file. ValueError: no regular file, too large, or another encoding. The message names
            file and line.
    """
    return decoded(regular_file(file, most).read_bytes(), file)


def decoded(content: bytes, where: str | Path) -> str:
    """The text of a file's bytes. `where` names the file in the message. Raises ValueError for another encoding."""
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{where}: line {line}: not a text in {encoding.removesuffix('-sig').upper()} (byte "
            f"0x{content[error.start]:02x} at {error.start}); save it as UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(
            f"{where}: line {line}: not a text in UTF-8 (a NUL character); save it as UTF-8, or UTF-16 with a byte "
            "order mark"
        )
    return text


def read_json(
    file: str | Path,
    shape: type | None = None,
    most: int | None = None,
    unique: bool = False,
    each: Callable[[dict[str, Any]], Any] | None = None,
) -> Any:
    """Return what a JSON file holds. Whole numbers that no float holds are infinite, as 1e400 is.

    Args:
        file (`str` or `Path`).
        shape (`type`, *optional*): what the top must be, `dict` or `list`.
        most (`int`, *optional*): bytes. Default [`decodetr.utils.files.max_bytes`].
        unique (`bool`): refuse a key that is in one object twice. For files whose keys are ids.
        each (*optional*): what an object becomes as it is read, such as one without some key. Not with `unique`.

    Raises:
        FileNotFoundError: no such file. ValueError: no regular file, too large, no JSON, nested more than 100 deep, a
            key that is there twice, or another shape. The message names the file.
    """
    return parse_json(decoded(regular_file(file, most).read_bytes(), file), file, shape, unique, each)


def parse_json(
    text: str,
    where: str | Path,
    shape: type | None = None,
    unique: bool = False,
    each: Callable[[dict[str, Any]], Any] | None = None,
) -> Any:
    """The value of a JSON text. As [`read_json`]."""
    try:
        with no_collection():
            pairs_hook = _unique_keys if unique else None
            value = json.loads(text, parse_int=_whole, object_hook=each, object_pairs_hook=pairs_hook)
    except RecursionError as error:
        raise ValueError(f"{where}: {_TOO_DEEP}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: expected a JSON file, got: {error}; it may be cut off: write it again") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if _is_deep(value):
        raise ValueError(f"{where}: {_TOO_DEEP}")
    return _shaped(value, shape, where)


@contextmanager
def no_collection() -> Iterator[None]:
    """Inside, Python does not look for garbage: it would go through the millions of objects of annotations again and
    again, which makes reading a third slower."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


_TOO_DEEP = f"nested more than {_MAX_DEPTH} deep; no data that belong here are"


def _whole(digits):
    return int(digits) if len(digits) < _DIGITS else float(digits)


def _unique_keys(pairs):
    value = dict(pairs)
    if len(value) < len(pairs):
        seen = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice!r} is there twice; leave one")
    return value


def _is_deep(value):
    level = [[value]]
    for _ in range(_MAX_DEPTH + 1):
        wholes = (whole.values() if type(whole) is dict else whole for whole in level)
        level = [part for whole in wholes for part in whole if type(part) in _NESTED]
        if not level:
            return False
    return True


def read_yaml(file: str | Path, shape: type | None = None, texts: bool = False) -> Any:
    """Return what a YAML or JSON file holds, with 1e-4 a float.

    Args:
        file (`str` or `Path`).
        shape (`type`, *optional*): what the top must be, `dict` or `list`.
        texts (`bool`): every scalar is the text that stands in the file (`off`, `007`, `1.0`), but an empty one or an
            unquoted `~` or `null` is None. For files whose values are names.

    Raises:
        FileNotFoundError: no such file. ValueError: no regular file, too large, no YAML, nested too deep, aliases that
            refer to themselves or unfold into too much, a key that is there twice, or another shape. The message names
            file and line.
    """
    return parse_yaml(read_text(file, YAML_BYTES), file, shape, texts)


def parse_yaml(text: str, where: str | Path, shape: type | None = None, texts: bool = False) -> Any:
    """The value of a YAML text. As [`read_yaml`]."""
    if found := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise ValueError(f"{where}: line {line}: expected YAML, got the character {found.group()!r}")
    try:
        loader = (_TextLoader if texts else _Loader)(text)
        node = loader.get_single_node()
        if node is not None:
            _check_nodes(node)
        value = None if node is None else loader.construct_document(node)
    except RecursionError as error:
        raise ValueError(f"{where}: {_TOO_DEEP}") from error
    except yaml.YAMLError as error:
        if "nesting depth" in str(error):  # LibYAML's own limit, 1,000
            raise ValueError(f"{where}: {_TOO_DEEP}") from error
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        ours = isinstance(error, yaml.constructor.ConstructorError | yaml.composer.ComposerError)
        expected = "" if ours else "expected YAML, got: "
        raise ValueError(f"{where}: {place}{expected}{getattr(error, 'problem', None) or error}") from error
    except ValueError as error:  # a number in another base that no float holds
        raise ValueError(f"{where}: {error}") from error
    return _shaped(value, shape, where)


def _shaped(value, shape, where):
    if shape is None or isinstance(value, shape):
        return value
    expected = {dict: "a mapping (name: value)", list: "a list"}[shape]
    raise ValueError(f"{where}: expected {expected}, got {short(value)}")


def _check_nodes(root):
    """Refuse a document whose aliases refer to themselves, or unfold into more nodes or levels than settings have."""
    measured = {}  # id of a node: (nodes, levels), None while it is being measured

    def measure(node):
        if isinstance(node, yaml.ScalarNode):
            return 1, 1
        if id(node) in measured:
            if measured[id(node)] is None:
                raise yaml.constructor.ConstructorError(None, None, "an alias refers to itself", node.start_mark)
            return measured[id(node)]
        measured[id(node)] = None
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in parts for part in pair]
        nodes, levels = 1, 0
        for part in parts:
            more, below = measure(part)
            nodes, levels = nodes + more, max(levels, below)
        if nodes > _YAML_NODES:
            problem = f"more than {_YAML_NODES:,} values once its aliases are unfolded"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        if levels >= _MAX_DEPTH:
            raise RecursionError
        measured[id(node)] = nodes, levels + 1
        return measured[id(node)]

    measure(root)


class _Loader(yaml.composer.Composer, CParser, yaml.constructor.SafeConstructor, yaml.resolver.Resolver):
    """YAML with the values of JSON: floats as in YAML 1.2, dates are texts, no tags but `!!str`. Keys are distinct
    texts or whole numbers.

    LibYAML parses, which is ten times as fast as PyYAML's own parser. Nodes are made here, where they are counted.
    """

    def __init__(self, text):
        CParser.__init__(self, text)
        yaml.composer.Composer.__init__(self)
        yaml.constructor.SafeConstructor.__init__(self)
        yaml.resolver.Resolver.__init__(self)
        self._nodes = 0

    def compose_node(self, parent, index):
        event = self.peek_event()
        self._nodes += 1
        if self._nodes > _YAML_NODES:  # before the rest is read
            raise yaml.composer.ComposerError(None, None, f"more than {_YAML_NODES:,} values", event.start_mark)
        if getattr(event, "tag", None) not in (None, "!", "tag:yaml.org,2002:str"):
            problem = f"the tag {event.tag.replace('tag:yaml.org,2002:', '!!')}; write the plain value"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key_node, _ in node.value:
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                key = self.construct_object(key_node, deep=True)
                if type(key) not in (str, int):
                    raise yaml.constructor.ConstructorError(None, None, f"{key!r} is no key", key_node.start_mark)
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r} is there twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node):
        """Whole numbers that no float holds are infinite, as 1e400 is."""
        return float(node.value) if len(node.value) >= _DIGITS else super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NOT_IN_JSON]
    for _NOT_IN_JSON in [("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


class _TextLoader(_Loader):
    """YAML in which `off` is off, `007` is 007, and `~` is nothing."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _KEPT]
        for _KEPT in [("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
