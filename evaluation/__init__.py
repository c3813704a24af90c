"""What a detector is worth.

protocols.py, protocols/    what is measured, as data
prepare.py                  the annotation files of a protocol, from the official ones
options.py                  what `evaluate` of eval.py is told
loop.py                     a predictor over annotated images, into an evaluator
coco_matching.py            COCO's matching by an engine, name by name
detection_evaluator.py      DetectionEvaluator: streaming AP
detection_metric.py         DetectionMetric: the same as an `evaluate.Metric`
output_evaluator.py         OutputEvaluator: names and localization of a DeCo-DETR
predictors.py, peers.py, zero_shot_peers.py   what is evaluated: our model, oracles, other people's detectors
loading.py                  the one of these that a command names
detections.py               detections on disk
matches.py, analysis.py     which detection found what, and what lies behind an AP
calibrate.py, model_calibration.py   scores that say how often they are right
thresholds.py               the score of best F1 of each name, in thresholds.json
duplicates.py               whether overlapping boxes are duplicates
report.py, figures.py       the report
compare.py                  two runs

The package is lazy, and the names below cost nothing, because commands need them for `--help`.
"""

from decodetr.utils.lazy import TYPE_CHECKING, lazy_names

if TYPE_CHECKING:  # as in decodetr itself
    from decodetr.evaluation.detection_evaluator import DetectionEvaluator as DetectionEvaluator
    from decodetr.evaluation.detection_metric import DetectionMetric as DetectionMetric
    from decodetr.evaluation.output_evaluator import OutputEvaluator as OutputEvaluator
    from decodetr.evaluation.protocols import Protocol as Protocol

ENGINES = ("faster-coco-eval", "pycocotools")
ORACLES = ("boxes", "names", "teacher", "teacher-names")
PROTOCOLS = ("custom", "coco", "ov-coco", "ov-lvis")
CALIBRATION_IMAGES = 500  # that calibrate a model. More make the two numbers no better
PREPARED = ("ov-coco", "ov-lvis")  # protocols that `decodetr eval prepare` writes

_PUBLIC_NAMES = {
    "DetectionEvaluator": "decodetr.evaluation.detection_evaluator",
    "DetectionMetric": "decodetr.evaluation.detection_metric",
    "OutputEvaluator": "decodetr.evaluation.output_evaluator",
    "Protocol": "decodetr.evaluation.protocols",
}

__all__ = ["CALIBRATION_IMAGES", "ENGINES", "ORACLES", "PREPARED", "PROTOCOLS", *_PUBLIC_NAMES]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _PUBLIC_NAMES, ["ENGINES", "ORACLES", "PROTOCOLS"])
