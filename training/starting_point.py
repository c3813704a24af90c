"""Where a training run starts: a saved DeCo-DETR, a saved detector, or a config, with a pretrained backbone or not."""

import inspect

from decodetr.training.recipe import closest
from decodetr.utils.documents import parse_yaml, read_yaml, short
from decodetr.utils.hub import local_only


def goes_on(args):
    """Whether a run goes on with all of a trained model, which can then forget."""
    return bool(args.model) and not args.reset_semantics


def start(args):
    """Model and image processor of the chosen starting point; `args.config` is a file or what a recipe has inline."""
    from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection, DeCoDetrImageProcessor
    from decodetr.processing.shipped import resolve

    if args.reset_semantics and not args.model:
        raise ValueError("--reset-semantics needs --model: the other starting points have no trained semantic stream.")
    if args.backbone and not args.config:
        raise ValueError("--backbone needs --config: the other starting points have a trained backbone.")
    fields = _config_fields(args.set)
    if args.model:
        folder = resolve(args.model)
        config = DeCoDetrConfig.from_pretrained(folder)
        config = DeCoDetrConfig.from_dict(config.to_dict() | fields)
        if args.reset_semantics:
            trained = DeCoDetrForObjectDetection.from_pretrained(folder)
            model = DeCoDetrForObjectDetection(config)
            model.detector.load_state_dict(trained.detector.state_dict())
            model.set_pool(trained.prototype_pool, trained.vocabulary)
        else:
            model = DeCoDetrForObjectDetection.from_pretrained(folder, config=config)
        processor = DeCoDetrImageProcessor.from_pretrained(folder)
    elif args.detector:
        if args.pool or args.vocabulary:
            from decodetr import PrototypePool, Vocabulary

            fields["pool"] = PrototypePool.from_pretrained(resolve(args.pool)) if args.pool else None
            fields["vocabulary"] = Vocabulary.from_pretrained(resolve(args.vocabulary)) if args.vocabulary else None
        with local_only(args.detector):
            model = DeCoDetrForObjectDetection.from_detector(args.detector, **fields)
        processor = DeCoDetrImageProcessor(**(model.config.preprocessing or {}))
    else:
        inline = isinstance(args.config, dict)
        stored = args.config if inline else read_yaml(args.config, dict)
        where = f"{args.recipe}: config" if inline else args.config
        model = DeCoDetrForObjectDetection(make_config({**stored, **fields}, where))
        _load_backbone(model, args.backbone)
        processor = DeCoDetrImageProcessor(**(model.config.preprocessing or {}))
    if args.image_size is not None:
        _resize(model.config, processor, args.image_size)
    return model, processor


def _resize(config, processor, side):
    """Squares of `side` pixels, for the image processor and in what the config says of it."""
    if side < 1:
        raise ValueError(f"--image-size must be at least 1 pixel, got {side}")
    processor.size = type(processor)(size={"height": side, "width": side}).size
    stored = config.preprocessing or {name: list(getattr(processor, name)) for name in ("image_mean", "image_std")}
    config.preprocessing = {**stored, "size": {"height": side, "width": side}}


def start_identity(args):
    """What tells one starting point from another, as JSON: the contents of a saved model, a pretrained backbone, or
    random weights, which the seed and the config decide."""
    from decodetr.processing.model_identity import model_identity
    from decodetr.processing.shipped import resolve

    if not (args.model or args.detector):
        return {"weights": "random", "backbone": args.backbone}
    try:
        found = model_identity(resolve(args.model or args.detector))
    except OSError:
        return None  # the loader says what is wrong
    if found["weights"]:  # a folder may be moved and renamed
        found = {"weights": found["weights"]}
    return found | {"reset_semantics": bool(args.reset_semantics)}


_OF_NAMES = ("id2label", "label2id")  # fields whose texts are names: `off` is no truth value


def make_config(fields, where):
    """A DeCoDetrConfig from a mapping in which every key means something, those of nested configs too.

    Raises:
        ValueError: an unknown key, or a value of a wrong type or range; the message starts with `where`.
    """
    from huggingface_hub.errors import StrictDataclassError

    from decodetr import DeCoDetrConfig

    _check_keys(fields, DeCoDetrConfig, where)
    names = fields.get("id2label")
    for number, name in names.items() if isinstance(names, dict) else ():
        if not isinstance(name, str):
            raise ValueError(f"{where}: id2label: {number}: expected a name, got {short(name)}; write it in quotes")
    try:
        return DeCoDetrConfig(**fields)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise ValueError(f"{where}: {error}") from error


def _check_keys(fields, config_class, where, usual=None):
    """Configs of transformers take any key; a misspelled one would change nothing without a word."""
    from transformers import CONFIG_MAPPING

    default = config_class()
    known = {*inspect.signature(config_class.__init__).parameters, *config_class.attribute_map, *vars(default)}
    known |= {*default.to_dict(), "auto_map", "use_timm_backbone", "use_pretrained_backbone"}
    known |= set(usual.to_dict() if usual else ())
    known |= {name for name in dir(config_class) if isinstance(getattr(config_class, name), property)}
    known -= {"self", "kwargs"}
    for key, value in fields.items():
        if key not in known and not str(key).startswith("_"):
            raise ValueError(f"{where}: {config_class.__name__} has no field {key!r}{closest(str(key), known)}")
        if isinstance(value, dict) and key.endswith("_config"):
            kind = value.get("model_type")
            if kind not in CONFIG_MAPPING:
                raise ValueError(f"{where}: {key}: model_type must be one of transformers' models, got {kind!r}")
            _check_keys(value, CONFIG_MAPPING[kind], f"{where}: {key}", getattr(default, key, None))


def _load_backbone(model, name):
    from decodetr.training.backbone import check_timm_backbone, load_timm_weights

    if name:
        load_timm_weights(model, name)
    else:
        check_timm_backbone(model)


def _config_fields(words):
    """{field: value} of "FIELD=VALUE" words, values read as YAML."""
    fields = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not separator:
            raise ValueError(f"--set {word}: expected FIELD=VALUE, such as nms_iou=0.6")
        fields[name] = parse_yaml(value, f"--set {name}", texts=name in _OF_NAMES)
    return fields
