"""What a fine-tune gains on its names and loses on the others: AP before and after."""

import logging
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from decodetr.utils.documents import read_json
from decodetr.utils.files import write_json
from decodetr.utils.tables import markdown_table

if TYPE_CHECKING:
    from decodetr.annotations.coco import CocoAnnotations

logger = logging.getLogger(__name__)

FILE = "forgetting.json"
GROUPS = {"trained": "names with annotations in training", "held_out": "held-out names"}
METRICS = ("AP50", "AP")


class ForgettingReport:
    """
    Before and after of one run, kept in OUTPUT/forgetting.json.

    Args:
        output_dir: of the run.
        trained (list[str]): names that have annotations in training.
        data: of the held-out names, for the report.
        start (str): what else "before" belongs to.
        main (bool): this process writes the file. All of them measure.
    """

    def __init__(
        self, output_dir: str | Path, trained: Iterable[str], data: str | Path, start: str = "", main: bool = True
    ) -> None:
        self.main = main
        self.file, self.trained, self.data = Path(output_dir) / FILE, list(trained), str(data)
        self.key = {"trained_names": self.trained, "data": self.data, "start": start}
        self.content = {}

    def groups(self, coco: "CocoAnnotations", names: Iterable[str]) -> dict[str, list[str]]:
        """{"trained": names, "held_out": names} of the categories of a file that are among `names`, a vocabulary."""
        trained, known = set(self.trained), set(names)
        found = [name for name in coco.names if name in known]
        groups = {
            "trained": [name for name in found if name in trained],
            "held_out": [name for name in found if name not in trained],
        }
        return {group: members for group, members in groups.items() if members}

    def measured(
        self, metrics: dict[str, float] | None, held_out_metrics: dict[str, float] | None
    ) -> dict[str, float]:
        """Take AP of trained and of held-out names, in percent, from metrics of the validation data and of the data of
        held-out names, each with its prefix, or None where there are no such data."""
        found = {key.partition("_")[2]: value for key, value in (metrics or {}).items()}
        if held_out_metrics is not None:
            held_out = {key.partition("_")[2]: value for key, value in held_out_metrics.items()}
            found = {key: value for key, value in found.items() if not key.endswith("held_out")}
            found |= {key: value for key, value in held_out.items() if key.endswith("held_out")}
        return {key: value for key, value in found.items() if key.endswith(("_trained", "_held_out"))}

    def before(self, measure: Callable[[], dict[str, float]]) -> None:
        """Measure what the starting point reaches. A run that goes on after a stop has it already."""
        if self.file.is_file():
            try:
                self.content = read_json(self.file, dict)
            except ValueError as error:
                logger.warning("%s; what the starting point reaches is measured again", error)
            known = isinstance(self.content.get("before"), dict)
            if known and all(self.content.get(name) == value for name, value in self.key.items()):
                return
        self.content = {**self.key, "before": _finite(measure())}
        self._write()

    def after(self, measure: Callable[[], dict[str, float]]) -> None:
        """Measure what the trained model reaches."""
        self.content["after"] = _finite(measure())
        self._write()

    def table(self) -> str:
        """Markdown: a row for each group of names and metric that both measurements have."""
        before, after = self.content["before"], self.content["after"]
        rows = []
        for group, words in GROUPS.items():
            for metric in METRICS:
                key = f"{metric}_{group}"
                if before.get(key) is not None and after.get(key) is not None:
                    change = after[key] - before[key]
                    cells = (f"{before[key]:.1f}", f"{after[key]:.1f}", f"{change:+.1f}")
                    rows.append([f"{metric}, {words}", *cells])
        return markdown_table(["AP, %", "before", "after", "change"], rows).rstrip()

    def pairs(self) -> dict[str, tuple[float, float]]:
        """{group in words: (AP50 before, AP50 after)} of the groups that have both, in percent."""
        before, after = self.content["before"], self.content["after"]
        keys = {words: f"AP50_{group}" for group, words in GROUPS.items()}
        return {words: (before[key], after[key]) for words, key in keys.items() if key in before and key in after}

    def has_held_out(self) -> bool:
        """Whether there were held-out names to measure."""
        return self.content.get("before", {}).get("AP50_held_out") is not None

    def _write(self):
        if not self.main:
            return
        write_json(self.file, self.content)


def _finite(metrics):
    """Without the AP of groups that have no object, which is NaN."""
    return {key: value for key, value in metrics.items() if math.isfinite(value)}
