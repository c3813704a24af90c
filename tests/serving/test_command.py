"""`decodetr serve`: what cannot work is refused before a model is loaded, and the Dockerfile says what the command
understands."""

import importlib.util
import json
import re
from configparser import ConfigParser

import pytest
from helpers.paths import ROOT

from decodetr.cli import command_parser, main
from decodetr.cli import serve as command
from decodetr.serving import server
from decodetr.serving.settings import ServeSettings


@pytest.mark.parametrize(
    "words, message",
    [
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--max-wait-ms", "-1"], "--max-wait-ms must be at least 0"),
        (["--max-wait-ms", "nan"], "--max-wait-ms must be at least 0"),
        (["--body-seconds", "0"], "--body-seconds must be above 0"),
        (["--threshold", "1.5"], "--threshold must be in 0..1"),
        (["--top-k", "2000"], "--top-k 2000 is above --max-top-k 1000"),
        (["--allow-host", "http://a.example"], "--allow-host http://a.example: expected a name such as"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--port", "-1"], "--port must be in 0..65535, got -1"),
        (["--names", "a", "--names-file", "b"], "not both"),
        (["--model", "no/such/place/"], "the model 'no/such/place/' cannot be loaded"),
        (["--device", "tpu"], "--device tpu: expected one of auto, cpu"),
    ],
)
def test_what_cannot_work_is_refused_first(capsys, monkeypatch, words, message):
    monkeypatch.setattr("decodetr.inference.loading.load_model", None)
    assert main(["serve", "--port", "0", *words]) == 1
    assert message in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    assert main(["serve"]) == 1
    error = capsys.readouterr().err
    assert "decodetr serve needs uvicorn, which is not installed: pip install 'decodetr[serve]'" in error


def test_the_extra_has_what_the_command_looks_for():
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    extra = [re.split("[<>=]", line)[0] for line in parser["options.extras_require"]["serve"].split()]
    assert sorted(extra) == sorted(name.replace("_", "-") for name in command._PACKAGES)


def test_the_options_reach_the_server(capsys, monkeypatch, tiny_detector_folder, text_detector):
    seen = []

    class Bound:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            seen.append("closed")

        def getsockname(self):
            return "::1", 8000

    class Server:
        def __init__(self, engine, settings, tell, access_log):
            self.tell = tell
            seen.extend([engine, settings, access_log])

        def run_on(self, bound):
            self.tell()

    monkeypatch.setattr(server, "bind", lambda *place: seen.append(place) or Bound())
    monkeypatch.setattr(server, "Server", Server)
    words = [
        "--model",
        str(tiny_detector_folder),
        "--host",
        "::1",
        "--names",
        'dog,"salt, pepper"',
        "--max-queue",
        "3",
    ]
    words += ["--max-images", "2", "--no-new-names", "--allow-origin", "https://a.example", "--device", "cpu"]
    words += ["--allow-host", "a.example"]
    words += ["--clip", str(text_detector[1]), "--kept-names", "7", "--threshold", "0.25", "--access-log"]
    assert main(["serve", *words]) == 0
    place, engine, settings, access_log, closed = seen
    assert place == ("::1", 8000) and access_log and closed == "closed"
    assert settings == ServeSettings(
        threshold=0.25,
        max_queue=3,
        max_images=2,
        new_names=False,
        kept_names=7,
        hosts=("a.example",),
        origins=("https://a.example",),
    )
    facts = engine.facts()
    assert facts["names"] == ["dog", "salt, pepper"] and engine.kept.most == 7
    assert facts["text_model"] == str(text_detector[1])
    out = capsys.readouterr().out
    assert f"{tiny_detector_folder}: 2 names; threshold 0.25; cpu" in out and "http://[::1]:8000 " in out


def test_the_dockerfile_starts_what_there_is():
    text = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    said = {}
    for word, rest in lines:
        said.setdefault(word, []).append(rest)
    words = json.loads(said["ENTRYPOINT"][0]) + json.loads(said["CMD"][0])
    assert words[:2] == ["decodetr", "serve"]
    args, rest = command_parser("serve")[1].parse_known_args(words[2:])
    assert not rest and args.host == "0.0.0.0" and said["EXPOSE"] == [str(args.port)]
    assert said["USER"] == ["decodetr"] and lines[-1][0] == "CMD"
    assert f"http://127.0.0.1:{args.port}/ready" in said["HEALTHCHECK"][0]
    image = said["FROM"][0]
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    assert re.search(r"python:(3\.\d+)-slim", image)[1] in parser["metadata"]["classifiers"]
    installs = " ".join(said["RUN"])
    assert "[serve]" in installs and "https://download.pytorch.org/whl/cpu" in installs
    assert all((ROOT / source).exists() for line in said["COPY"] for source in line.split()[:-1] if source[0] != "-")
