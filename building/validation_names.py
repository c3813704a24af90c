"""Names of the validation images of a data set with boxes, looked at before anything long."""

from collections.abc import Collection

from decodetr.annotations.sources import has_part, load_annotations
from decodetr.training.metrics import check_names


def check_validation_names(images: str, names: Collection[str]) -> None:
    """Training refuses validation names that the model will lack, but only after all captions were made.

    Args:
        images: a data set with boxes. names: that will be learned.

    Raises:
        ValueError: validation images have other names. Says which, and what to do.
    """
    if has_part(images, "val"):
        coco = load_annotations(images, "val", check_images=False)
        remedy = "a build learns the names of the training images and --names: give the others by --names FILE"
        check_names(coco, names, remedy)
