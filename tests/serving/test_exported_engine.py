"""A server of an exported model: the same answers as the model's, names from its file."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.exports import SIZE, pictures, torch_detections
from helpers.servers import client_of
from helpers.tiny_models import tiny_model
from PIL import Image

from decodetr import DeCoDetrImageProcessor, Vocabulary
from decodetr.cli import main
from decodetr.export.export_run import export_model
from decodetr.export.settings import ExportSettings
from decodetr.runtime import ExportedDetector
from decodetr.runtime.sessions import TorchSession
from decodetr.serving import server
from decodetr.serving.exported_engine import ExportedEngine

NAMES = ["cat", "dog", "salt, pepper"]


@pytest.fixture(scope="module")
def model():
    return tiny_model("detr", names=NAMES, name_thresholds={"dog": 0.9}).eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "pt2"
    processor = DeCoDetrImageProcessor(size=SIZE)
    export_model(model, processor, folder, ExportSettings("pt2", names_input=True))
    return folder


def png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def same(entry, expected):
    assert [row["name"] for row in entry["detections"]] == expected["names"]
    np.testing.assert_allclose([row["score"] for row in entry["detections"]], expected["scores"], atol=1e-5)
    np.testing.assert_allclose([row["box"] for row in entry["detections"]], expected["boxes"], atol=0.02)


class Stub:
    """What the engine asks of an exported model. Its one detection has the first name and the whole picture."""

    names = NAMES
    description = SimpleNamespace(top_k=7, runtime="onnx", common_threshold=0.3, name_thresholds={"dog": 0.9})

    def __init__(self):
        self.description.thresholds = lambda names, threshold: [threshold or 0.3] * len(names)
        self.made, self.asked = [], []

    def tables_of(self, names):
        self.made.append(names)
        return ("tables of", *names)

    def resized(self, image):
        if image.width > 10 * image.height:
            raise ValueError("the graph takes images of at least 65 pixels a side")
        return np.asarray(image.resize((64, 64)))

    def detect_resized(self, images, sizes, tables, threshold, top_k):
        assert {image.shape for image in images} == {(64, 64, 3)}
        self.asked.append((len(images), tables, top_k))
        return [{"names": ["dog"], "scores": [0.5], "boxes": [[0.0, size[1] / 2, *size]]} for size in sizes]


def test_pictures_wait_at_the_size_of_the_graph_and_boxes_are_of_the_pictures(picture):
    stub = Stub()
    engine = ExportedEngine(stub, "exported", kept_names=2)
    with client_of(engine, batch_size=1) as client:
        for names in ("dog", "dog", "dog,cat", "dog"):
            answer = client.post(f"/v1/detect?names={names}", files={"image": picture.bytes})
            assert answer.json()["detections"] == [{"name": "dog", "score": 0.5, "box": [0.0, 30.0, 90.0, 60.0]}]
        assert client.post("/v1/detect?threshold=0.6", files={"image": picture.bytes}).json()["detections"] == []
        answer = client.post("/v1/detect", files={"image": png(Image.new("RGB", (100, 5)))})
        assert answer.status_code == 422 and "at least 65 pixels a side" in answer.json()["detail"]
        assert client.get("/health").status_code == 200, "a picture is no reason to start the server again"
        assert client.post("/v1/detect?top_k=7", files={"image": picture.bytes}).status_code == 200
        answer = client.post("/v1/detect?top_k=8", files={"image": picture.bytes})
        assert answer.status_code == 422, "fewer than were asked for would be no answer"
        assert answer.json()["detail"] == "top_k: 8 is more than the 7 that this server gives"
        assert client.get("/v1/names").json()["top_k"] == 7
    assert stub.made == [("dog",), ("dog", "cat"), ("dog",)]  # of which the first had to go
    assert [asked for asked in stub.asked if asked[1]][:2] == [(1, ("tables of", "dog"), 7)] * 2
    assert engine.prepare(picture.image).inputs.shape == (64, 64, 3)


@pytest.mark.slow
def test_it_answers_as_the_model(model, folder):
    images = pictures()
    own = torch_detections(model, images)
    files = [("images", png(image)) for image in images]
    with client_of(ExportedEngine(ExportedDetector(folder, allow_pickle=True), "exported", kept_names=3)) as client:
        for given in ({}, {"names": "dog,cat"}, {"names": '"salt, pepper"'}, {"names": "dog,cat"}):
            tables, expected = None, own
            if given:
                names = ["dog", "cat"] if "dog" in given["names"] else ["salt, pepper"]
                vocabulary: Vocabulary = model.vocabulary.select(names)
                tables = model.semantic_stream.tables_with(model.tables(), vocabulary)
                expected = torch_detections(model, images, tables=tables)
            answer = client.post("/v1/detect/batch?threshold=0", files=files, data=given).json()["images"]
            for image, entry, found in zip(images, answer, expected):
                assert (entry["width"], entry["height"]) == image.size
                same(entry, found)
        entry = client.post("/v1/detect?top_k=2&threshold=0", files={"image": files[0][1]}).json()
        assert len(entry["detections"]) == 2
        shown = client.post("/v1/detect", files={"image": files[0][1]}).json()
        same(shown, torch_detections(model, images[:1], None)[0])  # thresholds of the config
        answer = client.post("/v1/detect?names=dogs", files={"image": files[0][1]})
        assert answer.status_code == 422 and "close: dog" in answer.json()["detail"]
        facts = client.get("/v1/names").json()
        assert facts["names"] == NAMES and facts["new_names"] is False and facts["device"] == "pt2"


@pytest.mark.slow
def test_the_command_serves_it(folder, capsys, monkeypatch):
    class Server:
        def __init__(self, engine, settings, tell, access_log):
            assert engine.detector.names == ["dog"] and isinstance(engine, ExportedEngine)
            tell()

        def run_on(self, bound):
            pass

    opened = "decodetr.runtime.exported_detector.open_session"
    monkeypatch.setattr(opened, lambda kind, file, *asked: TorchSession(file))  # which asks for allow_pickle
    monkeypatch.setattr(server, "Server", Server)
    monkeypatch.setattr(server, "bind", lambda *place: server.socket.socket(server.socket.AF_UNIX))
    assert main(["serve", "--model", str(folder), "--names", "dog", "--threads", "1"]) == 0
    assert f"{folder}: 1 names; threshold 0.3; pt2; batches of 8" in capsys.readouterr().out
    assert main(["serve", "--model", str(folder), "--clip", "scenes-clip"]) == 1
    assert "--clip: " in capsys.readouterr().err
    assert main(["serve", "--model", str(folder), "--device", "mps"]) == 1
    assert "--device mps: a model exported as pt2 runs on auto, cpu" in capsys.readouterr().err
