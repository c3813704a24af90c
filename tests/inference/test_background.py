"""Threads beside the detector: order, errors in their place, and nothing left behind."""

import threading
import time

import pytest

from decodetr.inference.background import Behind, read_ahead


def test_what_is_read_ahead_comes_in_order_and_not_further_ahead_than_asked():
    read = []

    def source():
        for number in range(20):
            read.append(number)
            yield number

    found = []
    for number in read_ahead(source(), 3):
        time.sleep(0.002)
        assert len(read) <= number + 1 + 3 + 1  # given, waiting, and one that finds no room
        found.append(number)
    assert found == list(range(20)) and list(read_ahead(iter(()), 2)) == []


def test_an_error_comes_after_what_was_read_before_it():
    def source():
        yield from (1, 2)
        raise ValueError("damaged")

    found = []
    with pytest.raises(ValueError, match="damaged"):
        found.extend(read_ahead(source(), 4))
    found = read_ahead(source(), 4)
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(ValueError, match="damaged"):
        next(found)


def test_the_thread_ends_with_its_reader():
    before = set(threading.enumerate())

    def endless():
        while True:
            yield 0

    frames = read_ahead(endless(), 2)
    assert next(frames) == 0 and set(threading.enumerate()) - before
    frames.close()
    assert not set(threading.enumerate()) - before


@pytest.mark.parametrize("threaded", [True, False])
def test_things_are_done_one_after_the_other_and_all_at_the_end(threaded):
    done, running = [], threading.Lock()

    def slow(number):
        assert running.acquire(blocking=False)
        time.sleep(0.002)
        done.append((number, threading.current_thread() is threading.main_thread()))
        running.release()

    with Behind(threaded) as behind:
        for number in range(5):
            behind.do(slow, number)
            assert len(done) >= number
    assert done == [(number, not threaded) for number in range(5)]


def test_an_error_behind_is_raised_once_and_never_hides_another():
    def fail():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), Behind() as behind:
        behind.do(fail)
        behind.do(pytest.fail, "begun after an error")
    with pytest.raises(OSError, match="disk full"), Behind() as behind:
        behind.do(fail)
    done = []
    with pytest.raises(KeyboardInterrupt), Behind() as behind:
        behind.do(lambda: time.sleep(0.01) or done.append(1))
        raise KeyboardInterrupt
    assert done == [1]


def test_of_two_errors_the_one_behind_is_told(caplog):
    def fail():
        time.sleep(0.01)
        raise OSError("disk full")

    with pytest.raises(ValueError, match="damaged"), Behind() as behind:
        behind.do(fail)
        raise ValueError("damaged")
    assert [record.message for record in caplog.records] == ["what was done meanwhile failed: OSError: disk full"]
