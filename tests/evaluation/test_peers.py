"""Other detectors of transformers: each gives what the library gives, under the names that it was asked for."""

import pickle
import re
from functools import cache

import pytest
import torch
from helpers.tiny_peers import CLASSES, CLOSED, GAPS, IMAGES, NAMES, SIZES, TOWER, folder
from torchvision.ops import box_convert
from transformers import (
    AutoImageProcessor,
    AutoModelForObjectDetection,
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
    BertConfig,
    BertModel,
)

from decodetr.evaluation.loading import load_peer
from decodetr.evaluation.peers import match_names
from decodetr.evaluation.zero_shot_peers import ZERO_SHOT


def detect(peer, images=IMAGES):
    return peer(
        [peer.prepare(image) for image in images], [{"height": image.height, "width": image.width} for image in images]
    )


@cache
def loaded(family, classes):
    """The library's processor and model."""
    auto = AutoModelForObjectDetection if family in CLOSED else AutoModelForZeroShotObjectDetection
    processor = (AutoImageProcessor if family in CLOSED else AutoProcessor).from_pretrained(folder(family, classes))
    return processor, auto.from_pretrained(folder(family, classes)).eval()


def library(family, image, classes=GAPS, **text):
    """The library's processor, and the outputs of its model for one image."""
    processor, model = loaded(family, classes)
    with torch.inference_mode():
        return processor, model(**processor(images=image, **text, return_tensors="pt"))


def assert_same(found, expected):
    """The same detections, in the same order."""
    assert len(expected["scores"]) > 3 and found["labels"].dtype == torch.int64
    assert found["scores"].shape == expected["scores"].shape
    assert torch.allclose(found["scores"], expected["scores"], atol=1e-5)
    assert found["labels"].tolist() == expected["labels"].tolist()
    assert torch.allclose(found["boxes"], expected["boxes"], atol=1e-3)


def best(scores, labels, boxes):
    order = scores.argsort(descending=True, stable=True)
    return {"scores": scores[order], "labels": labels[order], "boxes": boxes[order]}


def together(found):
    """Several detections of one image as one."""
    return best(*(torch.cat([one[key] for one in found]) for key in ("scores", "labels", "boxes")))


def pairs(scores, boxes):
    """All pairs of N boxes and K names, from scores (N, K)."""
    names = torch.arange(scores.shape[1])
    return best(scores.flatten(), names.repeat(len(boxes)), boxes.repeat_interleave(len(names), 0))


def corners(outputs, width, height):
    """The N boxes of one image, of the library's centres and sides in 0..1."""
    return box_convert(outputs.pred_boxes[0], "cxcywh", "xyxy") * torch.tensor([width, height] * 2)


def as_groups(family, names, groups, **fields):
    """What one peer per group of names finds, together, for each image."""
    found = []
    for group in groups:
        for one in (of_group := detect(load_peer(folder(family, **fields), [names[i] for i in group]))):
            one["labels"] = torch.tensor(group)[one["labels"]]
        found.append(of_group)
    return [together(parts) for parts in zip(*found)]


def count_calls(module, call):
    """How often a call uses a module."""
    calls = []
    hook = module.register_forward_hook(lambda *_: calls.append(1))
    call()
    hook.remove()
    return len(calls)


# Any detector


@pytest.mark.parametrize("family", [*CLOSED, *ZERO_SHOT])
def test_an_image_is_independent_of_its_batch(family):
    peer = load_peer(folder(family), ["cat", "salt, pepper"])
    for found, image in zip(detect(peer), IMAGES):
        assert_same(found, detect(peer, [image])[0])


@pytest.mark.parametrize("family", ["rt_detr_v2", "grounding-dino"])
def test_images_are_prepared_in_processes_without_the_model(family):
    peer = load_peer(folder(family), ["cat"])
    pickled = pickle.dumps(peer.prepare)
    assert b"Model" not in pickled and b"ForObjectDetection" not in pickled
    prepared = pickle.loads(pickled)(IMAGES[0])
    assert prepared.keys() == peer.prepare(IMAGES[0]).keys()
    assert all(torch.equal(value, peer.prepare(IMAGES[0])[key]) for key, value in prepared.items())


@pytest.mark.parametrize("family", ["deformable_detr", "grounding-dino", "owlv2", "omdet-turbo"])
def test_the_best_are_kept(family):
    every, few = (load_peer(folder(family), ["cat", "salt, pepper"], max_detections=k) for k in (10_000, 5))
    for all_found, found in zip(detect(every), detect(few)):
        assert_same(found, {key: value[:5] for key, value in all_found.items()})


def test_names_must_differ():
    with pytest.raises(ValueError, match="'cat', 'cat'"):
        load_peer(folder("detr"), ["cat", "cat"])
    with pytest.raises(ValueError, match="got no names"):
        load_peer(folder("detr"), [])


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="the detector 'no/such' cannot be loaded"):
        load_peer("no/such", ["cat"])
    BertModel(BertConfig(**TOWER, vocab_size=10)).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="holds a 'bert' model; expected one of AutoModelForObjectDetection, or.*owlvit"
    ):
        load_peer(tmp_path, ["cat"])


def test_pickled_weights_are_not_loaded(tmp_path):
    model = AutoModelForObjectDetection.from_pretrained(folder("rt_detr_v2"))
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="safetensors"):
        load_peer(tmp_path, ["cat"])


def test_a_report_says_how_a_name_was_asked_for_and_scored():
    described = load_peer(folder("owlv2"), ["cat"]).describe()
    assert described.pop("score").startswith("sigmoid")
    prompt = '"a photo of a {}", underscores as spaces'
    assert described == {"class": "Owlv2ForObjectDetection", "prompt": prompt}


# Closed-set detectors


@pytest.mark.parametrize("family", CLOSED)
def test_all_classes_are_detected_as_by_the_library(family):
    names = CLASSES[::-1]
    for found, image, size in zip(detect(load_peer(folder(family, CLASSES), names)), IMAGES, SIZES):
        processor, outputs = library(family, image, CLASSES)
        expected = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[size])[0]
        expected["labels"] = torch.tensor([names.index(CLASSES[i]) for i in expected["labels"]])
        assert_same(found, best(**expected))


@pytest.mark.parametrize("family", CLOSED)
def test_classes_outside_of_the_names_take_no_places(family):
    peer = load_peer(folder(family), ["cat", "salt, pepper"], max_detections=12)
    for found, image in zip(detect(peer), IMAGES):
        _, outputs = library(family, image)
        boxes = corners(outputs, image.width, image.height)
        if family in ("detr", "yolos"):  # one name a query
            scores, labels = outputs.logits[0].softmax(-1)[:, [5, 4]].max(-1)
            expected = best(scores, labels, boxes)
        else:
            expected = pairs(outputs.logits[0][:, [5, 4]].sigmoid(), boxes)
        assert_same(found, {key: value[:12] for key, value in expected.items()})


def test_more_than_the_librarys_100_detections():
    for found in detect(load_peer(folder("deformable_detr", num_queries=60), ["cat", "person"], max_detections=110)):
        assert found["scores"].shape == (110,)


def test_names_that_a_detector_lacks():
    with pytest.raises(ValueError, match="DetrForObjectDetection has no class for 'zebra', 'gnu'; its classes are"):
        load_peer(folder("detr"), ["zebra", "cat", "gnu"])
    with pytest.raises(ValueError, match="has no class for 'zebra'"):
        load_peer(folder("detr"), ["zebra"], allow_missing_names=True)
    peer = load_peer(folder("detr"), ["zebra", "Cat"], allow_missing_names=True)
    for found, alone in zip(detect(peer), detect(load_peer(folder("detr"), ["cat"]))):
        assert_same(found, {**alone, "labels": torch.ones(12)})
    described = peer.describe()
    assert described["renamed"] == "Cat: cat"


@pytest.mark.parametrize(
    ("names", "classes", "expected"),
    [
        (["b", "a"], ["a", "N/A", "b"], {"b": 2, "a": 0}),
        (["Potted_Plant", "t-shirt"], ["pottedplant", "T Shirt"], {"Potted_Plant": 0, "t-shirt": 1}),
        (["couch", "tv", "airplane"], ["sofa", "aeroplane", "tvmonitor"], {"couch": 0, "tv": 2, "airplane": 1}),
        (["couch", "sofa"], ["sofa"], {"sofa": 0}),  # one class is one name
        (["couch"], ["sofa", "couch"], {"couch": 1}),
        (["Cat"], ["cat", "CAT"], {}),  # which?
        (["Cat", "CAT"], ["cat"], {}),
        (["N/A"], ["N/A", "N/A"], {}),
        (["crème"], ["creme"], {}),
        (["Cre\u0300me brule"], ["cr\u00e8me_brule"], {"Cre\u0300me brule": 0}),  # in two letters, and in one
    ],
)
def test_a_class_is_a_name_to_the_letter_or_beyond_doubt(names, classes, expected):
    assert match_names(names, dict(enumerate(classes))) == expected


# Zero-shot detectors


@pytest.mark.parametrize("family", ["grounding-dino", "mm-grounding-dino"])
def test_grounding_dino_scores_a_name_by_the_mean_of_its_tokens(family):
    phrases = ["salt, pepper", "st bernard", "crème brûlée", "alarm clock", "cat"]
    text = ". ".join(phrases) + "."
    for found, image in zip(detect(load_peer(folder(family), NAMES)), IMAGES):
        processor, outputs = library(family, image, text=text)
        places = processor.tokenizer(text, return_offsets_mapping=True).offset_mapping
        scores = []
        for phrase in phrases:
            start = text.index(phrase)
            own = [i for i, (a, b) in enumerate(places) if start <= a < b <= start + len(phrase)]
            scores.append(outputs.logits[0][:, own].sigmoid().mean(-1))
        assert_same(found, pairs(torch.stack(scores, 1), corners(outputs, image.width, image.height)))


def test_grounding_dino_asks_in_prompts_of_at_most_its_text_length():
    peer = load_peer(folder("grounding-dino", max_text_len=10), NAMES)
    assert count_calls(peer.model, lambda: detect(peer, IMAGES[:1])) == 3
    expected = as_groups("grounding-dino", NAMES, [[0, 1], [2, 3], [4]], max_text_len=10)
    for found, one in zip(detect(peer), expected):
        assert_same(found, one)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("grounding-dino", "cat " * 24),
        ("grounding-dino", "..."),
        ("owlv2", "cat" * 24),
        ("omdet-turbo", "cat" * 24),
        ("omdet-turbo", "__"),
    ],
)
def test_names_that_a_text_model_cannot_take(family, name):
    with pytest.raises(ValueError, match=f"fails for {re.escape(repr(name))}$"):
        load_peer(folder(family), ["cat", name])


@pytest.mark.parametrize("family", ["owlvit", "owlv2"])
def test_owl_scores_a_name_as_the_library_does_alone(family):
    phrases = ["salt, pepper", "St. Bernard", "crème brûlée", "alarm clock", "cat"]
    for found, image, size in zip(detect(load_peer(folder(family), NAMES)), IMAGES, SIZES):
        expected = []
        for label, phrase in enumerate(phrases):
            processor, outputs = library(family, image, text=[[f"a photo of a {phrase}"]])
            one = processor.post_process_grounded_object_detection(outputs, threshold=0.0, target_sizes=[size])[0]
            side = (60, 60) if family == "owlv2" else (image.width, image.height)  # OWLv2 pads to a square
            assert torch.allclose(one["boxes"], corners(outputs, *side))
            expected.append({**one, "labels": torch.full((16,), label)})
        assert_same(found, together(expected))


def test_omdet_turbo_detects_as_the_library_does():
    names = ["salt, pepper", "alarm clock", "cat"]
    for found, image, size in zip(detect(load_peer(folder("omdet-turbo"), names)), IMAGES, SIZES):
        processor, outputs = library("omdet-turbo", image, text=names)
        (expected,) = processor.post_process_grounded_object_detection(outputs, threshold=0.0, target_sizes=[size])
        del expected["text_labels"]
        assert_same(found, best(**expected))


def test_omdet_turbo_asks_for_as_many_names_as_its_task_can_list():
    names = [*NAMES, "street sign with letters", "dog"]
    peer = load_peer(folder("omdet-turbo"), names)
    assert count_calls(peer.model, lambda: detect(peer, IMAGES[:1])) == 2
    for found, expected in zip(detect(peer), as_groups("omdet-turbo", names, [[0, 1, 2, 3, 4], [5, 6]])):
        assert_same(found, expected)


@pytest.mark.parametrize("family", ["owlv2", "omdet-turbo"])
def test_names_are_embedded_once(family):
    peer = load_peer(folder(family), [f"cat {i}" for i in range(120)])
    text_model = peer.model.owlv2.text_model if family == "owlv2" else peer.model.language_backbone
    detect(peer)
    assert count_calls(text_model, lambda: detect(peer)) == 0


@pytest.mark.parametrize("family", ["detr", "owlv2"])
def test_the_command_takes_them(family, tmp_path, capsys):
    from helpers.evaluations import run_eval, write_coco

    rows = {5: [("cat", [8, 8, 40, 40]), ("salt, pepper", [50, 20, 90, 60])], 6: []}
    file = write_coco(tmp_path / "data", ["cat", "salt, pepper"], rows)
    assert run_eval("--model", folder(family), "--annotations", file, "--output", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "| class | " + ("DetrForObjectDetection" if family == "detr" else "Owlv2ForObjectDetection") in printed
    assert "| revision | weights " in printed and "| missing names | none |" in printed and "| AP50 | " in printed
    assert run_eval("--model", folder(family), "--annotations", file, "--oracle", "boxes") == 1
    assert "need a DeCo-DETR" in capsys.readouterr().err
