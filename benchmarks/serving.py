"""What `decodetr serve` costs over the model alone, what it does when too much comes, and whether its memory grows.

    python benchmarks/serving.py                                    # the shipped model of the scenes
    python benchmarks/serving.py --model rt_detr_v2 --requests 16   # RT-DETRv2-R50 at 640 x 640, random weights
    python benchmarks/serving.py --model DIR --output serving.json

The server is a process of its own on the loopback address; clients are coroutines here. In every round each way has
its turn over the same pictures: the bare forward on prepared pictures one by one, a direct call from the bytes of a
file to boxes, and the server with each number of clients. Ratios are to the same round. Of each way there is also the
time of processors that a picture takes, of the process that detects, which a busy machine changes least. Then come the
same model called by several threads without a server, an overload, and the memory of the server.
"""

import argparse
import asyncio
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from decodetr.utils.arguments import extend_lists
from decodetr.utils.files import committed, write_json

QUEUE = 64
OVERLOAD_QUEUE = 8


def pictures(number, size):
    """Bytes of JPEG files of (height, width), smooth as photos are."""
    import torch
    from torch.nn import functional as F
    from torchvision.io import encode_jpeg

    height, width = size
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(number, 3, height // 20, width // 20, generator=generator)
    pixels = F.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1).mul(255).byte()
    return [bytes(encode_jpeg(image, quality=90).numpy()) for image in pixels]


def model_folder(name, place):
    """A folder, Hub name or shipped name; of a model of speed/catalog.py random weights in a new folder."""
    import torch

    from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection, DeCoDetrImageProcessor
    from decodetr.speed.catalog import OURS, STREAM

    if name not in OURS:
        return name
    torch.manual_seed(0)
    fields = {"detector_config": OURS[name].fields, "id2label": {i: f"name {i}" for i in range(80)}, **STREAM}
    model = DeCoDetrForObjectDetection(DeCoDetrConfig(**fields))
    with committed(place) as staging:
        model.save_pretrained(staging)
        DeCoDetrImageProcessor().save_pretrained(staging)
    return str(place)


class Served:
    """A `decodetr serve` in a process of its own, ready. `address` and `process` (psutil's)."""

    def __init__(self, folder, args, queue):
        import psutil

        words = ["serve", "--model", folder, "--port", "0", "--device", "cpu", "--threads", args.threads]
        words += ["--batch-size", args.batch_size, "--max-wait-ms", args.max_wait_ms, "--max-queue", queue, "-q"]
        command = [sys.executable, "-m", "decodetr", *map(str, words)]
        self.running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        lines = iter(self.running.stdout.readline, "")
        found = (re.match(r"(http://\S+)", line) for line in lines)
        self.address = next((match[1] for match in found if match), None)
        if self.address is None:
            raise RuntimeError("the server did not start; its message is above")
        self.process = psutil.Process(self.running.pid)
        asyncio.run(self._ready())

    async def _ready(self):
        import httpx2

        async with httpx2.AsyncClient(base_url=self.address) as client:
            while (await client.get("/ready")).status_code != 200:
                await asyncio.sleep(0.1)

    def memory(self):
        """MB that are resident."""
        return self.process.memory_info().rss / 2**20

    def processor_seconds(self):
        """Of all its threads, since it began."""
        spent = self.process.cpu_times()
        return spent.user + spent.system

    def end(self):
        """Tell it to end. Returns its exit status."""
        self.running.terminate()
        return self.running.wait(timeout=60)


async def send(address, contents, requests, clients):
    """Send requests from a number of clients, each its next one when it has an answer.

    Returns:
        (list of (status, seconds) of every request, seconds of all).
    """
    import httpx2

    found, left = [], iter(range(requests))

    async def client(session):
        for i in left:
            start = time.perf_counter()
            post = {"content": contents[i % len(contents)], "headers": {"content-type": "image/jpeg"}}
            answer = await session.post("/v1/detect", **post)
            found.append((answer.status_code, time.perf_counter() - start))

    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=address, timeout=600, limits=limits) as session:
        start = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return found, time.perf_counter() - start


def timed(function, items):
    """([(200, seconds) of each item], seconds of all), as of `send`."""
    found, begun = [], time.perf_counter()
    for item in items:
        start = time.perf_counter()
        function(item)
        found.append((200, time.perf_counter() - start))
    return found, time.perf_counter() - begun


def figures(found, seconds):
    """Requests a second, and the latencies of the answered ones in milliseconds."""
    times = sorted(1000 * time for status, time in found if status == 200)
    statuses = Counter(status for status, _ in found)
    p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
    return {"a_second": len(times) / seconds, "p50": statistics.median(times), "p95": p95, "statuses": dict(statuses)}


def compare(folder, contents, args):
    """Rounds over all ways. Returns ({way: [figures of each round]}, [MB of the server])."""
    import torch

    from decodetr.inference.detection import detect, forward
    from decodetr.inference.loading import load_model
    from decodetr.utils.images import open_image

    model, processor = load_model(folder, device="cpu")
    prepared = [processor(images=[open_image(content)], return_tensors="pt") for content in contents]
    order = [i % len(contents) for i in range(args.requests)]

    @torch.inference_mode()
    def bare(i):
        forward(model, prepared[i])

    def direct(i):
        detect(model, processor, [open_image(contents[i])], 0.0)

    server = Served(folder, args, QUEUE)
    memory, rounds = [server.memory()], {}
    try:
        for number in range(args.rounds + 1):
            ways = {
                "bare forward": lambda: timed(bare, order),
                "direct call, file to boxes": lambda: timed(direct, order),
            }
            for clients in args.clients:
                name = f"server, {clients} client{'s' if clients > 1 else ''}"
                ways[name] = lambda clients=clients: asyncio.run(
                    send(server.address, contents, args.requests, clients)
                )
            for name, way in ways.items():
                spent = server.processor_seconds if name.startswith("server") else time.process_time
                before = spent()
                found = figures(*way())
                found["processor_ms"] = 1000 * (spent() - before) / args.requests
                if number:  # the first round warms up
                    rounds.setdefault(name, []).append(found)
            memory.append(server.memory())
    finally:
        status = server.end()
    return rounds, memory, status, in_threads(model, prepared, args)


def in_threads(model, prepared, args):
    """{threads: images a second of one model that they call} without a server, in turn."""
    import torch

    from decodetr.inference.detection import forward

    def work(i):
        with torch.inference_mode():
            forward(model, prepared[i % len(prepared)])

    found = {}
    for number in range(args.rounds + 1):
        for callers in (1, 2, 4):
            with ThreadPoolExecutor(callers) as pool:
                start = time.perf_counter()
                list(pool.map(work, range(args.requests)))
                seconds = time.perf_counter() - start
            if number:
                found.setdefault(callers, []).append(args.requests / seconds)
    return found


def overload(folder, contents, args):
    """Many clients on a short queue, that ask again at once. What they got, and what the server says of it."""
    import httpx2

    server = Served(folder, args, OVERLOAD_QUEUE)
    try:
        found, seconds = asyncio.run(send(server.address, contents, args.overload, args.overload_clients))
        text = httpx2.get(f"{server.address}/metrics").text
    finally:
        server.end()
    counted = re.findall(r'decodetr_requests_total\{path="/v1/detect",status="(\d+)"\} (\S+)', text)
    return {
        "clients": args.overload_clients,
        "queue": OVERLOAD_QUEUE,
        "requests": args.overload,
        **figures(found, seconds),
        "refused_ms": 1000 * statistics.median([time for status, time in found if status == 429] or [0.0]),
        "statuses_of_the_server": {int(status): int(float(number)) for status, number in counted},
    }


def report(result, args):
    """Print the tables."""
    from harness import say, table

    from decodetr.speed.timing import show, spread

    rounds = result["rounds"]
    bare = [found["a_second"] for found in rounds["bare forward"]]
    rows = []
    for name, found in rounds.items():
        ratio = spread([one["a_second"] / base for one, base in zip(found, bare)])
        columns = [
            show(spread([one[key] for one in found]), digits=1) for key in ("a_second", "p50", "p95", "processor_ms")
        ]
        rows.append([name, *columns, show(ratio, digits=3)])
    say(f"\n{result['model']}, {args.requests} requests a turn, {args.rounds} rounds, {args.threads} threads\n")
    say(
        table(
            ["", "pictures a second", "p50, ms", "p95, ms", "processor, ms a picture", "over the bare forward"], rows
        )
    )
    threads = {callers: show(spread(found), digits=1) for callers, found in result["threads"].items()}
    say(table(["threads that call one model", "pictures a second"], list(map(list, threads.items()))))
    flood = result["overload"]
    say(
        f"overload: {flood['requests']} requests of {flood['clients']} clients on a queue of {flood['queue']}: "
        f"{flood['statuses']}, the server counted {flood['statuses_of_the_server']}; {flood['a_second']:.1f} answers "
        f"a second, p95 {flood['p95']:.0f} ms; a refusal took {flood['refused_ms']:.1f} ms"
    )
    say("memory of the server, MB: " + ", ".join(f"{value:.0f}" for value in result["memory_mb"]))


def parser():
    """Options."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = arguments.add_argument
    add(
        "--model",
        default="scenes-decodetr",
        help="folder, shipped name, or detr, rt_detr_v2, d_fine of random weights",
    )
    add("--image-size", type=int, nargs=2, default=[480, 640], metavar=("HEIGHT", "WIDTH"), help="of the pictures")
    add("--clients", type=int, nargs="+", default=[1, 4, 16], help="numbers of clients")
    add("--requests", type=int, default=64, help="of a turn")
    add("--rounds", type=int, default=5)
    add("--threads", type=int, default=1, help="threads of PyTorch, of the server and of direct calls")
    add("--batch-size", type=int, default=8)
    add("--max-wait-ms", type=float, default=2.0)
    add("--overload", type=int, default=400, help="requests of the overload")
    add("--overload-clients", type=int, default=32)
    add("--output", type=Path, help="also write the results to this JSON file")
    return extend_lists(arguments, but=("--image-size",))


def main(argv=None) -> int:
    """Measure, print, write."""
    args = parser().parse_args(argv)
    import torch
    from harness import say

    from decodetr.speed.machine import environment

    torch.set_num_threads(args.threads)
    settings = {key: value for key, value in vars(args).items() if key != "output"}
    result = {"model": args.model, "environment": environment("cpu", **settings)}
    contents = pictures(8, args.image_size)
    with tempfile.TemporaryDirectory() as place:
        folder = model_folder(args.model, Path(place) / "model")
        result["rounds"], result["memory_mb"], result["exit_status"], result["threads"] = compare(
            folder, contents, args
        )
        result["overload"] = overload(folder, contents, args)
    report(result, args)
    if args.output:
        write_json(args.output, result)
        say(f"\n{args.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
