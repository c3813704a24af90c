"""JSON, YAML and text that somebody else wrote are read by utils/documents.py and its neighbours alone; all commands
say what is wrong with a file, whatever it is."""

import ast
import json

import pytest
from helpers.broken_data import good, write
from helpers.paths import sources

from decodetr.cli import main

LOADERS = {"load", "loads", "safe_load", "full_load", "unsafe_load", "load_all", "safe_load_all"}
# Files that read what this very process, its child or the system has written; the model's folder travels to the Hub
# alone.
OWN = {
    "benchmarks/evaluation.py",
    "benchmarks/hostile_files.py",
    "benchmarks/pool_clustering.py",
    "benchmarks/scale.py",
    "benchmarks/train_step.py",
    "modeling_decodetr/card_leftovers.py",
    "modeling_decodetr/embedding_artifact.py",
    "modeling_decodetr/file_commit.py",
    "modeling_decodetr/hub_repository.py",
    "scenes/clip_teacher.py",
    "speed/machine.py",
    "utils/documents.py",
    "utils/files.py",
    "utils/xml_documents.py",
    "utils/yaml_documents.py",
}
XML = {"xml", "lxml", "defusedxml"}


def _is_round_trip(call):
    """`json.loads(json.dumps(...))`."""
    argument = call.args[0] if call.args else None
    return isinstance(argument, ast.Call) and getattr(argument.func, "attr", "") == "dumps"


def _others():
    return [(name, tree) for name, tree in sources().items() if name not in OWN]


def test_nothing_else_reads_documents():
    found = []
    for name, tree in _others():
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or _is_round_trip(call):
                continue
            module, function = getattr(call.func.value, "id", ""), call.func.attr
            if (module in ("json", "yaml") and function in LOADERS) or function == "read_text":
                found.append(f"{name}:{call.lineno}: {module}.{function}")
    assert found == []


def test_nothing_else_reads_xml():
    found = []
    for name, tree in _others():
        types = {id(line) for node in ast.walk(tree) if _is_for_types(node) for line in ast.walk(node)}
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if id(node) not in types and any(module.split(".")[0] in XML for module in modules):
                found.append(f"{name}:{node.lineno}: {modules}")
    assert found == []


def _is_for_types(node):
    return isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"


DEEP = "nested more than 100 deep"


def _refused(capsys, *words):
    """The error of a command that must fail without a traceback."""
    assert main([str(word) for word in words]) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "content, message",
    [
        ("[" * 100_000, DEEP),
        ('{"base": ["a"]', "expected a JSON file, got: Expecting ',' delimiter"),
        ('{"base": ["crème"], "novel": []}'.encode("cp1252"), "line 1: not a text in UTF-8"),
        ("[]", 'expected {"base": {"1": "person", ...}, "novel": {"5": "airplane", ...}}, got []'),
        ('{"base": {"1": 7}, "novel": {}}', "base: expected names, got 7; write it as a text"),
        ('{"base": {"1": null}, "novel": {}}', "base: expected names, got None"),
        ('{"base": {"1": "a", "1": "b"}, "novel": {}}', "the key '1' is there twice"),
        ('{"base": 5, "novel": {}}', "expected base and novel as"),
        (
            '{"base": ["a"], "novel": ["b"]}',
            'expected base and novel as {"<category id>": "name", ...}, got [\'a\'] as',
        ),
        ('{"base": {"1": "a"}, "novel": {"2": "a"}}', "['a'] are both base and novel"),
    ],
)
def test_a_names_split_that_is_none(tmp_path, capsys, content, message):
    file = tmp_path / "split.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    words = ["vocabulary", "build", "--names-split", file, "--text-model", "scenes-clip", "--output", tmp_path / "v"]
    error = _refused(capsys, *words)
    assert f"{file}: " in error and message in error


def test_a_names_split_in_another_encoding(tmp_path):
    from decodetr.annotations.names_split import read_split

    file = tmp_path / "split.json"
    file.write_text('{"base": {"1": "crème"}, "novel": {}}', encoding="utf-16")
    assert read_split(file) == (["crème"], [])


@pytest.mark.parametrize(
    "content, message",
    [
        ("[" * 100_000, DEEP),
        ("[]", "expected a mapping (name: value), got []"),
        ('{"description": "x", "counts": {"names": "many"}}', "expected counts with counts of names"),
        ('{"description": "x", "federated": "no"}', "expected federated true or false, got 'no'"),
        ('{"description": "x", "headline": "AP"}', "expected headline as a list of metrics, got 'AP'"),
        ('{"description": "x", "novel_frequencies": "xyz"}', "expected novel_frequencies with some of r, c and f"),
        ('{"description": 5}', "expected description as a text, got 5"),
        ('{"description": "x", "novel": {"1": null}}', "novel: expected names, got None"),
    ],
)
def test_a_protocol_that_is_none(tmp_path, capsys, content, message):
    file = tmp_path / "mine.json"
    file.write_text(content)
    data = write(tmp_path / "data", good()) / "annotations" / "train.json"
    error = _refused(capsys, "eval", "--model", "scenes-decodetr", "--annotations", data, "--protocol", file)
    assert f"{file}: " in error and message in error


def test_other_files_that_are_deep(tmp_path, capsys):
    data = write(tmp_path / "data", good())
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000)
    annotations = data / "annotations" / "train.json"
    for words in (
        ["eval", "--detections", deep, "--annotations", annotations],
        ["eval", "--model", "scenes-decodetr", "--annotations", deep],
        ["vocabulary", "build", "--annotations", deep, "--text-model", "scenes-clip", "--output", tmp_path / "v"],
        ["train", "--recipe", deep, "--data", data, "--output_dir", tmp_path / "o"],
        ["train", "--config", deep, "--data", data, "--output_dir", tmp_path / "o"],
    ):
        assert f"{deep}: {DEEP}" in _refused(capsys, *words)


def test_captions_and_image_labels_that_are_none(tmp_path):
    from decodetr.annotations.captions import read_captions
    from decodetr.training.data.weak_labels import read_image_labels

    file = tmp_path / "captions.json"
    for rows, message in (
        ([{"image_id": True, "caption": "a cat"}], "expected image_id and caption"),
        ([{"image_id": [1], "caption": "a cat"}], "expected image_id and caption"),
        (["a"], "expected image_id and caption"),
    ):
        file.write_text(json.dumps({"annotations": rows}))
        with pytest.raises(ValueError, match=rf"captions.json: annotations\[0\]: {message}"):
            read_captions(file)
    document = good()
    document["annotations"][0]["image_id"] = [1]
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"annotations\[0\]: expected ids of an image and a category"):
        read_image_labels(file)


@pytest.mark.parametrize("names", ["{0: off}", "{0: 7}", "{0: ~}"])
def test_names_in_a_config_are_texts(names):
    from decodetr.training.start.starting_point import config_fields, make_config
    from decodetr.utils.yaml_documents import parse_yaml

    with pytest.raises(ValueError, match="here: id2label: 0: expected a name, got .*; write it in quotes"):
        make_config({"id2label": parse_yaml(names, "here")}, "here")
    assert config_fields([f"id2label={names}"])["id2label"]["0"] in ("off", "7", None)
    assert config_fields(["detector_config.id2label={0: off}"])["detector_config"]["id2label"] == {"0": "off"}
    assert config_fields(["id2label.0=off"])["id2label"] == {"0": "off"}
