"""What a release needs besides the build: distributions that hold what they should, and a README whose links lead
somewhere on PyPI.

    python tests/helpers/release.py tag v0.1.0             # is it of this version, and dated?
    python tests/helpers/release.py links ADDRESS REF      # README.md of this checkout, before the build
    python tests/helpers/release.py check dist             # after it; `make release-check` does the whole
"""

import argparse
import email
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LARGEST = 20e6  # bytes of a distribution; the shipped models are 12 MB
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".svg")
_TARGET = re.compile(r"""(\]\(|src=")([^)\s"]+)""")

# What a user of the package would write. A checker has to see the types, and the one error.
TYPED = """
import decodetr

config: decodetr.DeCoDetrConfig = decodetr.DeCoDetrConfig()
found = decodetr.detect(3.5, "photo.jpg")
reveal_type(decodetr.Vocabulary.from_text_model)
"""


def setup_cfg():
    """The sections of setup.cfg."""
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def version():
    """The one version, of __init__.py."""
    return re.search(r'^__version__ = "(.+)"$', (ROOT / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)[1]


def package_files():
    """Paths from the root of what git has of the package: all in its rooms, and code of the root."""
    packages = setup_cfg()["options"]["packages"].split()
    rooms = {name.removeprefix("decodetr.") for name in packages} | {"hub_cards"}
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    found = set()
    for name in listed.split("\0"):
        first, *rest = name.split("/")
        if first in rooms if rest else name.endswith(".py") or name == "py.typed":
            found.add(name)
    return found


def absolute_links(text, address, ref):
    """A Markdown text whose relative links and pictures lead to a repository.

    Args:
        address (`str`): of the repository, such as https://github.com/OWNER/NAME. ref (`str`): tag or branch.
    """

    def absolute(match):
        before, target = match.groups()
        if target.startswith("#") or re.match(r"[a-z]+:", target):
            return match[0]
        view = "raw" if target.endswith(PICTURES) else "blob"
        return f"{before}{address.rstrip('/')}/{view}/{ref}/{target}"

    return _TARGET.sub(absolute, text)


def relative_targets(text):
    """Links and pictures of a Markdown text that lead nowhere on another site."""
    return [target for _, target in _TARGET.findall(text) if not re.match(r"#|[a-z]+:", target)]


def tag_problems(tag):
    """What is wrong with a tag: it is of another version, or CHANGELOG.md and CITATION.cff do not know the day."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    found = []
    if tag != f"v{version()}":
        found.append(f"the tag {tag} is not of the version {version()} of __init__.py")
    dated = re.search(rf"^## {re.escape(version())} - (\d{{4}}-\d\d-\d\d)$", changelog, re.MULTILINE)
    if not dated:
        found.append(f"CHANGELOG.md: expected `## {version()} - YYYY-MM-DD`")
    elif not re.search(rf"^date-released: ['\"]?{dated[1]}['\"]?$", citation, re.MULTILINE):
        found.append(f"CITATION.cff: expected `date-released: {dated[1]}`, as CHANGELOG.md says")
    return found


def wheel_problems(wheel, expected):
    """What is wrong with a wheel: its files, size and metadata. `expected`: see [`package_files`]."""
    found = []
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    wanted = {f"decodetr/{name}" for name in expected}
    ours = {name for name in names if not name.startswith(f"{info}/")}
    found += [f"lacks {name}" for name in sorted(wanted - ours)] + [f"has {name}" for name in sorted(ours - wanted)]
    cfg = setup_cfg()["metadata"]
    said = {
        "Name": "decodetr",
        "Version": version(),
        "Summary": cfg["description"],
        "License-Expression": cfg["license_expression"],
        "Requires-Python": setup_cfg()["options"]["python_requires"],
        "Description-Content-Type": "text/markdown",
    }
    found += [f"{key} is {metadata[key]!r}, not {value!r}" for key, value in said.items() if metadata[key] != value]
    if f"{info}/licenses/LICENSE" not in names:
        found.append("lacks the license")
    if "decodetr = decodetr.cli:main" not in entry_points:
        found.append("lacks the command `decodetr`")
    return found


def sdist_problems(sdist, expected):
    """What is wrong with a source distribution: all that the package is made of is there."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = expected | {"setup.cfg", "pyproject.toml", "README.md", "LICENSE", "PKG-INFO"}
    unwanted = {name for name in names if name.startswith(("tests/", "benchmarks/", "notebooks/", "docs/"))}
    return [f"lacks {name}" for name in sorted(wanted - names)] + [f"has {name}" for name in sorted(unwanted)]


def types_seen(wheel, folder):
    """What mypy prints of [`TYPED`] where a wheel, without what it depends on, is installed in an environment."""
    python = install(folder, "--no-deps", wheel)
    file = Path(folder) / "user.py"
    file.write_text(TYPED, encoding="utf-8")
    words = [sys.executable, "-m", "mypy", "--ignore-missing-imports", "--python-executable", python, "user.py"]
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=environment, check=False)
    return done.stdout + done.stderr


def install(folder, *what):
    """Make a virtual environment FOLDER/venv, and install into it. Returns its interpreter."""
    python = Path(folder) / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", python.parents[1]], check=True)
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*map(str, pip), *map(str, what)], check=True)
    return str(python)


def use(wheel, folder):
    """Install a wheel with all that it needs and use it where no checkout is. Raises where a command fails."""
    python = install(folder, wheel)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    for words in (
        ["--version"],
        ["scenes", "write", "scenes", "--train", "1", "--val", "4", "--test", "1"],
        ["predict", "scenes/val", "--output", "found", "--explain"],
    ):
        subprocess.run([str(Path(python).parent / "decodetr"), *words], cwd=folder, env=environment, check=True)


def check(folder):
    """Look at the one wheel and the one source distribution of a folder. Returns the problems."""
    (wheel,), (sdist,) = (sorted(Path(folder).resolve().glob(pattern)) for pattern in ("*.whl", "*.tar.gz"))
    expected = package_files()
    problems = [f"{wheel.name}: {text}" for text in wheel_problems(wheel, expected)]
    problems += [f"{sdist.name}: {text}" for text in sdist_problems(sdist, expected)]
    for file in (wheel, sdist):
        sys.stdout.write(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB\n")
        if file.stat().st_size > LARGEST:
            problems.append(f"{file.name}: larger than {LARGEST / 1e6:.0f} MB")
    with tempfile.TemporaryDirectory() as scratch:
        seen = types_seen(wheel, scratch)
    sys.stdout.write(seen)
    if "[arg-type]" not in seen or "Found 1 error" not in seen:
        problems.append(f"{wheel.name}: mypy does not see its types")
    with tempfile.TemporaryDirectory() as scratch:
        use(wheel, scratch)
    if relative := relative_targets((ROOT / "README.md").read_text(encoding="utf-8")):
        sys.stdout.write(f"README.md: {len(relative)} relative links, dead on PyPI until `links` has run\n")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    links = commands.add_parser("links")
    links.add_argument("address")
    links.add_argument("ref")
    commands.add_parser("check").add_argument("folder")
    commands.add_parser("tag").add_argument("tag")
    args = parser.parse_args()
    if args.command == "links":
        file = ROOT / "README.md"
        file.write_text(absolute_links(file.read_text(encoding="utf-8"), args.address, args.ref), encoding="utf-8")
        return 0
    problems = tag_problems(args.tag) if args.command == "tag" else check(args.folder)
    sys.stderr.write("".join(f"{text}\n" for text in problems))
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
