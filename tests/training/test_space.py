"""The embedding space of a run is that of the text model as it is now."""

from helpers.tiny_teachers import write_tiny_clip

from decodetr.modeling_decodetr.text_encoder import encoder_info, load_text_model
from decodetr.training.start import space


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
