"""Timing in turn, spread and ratios, and what is known of the machine."""

import pytest
import torch

from decodetr.speed import machine, timing
from decodetr.speed.machine import peak_bytes, reset_peak, used_bytes
from decodetr.speed.timing import in_turn, ratios, show, spread


def test_in_turn_alternates_and_leaves_out_warmup_and_lead():
    calls = []
    functions = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    seconds = in_turn(functions, warmup=1, runs=2)
    assert calls == ["a", "b"] * 3
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}
    calls.clear()
    seconds = in_turn(functions, warmup=0, runs=2, calls=2, lead=1)
    assert calls == ["a"] * 3 + ["b"] * 3 + ["a"] * 3 + ["b"] * 3
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}


def test_time_is_per_call(monkeypatch):
    now = iter([0.0, 6.0, 10.0, 22.0])
    monkeypatch.setattr(timing, "clock", lambda device: next(now))
    assert timing.in_turn({"a": lambda: None}, warmup=1, runs=1, calls=3) == {"a": [4.0]}


def test_spread_and_ratios_of_neighbours():
    summary = spread([5.0, 1.0, 2.0, 3.0, 4.0])
    assert summary == {"median": 3.0, "q1": 2.0, "q3": 4.0, "min": 1.0, "max": 5.0, "runs": 5}
    assert show(summary, 1e3, 0) == "3000 (2000 to 4000)"
    # The machine got three times slower in the second round: the ratio of neighbours does not see it.
    assert ratios({"a": [1.0, 3.0], "b": [2.0, 6.0]}, "b", "a")["min"] == pytest.approx(2.0)
    assert ratios({"a": [1.0, 3.0], "b": [2.0, 6.0]}, "b", "a")["max"] == pytest.approx(2.0)


def test_peak_memory_is_counted_anew():
    before = used_bytes("cpu")
    block = torch.ones(512 * 2**20, dtype=torch.uint8)
    reset_peak("cpu")
    assert peak_bytes("cpu") - before > 256 * 2**20  # a kernel may take back what lay idle meanwhile
    del block
    reset_peak("cpu")
    assert peak_bytes("cpu") - before < 10 * 2**20


def test_each_has_its_own_lead_and_something_follows_every_turn():
    calls = []
    functions = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    in_turn(functions, warmup=0, runs=2, lead={"a": 0, "b": 1}, after=lambda: calls.append("|"))
    assert calls == ["a", "|", "b", "b", "|"] * 2


def test_the_floor_is_the_fastest_of_several_tries(monkeypatch):
    now = iter([0.0, 4.0, 0.0, 2.0, 0.0, 3.0, 0.0, 1.0])  # of the product 4 s and 2 s, of the copy 3 s and 1 s
    monkeypatch.setattr(machine, "clock", lambda device: next(now))
    monkeypatch.setattr(machine, "_TRIES", 2)
    monkeypatch.setattr(machine, "_SIDES", {"cpu": 10})
    monkeypatch.setattr(machine, "_COPIED", 1000)
    bounds = machine.floor("cpu", torch.float32)
    assert bounds == {"gflops": pytest.approx(2 * 10**3 / 2 / 1e9), "gbytes": pytest.approx(2000 / 1e9)}


def test_a_share_of_the_floor_is_that_of_the_tighter_bound():
    bounds = {"gflops": 100.0, "gbytes": 10.0}
    assert machine.share_of_floor(0.5, 20e9, 1e9, bounds) == pytest.approx(0.4)  # 0.2 s of FLOPs, 0.1 s of bytes
    assert machine.share_of_floor(0.5, 20e9, 4e9, bounds) == pytest.approx(0.8)


def test_a_busy_machine_is_said_to_be_busy():
    assert machine.busy_warning(3.0) is None
    assert "others use 60 % of its cores" in machine.busy_warning(60.0)
