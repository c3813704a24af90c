"""The backbone of a new detector: pretrained timm weights for it, and training over a frozen one.

Configs build random weights and nothing else, so weights are loaded here, at the starting point of a
run. Files are safetensors in timm's own naming, which is what timm's repositories on the Hub hold.

timm is imported where it is used: it takes its time, and most runs have no backbone of its.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from decodetr.modeling_decodetr.detectors import backbone_module
from decodetr.utils.documents import read_json
from decodetr.utils.spelling import closest

if TYPE_CHECKING:
    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection

WEIGHTS = "model.safetensors"
PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".tar")
_TRACKED = "num_batches_tracked"  # a counter of batch norm that frozen ones do not have
_SAID = "architecture tag num_classes description license origin_url paper_name hf_hub_id".split()


def timm_backbone(model: "DeCoDetrForObjectDetection") -> tuple[nn.Module, str] | None:
    """(timm's feature extractor inside the detector, the name that the config gives it), or None.

    Args:
        model ([`DeCoDetrForObjectDetection`]).
    """
    config = getattr(model.config.detector_config, "backbone_config", None)
    if config is None or getattr(config, "model_type", None) != "timm_backbone":
        return None
    module = backbone_module(model.detector)
    return getattr(module, "_backbone", module), config.backbone  # some families unwrap it themselves


def check_timm_backbone(model: "DeCoDetrForObjectDetection") -> None:
    """Refuse a detector whose timm backbone is not what timm would compute.

    The detectors of transformers freeze batch norms by replacing them, and with those of timm that hold the activation
    too (CLIP's ResNets, EfficientNets, ...) the activations are gone without a word. So is an eps that is not 1e-5.

    Raises:
        ValueError: with the field that keeps them.
    """
    found = timm_backbone(model)
    if found is None:
        return
    import timm

    features, name = found
    here = {_flat(key): module for key, module in features.named_modules()}
    for key, norm in timm.create_model(name).named_modules():
        same = here.get(_flat(key))
        if not isinstance(norm, nn.BatchNorm2d) or same is None:
            continue
        active = not isinstance(getattr(norm, "act", nn.Identity()), nn.Identity)
        if (active and not hasattr(same, "act")) or getattr(same, "eps", 1e-5) != norm.eps:
            raise ValueError(
                f"the {model.config.detector_config.model_type} detector replaces the batch norms of {name} and loses "
                f"their activation or eps (first: {key}): set freeze_batch_norm_2d: true in its backbone_config, so "
                "that timm freezes them."
            )


def load_timm_weights(model: "DeCoDetrForObjectDetection", name: str | Path) -> None:
    """Load pretrained weights into the detector's timm backbone, and take their mean and std as preprocessing.

    What was loaded is written to `config.training_info`: `pretrained_backbone`, the name, and
    `pretrained_backbone_data`, what timm says of the weights (tag, number of classes, ...), None if it says nothing.

    Args:
        model ([`DeCoDetrForObjectDetection`]): its `backbone_config` is a `timm_backbone`.
        name (`str`): a timm name ("resnet50_clip.openai"), "hf-hub:OWNER/NAME[@REVISION]", or a safetensors file or a
            folder with one. config.json next to it says what the weights are.

    Raises:
        ValueError: no timm backbone, another architecture, unknown names, pickles, keys that are missing, unexpected
            or of another shape, a preprocessing that contradicts. OSError: no such weights, or no way to them.
    """
    found = timm_backbone(model)
    if found is None:
        raise ValueError(
            f"--backbone {name}: the config's detector has no timm backbone; give it backbone_config: "
            '{"model_type": "timm_backbone", "backbone": NAME, "out_indices": [...]}.'
        )
    features, built = found
    check_timm_backbone(model)
    architecture = built.partition(".")[0]
    file, facts = _find(str(name), architecture)
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"--backbone {name}: {file} is no safetensors file: {error}") from error
    _copy(weights, features, architecture, name)
    used = facts or _facts(built) or {}
    stored = dict(model.config.preprocessing or {})
    for field, key in (("image_mean", "mean"), ("image_std", "std")):
        if key not in used:
            continue
        value = [round(float(number), 8) for number in used[key]]
        if stored.setdefault(field, value) != value:
            raise ValueError(
                f"--backbone {name} was trained with {field} {value}, but the config's preprocessing has "
                f"{stored[field]}: leave it out there."
            )
    model.config.preprocessing = stored
    said = {key: facts[key] for key in _SAID if facts and facts.get(key) not in (None, "")}
    model.config.training_info = {
        **(model.config.training_info or {}),
        "pretrained_backbone": str(name),
        "pretrained_backbone_data": said or None,
    }


def freeze_backbone(detector: nn.Module) -> None:
    """No gradient for the backbone's weights. [`keep_frozen`] does the rest."""
    backbone_module(detector).requires_grad_(False)


def keep_frozen(detector: nn.Module) -> None:
    """The backbone in eval mode, so that batch norm statistics stay and nothing is dropped. `model.train()` undoes
    it."""
    module = backbone_module(detector)
    if module.training:
        module.eval()


def _flat(key):
    """timm's feature extractors write stages_0.1.conv for stages.0.1.conv, and some put model. before it."""
    return key.removeprefix("model.").replace(".", "_")


def _facts(name):
    """What timm has registered for a name with or without tag, or None."""
    import timm

    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        return None
    return config.to_dict() if config else None


def _find(name, architecture):
    """(safetensors file, what is known of the weights or None) of a name. The architecture is checked before anything
    is downloaded."""
    path = Path(name)
    if name.startswith(("hf-hub:", "hf_hub:")):
        repository, _, revision = name.partition(":")[2].partition("@")
        facts = _described(_download(repository, "config.json", revision or None, name), name)
        _same(facts, architecture, name)
        return _download(repository, WEIGHTS, revision or None, name), {**facts, "hf_hub_id": repository}
    if path.exists():
        file = _in_folder(path) if path.is_dir() else path
        _refuse_pickle(file)
        beside = file.parent / "config.json"
        facts = _described(beside, name) if beside.is_file() else None
        if facts:
            _same(facts, architecture, name)
        return file, facts
    if path.suffix in (*PICKLES, ".safetensors") or len(path.parts) > 1:
        raise FileNotFoundError(
            f"--backbone {name}: no such file or folder; of the Hub, write hf-hub:OWNER/NAME or the timm name."
        )
    import timm

    plain = name.partition(".")[0]
    if not timm.is_model(plain):
        raise ValueError(f"--backbone {name}: timm has no {plain!r}{closest(plain, timm.list_models())}")
    _same({"architecture": plain}, architecture, name)
    facts = _facts(name)
    if not facts or not facts.get("hf_hub_id"):
        known = ", ".join(timm.list_pretrained(f"{plain}.*")) or "none"
        raise ValueError(f"--backbone {name}: timm has no such weights on the Hub; it has {known}")
    repository, _, revision = facts["hf_hub_id"].partition("@")
    return _download(repository, WEIGHTS, revision or None, name), facts


def _described(file, name):
    """pretrained_cfg of timm's config.json, with the architecture."""
    stored = read_json(file, dict)
    if "architecture" not in stored:
        raise ValueError(f"--backbone {name}: {file} is no config of timm: it has no `architecture`.")
    return {**stored.get("pretrained_cfg", stored), "architecture": stored["architecture"]}


def _same(facts, architecture, name):
    if facts["architecture"] != architecture:
        raise ValueError(
            f"--backbone {name} is a {facts['architecture']}, but the config's backbone is a {architecture}: change "
            "`backbone` in its backbone_config."
        )


def _in_folder(folder):
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        for file in sorted(folder.iterdir()):
            _refuse_pickle(file)
        raise FileNotFoundError(f"--backbone {folder}: expected {WEIGHTS} there, found {len(files)} safetensors files")
    return files[0]


def _refuse_pickle(file):
    if file.suffix in PICKLES:
        raise ValueError(
            f"--backbone {file}: a pickle can run code when it is loaded, so only safetensors files are. Convert it "
            "where you trust it: safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')"
        )


def _download(repository, file, revision, name):
    try:
        return hf_hub_download(repository, file, revision=revision)
    except (OSError, ValueError) as error:
        raise OSError(
            f"--backbone {name}: {file} of {repository} on the Hub cannot be had: {error}\nWithout network, download "
            "the repository elsewhere and give the folder; a repository that holds pickles alone must be converted."
        ) from error


def _copy(weights, features, architecture, name):
    """Copy a file's tensors into timm's feature extractor. The head and whatever else it leaves out may be there."""
    import timm

    whole = {_flat(key) for key in timm.create_model(architecture).state_dict()}
    given = {_flat(key): value for key, value in weights.items()}
    wanted = features.state_dict()
    missing = [key for key in wanted if _flat(key) not in given and not key.endswith(_TRACKED)]
    unexpected = [key for key in weights if _flat(key) not in whole]
    shapes = {
        key: (tuple(given[_flat(key)].shape), tuple(value.shape))
        for key, value in wanted.items()
        if _flat(key) in given and given[_flat(key)].shape != value.shape
    }
    problems = [f"missing {_some(missing)}"] if missing else []
    problems += [f"unexpected {_some(unexpected)}"] if unexpected else []
    if shapes:
        problems.append(f"of another shape {_some([f'{k} {a} instead of {b}' for k, (a, b) in shapes.items()])}")
    if problems:
        raise ValueError(
            f"--backbone {name} does not fit {architecture} of timm {timm.__version__}: {'; '.join(problems)}"
        )
    features.load_state_dict({key: given.get(_flat(key), value) for key, value in wanted.items()})


def _some(keys, most=5):
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(map(str, keys[:most])) + more
