"""Who proposes regions beside a DeCo-DETR: detectors of transformers, torchvision's RPN, a grid."""

import pytest
import torch
import torchvision
from helpers.pool_data import write_data
from helpers.tiny_models import tiny_config
from PIL import Image
from torchvision.ops import box_iou

from decodetr.pool_builder.proposers import DetectorProposer, GridProposer, RpnProposer, proposer_model

PICTURES = [Image.new("RGB", (80, 60), "red"), Image.new("RGB", (50, 90), "blue")]


def test_grid_covers_the_picture_in_three_sizes():
    (boxes, scores), (other, _) = GridProposer()(PICTURES)
    assert boxes[0].tolist() == [0, 0, 80, 60] and other[0].tolist() == [0, 0, 50, 90]
    assert scores.tolist() == sorted(scores.tolist(), reverse=True) and 0.05 < scores.min() and scores.max() < 1
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= torch.tensor([80, 60]) + 1e-4).all()
    sizes = {tuple(round(v, 3) for v in (box[2:] - box[:2]).tolist()) for box in boxes}
    assert (40, 30) in sizes and (20, 30) in sizes and (40, 15) in sizes and (20, 15) in sizes and len(sizes) == 7
    target = torch.tensor([[31.0, 22, 50, 39]])  # some window has at least half of any such box
    assert box_iou(target, boxes).max() > 0.4


def test_a_detector_of_transformers_gives_its_boxes_without_classes(tmp_path):
    from transformers import AutoModelForObjectDetection, RTDetrImageProcessor

    config = tiny_config().detector_config
    config.num_labels = 4
    torch.manual_seed(0)
    detector = AutoModelForObjectDetection.from_config(config).eval()
    detector.save_pretrained(tmp_path)
    processor = RTDetrImageProcessor(size={"height": 64, "width": 64})
    processor.save_pretrained(tmp_path)
    model = proposer_model(str(tmp_path), "cpu")
    assert model.identity["proposer"] == tmp_path.name
    assert model.identity["proposer_training_info"]["pretrained_detector_names"] == [f"LABEL_{i}" for i in range(4)]
    proposer = model.load()
    assert isinstance(proposer, DetectorProposer)
    found = proposer(PICTURES)
    with torch.no_grad():
        outputs = detector(processor(images=PICTURES, return_tensors="pt")["pixel_values"])
    for (boxes, scores), logits, pred, picture in zip(found, outputs.logits, outputs.pred_boxes, PICTURES):
        assert scores.max().item() == pytest.approx(logits.sigmoid().max().item(), abs=1e-4)
        best = pred[logits.sigmoid().amax(1).argmax()] * torch.tensor([picture.width, picture.height] * 2)
        expected = torch.cat([best[:2] - best[2:] / 2, best[:2] + best[2:] / 2])
        assert torch.allclose(boxes[scores.argmax()], expected, atol=1e-2)


@pytest.fixture
def rpn():
    torch.manual_seed(0)
    weights = {"weights": None, "weights_backbone": None}
    return torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(**weights).eval()


def test_rpn_boxes_are_torchvisions_in_pixels_of_the_picture(rpn):
    from torchvision.transforms.functional import to_tensor

    with torch.no_grad():
        batch, _ = rpn.transform([to_tensor(picture) for picture in PICTURES])
        expected, _ = rpn.rpn(batch, rpn.backbone(batch.tensors))
    found = RpnProposer(rpn)(PICTURES)
    for (boxes, scores), resized, size, picture in zip(found, expected, batch.image_sizes, PICTURES):
        scale = torch.tensor([picture.width / size[1], picture.height / size[0]] * 2)
        assert torch.allclose(boxes, resized * scale, atol=1e-3) and len(scores) == len(boxes) > 10
        assert ((scores >= 0) & (scores <= 1)).all()
        assert (boxes >= 0).all() and (boxes[:, 2] <= picture.width + 1e-3).all()


def test_torchvision_weights_are_checked_and_never_unpickled(rpn, monkeypatch):
    """The published file is not here; what it is loaded by is."""
    from torchvision.models.detection import FasterRCNN_MobileNet_V3_Large_320_FPN_Weights as Weights

    asked, state = [], rpn.state_dict()
    monkeypatch.setattr(Weights.DEFAULT.__class__, "get_state_dict", lambda self, **how: asked.append(how) or state)
    model = proposer_model("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", "cpu")
    assert "person" in model.identity["proposer_training_info"]["pretrained_detector_names"]
    loaded = model.load()
    assert asked == [{"check_hash": True, "weights_only": True}]
    assert all(torch.equal(state[name], value) for name, value in loaded.detector.state_dict().items())
    with pytest.raises(ValueError, match="has no Faster R-CNN 'resnet18'; it has fasterrcnn_"):
        proposer_model("torchvision:resnet18", "cpu")


def test_weights_that_cannot_be_downloaded_name_the_detector(monkeypatch):
    from urllib.error import URLError

    from torchvision.models.detection import FasterRCNN_MobileNet_V3_Large_320_FPN_Weights as Weights

    def offline(self, **how):
        raise URLError("no network")

    monkeypatch.setattr(Weights.DEFAULT.__class__, "get_state_dict", offline)
    name = "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn"
    with pytest.raises(OSError, match=f"--detector {name}: expected its weights .*no network.*put the file there"):
        proposer_model(name, "cpu").load()


def test_unusable_boxes_are_counted(tmp_path):
    """Of zero size, or outside the image: in no region, and in the report."""
    import json

    from decodetr.pool_builder.settings import PoolSettings
    from decodetr.pool_builder.stages import propose_regions
    from decodetr.processing import CocoAnnotations

    file = write_data(tmp_path / "data") / "annotations" / "train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [5, 5, 0, 10]
    content["annotations"][1]["bbox"] = [90, 5, 10, 10]
    content["annotations"][2]["iscrowd"] = 1
    file.write_text(json.dumps(content))
    totals = propose_regions(CocoAnnotations.load(file), tmp_path / "out", PoolSettings(), None)
    assert totals["counts"] == {"images": 10, "annotated": 37, "unusable_boxes": 2, "proposed": 0}
    assert totals["rows"] == 37
