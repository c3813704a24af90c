"""The embedding space of a run is that of the text model as it is now."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.tiny_models import tiny_config
from helpers.tiny_teachers import write_tiny_clip

from decodetr import PrototypePool
from decodetr.modeling_decodetr.text_encoder import encoder_info, load_text_model
from decodetr.processing.embedding_columns import embedding_array
from decodetr.training.options.options import TrainOptions
from decodetr.training.start import space
from decodetr.utils.files import write_json


def _fingerprint(name):
    return space.text_space(name)[1]["encoder_fingerprint"]


def test_a_text_model_that_changed_or_lies_elsewhere_has_its_own_space(tmp_path, monkeypatch):
    loads = []
    monkeypatch.setattr(space, "load_text_model", lambda *args: loads.append(args) or load_text_model(*args))
    found = []
    for place, seed in (("a", 0), ("b", 1)):
        write_tiny_clip(tmp_path / place / "clip", seed=seed)
        monkeypatch.chdir(tmp_path / place)
        found += [_fingerprint("clip"), _fingerprint("clip")]
    assert len(loads) == 2  # once each
    write_tiny_clip(tmp_path / "b" / "clip", seed=2)  # trained again
    found.append(_fingerprint("clip"))
    assert found[0] == found[1] and found[2] == found[3] and len(set(found)) == 3
    assert found[-1] == encoder_info(load_text_model("clip")[0])["encoder_fingerprint"]


def _regions_of(folder, fingerprint, width=16):
    """A regions data set of a row, that says which CLIP made it."""
    folder.mkdir()
    embeds = embedding_array(np.zeros((1, width), np.float32))
    pq.write_table(pa.table({"image_embed": embeds}), folder / "regions-00000-of-00001.parquet")
    write_json(folder / "manifest.json", {"identity": {"encoder": "clip", "encoder_fingerprint": fingerprint}})
    return str(folder)


def test_regions_of_another_clip_of_the_same_width_are_refused(tmp_path):
    """Many CLIPs have the width 512: their embeddings have nothing to do with each other."""
    config, info = tiny_config(), {"encoder": "clip", "encoder_fingerprint": "a"}
    pool = PrototypePool(torch.eye(16), level=torch.zeros(16, dtype=torch.int64), info=info)
    mine, other = (_regions_of(tmp_path / key, key) for key in "ab")
    for regions in ({"regions": other}, {"regions": mine, "replay_regions": other}):
        with pytest.raises(ValueError, match=r"regions .*b is of .*fingerprint b.*, --pool of .*fingerprint a"):
            space.check_space(TrainOptions(config="c", pool="p", **regions), config, None, pool, None, None)
    space.check_space(TrainOptions(config="c", pool="p", regions=mine), config, None, pool, None, None)
    (tmp_path / "b" / "manifest.json").unlink()  # nothing is known of them
    space.check_space(TrainOptions(config="c", pool="p", regions=other), config, None, pool, None, None)
    wide = _regions_of(tmp_path / "wide", "a", width=8)
    with pytest.raises(ValueError, match=r"\(width 8\)"):
        space.check_space(TrainOptions(config="c", pool="p", regions=wide), config, None, pool, None, None)


def test_a_model_that_goes_on_takes_regions_of_its_own_clip(tmp_path):
    config = tiny_config(pool_info={"encoder": "clip", "encoder_fingerprint": "a"})
    space.check_space(
        TrainOptions(model="m", regions=_regions_of(tmp_path / "a", "a")), config, None, None, None, None
    )
    with pytest.raises(ValueError, match=r"--model m of .*fingerprint a"):
        options = TrainOptions(model="m", regions=_regions_of(tmp_path / "b", "b"))
        space.check_space(options, config, None, None, None, None)
