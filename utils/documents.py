"""The one reader of JSON, YAML and text that somebody else wrote.

Everything that a file can do to its reader is an error that names the file: no regular file, too many bytes, another
encoding, a depth that no data have, aliases that unfold into more than a machine holds, keys that are there twice.
"""

import json
import re

import yaml

from decodetr.utils.files import regular_file

TEXT_BYTES = 64 << 20  # of a YAML file, a list of names, a label file
_YAML_NODES = 1_000_000  # of a YAML file once its aliases are unfolded; data.yaml of 10,000 names has 20,000
_BYTE_ORDER_MARKS = ((b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"))
_BYTE_ORDER_MARKS += ((b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig"))


def read_text(file, most=TEXT_BYTES) -> str:
    """Return the text of a UTF-8 file, or of a UTF-16 or UTF-32 one that begins with a byte order mark.

    Raises:
        FileNotFoundError: no such file. ValueError: no regular file, too large, or another encoding.
    """
    return decoded(regular_file(file, most).read_bytes(), file)


def decoded(content: bytes, where) -> str:
    """The text of a file's bytes; `where` names the file in the message. Raises ValueError for another encoding."""
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{where}: line {line}: not a text in UTF-8 (byte 0x{content[error.start]:02x} at {error.start}); save it "
            "as UTF-8"
        ) from error


def read_json(file, shape=None, most=None):
    """Return what a JSON file holds.

    Args:
        file (`str` or `Path`).
        shape (`type`, *optional*): what the top must be, `dict` or `list`.
        most (`int`, *optional*): bytes; default [`decodetr.utils.files.max_bytes`].

    Raises:
        FileNotFoundError: no such file. ValueError: no regular file, too large, no JSON, nested deeper than Python
            reads, a number of thousands of digits, or another shape; the message names the file.
    """
    text = decoded(regular_file(file, most).read_bytes(), file)
    return parse_json(text, file, shape)


def parse_json(text, where, shape=None):
    """The value of a JSON text; as [`read_json`]."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{where}: nested too deep; no data that belong here are") from error
    except ValueError as error:
        raise ValueError(f"{where}: expected JSON, got: {error}; it may be cut off: write it again") from error
    return _shaped(value, shape, where)


def read_yaml(file, shape=None, texts=False):
    """Return what a YAML or JSON file holds, with 1e-4 a float.

    Args:
        file (`str` or `Path`).
        shape (`type`, *optional*): what the top must be, `dict` or `list`.
        texts (`bool`): every scalar is the text that stands in the file (`off`, `007`, `1.0`), but an empty one or an
            unquoted `~` or `null` is None. For files whose values are names.

    Raises:
        FileNotFoundError: no such file. ValueError: no regular file, too large, no YAML, nested too deep, aliases that
            refer to themselves or unfold into too much, a key that is there twice, or another shape; the message names
            file and line.
    """
    return parse_yaml(read_text(file), file, shape, texts)


def parse_yaml(text, where, shape=None, texts=False):
    """The value of a YAML text; as [`read_yaml`]."""
    try:
        loader = (_TextLoader if texts else _Loader)(text)
        node = loader.get_single_node()
        if node is not None:
            _count_nodes(node)
        value = None if node is None else loader.construct_document(node)
    except RecursionError as error:
        raise ValueError(f"{where}: nested too deep; no settings are") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{where}: {line}{getattr(error, 'problem', None) or error}") from error
    except ValueError as error:  # a date such as 2024-99-99, a number of thousands of digits
        raise ValueError(f"{where}: {error}") from error
    return _shaped(value, shape, where)


def _shaped(value, shape, where):
    if shape is None or isinstance(value, shape):
        return value
    expected = {dict: "a mapping (name: value)", list: "a list"}[shape]
    text = repr(value)
    raise ValueError(f"{where}: expected {expected}, got {text if len(text) <= 80 else f'{text[:77]}...'}")


def _count_nodes(root):
    """Refuse a document whose aliases refer to themselves, or unfold into more nodes than any settings have."""
    sizes = {}

    def size(node):
        if id(node) in sizes:
            if sizes[id(node)] is None:
                raise yaml.constructor.ConstructorError(None, None, "an alias refers to itself", node.start_mark)
            return sizes[id(node)]
        if isinstance(node, yaml.ScalarNode):
            return 1
        sizes[id(node)] = None
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in parts for part in pair]
        total = 1 + sum(map(size, parts))
        if total > _YAML_NODES:
            problem = f"more than {_YAML_NODES:,} values once its aliases are unfolded"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        sizes[id(node)] = total
        return total

    size(root)


class _Loader(yaml.SafeLoader):
    """YAML whose floats are those of YAML 1.2 and JSON, and whose keys are distinct texts or whole numbers."""

    def construct_mapping(self, node, deep=False):
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key_node, _ in node.value:
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                key = self.construct_object(key_node, deep=True)
                if not isinstance(key, str | int):
                    raise yaml.constructor.ConstructorError(None, None, f"{key!r} is no key", key_node.start_mark)
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r} is there twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


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
