"""What `evaluate` of eval.py is told, and what can be wrong with it."""

from dataclasses import dataclass
from pathlib import Path

from decodetr.annotations.sources import kind_of, without_boxes
from decodetr.evaluation import ENGINES
from decodetr.evaluation.protocols import Protocol
from decodetr.utils.documents import read_json
from decodetr.utils.files import output_folder
from decodetr.utils.outputs import apart, unwritten
from decodetr.utils.preflight import run_checks
from decodetr.utils.shipped import expect, expect_file, resolve

_INPUTS = ("data", "images", "annotations", "vocabulary", "detections", "protocol", "names_split")
_WRITTEN = ("report.json", "report.html", "report.md", "thresholds.json", "detections.parquet")


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """
    What is evaluated, on what, and how. Messages call the fields by the options of `decodetr eval`.

    Args:
        model: folder or name of a DeCo-DETR or of another detector of transformers.
        detections: instead of a model: detections.parquet of a run, or COCO results.
        data: a data set, as [`load_annotations`] takes it. annotations: instead, or of it: a COCO or LVIS file.
        part: of the data set: "train", "val" or "test". Default: "val", or the only one that it has.
        images: folder of its images.
        protocol: one of PROTOCOLS, or a JSON file.
        class_names, box_format: of a `datasets` data set, as [`load_annotations`] takes them.
        names_split: names.json with base and novel names, or "none". novel_names: instead, with commas between them.
        vocabulary: folder or name of a `Vocabulary` that replaces the stored one.
        allow_missing_names: names that the vocabulary lacks count as AP 0.
        oracle: one of ORACLES. clip: the CLIP of "teacher" and "teacher-names". Default: the one of the vocabulary.
        max_detections: per image, over all names. Default: the protocol's.
        output: folder for the report. None writes none. overwrite: replace an earlier report there.
        font: TrueType file for the names in the pictures of the report.
    """

    model: str | None = None
    detections: str | None = None
    data: str | None = None
    annotations: str | None = None
    part: str | None = None
    images: str | None = None
    protocol: str = "custom"
    class_names: list[str] | None = None
    box_format: str = "coco"
    names_split: str | None = None
    novel_names: str | None = None
    vocabulary: str | None = None
    allow_missing_names: bool = False
    oracle: str | None = None
    clip: str | None = None
    batch_size: int = 8
    max_detections: int | None = None
    num_workers: int = 0
    engine: str = ENGINES[0]
    device: str = "auto"
    output: str | None = None
    overwrite: bool = True
    font: str | None = None

    def check(self) -> None:
        """Raise, together, what can be known to be wrong before annotations and models are read.

        Raises:
            ValueError, OSError: see [`run_checks`].
        """
        run_checks(
            self._check_output,
            self._check_apart,
            self._check_numbers,
            self._check_model,
            self._check_data,
            lambda: Protocol.load(self.protocol),
            lambda: expect("model", self.model, "config.json"),
            lambda: expect("vocabulary", self.vocabulary, "vocabulary.json"),
            lambda: expect("CLIP", self.clip, "config.json"),
            lambda: expect_file("--detections", self.detections),
            lambda: expect_file("--annotations", self.annotations),
            lambda: expect_file("--font", self.font),
            lambda: expect_file("--names-split", None if self.names_split == "none" else self.names_split),
        )

    def _check_output(self):
        output = self.output
        if output and (Path(output).is_file() or Path(output).suffix in (".json", ".md", ".html")):
            raise ValueError(f"--output {output}: expected a folder, which gets report.json and others")
        if self.font and not output:
            raise ValueError("--font is of the pictures of a report, and none is made; leave it out, or give --output")
        return output and output_folder(output, "--output")

    def _check_apart(self):
        """Refuse an output folder in which something is read that the report would replace."""
        inputs = {f"--{name.replace('_', '-')}": getattr(self, name) for name in _INPUTS}
        inputs |= {"--model": self.model and resolve(self.model)}
        apart("--output", self.output, inputs, _WRITTEN)
        unwritten("--output", self.output, _WRITTEN, "decodetr eval", self.overwrite, _is_report)

    def _check_numbers(self):
        for name, least in {"batch_size": 1, "max_detections": 1, "num_workers": 0}.items():
            if (value := getattr(self, name)) is not None and value < least:
                option = name.removeprefix("num_").replace("_", "-")
                raise ValueError(f"--{option} must be at least {least}, got {value}")

    def _check_model(self):
        alone = self.oracle == "teacher" and self.vocabulary and not (self.model or self.detections)
        if bool(self.model) == bool(self.detections) and not alone:
            raise ValueError(
                "give one of --model and --detections, or --oracle teacher with the --vocabulary of its CLIP"
            )
        if self.detections and (self.oracle or self.vocabulary):
            raise ValueError("--oracle and --vocabulary need --model: detections have their names already")
        if self.clip and self.oracle not in ("teacher", "teacher-names"):
            raise ValueError("--clip goes with --oracle teacher or teacher-names")

    def _check_data(self):
        if not (self.annotations or self.data):
            raise ValueError("give --data DIR or --annotations FILE: what the model is evaluated on")
        if not self.annotations and kind_of(self.data) == "images":
            raise ValueError(without_boxes(self.data))


def _is_report(file):
    """Whether report.json is of an evaluation. A pool has a file of that name too."""
    return file.is_file() and "protocol" in read_json(file, dict)
