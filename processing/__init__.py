"""Pixels and annotations in, detections out.

image_processing_decodetr.py, image_processing_pil_decodetr.py   resize, normalise, pad; turn outputs into detections
coco.py, coco_checks.py CocoAnnotations: a COCO file, checked; read_image
yolo.py, hub_dataset.py the same from YOLO folders and data sets of `datasets`
sources.py              load_annotations: whichever of the three it is
validation.py, validate.py   what is wrong with a data set, and the command `decodetr validate`
regions.py              RegionTable, write_regions: the offline teacher's regions, in Parquet shards
augmentations.py        DetectionAugmentation: flip, scale, crop, colour, for objects and regions together
detection_dataset.py    DetectionDataset, detection_collate: what a DataLoader gives the model
streamed_dataset.py     StreamedDetectionDataset: the same items from a data set of `datasets` that is streamed
feature_cache.py        FeatureCache: a frozen detector's features, to train the semantic stream without it
model_identity.py, shipped.py   which model it is, and those that travel with the package
files.py, html_report.py     files written whole; tables and pages
drawing.py, predict.py  pictures of detections, and the command `decodetr predict`

The package is lazy: importing `decodetr.processing` imports none of torch, transformers, pyarrow.
"""

from decodetr.utils.lazy import lazy_names

_PUBLIC_NAMES = {
    "AnnotationStream": "decodetr.processing.streamed_dataset",
    "CocoAnnotations": "decodetr.annotations.coco",
    "DeCoDetrImageProcessor": "decodetr.processing.image_processing_decodetr",
    "DeCoDetrImageProcessorPil": "decodetr.processing.image_processing_pil_decodetr",
    "DetectionAugmentation": "decodetr.processing.augmentations",
    "DetectionDataset": "decodetr.processing.detection_dataset",
    "RegionTable": "decodetr.processing.regions",
    "StreamedDetectionDataset": "decodetr.processing.streamed_dataset",
    "detection_collate": "decodetr.processing.detection_dataset",
    "read_image": "decodetr.annotations.coco",
    "write_regions": "decodetr.processing.regions",
}

__all__ = list(_PUBLIC_NAMES)

__getattr__, __dir__ = lazy_names(__name__, _PUBLIC_NAMES)
