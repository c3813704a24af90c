"""The reader of JSON, YAML and text: everything a file can do to it is one error that names the file."""

import os
import time

import pytest

from decodetr.utils.documents import parse_json, read_json, read_text
from decodetr.utils.yaml_documents import parse_yaml, read_yaml

DEEP = "nested more than 100 deep"


@pytest.mark.parametrize(
    "text, message",
    [
        ("[" * 100_000, DEEP),
        ("[" * 101 + "]" * 101, DEEP),
        ('{"a":' * 101 + "1" + "}" * 101, DEEP),
        ('{"a": [1, 2', "expected a JSON file, got: Expecting ',' delimiter: line 1 column 12"),
        ("", "expected a JSON file, got: Expecting value: line 1 column 1"),
        ("[1]", r"expected a mapping \(name: value\), got \[1\]"),
        ("5", r"expected a mapping \(name: value\), got 5"),
        ('{"a": 1, "a": 2}', "the key 'a' is there twice"),
    ],
)
def test_json_that_is_refused(tmp_path, text, message):
    file = tmp_path / "names.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"^{file}: {message}"):
        read_json(file, dict, unique=True)


def test_json_as_deep_as_allowed_and_its_numbers():
    assert parse_json("[" * 100 + "]" * 100, "x")
    huge = "9" * 400
    assert (
        parse_json(f"[{huge}, -{huge}, 1e400, {'9' * 5000}]", "x")
        == [float("inf"), -float("inf")] + [float("inf")] * 2
    )
    assert parse_json('{"a": 1, "a": 2}', "x") == {"a": 2}


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi")
)
CHAIN = "- &a0 [x]\n" + "".join(f"- &a{n + 1} [*a{n}]\n" for n in range(300))


@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize(
    "text, message",
    [
        ("[" * 5000, DEEP),
        ("[" * 101 + "]" * 101, DEEP),
        (CHAIN, DEEP),
        ("set: &a [*a]", "line 1: an alias refers to itself"),
        ("set: &a {b: *a}", "line 1: an alias refers to itself"),
        (BOMB, "line 6: more than 200,000 values once its aliases are unfolded"),
        ("a: 1\nb: [1", "line 3: expected YAML, got: did not find expected ',' or ']'"),
        ("a: 1\n\tb: 2", "line 2: expected YAML, got: found a tab character"),
        ("a: 1\nb: \x01", "line 2: expected YAML, got the character '.x01'"),
        ("a: 1\na: 2", "line 2: the key 'a' is there twice"),
        ("? [a]\n: b", r"line 1: \['a'\] is no key"),
        ("a: !!python/object:os.system x", "line 1: the tag !!python/object:os.system"),
        ("a: !!timestamp x", "line 1: the tag !!timestamp"),
        ("", r"expected a mapping \(name: value\), got None"),
    ],
)
def test_yaml_that_is_refused(tmp_path, text, message, texts):
    file = tmp_path / "data.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"^{file}: {message}"):
        read_yaml(file, dict, texts=texts)


def test_yaml_values_are_those_of_json():
    text = f"a: 1e-4\nb: 2024-01-31\nc: {'9' * 400}\nd: 1.5\ne: true\nf: !!str 007\ng: ~"
    assert parse_yaml(text, "x") == {
        "a": 1e-4, "b": "2024-01-31", "c": float("inf"), "d": 1.5, "e": True, "f": "007", "g": None
    }  # fmt: skip
    with pytest.raises(ValueError, match="x: line 1: True is no key"):
        parse_yaml("yes: 1", "x")


def test_yaml_of_names_holds_the_texts_of_the_file():
    text = "{0: off, 1: 007, 2: ~, 3: 1.0, 4: 1:30, 5: 2024-01-31, 6: '~', yes: y}"
    assert parse_yaml(text, "x", texts=True) == {
        "0": "off", "1": "007", "2": None, "3": "1.0", "4": "1:30", "5": "2024-01-31", "6": "~", "yes": "y"
    }  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_that_are_read(tmp_path, encoding):
    text = '{"a": "crème"}'
    for file, read in ((tmp_path / "a.json", read_json), (tmp_path / "a.yaml", read_yaml)):
        file.write_bytes(text.encode(encoding))
        assert read(file) == {"a": "crème"} and read_text(file) == text


def test_encodings_that_are_refused(tmp_path):
    file = tmp_path / "names.txt"
    for content, message in (
        ("a\ncrème".encode("cp1252"), r"line 2: not a text in UTF-8 \(byte 0xe8 at 4\); save it as UTF-8"),
        ("a\ncat".encode("utf-16-le"), r"line 1: not a text in UTF-8 \(a NUL character\)"),
        ("a".encode("utf-16") + b"\x00", "line 1: not a text in UTF-16"),
    ):
        file.write_bytes(content)
        for read in (read_text, read_json, read_yaml):
            with pytest.raises(ValueError, match=f"^{file}: {message}"):
                read(file)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for read in (read_text, read_json, read_yaml):
        for name, message in (("pipe", "got a device, pipe or socket"), ("", "got a folder"), ("loop", "be read")):
            with pytest.raises(ValueError, match=message):
                read(tmp_path / name)
        with pytest.raises(ValueError, match="got a device"):
            read("/dev/zero")
        with pytest.raises(FileNotFoundError, match="none: no such file"):
            read(tmp_path / "none")
    large = tmp_path / "large.yaml"
    with open(large, "wb") as file:
        file.truncate(5 << 20)
    with pytest.raises(ValueError, match="5,242,880 bytes, more than the 4,194,304 that are read at most"):
        read_yaml(large)


def test_a_long_yaml_file_ends_soon(tmp_path):
    file = tmp_path / "data.yaml"
    file.write_text("names: [" + "a," * 400_000 + "a]")
    started = time.process_time()
    with pytest.raises(ValueError, match=f"^{file}: line 1: more than 200,000 values"):
        read_yaml(file)
    assert time.process_time() - started < 8  # seconds; 1 with LibYAML, 30 without


def test_of_many_keys_the_one_that_is_there_twice_is_found_at_once():
    keys = ", ".join(f'"{number}": 1' for number in range(100_000))
    started = time.process_time()
    with pytest.raises(ValueError, match="^x: the key 'a' is there twice"):
        parse_json(f'{{{keys}, "a": 1, "a": 2}}', "x", unique=True)
    assert time.process_time() - started < 5
