"""Versions of packages, for cards and reports."""

from collections.abc import Iterable
from importlib.metadata import version

from decodetr import __version__


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """{package: version}. This package may be a checkout that nobody installed."""
    return {package: __version__ if package == "decodetr" else version(package) for package in packages}
