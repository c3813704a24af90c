"""OpenVINO takes a thread's stack for signal handlers away with the wrong Core: there is one, and it stays."""

import subprocess
import sys

import numpy as np
import pytest

from decodetr.runtime.sessions import open_session, openvino_core

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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("units", [("FP32",), ("FP32", "BF16")])
def test_bfloat16_is_asked_for_where_there_are_units(dtype, units, tmp_path, monkeypatch):
    import openvino
    from openvino import opset8

    inputs = opset8.parameter([1, 4], np.float32)
    openvino.save_model(openvino.Model([opset8.relu(inputs)], [inputs]), str(tmp_path / "graph.xml"))
    core, asked = openvino_core(), []

    class Core:
        available_devices = core.available_devices
        read_model = staticmethod(core.read_model)

        def get_property(self, device, name):
            assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
            return list(units)

        def compile_model(self, graph, device, settings):
            asked.append(settings["INFERENCE_PRECISION_HINT"])
            return core.compile_model(graph, device, settings)

    monkeypatch.setattr("decodetr.runtime.sessions.openvino_core", Core)
    open_session("openvino", tmp_path / "graph.xml", dtype=dtype)
    assert asked == ["bf16" if dtype == "bfloat16" and "BF16" in units else "f32"]
