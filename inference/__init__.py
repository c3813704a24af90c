"""Load a model, give it names, detect, and explain what was detected.

loading.py        load_model: a saved model and its image processor
names.py          embed_names, embed_examples: vocabularies of a text model that goes by a name
examples.py       example images of names, in folders or as annotated boxes
candidates.py     labels of one call as names, with what prompts have around them
detection.py      detect; forward, for prepared images
shown.py          which detections are shown, by the thresholds of their names
any_picture.py    as_picture: a PIL image of whatever a caller has for a picture
one_call.py       decodetr.detect: any picture in, supervision.Detections out
exported_model.py an exported model in the place of a DeCo-DETR
pipelines.py      the pipelines of transformers for a DeCo-DETR
pipeline_choice   which pipeline a model gets, these or the library's
slicing.py        large pictures in tiles
sources.py        what the command reads
videos.py         frames of videos, streams and cameras
tracking.py       which detections of frames are one object
background.py     reading and writing beside the detector
picture_files.py  which pictures, and the files that the annotated ones are written to
result_files.py   the forms of results
video_run.py      one video of the command
annotated_video   the video that shows what was found in it
picture_run.py    detect in many pictures, draw and write, and lose nothing when interrupted
journal.py        what an unfinished run has done
explanations.py   what a detection is made of
model_facts.py    what a model is, knows and learned from, and how fast it is
"""
