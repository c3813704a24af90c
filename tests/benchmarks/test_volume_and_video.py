"""The benchmarks of `predict` at a tiny size: they run what users run, and every stage is timed."""

import json

import pytest
from helpers.tiny_models import tiny_model

import decodetr


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    import predict_volume
    import video

    small = {"size": {"height": 64, "width": 64}}
    build = lambda family: tiny_model(preprocessing=small)  # noqa: E731
    monkeypatch.setattr(predict_volume, "build", build)
    monkeypatch.setattr(video, "build", build)
    assert decodetr.DeCoDetrImageProcessor(**small).size["height"] == 64


def test_a_folder(tmp_path, capsys):
    import predict_volume

    words = "--models detr --names 3 --count 3 --size 80 60 --boxes 2 --batch-size 2 --threads 1 --warmup 0 --runs 1"
    assert predict_volume.main([*words.split(), "--output", str(tmp_path / "volume.json")]) == 0
    document = json.loads((tmp_path / "volume.json").read_text())
    assert list(document["models"]) == ["DETR-R50, 3 names"]
    for result in document["models"].values():
        assert result["images"] == 3 and set(result["stages"]) == set(predict_volume.STAGES)
        assert all(seconds > 0 for seconds in result["stages"].values())
        assert min(result["rates"]["bare"]["median"], result["rates"]["no pictures"]["median"]) > 0
        assert result["shares"]["jpg"]["runs"] == result["shares of cores"]["png"]["runs"] == 1
        assert result["shares"]["png"]["median"] > 0
    assert "| PNG files |" in capsys.readouterr().out


def test_a_video(tmp_path, capsys):
    pytest.importorskip("trackers")
    import video

    words = "--model detr --names 3 --frames 5 --size 96 64 --boxes 2 --batch-size 4 --threads 1 --warmup 0 --runs 1"
    assert video.main([*words.split(), "--output", str(tmp_path / "video.json")]) == 0
    result = json.loads((tmp_path / "video.json").read_text())
    assert result["frames"] == 5 and set(result["rates"]) == {"bare model", *video.RUNS}
    assert set(result["stages"]) == set(video.STAGES) and all(result["stages"][name] > 0 for name in video.STAGES)
    assert "frames of the video a second" in capsys.readouterr().out
