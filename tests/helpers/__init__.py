"""What several tests use. Asserts of these modules say as much as those of a test."""

import pkgutil

import pytest

pytest.register_assert_rewrite(*(f"helpers.{module.name}" for module in pkgutil.iter_modules(__path__)))
