"""decodetr: DeCo-DETR, an open-vocabulary detector on transformers that needs no text encoder at inference.

The root is lazy: `import decodetr` and `decodetr --help` cost a bare Python start. The first public name that is used
imports what it needs, and makes the model known to the Auto classes of transformers. Imports are absolute, because
pytest imports the checkout folder as a package too and relative ones would build every class twice.
"""

from decodetr.utils.lazy import TYPE_CHECKING, lazy_names

if TYPE_CHECKING:  # what a type checker sees; "as" says that the names are public
    from decodetr.building.build_run import build as build
    from decodetr.modeling_decodetr import DeCoDetrConfig as DeCoDetrConfig
    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection as DeCoDetrForObjectDetection
    from decodetr.modeling_decodetr import PrototypePool as PrototypePool
    from decodetr.modeling_decodetr import Vocabulary as Vocabulary
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor as DeCoDetrImageProcessor
    from decodetr.training.arguments import DeCoDetrTrainingArguments as DeCoDetrTrainingArguments
    from decodetr.training.trainer import DeCoDetrTrainer as DeCoDetrTrainer

__version__ = "0.1.0"

_PUBLIC_NAMES = {
    "DeCoDetrConfig": "decodetr.modeling_decodetr",
    "DeCoDetrForObjectDetection": "decodetr.modeling_decodetr",
    "PrototypePool": "decodetr.modeling_decodetr",
    "Vocabulary": "decodetr.modeling_decodetr",
    "DeCoDetrImageProcessor": "decodetr.processing",
    "DeCoDetrTrainer": "decodetr.training.trainer",
    "DeCoDetrTrainingArguments": "decodetr.training.arguments",
    "build": "decodetr.building.build_run",
}

__all__ = ["__version__", *_PUBLIC_NAMES]


def _register_image_processor() -> None:
    """Tell AutoImageProcessor which image processors belong to the model (here, because it joins two rooms), and
    AutoVideoProcessor that there is none: it would guess one, and ask whether to run the code next to the weights."""
    from transformers import AutoImageProcessor
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING

    from decodetr.modeling_decodetr import DeCoDetrConfig
    from decodetr.processing import DeCoDetrImageProcessor, DeCoDetrImageProcessorPil

    AutoImageProcessor.register(
        DeCoDetrConfig,
        image_processor_classes={"torchvision": DeCoDetrImageProcessor, "pil": DeCoDetrImageProcessorPil},
        exist_ok=True,
    )
    VIDEO_PROCESSOR_MAPPING.register(DeCoDetrConfig, {"torchvision": None}, exist_ok=True)


if not TYPE_CHECKING:  # which would take any name for one of the package
    __getattr__, __dir__ = lazy_names(__name__, _PUBLIC_NAMES, ["__version__"], before=_register_image_processor)
