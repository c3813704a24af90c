"""Find the fastest way to run a model on this machine that keeps its detections.

optimize.py        optimize(): try, check, keep the fastest, remember it
ways.py            the ways that there are, and what each needs
torch_detector.py  a model in torch with the methods of an exported one
int8.py            an OpenVINO graph quantized by NNCF
check.py           AP of the detections of a way
memory.py          where choices are kept, and for what they hold
"""
