"""Means of loss terms over batches and processes that do not all have the same ones."""

import pytest
import torch

from decodetr.training.loss_terms import LossTerms


def _terms(*batches):
    terms = LossTerms()
    for batch in batches:
        terms.add({name: torch.tensor(value) for name, value in batch.items()})
    return terms


def test_a_term_is_the_mean_of_the_batches_that_have_it():
    terms = _terms({"b": 1.0, "a": 4.0}, {"b": 2.0}, {"b": 6.0, "a": 8.0})
    assert terms.means() == {"a": 6.0, "b": 3.0} and list(terms.means()) == ["a", "b"]
    terms.clear()
    assert terms.means() == {}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_processes_with_other_terms_have_the_same_means(number):
    processes = [_terms({"a": 1.0, "dn": 2.0}, {"a": 3.0}), _terms({"a": 5.0}), _terms()]
    rows = []
    for terms in processes:
        terms.means(lambda own: rows.extend(own) or own)
    assert processes[number].means(lambda own: rows) == {"a": 3.0, "dn": 2.0}
