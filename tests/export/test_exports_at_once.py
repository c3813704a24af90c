"""Exports of several threads and processes at once."""

import threading
import time

import pytest
from filelock import FileLock
from helpers.exports import SIZE
from helpers.tiny_models import tiny_model

from decodetr import DeCoDetrImageProcessor
from decodetr.export.export_run import export_model
from decodetr.export.settings import ExportSettings
from decodetr.utils.files import LOCK


@pytest.fixture(scope="module")
def model():
    return tiny_model("detr").eval()


def test_threads_export_one_graph_at_a_time(model, tmp_path, monkeypatch):
    busy, most = [], []

    def export(*given):
        busy.append(given)
        time.sleep(0.1)
        most.append(len(busy))
        busy.pop()

    monkeypatch.setattr("decodetr.export.export_run._export", export)
    folders = [tmp_path / "a", tmp_path / "b"]
    given = model, DeCoDetrImageProcessor(size=SIZE)
    threads = [
        threading.Thread(target=export_model, args=(*given, folder, ExportSettings("onnx"))) for folder in folders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1]


def test_one_export_at_a_time_in_a_folder(model, tmp_path):
    with FileLock(tmp_path / LOCK), pytest.raises(ValueError, match="another run .* writes here"):
        export_model(model, DeCoDetrImageProcessor(size=SIZE), tmp_path, ExportSettings("pt2"))
    assert not (tmp_path / "export.json").exists()
