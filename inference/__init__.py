"""Load a model, give it names, detect, and explain what was detected.

detection.py      load_detector, choose_names, detect
picture_run.py    detect in many pictures, draw and write, and lose nothing when interrupted
journal.py        what an unfinished run has done
explanations.py   what a detection is made of
"""
