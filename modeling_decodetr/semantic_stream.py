"""The semantic stream: from detached queries to scores over names (paper 2.2 to 2.4 and 2.7; docs/paper.md).

Deviations: the stream also reads detached features of the query's region and, with `region_pixels`, a thumbnail of it,
because queries and maps of a detector that learned boxes alone need not tell what names are about (docs/model.md has
the measurements). The predictor scores against stored name embeddings and uses the pool as the vocabulary of the
background. Everything that decides a score is computed in float32.
"""

import copy
import math
import weakref

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_decodetr import DeCoDetrConfig
from .embedding_space import Tables, background_mass, background_of, centred, look_up, look_up_rows, mean_of, scales_of
from .map_cells import PIXELS, Cells
from .precision import Float32Buffers
from .prototype_pool import PrototypePool
from .vocabulary import Vocabulary

LEAST_LOG_SCORE = -27.6  # a score of 1e-12. Also its logit, to float32
# vocabulary: (state of the tables, the tables, what `names_among` found)
_KNOWN_NAMES: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_PARTS = 32  # of the channels of a map, for as many threads
# Queries that are scored at once. On a CPU so many that what they are to all prototypes stays in the cache; elsewhere
# that takes 100 MB with 6,003 of them, and each block costs the start of two dozen kernels.
_ROWS, _ROWS_ELSEWHERE = 256, 4096


class RegionPooling(nn.Module):
    """Features of boxes: every map is projected 1 x 1 to a few channels and sampled bilinearly on a grid in each box,
    in the order that costs less, which changes nothing else. With `pixel_grid`, the image itself is sampled too, and
    these thumbnails go through three convolutions. `cells`: of each map, if they need not cover the canvas exactly."""

    def __init__(
        self,
        channels: list[int],
        out_channels: int,
        grid: int,
        pixel_grid: int = 0,
        cells: list[Cells] | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.pixel_grid, self.cells = grid, pixel_grid, cells
        self.out_features = len(channels) * out_channels * grid**2
        self.projections = nn.ModuleList(nn.Conv2d(c, out_channels, kernel_size=1) for c in channels)
        self.pixel_encoder = None
        if pixel_grid:
            widths = (out_channels // 2, out_channels, 2 * out_channels)
            layers = []
            for before, after in zip((3, *widths), widths):
                layers += [nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1), nn.ReLU()]
            self.pixel_encoder = nn.Sequential(*layers[:-1])
            self.out_features += widths[-1] * (-(-pixel_grid // 8)) ** 2

    def sample(
        self,
        feature_maps: list[torch.Tensor],
        pixel_values: torch.Tensor,
        boxes: torch.Tensor,
        pixels: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """Raw samples of maps (B, C_l, H_l, W_l) and of the image (B, 3, H, W) at a grid of points in boxes (B, N, 4)
        (cx, cy, w, h in 0..1 of the canvas): a list of (B, N, C_l, grid^2), and with `pixel_grid` (B, N, 3,
        pixel_grid^2). `pixels` (B, 2): how much of the canvas is image, in x and y, where there is padding."""
        places = self._places(feature_maps, pixel_values, boxes, pixels)
        samples = [_sample(feature_map, self.grid, *place) for feature_map, place in zip(feature_maps, places)]
        return samples + ([_sample(pixel_values, self.pixel_grid, *places[-1])] if self.pixel_grid else [])

    def forward(
        self,
        feature_maps: list[torch.Tensor],
        pixel_values: torch.Tensor,
        boxes: torch.Tensor,
        row: torch.Tensor | None = None,
        pixels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, N, out_features) for maps (B, C_l, H_l, W_l), the image (B, 3, H, W), boxes (B, N, 4) and `pixels` as
        of [`RegionPooling.sample`]. With `row` (n,), indices into the B * N boxes, those alone: (n, out_features)."""
        places = self._places(feature_maps, pixel_values, boxes, pixels)
        pooled = [self._pool(p, m, *place) for p, m, place in zip(self.projections, feature_maps, places)]
        if self.pixel_grid:
            pooled.append(_sample(pixel_values, self.pixel_grid, *places[-1]))
        pooled = [part.flatten(0, 1) if row is None else part.flatten(0, 1)[row] for part in pooled]
        if self.pixel_grid:
            pooled[-1] = self._encode(pooled[-1]).to(pooled[0].dtype)
        together = torch.cat([part.flatten(1) for part in pooled], dim=1)
        return together.unflatten(0, boxes.shape[:2]) if row is None else together

    def project_samples(
        self, samples: list[torch.Tensor], bases: list[tuple[torch.Tensor, torch.Tensor]] | None = None
    ) -> torch.Tensor:
        """The same features from samples: (n, out_features).

        Args:
            samples: a list of (n, C_l, points) as [`RegionPooling.sample`] gives them.
            bases (*optional*): a (mean (C_l,), orthogonal basis P (C_l, c_l)) for each map: samples z of maps, of
                (n, c_l, points), stand for mean + P z.

        Raises:
            ValueError: samples have other channels than their map, or than its basis.
        """
        weights = [(p.weight[..., 0], p.bias) for p in self.projections]
        if bases is not None:
            with torch.autocast(samples[0].device.type, enabled=False):
                weights = [_folded(w[..., 0], b, *basis) for (w, b), basis in zip(weights, bases)]
        for level, ((weight, _), sample) in enumerate(zip(weights, samples)):
            if sample.shape[1] != weight.shape[1]:
                raise ValueError(
                    f"semantic_features['samples'][{level}] has {sample.shape[1]} channels, expected "
                    f"{weight.shape[1]}: projected samples need their semantic_features['bases'] (FeatureCache.bases)"
                )
        projected = [F.conv1d(s, w, b).flatten(1) for (w, b), s in zip(weights, samples)]
        if self.pixel_grid:
            projected.append(self._encode(samples[-1]))
        return torch.cat(projected, dim=1)

    @torch.no_grad()
    def restrict(self, bases: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Project the weights W of each map onto the span of its basis, so that whole maps give what
        [`RegionPooling.project_samples`] gives of samples that were projected by the same `bases`."""
        for project, (_, basis) in zip(self.projections, bases):
            rows = getattr(project.weight, "to_local", lambda weight=project.weight: weight)()  # FSDP divides rows
            basis = F.normalize(basis.to(rows), dim=0)  # orthonormal
            rows.copy_((rows.flatten(1) @ basis @ basis.T).view_as(rows))

    def _places(self, feature_maps, pixel_values, boxes, pixels):
        """For each map, and then the image: boxes relative to what it covers, and the last point to read (B, 2)."""
        if self.cells is None and pixels is None:
            return [(boxes, None)] * (len(feature_maps) + 1)
        boxes, canvas, places = boxes.float(), pixel_values.shape[-2:], []
        for level, feature_map in enumerate(feature_maps):
            size = feature_map.shape[-2:]
            cells = Cells(canvas[0] // size[0]) if self.cells is None else self.cells[level]
            placed = boxes if self.cells is None else cells.boxes_on_map(boxes, size, canvas)
            places.append((placed, None if pixels is None else cells.last_point(pixels, size)))
        return [*places, (boxes, None if pixels is None else PIXELS.last_point(pixels, canvas))]

    def _pool(self, project, feature_map, boxes, last):
        """(B, N, out_channels, grid^2) of a map (B, C_l, H_l, W_l)."""
        places = feature_map.shape[-2] * feature_map.shape[-1]
        # The size of the picture may be open in a graph that is exported.
        if torch.compiler.is_exporting() or boxes.shape[1] * self.grid**2 >= places:
            return _sample(project(feature_map), self.grid, boxes, last)
        # A convolution of so many short rows takes twice as long as this product.
        samples = _sample(feature_map, self.grid, boxes, last).transpose(2, 3)  # (B, N, grid^2, C_l)
        return F.linear(samples, project.weight.flatten(1), project.bias).transpose(2, 3)

    def _encode(self, thumbnails):
        """(n, F) of (n, 3, pixel_grid^2)."""
        side = self.pixel_grid
        return self.pixel_encoder(thumbnails.unflatten(2, (side, side))).flatten(1)


def _folded(weight, bias, mean, basis):
    """Weight (out, c, 1) and bias (out,) that give of z what weight (out, C) and bias give of mean + P z."""
    return (weight @ basis.to(weight))[..., None], bias + weight @ mean.to(weight)


def _sample(feature_map, grid, boxes, last=None):
    """Values of (B, C, H, W) at grid x grid points in boxes (B, N, 4), none beyond `last` (B, 2), if that is given:
    (B, N, C, grid^2)."""
    centres = (torch.arange(grid, device=boxes.device) + 0.5) / grid - 0.5
    offsets = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1).reshape(-1, 2)
    boxes = boxes.float()  # in half precision a point is up to two pixels off, and the CPU samples wrong values
    points = boxes[..., None, :2] + offsets.to(boxes) * boxes[..., None, 2:]  # (B, N, grid^2, 2)
    points, maps = 2 * points - 1, feature_map.float()
    if last is not None:
        points = torch.minimum(points, last[:, None, None])
    # On a CPU, `grid_sample` computes the images of a batch at once, in one thread each. So channels become images.
    if maps.device.type == "cpu" and maps.is_contiguous() and not torch.compiler.is_exporting():
        parts = math.gcd(maps.shape[1], _PARTS)
        maps, points = maps.unflatten(1, (parts, -1)).flatten(0, 1), points.repeat_interleave(parts, 0)
    # Border padding makes every sample a convex combination, so that sampling and projecting commute.
    sampled = F.grid_sample(maps, points, padding_mode="border", align_corners=False)
    sampled = sampled.reshape(*feature_map.shape[:2], *sampled.shape[2:])
    return sampled.to(feature_map.dtype).transpose(1, 2)


def boxes_on_canvas(boxes: torch.Tensor, pixel_mask: torch.Tensor | None) -> torch.Tensor:
    """Boxes are relative to the image. With padding the feature maps cover the whole canvas. (B, N, 4) in 0..1."""
    if pixel_mask is None:
        return boxes
    share = torch.stack([pixel_mask[:, 0].float().mean(-1), pixel_mask[:, :, 0].float().mean(-1)], -1)  # (B, 2): x, y
    return boxes * share.repeat(1, 2)[:, None].to(boxes)


def pad_boxes(boxes: torch.Tensor, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Some of the boxes of a batch, as few as an image has.

    Args:
        boxes (B, N, 4). row (n,): indices into the B * N boxes, ascending.

    Returns:
        boxes (B, P, 4), those of each image first, then zeros, with P the most that an image has, at least 1. Slot
        (n,), where the rows are among the B * P.
    """
    batch, queries = boxes.shape[:2]
    image = row // queries
    count = torch.bincount(image, minlength=batch)
    width = max(int(count.max()), 1)
    slot = image * width + torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[image]
    padded = boxes.new_zeros(batch * width, 4)
    padded[slot] = boxes.flatten(0, 1)[row]
    return padded.unflatten(0, (batch, width)), slot


class SemanticStream(Float32Buffers):
    """h_theta, prototype lookup, residual MLP and g_phi. Trained by the distillation and alignment losses alone.

    Temperatures and what is background are read from the config, or from the pool's space, in every call, so that a
    change there is obeyed.
    """

    def __init__(
        self, config: DeCoDetrConfig, query_dim: int, map_channels: list[int], cells: list[Cells] | None = None
    ) -> None:
        super().__init__()
        self.built_from = (query_dim, map_channels, cells)
        self.config = config
        self.centred = config.centred  # of what follows from pool and vocabulary
        self.dropout_seed = 0
        d, hidden = config.embedding_dim, config.semantic_hidden_dim
        self.region_pooling = None
        if config.semantic_inputs == "query+region":
            self.region_pooling = RegionPooling(
                map_channels, config.region_channels, config.region_grid, config.region_pixels, cells
            )
            query_dim = query_dim + self.region_pooling.out_features
        self.input_projection = _MLP(query_dim, hidden, d)  # h_theta
        self.residual = _MLP(d, hidden, d)
        self.predictor = nn.Linear(d, d)  # g_phi
        # Before anything wraps the weights. DeepSpeed's ZeRO-3 divides them as soon as they are made.
        self.shapes = {name: tuple(getattr(w, "ds_shape", w.shape)) for name, w in self.named_parameters()}
        # What follows from pool and vocabulary, so it is not saved. `refresh` computes it. Prototypes and names are
        # centred unit rows, `closest` is the cosine of each prototype to the name that is closest to it.
        rows = {"prototypes": (config.num_prototypes, d), "names": (config.num_labels, d), "image_mean": (d,)}
        for name, shape in {**rows, "lengths": rows["prototypes"][:1], "closest": rows["prototypes"][:1]}.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float32), persistent=False)

    def tables(self, pool: PrototypePool, vocabulary: Vocabulary) -> Tables:
        """The tables of a call, with what [`SemanticStream.refresh`] derived from this pool and these names."""
        if self.centred != self.config.centred:  # it was set since
            self.refresh(pool, vocabulary)
        scales = scales_of(self.config, pool.info.get("space"))
        background = self._is_background(self.closest, scales)
        derived = (self.prototypes, self.names, self.lengths, background, self.image_mean)
        return Tables(pool, vocabulary, *derived, scales)

    def tables_with(self, tables: Tables, vocabulary: Vocabulary) -> Tables:
        """The same tables as if these were the names, which the model does not take over."""
        device = tables.prototypes.device
        names, closest = names_among(tables.pool, tables.prototypes, vocabulary, self.centred)
        if vocabulary.embeddings.device != device:
            vocabulary = copy.deepcopy(vocabulary).to(device)
        return tables._replace(
            vocabulary=vocabulary, names=names, background=self._is_background(closest, tables.scales)
        )

    def _is_background(self, closest, scales):
        return (closest < scales.background_threshold) & (self.config.pool_use != "none")

    def gather(
        self,
        queries: torch.Tensor,
        feature_maps: list[torch.Tensor],
        pixel_values: torch.Tensor,
        boxes: torch.Tensor,
        row: torch.Tensor | None = None,
        pixels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the stream reads: (B, N, C [+ region features]) of queries (B, N, C) and of what lies in their boxes
        (B, N, 4) on maps (B, C_l, H_l, W_l) and image, of so many `pixels` (B, 2). With `row` (n,), ascending indices
        into the B * N queries, those alone: (n, C [+ region features])."""
        slot = None
        if row is not None:
            queries = queries.flatten(0, 1)[row]
            boxes, slot = pad_boxes(boxes, row)
        if self.region_pooling is None:
            return queries
        regions = self.region_pooling(feature_maps, pixel_values.to(queries.dtype), boxes, slot, pixels)
        return torch.cat([queries, regions.to(queries.dtype)], dim=-1)

    def gather_cached(self, features: dict) -> torch.Tensor:
        """The same from a dict of concatenated features of `extract_semantic_features`, whose samples may be projected
        by `bases` (see [`RegionPooling.project_samples`]): (n, C [+ region features])."""
        if self.region_pooling is None:
            return features["queries"]
        regions = self.region_pooling.project_samples(features["samples"], features.get("bases"))
        return torch.cat([features["queries"], regions], dim=-1)

    def forward(self, inputs: torch.Tensor, tables: Tables) -> tuple[torch.Tensor, torch.Tensor]:
        """From detached inputs to what is compared with names.

        r_n = unit(lookup) + beta unit(MLP(q^)), beta the config's `residual_weight`: a sum of unbounded parts, as
        paper 2.4 has it (`residual_weight=None`), learns an MLP of fifty times the lookup's length, which by-passes
        it (docs/model.md).

        Args:
            inputs (`torch.Tensor` of shape (..., C [+ region features])).
            tables: of the model.

        Returns:
            log_weights (..., M) float32: log w of paper 2.3.
            semantic_embeds (..., d): r_n. The residual alone where the pool is not for lookup.
        """
        drop = self._drop if self.training and self.config.semantic_dropout else None
        projected = self.input_projection(inputs, drop)
        log_weights, looked_up = look_up(projected, tables)
        return log_weights, self._enhance(projected, looked_up)

    def score(self, inputs: torch.Tensor, tables: Tables) -> tuple[torch.Tensor, torch.Tensor]:
        """What [`SemanticStream.forward`] and then [`SemanticStream.name_log_probs`] give, for inference: nothing as
        large as (queries, M) is kept.

        Args:
            inputs (B, N, C [+ region features]).
            tables: of the model.

        Returns:
            semantic_embeds (B, N, d) and log-probabilities of the names (B, N, K), float32.
        """
        rows = inputs.flatten(0, 1)
        # How many images there are may be open in a graph that is exported, so that nothing may depend on it.
        size = _ROWS if rows.device.type == "cpu" else _ROWS_ELSEWHERE
        blocks = [rows] if torch.compiler.is_exporting() else rows.split(size)
        parts = [self._score(block, tables) for block in blocks]
        embeds, names = parts[0] if len(parts) == 1 else (torch.cat(column) for column in zip(*parts))
        return embeds.unflatten(0, inputs.shape[:2]), names.unflatten(0, inputs.shape[:2])

    def _score(self, inputs, tables):
        """As [`SemanticStream.score`], of rows (n, C [+ region features])."""
        projected = self.input_projection(inputs)
        looked_up = look_up_rows(projected, tables) if self.config.pool_use == "lookup+background" else None
        embeds = self._enhance(projected, looked_up)
        predicted = self._unit_prediction(embeds)
        with torch.autocast(inputs.device.type, enabled=False):
            return embeds, self._against_names(predicted, background_of(predicted, tables), tables)[0]

    def _enhance(self, projected, looked_up):
        """r_n (..., d) of q^ (..., d) and what it looked up (..., d), float32."""
        residual = self.residual(projected)
        if self.config.pool_use != "lookup+background":
            return residual
        if (weight := self.config.residual_weight) is None:
            return looked_up.to(residual.dtype) + residual
        with torch.autocast(projected.device.type, enabled=False):
            bounded = F.normalize(looked_up, dim=-1) + weight * F.normalize(residual.float(), dim=-1)
        return bounded.to(residual.dtype)

    def name_log_probs(self, semantic_embeds: torch.Tensor, tables: Tables) -> tuple[torch.Tensor, torch.Tensor]:
        """log of the softmax over names (paper 2.7) and background.

        Args:
            semantic_embeds (..., d): r_n.
            tables: of the model.

        Returns:
            (..., K) log-probabilities of the names and (...,) that of the whole background, float32.
        """
        return self.compare(*self.predict(semantic_embeds, tables), tables)

    def predict(self, semantic_embeds: torch.Tensor, tables: Tables) -> tuple[torch.Tensor, torch.Tensor]:
        """The part of [`SemanticStream.name_log_probs`] that names do not change: for many vocabularies over the same
        queries.

        Args: as there.

        Returns:
            (..., d) unit rows of g_phi(r_n) and (..., M) their cosines to the prototypes, float32.
        """
        predicted = self._unit_prediction(semantic_embeds)
        with torch.autocast(predicted.device.type, enabled=False):
            return predicted, predicted @ tables.prototypes.T

    def compare(
        self, predicted: torch.Tensor, similarity: torch.Tensor, tables: Tables
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The rest of [`SemanticStream.name_log_probs`], from what [`SemanticStream.predict`] gave with the same
        prototypes."""
        scales = tables.scales
        with torch.autocast(predicted.device.type, enabled=False):
            mass = background_mass(similarity, tables.background, scales.name_temperature, *scales.of_texts())
            return self._against_names(predicted, mass, tables)

    def _unit_prediction(self, semantic_embeds):
        """(..., d) float32 unit rows of g_phi(r_n)."""
        return F.normalize(self.predictor(semantic_embeds).float(), dim=-1)

    def _against_names(self, predicted, mass, tables):
        """The softmax over names and background: (..., K) and (...,) of unit rows (..., d) and background (...,)."""
        names = predicted @ tables.names.T / tables.scales.name_temperature
        total = torch.logaddexp(tables.vocabulary.log_normaliser(names), mass)
        return names - total[..., None], mass - total

    @torch.compiler.disable
    def _drop(self, values):
        """Dropout whose random numbers are the stream's own: those of the detector stay what they are without it, and
        so do its boxes. `dropout_seed` may be set before a step."""
        share = self.config.semantic_dropout
        generator = torch.Generator(values.device).manual_seed(self.dropout_seed)
        self.dropout_seed += 1
        kept = torch.rand(values.shape, generator=generator, device=values.device) >= share
        return values * kept / (1 - share)

    @torch.inference_mode(False)  # what is derived is trained with later
    def refresh(self, pool: PrototypePool, vocabulary: Vocabulary) -> None:
        """Compute again what follows from pool and vocabulary: centred rows, and how close each prototype is to a
        name."""
        self.take(derive(pool, vocabulary, self.config.centred), self.config.centred)

    def take(self, derived: dict[str, torch.Tensor], centred: bool) -> None:
        """Take over what [`derive`] found, with or without centring."""
        self.centred = centred
        for name, value in derived.items():
            setattr(self, name, value)


@torch.no_grad()
def derive(pool: PrototypePool, vocabulary: Vocabulary, centre: bool = True) -> dict[str, torch.Tensor]:
    """{"prototypes" (M, d), "names" (K, d), "lengths" (M,), "closest" (M,), "image_mean" (d,)} of a pool and names,
    see [`Tables`], where the pool is. Without `centre` nothing is taken off."""
    offset = pool.prototypes - _text_mean(pool, centre)
    prototypes = F.normalize(offset, dim=-1)
    names, closest = names_among(pool, prototypes, vocabulary, centre)
    return {
        "prototypes": prototypes,
        "names": names,
        "lengths": offset.norm(dim=-1),
        "closest": closest,
        "image_mean": mean_of(pool.info.get("space") if centre else None, "image_mean", pool.prototypes),
    }


@torch.no_grad()
def names_among(
    pool: PrototypePool, prototypes: torch.Tensor, vocabulary: Vocabulary, centre: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Centred names (K, d) of a vocabulary, and how close each centred prototype (M, d) of a pool is to one (M,).

    The product of all names and prototypes takes half a second for 10,000 and 6,003. It is remembered as long as the
    vocabulary is, so that names which were in use before are there at once.
    """
    tensors = (pool.prototypes, vocabulary.embeddings)
    state = None
    if not any(tensor.is_inference() or tensor.is_meta for tensor in tensors):  # which do not count their changes
        mean = None if not centre else (pool.info.get("space") or {}).get("text_mean")
        state = (*(tensor._version for tensor in tensors), prototypes.device, None if mean is None else tuple(mean))
        known = _KNOWN_NAMES.get(vocabulary)
        if known is not None and known[0] == state and all(a is b for a, b in zip(known[1], tensors)):
            return known[2]
    names = centred(vocabulary.embeddings.to(prototypes.device), _text_mean(pool, centre))
    found = names, torch.cat([(rows @ names.T).amax(-1) for rows in prototypes.split(512)])
    if state is not None:
        _KNOWN_NAMES[vocabulary] = (state, tensors, found)
    return found


def _text_mean(pool, centre):
    return mean_of(pool.info.get("space") if centre else None, "text_mean", pool.prototypes)


def fuse_scores(objectness_logits: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
    """Logits whose sigmoid is sigmoid(objectness) * probability, computed in log space.

    Args:
        objectness_logits (B, N): of the localization stream.
        log_probs (B, N, K): of the names, at most 0.

    Returns:
        (B, N, K) float32, finite: the score is clamped to [1e-12, 1 - 1e-6].
    """
    log_score = F.logsigmoid(objectness_logits.float())[..., None] + log_probs
    log_score = log_score.clamp(min=LEAST_LOG_SCORE, max=-1e-6)
    return log_score - torch.log(-torch.expm1(log_score))


class _MLP(nn.Sequential):
    """LayerNorm first: queries and feature maps of the families differ in scale by orders of magnitude."""

    def __init__(self, in_features, hidden, out_features):
        super().__init__(
            nn.LayerNorm(in_features), nn.Linear(in_features, hidden), nn.GELU(), nn.Linear(hidden, out_features)
        )

    def forward(self, inputs, drop=None):
        """`drop`: dropout of what both linear layers read."""
        norm, first, activation, last = self
        if drop is None:
            return last(activation(first(norm(inputs))))
        return last(drop(activation(first(drop(norm(inputs))))))
