"""Many requests at once: each gets its own answer, what is too much is refused at once, and nothing is lost."""

import asyncio
import io
import re
import struct
import threading
import time
import zlib

import httpx2
import numpy as np
import pytest
from helpers.servers import GatedEngine, client_of, wait_for
from PIL import Image

from decodetr.inference.detection import detect
from decodetr.serving.app import create_app
from decodetr.serving.model_engine import ModelEngine
from decodetr.serving.settings import ServeSettings

PNG = {"content-type": "image/png"}
POST = {"headers": PNG, "params": {"threshold": "0"}}


@pytest.fixture
def gated(loaded):
    return GatedEngine(*loaded, "tiny")


def run(engine, work, **settings):
    """Await `work(client, service)` on a server that has warmed up."""

    async def call():
        app = create_app(engine, ServeSettings(**settings))
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with app.router.lifespan_context(app), httpx2.AsyncClient(
            transport=transport, base_url="http://test"
        ) as client:  # fmt: skip
            await until(lambda: app.state.service.ready)
            try:
                return await work(client, app.state.service)
            finally:  # the server answers what it has before it ends, also where a test fails
                if isinstance(engine, GatedEngine):
                    engine.gate.set()

    return asyncio.run(call())


async def until(condition):
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.002)


def metric(text, name):
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])


def test_requests_with_other_names_and_pictures_do_not_disturb_each_other(loaded, gated):
    model, processor = loaded
    rng = np.random.default_rng(1)
    images = [Image.fromarray(rng.integers(0, 255, (50 + i, 60, 3), np.uint8)) for i in range(3)]
    lists = [None, ["dog"], ["cat", "dog"], ["salt, pepper", "a cat."], ["dog", "cat"]]
    expected = {}
    for i, image in enumerate(images):
        for k, names in enumerate(lists):
            tables = gated.search(names).tables
            expected[i, k] = detect(model, processor, [image], 0.0, tables=tables)[0]
    contents = []
    for image in images:
        stream = io.BytesIO()
        image.save(stream, "PNG")
        contents.append(stream.getvalue())
    asked = [(i, k) for _ in range(2) for i in range(len(images)) for k in range(len(lists))]

    async def work(client, service):
        async def ask(i, k):
            names = {} if lists[k] is None else {"names": [f'"{name}"' for name in lists[k]]}
            params = {"threshold": "0", "top_k": 30 + k, **names}
            return (await client.post("/v1/detect", content=contents[i], headers=PNG, params=params)).json()

        gated.gate.clear()
        tasks = [asyncio.create_task(ask(i, k)) for i, k in asked]
        await until(lambda: service.batcher.waiting >= 25)
        gated.gate.set()
        return await asyncio.gather(*tasks)

    for (i, k), entry in zip(asked, run(gated, work, max_queue=100, batch_size=3)):
        assert [row["name"] for row in entry["detections"]] == expected[i, k]["names"][: 30 + k]
        for key, one in (("scores", "score"), ("boxes", "box")):
            found = [row[one] for row in entry["detections"]]
            np.testing.assert_allclose(found, expected[i, k][key][: 30 + k], rtol=1e-3, atol=1e-2)
    counts = [count for names, count in gated.batches[2:]]
    assert sum(counts) == len(asked) and max(counts) == 3 and sum(count == 3 for count in counts) > 4


def test_beyond_the_queue_it_is_429_at_once_and_all_that_was_let_in_is_answered(gated, picture):
    async def work(client, service):
        gated.gate.clear()
        post = {"content": picture.bytes, **POST}
        tasks = [asyncio.create_task(client.post("/v1/detect", **post)) for _ in range(30)]
        await until(lambda: sum(task.done() for task in tasks) == 25)
        refused = [task.result() for task in tasks if task.done()]
        assert service.inside == 5
        await until(lambda: gated.at_gate and gated.at_gate + service.batcher.waiting == 5)
        assert (await client.get("/health")).status_code == (await client.get("/ready")).status_code == 200
        text = (await client.get("/metrics")).text
        assert metric(text, "decodetr_inside_pictures") == 5 and metric(text, "decodetr_queue_pictures") >= 3
        files = [("images", picture.bytes)] * 2
        several = await client.post("/v1/detect/batch", files=files)
        gated.gate.set()
        answers = await asyncio.gather(*tasks)
        text = (await client.get("/metrics")).text
        return refused, several, answers, service, text

    refused, several, answers, service, text = run(gated, work, max_queue=5, batch_size=2)
    assert {answer.status_code for answer in refused} == {429} and several.status_code == 429
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
    assert refused[0].json()["detail"].startswith("5 pictures wait already; try again in")
    assert [answer.status_code for answer in answers].count(200) == 5 and service.inside == 0
    assert {len(answer.json()["detections"]) for answer in answers if answer.status_code == 200} == {36}
    assert metric(text, 'decodetr_requests_total{path="/v1/detect",status="200"}') == 5
    assert metric(text, 'decodetr_requests_total{path="/v1/detect",status="429"}') == 25
    assert metric(text, 'decodetr_requests_total{path="/v1/detect/batch",status="429"}') == 1
    assert metric(text, "decodetr_batch_pictures_sum") == 5 and metric(text, "decodetr_batch_seconds_count") >= 3
    assert metric(text, 'decodetr_request_seconds_count{path="/v1/detect"}') == 30


def test_pictures_of_a_request_count_one_by_one(gated, picture):
    async def work(client, service):
        gated.gate.clear()
        files = [("images", picture.bytes)] * 3
        first = asyncio.create_task(client.post("/v1/detect/batch", files=files))
        await until(lambda: service.inside == 3)
        second = await client.post("/v1/detect/batch", files=files)
        assert service.inside == 3
        five = await client.post("/v1/detect/batch", json={"images": [""] * 5})
        assert five.status_code == 422 and "images: 5 pictures, more than the 4 of one request" in five.text
        gated.gate.set()
        return await first, second, await client.post("/v1/detect/batch", files=files)

    first, second, third = run(gated, work, max_queue=4)
    assert (first.status_code, second.status_code, third.status_code) == (200, 429, 200)


def test_the_loop_answers_while_the_model_and_a_text_model_work(gated, picture, monkeypatch):
    release, begun = threading.Event(), threading.Event()

    def embed(*args):
        begun.set()
        assert release.wait(timeout=300)
        raise ValueError("no such text model")

    monkeypatch.setattr("decodetr.inference.candidates.choose_names", embed)

    async def work(client, service):
        params = {"names": "bird"}
        slow = asyncio.create_task(client.post("/v1/detect", content=picture.bytes, headers=PNG, params=params))
        await until(begun.is_set)
        stored = await client.post("/v1/detect", content=picture.bytes, headers=PNG, params={"names": "dog"})
        assert stored.status_code == 200 and not slow.done()
        release.set()
        return await slow

    answer = run(gated, work)
    assert answer.status_code == 422 and answer.json()["detail"] == "no such text model"


def scope_of(address, kind):
    """What ASGI says of a request."""
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": address, "raw_path": address.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"content-type", kind.encode())], "server": ("test", 80), "client": ("test", 1),
    }  # fmt: skip


def test_a_client_that_has_gone_costs_nothing(gated, picture):
    async def work(client, service):
        messages = [{"type": "http.request", "body": picture.bytes, "more_body": False}, {"type": "http.disconnect"}]
        sent, left = [], asyncio.Event()

        async def receive():
            if len(messages) == 1:
                await left.wait()
            return messages.pop(0)

        async def send(message):
            sent.append(message)

        gated.gate.clear()
        busy = asyncio.create_task(client.post("/v1/detect", content=picture.bytes, headers=PNG))
        await until(lambda: service.inside == 1 and service.batcher.waiting == 0)
        await asyncio.sleep(0.05)
        going = asyncio.create_task(client._transport.app(scope_of("/v1/detect", "image/png"), receive, send))
        await until(lambda: service.batcher.waiting == 1)
        left.set()
        await going
        assert service.inside == 1 and sent[0]["status"] == 499
        gated.gate.set()
        assert (await busy).status_code == 200
        assert (await client.post("/v1/detect", content=picture.bytes, headers=PNG)).status_code == 200

    before = len(gated.batches)
    run(gated, work, batch_size=1)
    assert [count for _, count in gated.batches[before + 1 :]] == [1, 1]  # after the warm-up


@pytest.mark.parametrize("kind", ["image/png", "application/json", "multipart/form-data; boundary=q"])
@pytest.mark.parametrize("address", ["/v1/detect", "/v1/detect/batch"])
def test_a_client_that_leaves_while_its_body_arrives_is_no_failure(gated, picture, kind, address):
    async def work(client, service):
        messages = [{"type": "http.request", "body": b"--q\r\n", "more_body": True}, {"type": "http.disconnect"}]
        sent = []

        async def receive():
            return messages.pop(0)

        async def send(message):
            sent.append(message)

        await client._transport.app(scope_of(address, kind), receive, send)
        assert service.inside == 0
        return sent[0]["status"], service.metrics.text().decode()

    status, figures = run(gated, work)
    if kind == "image/png" and address.endswith("batch"):
        assert status == 415  # before anything is read
    else:
        assert status == 499
        assert f'decodetr_requests_total{{path="{address}",status="499"}} 1.0' in figures


def test_what_fails_is_500_and_the_next_request_goes_on(gated, picture, monkeypatch):
    post = {"content": picture.bytes, "headers": PNG}
    with client_of(gated, batch_size=1) as client:
        with monkeypatch.context() as patch:
            patch.setattr(gated, "detect", None)
            for _ in range(3):
                assert client.get("/health").status_code == 200
                answer = client.post("/v1/detect", **post)
                assert answer.status_code == 500 and "TypeError" in answer.json()["detail"]
                assert "Traceback" not in answer.text
        assert client.get("/health").status_code == 503
        assert client.post("/v1/detect", **post).status_code == 200
        assert client.get("/health").json() == {"status": "alive"}
        assert 'path="/v1/detect",status="500"} 3.0' in client.get("/metrics").text


def test_no_picture_is_taken_before_the_model_is_warm(gated, picture):
    from fastapi.testclient import TestClient

    gated.gate.clear()
    with TestClient(create_app(gated, ServeSettings(batch_size=4))) as client:
        assert client.get("/health").status_code == 200
        for answer in (client.get("/ready"), client.post("/v1/detect", content=picture.bytes, headers=PNG)):
            assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        gated.gate.set()
        wait_for(lambda: client.get("/ready").status_code == 200)
        assert gated.batches[0][1] == 1 and sum(count for _, count in gated.batches) == 5
        assert client.post("/v1/detect", content=picture.bytes, headers=PNG).status_code == 200
        assert metric(client.get("/metrics").text, "decodetr_batch_pictures_sum") == 1  # without the warm-up


def test_bodies_are_limited_whatever_their_head_says(loaded, picture):
    size = len(picture.bytes)
    with client_of(ModelEngine(*loaded, "tiny"), max_body_bytes=size) as client:
        assert client.post("/v1/detect", content=picture.bytes, headers=PNG).status_code == 200
        chunks = [picture.bytes[:100], picture.bytes[100:], b"more"]
        for given in ({"content": picture.bytes + b"x"}, {"content": iter(chunks)}):
            answer = client.post("/v1/detect", headers=PNG, **given)
            assert answer.status_code == 413
            assert answer.json()["detail"].startswith(f"the body has more than the {size:,} bytes that are taken")
        assert client.post("/v1/detect", files={"image": picture.bytes}).status_code == 413
        assert client.app.state.service.inside == 0


def test_pixels_are_limited_before_they_are_decoded(client, monkeypatch):
    monkeypatch.setenv("DECODETR_MAX_IMAGE_PIXELS", "5000")
    stream = io.BytesIO()
    Image.new("1", (50, 100)).save(stream, "PNG")
    start = stream.getvalue()
    for width, height, status in ((50, 100, 200), (51, 100, 413), (100_000, 100_000, 413)):
        head = b"IHDR" + struct.pack(">II", width, height) + start[24:29]
        content = start[:12] + head + struct.pack(">I", zlib.crc32(head)) + start[33:]
        answer = client.post("/v1/detect", content=content, headers=PNG)
        assert answer.status_code == status
        assert status == 200 or "the picture: more than the 5,000 pixels that are taken" in answer.json()["detail"]
    monkeypatch.delenv("DECODETR_MAX_IMAGE_PIXELS")
    stream = io.BytesIO()
    Image.new("1", (1, 65_536)).save(stream, "PNG")
    answer = client.post("/v1/detect", content=stream.getvalue(), headers=PNG)
    assert answer.status_code == 413
    assert answer.json()["detail"].startswith("the picture: more than the 65,535 pixels a side that are taken; send a")


def test_a_body_that_does_not_arrive_is_408(gated):
    async def work(client, service):
        async def body():
            yield b"x"
            await asyncio.sleep(30)

        answer = await client.post("/v1/detect", content=body(), headers=PNG)
        assert service.inside == 0
        return answer

    answer = run(gated, work, body_seconds=0.05)
    assert answer.status_code == 408 and answer.headers["connection"] == "close"
    assert "0.05 s" in answer.json()["detail"]


def test_bodies_that_do_not_arrive_take_no_place_of_a_picture(gated, picture):
    async def work(client, service):
        arrive = asyncio.Event()

        async def body(first=b"x"):
            yield first
            await arrive.wait()
            yield picture.bytes

        def post(content):
            return asyncio.create_task(client.post("/v1/detect", content=content, headers=PNG))

        slow = [post(body()) for _ in range(15)]
        await until(lambda: service._body_bytes == 15)
        assert service.inside == 0
        answer = await post(picture.bytes)
        slow.append(post(body()))
        await until(lambda: service._body_bytes == 16)
        many = await post(picture.bytes)
        for task in slow.pop(), slow.pop(), slow.pop():
            task.cancel()
        slow += [post(body(bytes(20_000))) for _ in range(2)]
        await until(lambda: service._body_bytes == 40_013)
        large = await post(bytes(20_000))
        arrive.set()
        return answer, many, large, await asyncio.gather(*slow), service

    answer, many, large, slow, service = run(gated, work, max_queue=2, max_body_bytes=25_000)
    assert (answer.status_code, many.status_code, large.status_code) == (200, 429, 429)
    assert many.json()["detail"] == "16 requests are sending their bodies already; try again in 1 s"
    assert large.json()["detail"] == "bodies of 40,013 bytes are arriving already; try again in 1 s"
    assert many.headers["retry-after"] == large.headers["retry-after"] == "1"
    assert {one.status_code for one in slow} <= {200, 413, 422, 429}
    assert service.inside == service._bodies == service._body_bytes == 0
