"""Which detections of the frames of a video are one object: ByteTrack, of the package that supervision points to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import supervision as sv

_ROW = "row"


def require_trackers() -> None:
    """Check that the package is there.

    Raises:
        ImportError: it is not. The message says how to install it.
    """
    try:
        import trackers  # noqa: F401
    except ImportError as error:
        raise ImportError(f"--track needs the package trackers ({error}): pip install 'decodetr[track]'") from error


class Tracks:
    """
    Numbers of objects over the frames of one video.

    Args:
        threshold (float): score from which a detection begins a track. rate (float): frames a second that are given.
    """

    def __init__(self, threshold: float, rate: float) -> None:
        from trackers import ByteTrackTracker

        self._tracker = ByteTrackTracker(
            frame_rate=rate, track_activation_threshold=threshold, high_conf_det_threshold=threshold
        )

    def update(self, found: sv.Detections) -> list[int | None]:
        """The track of each detection of the next frame, in their order. None: none yet, as of a first frame."""
        found.data[_ROW] = np.arange(len(found))
        tracked = self._tracker.update(found)
        tracks: list[int | None] = [None] * len(found)
        numbers = () if tracked.tracker_id is None else tracked.tracker_id
        for row, track in zip(tracked.data.get(_ROW, ()), numbers):
            tracks[int(row)] = int(track) if track >= 0 else None
        del found.data[_ROW]
        return tracks
