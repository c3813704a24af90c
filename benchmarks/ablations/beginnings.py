"""Changes to a new model, before its first step, that no field of a config makes."""

from collections.abc import Callable
from functools import partial

import torch

from ablations.targets import add_target, bags, relations
from decodetr import DeCoDetrForObjectDetection
from decodetr.modeling_decodetr.embedding_space import Tables, look_up
from decodetr.modeling_decodetr.semantic_stream import SemanticStream


class SparseLookup(SemanticStream):
    """A stream that looks up in some of the prototypes. L_distill is that of all.

    Attributes:
        chosen: of (..., M) log w and the tables: (..., M) bool, those that are looked up.
    """

    chosen: Callable[[torch.Tensor, Tables], torch.Tensor]

    def forward(self, inputs: torch.Tensor, tables: Tables) -> tuple[torch.Tensor, torch.Tensor]:
        drop = self._drop if self.training and self.config.semantic_dropout else None
        projected = self.input_projection(inputs, drop)
        log_weights, _ = look_up(projected, tables)
        some = log_weights.masked_fill(~self.chosen(log_weights, tables), -torch.inf)
        with torch.autocast(inputs.device.type, enabled=False):
            looked_up = (some.softmax(-1) * tables.lengths) @ tables.prototypes
        return log_weights, self._enhance(projected, looked_up)

    def _score(self, inputs, tables):
        embeds = self(inputs, tables)[1]
        return embeds, self.name_log_probs(embeds, tables)[0]


def closest(log_weights: torch.Tensor, tables: Tables, count: int) -> torch.Tensor:
    """The prototypes of most weight, at most `count`."""
    best = log_weights.topk(min(count, log_weights.shape[-1])).indices
    return torch.zeros_like(log_weights, dtype=torch.bool).scatter(-1, best, True)


def coarse_then_fine(log_weights: torch.Tensor, tables: Tables, count: int) -> torch.Tensor:
    """The coarse prototypes of most weight, at most `count`, and the fine ones below them."""
    pool = tables.pool
    coarse = pool.level == 0
    best = closest(log_weights.masked_fill(~coarse, -torch.inf), tables, min(count, int(coarse.sum())))
    return best[..., torch.where(coarse, torch.arange(len(pool), device=coarse.device), pool.parent)]


def sparse(model: DeCoDetrForObjectDetection, choose: Callable, count: int) -> None:
    """Let a model look up in what `choose` finds."""
    stream = model.semantic_stream
    stream.__class__ = SparseLookup
    stream.chosen = partial(choose, count=count)


class CalibratedByPool(SemanticStream):
    """A stream that gives up, in inference, some of what it prefers a name for: how likely the captions of the pool
    make that name.

    Attributes:
        strength: times the log of this share; 0 changes nothing.
    """

    strength: float

    def _against_names(self, predicted, mass, tables):
        names, background = super()._against_names(predicted, mass, tables)
        if self.training:
            return names, background
        names = names - self.strength * log_share_of(tables)
        total = torch.logaddexp(tables.vocabulary.log_normaliser(names), background)
        return names - total[..., None], background - total


def log_share_of(tables: Tables) -> torch.Tensor:
    """log of the share of the pool's captions that each name gets, (K,), as multiple of an equal share and at least a
    tenth of that. Captions are where their coarse prototype is."""
    pool = tables.pool
    weight = torch.where(pool.level == 0, pool.count, 0).float()
    shares = (tables.prototypes @ tables.names.T / tables.scales.name_temperature).softmax(-1)
    return (len(tables.names) * (weight / weight.sum()) @ shares).clamp(min=0.1).log()


def calibrate(model: DeCoDetrForObjectDetection, strength: float) -> None:
    """Let the pool calibrate the names of a model."""
    model.semantic_stream.__class__ = CalibratedByPool
    model.semantic_stream.strength = strength


def random_predictor(model: DeCoDetrForObjectDetection) -> None:
    """g_phi does not begin as the identity."""
    torch.nn.init.xavier_uniform_(model.semantic_stream.predictor.weight)


def random_detector(model: DeCoDetrForObjectDetection) -> None:
    """The detector begins with random weights."""
    model.detector.load_state_dict(type(model)(model.config).detector.state_dict())


BEGINNINGS: dict[str, Callable[[DeCoDetrForObjectDetection], None]] = {
    "random predictor": random_predictor,
    **{f"top {count}": partial(sparse, choose=closest, count=count) for count in (4, 16, 64)},
    **{f"coarse then fine {count}": partial(sparse, choose=coarse_then_fine, count=count) for count in (1, 4, 16)},
    **{f"relations {weight}": partial(add_target, loss=relations, weight=weight) for weight in (1, 10)},
    "bags 1": partial(add_target, loss=bags, weight=1),
    **{f"calibrated {strength}": partial(calibrate, strength=strength) for strength in (0.5, 1)},
}
