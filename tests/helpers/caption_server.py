"""A server of captions that speaks OpenAI's chat completions, as vLLM does."""

import base64
import hashlib
import io
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

_WORDS = ["a cat", "a dog", "a red cup", "grass", "a wall", "two dogs", "a small thing", "nothing much"]
QUESTION = (64, 64)  # pixels of the picture by which a server is asked whether it is there


class CaptionServer:
    """What a server of captions knows.

    Attributes: `address`, as of --captioner. `asked`, number of crops. `together`, the largest number at one time.

    Args:
        meet (int): hold the first crops back until so many have come at once.
        met (function): called then, before they are answered.
    """

    def __init__(self, meet=1, met=lambda: None):
        self.meet, self.met, self.address = meet, met, ""
        self.asked = self.together = self.now = 0
        self.lock, self.open = threading.Condition(), meet == 1

    def answer(self, picture):
        if picture.size != QUESTION:
            with self.lock:
                self.asked, self.now = self.asked + 1, self.now + 1
                self.together = max(self.together, self.now)
                if not self.open and self.now >= self.meet:
                    self.met()
                    self.open = True
                    self.lock.notify_all()
                assert self.lock.wait_for(lambda: self.open, timeout=300)
                self.now -= 1
        return _WORDS[hashlib.sha256(picture.tobytes()).digest()[0] % len(_WORDS)]


@contextmanager
def caption_server(**options):
    """A `CaptionServer` that runs."""
    server = CaptionServer(**options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            url = body["messages"][0]["content"][0]["image_url"]["url"]
            picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
            message = {"role": "assistant", "content": server.answer(picture)}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            answer = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
            answer |= {"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    server.address = f"org/llava@http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
