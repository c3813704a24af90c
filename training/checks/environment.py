"""Whether this machine has what the fields of DeCoDetrTrainingArguments ask for: packages, device, compiler, token."""

import importlib.util
import math
import os
import shutil
from collections.abc import Callable, Container
from functools import partial
from typing import TYPE_CHECKING

import torch
from huggingface_hub import get_token
from transformers import Trainer, get_scheduler

from decodetr.training.results.checkpoints import to_resume
from decodetr.utils.preflight import require_package

if TYPE_CHECKING:
    from decodetr.training.options.arguments import DeCoDetrTrainingArguments

# Integrations of --report-to: what is imported, words for pip.
_REPORTERS = {
    "azure_ml": ("azureml", "azureml-sdk"),
    "clearml": ("clearml", "clearml"),
    "codecarbon": ("codecarbon", "codecarbon"),
    "comet_ml": ("comet_ml", "comet-ml"),
    "dagshub": ("dagshub", "dagshub"),
    "dvclive": ("dvclive", "dvclive"),
    "flyte": ("flytekit", "flytekit"),
    "kubeflow": ("kubeflow", "kubeflow"),
    "mlflow": ("mlflow", "'decodetr[mlflow]'"),
    "neptune": ("neptune", "neptune"),
    "swanlab": ("swanlab", "swanlab"),
    "tensorboard": ("tensorboard", "'decodetr[tensorboard]'"),
    "trackio": ("trackio", "'decodetr[trackio]'"),
    "wandb": ("wandb", "'decodetr[wandb]'"),
}
TOKEN = "run `hf auth login`, or set the environment variable HF_TOKEN"
# Fields without whose package the arguments themselves cannot be made.
_PACKAGES = {"deepspeed": "deepspeed"}


def needs_package(given: Container[str]) -> None:
    """Raise ValueError where the package of a given field is missing, before the arguments are made."""
    for name, module in _PACKAGES.items():
        if name in given:
            require_package(module, f"--{name.replace('_', '-')}", module)


def check_environment(args: "DeCoDetrTrainingArguments") -> list[Callable[[], None]]:
    """List the checks (functions without arguments) of some DeCoDetrTrainingArguments."""
    checks: list[Callable[[], None]] = [partial(_check_reporter, name) for name in args.report_to]
    checks += [partial(check, args) for check in (_check_optimizer, _check_loader, _check_numbers, _check_precision)]
    if args.torch_compile:
        checks.append(partial(_check_compiler, args))
    if args.push_to_hub:
        checks.append(partial(_check_token, args))
    if args.resume_from_checkpoint:
        checks.append(partial(_check_resume, args))
    return checks


def _check_reporter(name):
    if name == "none":  # alone it is an empty list here
        raise ValueError("--report-to none stands alone; leave it out, or the others")
    if name not in _REPORTERS:
        raise ValueError(f"--report-to {name}: expected none, all or one of {', '.join(_REPORTERS)}")
    module, install = _REPORTERS[name]
    if name == "tensorboard" and importlib.util.find_spec("tensorboardX") is not None:
        return
    require_package(module, f"--report-to {name}", install)


def _check_optimizer(args):
    """The library makes optimizer and schedule at the first step. Here they are made for one number."""
    name = getattr(args.optim, "value", args.optim)
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(args)
    except (ImportError, ValueError, TypeError) as error:
        raise ValueError(f"--optim {name}: {error}") from error
    schedule = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    if schedule in ("reduce_lr_on_plateau", "greedy"):  # they follow a metric, and read nothing before
        return
    optimizer, steps = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), max(args.max_steps, 2)
    try:
        get_scheduler(schedule, optimizer, 1, steps, args.lr_scheduler_kwargs)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--lr-scheduler-type {schedule}: {error}; see --lr-scheduler-kwargs") from error


def _check_loader(args):
    if args.dataloader_persistent_workers and not args.dataloader_num_workers:
        raise ValueError("--dataloader-persistent-workers true needs --dataloader-num-workers of at least 1")


def _check_numbers(args):
    least = {
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "dataloader_num_workers": 0,
        "seed": 0,
        "eval_max_detections": 1,
        "save_total_limit": 1,
        "learning_rate": 0,
        "semantic_learning_rate": 0,
        "backbone_learning_rate": 0,
        "weight_decay": 0,
    }
    if str(getattr(args.save_strategy, "value", args.save_strategy)) == "steps":
        least["save_steps"] = 1e-9  # a share of all steps, below 1, or a number of steps
    for name, limit in least.items():
        if (value := getattr(args, name)) is not None and not limit <= value < math.inf:
            words = "above 0" if 0 < limit < 1 else f"at least {limit}"
            raise ValueError(f"--{name.replace('_', '-')} must be {words}, got {value}")
    if args.seed >= 2**32:
        raise ValueError(f"--seed must be below 2**32, got {args.seed}")
    if args.max_steps <= 0 and args.num_train_epochs <= 0:
        raise ValueError(
            f"--num-train-epochs {args.num_train_epochs:g} trains nothing: give --max-steps or more epochs"
        )


def _check_precision(args):
    device = args.device.type
    for name in ("fp16", "fp16_full_eval"):
        if getattr(args, name) and device == "cpu":
            raise ValueError(
                f"--{name.replace('_', '-')} true needs a GPU, and this run is on the CPU; leave it out, or give "
                "--bf16 true"
            )


def _check_compiler(args):
    backends = torch._dynamo.list_backends(None)
    if args.torch_compile_backend not in backends:
        raise ValueError(
            f"--torch-compile-backend {args.torch_compile_backend}: expected one of {', '.join(backends)}"
        )
    if args.torch_compile_backend != "inductor":
        return
    if args.device.type == "cuda":
        require_package("triton", "--torch-compile true on a GPU", "triton")
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "c++", "clang++", "cl"]
    if args.device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise ValueError(
            f"--torch-compile true on the CPU needs a C++ compiler, and there is none of {', '.join(compilers)}: "
            "install one (apt-get install g++), or leave it out"
        )


def _check_token(args):
    if not (args.hub_token or get_token()):
        raise ValueError(f"--push-to-hub true needs a token of the Hub: {TOKEN}")


def _check_resume(args):
    to_resume(args.resume_from_checkpoint, args.output_dir)
