"""The card of a DeCo-DETR: what its config records, what was measured, and how it is used."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from decodetr.cards.parts import card_data_of, licensing, parts_table
from decodetr.cards.places import hub_dataset, hub_name, is_shipped, shown_place
from decodetr.cards.render import Markdown, fill
from decodetr.cards.results import measured_text
from decodetr.modeling_decodetr import DeCoDetrConfig
from decodetr.modeling_decodetr.detectors import num_queries
from decodetr.utils.card_leftovers import ON_THIS_MACHINE
from decodetr.utils.excerpts import some_of
from decodetr.utils.markup import code_block, in_words, markdown_text
from decodetr.utils.tables import markdown_table, score_text

SHOWN_NAMES = 30
TAGS = ["decodetr", "open-vocabulary-detection", "zero-shot-object-detection", "arxiv:2604.02753"]
_SETTINGS = {
    "V-OVD": "Boxes of base names alone; the teacher scored base names alone; no human captions",
    "C-OVD": "Boxes of base names alone; the teacher scored base names alone; captions of whole images were allowed",
    "G-OVD": "Boxes of base names alone; the teacher scored novel names too",
    "WS-OVD": "Boxes of base names alone; the teacher scored novel names too; captions, labels of images allowed",
    "unrestricted": "No name was held back: nothing says how well it detects names that were never boxed",
}


@dataclass(frozen=True, kw_only=True)
class License:
    """
    The license that somebody states.

    Args:
        id (str or None): as the Hub spells it. name, link (str or None): of one that the Hub does not know ("other").
    """

    id: str | None = None
    name: str | None = None
    link: str | None = None

    def fields(self) -> dict[str, Any]:
        """Fields of the front matter."""
        found = {"license": self.id, "license_name": self.name, "license_link": self.link}
        return {key: value for key, value in found.items() if value}


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """
    What the card of a model says.

    Args:
        config (DeCoDetrConfig). folder (Path): where it lies.
        image_size (dict or None): of its image processor, if it is known.
        name (str): that it is loaded by: a folder as its user types it, or OWNER/NAME on the Hub.
        title (str): first line. names_learned (bool): it knows its names.
        start (str or None): the saved model, detector or backbone that it was trained from.
        license (License). results (list of EvalResult): what was measured.
        purpose (str or None): what it is for, as text. measured, details, scores, before, made (str or None): sections
            in Markdown. doubts (list): whether it has learned.
    """

    config: DeCoDetrConfig
    image_size: Mapping[str, Any] | None
    folder: Path
    name: str
    title: str | None = None
    names_learned: bool = True
    start: str | None = None
    license: License = field(default_factory=License)
    results: Sequence[EvalResult] = ()
    purpose: str | None = None
    measured: str | None = None
    details: str | None = None
    scores: str | None = None
    doubts: Sequence[str] = ()
    before: str | None = None
    made: str | None = None


def model_card(facts: ModelFacts) -> str:
    """The card of a model."""
    config, info = facts.config, facts.config.training_info or {}
    title = facts.title or (facts.name.rpartition("/")[2] if hub_name(facts.name) else facts.folder.resolve().name)
    data = ModelCardData(
        **facts.license.fields(),
        library_name="transformers",  # any other name, and `pipeline(model=...)` refuses the model
        pipeline_tag="object-detection",  # what it does with the names that it holds, without a text encoder
        base_model=(base := _base_model(facts.start)),
        base_model_relation="finetune" if base else None,
        datasets=[found] if (found := hub_dataset(info.get("data"))) else None,
        tags=TAGS,
        model_name=title,
        eval_results=list(facts.results) or None,
    )
    if not facts.results:
        data.pop("model_name")
    names = list(config.id2label.values())
    pool, vocabulary = config.pool_info or {}, config.vocabulary_info or {}
    encoder = vocabulary.get("encoder")
    return fill(
        "model",
        data,
        {
            "title": title,
            "name": Markdown(_word(facts.name)),
            "family": _family(config),
            "learned_names": facts.names_learned,
            "count": f"{len(names):,}",
            "names": some(names),
            "encoder": shown_place(encoder),
            "image_size": facts.image_size and _size(facts.image_size),
            "queries": num_queries(config.detector_config),
            "detect": _detect_snippet(facts.name, names),
            "alone": (facts.folder / "modeling_decodetr.py").is_file(),
            "pipeline": _pipeline_snippet(facts),
            "measured": _markdown(facts.measured) or measured_text(facts.results),
            "purpose": facts.purpose,
            "details": _markdown(facts.details),
            "scores": _markdown(facts.scores),
            "doubts": list(facts.doubts),
            "before": _markdown(facts.before),
            "setting": _setting(info),
            "record": _record(info),
            "parts": parts_table(
                [
                    ("trained from", facts.start),
                    ("text encoder of the names", encoder),
                    ("image and text encoder of the pool", pool.get("encoder")),
                    ("captioner of the pool", pool.get("captioner")),
                    ("proposer of the pool's regions", pool.get("proposer")),
                ]
            ),
            "tables": _tables(config, pool, vocabulary),
            "unboxed": _unboxed(names, info, pool),
            "teachers": _teachers(encoder, pool),
            "certainty": Markdown(_certainty(config)),
            "licensing": licensing(data),
            "made": _markdown(facts.made),
        },
    )


def some(names: Sequence[str]) -> Markdown:
    """The first names of a list, as Markdown."""
    return Markdown(some_of(names, SHOWN_NAMES, markdown_text))


def assignment(variable: str, name: str) -> str:
    """The line of a snippet that says which model or table it is about."""
    remark = "" if hub_name(name) or is_shipped(name) else f"  # {ON_THIS_MACHINE}"
    return f"{variable} = {name!r}{remark}".replace("'" + name + "'", '"' + name + '"')


def _family(config):
    return config.detector_config.model_type


def _size(size):
    if {"height", "width"} <= size.keys():
        return f"{size['height']} x {size['width']} pixels (height x width)"
    return f"{in_words(dict(size))} (pixels)"


def _markdown(text):
    return None if text is None else Markdown(text)


def _word(name):
    return markdown_text(name).replace("`", "")


def _base_model(start):
    if start is None:
        return None
    if found := hub_name(start):
        return found
    earlier = card_data_of(start)  # a model of one's own that came from the Hub
    return None if earlier is None else earlier.get("base_model")


def _detect_snippet(name, names):
    lines = [
        "import decodetr",
        "",
        assignment("model", name),
        'found = decodetr.detect(model, "picture.jpg")  # supervision.Detections',
        'print(found.xyxy, found.data["class_name"], found.confidence)',
        "",
        f"names = {names[:2]!r}  # any names, at any time",
        'print(len(decodetr.detect(model, "picture.jpg", names=names)))',
    ]
    return Markdown(code_block("\n".join(lines), "python"))


def _pipeline_snippet(facts):
    alone = (facts.folder / "modeling_decodetr.py").is_file()
    first = [] if alone else ["import decodetr  # makes the model known to transformers"]
    remote = ", trust_remote_code=True" if alone else ""
    threshold = facts.config.common_threshold
    place = assignment("model", facts.name)
    if is_shipped(facts.name):  # a name that transformers does not know
        first, place = ["from decodetr.utils.shipped import resolve"], f'model = resolve("{facts.name}")'
    lines = [
        *first,
        "from transformers import pipeline",
        "",
        place,
        f'detector = pipeline("object-detection", model=model{remote})',
        f'print(detector("picture.jpg", threshold={score_text(threshold)}))',
    ]
    return Markdown(code_block("\n".join(lines), "python"))


def _setting(info):
    setting = info.get("setting")
    if setting is None:
        return "How it was trained is not recorded."
    return f"Setting {setting}. {_SETTINGS.get(setting, 'It is not one of those of decodetr')}."


def _record(info):
    if not info:
        return None
    rows = [[key.replace("_", " "), in_words(shown_place(value))] for key, value in info.items()]
    return Markdown(markdown_table(["what", "recorded"], rows, left=2).rstrip())


def _tables(config, pool, vocabulary):
    digests = config.table_digests or {}
    coarse, fine = config.num_coarse_prototypes, config.num_fine_prototypes
    holds = f"{coarse} coarse and {fine} fine prototypes, width {config.embedding_dim}"
    templates = in_words(vocabulary.get("templates") or [])
    rows = [
        ["pool", holds, (digests.get("prototype_pool") or "")[:12]],
        ["vocabulary", f"{config.num_labels} names; templates: {templates}", (digests.get("vocabulary") or "")[:12]],
    ]
    if kept := pool.get("kept"):
        rows[0][1] += f"; {pool.get('distinct_captions')} distinct captions of {kept} regions of {pool.get('regions')}"
    return Markdown(markdown_table(["table", "holds", "SHA-256 begins with"], rows, left=3).rstrip())


def _unboxed(names, info, pool):
    annotated = info.get("annotated_names")
    if annotated is None:
        return "Which of its names ever had a box is not recorded."
    without = len(set(names) - set(annotated))
    if not without:
        return "All its names had boxes in its last training."
    learned = "from captions and CLIP" if pool.get("captioner") else "from CLIP"
    return (
        f"{without:,} of its {len(names):,} names had no box in its last training: they were learned {learned}, if at "
        "all, and are less certain."
    )


def _teachers(encoder, pool):
    clip = shown_place(pool.get("encoder") or encoder)
    if clip is None:
        return "What embeds its names is not recorded, and so is what that learned."
    text = f"The meaning of names comes from {clip}, which learned it from pictures and texts that nobody checked"
    if captioner := pool.get("captioner"):
        text += (
            f", and from captions that {shown_place(captioner)} wrote. It can say what is not there, and describes "
            "people by what they look like to it"
        )
    return text + "."


def _certainty(config):
    if config.calibration_info:
        return (
            "Scores were calibrated on the images that are named above. On other pictures they can be wrong by "
            "any amount: `decodetr calibrate` does it anew."
        )
    return (
        "Scores are not calibrated: 0.5 does not mean that every second detection is right. `decodetr calibrate` does "
        "it on annotated images."
    )
