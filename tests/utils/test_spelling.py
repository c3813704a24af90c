"""Words that nobody knows, and the known ones that are near."""

import pytest
from helpers.detections import truth

from decodetr.evaluation.detection_evaluator import DetectionEvaluator
from decodetr.utils.spelling import closest, spelled_as, spelled_otherwise


@pytest.mark.parametrize("name", ["Fire Truck", "fire_truck", "FIRE-TRUCK", " fire  truck", "firetruck"])
def test_a_name_in_other_letters_is_told(name):
    words = spelled_otherwise(["cat", name], ["bus", "fire truck"])
    assert words == f"; {name!r} is 'fire truck' there, and names must be equal to the letter"


def test_other_names_are_not():
    assert spelled_otherwise(["fire engine"], ["fire truck"]) == spelled_otherwise([], ["a"]) == ""
    assert closest("fire truk", ["bus", "fire truck"]) == "; did you mean 'fire truck'?"


def test_an_evaluation_says_so():
    coco = truth(["Fire_Truck"], {1: [("Fire_Truck", [0, 0, 10, 10])]})
    with pytest.raises(ValueError, match="'Fire_Truck' is 'fire truck' there, .* Give a vocabulary that has them"):
        DetectionEvaluator(coco, ["fire truck"])


def test_letters_of_two_characters_are_shown_by_their_numbers():
    words = spelled_otherwise(["cre\u0300me"], ["cr\u00e8me"])  # which look the same
    assert words == r"; 'cre\u0300me' is 'cr\xe8me' there, and names must be equal to the letter"


def test_names_that_look_equal_are_spelled_as_there():
    composed, apart = "caf\u00e9", "cafe\u0301"
    assert spelled_as([composed, "cat", "zero\u200bwidth"], [apart, "zerowidth"]) == [apart, "cat", "zerowidth"]
    assert spelled_as(["hard hat"], ["hard\u00a0hat"]) == ["hard\u00a0hat"]
    assert spelled_as([apart], [composed, apart]) == [apart]  # what is there to the letter stays
    assert spelled_as([composed, apart], [apart]) == [composed, apart]
