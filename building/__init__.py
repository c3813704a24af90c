"""From a detector that is there and photos, to a model that finds any name: `decodetr build`.

options.py says what is asked, photos.py which pictures are taken, commands.py the command of each stage, plan.py what
it will cost, contents.py what else it is made of. build_run.py does it. teacher_boxes.py and coverage.py make what
photos without boxes cannot say.
"""
