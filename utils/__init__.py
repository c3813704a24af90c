"""Ground floor: what two rooms or more need, and what imports nothing of ours but the file commit of the model room.

files.py       results are written whole or not at all; a run's lock on its folder; regular files only
images.py      the one place that opens a picture
documents.py   the one reader of JSON, YAML and text that somebody else wrote
"""
