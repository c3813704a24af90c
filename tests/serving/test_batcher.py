"""What waits for the model goes through together, nothing is lost, and nobody answers for another one's fault."""

import threading

import pytest
from helpers.servers import wait_for

from decodetr.serving.batcher import Batcher


class Gate:
    """A function over items that waits until it may go on, and remembers its batches."""

    def __init__(self):
        self.open, self.begun, self.batches = threading.Event(), threading.Event(), []

    def __call__(self, items):
        self.begun.set()
        assert self.open.wait(timeout=300)
        self.batches.append(list(items))
        if "bad" in items:
            raise ZeroDivisionError("bad")
        return [f"{item}!" for item in items]


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def batcher(gate):
    batcher = Batcher(gate, batch_size=3, max_wait=0)
    yield batcher
    gate.open.set()
    batcher.close()


def _hold(batcher, gate):
    """The thread is busy with a first item."""
    first = batcher.submit("first", "x")
    assert gate.begun.wait(timeout=300)
    return first


def test_equal_keys_go_together_and_the_longest_waiting_come_first(batcher, gate):
    first = _hold(batcher, gate)
    answers = [batcher.submit(item, key) for item, key in zip("abcdefg", "xyxxyxy")]
    assert batcher.waiting == 7 and not first.done()
    gate.open.set()
    assert [answer.result(300) for answer in answers] == [f"{item}!" for item in "abcdefg"]
    assert gate.batches == [["first"], ["a", "c", "d"], ["b", "e", "g"], ["f"]] and batcher.waiting == 0


def test_of_a_batch_that_fails_each_is_tried_alone(batcher, gate):
    _hold(batcher, gate)
    good, bad, other = (batcher.submit(item, "x") for item in ("good", "bad", "other"))
    gate.open.set()
    assert good.result(300) == "good!" and other.result(300) == "other!"
    with pytest.raises(ZeroDivisionError):
        bad.result(300)
    assert gate.batches[1:] == [["good", "bad", "other"], ["good"], ["bad"], ["other"]] and batcher.healthy


def test_it_is_not_healthy_when_everything_fails(batcher, gate):
    gate.open.set()
    for _ in range(3):
        assert batcher.healthy
        with pytest.raises(ZeroDivisionError):
            batcher.submit("bad", "x").result(300)
    assert not batcher.healthy
    assert batcher.submit("good", "x").result(300) == "good!" and batcher.healthy


def test_a_batch_is_one_failure(gate):
    gate.open.set()
    batcher = Batcher(gate, batch_size=2, max_wait=60)
    for count in (1, 2, 3):
        for answer in [batcher.submit("bad", "x") for _ in range(2)]:
            with pytest.raises(ZeroDivisionError):
                answer.result(300)
        assert batcher.healthy == (count < 3)
    assert len(gate.batches) == 3 * 3  # together, then each alone
    batcher.close()


def test_what_was_cancelled_does_not_go_through(batcher, gate):
    _hold(batcher, gate)
    gone, there = batcher.submit("gone", "x"), batcher.submit("there", "x")
    assert gone.cancel()
    gate.open.set()
    assert there.result(300) == "there!" and gate.batches == [["first"], ["there"]]


def test_closing_answers_what_waits_and_takes_nothing_more(gate):
    batcher = Batcher(gate, batch_size=2, max_wait=60)
    answers = [batcher.submit(item, "x") for item in "abc"]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    gate.open.set()
    closing.join(300)
    assert [answer.result(0) for answer in answers] == ["a!", "b!", "c!"]
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit("d", "x")
    assert not batcher.healthy


def test_the_first_of_a_batch_waits_for_others_but_not_longer_than_it_may(gate):
    gate.open.set()
    seen = []
    batcher = Batcher(gate, batch_size=2, max_wait=0.2, seen=lambda *figures: seen.append(figures))
    answers = [batcher.submit("a", "x"), batcher.submit("b", "x"), batcher.submit("c", "x")]
    assert answers[1].result(300) == "b!"  # a full batch waits for nothing
    assert answers[2].result(300) == "c!" and gate.batches == [["a", "b"], ["c"]]
    wait_for(lambda: len(seen) == 2)
    assert [count for count, _ in seen] == [2, 1] and batcher.seconds_per_item > 0
    batcher.close()
