"""What `decodetr train --help` says of options that its own parser leaves to others: fields of the training arguments,
and those of the config, which --set takes.

Nothing heavy is imported for it. The texts of the config stand in the docstring of DeCoDetrConfig, which is read from
its file, as importing it imports transformers.
"""

import argparse
import ast
import re
from dataclasses import fields
from pathlib import Path

import decodetr
from decodetr.training.options.own_arguments import GROUPS, OwnArguments, option_of
from decodetr.utils.documents import read_text

# The word for what transformers calls otherwise: (field, what it is).
PLAIN_WORDS = {
    "--batch-size": ("per_device_train_batch_size", "images per step and process (default: chosen)"),
    "--epochs": ("num_train_epochs", "passes through the training images (default: chosen, as steps)"),
    "--workers": ("dataloader_num_workers", "processes that read images; 0: the main process (default: 0)"),
    "--overwrite": ("overwrite_output_dir", ""),  # explained as a field of ours
}
_USUAL = {
    "--max-steps": "steps of the run, instead of --epochs (default: chosen)",
    "--seed": "seed of weights, order and augmentation (default: 42)",
    "--bf16": "true: compute in bfloat16 where it is safe (default: false)",
    "--eval-strategy": "no, steps or epoch: when to evaluate during training (default: no)",
    "--save-strategy": "no, steps, epoch or best: when to write a checkpoint (default: steps)",
    "--resume-from-checkpoint": "last, auto or a folder: go on from a checkpoint",
    "--load-best-model-at-end": "true: save the best checkpoint, by --metric-for-best-model (default: false)",
    "--report-to": "log to tensorboard, wandb, ... (default: none)",
}
# Fields that commands write, or that have an option of their own.
_SET_ELSEWHERE = frozenset(
    "detector_config calibration_info pool_info vocabulary_info training_info prototype_captions table_digests "
    "name_thresholds preprocessing".split()
)
_CONFIG = Path(decodetr.__file__).parent / "modeling_decodetr" / "configuration_decodetr.py"


def more_help() -> str:
    """The part of the help after the command's own options."""
    parser = argparse.ArgumentParser(add_help=False, usage=argparse.SUPPRESS)
    usual = parser.add_argument_group("fields of transformers.TrainingArguments that runs often give")
    for word, (field, text) in PLAIN_WORDS.items():
        if text:
            _add(usual, word, f"{text}; also --{field.replace('_', '-')}")
    for word, text in _USUAL.items():
        _add(usual, word, text)
    texts = {entry.name: entry for entry in fields(OwnArguments)}
    for title, names in GROUPS.items():
        group = parser.add_argument_group(f"fields of DeCoDetrTrainingArguments: {title}")
        for name in names.split():
            entry = texts[name]
            shown = entry.metadata.get("default", str(entry.default).lower())
            _add(group, option_of(name), f"{entry.metadata['help']} (default: {shown})".replace("`", ""))
    config = parser.add_argument_group(
        "fields of the config, for --set FIELD=VALUE",
        "Fields of the detector are detector_config.FIELD, such as detector_config.num_queries.",
    )
    for field, text in config_texts().items():
        if field not in _SET_ELSEWHERE:
            config.add_argument(field, metavar=field, help=text.replace("%", "%%"))
    return f"\n{parser.format_help()}\nAll other fields of transformers.TrainingArguments are options too.\n"


def config_texts() -> dict[str, str]:
    """{field of DeCoDetrConfig: what its docstring says of it}."""
    tree = ast.parse(read_text(_CONFIG))
    (config,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "DeCoDetrConfig")
    text = ast.get_docstring(config) or ""
    entries = re.split(r"^ {4}(?=\S)", text[text.index("Args:") : text.index("\n\n`id2label`")], flags=re.MULTILINE)
    found = {}
    for entry in entries[1:]:
        ((head, words),) = re.findall(r"^((?:\w+ \(.*?\)(?:, )?)+):\s(.*)$", " ".join(entry.split()))
        for name, kind in re.findall(r"(\w+) \((.*?)\)", head):
            default = re.search(r"defaults to `?([^`]+)`?", kind)
            found[name] = words.replace("`", "") + (f" Default: {default[1]}." if default else "")
    return found


def _add(group, word, text):
    group.add_argument(word, metavar=word[2:].replace("-", "_").upper(), help=text.replace("%", "%%"))


__all__ = ["PLAIN_WORDS", "config_texts", "more_help"]
