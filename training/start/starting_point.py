"""Where a training run starts: a saved DeCo-DETR, a saved detector, or a config, with a pretrained backbone or not."""

import contextlib
import functools
import inspect
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig

from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection, DeCoDetrImageProcessor
from decodetr.modeling_decodetr.configuration_decodetr import UNCALIBRATED
from decodetr.modeling_decodetr.detectors import detector_family
from decodetr.modeling_decodetr.safe_loading import load_safely
from decodetr.training.start.space import asked_space, is_foreign
from decodetr.training.start.timm_backbone import check_timm_backbone, load_timm_weights
from decodetr.utils.excerpts import short
from decodetr.utils.hub import local_only
from decodetr.utils.model_identity import folder_digest, model_identity
from decodetr.utils.shipped import cannot_load, expect, load_pool, load_vocabulary, resolve
from decodetr.utils.spelling import closest
from decodetr.utils.yaml_documents import parse_yaml, read_yaml

if TYPE_CHECKING:
    from decodetr.training.options.options import TrainOptions


def start_model(
    options: "TrainOptions", names: Sequence[str] | None = ()
) -> tuple[DeCoDetrForObjectDetection, DeCoDetrImageProcessor]:
    """Return model and image processor of the starting point that the options name. `names` are those of the training
    annotations, None where they do not say: the classes of a detector whose config has none.

    With --reset-semantics and tables of another CLIP the model has a random pool and names without embeddings, of
    that CLIP's width.

    Raises:
        ValueError: a field of --set that does not exist, or that trained weights do not allow.
        FileNotFoundError: there is no such starting point.
    """
    config = starting_config(options, names)
    if options.model:
        folder = resolve(options.model)
        with _same_shapes(options):
            if options.reset_semantics:
                trained = DeCoDetrForObjectDetection.from_pretrained(folder)
                model = DeCoDetrForObjectDetection(config)
                model.detector.load_state_dict(trained.detector.state_dict())
                if not is_foreign(asked_space(options), trained.config):
                    model.set_pool(trained.prototype_pool, trained.vocabulary)
            else:
                model = DeCoDetrForObjectDetection.from_pretrained(folder, config=config)
        processor = DeCoDetrImageProcessor.from_pretrained(folder)
    elif options.detector:
        fields, pool, vocabulary = config_fields(options.set), None, None
        nested = fields.pop("detector_config", None)
        if options.pool or options.vocabulary:
            pool = load_pool(options.pool) if options.pool else None
            vocabulary = load_vocabulary(options.vocabulary) if options.vocabulary else None
        elif (space := asked_space(options)) is not None:
            fields.setdefault("embedding_dim", space[0])
        model = _from_detector(options.detector, pool=pool, vocabulary=vocabulary, **fields)
        if nested:
            with _same_shapes(options):
                model = _with_detector_fields(model, nested)
        processor = DeCoDetrImageProcessor(**(model.config.preprocessing or {}))
    else:
        model = DeCoDetrForObjectDetection(config)
        _load_backbone(model, options.backbone)
        processor = DeCoDetrImageProcessor(**(model.config.preprocessing or {}))
    if options.image_size is not None:
        in_squares(processor, options.image_size)
        _record_squares(model.config, processor, options.image_size)
    return model.float(), processor  # weights that were saved in half precision are not trained in it


def bare_detector(options: "TrainOptions", embedding_dim: int) -> DeCoDetrForObjectDetection:
    """The starting detector with the classes that it has, which a class-agnostic start replaces by "object".
    `embedding_dim` is the width of its random tables."""
    return _from_detector(options.detector, class_agnostic=False, embedding_dim=embedding_dim).float()


def _from_detector(name, **fields):
    try:
        with local_only(name):
            return DeCoDetrForObjectDetection.from_detector(name, **fields)
    except OSError as error:
        raise cannot_load("detector", name, error) from error


def in_squares(processor: DeCoDetrImageProcessor, side: int) -> None:
    """Let an image processor make squares of `side` pixels, whatever it made before.

    Raises:
        ValueError: a side below 1.
    """
    if side < 1:
        raise ValueError(f"--image-size must be at least 1 pixel, got {side}")
    processor.size = type(processor)(size={"height": side, "width": side}).size
    processor.do_resize, processor.pad_size = True, None


def _record_squares(config, processor, side):
    """What `in_squares` did, in what the config says of the image processor."""
    stored = config.preprocessing or {name: list(getattr(processor, name)) for name in ("image_mean", "image_std")}
    stored = {name: value for name, value in stored.items() if name not in ("do_resize", "pad_size")}
    config.preprocessing = {**stored, "size": {"height": side, "width": side}}


def start_identity(options: "TrainOptions") -> dict[str, Any] | None:
    """What tells one starting point from another, as JSON: the contents of a saved model, a pretrained backbone, or
    random weights, which the seed and the config decide."""
    if not (name := options.model or options.detector):
        return {
            "weights": "random",
            "backbone": options.backbone and (folder_digest(options.backbone) or options.backbone),
        }
    try:
        found: dict[str, Any] = model_identity(resolve(name))
    except OSError:
        return None  # the loader says what is wrong
    if found["weights"]:  # a folder may be moved and renamed
        found = {"weights": found["weights"]}
    return found | {"reset_semantics": bool(options.reset_semantics)}


# Fields of the config that are chosen for the cosines of one pool and CLIP, or for what a stream learns from them.
_OF_SPACE = (
    "centred assignment_temperature teacher_temperature teacher_name_temperature name_temperature "
    "background_threshold background_level background_margin distill_weight distill_at residual_weight pool_update"
).split()
WIDTHS = ("region_channels", "semantic_hidden_dim", "semantic_dropout")


def fields_of_space(config: DeCoDetrConfig) -> dict[str, Any]:
    """{field: its default} of the fields of a DeCoDetrConfig that were chosen for the cosines of one pool and CLIP,
    where they differ from it: others say themselves what suits them."""
    defaults = {name: type(config).__dataclass_fields__[name].default for name in _OF_SPACE}
    if config.pool_use != "lookup+background":  # nothing is distilled, whatever the CLIP
        del defaults["distill_weight"]
    return {name: value for name, value in defaults.items() if getattr(config, name) != value}


def fields_of_new_stream(config: DeCoDetrConfig) -> dict[str, Any]:
    """{field: value} of a DeCoDetrConfig with which its semantic stream begins again: not calibrated, of the default
    widths, and without what was chosen for another pool."""
    widths = {name: type(config).__dataclass_fields__[name].default for name in WIDTHS}
    return UNCALIBRATED | fields_of_space(config) | widths


def said_fields(options: "TrainOptions") -> frozenset[str]:
    """The fields of the DeCoDetrConfig that --set or the file of --config names, whatever their values."""
    if not options.config:
        return options.replaced_fields
    stored = options.config if isinstance(options.config, dict) else read_yaml(options.config, dict)
    return options.replaced_fields | stored.keys()


_OF_NAMES = ("id2label", "label2id")  # fields whose texts are names: `off` is no truth value


def starting_config(options: "TrainOptions", names: Sequence[str] | None = ()) -> DeCoDetrConfig:
    """The DeCoDetrConfig that a run starts with, without weights: of the starting point, with the fields of --set, and
    `names` as the classes of a detector whose config has none.

    Raises:
        ValueError: a field that does not exist, with the nearest one, or a value that it cannot have. No classes for
            a detector that has to have some (`names` is None).
        FileNotFoundError: there is no such starting point.
    """
    fields = config_fields(options.set)
    if options.config:
        if isinstance(options.config, dict):
            stored, where = options.config, f"{options.recipe}: config"
        else:
            stored, where = read_yaml(options.config, dict), options.config
        _check_keys(stored, DeCoDetrConfig, where)
        if "embedding_dim" not in stored and (space := asked_space(options)) is not None:
            stored = {**stored, "embedding_dim": space[0]}
        base = make_config({"detector_config": stored.get("detector_config"), "class_agnostic": False}, where)
        _check_fields(fields, base)
        return make_config(_with_classes(_merged(stored, fields, base), names, where), where)
    name, what = options.model or options.detector, "model" if options.model else "detector"
    if not name:
        raise ValueError("give a starting point: --model, --detector or --config")
    expect(what, name, "config.json")
    try:
        with local_only(resolve(name)):
            config = load_safely(AutoConfig, resolve(name))
    except OSError as error:
        raise cannot_load(what, name, error) from error
    if options.model and not isinstance(config, DeCoDetrConfig):
        raise ValueError(f"--model {name} is a {config.model_type}, expected a DeCo-DETR; give --detector {name}")
    if not options.model:
        if isinstance(config, DeCoDetrConfig):
            raise ValueError(f"--detector {name} is a DeCo-DETR; give --model {name}")
        detector_family(config)
        class_agnostic = fields.get("class_agnostic", True) is not False
        if class_agnostic:
            config.num_labels = 1
        config = DeCoDetrConfig(detector_config=config, class_agnostic=class_agnostic)
    stored = config.to_dict()
    if options.reset_semantics:  # its scores were those of another stream, its temperatures of another pool
        stored |= fields_of_new_stream(config)
    space = asked_space(options) if options.detector or options.reset_semantics else None
    if space is not None and is_foreign(space, config):
        stored |= dict.fromkeys(("pool_info", "vocabulary_info", "prototype_captions"))
        stored |= {"embedding_dim": space[0], "semantic_hidden_dim": None}  # which follows from it
    _check_fields(fields, config)
    return make_config(_merged(stored, fields, config), "--set", check=False)


def _check_fields(fields, config):
    """Fields of --set must exist, those of the detector too."""
    known = set(config.to_dict())
    of_detector = set(config.detector_config.to_dict())
    for name, value in fields.items():
        if name not in known and name in of_detector:
            raise ValueError(
                f"--set {name}: DeCoDetrConfig has no field {name!r}, its detector has: --set detector_config.{name}="
                f"{json.dumps(value)}"
            )
        if name not in known:
            raise ValueError(f"--set {name}: DeCoDetrConfig has no field {name!r}{closest(name, known)}")
    nested = fields.get("detector_config", {})
    if not isinstance(nested, dict):
        raise ValueError("--set detector_config: expected fields of it, as detector_config.num_queries=300")
    for name in nested:
        if name not in of_detector:
            kind = config.detector_config.model_type
            raise ValueError(f"--set detector_config.{name}: {kind} has no field {name!r}{closest(name, of_detector)}")


def _merged(stored, fields, config):
    """A mapping of fields with others over it, those of nested mappings one by one."""
    merged = {**stored, **fields}
    if nested := fields.get("detector_config"):
        own = stored.get("detector_config")
        own = config.detector_config.to_dict() if own is None else own
        merged["detector_config"] = _deep(own, nested)
    return merged


def _with_classes(fields, names, where):
    """Fields whose detector classifies `names`, if it classifies at all and they do not say what (paper 4)."""
    detector = fields.get("detector_config")
    said = not isinstance(detector, dict) or {"id2label", "num_labels"} & set(detector)
    if said or names == () or fields.get("class_agnostic", True) is not False:
        return fields
    if names is None:
        raise ValueError(
            f"{where}: class_agnostic: false: the training data do not declare their names, so that the detector's "
            "classes are not known; give detector_config.id2label, or --class-names"
        )
    return {**fields, "detector_config": {**detector, "id2label": dict(enumerate(names))}}


def _deep(stored, fields):
    return {
        **stored,
        **{
            key: _deep(stored[key], value) if isinstance(value, dict) and isinstance(stored.get(key), dict) else value
            for key, value in fields.items()
        },
    }


def _with_detector_fields(model, nested):
    """The same weights in a model whose detector has other fields."""
    config = make_config(
        _merged(model.config.to_dict(), {"detector_config": nested}, model.config), "--set", check=False
    )
    changed = DeCoDetrForObjectDetection(config)
    changed.load_state_dict(model.state_dict())
    return changed


@contextlib.contextmanager
def _same_shapes(options):
    """Weights that do not fit the fields of --set are the user's matter."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if not options.set or not any(words in str(error) for words in ("size mismatch", "other shapes", "lack ")):
            raise
        mend = (
            "those of the detector, start from --config; those of the semantic stream, give --reset-semantics"
            if options.model and not options.reset_semantics
            else "start from --config with these fields, random weights"
        )
        first = next((line.strip() for line in str(error).splitlines() if "mismatch" in line), str(error).rstrip("."))
        raise ValueError(
            f"--set {' '.join(options.set)}: changes shapes of trained weights ({first}); {mend}"
        ) from error


def make_config(fields: dict[str, Any], where: str, check: bool = True) -> DeCoDetrConfig:
    """A DeCoDetrConfig from a mapping in which every key means something, those of nested configs too.

    Raises:
        ValueError: an unknown key, or a value of a wrong type or range. The message starts with `where`.
    """
    if check:
        _check_keys(fields, DeCoDetrConfig, where)
    names = fields.get("id2label")
    for number, name in names.items() if isinstance(names, dict) else ():
        if not isinstance(name, str):
            raise ValueError(f"{where}: id2label: {number}: expected a name, got {short(name)}; write it in quotes")
    try:
        return DeCoDetrConfig(**fields) if check else DeCoDetrConfig.from_dict(fields)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise ValueError(f"{where}: {error}") from error


def _check_keys(fields, config_class, where, usual=None):
    """Configs of transformers take any key. A misspelled one would change nothing without a word."""
    known = _known_keys(config_class) | set(usual.to_dict() if usual else ())
    for key, value in fields.items():
        if key not in known and not str(key).startswith("_"):
            raise ValueError(f"{where}: {config_class.__name__} has no field {key!r}{closest(str(key), known)}")
        if isinstance(value, dict) and key.endswith("_config"):
            kind = value.get("model_type")
            if kind not in CONFIG_MAPPING:
                raise ValueError(f"{where}: {key}: model_type must be one of transformers' models, got {kind!r}")
            inner = getattr(_default_config(config_class), key, None)
            _check_keys(value, CONFIG_MAPPING[kind], f"{where}: {key}", inner)


@functools.cache
def _default_config(config_class):
    return config_class()


@functools.cache
def _known_keys(config_class):
    """All that a config of a class has, in files and as attributes."""
    default = _default_config(config_class)
    known = {*inspect.signature(config_class.__init__).parameters, *config_class.attribute_map, *vars(default)}
    known |= {*default.to_dict(), "auto_map", "use_timm_backbone", "use_pretrained_backbone"}
    known |= {name for name in dir(config_class) if isinstance(getattr(config_class, name), property)}
    return frozenset(known - {"self", "kwargs"})


def _load_backbone(model, name):
    if name:
        load_timm_weights(model, name)
    else:
        check_timm_backbone(model)


def config_fields(words: Iterable[str]) -> dict[str, Any]:
    """{field: value} of "FIELD=VALUE" words, values read as YAML. FIELD.INNER=VALUE makes a mapping in a field.

    Raises:
        ValueError: a word of another form.
    """
    fields = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not separator or not all(name.split(".")):
            raise ValueError(f"--set {word}: expected FIELD=VALUE, such as nms_iou=0.6")
        *outer, last = name.split(".")
        place = fields
        for key in outer:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ValueError(f"--set {word}: {key} was given a value already")
        place[last] = parse_yaml(value, f"--set {name}", texts=not {*_OF_NAMES}.isdisjoint(name.split(".")))
    return fields
