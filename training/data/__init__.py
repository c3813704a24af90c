"""What a training run learns from.

data.py                 TrainingData: annotations, regions, and what is known of whole images
names.py                the names that it is trained on, and those that the saved model has
weak_labels.py          captions of whole images, and names that are somewhere in them
self_regions.py, replay.py   what a fine-tune must not unlearn: the model's own view; images of an earlier data set
sparse.py               few images with something to learn among many without
detector_boxes.py       what the detector sees before it learns: pseudo boxes
dataloading.py          how it is read
"""
