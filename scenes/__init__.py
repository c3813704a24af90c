"""The embedded world (docs/scenes.md): drawn scenes with compositional names, written as ordinary COCO-format folders.

    world.py           the names, their base/novel split and the settings of a folder; plain Python
    rendering.py       one object, one background, one scene
    write.py           scenes into a folder, and the preview
    captions.py, teacher_data.py, clip_teacher.py, llava_teacher.py, clip_geometry.py, teachers.py   the small teachers
    measure.py         AP50 of a model by the size of its vocabulary, and the teacher's
    options.py, recipes.py   what commands are told, and what was chosen; plain Python
    comparison.py, run_records.py   runs of the semantic stream that are compared
    pool_variants.py   other pools of the same regions
    pool_ablation.py   variants of the pool, compared
    command_runner.py  commands one after another
    quickstart.py, shipped_models.py   what runs them

Names are looked up when they are used, so that importing this package costs neither numpy nor Pillow.
"""

from decodetr.utils.lazy import TYPE_CHECKING, lazy_names

if TYPE_CHECKING:  # as in decodetr itself
    from decodetr.scenes.rendering import Scene as Scene
    from decodetr.scenes.rendering import SceneObject as SceneObject
    from decodetr.scenes.rendering import draw_scene as draw_scene
    from decodetr.scenes.world import COLOURS as COLOURS
    from decodetr.scenes.world import HELD_OUT_SHAPE as HELD_OUT_SHAPE
    from decodetr.scenes.world import NAMES as NAMES
    from decodetr.scenes.world import PATTERNS as PATTERNS
    from decodetr.scenes.world import SHAPES as SHAPES
    from decodetr.scenes.world import SceneName as SceneName
    from decodetr.scenes.world import SceneSettings as SceneSettings
    from decodetr.scenes.world import names_document as names_document
    from decodetr.scenes.write import write_scenes as write_scenes

_HOMES = {
    "COLOURS": "decodetr.scenes.world",
    "HELD_OUT_SHAPE": "decodetr.scenes.world",
    "NAMES": "decodetr.scenes.world",
    "PATTERNS": "decodetr.scenes.world",
    "SHAPES": "decodetr.scenes.world",
    "SceneName": "decodetr.scenes.world",
    "SceneSettings": "decodetr.scenes.world",
    "names_document": "decodetr.scenes.world",
    "Scene": "decodetr.scenes.rendering",
    "SceneObject": "decodetr.scenes.rendering",
    "draw_scene": "decodetr.scenes.rendering",
    "write_scenes": "decodetr.scenes.write",
}

__all__ = list(_HOMES)

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _HOMES)
