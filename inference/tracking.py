"""Which detections of the frames of a video are one object: ByteTrack, of the package that supervision points to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from decodetr.utils.quiet_supervision import sv

if TYPE_CHECKING:
    from collections.abc import Sequence

_SURE = 0.5


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
        rate (float): frames a second that are given.
    """

    def __init__(self, rate: float) -> None:
        from trackers import ByteTrackTracker

        self._tracker = ByteTrackTracker(
            frame_rate=rate, track_activation_threshold=_SURE, high_conf_det_threshold=_SURE
        )

    def update(self, boxes: Sequence[Sequence[float]], faint: Sequence[Sequence[float]] = ()) -> list[int | None]:
        """The track of each box of the next frame, in their order. None: none yet, as of a first frame.

        Args:
            boxes: x0, y0, x1, y1 of what is shown, which begins and continues tracks.
            faint: of what is not, which only continues those that no shown box does.
        """
        # ByteTrack asks a score only on which side of one threshold it is. Thresholds may differ between names.
        sure = np.repeat([1.0, 0.0], [len(boxes), len(faint)])
        found = sv.Detections(
            xyxy=np.array([*boxes, *faint], dtype=np.float32).reshape(-1, 4),
            confidence=sure.astype(np.float32),
            data={"row": np.arange(len(sure))},
        )
        tracked = self._tracker.update(found)
        given = () if tracked.tracker_id is None else tracked.tracker_id
        numbers = dict(zip(tracked.data.get("row", ()), given))
        tracks = (numbers.get(row, -1) for row in range(len(boxes)))
        return [int(track) if track >= 0 else None for track in tracks]
