"""Make or renew the card of what a folder holds: a model, a pool, a vocabulary or an exported model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from transformers import AutoConfig, AutoImageProcessor

from decodetr import DeCoDetrConfig
from decodetr.cards.model_card import License, ModelFacts, assignment, model_card, some
from decodetr.cards.parts import licensing, parts_table
from decodetr.cards.places import hub_name, is_shipped, shown_place
from decodetr.cards.render import Markdown, content_of, fill, parsed, renew
from decodetr.cards.results import merged, read_report
from decodetr.cards.scores import TITLE, best_of_report, scores_section
from decodetr.modeling_decodetr import PrototypePool, Vocabulary
from decodetr.modeling_decodetr.safe_loading import load_safely
from decodetr.utils.documents import read_json, read_text
from decodetr.utils.files import write_text
from decodetr.utils.markup import code_block, in_words, markdown_text
from decodetr.utils.shipped import kind_of, load_pool, load_vocabulary, loading, resolve
from decodetr.utils.tables import markdown_table

CARD = "README.md"
TABLE_TAGS = ["decodetr", "arxiv:2604.02753"]
_OWN_LICENSE = ("license", "license_name", "license_link")
_LARGEST = 10  # prototypes


@dataclass(frozen=True, kw_only=True)
class CardOptions:
    """
    Of which thing a card is made.

    Args:
        source (str): folder or shipped name of a model, pool, vocabulary or export.
        results (sequence of str): reports of `decodetr eval` of it. name (str or None): OWNER/NAME, its place on the
            Hub, for the snippets. Default: as `source` is given.
        license (License). old (str or None): file of the card that is renewed. Default: README.md of the folder.
        overwrite (bool): write sections anew too that somebody changed.
    """

    source: str
    results: Sequence[str] = ()
    name: str | None = None
    license: License = field(default_factory=License)
    old: str | None = None
    overwrite: bool = False


def card_of(options: CardOptions) -> tuple[str, list[str]]:
    """The card of a folder, and what of the old one was kept although decodetr would now write something else.

    Returns:
        (text, headings of the kept sections).

    Raises:
        ValueError, FileNotFoundError: there is nothing that has a card, or a report is of something else.
    """
    folder = Path(resolve(options.source))
    found = kind_of(folder)
    kinds = {"model": _model, "pool": _pool, "vocabulary": _vocabulary, "exported model": _export}
    if found is None or found[0] not in kinds:
        what = f"is a {found[0]}" if found else "is none of them, or not on this machine"
        raise ValueError(
            f"{options.source}: expected the folder of a model, a pool, a vocabulary or an exported model, it {what}"
        )
    if options.results and found[0] != "model":
        raise ValueError(f"--results is of a model, and {options.source} is a {found[0]}; leave it out")
    file = Path(options.old) if options.old else folder / CARD
    old = read_text(file) if file.is_file() else None
    data = parsed(old, str(file)).data if old is not None else ModelCardData()
    stated = {key: getattr(options.license, field) for key, field in zip(_OWN_LICENSE, ("id", "name", "link"))}
    if not stated["license"]:
        stated = {key: data.get(key) for key in _OWN_LICENSE}
    license = License(id=stated["license"], name=stated["license_name"], link=stated["license_link"])
    new = kinds[found[0]](options, folder, license, data)
    if old is None:
        return new, []
    return renew(old, new, str(file), options.overwrite, _OWN_LICENSE if options.license.id else ())


def card_to_push(folder: Path, repo_id: str, license: str | None) -> str:
    """The card with which something goes to the Hub that was just saved into a folder.

    Args:
        folder (Path): of a model, pool or vocabulary; its README.md, if there is one, is that of the repository.
        repo_id (str): ACCOUNT/NAME. license (str or None): that is stated. Default: that of the card.

    Raises:
        ValueError: the front matter of the card that is there cannot be read.
    """
    file = folder / CARD
    if file.is_file():  # its results are of what was there before
        card = parsed(read_text(file), f"the card of {repo_id}")
        card.data["eval_results"] = card.data["model_name"] = None
        write_text(file, content_of(card))
    return card_of(CardOptions(source=str(folder), name=repo_id, license=License(id=license)))[0]


def _model(options, folder, license, old):
    with loading("model", options.source) as place:
        config = load_safely(AutoConfig, place)
        if not isinstance(config, DeCoDetrConfig):
            raise ValueError(
                f"{options.source}: expected a DeCo-DETR, got a {config.model_type}, whose card is its own"
            )
        size = (config.preprocessing or {}).get("size")
        if (folder / "preprocessor_config.json").is_file():  # a model alone goes to the Hub without
            size = dict(load_safely(AutoImageProcessor, place).size)
    results, scores = list(old.get("eval_results") or []), None
    for file in options.results:
        measured, report = read_report(file, folder)
        results = merged(results, measured)
        if report.get("scores") and report.get("default_threshold") == config.common_threshold:
            scores = scores_section(config, measured=report["scores"], best=best_of_report(report))
    if scores is None and not old.get("library_name"):  # what a run measured of its scores stays
        scores = scores_section(config)
    return model_card(
        ModelFacts(
            config=config,
            image_size=size,
            folder=folder,
            name=options.name or options.source,
            license=license,
            results=results,
            measured=None
            if results
            else "Nothing yet: `decodetr eval --model MODEL --data DIR --output report`, then "
            "`decodetr card MODEL --results report/report.json`.",
            scores="\n".join(scores).strip() if scores and len(scores) > len(["", TITLE]) else None,
        )
    )


def _table_data(license, kind):
    return ModelCardData(**license.fields(), library_name="decodetr", tags=[*TABLE_TAGS, f"decodetr-{kind}"])


def _load_snippet(cls, name):
    lines = [f"from decodetr import {cls}", "", assignment("place", name), f"print(len({cls}.from_pretrained(place)))"]
    if is_shipped(name):  # a name that the Hub does not know
        lines[1:3] = ["from decodetr.utils.shipped import resolve", "", f'place = resolve("{name}")']
    return Markdown(code_block("\n".join(lines), "python"))


def _title(options, folder):
    return options.name.rpartition("/")[2] if hub_name(options.name) else folder.resolve().name


def _record(info: dict[str, Any]) -> Markdown:
    rows = [[key.replace("_", " "), in_words(shown_place(value))] for key, value in sorted(info.items())]
    return Markdown(markdown_table(["what", "recorded"], rows, left=2).rstrip())


def _pool(options, folder, license, _old):
    return pool_card(load_pool(folder), _title(options, folder), options.name or options.source, license)


def pool_card(
    pool: PrototypePool,
    title: str,
    name: str,
    license: License | None = None,
    *,
    purpose: str | None = None,
    made: str | None = None,
) -> str:
    """The card of a pool.

    Args:
        pool (PrototypePool). title (str): first line. name (str): folder or OWNER/NAME that its snippet loads it from.
        license (License). purpose (str): what it is for, as text. made (str): how, in Markdown.
    """
    data = _table_data(license or License(), "pool")
    order = pool.count.masked_fill(pool.level == 1, 0).argsort(descending=True, stable=True)[:_LARGEST].tolist()
    return fill(
        "pool",
        data,
        {
            "title": title,
            "coarse": len(pool) - pool.num_fine,
            "fine": pool.num_fine,
            "width": pool.embedding_dim,
            "captions": [_cut(pool.captions[row]) for row in order] if pool.captions else None,
            "load": _load_snippet("PrototypePool", name),
            "parts": parts_table(
                [
                    ("image and text encoder", pool.info.get("encoder")),
                    ("captioner", pool.info.get("captioner")),
                    ("proposer of the regions", pool.info.get("proposer")),
                ]
            ),
            "record": _record({key: value for key, value in pool.info.items() if key != "space"}),
            "licensing": licensing(data),
            "purpose": purpose,
            "made": made and Markdown(made),
        },
    )


def _vocabulary(options, folder, license, _old):
    return vocabulary_card(load_vocabulary(folder), _title(options, folder), options.name or options.source, license)


def vocabulary_card(
    table: Vocabulary,
    title: str,
    name: str,
    license: License | None = None,
    *,
    purpose: str | None = None,
    made: str | None = None,
) -> str:
    """The card of a vocabulary. Args: as of [`pool_card`]."""
    data = _table_data(license or License(), "vocabulary")
    counted = {key: len(value) for key, value in table.info.items() if isinstance(value, dict)}
    return fill(
        "vocabulary",
        data,
        {
            "title": title,
            "count": f"{len(table):,}",
            "width": table.embedding_dim,
            "names": some(table.names),
            "load": _load_snippet("Vocabulary", name),
            "parts": parts_table([("text encoder", table.info.get("encoder"))]),
            "record": _record({**table.info, **{key: f"of {number} names" for key, number in counted.items()}}),
            "licensing": licensing(data),
            "purpose": purpose,
            "made": made and Markdown(made),
        },
    )


def _export(options, folder, license, _old):
    content = read_json(folder / "export.json", dict)
    data, name = _table_data(license, "export"), options.name or options.source
    data.tags = [*data.tags, str(content["runtime"])]
    data.pipeline_tag = "object-detection"
    pool, vocabulary = content.get("pool_info") or {}, content.get("vocabulary_info") or {}
    snippet = [
        "from decodetr.runtime import ExportedDetector",
        "",
        assignment("model", name),
        "detector = ExportedDetector(model)",
        'print(detector.detect(["picture.jpg"]))',
    ]
    clip = shown_place(pool.get("encoder") or vocabulary.get("encoder")) or "an encoder that is not recorded"
    return fill(
        "export",
        data,
        {
            "title": _title(options, folder),
            "source": shown_place(content.get("source") or "A model"),
            "family": content["family"],
            "runtime": content["runtime"],
            "dtype": content["dtype"],
            "count": f"{len(content['names']):,}",
            "swap": ", which are an input of the graph and can be swapped" if content["names_input"] else "",
            "names": some(content["names"]),
            "load": Markdown(code_block("\n".join(snippet), "python")),
            "name": Markdown(markdown_text(name).replace("`", "")),
            "parity": in_words(content.get("parity") or "It was not checked."),
            "parts": parts_table(
                [
                    ("exported from", content.get("source")),
                    ("text encoder of the names", vocabulary.get("encoder")),
                    ("captioner of the pool", pool.get("captioner")),
                ]
            ),
            "record": _record(content.get("training_info") or {}),
            "teachers": f"what its names mean comes from {clip}, which learned it from the web.",
            "licensing": licensing(data),
            "versions": in_words(content.get("versions") or {}),
        },
    )


def _cut(caption, most=120):
    return caption if len(caption) <= most else f"{caption[:most].rstrip()}..."
