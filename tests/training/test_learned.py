"""A run that has visibly not learned says so at its end, with what was seen and what to do."""

from dataclasses import replace

import pytest
from helpers.situations import FINE_TUNE, LOCALIZATION, SEMANTIC

from decodetr.training.results.learned import doubts


def _history(first, last, term="loss_align", lines=8):
    return [{term: first + (last - first) * i / (lines - 1), "step": i} for i in range(lines)] + [{"train_loss": 1.0}]


def test_a_loss_that_stays_where_it_was_is_said():
    (text,) = doubts(_history(5.0, 4.5), None, SEMANTIC, steps=40)
    assert text.startswith("loss_align (names) is 4.57 at the end and was 5 at first")
    assert "--max-steps 120" in text and "decodetr validate" in text
    assert doubts(_history(5.0, 1.0), None, SEMANTIC) == []
    (text,) = doubts(_history(40.0, 39.0, "loss_det"), None, LOCALIZATION, steps=40)
    assert "loss_det (boxes)" in text


def test_what_was_given_is_what_is_to_be_left_out():
    (text,) = doubts(_history(5.0, 5.0), None, SEMANTIC, given={"max_steps", "semantic_learning_rate", "seed"})
    assert "leave out --max-steps, --semantic-learning-rate, which are chosen from the data" in text


def test_streams_that_had_learned_before_need_not_fall():
    history = _history(0.8, 0.79) + _history(40.0, 39.5, "loss_det")
    assert doubts(history, None, FINE_TUNE) == []
    assert doubts(_history(40.0, 39.5, "loss_det"), None, replace(LOCALIZATION, detector="pretrained")) == []
    assert doubts(_history(5.0, 5.0, lines=3), None, SEMANTIC) == []  # too few to say


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_said(value):
    (text,) = doubts([{"loss_align": 5.0}, {"loss_align": value}], None, FINE_TUNE)
    assert "loss_align (names) was not finite" in text


def test_boxes_or_names_that_are_not_found_are_said():
    metrics = {"eval_class_agnostic_AP50": 84.0, "eval_AP50_base": 18.4, "eval_AP50": 16.1}
    (text,) = doubts([], metrics, SEMANTIC)
    assert "boxes are found (class-agnostic AP50 84.0 %), their names are not (AP50 18.4 %)" in text
    assert doubts([], metrics, LOCALIZATION) == []  # names were not its task
    assert doubts([], {**metrics, "eval_AP50_base": 69.0, "eval_AP50_novel": 58.0}, SEMANTIC) == []
    (text,) = doubts([], {**metrics, "eval_AP50_base": 76.9, "eval_AP50_novel": 7.9}, SEMANTIC)
    assert "names without a box are hardly found (AP50 7.9 %, of base names 76.9 %)" in text and "--regions" in text
    (text,) = doubts([], {"eval_class_agnostic_AP50": 0.4, "eval_AP50": 0.1}, SEMANTIC)
    assert "class-agnostic AP50 is 0.4 %" in text and "--streams localization" in text
    partly = {"eval_class_agnostic_AP50": 6.0, "eval_class_agnostic_AR50": 100.0, "eval_AP50": 100.0}
    assert doubts([], partly, FINE_TUNE) == []  # few of the objects that are found are annotated
    (text,) = doubts([], {"eval_class_agnostic_AP50": 0.4}, LOCALIZATION, steps=10)
    assert "--max-steps 30" in text


def test_a_fine_tune_that_ends_below_its_start_is_said():
    pairs = {"names with annotations in training": (88.0, 80.0), "held-out names": (89.0, 88.5)}
    (text,) = doubts([], None, FINE_TUNE, pairs)
    assert text.startswith("AP50 of names with annotations in training was 88.0 % and is 80.0 %")
