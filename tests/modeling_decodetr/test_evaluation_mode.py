"""Who detects with a model in training leaves it as it was."""

import pytest
import torch
from torch import nn

from decodetr.modeling_decodetr.evaluation_mode import _HELD, evaluating


class Watched(nn.Module):
    """Says how often something was written to it."""

    written = 0

    def __setattr__(self, name, value):
        type(self).written += 1
        super().__setattr__(name, value)


def modes(model):
    return [module.training for module in model.modules()]


@pytest.fixture
def model():
    """In training, with a part that is frozen in evaluation mode."""
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)))
    model[1][0].eval()
    return model


def test_every_module_gets_its_own_mode_back(model):
    before, state = modes(model), {name: value.clone() for name, value in model.state_dict().items()}
    assert before == [True, True, True, False, True]
    inputs = torch.arange(8.0).reshape(4, 2)
    with evaluating(model):
        assert modes(model) == [False] * 5
        torch.testing.assert_close(model(inputs), inputs, rtol=1e-4, atol=0)  # fresh norms, nothing dropped
    assert modes(model) == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert modes(model) == before and not _HELD


def test_a_part_in_training_is_seen_below_a_model_in_evaluation_mode(model):
    model.eval()[1][1].train()
    model.register_module("none", None)
    with evaluating(model):
        assert modes(model) == [False] * 5
    assert modes(model) == [False, False, False, False, True]


def test_the_last_of_several_calls_puts_the_modes_back(model):
    before, calls = modes(model), [evaluating(model) for _ in range(3)]
    for call in calls:  # as of threads that overlap
        call.__enter__()
    for call in (calls[1], calls[0]):
        call.__exit__(None, None, None)
        assert modes(model) == [False] * 5
    calls[2].__exit__(None, None, None)
    assert modes(model) == before and not _HELD


def test_nothing_is_written_to_a_model_in_evaluation_mode():
    model = Watched().eval()
    before = Watched.written
    with evaluating(model):
        pass
    assert Watched.written == before and not model.training and not _HELD
