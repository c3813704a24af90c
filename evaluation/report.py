"""The report of an evaluation: report.json, report.md, report.html with pictures, thresholds.json and
detections.parquet."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from decodetr.cards.scores import HEADER, best_of_report, best_score, of_one, score_rows
from decodetr.evaluation.analysis import KINDS
from decodetr.evaluation.detections import save_detections
from decodetr.evaluation.figures import comparison, draw_calibration, draw_curves, draw_errors
from decodetr.evaluation.thresholds import FILE as THRESHOLDS
from decodetr.evaluation.thresholds import best_thresholds
from decodetr.utils.boxes import corners_of
from decodetr.utils.documents import read_json
from decodetr.utils.files import committed, json_text, replacing, write_json, write_text
from decodetr.utils.html_page import links, paragraph, picture, table
from decodetr.utils.html_page import write_report as write_page
from decodetr.utils.tables import markdown_table, score_text

if TYPE_CHECKING:
    from decodetr.evaluation.analysis import Analysis
    from decodetr.modeling_decodetr.vocabulary import Vocabulary

_WORST = 12
_CALIBRATION = "calibration.png"


def markdown_report(report: dict, with_names: bool = False) -> str:
    """The report as Markdown: protocol, metrics (the headline first), errors, and all names if `with_names`."""
    # What has no title is text.
    blocks = [markdown_table(header, rows, 1 + header.count("")) for header, rows in _tables(report)]
    if (best := best_of_report(report)) is not None:
        blocks.append(f"{best_score(best)}\n")
    if with_names:
        blocks.append(markdown_table(*_names_table(report)))
    return "\n".join(blocks)


def _names_table(report):
    """(header, rows): every name with objects, the worst first."""
    rows = [
        [name, row["group"], row["support"], number(row["AP"]), number(row["AP50"])]
        for name, row in sorted(report["per_name"].items(), key=lambda item: (item[1]["AP50"] or 0, item[0]))
        if row["support"]
    ]
    return ["name", "group", "objects", "AP", "AP50"], rows


def _tables(report):
    """[(header, rows)] of protocol, metrics and, where there was an analysis, errors."""
    protocol = [(key.replace("_", " "), value) for key, value in report["protocol"].items()]
    metrics = report["metrics"]
    keys = [key for key in report["headline"] if key in metrics]
    ordered = [(key, number(metrics[key])) for key in [*keys, *(key for key in metrics if key not in keys)]]
    tables = [(["protocol", ""], protocol), (["metric", "%"], ordered)]
    if "errors" in report:
        groups = report["groups"]
        rows = [
            [kind, entry["count"], *(number(entry[f"delta_AP50_{group}"]) for group in groups)]
            for kind, entry in report["errors"].items()
        ]
        tables.append((["error", "count", *(f"AP50 {group} lost" for group in groups)], rows))
    if "scores" in report:
        tables.append(_scores_table(report))
    return tables


def _scores_table(report):
    """(header, rows): precision, recall and calibration at the model's own threshold, by groups."""
    scores = report["scores"]
    rows = [row for group in scores["after"] for row in score_rows(of_one(scores, group), group)]
    header = [f"names, threshold {report['default_threshold']:g}", *HEADER[1:]]
    return header, rows


def number(value: float | None) -> str:
    """A percentage with one digit, "-" where there is none."""
    return "-" if value is None else f"{value:.1f}"


def describe(analysis: Analysis, vocabulary: Vocabulary | None = None) -> dict:
    """The parts of a report that an [`Analysis`] gives: groups, errors, confusion, curves, worst_images, and, of
    scores in 0..1, threshold and calibration. With a `Vocabulary`, confusions have the cosine between the names."""
    similarity = None
    if vocabulary is not None:
        place = {name: row for row, name in enumerate(vocabulary.names)}
        embeddings = vocabulary.embeddings.float().cpu().numpy()

        def similarity(name, other):
            rows = [place.get(name), place.get(other)]
            return None if None in rows else float(embeddings[rows[0]] @ embeddings[rows[1]])

    image_ids = analysis.evaluator.image_ids
    of_scores = {}
    if analysis.are_shares:
        of_scores = {"threshold": analysis.threshold, "calibration": analysis.calibration()}
    return {
        "groups": list(analysis.groups),
        **of_scores,
        "errors": analysis.errors(),
        "confusion": analysis.confusion(similarity),
        "curves": analysis.curves(),
        "worst_images": [{**row, "image_id": image_ids[row["image"]]} for row in analysis.worst_images(_WORST)],
    }


def write_report(
    report: dict,
    analysis: Analysis,
    output: str | Path,
    facts: dict[str, str | None],
    font: str | None = None,
) -> Path:
    """Write everything into a folder: all of it, or, if the process dies, nothing.

    Args:
        report (dict): "title", "protocol", "headline", "metrics", "per_name" and what [`describe`] gave.
        analysis (Analysis): of the same detections.
        output (Path): made if missing. facts (dict): what it says of the model, kept with the detections.
        font (str, optional): TrueType file for the labels of the worst images.

    Returns:
        Path: the HTML file.
    """
    text = json_text(report)
    digest = hashlib.sha256(text.encode("utf-8", errors="backslashreplace")).hexdigest()
    output = Path(output)
    earlier = [*_pictures_of(output), *(() if analysis.are_shares else (THRESHOLDS, _CALIBRATION))]
    with committed(output, remove=earlier) as staging:
        save_detections(staging / "detections.parquet", analysis.evaluator, facts)
        write_text(staging / "report.json", text)
        if analysis.are_shares:
            write_json(staging / THRESHOLDS, {"model": facts.get("model"), **best_thresholds(analysis)})
        tied = f"\nreport.json of this page: SHA-256 {digest}\n"
        write_text(staging / "report.md", markdown_report(report, with_names=True) + tied)
        _write_page(report, analysis, staging, digest, font)
    return output / "report.html"


def _pictures_of(output):
    """Names of the pictures of worst images that an earlier report wrote into the folder."""
    try:
        earlier = read_json(output / "report.json", dict)
        return [f"worst/{int(row['image_id'])}.jpg" for row in earlier["worst_images"]]
    except (OSError, ValueError, TypeError, KeyError):  # there is none, or a report of something else
        return []


def _write_page(report, analysis, output, digest, font):
    draw_curves(report["curves"], output / "precision_recall.png")
    draw_errors(report["errors"], report["groups"], output / "errors.png")
    protocol, metrics, errors, *scores = (table(*parts) for parts in _tables(report))
    kinds = f"localization and classification errors put right, {', '.join(KINDS[2:])} taken away, missed not counted"
    above, calibration, thresholds = "at the score where F1 is best", scores, {}
    if analysis.are_shares:
        if analysis.threshold is not None:
            above = f"above {score_text(analysis.threshold)}, where F1 is best,"
        draw_calibration(report["calibration"], output / _CALIBRATION)
        calibration = [*scores, picture(output / _CALIBRATION, "Ten equal steps of the score.")]
        how = "score of best F1 of each name; decodetr calibrate --thresholds gives it to a model"
        thresholds = {THRESHOLDS: how}
    sections = {
        "Metrics": [metrics],
        "Protocol": [protocol],
        "Precision and recall": [picture(output / "precision_recall.png", "Mean over the names of each group.")],
        "Errors": [
            errors,
            picture(output / "errors.png", f"AP50 that each kind of errors costs: {kinds}."),
            paragraph(
                "Nothing was found, so that there is no score where F1 is best: only missed objects are counted."
                if analysis.threshold is None
                else f"Counts are those of detections {above} and of all missed objects."
            ),
        ],
        "Confused names": [
            table(
                ["object", "taken for", "objects", "share, %", "cosine of the names"],
                [
                    [row["name"], row["taken_for"], row["count"], f"{100 * row['share']:.0f}"]
                    + ["-" if row["cosine"] is None else f"{row['cosine']:.2f}"]
                    for row in report["confusion"]
                ],
            )
        ],
        "Calibration": calibration,
        "Worst images": _worst(report, analysis, output, font),
        "Names": [table(*_names_table(report))],
        "Files": [
            links(
                {
                    "report.json": f"all of this, as numbers; SHA-256 {digest}",
                    "report.md": "the tables",
                    **thresholds,
                    "detections.parquet": "every detection that counted; decodetr eval --detections reads it again",
                }
            )
        ],
    }
    write_page(
        output / "report.html",
        report["title"],
        report["protocol"]["description"],
        {k: v for k, v in sections.items() if v},
    )


def _worst(report, analysis, output, font):
    """Blocks of the worst images, drawn into OUTPUT/worst."""
    entries = {entry["image_id"]: entry for entry in analysis.evaluator.coco.images}
    truth, found, blocks = analysis.truth, analysis.found, []
    reached, wrong, above = analysis.reached(), analysis.wrong(), analysis.above()
    for row in report["worst_images"]:
        entry, file = entries[row["image_id"]], output / "worst" / f"{row['image_id']}.jpg"
        text = f"{entry['file_name']}: {row['wrong']} wrong, {row['not_found']} not found."
        objects = (truth["image"] == row["image"]) & ~truth["crowd"]
        seen = (found["image"] == row["image"]) & above
        parts = (
            (*_labelled(truth, objects, analysis.names), None, reached[objects]),
            (*_labelled(found, seen, analysis.names), found["score"][seen].tolist(), ~wrong[seen]),
        )
        try:
            drawn = comparison(entry, *parts, font)
        except (OSError, ValueError) as error:  # detections from disk can be evaluated without the images
            blocks.append(paragraph(f"{text} It cannot be shown: {error}"))
            continue
        with replacing(file) as partial:
            drawn.save(partial, quality=88)
        more = "Left: annotated, red what was not found. Right: found, red what is wrong."
        blocks.append(picture(file, f"{text} {more}"))
    return blocks


def _labelled(table, rows, names):
    """(boxes x0, y0, x1, y1, names) of some rows."""
    return corners_of(table["box"][rows]), [names[i] for i in table["name"][rows]]
