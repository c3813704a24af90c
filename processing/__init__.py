"""Images to tensors, annotations and regions to training items, outputs to detections.

image_processing_decodetr.py, image_processing_pil_decodetr.py   resize, normalise, pad; turn outputs into detections
picture_modes.py        pictures of any mode as 8-bit RGB
float_resizing.py       pictures resized in floats as torch does it, without torch
regions.py              RegionTable, write_regions: the offline teacher's regions, in Parquet shards
region_shards.py, region_store.py       these shards checked, and as they are mapped in training
region_names.py         whether regions are of the pictures that data have now
augmentations.py        DetectionAugmentation: flip, scale, crop, colour, for objects and regions together
detection_dataset.py    DetectionDataset, detection_collate: what a DataLoader gives the model
streamed_dataset.py     StreamedDetectionDataset: the same items from a data set of `datasets` that is streamed

The package is lazy: importing `decodetr.processing` imports none of torch, transformers, pyarrow.
"""

from decodetr.utils.lazy import TYPE_CHECKING, lazy_names

if TYPE_CHECKING:  # as in decodetr itself
    from decodetr.annotations.coco import CocoAnnotations as CocoAnnotations
    from decodetr.annotations.coco import read_image as read_image
    from decodetr.annotations.stream import AnnotationStream as AnnotationStream
    from decodetr.processing.augmentations import DetectionAugmentation as DetectionAugmentation
    from decodetr.processing.detection_dataset import DetectionDataset as DetectionDataset
    from decodetr.processing.detection_dataset import detection_collate as detection_collate
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor as DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import (
        DeCoDetrImageProcessorPil as DeCoDetrImageProcessorPil,
    )
    from decodetr.processing.regions import RegionTable as RegionTable
    from decodetr.processing.regions import write_regions as write_regions
    from decodetr.processing.streamed_dataset import StreamedDetectionDataset as StreamedDetectionDataset

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

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _PUBLIC_NAMES)
