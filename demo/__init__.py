"""A model in the browser: `decodetr demo`, and a Space (docs/demo.md).

settings.py  DemoSettings: what a demo takes. Light to import
searches.py  what can be looked for: names of the model, of vocabularies, of the pool, typed, and from drawn boxes
sight.py     a picture and a search into a Sighting: all that was found, and how long it took
stage.py     what the browser draws: boxes, colours, which box is at a point, why it is there
desk.py      what happens when somebody does something on the page, without Gradio
picture.py   the place for a picture
page.py      the page, of Gradio's components; stage.html, stage.js, page.js and page.css belong to it
server.py    the page on a socket, until a signal ends it
space/       a folder that is a Space
"""
