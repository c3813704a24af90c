"""Augmentations of training images: flip, scale, crop, colour, blur, noise. Object and region boxes move together.

Flip mirrors left to right. Scale and crop choose one window of the image, in one step: a scale above 1 looks at a part
of the image, below 1 the image lies on a larger grey canvas. A crop then takes a part of that. Nothing is resampled
here, as the image processor resizes once. Colour changes brightness, contrast and saturation, and never hue: names
contain colours.

A box is clipped to the window, and kept if at least `min_visible` of its area is in it. A window that would lose
every object of an image that has some is drawn again.

Random numbers depend on (seed, epoch, image_id) alone: not on the worker, the order, or what else drew. Embeddings of
regions describe the un-augmented region, a deviation from the paper's online teacher.
"""

import math

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter

_WINDOW_TRIES = 10
_ASPECTS = (3 / 4, 4 / 3)  # of the crop, relative to the image
_CANVAS_GREY = (124, 116, 104)  # ImageNet's mean, 0 after normalisation


class DetectionAugmentation:
    """
    Random, reproducible changes of an image and its boxes.

    Args:
        seed (int): not negative.
        flip (float): probability of mirroring.
        scale (tuple[float, float]): range of the zoom, log-uniform. (1, 1) for none.
        crop (float): probability of a crop.
        crop_area (tuple[float, float]): range of the crop's share of the area.
        colour (float): brightness, contrast and saturation are scaled by up to 1 -+ colour. 0 for none.
        blur (float): Gaussian blur of a radius up to this, in pixels. 0 for none.
        noise (float): Gaussian noise of a standard deviation up to this, of 0..255. 0 for none.
        min_visible (float): share of a box's area that must stay visible for the box to be kept, above 0 up to 1.
    """

    def __init__(
        self,
        seed: int,
        flip: float = 0.5,
        scale: tuple[float, float] = (0.8, 1.4),
        crop: float = 0.3,
        crop_area: tuple[float, float] = (0.4, 1.0),
        colour: float = 0.2,
        blur: float = 0.0,
        noise: float = 0.0,
        min_visible: float = 0.3,
    ) -> None:
        for name, value in (("flip", flip), ("crop", crop), ("colour", colour)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in 0..1, got {value}")
        for name, value in (("blur", blur), ("noise", noise)):
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if not 0 < min_visible <= 1:
            raise ValueError(f"min_visible must be above 0 and at most 1, got {min_visible}")
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale must be two ascending positive numbers, got {scale}")
        if not 0 < crop_area[0] <= crop_area[1] <= 1:
            raise ValueError(f"crop_area must be two ascending numbers in 0..1, got {crop_area}")
        if int(seed) != seed or seed < 0:
            raise ValueError(f"seed must be a non-negative integer, got {seed}")
        self.seed = int(seed)
        self.flip = flip
        self.scale = tuple(scale)
        self.crop = crop
        self.crop_area = tuple(crop_area)
        self.colour = colour
        self.blur = blur
        self.noise = noise
        self.min_visible = min_visible

    def __call__(
        self, image: Image.Image, boxes: dict[str, torch.Tensor], *, epoch: int, image_id: int
    ) -> tuple[Image.Image, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """
        Args:
            image (PIL.Image): RGB.
            boxes (dict[str, tensor]): (n, 4) float32 x0, y0, x1, y1 pixels, within the image. "boxes" are the objects.
            epoch (int), image_id (int): what the random numbers depend on, besides the seed.

        Returns:
            (image, boxes, keep): the changed image; the boxes that are left, clipped to it, (sum of keep, 4); and for
            every key which of the given rows those are, (n,) bool, to filter labels and embeddings with.
        """
        rng = np.random.default_rng([self.seed, int(epoch), int(image_id) % 2**64])
        flip = rng.random() < self.flip
        colours = rng.uniform(1 - self.colour, 1 + self.colour, size=3)
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            boxes = {name: _flip(value, image.width) for name, value in boxes.items()}

        window, objects = (0, 0, *image.size), boxes.get("boxes")
        for _ in range(_WINDOW_TRIES):
            candidate = self._window(rng, *image.size)
            if objects is None or not len(objects) or self._visible(objects, candidate).any():
                window = candidate
                break
        keep = {name: self._visible(value, window) for name, value in boxes.items()}
        boxes = {name: _to_window(value[keep[name]], window) for name, value in boxes.items()}
        image = _cut(image, window)
        if self.colour:
            for enhancer, factor in zip((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), colours):
                image = enhancer(image).enhance(float(factor))
        if self.blur:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, self.blur)))
        if self.noise:
            pixels = np.asarray(image) + rng.normal(0, rng.uniform(0, self.noise), (image.height, image.width, 3))
            image = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
        return image, boxes, keep

    def _window(self, rng, width, height):
        """(x0, y0, x1, y1) in whole pixels of the image, possibly beyond its borders."""
        zoom = math.exp(rng.uniform(*(math.log(value) for value in self.scale)))
        x0, y0, window_width, window_height = _place(rng, 0, 0, width, height, width / zoom, height / zoom)
        crop, area = rng.random() < self.crop, rng.uniform(*self.crop_area)
        aspect = math.exp(rng.uniform(*(math.log(value) for value in _ASPECTS)))
        offsets = rng.random(2)
        if crop:
            crop_width = min(window_width * math.sqrt(area * aspect), window_width)
            crop_height = min(window_height * math.sqrt(area / aspect), window_height)
            x0 += offsets[0] * (window_width - crop_width)
            y0 += offsets[1] * (window_height - crop_height)
            window_width, window_height = crop_width, crop_height
        x0, y0 = round(x0), round(y0)
        return x0, y0, x0 + max(1, round(window_width)), y0 + max(1, round(window_height))

    def _visible(self, boxes, window):
        """(n,) bool: enough of the box is in the window. Boxes without area never are."""
        clipped = _clip(boxes, window)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        left = (clipped[:, 2] - clipped[:, 0]) * (clipped[:, 3] - clipped[:, 1])
        # A box on the threshold must not be lost to rounding.
        return (left > 0) & (left >= (self.min_visible - 1e-6) * area)


def _place(rng, x0, y0, width, height, new_width, new_height):
    """A window of the new size at a random place inside the old one, or around it where it is larger."""
    offsets = rng.random(2)
    return (
        x0 + offsets[0] * (width - new_width),
        y0 + offsets[1] * (height - new_height),
        new_width,
        new_height,
    )


def _flip(boxes, width):
    x0, y0, x1, y1 = boxes.unbind(1)
    return torch.stack([width - x1, y0, width - x0, y1], dim=1)


def _clip(boxes, window):
    low = boxes.new_tensor([window[0], window[1]] * 2)
    high = boxes.new_tensor([window[2], window[3]] * 2)
    return boxes.clamp(min=low, max=high)


def _to_window(boxes, window):
    return _clip(boxes, window) - boxes.new_tensor([window[0], window[1]] * 2)


def _cut(image, window):
    x0, y0, x1, y1 = window
    if window == (0, 0, *image.size):
        return image
    if x0 >= 0 and y0 >= 0 and x1 <= image.width and y1 <= image.height:
        return image.crop(window)
    canvas = Image.new("RGB", (x1 - x0, y1 - y0), _CANVAS_GREY)
    canvas.paste(image, (-x0, -y0))
    return canvas
