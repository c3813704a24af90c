"""The options of `decodetr build`: its stages, and the words of their commands."""

import shlex
from pathlib import Path

from decodetr.building import commands
from decodetr.building.options import BuildOptions
from decodetr.building.result import how_to_go_on
from decodetr.cards.cost import cost_section
from decodetr.utils.files import write_json


def test_stages_of_localize_only_with_it():
    given = {"detector": "d", "images": "i", "clip": "c", "captioner": "l", "output": "o"}
    assert "boxes" not in BuildOptions(**given).stages
    stages = BuildOptions(**given, localize=True).stages
    assert stages.index("first-pool") < stages.index("boxes") < stages.index("pool")


def test_places_and_prompts_are_not_taken_for_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"detector": "-d", "images": "-i", "clip": "-c", "captioner": "-l", "output": Path("-out")}
    options = BuildOptions(**places, prompt="--short")
    assert options.output == tmp_path / "-out" and options.images == str(tmp_path / "-i")
    for stage in ("coverage", "pool", "names", "model", "scores", "report"):
        words = commands.command_of(stage, options, commands.Start(False, 3, False))
        assert not {*map(str, places.values()), "-out/data", "--short"} & set(words), words
    assert "--prompt=--short" in commands.command_of("pool", options, commands.Start(False, 3, False))
    named = BuildOptions(**places | {"output": Path("out"), "clip": "owner/clip"})
    assert (named.output, named.clip) == (Path("out"), "owner/clip")


def test_the_command_at_the_end_can_be_pasted_into_a_shell(tmp_path):
    output = tmp_path / "out é 'q'"
    write_json(output / "model/config.json", {"score_threshold": 0.4})
    words = shlex.split(how_to_go_on(output).splitlines()[-1])
    assert words == ["decodetr", "predict", "PHOTOS", "--model", f"{output}/model", "--output", "found"]


def test_what_stages_took_adds_up_over_runs_and_says_what_nobody_counted():
    def stage(seconds, begun, ended, machine="the CPU, 2 threads"):
        return {"seconds": seconds, "begun": begun, "ended": ended, "machines": [machine]}

    (whole,) = cost_section({"pool": stage(3000.4, 2, 2), "model": stage(600.0, 1, 1, "H100")})
    assert "| pool | 3,000 | 2 |\n| model | 600 | 1 |\n| together | 3,600 |  |" in whole.text
    assert "on H100; the CPU, 2 threads: 1 hours" in whole.text and "at least" not in whole.text
    (killed,) = cost_section({"pool": stage(3000.0, 3, 1), "model": stage(600.0, 1, 1)})
    assert "| pool | at least 3,000 | 3 |\n| model | 600 | 1 |\n| together | at least 3,600 |" in killed.text
    assert "Runs that were killed, whose seconds nobody counted: 2." in killed.text and cost_section({}) == []
