"""decodetr: DeCo-DETR, an open-vocabulary detector on transformers that needs no text encoder at inference.

The root is lazy: `import decodetr` and `decodetr --help` cost a bare Python start. The first public name that is used
imports what it needs, and makes the model known to the Auto classes of transformers. So does the first use of these
classes or of the pipelines themselves. Imports are absolute, because pytest imports the checkout folder as a package
too and relative ones would build every class twice.
"""

import sys

from decodetr.utils.after_import import after_import
from decodetr.utils.lazy import TYPE_CHECKING, lazy_names

if TYPE_CHECKING:  # what a type checker sees; "as" says that the names are public
    from decodetr.building.build_run import build as build
    from decodetr.inference.one_call import detect as detect
    from decodetr.modeling_decodetr import DeCoDetrConfig as DeCoDetrConfig
    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection as DeCoDetrForObjectDetection
    from decodetr.modeling_decodetr import PrototypePool as PrototypePool
    from decodetr.modeling_decodetr import Vocabulary as Vocabulary
    from decodetr.optimizing.optimize import optimize as optimize
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor as DeCoDetrImageProcessor
    from decodetr.training.options.arguments import DeCoDetrTrainingArguments as DeCoDetrTrainingArguments
    from decodetr.training.trainer import DeCoDetrTrainer as DeCoDetrTrainer

__version__ = "0.1.0"

_PUBLIC_NAMES = {
    "DeCoDetrConfig": "decodetr.modeling_decodetr",
    "DeCoDetrForObjectDetection": "decodetr.modeling_decodetr",
    "PrototypePool": "decodetr.modeling_decodetr",
    "Vocabulary": "decodetr.modeling_decodetr",
    "DeCoDetrImageProcessor": "decodetr.processing",
    "DeCoDetrTrainer": "decodetr.training.trainer",
    "DeCoDetrTrainingArguments": "decodetr.training.options.arguments",
    "build": "decodetr.building.build_run",
    "detect": "decodetr.inference.one_call",
    "optimize": "decodetr.optimizing.optimize",
}

__all__ = ["__version__", *_PUBLIC_NAMES]


def _register_image_processor() -> None:
    """What joins rooms. Tell AutoImageProcessor which image processors belong to the model, and AutoVideoProcessor
    that there is none: it would guess one, and ask whether to run the code next to the weights. Give the model
    `optimize`, and its parts the `push_to_hub` of a part."""
    from transformers import AutoImageProcessor
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING

    from decodetr.modeling_decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection
    from decodetr.modeling_decodetr.hub_push import push_part
    from decodetr.processing import DeCoDetrImageProcessor, DeCoDetrImageProcessorPil
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrProcessingMixin

    DeCoDetrForObjectDetection.optimize = _optimize
    DeCoDetrConfig.push_to_hub = DeCoDetrProcessingMixin.push_to_hub = push_part
    AutoImageProcessor.register(
        DeCoDetrConfig,
        image_processor_classes={"torchvision": DeCoDetrImageProcessor, "pil": DeCoDetrImageProcessorPil},
        exist_ok=True,
    )
    VIDEO_PROCESSOR_MAPPING.register(DeCoDetrConfig, {"torchvision": None}, exist_ok=True)


def _optimize(model, pictures=None, **options):  # type: ignore[no-untyped-def]  # as of `optimize`
    """`decodetr.optimize` of this model."""
    from decodetr.optimizing.optimize import optimize

    return optimize(model, pictures, **options)


def _register_cards() -> None:
    """Give `push_to_hub` the cards that our templates make."""
    from decodetr.modeling_decodetr import hub_push

    hub_push.make_card = _make_card


def _make_card(folder, repo_id, license):  # type: ignore[no-untyped-def]  # as `hub_push.make_card` says
    from decodetr.cards.renewal import card_to_push

    return card_to_push(folder, repo_id, license)


def _register_model() -> None:
    """Tell the Auto classes of the model, unless modules of ours are being imported, whose names are not there yet:
    they, or the first public name, do it."""
    ours = (module for name, module in list(sys.modules.items()) if name.startswith("decodetr."))
    if not any(getattr(getattr(module, "__spec__", None), "_initializing", False) for module in ours):
        _register_image_processor()


def _register_pipelines() -> None:
    """Tell transformers which pipelines detect with a DeCo-DETR."""
    from decodetr.inference.pipeline_choice import register

    _register_model()
    register()


if not TYPE_CHECKING:  # which would take any name for one of the package
    __getattr__, __dir__ = lazy_names(__name__, _PUBLIC_NAMES, ["__version__"], before=_register_image_processor)
    after_import("decodetr.modeling_decodetr.hub_push", _register_cards)
    after_import("transformers.models.auto.modeling_auto", _register_model)
    after_import("transformers.pipelines", _register_pipelines)
