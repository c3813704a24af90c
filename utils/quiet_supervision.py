"""The package supervision, without its notice that it draws without OpenCV, which is of no use to our users."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="OpenCV")
    import supervision as sv
    from supervision.dataset.formats.pascal_voc import detections_to_pascal_voc

__all__ = ["detections_to_pascal_voc", "sv"]
