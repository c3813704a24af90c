"""The score from which a model shows detections where neither the user nor a calibration says another.

Apart from the config, so that commands can say it without importing transformers.
"""

DEFAULT_THRESHOLD = 0.3
