"""Hooks of the documentation site (mkdocs.yml): pages that stand in the root of the repository, and links to its other
files."""

import posixpath
import re

from mkdocs.structure.files import File

ROOT_PAGES = ("CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md")
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
_EMPTY_HEAD = re.compile(r"<th( [^>]*)?></th>")
_OUTSIDE = re.compile(r"^(\w+:|#)")


def on_files(files, config):
    """Add the pages of the root, which people look for there."""
    root = posixpath.dirname(config.config_file_path)
    for name in ROOT_PAGES:
        with open(f"{root}/{name}", encoding="utf-8") as file:
            files.append(File.generated(config, name, content=file.read()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links of the repository as links of the site."""
    if page.file.src_uri in ROOT_PAGES:
        folder = ""
    else:
        folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))
    known = {file.src_uri for file in files}
    parts = _FENCE.split(markdown)
    parts[::2] = [
        _LINK.sub(lambda link: _mend(link, folder, page.file.src_uri, known, config.extra["repository"]), part)
        for part in parts[::2]
    ]
    return "".join(parts)


def _mend(link, folder, page, known, repository):
    """A link to a page of the site stays one. One to another file of the repository leads there, or is its words alone
    where the address of the repository is not known."""
    words, target = link[1], link[2]
    if _OUTSIDE.match(target):
        return link[0]
    path, _, anchor = target.partition("#")
    path = posixpath.normpath(posixpath.join(folder, path))
    inside = path if path in ROOT_PAGES else path.removeprefix("docs/") if path.startswith("docs/") else None
    if inside in known or inside is not None and inside not in ROOT_PAGES:  # what is missing is for mkdocs to report
        here = posixpath.relpath(inside, posixpath.dirname(page) or ".")
        return f"[{words}]({here}{'#' if anchor else ''}{anchor})"
    if path == "README.md":
        return f"[{words}]({posixpath.relpath('index.md', posixpath.dirname(page) or '.')})"
    return f"[{words}]({repository.rstrip('/')}/blob/main/{path})" if repository else words


def on_post_page(output, page, config):
    """For those who hear the page: the theme's dialog of the search has a name, and an empty cell heads no column."""
    output = output.replace(
        'data-md-component="search" role="dialog"', 'data-md-component="search" role="dialog" aria-label="Search"'
    )
    return _EMPTY_HEAD.sub(r"<td\1></td>", output)
