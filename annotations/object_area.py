"""The area of an object in pixels, of what a file says: by it AP_small, AP_medium and AP_large choose their objects.

It may be that of a mask, which is smaller than the box and stays. What no mask has is that of a box which is read in
another way than it is written, and nothing tells it from the number alone.
"""

import math
from collections.abc import Sequence

RELATIVE = "areas that are shares of their image, as the boxes"
OF_OTHER_BOX = "areas that are the product of the last two numbers of the boxes as they are written"
GREATER = "areas that are greater than their box"
NOTHING = "areas of 0 of boxes that have one"
DONE = {RELATIVE: "multiplied by the image's size"}  # else that of the box


def object_area(
    given: float, written: Sequence[float] | None, box: Sequence[float], pixels: float | None
) -> tuple[float, str]:
    """
    Args:
        given: as the file has it, of 0 or more.
        written: four numbers of the box as the file has them, or None where the file has none.
        box: x, y, w, h in pixels that they are read as, inside the image where a repair clips them.
        pixels: width times height of the image, where boxes are shares of it.

    Returns:
        (area in pixels, what was wrong with the one that is given, or nothing).
    """
    width, height = box[2:]
    of_box, scale = width * height, pixels or 1
    relative = pixels is not None and 0 < given <= 1  # else in pixels although the boxes are not
    area, product = (given * scale if relative else given), (written[2] * written[3] * scale if written else of_box)
    if _are_equal(area, product) and not _are_equal(product, of_box):
        return of_box, OF_OTHER_BOX
    if area > (width + 1) * (height + 1) and not _are_equal(area, of_box):  # some count both edges of a box
        return of_box, GREATER
    if area == 0 < of_box:
        return of_box, NOTHING
    return area, RELATIVE if relative else ""


def _are_equal(one, other):
    return math.isclose(one, other, rel_tol=1e-4)  # of a file with few digits
