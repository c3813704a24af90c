"""benchmarks/ablations: the page and its pictures, of what runs have found."""

import json

from helpers.paths import ROOT

DOCS = ROOT / "docs"


def _content(name, base_names, **rows):
    """A file of results: {row: AP50 of names without boxes, by seed}."""
    keys = ("AP50_novel, all", "AP50_base, all", "AP50, all", "AP50, 12", "absent, 12")
    machine = {"device": "cpu (a CPU)", "torch": "2.14"}
    runs = {
        row.replace("_", "-"): {
            str(seed): {"val": {**dict.fromkeys(keys, 50.0), keys[0]: value}, "seconds": 30.0, "date": "2026-11-27"}
            | {"machine": machine, "prototypes": [4, 3]}
            for seed, value in enumerate(values)
        }
        for row, values in rows.items()
    }
    settings = {
        "name": name,
        "base_names": base_names,
        "train_images": 8,
        "val_images": 4,
        "steps": 2,
        "queries": None,
    }
    ceiling = {"AP50_novel": 90.0, "AP50_base": 95.0}
    return {"settings": settings, "contents": {}, "ceiling": {"val": ceiling}, "runs": runs}


def test_the_page_says_what_the_results_say(tmp_path):
    from ablations.page import page_of, picture_of

    found = {
        "scenes-6": _content("scenes", 6, none=[10, 12, 14], captions=[40.0, 42.0, 44.0], background=[1.0, 2.0, 2.0]),
        "scenes-180": _content("scenes", 180, none=[80, 82], captions=[81, 81], fine_0=[81]),
    }
    page = page_of(found, {"base-names": {}}, tmp_path)
    assert "| 6 | 3 | 12.0 (10.0 to 14.0) | 42.0 (40.0 to 44.0) |  | **+30.0 (+30.0 to +30.0)** |" in page
    assert "**Names with boxes**: the pool adds +30.0 with 6; no gain is told with 180." in page
    assert f"({tmp_path.name}/base-names.svg)" in page
    lines = page.splitlines()
    place = next(place for place, line in enumerate(lines) if line.startswith("| 1 |"))
    claims = lines[place : place + 2]
    assert claims[0].endswith("| scenes-6: **+30.0 (+30.0 to +30.0)**, 3 seeds | holds | `--rows none captions` |")
    assert "| cannot be told here |" in claims[1] and lines[place + 2].startswith("| 2 |")
    assert "worse: pool as background alone (-40.3), no pool (-30.0)." in page and "World `scenes-180`:" in page
    assert "| 9 | Names of novel classes in training add 5.8 (G-OVD, 47.1) |  | not measured yet | `--rows " in page
    assert "cannot be told here: needs COCO and a GPU" in page
    assert "| A detector trained for each number of queries | Hours " in page
    assert "M2 = 0 (+0.0)" in page and "measured with one seed only: M2 = 0" in page
    assert "| scenes-180 | 180 | 8 | 4 | 2 | all | 5 | 30 | 90.0 / 95.0 |" in page
    assert "| cpu (a CPU), torch 2.14 | scenes-6, scenes-180 |" in page and "with one thread." in page
    assert "Must the lookup be bounded?" in page  # measured before: no row of it has results here
    assert "Is the content of the pool worth anything?" not in page
    lines = picture_of("base-names", found)["lines"]
    assert lines["no pool"] == [(6, [10, 12, 14]), (180, [80, 82])] and picture_of("fine", found) is None


def test_the_page_says_which_goals_the_whole_method_reaches(tmp_path):
    from ablations.page import page_of

    found = {
        "scenes-6": _content("scenes", 6, none=[70.0, 72.0], captions=[82.0, 84.0]),
        "scenes-12": _content("scenes", 12, none=[20.0], captions=[40.0]),
    }
    page = page_of(found, {}, tmp_path)
    assert "| scenes-6 | 2 | 83.0 | 50.0 | 1.66 | 92 |  | +12.0 |" in page
    assert "| scenes-12 | 1 | 40.0 | 50.0 | 0.80 | 44 |  | +20.0 |" in page
    said = (
        "**The goals** are reached in scenes-6. Missed: 0.9 of names with boxes and 90 % of the teacher on annotated "
        "boxes in scenes-12"
    )
    assert f"{said}.\n" in page
    for content, value in zip(found.values(), (83.0, 60.0)):
        content["ceiling"]["val"] |= {"AP50_novel, own boxes": value, "AP50_base, own boxes": 70.0}
    page = page_of(found, {}, tmp_path)
    assert "| scenes-6 | 2 | 83.0 | 50.0 | 1.66 | 92 | 100 | +12.0 |" in page
    assert "| scenes-12 | 1 | 40.0 | 50.0 | 0.80 | 44 | 67 | +20.0 |" in page
    assert f"{said}. 90 % of the teacher on the same boxes are reached in scenes-6; are missed in scenes-12.\n" in page
    assert "| 90.0 / 95.0 | 83.0 / 70.0 |" in page


def test_the_page_says_what_each_part_costs(tmp_path):
    from ablations.costs import FILE, KEPT
    from ablations.page import page_of

    from decodetr.utils.files import write_json

    found = {
        "scenes-6": _content("scenes", 6, free=[30.0, 31.0], captions=[40.0, 41.0]),
        "scenes-12": _content("scenes", 12, free=[30.0], captions=[40.0]),
    }
    assert "## What does each improvement cost?" not in page_of(found, {}, tmp_path)
    spread = {"median": 1.25, "q1": 1.0, "q3": 1.5}
    times = {what: {row: spread for _, row in KEPT} for what in ("forward", "step")}
    machine = {"device": "cpu (a CPU)", "threads": 1}
    stream = {"prototypes": 6003, "width": 512}
    head = {"title": "A detector", "runs": 3, "date": "2026-11-27", "world": "scenes-6", "machine": machine}
    (tmp_path / FILE).parent.mkdir()
    write_json(tmp_path / FILE, {**times, **head, "stream": stream})
    page = page_of(found, {}, tmp_path)
    cells = "1.250 (1.000 to 1.500) | 1.250 (1.000 to 1.500)"
    assert f"| A bounded MLP beside the lookup | {cells} | scenes-6: **+10.0 (+10.0 to +10.0)** | `free` |" in page
    assert "batch 1, 80 names, 6,003 prototypes of width 512" in page and "cpu (a CPU), 1 thread, 2026-11-27" in page


def test_the_page_is_what_the_command_writes(tmp_path):
    """docs/ablations.md, from the committed results, and its pictures are there."""
    import shutil

    import ablate

    results = tmp_path / "ablations"
    shutil.copytree(DOCS / "ablations", results, ignore=shutil.ignore_patterns("*.svg"))
    (results / "begun.json").write_text(json.dumps(_content("begun", 6)))  # no run of this world has ended
    assert ablate.main(["write", "--results", str(results), "--page", str(tmp_path / "report.md")]) == 0
    written = (tmp_path / "report.md").read_text()
    assert written == (DOCS / "ablations.md").read_text(encoding="utf-8")
    pictures = {file.name for file in results.glob("*.svg")}
    assert pictures == {file.name for file in (DOCS / "ablations").glob("*.svg")} and pictures
    assert ablate.main(["write", "--results", str(tmp_path / "none"), "--page", str(tmp_path / "report.md")]) == 1


def test_the_page_has_the_curve_of_the_gradients():
    from ablations.conflict import conflict_part, conflict_picture

    content = _content("scenes", 12, joint_pool=[40.0, 42.0], joint_isolation=[41.0, 43.0])
    for seed, cosines in (("0", [-0.5, 0.5, 0.5, 0.5]), ("1", [-0.1, -0.3, 0.1, 0.1])):
        curve = {"step": [0, 5, 10, 15], "shared": [1234] * 4, "cosine": cosines, "ratio": [0.5] * 4}
        content["runs"]["joint-pool"][seed]["conflict"] = curve
        nothing = {"shared": [0] * 4, "cosine": [None] * 4, "ratio": [0.0] * 4}
        content["runs"]["joint-isolation"][seed]["conflict"] = {**curve, **nothing}
    content["settings"]["steps"] = 20
    text = conflict_part({"scenes-12": content}, "ablations")
    assert (
        "| + pool | 2 | 1,234 | +0.100 (-0.050 to +0.250) | -0.300 (-0.500 to -0.100) | +0.300 (+0.100 to +0.500) | "
        "38 (25 to 50) | 0.5 (0.5 to 0.5) |"
    ) in text
    assert "| + isolation | 2 | 0 |  |  |  |  | 0 (0 to 0) |" in text and "(ablations/conflict.svg)" in text
    assert "**The cosine**: + pool: +0.100, below 0 in 38 % of the steps. With isolation (+ isolation) L_align" in text
    picture = conflict_picture({"scenes-12": content})
    assert picture["lines"] == {"+ pool": [(0, [-0.5, -0.1]), (25, [0.5, -0.3]), (50, [0.5, 0.1]), (75, [0.5, 0.1])]}
    assert conflict_part({"scenes-12": _content("scenes", 12, none=[1.0])}, "ablations") == ""
