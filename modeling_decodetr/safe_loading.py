"""Loading what a stranger may have written: none of its code runs, and no pickle is read.

It imports nothing of ours: `utils` loads it by its path, without the model.
"""

from pathlib import Path
from typing import Any

_HUB = ("cache_dir", "local_files_only", "revision", "subfolder", "token")


def load_safely(kind: Any, source: str | Path, **options: Any) -> Any:
    """`kind.from_pretrained(source, **options)` without code of the source and, of a model, from safetensors alone.

    Args:
        kind: a class of transformers: `AutoConfig`, `AutoModel`, `AutoTokenizer`, `CLIPProcessor`, ...
        source (`str`): folder or Hub name.

    Raises:
        ValueError: it needs code of its own. OSError: it is not there, or has no weights in safetensors. The message
            says what to do.
    """
    # Without an answer, the library asks on the terminal, and a "y" in a pipe would run the code.
    options["trust_remote_code"] = False
    if hasattr(kind, "from_config") or hasattr(kind, "base_model_prefix"):  # an Auto class of models, or a model
        options["use_safetensors"] = True
        _refuse_named_pickle(source, options)
    try:
        return kind.from_pretrained(source, **options)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"{source} brings Python code that it cannot be loaded without, and decodetr runs no code of a folder or "
            "of the Hub; give a model of a type that transformers has"
        ) from None
    except OSError as error:
        if "use_safetensors" not in options or "model.safetensors" not in str(error):
            raise
        raise _no_safetensors(source) from error


def _refuse_named_pickle(source, options):
    """A config can name the file of its weights, and the library then reads it, whatever it was told."""
    from transformers import PreTrainedConfig

    hub = {key: options[key] for key in _HUB if key in options}
    named = PreTrainedConfig.get_config_dict(source, **hub)[0].get("transformers_weights")
    if named is not None and ".safetensors" not in str(named):
        raise _no_safetensors(source)


def _no_safetensors(source):
    return OSError(
        f"{source} has no weights in safetensors. Others (pytorch_model.bin) are pickles, which are not loaded: "
        "reading them can run any code. Convert them where they come from: load the model with transformers and write "
        "it with save_pretrained; for a model of the Hub, https://huggingface.co/spaces/safetensors/convert opens a "
        "pull request, whose files can be downloaded into a folder."
    )
