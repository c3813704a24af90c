"""Captions of images, and JSON files."""

import json

CAPTIONS = [(1, "a cat on a sofa"), (1, "un café"), (3, "a cat on a sofa")]


def write_json(file, document):
    file.write_text(json.dumps(document), encoding="utf-8")
    return file
