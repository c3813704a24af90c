"""Ground floor: what two rooms or more need, and what imports nothing of ours but two files of the model room.

files.py       results are written whole or not at all; a run's lock on its folder; regular files only
images.py      the one place that opens a picture
limits.py      what files from outside may ask: pixels, paths; options and environment variables
paths.py       paths that files from outside name, and what lies below a folder
markup.py      names and paths as Markdown, HTML and text of figures
model_room.py  the files that the model takes along to the Hub
program.py     runs a command for a file that is a program itself
documents.py   the one reader of JSON, YAML and text that somebody else wrote
"""
