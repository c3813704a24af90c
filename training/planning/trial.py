"""One small step before a long run: what the model cannot do at all is known in seconds."""

import contextlib
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch.overrides import TorchFunctionMode

from decodetr.utils.preflight import in_units, require_room, written

if TYPE_CHECKING:
    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
    from decodetr.processing import DeCoDetrImageProcessor
    from decodetr.training.options.arguments import DeCoDetrTrainingArguments

_NUMBERS = 4  # bytes of a float32


def try_step(
    model: "DeCoDetrForObjectDetection", image_processor: "DeCoDetrImageProcessor", args: "DeCoDetrTrainingArguments"
) -> None:
    """Run forward and backward over grey pictures, as the training will over images. Nothing of it stays.

    Running out of memory is left to the training, which says what to change.

    Args:
        model (DeCoDetrForObjectDetection): with its training names. Its modes, buffers and gradients are restored.
        image_processor ([`DeCoDetrImageProcessor`]). args (DeCoDetrTrainingArguments).

    Raises:
        ValueError: the model cannot make the step. The message names detector, backbone and image size.
    """
    picture, count = Image.new("RGB", (96, 64), (127, 127, 127)), min(args.per_device_train_batch_size, 2)
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    device = model.device
    sharded = args.fsdp or args.deepspeed  # too large for one device, maybe
    target = device if sharded else args.device
    sizes, choice = "unknown size", _LastChoice()
    try:
        with choice, torch.random.fork_rng([target] if target.type == "cuda" else []), _precision(args, target):
            model.to(target).train()
            if args.streams == "semantic":
                model.detector.eval()
            inputs = image_processor(images=[picture] * count, return_tensors="pt").to(target)
            sizes = " x ".join(str(side) for side in inputs["pixel_values"].shape[-2:])
            outputs = model(**inputs, labels=_labels(model, count), localization_only=args.streams == "localization")
            if outputs.loss.requires_grad:
                outputs.loss.backward()
            model.eval()
            with torch.no_grad():
                model(**inputs)
    except torch.OutOfMemoryError:
        return
    except RuntimeError as error:
        if choice.among is None or choice.count <= choice.among:
            raise _refused(model, sizes, error) from error
        raise ValueError(
            f"the detector ({_describe(model)}) has {choice.count} queries, more than images of {sizes} have places "
            f"on its feature maps: {choice.among}, of which each query takes one. Give a larger --image-size, or a "
            f"starting point with at most {choice.among} queries."
        ) from error
    except (AssertionError, IndexError, TypeError, ValueError) as error:
        raise _refused(model, sizes, error) from error
    finally:
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        for module, mode in modes.items():
            module.training = mode


class _LastChoice(TorchFunctionMode):
    """Inside, what `topk` was last asked for: `count` of so many `among`."""

    count, among = 0, None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.topk, torch.Tensor.topk):
            values, self.count = args[0], args[1] if len(args) > 1 else kwargs["k"]
            self.among = values.shape[args[2] if len(args) > 2 else kwargs.get("dim", -1)]
        return func(*args, **kwargs)


def _refused(model, sizes, error):
    return ValueError(
        f"the model cannot make one step with images of {sizes}, before anything long was begun: "
        f"{type(error).__name__}: {str(error).strip() or 'no message'}\nIts detector is {_describe(model)}. Give "
        "another --image-size, or a starting point with another backbone (docs/training_options.md lists those that "
        "work)."
    )


def _labels(model, count):
    """An object in the middle of each picture, of a name that the detector can learn."""
    names = model.vocabulary.names
    known = None if model.config.class_agnostic else set(model.config.detector_config.id2label.values())
    label = next((i for i, name in enumerate(names) if known is None or name in known), None)
    device = model.device
    chosen = torch.tensor([] if label is None else [label], dtype=torch.int64, device=device)
    box = torch.tensor([[0.5, 0.5, 0.4, 0.4]], device=device)[: len(chosen)]
    return [{"class_labels": chosen, "boxes": box} for _ in range(count)]


def _precision(args, device):
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def _describe(model):
    config = model.config.detector_config
    backbone = getattr(config, "backbone_config", None)
    name = getattr(backbone, "backbone", None) or getattr(backbone, "model_type", None) or "its own"
    return f"{config.model_type} with the backbone {name}"


def check_room(model: "DeCoDetrForObjectDetection", args: "DeCoDetrTrainingArguments", images: int | None) -> None:
    """Check that the disk of `output_dir` has room for what the run writes at least: the checkpoints that are kept,
    and the model at the end.

    Args:
        model: of the run. args (DeCoDetrTrainingArguments). images (int or None): of training. None where unknown.

    Raises:
        ValueError: it has not. With the numbers and the options.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    checkpoint, kept = weights, kept_checkpoints(args, images)
    if (
        not args.save_only_model
        and "adam" in str(getattr(args.optim, "value", args.optim))
        and "8bit" not in args.optim
    ):
        checkpoint += 2 * _NUMBERS * learned_numbers(model, args.streams, args.freeze_backbone)
    needed = weights + kept * checkpoint - written(args.output_dir)
    require_room(
        args.output_dir,
        needed,
        f"the model ({in_units(weights)}) and {kept} checkpoints of {in_units(checkpoint)}",
        "choose another --output, or give --save-total-limit 1, --save-only-model true or --save-strategy no",
    )


def kept_checkpoints(args: "DeCoDetrTrainingArguments", images: int | None) -> int:
    """Checkpoints that are there at once in the end, at least."""
    strategy = getattr(args.save_strategy, "value", args.save_strategy)
    steps = args.max_steps
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    an_epoch = max(images // batch, 1) if images else None  # at least
    if steps <= 0 and an_epoch:
        steps = int(args.num_train_epochs * an_epoch)
    if strategy == "no" or steps <= 0:
        return 0
    if strategy == "epoch":
        saved = steps // an_epoch if an_epoch else 1
    elif strategy == "steps":
        saved = int(steps // (args.save_steps if args.save_steps >= 1 else max(args.save_steps * steps, 1)))
    else:
        saved = 1
    return min(saved, args.save_total_limit or saved)


def learned_numbers(model: "DeCoDetrForObjectDetection", streams: str, freeze_backbone: bool) -> int:
    """How many numbers learn."""
    total = 0
    for name, parameter in model.named_parameters():
        of_detector = name.startswith("detector.")
        frozen = (of_detector and streams == "semantic") or (not of_detector and streams == "localization")
        if parameter.requires_grad and not frozen and not (freeze_backbone and "backbone" in name):
            total += parameter.numel()
    return total
