"""The evaluation loop: a predictor over annotated images, into an evaluator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from decodetr.annotations.coco import read_annotated
from decodetr.evaluation import ENGINES
from decodetr.evaluation.output_evaluator import OutputEvaluator, rules_of
from decodetr.evaluation.predictors import DeCoDetrPredictor, TeacherOracle
from decodetr.modeling_decodetr.evaluation_mode import evaluating
from decodetr.utils.images import in_batches

if TYPE_CHECKING:
    import torch

    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.evaluation.peers import Peer
    from decodetr.modeling_decodetr.modeling_decodetr import DeCoDetrForObjectDetection
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil


def evaluate_model(
    model: DeCoDetrForObjectDetection,
    image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil,
    coco: CocoAnnotations,
    names: list[str],
    novel_names: Iterable[str] | None = None,
    batch_size: int = 8,
    max_detections: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    *,
    base_names: Iterable[str] | None = None,
    allow_missing_names: bool = False,
    engine: str = ENGINES[0],
    num_workers: int = 0,
) -> dict:
    """Run a DeCo-DETR over an annotated set and return its metrics (one process).

    Args:
        model: DeCoDetrForObjectDetection. The modes (train or eval) of its modules are restored.
        image_processor: its image processor.
        coco: `annotations.coco.CocoAnnotations`.
        names: the model's vocabulary in the order of its labels.
        device: where to run. By default where the model is. The model is moved there.
        progress: show a progress bar on stderr.
        novel_names, base_names, allow_missing_names, engine: see `DetectionEvaluator`.
        max_detections: kept per image. Default 100, and 300 of a file that is federated as LVIS is. Such a file is
            evaluated by LVIS' rules.

    Returns:
        The metrics of `OutputEvaluator.compute(per_name=True)`, in percent, NaN where there is no ground truth.
    """
    rules = rules_of(coco, max_detections)
    options = {**rules, "base_names": base_names, "engine": engine}
    evaluator = OutputEvaluator(coco, names, novel_names, allow_missing_names=allow_missing_names, **options)
    model.to(device or model.device)
    with evaluating(model):
        predictor = DeCoDetrPredictor(model, image_processor, rules["max_detections"])
        run_predictor(predictor, coco, evaluator, batch_size, num_workers, progress)
    return evaluator.compute(per_name=True)


def run_predictor(
    predictor: DeCoDetrPredictor | TeacherOracle | Peer,
    coco: CocoAnnotations,
    evaluator: OutputEvaluator,
    batch_size: int = 8,
    num_workers: int = 0,
    progress: bool = True,
    rank: int = 0,
    processes: int = 1,
) -> None:
    """Feed an `OutputEvaluator` with what a predictor finds in the images of `coco` whose turn it is: every
    `processes`-th from the `rank`-th on, so that no image goes to two processes."""
    entries = coco.images[rank::processes]
    # Large pictures alone: some predictors hold them as they are.
    rows = range(len(entries))
    groups = list(in_batches(rows, batch_size, lambda row: entries[row]["width"] * entries[row]["height"]))
    pictures = _Pictures(coco, entries, predictor)
    loader = DataLoader(pictures, batch_sampler=groups, collate_fn=list, num_workers=num_workers)
    with tqdm(total=len(entries), desc="eval", unit="image", disable=not progress or rank > 0) as bar:
        for group, prepared in zip(groups, loader):
            batch = [entries[row] for row in group]
            evaluator.update([entry["image_id"] for entry in batch], predictor(prepared, batch))
            bar.update(len(batch))


class _Pictures:
    """What a DataLoader reads: pictures, prepared."""

    def __init__(self, coco, entries, predictor):
        self.file, self.entries, self.prepare = coco.file, entries, predictor.prepare

    def __len__(self):
        return len(self.entries)

    def __getitem__(self, index):
        return self.prepare(read_annotated(self.entries[index], self.file))
