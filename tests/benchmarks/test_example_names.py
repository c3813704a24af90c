"""benchmarks/example_names.py at a tiny size: which vocabularies are compared."""

from types import SimpleNamespace

import numpy as np
import torch
from helpers.tiny_teachers import write_tiny_clip
from PIL import Image

from decodetr import PrototypePool, Vocabulary
from decodetr.modeling_decodetr.embedding_space import as_texts


def test_each_draw_of_examples_is_embedded_in_three_ways(tmp_path):
    from example_names import vocabularies

    clip = write_tiny_clip(tmp_path)
    rng = np.random.default_rng(0)
    examples = {
        name: [Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)) for _ in range(4)] for name in "ab"
    }
    space = {"text_mean": [0.2] * 8, "image_mean": [-0.2] * 8}
    model = SimpleNamespace(
        vocabulary=Vocabulary(["a", "b"], torch.eye(8)[:2]),
        prototype_pool=PrototypePool(torch.eye(8), info={"space": space}),
    )
    made = vocabularies(model, examples, clip, [1, 4], 2)
    kinds = ["as they are", "moved by the means", "moved"]
    assert list(made) == [("words", 0), *((kind, k) for k in (1, 4) for kind in kinds)]
    assert all(len(found) == 2 for key, found in made.items() if key[1])
    one, other = made["as they are", 1]
    assert not torch.allclose(one.embeddings, other.embeddings)  # other examples
    same, again = (vocabulary.embeddings for vocabulary in made["as they are", 4])
    assert torch.allclose(same, again, atol=1e-5)  # all of them
    assert torch.allclose(made["moved by the means", 1][0].embeddings, as_texts(one.embeddings, space), atol=1e-6)
    moved = as_texts(one.embeddings, space, torch.eye(8))
    assert torch.allclose(made["moved", 1][0].embeddings, moved, atol=1e-5)
