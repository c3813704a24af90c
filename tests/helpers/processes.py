"""Other processes of the tests.

Where that is safe they are copies of the process that tests, which has imported everything: a new one takes six
seconds for that. A copy has none of the threads of its original, and would wait for those of OpenMP or CUDA for ever;
`make test` gives each process one thread.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState

from decodetr.cli import main
from decodetr.inference import detection
from helpers.paths import BENCHMARKS, TESTS

_COPIES = sys.platform == "linux" and os.environ.get("OMP_NUM_THREADS") == "1" and not torch.cuda.is_available()
_METHOD = "fork" if _COPIES else "spawn"
# Autograd begins before any export, which makes torch believe in eight GPUs: it would have threads for them then.
torch.ones((), requires_grad=True).backward()


def start(function, *args):
    """Start a process that calls a function, in a session of its own, so that `kill` ends its workers too. What it
    prints is lost, but for errors."""
    context = torch.multiprocessing.get_context(_METHOD)
    begun = context.Event()
    arguments = (begun.set, os.devnull, torch.get_num_threads(), function, args)
    process = context.Process(target=_begin, args=arguments)
    process.start()
    assert begun.wait(timeout=300)
    return process


def kill(process):
    """SIGKILL to a process of `start` and to its workers."""
    os.killpg(process.pid, signal.SIGKILL)
    process.join()


def run_command(words):
    """`decodetr ...`, for the functions here."""
    status = main(words)
    assert status == 0, f"decodetr {words[0]} ended with {status}"


def predict_killed_at(number, command):
    """`decodetr predict ...`, whose process is killed at the n-th batch."""
    calls, run = [], detection.detect

    def detect(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return run(*args, **kwargs)

    detection.detect = detect  # of this process, which ends here
    main(command)


def run_pair(function, *args):
    """Call a function in two processes that know of each other, as torchrun would: with gloo, on this machine.

    Returns:
        (list[str]): what each printed.
    """
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory() as folder:
        arguments = (folder, store.port, torch.get_num_threads(), function, args)
        pair = torch.multiprocessing.start_processes(
            _one_of_two, arguments, nprocs=2, join=False, start_method=_METHOD
        )
        end = time.monotonic() + 600
        while not pair.join(timeout=10):
            if time.monotonic() > end:
                for process in pair.processes:
                    process.kill()
                raise TimeoutError("the two processes wait for each other")
        return [(Path(folder) / str(rank)).read_text(encoding="utf-8") for rank in (0, 1)]


def torchrun(*words, threads=1):
    """Run a Python program (`words`) in two new processes under torchrun. Returns what they printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    paths = [str(TESTS), str(BENCHMARKS), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    environment |= {"OMP_NUM_THREADS": str(threads), "GLOO_SOCKET_IFNAME": _loopback()}
    done = subprocess.run([*command, *map(str, words)], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def _loopback():
    return "lo0" if sys.platform == "darwin" else "lo"


def _begin(tell, *args):
    os.setsid()
    tell()
    _call(*args)


def _one_of_two(rank, folder, port, threads, function, args):
    environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": _loopback()}
    environment["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # both connect to the store of the process that tests
    environment["TORCHELASTIC_RESTART_COUNT"] = "0"
    os.environ.update(environment)
    _call(os.path.join(folder, str(rank)), threads, function, args)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _call(output, threads, function, args):
    torch.set_num_threads(threads)
    # What Accelerate knows of the process that this is a copy of.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    with open(output, "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        function(*args)
