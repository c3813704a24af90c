"""Embeddings with the cosines of a real CLIP (ViT-B/32), made from these figures: texts have a mean cosine of 0.75 and
a nearest other text at about 0.85; an image has 0.27 with its right text and 0.19 +- 0.025 with the others."""

import torch
from torch.nn import functional as F

DIM, CONTENT = 128, 64  # the width; that of the space in which texts differ
TEXTS, RIGHT, OTHERS, SPREAD = 0.75, 0.27, 0.19, 0.025


def clip_texts(count, seed=0):
    """(count, DIM) unit rows, the texts of that many things."""
    content = torch.randn(count, CONTENT, generator=torch.Generator().manual_seed(seed))
    texts = torch.zeros(count, DIM)
    texts[:, 0] = TEXTS**0.5  # what all texts share
    texts[:, 1 : CONTENT + 1] = (1 - TEXTS) ** 0.5 * F.normalize(content, dim=-1)
    return texts


def clip_images(texts, seed=1):
    """(n, DIM) unit rows, an image of each text's thing: `RIGHT` with its text, `OTHERS` +- `SPREAD` with others."""
    generator, share = torch.Generator().manual_seed(seed), (1 - TEXTS) ** 0.5
    content = texts[:, 1 : CONTENT + 1] / share
    about = (RIGHT - OTHERS) / share * content
    # What else is in the picture, in directions that texts have, but not in that of the right one.
    else_ = torch.randn(content.shape, generator=generator)
    else_ = F.normalize(else_ - (else_ * content).sum(-1, keepdim=True) * content, dim=-1)
    size = (SPREAD / share) ** 2 * CONTENT - ((RIGHT - OTHERS) / share) ** 2
    images = torch.zeros(len(texts), DIM)
    images[:, 0] = OTHERS / TEXTS**0.5
    images[:, 1 : CONTENT + 1] = about + size**0.5 * else_
    images[:, -1] = (1 - images.square().sum(-1)).sqrt()  # the gap between images and texts
    return images
