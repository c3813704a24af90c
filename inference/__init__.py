"""Load a model, give it names, detect, and explain what was detected.

loading.py        load_model: a saved model and its image processor
names.py          embed_names, embed_examples: vocabularies of a text model that goes by a name
examples.py       example images of names, in folders or as annotated boxes
detection.py      detect; forward, for prepared images
picture_files.py  which pictures, and the files that the annotated ones are written to
picture_run.py    detect in many pictures, draw and write, and lose nothing when interrupted
journal.py        what an unfinished run has done
explanations.py   what a detection is made of
"""
