"""The common model tests of transformers, which its own models pass. They are in no wheel:
`python tests/helpers/common_suite.py` (`make common-suite`) takes them out of the source distribution of the installed
version, into a folder of the virtual environment."""

import importlib
import re
import subprocess
import sys
import tarfile
import tempfile
import types
from importlib.metadata import version
from pathlib import Path

PACKAGE = "transformers_tests"


def folder() -> Path:
    """Where the tests of the installed version of transformers are, or will be."""
    return Path(sys.prefix) / "transformers-tests" / version("transformers")


def fetch():
    """Download the source distribution by pip, and keep its tests; nothing happens if they are there."""
    target = folder()
    if (target / "test_modeling_common.py").is_file():
        return
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        wanted = f"transformers=={version('transformers')}"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
        subprocess.run([*pip, wanted, "--dest", scratch], check=True)
        with tarfile.open(next(Path(scratch).glob("transformers-*.tar.gz"))) as archive:
            archive.extractall(scratch, filter="data")
        next(Path(scratch).glob("transformers-*/tests")).rename(target)


def markers() -> set[str]:
    """Names of the pytest markers that the tests have; none where they are not there."""
    file = folder() / "test_modeling_common.py"
    used = set(re.findall(r"\bmark\.(\w+)", file.read_text(encoding="utf-8"))) if file.is_file() else set()
    return used - {"parametrize", "skip", "skipif", "slow"}


def load():
    """The module `test_modeling_common`.

    Its tests of export to other formats and of text generation are not part of the distribution; the classes that it
    inherits them from are empty here.

    Raises:
        FileNotFoundError: nobody has fetched the tests.
    """
    if not (folder() / "test_modeling_common.py").is_file():
        raise FileNotFoundError(f"{folder()} has no common tests of transformers; `make common-suite` downloads them.")
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(folder())]
    sys.modules[PACKAGE] = package
    for name, mixin in (
        ("exporters.test_export", "ExportTesterMixin"),
        ("generation.test_utils", "GenerationTesterMixin"),
    ):
        module = types.ModuleType(f"{PACKAGE}.{name}")
        setattr(module, mixin, type(mixin, (), {}))
        sys.modules[module.__name__] = module
        sys.modules[module.__name__.rpartition(".")[0]] = types.ModuleType(module.__name__.rpartition(".")[0])
    return importlib.import_module(f"{PACKAGE}.test_modeling_common")


if __name__ == "__main__":
    fetch()
