"""The evaluation loop: a predictor over annotated images, into an evaluator."""

from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from decodetr.annotations.coco import read_annotated
from decodetr.evaluation import ENGINES
from decodetr.evaluation.output_evaluator import OutputEvaluator, rules_of
from decodetr.evaluation.predictors import DeCoDetrPredictor
from decodetr.utils.images import in_batches


def evaluate_model(
    model,
    image_processor,
    coco,
    names,
    novel_names=None,
    batch_size=8,
    max_detections=None,
    device=None,
    progress=True,
    *,
    base_names=None,
    allow_missing_names=False,
    engine=ENGINES[0],
    num_workers=0,
):
    """Run a DeCo-DETR over an annotated set and return its metrics (one process).

    Args:
        model: DeCoDetrForObjectDetection; the modes (train or eval) of its modules are restored.
        image_processor: its image processor.
        coco: `annotations.coco.CocoAnnotations`.
        names: the model's vocabulary in the order of its labels.
        device: where to run; by default where the model is. The model is moved there.
        progress: a progress bar on stderr.
        novel_names, base_names, allow_missing_names, engine: see `DetectionEvaluator`.
        max_detections: kept per image; default 100, and 300 of a file that is federated as LVIS is. Such a file is
            evaluated by LVIS' rules.

    Returns:
        The metrics of `OutputEvaluator.compute(per_name=True)`, in percent, NaN where there is no ground truth.
    """
    rules = rules_of(coco, max_detections)
    options = {**rules, "base_names": base_names, "engine": engine}
    evaluator = OutputEvaluator(coco, names, novel_names, allow_missing_names=allow_missing_names, **options)
    model.to(device or model.device)
    modes = {module: module.training for module in model.modules()}  # a frozen detector stays in eval in training
    model.eval()
    try:
        predictor = DeCoDetrPredictor(model, image_processor, rules["max_detections"])
        run_predictor(predictor, coco, evaluator, batch_size, num_workers, progress)
    finally:
        for module, training in modes.items():
            module.training = training
    return evaluator.compute(per_name=True)


def run_predictor(predictor, coco, evaluator, batch_size=8, num_workers=0, progress=True, rank=0, processes=1):
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
