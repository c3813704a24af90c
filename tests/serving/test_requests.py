"""What a request may say, and what it gets: what a direct call gives, or a message that says what to do."""

import base64
import io
import json

import pytest
from helpers.servers import client_of
from PIL import Image

import decodetr
from decodetr.inference.detection import detect
from decodetr.serving.model_engine import ModelEngine

PNG = {"content-type": "image/png"}


def wanted(loaded, image, names=None, threshold=0.0, top_k=100):
    """(name, score, box) of a direct call, rounded to what a batch may change."""
    found = decodetr.detect(loaded[0], image, names, threshold, top_k=top_k, image_processor=loaded[1])
    rows = zip(found.data["class_name"].tolist(), found.confidence.tolist(), found.xyxy.tolist())
    return [(name, pytest.approx(score, rel=1e-4), pytest.approx(box, abs=1e-2)) for name, score, box in rows]


def rows(entry):
    return [(row["name"], row["score"], row["box"]) for row in entry["detections"]]


def test_a_body_a_form_and_json_get_the_same_as_a_direct_call(client, loaded, picture):
    encoded = base64.b64encode(picture.bytes).decode()
    answers = [
        client.post("/v1/detect?threshold=0", content=picture.bytes, headers=PNG),
        client.post("/v1/detect", files={"image": picture.bytes}, data={"threshold": "0"}),
        client.post("/v1/detect", json={"image": encoded, "threshold": 0}),
        client.post("/v1/detect", json={"image": f"data:image/png;base64,{encoded}", "threshold": 0}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 4
    entry = answers[0].json()
    assert all(answer.json() == entry for answer in answers)
    expected = wanted(loaded, picture.image)
    assert rows(entry) == expected and len(expected) == 36
    assert {key: entry[key] for key in ("width", "height", "turned")} == {"width": 90, "height": 60, "turned": False}
    assert entry["best_score"] == entry["detections"][0]["score"]


@pytest.mark.parametrize(
    "given",
    [
        {"params": {"names": 'dog,"salt, pepper"'}},
        {"params": {"names": ["dog", '"salt, pepper",dog']}},
        {"json": {"names": ["dog", "salt, pepper", " dog "]}},
        {"json": {"names": 'dog, "salt, pepper"'}},
        {"data": {"names": ["dog", '"salt, pepper"']}},
    ],
)
def test_names_of_a_request(client, loaded, picture, given):
    if "json" in given:
        given = {"json": given["json"] | {"image": base64.b64encode(picture.bytes).decode(), "threshold": 0}}
    else:
        given = {"files": {"image": picture.bytes}, **given}
        given["params"] = given.get("params", {}) | {"threshold": 0}
    answer = client.post("/v1/detect", **given)
    assert rows(answer.json()) == wanted(loaded, picture.image, ["dog", "salt, pepper"])
    assert loaded[0].vocabulary.names == ["cat", "dog", "salt, pepper"]


def test_names_are_given_back_as_they_were_given(client, loaded, picture):
    entry = client.post("/v1/detect?names=a dog.&threshold=0", content=picture.bytes, headers=PNG).json()
    assert {row["name"] for row in entry["detections"]} == {"a dog."}
    assert rows(entry) == wanted(loaded, picture.image, ["a dog."])


def test_thresholds_and_top_k(loaded, picture):
    model, processor = loaded
    (found,) = detect(model, processor, [picture.image], 0.0)
    middle = (found["scores"][4] + found["scores"][5]) / 2
    dog = [score for name, score in zip(found["names"], found["scores"]) if name == "dog"]
    post = {"content": picture.bytes, "headers": PNG}
    with client_of(ModelEngine(*loaded, "tiny"), threshold=middle, top_k=3) as client:
        assert len(client.post("/v1/detect", **post).json()["detections"]) == 3
        entry = client.post("/v1/detect?top_k=20", **post).json()
        assert len(entry["detections"]) == 5 and entry["best_score"] == pytest.approx(found["scores"][0], rel=1e-4)
        assert len(client.post("/v1/detect?top_k=20&threshold=0", **post).json()["detections"]) == 20
        assert client.post("/v1/detect?threshold=1", **post).json()["detections"] == []
    model.config.score_threshold, model.config.name_thresholds = 0.0, {"dog": dog[1]}
    try:
        with client_of(ModelEngine(*loaded, "tiny")) as client:
            entry = client.post("/v1/detect", **post).json()
            facts = client.get("/v1/names").json()
    finally:
        model.config.score_threshold = model.config.name_thresholds = None
    assert [row["name"] for row in entry["detections"]].count("dog") == 1 and len(entry["detections"]) > 20
    assert facts["names"] == ["cat", "dog", "salt, pepper"] and facts["name_thresholds"] == {"dog": dog[1]}


def test_several_pictures_in_one_request(client, loaded, picture):
    other = Image.new("L", (40, 50), 30)
    stream = io.BytesIO()
    other.save(stream, "JPEG")
    contents = [picture.bytes, stream.getvalue(), picture.bytes]
    files = [("images", (f"{i}.png", content)) for i, content in enumerate(contents)]
    form = client.post("/v1/detect/batch", files=files, data={"names": "dog", "threshold": "0"})
    encoded = [base64.b64encode(content).decode() for content in contents]
    said = client.post("/v1/detect/batch", json={"images": encoded, "names": ["dog"], "threshold": 0})
    entries = form.json()["images"]
    assert [(entry["width"], entry["height"]) for entry in entries] == [(90, 60), (40, 50), (90, 60)]
    decoded = Image.open(io.BytesIO(contents[1])).convert("RGB")
    for found in (entries, said.json()["images"]):
        assert [rows(entry) for entry in found] == [
            wanted(loaded, image, ["dog"]) for image in (picture.image, decoded, picture.image)
        ]


def test_a_picture_is_turned_as_exif_says(client, loaded, picture):
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.image.save(stream, "PNG", exif=exif)
    entry = client.post("/v1/detect?threshold=0", content=stream.getvalue(), headers=PNG).json()
    assert (entry["width"], entry["height"], entry["turned"]) == (60, 90, True)
    assert rows(entry) == wanted(loaded, picture.image.transpose(Image.Transpose.ROTATE_270))


def test_new_names_are_embedded_by_the_recorded_text_model_once(text_detector, picture, monkeypatch):
    from decodetr.inference import candidates
    from decodetr.inference.loading import load_model

    folder, _ = text_detector
    loaded, asked = load_model(folder, device="cpu"), []
    choose = candidates.choose_names
    monkeypatch.setattr(candidates, "choose_names", lambda *args: (asked.append(args[1]), choose(*args))[1])
    with client_of(ModelEngine(*loaded, "tiny", kept_names=3)) as client:
        for names in ("dog,bird", "bird,cat", "bird", "bird,fish", "dog,cat"):
            entry = client.post(f"/v1/detect?names={names}&threshold=0", content=picture.bytes, headers=PNG).json()
            assert rows(entry) == wanted(loaded, picture.image, names.split(","))
        assert [names for names in asked if names][:1] == [["bird"]]
        engine = client.app.state.service.engine
        assert asked.count(["bird"]) <= 2 and len(engine.kept) <= 3 and len(engine._candidates._rows) == 2
    with client_of(ModelEngine(*loaded, "tiny"), new_names=False) as client:
        answer = client.post("/v1/detect?names=dog,bird", content=picture.bytes, headers=PNG)
        assert answer.status_code == 422 and "GET /v1/names" in answer.json()["detail"]
        assert client.post("/v1/detect?names=dog", content=picture.bytes, headers=PNG).status_code == 200
        assert client.get("/v1/names").json()["new_names"] is False


def test_names_that_cannot_be_embedded(client, picture):
    answer = client.post("/v1/detect?names=dogs", content=picture.bytes, headers=PNG)
    assert answer.status_code == 422 and "dogs" in answer.json()["detail"] and "dog" in answer.json()["detail"]


GIF = b"GIF89a" + bytes(20)
BAD = [
    ({"content": b""}, 415, "Content-Type is missing: send the picture as the body"),
    ({"data": {"a": "b"}}, 415, "application/x-www-form-urlencoded: send the picture"),
    ({"content": b"", "headers": PNG}, 422, "the picture: expected the file of a picture (AVIF, BMP"),
    ({"content": b"<svg/>", "headers": {"content-type": "image/svg+xml"}}, 422, "UnidentifiedImageError"),
    ({"content": GIF, "headers": {"content-type": "image/gif"}}, 422, "expected the file of a picture"),
    ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "Invalid JSON: EOF"),
    ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 422, "Invalid JSON: recursion"),
    ({"json": {}}, 422, "image: Field required"),
    ({"json": []}, 422, "Input should be an object"),
    ({"json": {"image": "é"}}, 422, "image: expected the bytes of a picture in base64"),
    ({"json": {"image": "aGk"}}, 422, "image: expected the bytes of a picture in base64, got: Incorrect padding"),
    ({"json": {"image": "aGk="}}, 422, "image: expected the file of a picture"),
    ({"json": {"image": "https://a.b/c.png"}}, 422, "image: addresses are not fetched; send the bytes"),
    ({"json": {"image": "file:///etc/passwd"}}, 422, "image: addresses are not fetched"),
    ({"json": {"image": "", "name": "cat"}}, 422, "name: Extra inputs are not permitted"),
    ({"files": {"picture": b"x"}}, 422, "the form has a file 'picture', expected 'image': curl -F image=@photo.jpg"),
    ({"files": {"other": (None, "x")}}, 422, "the form has no file 'image'"),
    ({"files": [("image", b"x"), ("image", b"x")]}, 400, "files is 1; send one picture as image="),
    ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "cannot be read: Missing boundary"),
    ({"json": {"image": "", "threshold": True}}, 422, "threshold: Value error, expected a number, got true"),
    ({"json": {"image": "", "top_k": True}}, 422, "top_k: Value error, expected a number, got true"),
]  # fmt: skip


@pytest.mark.parametrize("given, status, message", BAD)
def test_a_body_that_cannot_be_used(client, given, status, message):
    answer = client.post("/v1/detect", **given)
    assert answer.status_code == status and message in answer.json()["detail"], answer.text
    assert answer.json().keys() == {"detail"} and "Traceback" not in answer.text
    assert status != 400 or answer.json()["detail"].endswith("several to /v1/detect/batch as images=@photo.jpg")


@pytest.mark.parametrize("address, pictures", [("/v1/detect", "image"), ("/v1/detect/batch", "images")])
def test_a_misspelt_word_is_refused_wherever_it_stands(client, picture, address, pictures):
    image = base64.b64encode(picture.bytes).decode()
    post = {"files": {pictures: picture.bytes}}
    for words, said in (
        ({"treshold": "0.99"}, "the address has 'treshold', expected names, threshold, top_k"),
        ({"threshold": "0", "name": "cat", "k": "1"}, "the address has 'k', 'name', expected names, threshold, top_k"),
        ({"x" * 1000: ""}, f"the address has '{'x' * 40}', expected"),
        ({"threshold": ["0.1", "0.9"]}, "threshold is in the address more than once; give it once"),
    ):
        answer = client.post(address, params=words, **post)
        assert answer.status_code == 422 and answer.json()["detail"].startswith(said)
    assert client.post(address, params={"threshold": "0", "names": "cat", "top_k": "1"}, **post).status_code == 200
    for body in (
        {**post, "data": {"treshold": "0.99"}},
        {"json": {pictures: [image] if pictures == "images" else image, "treshold": 0.99}},
    ):
        answer = client.post(address, **body)
        assert answer.status_code == 422 and answer.json()["detail"] == "treshold: Extra inputs are not permitted"


LARGE = [
    (
        '{"images": [' + "[]," * 1_000_000 + "1]}",
        "the body has 2,000,002 commas and brackets, more than the 1,000,000",
    ),
    ('{"images": [' + "1," * 200_000 + "1]}", "images.0: Input should be a valid string"),
    ('{"images": [' + '"",' * 200_000 + '""]}', "images: 200001 pictures, more than the 16 of one request"),
    (
        '{"images": [""], "names": [' + "1," * 200_000 + "1]}",
        "names.list[str].0: Input should be a valid string; names.str: Input should be a valid string",
    ),
    ('{"images": [""], "names": [' + '"",' * 200_000 + '""]}', "names: 200,001 given, more than the 2,000 of"),
    (
        '{"images": [""], "names": "' + "aaa," * 300_000 + '"}',
        "names: 1,200,000 characters, more than the 1,006,000 of",
    ),
    (
        "{" + ",".join(f'"{"k" * 100}{i}": 1' for i in range(20_000)) + "}",
        "the body has 20,001 mistakes; expected names, threshold, top_k, images",
    ),
    (
        "{" + ",".join(f'"{"k" * 10_000}{i}": 1' for i in range(50)) + ', "images": [""]}',
        "; ".join([f"{'k' * 40}: Extra inputs are not permitted"] * 3),
    ),
    ('{"images": [""], "top_k": ' + "9" * 1_000_000 + "}", "Invalid JSON: number out of range"),
    ('{"images": ["' + "AA " * 1_000_000 + '%"]}', "images[0]: expected the bytes of a picture in base64, got: "),
]


@pytest.mark.parametrize("body, message", LARGE)
def test_a_body_of_many_mistakes_is_answered_shortly(client, body, message):
    answer = client.post("/v1/detect/batch", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422 and len(answer.text) < 300
    assert answer.json()["detail"].startswith(message)


BAD_WISHES = [
    ({"threshold": "2"}, "threshold: Input should be less than or equal to 1"),
    ({"threshold": "nan"}, "threshold: "),
    ({"threshold": "high"}, "threshold: Input should be a valid number"),
    ({"top_k": "0"}, "top_k: Input should be greater than or equal to 1"),
    ({"top_k": "1001"}, "top_k: 1,001 is more than the 1,000"),
    ({"names": ""}, "no names in names ''"),
    ({"names": '"cat'}, "expected names with commas between them"),
    ({"names": ",".join(map(str, range(2001)))}, "2,001 given, more than the 2,000 of one request"),
    ({"names": "x" * 501}, "has 501 characters, at most 500"),
]


@pytest.mark.parametrize("wish, message", BAD_WISHES)
@pytest.mark.parametrize("place", ["params", "data"])
def test_a_wish_that_cannot_be_met(client, picture, wish, message, place):
    answer = client.post("/v1/detect", files={"image": picture.bytes}, **{place: wish})
    assert answer.status_code == 422 and message in answer.json()["detail"]


def test_what_is_said_twice_and_empty_lists(client, picture):
    image = {"image": base64.b64encode(picture.bytes).decode()}
    answer = client.post("/v1/detect?top_k=3", json={**image, "top_k": 4})
    assert answer.status_code == 422 and answer.json()["detail"].startswith("top_k is in the address and in the body")
    answer = client.post("/v1/detect", json={**image, "names": [" "]})
    assert answer.status_code == 422 and answer.json()["detail"].startswith("names: expected one at least")
    answer = client.post("/v1/detect", files={"image": picture.bytes, "top_k": (None, "3"), "threshold": (None, "x")})
    assert answer.status_code == 422
    answer = client.post("/v1/detect/batch", json={"images": []})
    assert answer.status_code == 422 and answer.json()["detail"].startswith("images: List should have at least 1")
    answer = client.post("/v1/detect/batch", content=picture.bytes, headers=PNG)
    assert answer.status_code == 415 and "curl -F images=@a.jpg" in answer.json()["detail"]


def test_of_several_pictures_the_bad_one_is_named(client, picture):
    files = [("images", ("a.png", picture.bytes)), ("images", ("b.png", picture.bytes[:500]))]
    answer = client.post("/v1/detect/batch", files=files)
    assert answer.status_code == 422 and answer.json()["detail"].startswith("images[1] (b.png): expected the file")


def test_addresses_that_are_none(client):
    assert client.get("/v1/detect").status_code == 405 and client.get("/none").status_code == 404
    assert client.get("/none").json() == {"detail": "Not Found"}
    paths = client.get("/openapi.json").json()["paths"]
    content = paths["/v1/detect"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data", "image/*"}
    assert set(content["application/json"]["schema"]["properties"]) == {"image", "names", "threshold", "top_k"}
    assert {"400", "408", "413", "415", "422", "429", "503"} < set(paths["/v1/detect"]["post"]["responses"])
    assert {"/health", "/ready", "/metrics", "/v1/names", "/v1/detect/batch"} < set(paths)


def test_no_other_page_may_read_answers_unless_it_is_named(loaded, client, picture):
    ask = {"origin": "https://a.example"}
    assert "access-control-allow-origin" not in client.get("/v1/names", headers=ask).headers
    with client_of(ModelEngine(*loaded, "tiny"), origins=("https://a.example",)) as named:
        assert named.get("/v1/names", headers=ask).headers["access-control-allow-origin"] == "https://a.example"
        other = named.get("/v1/names", headers={"origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
    assert json.loads(other.text)["model"] == "tiny"
