"""The composite model: every family trains, saves, loads and runs in the pipeline; streams are isolated."""

import copy

import numpy as np
import pytest
import torch
from helpers.tiny_models import NAMES, TINY_DETECTORS, tiny_batch, tiny_config, tiny_model
from PIL import Image
from transformers import AutoModelForObjectDetection, pipeline

from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection, DeCoDetrImageProcessor, PrototypePool, Vocabulary
from decodetr.modeling_decodetr.detectors import class_labels_of_detector

FAMILIES = sorted(TINY_DETECTORS)


def _scores(model, pixel_values):
    model.eval()
    with torch.no_grad():
        outputs = model(pixel_values)
    return outputs.logits, outputs.pred_boxes


@pytest.mark.parametrize("family", FAMILIES)
def test_family_trains_saves_loads_and_predicts(family, tmp_path, caplog, recwarn):
    model = tiny_model(family).train()
    batch = tiny_batch()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    outputs = model(**batch)
    assert outputs.logits.shape == (2, 12, 3) and outputs.semantic_embeds.shape == (2, 12, 16)
    assert outputs.objectness_logits.shape == (2, 12)
    total = outputs.loss_dict["loss_det"] + outputs.loss_dict["loss_distill"] + outputs.loss_dict["loss_align"]
    assert torch.allclose(outputs.loss, total)
    outputs.loss.backward()
    optimizer.step()
    still = [
        n for n, p in model.named_parameters() if p.requires_grad and p.grad is not None and torch.equal(p, before[n])
    ]
    # Zero gradients at zero weights do not move: the library starts some box heads and attention offsets at exactly
    # zero.
    assert not [n for n in still if model.get_parameter(n).grad.abs().sum() > 0]
    assert not [n for n, p in model.named_parameters() if not p.requires_grad and not torch.equal(p, before[n])]
    assert all(p.grad is not None for p in model.semantic_stream.parameters())

    model.save_pretrained(tmp_path)
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    loaded = AutoModelForObjectDetection.from_pretrained(tmp_path)
    for a, b in zip(_scores(model, batch["pixel_values"]), _scores(loaded, batch["pixel_values"])):
        assert torch.equal(a, b)
    assert loaded.vocabulary.names == NAMES

    detect = pipeline("object-detection", model=str(tmp_path), threshold=0.0)
    images = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (50, 90, 3), np.uint8)) for i in range(5)]
    single, several, batched = detect(images[0]), detect(images), detect(images, batch_size=4)
    assert len(several) == len(batched) == 5 and len(single) == len(several[0]) == 36
    assert {row["label"] for row in single} == set(NAMES)
    for one, other in zip(several, batched):
        for a, b in zip(one, other):
            assert a["score"] == pytest.approx(b["score"], abs=1e-4)
    said = caplog.text + "".join(str(w.message) for w in recwarn)
    assert "not supported for object-detection" not in said and "decodetr" not in said.lower()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_alone_gives_what_it_gives_in_a_batch(family):
    model = tiny_model(family).eval()
    pixels = tiny_batch(batch=3)["pixel_values"]
    with torch.no_grad():
        together, alone = model(pixels), model(pixels[1:2])
    assert torch.allclose(together.pred_boxes[1], alone.pred_boxes[0], atol=1e-5)
    assert torch.allclose(together.logits[1].sigmoid(), alone.logits[0].sigmoid(), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_streams_are_isolated(family):
    model = tiny_model(family).train()
    batch = tiny_batch(regions=True)
    terms = model(**batch).loss_dict
    semantic = terms["loss_align"] + terms["loss_distill"]
    detector = [p for p in model.detector.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(semantic, detector, retain_graph=True, allow_unused=True)
    assert detector and all(g is None for g in gradients)
    gradients = torch.autograd.grad(terms["loss_det"], list(model.semantic_stream.parameters()), allow_unused=True)
    assert all(g is None for g in gradients)


def test_localization_alone_is_the_localization_of_the_whole():
    model, batch = tiny_model("detr").eval(), tiny_batch()
    with torch.no_grad():
        whole, alone = model(**batch), model(**batch, localization_only=True)
        unlabelled = model(batch["pixel_values"], localization_only=True)
    assert torch.equal(alone.pred_boxes, whole.pred_boxes) and torch.equal(unlabelled.pred_boxes, whole.pred_boxes)
    assert torch.equal(alone.objectness_logits, whole.objectness_logits)
    assert torch.equal(alone.loss, whole.loss_dict["loss_det"]) and alone.logits is None and unlabelled.loss is None
    semantic = {"loss_distill", "loss_align"}
    assert set(alone.loss_dict) == set(whole.loss_dict) - semantic and semantic <= set(whole.loss_dict)


def test_isolation_can_be_switched_off():
    model = tiny_model(gradient_isolation=False).train()
    terms = model(**tiny_batch()).loss_dict
    (terms["loss_align"] + terms["loss_distill"]).backward()
    assert sum(p.grad.abs().sum() for p in model.detector.parameters() if p.grad is not None) > 0


def test_query_only_reads_no_feature_map():
    model = tiny_model(semantic_inputs="query")
    assert model.semantic_stream.region_pooling is None
    assert model(**tiny_batch()).loss.isfinite()


def test_paper_variant_classifies_training_names():
    names = ["b", "a"]
    model = tiny_model(
        names=names,
        class_agnostic=False,
        detector={"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}, "num_labels": 2},
    )
    labels = [{"class_labels": torch.tensor([0, 1, 0]), "boxes": torch.full((3, 4), 0.5)}]
    assert class_labels_of_detector(labels, model.config, names)[0]["class_labels"].tolist() == [1, 0, 1]
    assert model(torch.randn(1, 3, 64, 64), labels=labels).loss.isfinite()
    model.set_vocabulary(Vocabulary(["a", "zebra"], torch.eye(16)[:2]))
    with pytest.raises(ValueError, match="zebra"):
        class_labels_of_detector(
            [{"class_labels": torch.tensor([1]), "boxes": torch.full((1, 4), 0.5)}], model.config, ["a", "zebra"]
        )


def test_default_config_is_the_paper():
    config = DeCoDetrConfig()
    detector = config.detector_config
    assert (detector.model_type, detector.num_queries, detector.encoder_layers, detector.decoder_layers) == (
        "detr",
        300,
        6,
        6,
    )
    assert detector.encoder_attention_heads == 8 and detector.auxiliary_loss
    assert (config.embedding_dim, config.num_coarse_prototypes, config.num_fine_prototypes) == (512, 1203, 4800)
    with torch.device("meta"):
        model = DeCoDetrForObjectDetection(config)
    assert model.prototype_pool.prototypes.shape == (6003, 512)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"alignweight": 1.0}, "no field 'alignweight'"),
        ({"pool_momentum": 1.5}, r"\[0, 1\], got 1.5"),
        ({"teacher_temperature": 0.0}, "must be positive"),
        ({"nms_iou": 0.0}, r"\(0, 1\] or be None, got 0.0"),
        ({"prototype_captions": ["x"]}, "must have 12 entries, got 1"),
        ({"num_coarse_prototypes": 0, "num_fine_prototypes": 0}, "at least 1"),
    ],
)
def test_config_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**fields)


def test_config_refuses_a_detector_with_classes():
    with pytest.raises(ValueError, match="num_labels = 1, got 5"):
        tiny_config(detector={"num_labels": 5})


def test_every_field_survives_a_save(tmp_path):
    config = tiny_config(
        align_weight=0.3,
        annotation_weight=0.7,
        pool_update="literal",
        pool_info={"encoder": "e"},
        region_grid=3,
        prototype_captions=[f"c{i}" for i in range(12)],
        background_threshold=0.5,
        preprocessing={"size": {"height": 64, "width": 64}},
    )
    config.save_pretrained(tmp_path)
    loaded = DeCoDetrConfig.from_pretrained(tmp_path)
    mine, other = config.to_dict(), loaded.to_dict()
    for ignored in ("transformers_version", "auto_map", "_name_or_path"):
        mine.pop(ignored, None), other.pop(ignored, None)
    assert mine == other


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_tables_and_scores_finite(dtype):
    model = tiny_model().eval()
    exact = {name: buffer.clone() for name, buffer in model.prototype_pool.named_buffers()}
    pixels = tiny_batch()["pixel_values"]
    reference = model(pixels).logits.sigmoid()
    half = copy.deepcopy(model).to(dtype)
    for name, buffer in half.prototype_pool.named_buffers():
        assert torch.equal(buffer, exact[name])
    assert half.vocabulary.embeddings.dtype == torch.float32
    with torch.no_grad():
        logits = half(pixels.to(dtype)).logits
    assert logits.dtype == torch.float32 and logits.isfinite().all()
    assert reference.max() <= 1 and logits.sigmoid().max() <= 1


def test_half_precision_survives_loading(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    half = DeCoDetrForObjectDetection.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.detector.model.dtype == torch.bfloat16
    assert torch.equal(half.prototype_pool.prototypes, model.prototype_pool.prototypes)
    assert torch.equal(half.vocabulary.embeddings, model.vocabulary.embeddings)


@pytest.mark.parametrize("family", ["detr", "rt_detr_v2", "d_fine"])
def test_trains_in_bfloat16(family):
    model = tiny_model(family).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**tiny_batch(regions=True)).loss
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_vocabulary_swap_is_saved(tmp_path):
    model = tiny_model()
    new = Vocabulary(["a, b", "é", "z", "w"], torch.randn(4, 16), {"encoder": "some/clip"})
    model.set_vocabulary(new)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForObjectDetection.from_pretrained(tmp_path)
    assert loaded.vocabulary.names == ["a, b", "é", "z", "w"] and loaded.config.num_labels == 4
    assert torch.equal(loaded.vocabulary.embeddings, model.vocabulary.embeddings)
    assert torch.equal(loaded.tables().background, model.tables().background)
    assert loaded.config.vocabulary_info == {"encoder": "some/clip"}


def test_pool_swap_is_saved_and_checked(tmp_path):
    model = tiny_model()
    pool = PrototypePool(
        torch.nn.functional.normalize(torch.randn(4, 16), dim=-1), captions=list("abcd"), info={"encoder": "x"}
    )
    model.set_pool(pool)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForObjectDetection.from_pretrained(tmp_path)
    assert torch.equal(loaded.prototype_pool.prototypes, pool.prototypes) and loaded.prototype_pool.captions == list(
        "abcd"
    )
    with pytest.raises(ValueError, match="different|other table"):
        model.set_vocabulary(Vocabulary(["a"], torch.randn(1, 16), {"encoder": "y"}))
    with pytest.raises(ValueError, match="width 8"):
        model.set_pool(PrototypePool(torch.randn(4, 8)))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_of_a_new_detector_learns(family, tmp_path):
    """Also those of a ResNet, as `from_pretrained` of the library has it."""
    model = tiny_model(family)
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.detector.save_pretrained(tmp_path)
    started = DeCoDetrForObjectDetection.from_detector(tmp_path)
    assert all(parameter.requires_grad for parameter in started.parameters())


def test_from_detector_brings_weights_and_preprocessing(tmp_path):
    from transformers import RTDetrImageProcessor

    torch.manual_seed(0)
    config = tiny_config(detector={"num_labels": 1}).detector_config
    config.id2label = {0: "person", 1: "dog"}
    detector = AutoModelForObjectDetection.from_config(config)
    detector.save_pretrained(tmp_path)
    RTDetrImageProcessor(size={"height": 70, "width": 64}, do_normalize=True).save_pretrained(tmp_path)
    model = DeCoDetrForObjectDetection.from_detector(
        tmp_path, embedding_dim=16, num_coarse_prototypes=3, num_fine_prototypes=0
    )
    assert model.config.detector_config.num_labels == 1
    assert torch.equal(
        model.detector.model.encoder_input_proj[0][0].weight, detector.model.encoder_input_proj[0][0].weight
    )
    assert model.config.training_info["pretrained_detector_names"] == ["person", "dog"]
    processor = DeCoDetrImageProcessor(**model.config.preprocessing)
    assert dict(processor.size) == {"height": 96, "width": 64} and processor.do_normalize
    assert model(**tiny_batch()).loss.isfinite()


def test_timm_backbone_inside_detector_config():
    config = tiny_config("detr").detector_config.to_dict()
    config["backbone_config"] = {"model_type": "timm_backbone", "backbone": "resnet10t", "out_indices": [4]}
    model = DeCoDetrForObjectDetection(
        DeCoDetrConfig(detector_config=config, embedding_dim=16, num_coarse_prototypes=2)
    )
    assert model(torch.randn(1, 3, 64, 64)).logits.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("family, nms_iou", [("detr", None), ("rt_detr_v2", 0.5)])
def test_deepcopy_and_compile_fullgraph(family, nms_iou):
    """The graph without suppression is part of the one with it, so that the cheaper detector does for it."""
    model = tiny_model(family, nms_iou=nms_iou).eval()
    pixels = tiny_batch()["pixel_values"]
    with torch.no_grad():
        expected = model(pixels).logits
        assert torch.equal(copy.deepcopy(model)(pixels).logits, expected)
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        assert torch.allclose(compiled(pixels).logits, expected, atol=1e-5)


def test_wrong_inputs_are_named():
    model = tiny_model()
    with pytest.raises(ValueError, match="multiples of 32, got \\(60, 64\\)"):
        model(torch.randn(1, 3, 60, 64))
    batch = tiny_batch()
    batch["labels"][0]["class_labels"][0] = 7
    with pytest.raises(ValueError, match="index the 3 names"):
        model(**batch)
    batch = tiny_batch(regions=True, dim=8)
    with pytest.raises(ValueError, match="width 8"):
        model(**batch)
    with pytest.raises(ValueError, match="exactly one"):
        model()
    with pytest.raises(ValueError, match="must be one of"):
        DeCoDetrForObjectDetection(DeCoDetrConfig(detector_config={"model_type": "yolos", "num_labels": 1}))


@pytest.mark.parametrize(
    ("family", "fields", "words"),
    [
        ("detr", {"num_channels": 1}, "this detr reads pictures of num_channels=1, but pictures are RGB"),
        ("deformable_detr", "backbone", "reads pictures of num_channels=4, but pictures are RGB"),
        *(
            (family, {"learn_initial_query": True}, f"cannot run a {family} with learn_initial_query=true.*to false")
            for family in ("rt_detr", "rt_detr_v2", "d_fine", "deimv2")
        ),
    ],
)
def test_detectors_that_cannot_run_are_refused_before_they_are_built(family, fields, words, tmp_path):
    if fields == "backbone":
        fields = {"backbone_config": {**TINY_DETECTORS[family]["backbone_config"], "num_channels": 4}}
    config = tiny_config(family, detector=fields)
    with pytest.raises(ValueError, match=words):
        DeCoDetrForObjectDetection(config)
    AutoModelForObjectDetection.from_config(config.detector_config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=words):
        DeCoDetrForObjectDetection.from_detector(tmp_path)
