"""What files from outside may ask of us, as environment variables.

Variables, because the worker processes that read pictures inherit them. cli/options.py has the options that set them.
"""

MAX_PIXELS = 1 << 26  # 67 megapixels: a process with a model stays below 2 GB. Of JPEG 2000 half as many
MAX_SIDE = 65_535  # of JPEG, too. What resizes a picture takes half a kilobyte a row or column, however thin it is
MAX_PIXELS_VARIABLE = "DECODETR_MAX_IMAGE_PIXELS"
OUTSIDE_VARIABLE = "DECODETR_ALLOW_OUTSIDE"
