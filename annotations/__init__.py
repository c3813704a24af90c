"""Files of annotations in, `CocoAnnotations` out, and what is wrong with them.

coco.py, coco_checks.py, coco_mending.py   CocoAnnotations: a COCO file, checked; read_image
annotation_index.py, image_entries.py, parsed.py   its annotations and images as arrays, kept where they are large
yolo.py, yolo_labels.py   the same from YOLO folders
cvat.py, label_studio.py, labelme.py, pascal_voc.py   the same from what annotation tools export
exported.py, turned_shapes.py   what these four share: pictures found by their names, shapes as boxes
image_folder.py           the same from pictures alone
hub_dataset.py            the same from data sets of `datasets`
stream.py                 AnnotationStream: such a data set read row by row
layouts.py                what form the data of a folder have, and where their parts are
sources.py                load_annotations: whichever of them it is
formats.py                words for parts and forms that commands need too; form_of
picture_digest.py         whether pictures are still what they were
names_split.py            the split of names into base and novel
names_ahead.py            the names of a COCO file, without the rest of it
captions.py               captions of whole images
examination.py            what is wrong with a file, all of it at once
dataset_report.py         the same of a whole data set, with its copies, statistics and pictures
repair.py                 a repaired copy
box_style.py, findings.py, left_over.py, written_paths.py   what the readers share
"""
