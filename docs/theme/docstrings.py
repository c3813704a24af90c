"""Docstrings of decodetr, which are written as those of transformers, for mkdocstrings (mkdocs.yml)."""

import re

import griffe

_LINK = re.compile(r"\[`~?([\w.]+)`\]")
_ARGUMENT = re.compile(r"^(\s*[\w*, ]+) \((.*?)\):(?=\s|$)", re.MULTILINE)


def mend(text, public):
    """A docstring with [`X`] as a link to the page of X, and types without the marks of Markdown, which are shown as
    code.

    Args:
        text: the docstring. public (`set[str]`): names that have a place on the page.
    """

    def link(found):
        name = found[1].rpartition(".")[2]
        return f"[`{name}`][decodetr.{name}]" if name in public else f"`{name}`"

    text = _ARGUMENT.sub(lambda found: f"{found[1]} ({found[2].replace('`', '').replace('*', '')}):", text)
    return _LINK.sub(link, text)


class Docstrings(griffe.Extension):
    """Mends every docstring of the package once it is read."""

    def on_package(self, *, pkg, **kwargs):
        exported = pkg.members.get("_PUBLIC_NAMES")
        public = set(re.findall(r"'(\w+)':", str(exported.value))) if exported is not None else set()
        self._walk(pkg, public)

    def _walk(self, thing, public):
        if thing.is_alias:
            return
        if thing.docstring is not None:
            thing.docstring.value = mend(thing.docstring.value, public)
        for member in thing.members.values():
            self._walk(member, public)
