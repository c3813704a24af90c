"""Images to tensors, annotations and regions to training items, outputs to detections.

image_processing_decodetr.py, image_processing_pil_decodetr.py   resize, normalise, pad; turn outputs into detections
picture_modes.py        pictures of any mode as 8-bit RGB
regions.py              RegionTable, write_regions: the offline teacher's regions, in Parquet shards
augmentations.py        DetectionAugmentation: flip, scale, crop, colour, for objects and regions together
detection_dataset.py    DetectionDataset, detection_collate: what a DataLoader gives the model
streamed_dataset.py     StreamedDetectionDataset: the same items from a data set of `datasets` that is streamed

The package is lazy: importing `decodetr.processing` imports none of torch, transformers, pyarrow.
"""

import importlib

_PUBLIC_NAMES = {
    "AnnotationStream": "decodetr.annotations.stream",
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


def __getattr__(name):
    if name not in _PUBLIC_NAMES:
        raise AttributeError(f"module 'decodetr.processing' has no attribute {name!r}; it has {sorted(__all__)}")
    value = getattr(importlib.import_module(_PUBLIC_NAMES[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(set(globals()) | set(__all__))
