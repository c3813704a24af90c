"""Comparisons that are set up in another way: other numbers of queries, other texts for names, and what training may
know besides boxes of base names."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ablations.rows import Setup
from decodetr import DeCoDetrForObjectDetection, PrototypePool, Vocabulary
from decodetr.annotations.coco import CocoAnnotations
from decodetr.modeling_decodetr.prompts import recorded
from decodetr.scenes.comparison import Comparison
from decodetr.scenes.options import ComparisonOptions
from decodetr.scenes.pool_variants import caption_pool, kept_captions
from decodetr.scenes.recipes import SEMANTIC_TRAINING
from decodetr.training.data.data import TrainingData
from decodetr.training.data.names import set_names
from decodetr.training.options.options import TrainOptions
from decodetr.training.options.provenance import SETTINGS
from decodetr.utils.shipped import a, resolve

CAPTIONS_OF_AN_IMAGE = 5  # as COCO has
_OF_CACHED = ("--streams", "--cache_features", "--align_weight_start")


class SetUpComparison(Comparison):
    """
    A comparison with another setup.

    Args:
        setup ([`Setup`]). options, more: of [`Comparison`].

    Attributes:
        of_features (str): tells cached features from those of other setups. Empty for those of none.
    """

    def __init__(self, setup: Setup, options: ComparisonOptions, *more: Any) -> None:
        super().__init__(options, *more)
        if setup.queries != 1:
            self._take_queries(setup.queries)
        if setup.templates is not None:
            self.names = embedded_again(self.names, resolve(options.clip, "CLIP"), setup.templates)
        self.setting = SETTINGS[setup.setting]
        # Cached features are of these queries, of these names and with what is known of whole images.
        self.of_features = f"-queries-{setup.queries}" if setup.queries != 1 else ""
        self.of_features += f"-{self.setting.name}" if self.setting.novel_names else ""
        if self.setting.novel_names or self.setting.captions:
            self._know_more()

    def train_jointly(
        self,
        pool: PrototypePool,
        fields: Mapping[str, Any],
        seed: int,
        training: Mapping[str, Any] | None = None,
        begin: Callable[[DeCoDetrForObjectDetection], None] | None = None,
    ) -> DeCoDetrForObjectDetection:
        """As `train`, with both streams trained over the images, from the localization stream as it is: lambda_align
        and the detector's rate are those of `decodetr train`."""
        common = {name: value for name, value in SEMANTIC_TRAINING.items() if name not in _OF_CACHED}
        options = {**common, "--streams": "joint", **(training or {})}
        return self._trained(pool, fields, seed, options, begin, self.dataset())

    def _take_queries(self, times):
        """Queries are those places of the maps that the detector is surest of: it can give another number of them."""
        detector, size = self.localized.config.detector_config, self.processor.size
        strides = getattr(detector, "feat_strides", ())
        places = sum((size["height"] // stride) * (size["width"] // stride) for stride in strides)
        wanted = max(1, round(detector.num_queries * times))
        if wanted > places or detector.learn_initial_query:
            raise ValueError(
                f"a row needs {wanted} queries of {detector.model_type}: expected a detector that takes them from its "
                f"maps, with as many places, got {places} for images of {size['height']} x {size['width']}"
            )
        detector.num_queries = wanted

    def _know_more(self):
        """Names and labels of images are those of `decodetr train` with this setting."""
        everything = self.data / "annotations" / "train_full.json"
        labels = str(everything) if self.setting.image_labels else None
        options = TrainOptions(data=str(self.data), setting=self.setting.name, image_labels=labels)
        data = TrainingData(options, self.train_annotations, self.base, self.setting, self.base, self.novel)
        model = self.model(self.pool, {})
        model.set_vocabulary(self.names)
        set_names(model, options, data)
        self.training_names = list(model.vocabulary.names)
        self.weak_labels = data.weak_labels(None, self.training_names)
        if self.setting.captions and not self.setting.image_labels:
            images = {image["image_id"] for image in self.train_annotations.images}
            said = captions_of_images(CocoAnnotations.load(everything).select_images(images))
            sizes = len(self.pool) - self.pool.num_fine, self.pool.num_fine
            self.pool = caption_pool(kept_captions(self.built / "regions") + said, self.clip, self.pool, *sizes)
            self.pool.info["space"] = self.space(self.pool)


def embedded_again(names: Vocabulary, clip: str | Path, templates: tuple[str, ...]) -> Vocabulary:
    """A vocabulary with other templates, and its own texts for a name where it has some."""
    texts = recorded(names.info, "prompts")
    spaces = bool(names.info.get("underscores_to_spaces"))
    prompts = {name: texts.get(name, name) for name in names}
    return Vocabulary.from_text_model(prompts, clip, templates, underscores_to_spaces=spaces)


def captions_of_images(coco: CocoAnnotations) -> Counter[str]:
    """{caption: images that have it}, as if people had written some of every image: of two of its objects each."""
    rng, counts = np.random.default_rng(0), Counter[str]()
    for image in coco.images:
        categories = coco.annotations_by_image.arrays(image["image_id"])["category"]
        names = list(dict.fromkeys(coco.names[category] for category in categories))
        for _ in range(CAPTIONS_OF_AN_IMAGE if names else 0):
            chosen = rng.permutation(len(names))[:2]
            counts[" and ".join(a(names[place]) for place in chosen)] += 1
    return counts
