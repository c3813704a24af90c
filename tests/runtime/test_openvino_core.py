"""OpenVINO takes a thread's stack for signal handlers away with the wrong Core: there is one, and it stays."""

import subprocess
import sys

import numpy as np

_PROGRAM = """
import faulthandler, signal, subprocess, sys
from pathlib import Path
from decodetr.runtime.sessions import OpenVinoSession

faulthandler.enable()  # gives the handlers of signals a stack of their own
signal.signal(signal.SIGCHLD, lambda *_: None)
first = OpenVinoSession(Path(sys.argv[1]), 1, None)
second = OpenVinoSession(Path(sys.argv[1]), 1, None)
del first, second  # in this order
subprocess.run([sys.executable, "-c", ""], check=True)
"""


def test_a_process_outlives_its_openvino_models(tmp_path):
    import openvino
    from openvino import opset8

    inputs = opset8.parameter([1, 4], np.float32)
    graph = openvino.Model([opset8.relu(inputs)], [inputs])
    openvino.save_model(graph, str(tmp_path / "graph.xml"))
    run = subprocess.run([sys.executable, "-c", _PROGRAM, tmp_path / "graph.xml"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
