"""Other things that a query may learn of its teacher, besides what single regions are: how regions of a batch resemble
one another, as relational distillation does, and what those of an image have in common, as bags of regions do."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from decodetr import DeCoDetrForObjectDetection
from decodetr.modeling_decodetr.embedding_artifact import unit_rows
from decodetr.modeling_decodetr.embedding_space import centred


def relations(embeds: torch.Tensor, teacher: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Mean squared difference between the cosines of all pairs of e (n, d) and those of z (n, d), unit rows."""
    return (embeds @ embeds.T - teacher @ teacher.T).square().sum() / max(len(embeds), 1) ** 2


def bags(embeds: torch.Tensor, teacher: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """1 - cosine between the sum of e and the sum of z of an image, mean over the images (n,)."""
    images, place = image.unique(return_inverse=True)
    sums = [rows.new_zeros(len(images), rows.shape[1]).index_add(0, place, rows) for rows in (embeds, teacher)]
    return (1 - F.cosine_similarity(*sums)).sum() / max(len(images), 1)


def add_target(model: DeCoDetrForObjectDetection, loss: Callable, weight: float) -> None:
    """Add a loss of what is compared with names and of the teacher's embeddings to L_distill, of queries that have a
    region."""
    plain = model._losses

    def losses(log_weights, embeds, log_probs, supervised, tables):
        found = plain(log_weights, embeds, log_probs, supervised, tables)
        seen = supervised.region_embeds.abs().sum(-1) > 0
        teacher = centred(unit_rows(supervised.region_embeds[seen].float()), tables.image_mean)
        predicted = model.semantic_stream.predict(embeds[seen], tables)[0]
        more = loss(predicted, teacher, supervised.image[seen])
        return {**found, "loss_distill": found["loss_distill"] + weight * more}

    model._losses = losses
