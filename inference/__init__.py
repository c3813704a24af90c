"""Load a model, give it names, detect, and explain what was detected.

loading.py        load_model: a saved model and its image processor
names.py          choose_names: another vocabulary, embedded where it is not stored
detection.py      detect; forward, for prepared images
picture_files.py  which pictures, and the files that the annotated ones are written to
picture_run.py    detect in many pictures, draw and write, and lose nothing when interrupted
journal.py        what an unfinished run has done
explanations.py   what a detection is made of
model_facts.py    what a model is, knows and learned from, and how fast it is
"""
