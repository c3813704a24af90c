"""The model. The files of this folder are copied next to the weights by `save_pretrained`, so they import only each
other."""

from transformers import AutoConfig, AutoModelForObjectDetection

from .configuration_decodetr import DeCoDetrConfig
from .modeling_decodetr import DeCoDetrForObjectDetection, DeCoDetrObjectDetectionOutput
from .prototype_pool import PrototypePool
from .vocabulary import Vocabulary

AutoConfig.register(DeCoDetrConfig.model_type, DeCoDetrConfig, exist_ok=True)
AutoModelForObjectDetection.register(DeCoDetrConfig, DeCoDetrForObjectDetection, exist_ok=True)

__all__ = [
    "DeCoDetrConfig",
    "DeCoDetrForObjectDetection",
    "DeCoDetrObjectDetectionOutput",
    "PrototypePool",
    "Vocabulary",
]
