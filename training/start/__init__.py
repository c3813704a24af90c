"""The model that a training run starts with.

starting_point.py       a saved DeCo-DETR, a saved detector, or a config
timm_backbone.py        a pretrained backbone of timm
space.py                one CLIP for pool, vocabulary, regions and model
space_fit.py            temperatures and background, where captions alone chose those of the pool
space_report.py         what they do in the space of the run's names, in figures
thumbnails.py           whether the semantic stream needs the pixels of regions
"""
