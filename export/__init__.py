"""Write a DeCo-DETR as a graph that other runtimes run.

export_run.py   export_model: the folder, whole or not at all
settings.py     what the user chooses, and what a model allows
graph.py        the model as a module with tensors in and tensors out
tracing.py      the module as a program of torch.export
formats.py      the program as ONNX, OpenVINO or pt2
parity.py       the exported graph gives the detections of the model

decodetr/runtime/ reads what is written here, without torch.
"""
