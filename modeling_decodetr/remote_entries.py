"""What config.json says to programs without decodetr, which may run the code next to the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedConfig


def is_remote(config_class: type) -> bool:
    """Whether a class is of the code next to some weights, not of an installed package."""
    return config_class.__module__.startswith("transformers_modules.")


@contextmanager
def remote_entries(config: PreTrainedConfig) -> Iterator[None]:
    """Inside, a config has what belongs into config.json alone. `AutoModelForObjectDetection` adds the library."""
    from .zero_shot_pipeline import CUSTOM_PIPELINES  # the library's pipelines take their time to import

    model = "modeling_decodetr.DeCoDetrForObjectDetection"
    config.auto_map = {**(getattr(config, "auto_map", None) or {}), "AutoModelForZeroShotObjectDetection": model}
    config.custom_pipelines = CUSTOM_PIPELINES
    try:
        yield
    finally:
        if not is_remote(type(config)):
            del config.custom_pipelines
