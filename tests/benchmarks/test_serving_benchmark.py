"""benchmarks/serving.py: what it counts is right, and its command runs."""

import io
import json

import pytest
from PIL import Image


def test_figures_are_of_the_answered_requests():
    import serving

    found = [(200, i / 1000) for i in range(1, 41)] + [(429, 0.5)] * 10
    figures = serving.figures(found, 8.0)
    assert figures == {"a_second": 5.0, "p50": 20.5, "p95": 39.0, "statuses": {200: 40, 429: 10}}


def test_pictures_are_files_of_the_size_that_was_asked_for():
    import serving

    contents = serving.pictures(2, (60, 80))
    assert [Image.open(io.BytesIO(content)).size for content in contents] == [(80, 60)] * 2
    assert contents[0] != contents[1] and Image.open(io.BytesIO(contents[0])).format == "JPEG"


@pytest.mark.slow
@pytest.mark.enable_socket
def test_serving_command(tmp_path, capsys, tiny_detector_folder):
    import serving

    words = ["--model", tiny_detector_folder, "--requests", 6, "--rounds", 1, "--clients", 1, 3, "--overload", 80]
    file = tmp_path / "serving.json"
    assert serving.main([str(word) for word in [*words, "--image-size", 60, 80, "--output", file]]) == 0
    result = json.loads(file.read_text())
    assert list(result["rounds"]) == [
        "bare forward", "direct call, file to boxes", "server, 1 client", "server, 3 clients",
    ]  # fmt: skip
    assert all(found[0]["statuses"] == {"200": 6} for found in result["rounds"].values())
    assert result["exit_status"] == 0 and len(result["memory_mb"]) == 3 and set(result["threads"]) == {"1", "2", "4"}
    flood = result["overload"]
    assert flood["statuses"] == flood["statuses_of_the_server"] and sum(flood["statuses"].values()) == 80
    assert set(flood["statuses"]) == {"200", "429"}
    assert "memory of the server, MB" in capsys.readouterr().out
