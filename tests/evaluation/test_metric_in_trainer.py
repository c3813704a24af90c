"""The `evaluate` metric in transformers' own Trainer, without network, gives what `decodetr eval` gives."""

import pytest
import transformers
from helpers.evaluations import write_coco
from helpers.tiny_models import tiny_model
from PIL import Image

from decodetr import DeCoDetrImageProcessor
from decodetr.evaluation.detection_metric import DetectionMetric
from decodetr.evaluation.loop import evaluate_model
from decodetr.inference.detection import detect
from decodetr.processing import CocoAnnotations, DetectionDataset, detection_collate


def test_it_works_in_the_librarys_trainer(tmp_path):
    model = tiny_model(names=["dog", "yak", "cat"]).eval()
    processor = DeCoDetrImageProcessor(size={"height": 64, "width": 64})
    # Objects lie where the model sees some in a picture of write_coco, so that there is something to count.
    boxes = detect(model, processor, [Image.new("RGB", (96, 64), (90, 120, 90))], threshold=0)[0]["boxes"]
    rows = {5: [("cat", boxes[0]), ("dog", boxes[7])], 6: [], 8: [("dog", boxes[3])]}
    coco = CocoAnnotations.load(write_coco(tmp_path / "data", ["cat", "dog"], rows))
    names = model.vocabulary.names
    dataset = DetectionDataset(coco, processor, names)
    metric = DetectionMetric(names, ["dog"], cache_dir=str(tmp_path / "cache"))
    arguments = transformers.TrainingArguments(
        str(tmp_path / "out"),
        per_device_eval_batch_size=2,
        batch_eval_metrics=True,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        use_cpu=True,
    )
    trainer = transformers.Trainer(
        model,
        arguments,
        data_collator=detection_collate,
        eval_dataset=dataset,
        compute_metrics=metric.compute_metrics(processor, dataset),
    )
    found = trainer.evaluate(ignore_keys=["loss_dict"])
    expected = evaluate_model(model, processor, coco, names, ["dog"], batch_size=2, progress=False)
    for key in ("AP", "AP50", "AP_novel", "AP_base", "AR100", "AR50"):
        assert found[f"eval_{key}"] == pytest.approx(expected[key], abs=1e-4), key
    assert expected["AR50"] > 0
