"""The embedded world (docs/scenes.md): drawn scenes with compositional names, written as ordinary COCO-format folders.

    world.py     the names, their base/novel split and the settings of a folder; plain Python
    rendering.py one object, one background, one scene
    write.py     scenes into a folder, and the preview

Names are looked up when they are used, so that importing this package costs neither numpy nor Pillow.
"""

import importlib

_HOMES = {
    "COLOURS": "world",
    "HELD_OUT_SHAPE": "world",
    "NAMES": "world",
    "PATTERNS": "world",
    "SHAPES": "world",
    "SceneName": "world",
    "SceneSettings": "world",
    "names_document": "world",
    "Scene": "rendering",
    "SceneObject": "rendering",
    "draw_scene": "rendering",
    "write_scenes": "write",
}

__all__ = list(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'decodetr.scenes' has no attribute {name!r}; its public names are {__all__}")
    return getattr(importlib.import_module(f"decodetr.scenes.{_HOMES[name]}"), name)
