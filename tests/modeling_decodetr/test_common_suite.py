"""The common model tests of transformers, run on a tiny DeCo-DETR of two families (docs/common_suite.md)."""

import unittest

import pytest
from helpers.common_suite import load
from helpers.paths import ROOT
from helpers.tiny_models import tiny_batch, tiny_config

from decodetr import DeCoDetrForObjectDetection

pytestmark = pytest.mark.slow

try:
    ModelTesterMixin = load().ModelTesterMixin
except (FileNotFoundError, ModuleNotFoundError) as error:
    REASON = str(error)

    class ModelTesterMixin:
        """Stands where the common tests would, so that the file is collected without them."""

else:
    REASON = None


class TinyModels:
    """What the common tests ask of a model: configs, inputs, and sizes to compare outputs with."""

    is_training = True
    batch_size, num_hidden_layers, num_attention_heads, hidden_size = 2, 2, 2, 32
    encoder_seq_length = decoder_seq_length = seq_length = 12

    def __init__(self, parent, family):
        self.parent, self.family = parent, family

    def get_config(self):
        return tiny_config(self.family)

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"pixel_values": tiny_batch()["pixel_values"]}


class CommonSuite:
    all_model_classes = (DeCoDetrForObjectDetection,)
    test_resize_embeddings = False
    test_torch_exportable = False
    family = "detr"

    def setUp(self):
        assert REASON is None, REASON
        self.model_tester = TinyModels(self, self.family)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = dict(inputs_dict)
        return {**inputs, "labels": tiny_batch()["labels"]} if return_labels else inputs


class TestDetr(CommonSuite, ModelTesterMixin, unittest.TestCase):
    def test_the_common_tests_are_here(self):
        assert REASON is None, REASON


class TestRtDetr(CommonSuite, ModelTesterMixin, unittest.TestCase):
    family = "rt_detr_v2"


# docs/common_suite.md has this list too.
REFUSED = "a DeCo-DETR whose weights are not all there is refused, because random tables give wrong answers"
CHECKPOINTING = "RT-DETR of transformers has no gradient checkpointing, and asking for it is an error"
SKIPPED = {
    "test_correct_missing_keys": REFUSED,
    "test_model_weights_reload_no_missing_tied_weights": REFUSED,
    "test_model_get_set_embeddings": "there are no tokens, and so no embedding of tokens",
    "test_retain_grad_hidden_states_attentions": "the first hidden state of DETR's queries is a constant",
}
SKIPPED_RT = {
    "test_gradient_checkpointing_backward_compatibility": CHECKPOINTING,
    "test_gradient_checkpointing_enable_disable": CHECKPOINTING,
    "test_peft_gradient_checkpointing_enable_disable": CHECKPOINTING,
    "test_training_gradient_checkpointing": CHECKPOINTING,
    "test_training_gradient_checkpointing_use_reentrant_false": CHECKPOINTING,
    "test_training_gradient_checkpointing_use_reentrant_true": CHECKPOINTING,
    "test_keep_in_fp32_modules": "RT-DETR of transformers has a buffer that is always float32",
}

for suite, skipped in ((TestDetr, SKIPPED), (TestRtDetr, {**SKIPPED, **SKIPPED_RT})):
    for name, reason in skipped.items():
        if REASON is None:
            setattr(suite, name, unittest.skip(reason)(getattr(suite, name)))


def test_the_page_names_every_test_that_is_left_out():
    page = (ROOT / "docs/common_suite.md").read_text(encoding="utf-8")
    for name, reason in {**SKIPPED, **SKIPPED_RT}.items():
        assert name in page and reason in " ".join(page.split())
