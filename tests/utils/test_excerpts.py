"""Excerpts of what is too long for a message."""

import pytest

from decodetr.utils.excerpts import first_line, last_line


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("  \n")])
def test_an_error_that_says_nothing_has_its_type(error):
    assert first_line(error) == last_line(error) == type(error).__name__


def test_of_several_lines_one_is_taken():
    error = ValueError("\n first\nsecond\n last \n")
    assert (first_line(error), last_line(error)) == ("first", " last")
