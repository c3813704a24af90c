"""How many pixels a cell of each feature map stands for, so that boxes are read where they are.

A map of n cells with a stride of s pixels covers n * s of them. That is the canvas where its sides are multiples of s;
else it is up to a cell more, or less, and another part of each canvas. Neither the configs nor the backbones of
transformers tell their strides.
"""

from typing import NamedTuple

import torch
from torch import nn

_SIDE = 6720  # pixels: a multiple of strides and patch sizes, 64, 12, 14, 20 and so on


class Cells(NamedTuple):
    """
    Attributes:
        stride (int): pixels from one cell of a map to the next.
        partial (bool): pixels that are left at the end, fewer than the stride, have a cell of their own.
    """

    stride: int
    partial: bool = True

    def boxes_on_map(self, boxes: torch.Tensor, size: tuple[int, int], canvas: tuple[int, int]) -> torch.Tensor:
        """Boxes (B, N, 4) that are relative to a canvas (H, W), relative to what a map (H_l, W_l) covers."""
        covered = [self.stride * side for side in size]
        # Sizes may be open in a graph, which must not ask. Else what need not change is the same to the bit.
        if all(isinstance(side, int) for side in (*size, *canvas)) and covered == list(canvas):
            return boxes
        # Tensors by whole numbers: OpenVINO has no quotient of two sizes.
        return torch.stack(
            [part * canvas[axis] / covered[axis] for part, axis in zip(boxes.unbind(-1), (1, 0, 1, 0))], -1
        )

    def last_point(self, pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """The middle of the last cell (B, 2) of pictures (B, 2), of so many pixels in x and y, in -1..1 of a map
        (H_l, W_l): what lies beyond is read there, as at the border of a map without padding. Infinite at that."""
        last = [
            ((2 * count - 1) / side - 1).masked_fill(count >= side, torch.inf)
            for count, side in zip(self._number(pixels).unbind(-1), (size[1], size[0]))
        ]
        return torch.stack(last, -1)

    def mask(self, pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Which cells (B, H_l, W_l) of a map are of pictures (B, 2), of so many pixels in x and y."""
        x, y = (
            torch.arange(side, device=pixels.device) < count[:, None]
            for count, side in zip(self._number(pixels).unbind(-1), (size[1], size[0]))
        )
        return y[:, :, None] & x[:, None]

    def _number(self, pixels):
        """How many cells they have, of each image and axis."""
        return ((pixels + (self.stride - 1 if self.partial else 0)) // self.stride).clamp(min=1)


PIXELS = Cells(1)  # of the picture itself


def pixels_of(pixel_mask: torch.Tensor) -> torch.Tensor:
    """How many pixels each image has in x and y (B, 2), of a mask (B, H, W)."""
    return torch.stack([pixel_mask[:, 0].sum(-1), pixel_mask[:, :, 0].sum(-1)], -1)


def mask_cells(module: nn.Module, cells: list[Cells] | None) -> None:
    """Let a feature module say exactly which cells are padding. The library asks the mask of pixels at nearest points,
    which on canvases whose sides are no multiples of the stride takes a cell of padding for one of the image.

    The hook is a plain function, so that models can be copied, pickled, compiled and exported.
    """
    if cells is not None:
        module.cells = cells
        module.register_forward_hook(_mask_exactly)


def _mask_exactly(module, args, output):
    if torch.compiler.is_exporting():  # graphs are of images without padding
        return None
    pixels = pixels_of(args[1])
    return [(level, cells.mask(pixels, level.shape[-2:])) for cells, (level, _) in zip(module.cells, output)]


@torch.no_grad()
def map_cells(module: nn.Module) -> list[Cells] | None:
    """The cells of each map of a backbone in its encoder (`detectors.feature_module`), seen by running it on the meta
    device, without values, memory or effect.

    Returns:
        None where that cannot be seen: a backbone that asks for values or takes one size, that is recurrent, which
        would take minutes, or whose strides are no whole numbers.
    """
    if any(isinstance(part, nn.RNNBase) for part in module.modules()):
        return None
    tensors = [*module.named_parameters(), *module.named_buffers()]
    # Parameters that DeepSpeed has divided are empty, and say how they were.
    state = {n: torch.empty(getattr(t, "ds_shape", t.shape), dtype=t.dtype, device="meta") for n, t in tensors}
    dtype = next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)
    image = torch.empty(1, 3, _SIDE, _SIDE + 1, dtype=dtype, device="meta")
    mask = torch.empty(1, _SIDE, _SIDE + 1, dtype=torch.long, device="meta")
    try:
        maps = torch.func.functional_call(module, state, (image, mask))
    except Exception:  # of any kind: a model must not fail to be built because of this
        return None
    sizes = [level.shape[-2:] for level, _ in maps]
    if any(_SIDE % rows for rows, _ in sizes):
        return None
    return [Cells(_SIDE // rows, partial=columns > rows) for rows, columns in sizes]
