"""The model. The files of this folder are copied next to the weights by `save_pretrained`, so they import only each
other."""

from transformers import AutoConfig, AutoModelForObjectDetection, AutoModelForZeroShotObjectDetection
from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES

from .configuration_decodetr import DeCoDetrConfig
from .modeling_decodetr import DeCoDetrForObjectDetection, DeCoDetrObjectDetectionOutput
from .prototype_pool import PrototypePool
from .vocabulary import Vocabulary

AutoConfig.register(DeCoDetrConfig.model_type, DeCoDetrConfig, exist_ok=True)
AutoModelForObjectDetection.register(DeCoDetrConfig, DeCoDetrForObjectDetection, exist_ok=True)
AutoModelForZeroShotObjectDetection.register(DeCoDetrConfig, DeCoDetrForObjectDetection, exist_ok=True)
MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES[DeCoDetrConfig.model_type] = "DeCoDetrForObjectDetection"

__all__ = [
    "DeCoDetrConfig",
    "DeCoDetrForObjectDetection",
    "DeCoDetrObjectDetectionOutput",
    "PrototypePool",
    "Vocabulary",
]
