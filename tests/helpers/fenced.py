"""Fenced blocks of Markdown, and the shell commands in them as a shell would get them."""

import re
import shlex

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROGRAMS = ("decodetr", "python -m decodetr")


def blocks(text):
    """(language, code) of each block; the language is "" where none is given."""
    return _BLOCK.findall(text)


def commands(code):
    """Lines of a block without comments and prompts; a line that ends in a backslash goes on in the next."""
    lines = (re.sub(r"(^|\s)# .*$|\s#$", "", line).strip() for line in code.replace("\\\n", " ").splitlines())
    return [part.strip() for line in lines if line for part in line.split("&&")]


def decodetr_words(command):
    """What follows `decodetr`, or None for another program. Options in [brackets] are given, of a|b the first is
    taken, and `...` says that words are left out.

    >>> decodetr_words("decodetr eval --model MODEL [--names-split FILE | --novel-names 'cat'] ...")
    (['eval', '--model', 'MODEL', '--names-split', 'FILE'], True)
    """
    program = next((name for name in _PROGRAMS if command.startswith(f"{name} ")), None)
    if program is None:
        return None
    given = re.sub(r"\[([^\[\]]*?)(?: \| [^\[\]]*)?\]", r"\1", command.removeprefix(program))
    given = re.sub(r"(\w+)\|[\w|]+", r"\1", given)
    words = shlex.split(given)
    return [word for word in words if word != "..."], "..." in words
