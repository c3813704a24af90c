"""Ground floor: what two rooms or more need, and what imports nothing of ours but files that travel to the Hub.
Each file is named after a thing. What one room alone uses lies in that room.

arguments.py       options that take several values
boxes.py           the forms of boxes in annotation files
box_tensors.py     boxes of the model, and corners in pixels
devices.py         the device of a --device option
documents.py       the one reader of JSON and text that somebody else wrote
drawing.py         boxes and names on pictures
excerpts.py        the beginning of what is too long for a message
files.py           results are written whole or not at all; a run's lock on its folder; regular files only
html_page.py       one HTML file that shows what a run made
hub.py             who may ask the Hub
images.py          the one place that opens a picture
lazy.py            packages whose names are imported when they are used
limits.py          what files from outside may ask: pixels, paths; options and environment variables
markup.py          names and paths as Markdown, HTML and text of figures
model_identity.py  what tells one model from another
model_room.py      the files that the model takes along to the Hub
name_list.py       names as a user writes them
outputs.py         what a command writes is never what it reads
paths.py           paths that files from outside name, and what lies below a folder
preflight.py       checks before the work, told together
program.py         runs a command for a file that is a program itself
shipped.py         models and tables by name, those that travel with the package too
spelling.py        the known word that is near to an unknown one
tables.py          tables as Markdown
xml_documents.py   the one reader of XML that somebody else wrote
yaml_documents.py  the one reader of YAML that somebody else wrote
"""
