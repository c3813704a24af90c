"""The one reader of YAML that somebody else wrote, with the limits of documents.py, and of aliases that unfold into
more than a machine holds. A file of its own, because exported models run without PyYAML."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from yaml.cyaml import CParser

from decodetr.utils.documents import DIGITS, MAX_DEPTH, TOO_DEEP, read_text, shaped
from decodetr.utils.lazy import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

YAML_BYTES = 4 << 20  # data.yaml of 40,000 names has 1 MB
_YAML_NODES = 200_000  # of a YAML file once its aliases are unfolded; data.yaml of 10,000 names has 20,000


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
        raise ValueError(f"{where}: {TOO_DEEP}") from error
    except yaml.YAMLError as error:
        if "nesting depth" in str(error):  # LibYAML's own limit, 1,000
            raise ValueError(f"{where}: {TOO_DEEP}") from error
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        ours = isinstance(error, yaml.constructor.ConstructorError | yaml.composer.ComposerError)
        expected = "" if ours else "expected YAML, got: "
        raise ValueError(f"{where}: {place}{expected}{getattr(error, 'problem', None) or error}") from error
    except ValueError as error:  # a number in another base that no float holds
        raise ValueError(f"{where}: {error}") from error
    return shaped(value, shape, where)


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
        if levels >= MAX_DEPTH:
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
        return float(node.value) if len(node.value) >= DIGITS else super().construct_yaml_int(node)


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
