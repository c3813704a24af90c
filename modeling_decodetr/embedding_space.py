"""The embedding space of a teacher, described by what was measured in it: where its texts and its images lie, and at
which temperatures its cosines mean something.

Texts of a real CLIP lie in a narrow cone (mean cosine 0.75), and its images in another one (0.27 to the right text,
0.19 to others): at the paper's tau = 0.07 every distribution over them is flat. So texts are compared after their mean
was taken off, images after theirs, and temperatures and background are those that fit the annotated regions best
(`pool_builder/space.py` measures them, docs/model.md says how well). A pool's `info["space"]` has the description.
"""

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from .configuration_decodetr import DeCoDetrConfig

# What a config of the model may say instead of the space, and what holds where neither says anything: the paper's
# tau, and the background of prototypes alone.
DEFAULTS = {
    "assignment_temperature": 0.07,
    "teacher_temperature": 0.07,
    "teacher_name_temperature": 0.07,
    "name_temperature": 0.07,
    "background_threshold": 0.9,
    "background_level": -1.0,
    "background_margin": 0.0,
    "image_cosine": 1.0,
}


class Scales(NamedTuple):
    """Temperatures and background of a model in use. Cosines are those of centred embeddings.

    Attributes:
        assignment_temperature: alpha of paper 2.3. teacher_temperature: tau of paper 2.5.
        name_temperature: of the predictor's softmax (paper 2.7). teacher_name_temperature: of the teacher's (paper
            2.8).
        background_threshold: a prototype whose cosine to every name is below it stands for none of them.
        background_level: cosine of an image to a name from which it rather has that name than none. -1: no such level.
        background_margin: by how much a prototype of the background must resemble an image more than a name does.
        image_cosine: of an image to the right text, where 1 is a text to itself. Level and margin of what is compared
            with names in training, a text in all but name, are those of images divided by it.
    """

    assignment_temperature: float
    teacher_temperature: float
    name_temperature: float
    teacher_name_temperature: float
    background_threshold: float
    background_level: float
    background_margin: float
    image_cosine: float

    def of_texts(self) -> tuple[float, float]:
        """(level, margin) of the background for what is a text rather than an image."""
        level = self.background_level
        return (level / self.image_cosine if level > -1 else level), self.background_margin / self.image_cosine


class Tables(NamedTuple):
    """What a call scores with, of one and the same swap of pool and names.

    Attributes:
        pool ([`PrototypePool`]), vocabulary ([`Vocabulary`]): as they are stored.
        prototypes (M, d), names (K, d): their centred unit rows, float32. lengths (M,): of the centred prototypes.
        background (M,) bool: the prototypes that stand for none of the names.
        image_mean (d,): what is taken off a teacher's image embeddings.
        scales ([`Scales`]).
    """

    pool: torch.nn.Module
    vocabulary: torch.nn.Module
    prototypes: torch.Tensor
    names: torch.Tensor
    lengths: torch.Tensor
    background: torch.Tensor
    image_mean: torch.Tensor
    scales: Scales


def scales_of(config: "DeCoDetrConfig", space: dict | None) -> Scales:
    """What a config sets, else what the space of its pool says (a dict or None), else [`DEFAULTS`]."""
    space = space or {}
    found = {}
    for name in Scales._fields:
        own = getattr(config, name, None)
        found[name] = float(own if own is not None else space.get(name, DEFAULTS[name]))
    return Scales(**found)


def check_space(space: dict, embedding_dim: int) -> None:
    """ValueError unless a dict describes a space of width `embedding_dim`: finite numbers in their ranges."""
    if not isinstance(space, dict):
        raise ValueError(f"space must be a mapping, got {space!r}.")
    for name in ("text_mean", "image_mean"):
        if (mean := space.get(name)) is not None and (
            not isinstance(mean, list | tuple)
            or len(mean) != embedding_dim
            or not all(isinstance(x, int | float) and math.isfinite(x) for x in mean)
        ):
            raise ValueError(f"space: {name} must be a list of {embedding_dim} finite numbers.")
    for name in DEFAULTS:
        value = space.get(name, DEFAULTS[name])
        positive = name.endswith("temperature") or name == "image_cosine"
        known = isinstance(value, int | float) and math.isfinite(value)
        if not known or (positive and value <= 0) or (not positive and abs(value) > 2):
            raise ValueError(f"space: {name} must be {'positive' if positive else 'in [-2, 2]'}, got {value!r}.")


def mean_of(space: dict | None, kind: str, like: torch.Tensor) -> torch.Tensor:
    """The mean "text_mean" or "image_mean" of a space (a dict or None), zeros where it has none: (d,) float32."""
    mean = (space or {}).get(kind)
    return like.new_zeros(like.shape[-1]) if mean is None else torch.tensor(mean, dtype=like.dtype, device=like.device)


def mean_cosine(embeddings: torch.Tensor) -> float:
    """Mean cosine between two different ones of unit rows (n, d), n at least 2: how narrow a space is."""
    n = len(embeddings)
    return ((embeddings.double().sum(0).square().sum() - n) / (n * (n - 1))).item()


def centred(embeddings: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Unit rows (..., d) of embeddings (..., d) of any length, which are normalised first, less the mean (d,)."""
    return F.normalize(F.normalize(embeddings.float(), dim=-1) - mean, dim=-1)


def log_assignment(
    embeddings: torch.Tensor, prototypes: torch.Tensor, temperature: float | torch.Tensor
) -> torch.Tensor:
    """log softmax_j( cos(embedding, A_j) / temperature ), float32, shape (..., M): paper 2.3 and 2.5.

    Args:
        embeddings (..., d): any length. prototypes (M, d): unit rows. temperature: a number, or a tensor (..., 1).
    """
    # A cosine in bfloat16 is off by up to 0.004, which a temperature of 0.01 makes 0.4 in the logit.
    with torch.autocast(embeddings.device.type, enabled=False):
        return F.log_softmax(F.normalize(embeddings.float(), dim=-1) @ prototypes.T / temperature, dim=-1)


def look_up(queries: torch.Tensor, tables: Tables) -> tuple[torch.Tensor, torch.Tensor]:
    """Soft assignment of queries to prototypes, paper 2.3 and the first term of 2.4.

    Args:
        queries (..., d): q^, any length.

    Returns:
        ((..., M) log w, (..., d) sum_j w_j A_j of the centred prototypes), both float32.
    """
    log_weights = log_assignment(queries, tables.prototypes, tables.scales.assignment_temperature)
    with torch.autocast(queries.device.type, enabled=False):
        return log_weights, (log_weights.exp() * tables.lengths) @ tables.prototypes


def look_up_rows(queries: torch.Tensor, tables: Tables) -> torch.Tensor:
    """What [`look_up`] finds, for inference, where the assignment itself is not wanted.

    The table is multiplied by the queries and not the queries by the table: with a few dozen of them that is up to
    twice as fast on a CPU.

    Args:
        queries (n, d): q^, any length.

    Returns:
        (n, d) sum_j w_j A_j of the centred prototypes, float32.
    """
    with torch.autocast(queries.device.type, enabled=False):
        scaled = F.normalize(queries.float(), dim=-1) / tables.scales.assignment_temperature
        weights = (tables.prototypes @ scaled.T).softmax(0) * tables.lengths[:, None]  # (M, n)
        return weights.T @ tables.prototypes


def background_of(predicted: torch.Tensor, tables: Tables) -> torch.Tensor:
    """The [`background_mass`] of what is compared with names, for inference: unit rows (n, d), float32, to (n,)."""
    temperature, (level, margin) = tables.scales.name_temperature, tables.scales.of_texts()
    entry = predicted.new_full((), level / temperature if level > -1 else -torch.inf)
    offset = torch.where(tables.background, -margin / temperature, -torch.inf)
    return torch.logaddexp((tables.prototypes @ (predicted / temperature).T + offset[:, None]).logsumexp(0), entry)


def as_images(embeddings: torch.Tensor, tables: Tables) -> torch.Tensor:
    """Image embeddings that a teacher would score as the model scores `embeddings`.

    They get an additional component, along the direction in which texts differ least. It stands for what an image has
    besides its text, and makes their cosines to texts `image_cosine` times those of `embeddings`.

    Args:
        embeddings (n, d): what is compared with names, any length.

    Returns:
        (n, d) float32 unit rows.
    """
    texts, cosine = torch.cat([tables.prototypes, tables.names]), tables.scales.image_cosine
    gap = torch.linalg.eigh(texts.T @ texts).eigenvectors[:, 0]
    along = F.normalize(embeddings.float(), dim=-1)
    if cosine < 1:
        along = cosine * (along - (along @ gap)[:, None] * gap)
        along = along + (1 - along.square().sum(-1, keepdim=True)).sqrt() * gap
    return _around(tables.image_mean, along)


def as_texts(images: torch.Tensor, space: dict | None, prototypes: torch.Tensor | None = None) -> torch.Tensor:
    """Where a text lies that says what an image shows: off the mean of the texts, in the direction in which the image
    is off the mean of the images.

    What an image has besides its text is still in that direction. With `prototypes` it is halved: the direction is
    that between the image and what a lookup of it finds among the captions of the pool, at the temperature at which
    the teacher tells names apart (docs/inference.md has the measurement).

    Args:
        images (n, d): a teacher's embeddings of images, of any length.
        space: of its pool (a dict, or None). Without means nothing is moved.
        prototypes (M, d), *optional*: of that pool.

    Returns:
        (n, d) float32 unit rows.
    """
    image_mean, text_mean = (mean_of(space, kind, images.float()) for kind in ("image_mean", "text_mean"))
    along = centred(images, image_mean)
    if prototypes is not None:
        temperature = float((space or {}).get("teacher_name_temperature", DEFAULTS["teacher_name_temperature"]))
        rows = centred(prototypes.to(along), text_mean)
        found = F.normalize(log_assignment(along, rows, temperature).exp() @ rows, dim=-1)
        along = F.normalize(along + found, dim=-1)
    return _around(text_mean, along)


def _around(mean, along):
    """Unit rows (n, d) in the directions `along`, unit rows (n, d), from a mean (d,): such are embeddings before their
    mean is taken off."""
    inner = along @ mean
    length = -inner + (inner.square() + 1 - mean.square().sum()).sqrt()  # at which mean + length * along has length 1
    return F.normalize(mean + length[:, None] * along, dim=-1)


def background_mass(
    similarity: torch.Tensor,
    background: torch.Tensor,
    temperature: float | torch.Tensor,
    level: float | torch.Tensor,
    margin: float | torch.Tensor,
) -> torch.Tensor:
    """log of what names compete with: the level, and the background prototypes, all of them, so that a name whose
    prototype joins them when it is removed costs the others nothing.

    Args:
        similarity (..., M): cosines to the prototypes, float32. background (M,): bool, those that count.
        temperature: a number, or a tensor (..., 1). level, margin: likewise. A level of -1 is none.

    Returns:
        float32 (...,), or -inf where there is neither.
    """
    level = torch.as_tensor(level, dtype=similarity.dtype, device=similarity.device)
    entry = torch.where(level > -1, level, -torch.inf).expand(*similarity.shape[:-1], 1)
    entries = torch.cat([similarity.masked_fill(~background, -torch.inf) - margin, entry], dim=-1)
    return (entries / temperature).logsumexp(-1)
