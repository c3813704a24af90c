"""`decodetr pool inspect`: numbers against hand-made pools, the page as JavaScript data, the command, its errors."""

import json
import re

import numpy as np
import pytest
import torch
from helpers.tiny_teachers import write_tiny_clip
from PIL import Image

from decodetr import PrototypePool, Vocabulary
from decodetr.cli import main
from decodetr.pool_builder.embedder import ClipEmbedder
from decodetr.pool_builder.inspection import inspect_pool, summary
from decodetr.pool_builder.pool_page import write_pool_page


def _directions(*degrees):
    radians = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([radians.cos(), radians.sin()], 1).float()


def _pool(**info):
    """Coarse at 0, 90 and 91 degrees with 10, 20 and 4 regions; fine at 5 and 0.5 degrees with 6 and 2."""
    return PrototypePool(
        _directions(0, 90, 91, 5, 0.5),
        level=torch.tensor([0, 0, 0, 1, 1]),
        parent=torch.tensor([-1, -1, -1, 0, 0]),
        count=torch.tensor([10, 20, 4, 6, 2]),
        captions=["a cat", "a </script><b>dog", "a dög, wet", "a small cat", "a cat"],
        info=info,
    )


def test_numbers_by_hand():
    query = _directions(80)[0].double().numpy()
    found = inspect_pool(_pool(), Vocabulary(["cat", "dog", "bird"], _directions(2, 90, 200)), {"what": query})
    assert (found["coarse"], found["fine"], found["regions"], found["count"]) == (3, 2, 34, [4, 10.0, 20])
    assert found["in_fine"] == pytest.approx(8 / 34)
    cosines = np.cos(np.deg2rad([90, 91, 5, 0.5, 1, 85, 89.5, 86, 90.5, 4.5]))
    assert found["mean_cosine"] == pytest.approx(cosines.mean(), abs=1e-6)
    (coarse, fine) = found["duplicates"]  # of one level: 90 and 91 degrees, 5 and 0.5; not 0 and 0.5
    assert coarse["rows"] == [1, 2] and coarse["cosine"] == pytest.approx(np.cos(np.deg2rad(1)), abs=1e-6)
    assert fine["rows"] == [3, 4] and fine["captions"] == ["a small cat", "a cat"]
    assert [entry["row"] for entry in found["nearest"]["what"]] == [1, 2, 3, 4, 0]
    assert found["nearest"]["what"][0]["cosine"] == pytest.approx(np.cos(np.deg2rad(10)), abs=1e-6)
    assert [(entry["name"], entry["row"]) for entry in found["names"]] == [("bird", 2), ("cat", 4), ("dog", 1)]
    assert found["names"][0]["cosine"] == pytest.approx(np.cos(np.deg2rad(109)), abs=1e-6)
    text = summary(found)
    assert "3 coarse and 2 fine prototypes for 34 regions" in text and "'bird': 'a dög, wet'" in text


def test_a_pool_of_another_encoder_is_refused():
    names = Vocabulary(["cat"], _directions(0), {"encoder": "b", "encoder_fingerprint": "2" * 16})
    with pytest.raises(ValueError, match="build both with the same one"):
        inspect_pool(_pool(encoder="a", encoder_fingerprint="1" * 16), names)


def test_a_vocabulary_of_another_width_is_refused(tmp_path, capsys):
    _pool().save_pretrained(tmp_path / "pool")
    Vocabulary(["cat"], torch.eye(3)[:1]).save_pretrained(tmp_path / "names")
    assert main(["pool", "inspect", str(tmp_path / "pool"), "--vocabulary", str(tmp_path / "names")]) == 1
    error = capsys.readouterr().err
    assert f"--vocabulary {tmp_path / 'names'}: expected embeddings of width 2, as those of the pool, got 3" in error
    assert "decodetr vocabulary build --clip CLIP" in error
    clip = write_tiny_clip(tmp_path / "clip")
    words = ["pool", "inspect", str(tmp_path / "pool"), "--text", "a dog", "--clip", str(clip)]
    assert main(words) == 1
    assert "expected a CLIP with embeddings of width 2, as those of the pool, got" in capsys.readouterr().err


def test_the_page_holds_every_prototype_and_no_caption_can_break_it(tmp_path):
    write_pool_page(_pool(), tmp_path / "map.html")
    page = (tmp_path / "map.html").read_text()
    points = json.loads(re.search(r"const P=(\{.*\});\n", page)[1])
    assert points["caption"] == _pool().captions and points["count"] == [10, 20, 4, 6, 2]
    assert points["level"] == [0, 0, 0, 1, 1] and points["parent"] == [-1, -1, -1, 0, 0]
    assert points["order"] == [1, 0, 3, 2, 4] and max(map(abs, points["x"] + points["y"])) <= 1
    assert page.count("</script>") == 1 and "<b>" not in page and not re.search(r"https?://|@[A-Z]+@", page)
    write_pool_page(PrototypePool(torch.eye(2)), tmp_path / "bare.html")  # without captions or fine prototypes
    assert "2 coarse and 0 fine prototypes" in (tmp_path / "bare.html").read_text()


def test_command(tmp_path, capsys):
    clip = write_tiny_clip(tmp_path / "clip")
    embedder = ClipEmbedder(clip)
    texts = ["a red cup", "a dog", "a blue star"]
    info = {key: str(value) if value else value for key, value in embedder.info.items()}
    embeddings = torch.from_numpy(embedder.embed_texts(texts))
    PrototypePool(embeddings, captions=texts, info=info).save_pretrained(tmp_path / "pool")
    Vocabulary(["dog, wet"], embeddings[1:2], info).save_pretrained(tmp_path / "names")
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.png")
    words = ["pool", "inspect", str(tmp_path / "pool"), "--vocabulary", str(tmp_path / "names")]
    more = ["--text", "a dog", "--image", str(tmp_path / "a.png"), "--output", str(tmp_path / "out")]
    assert main([*words, *more]) == 0
    out = capsys.readouterr().out
    assert "nearest to 'a dog':\n  1.000  'a dog'" in out and "1.000  'dog, wet': 'a dog'" in out
    found = json.loads((tmp_path / "out" / "pool.json").read_text())
    assert list(found["nearest"]) == ["a dog", str(tmp_path / "a.png")]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["map.html", "map.png", "pool.json"]
    other = write_tiny_clip(tmp_path / "other", seed=1)
    assert main([*words, "--text", "a dog", "--clip", str(other)]) == 1
    assert "give that one" in capsys.readouterr().err
    assert main(["pool", "inspect", str(tmp_path / "none")]) == 1
    assert "cannot be loaded" in capsys.readouterr().err
