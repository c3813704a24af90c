"""Names files: names alone, and names with the texts that are embedded for them."""

import json

import pytest

from decodetr.utils.name_list import read_names, read_prompts, read_typed_names


def test_names_without_texts_are_their_own():
    assert read_prompts() is None
    assert read_prompts('"salt, pepper",cup,cup') == {"salt, pepper": ["salt, pepper"], "cup": ["cup"]}


def test_a_line_has_a_name_and_its_texts(tmp_path):
    file = tmp_path / "names.txt"
    text = "traffic_cone: traffic cone; pylon ;\n\n cup \nratio 1:2\na;b\nrôle:  crème: brûlée\ncup\n"
    file.write_text(text, encoding="utf-8")
    assert read_prompts(file=file) == {
        "traffic_cone": ["traffic cone", "pylon"],
        "cup": ["cup"],
        "ratio 1:2": ["ratio 1:2"],
        "a;b": ["a;b"],
        "rôle": ["crème: brûlée"],
    }


def test_comments_and_empty_lines_are_no_names(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("# my things\n\ncat #1\n  #dog\n")
    assert read_prompts(file=file) == {"cat #1": ["cat #1"]} and read_names(file=file) == ["cat #1"]
    assert read_prompts("#1 pencil") == {"#1 pencil": ["#1 pencil"]}
    file.write_text("# nothing\n")
    with pytest.raises(ValueError, match="no names in"):
        read_prompts(file=file)


@pytest.mark.parametrize("line", ["cat:", "cat: ;", ": cat"])
def test_a_line_that_lacks_one_of_them_is_named(tmp_path, line):
    file = tmp_path / "names.txt"
    file.write_text(f"dog\n{line}\n")
    with pytest.raises(ValueError, match=r"names.txt, line 2: expected a name, or 'name: prompt; prompt'"):
        read_prompts(file=file)


def test_json(tmp_path):
    file = tmp_path / "names.json"
    file.write_text(json.dumps({"Book: the film": "book", "cone": ["traffic cone", " pylon "]}))
    assert read_prompts(file=file) == {"Book: the film": ["book"], "cone": ["traffic cone", "pylon"]}
    file.write_text(json.dumps(["cat", "dog"]))
    assert read_prompts(file=file) == {"cat": ["cat"], "dog": ["dog"]}
    for wrong in ({"cat": []}, {"cat": [" "]}, {"cat": 3}, [3], [["cat"]]):
        file.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="names.json: expected a list of names, or {name: prompt or list of"):
            read_prompts(file=file)
    for empty in ({}, [], None):
        file.write_text(json.dumps(empty))
        with pytest.raises(ValueError, match="no names in"):
            read_prompts(file=file)
    file.write_text('"cat"')
    with pytest.raises(ValueError, match="names.json"):
        read_prompts(file=file)


def test_one_source_is_enough(tmp_path):
    with pytest.raises(ValueError, match="not both"):
        read_prompts("cat", tmp_path / "names.txt")


def test_a_file_in_the_place_of_names_is_read_and_never_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("cat\ncone: traffic cone; pylon\n")
    (tmp_path / "names.json").write_text('["cat", "dog"]')
    assert read_prompts("names.txt") == {"cat": ["cat"], "cone": ["traffic cone", "pylon"]}
    assert read_typed_names("names.json", "--class-names") == ["cat", "dog"]
    assert read_typed_names("cat,dog", "--class-names") == ["cat", "dog"] and read_typed_names(None, "--seen") is None
    with pytest.raises(FileNotFoundError, match="--class-names nofile.txt: no such file"):
        read_typed_names("nofile.txt", "--class-names")
    assert read_names("names.txt") == ["names.txt"]  # of a request, which names no files of the server


def test_prompts_on_a_command_line():
    assert read_prompts('cone: traffic cone; pylon,"salt, pepper"') == {
        "cone": ["traffic cone", "pylon"],
        "salt, pepper": ["salt, pepper"],
    }
    for read in (read_prompts, read_names):
        for text in ("cat; dog", "cat;dog"):
            with pytest.raises(
                ValueError, match=f"--names '{text}': expected names with commas between them, got a semi"
            ):
                read(text)
    assert read_prompts('"a;b",c') == {"a;b": ["a;b"], "c": ["c"]}


def test_quotes_in_a_file_are_those_of_a_command_line_and_a_list_in_one_line_is_refused(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text('"salt, pepper"\ncat\nsalt, sugar\nan 8" pipe\n')
    assert read_names(file=file) == ["salt, pepper", "cat", "salt, sugar", 'an 8" pipe']
    file.write_text("# mine\n cat, dog, bus\n")
    with pytest.raises(ValueError, match="line 2: expected one name a line, got 'cat, dog, bus' alone"):
        read_names(file=file)
    file.write_text("cat;dog\n")
    with pytest.raises(ValueError, match="line 1: expected one name a line, got 'cat;dog' alone"):
        read_names(file=file)
    for name in ("salt, pepper", "salt;pepper"):
        file.write_text(f'"{name}"\n')
        assert read_prompts(file=file) == {name: [name]}
    file.write_text("cone: traffic cone; pylon\n")
    assert read_prompts(file=file) == {"cone": ["traffic cone", "pylon"]}


def test_a_quoted_name_in_a_file_is_taken_to_the_letter_and_may_have_prompts(tmp_path):
    file = tmp_path / "names.txt"
    lines = (
        '"salt, pepper": white powder; black powder',
        '"traffic: cone"',
        '"Book: the film":book',
        '"an 8"" pipe": pipe',
        '"a""b"',
        '"cat" and "dog": pets',
        'an "odd" cup: cup',
    )
    file.write_text("\n".join(lines))
    assert read_prompts(file=file) == {
        "salt, pepper": ["white powder", "black powder"],
        "traffic: cone": ["traffic: cone"],
        "Book: the film": ["book"],
        'an 8" pipe': ["pipe"],
        'a"b': ['a"b'],
        '"cat" and "dog"': ["pets"],
        'an "odd" cup': ["cup"],
    }
    assert read_names(file=file)[1] == "traffic: cone"
    file.write_text(lines[0])  # alone, it is no list of names with commas between them
    assert read_prompts(file=file) == {"salt, pepper": ["white powder", "black powder"]}
    file.write_text('"salt, pepper",cat\n')
    with pytest.raises(ValueError, match="line 1: expected one name a line"):
        read_prompts(file=file)
    for line in ('"cat":', '"cat": ;', '" ": cat', '" "'):
        file.write_text(f"dog\n{line}\n")
        with pytest.raises(
            ValueError, match=r"names.txt, line 2: expected a name, or .*file of names, in double quotes"
        ):
            read_prompts(file=file)
    assert read_prompts('"""cat""","""dog"": pet"') == {'"cat"': ['"cat"'], '"dog"': ["pet"]}  # CSV took one pair


def test_a_key_that_a_json_file_has_twice_is_refused(tmp_path):
    file = tmp_path / "names.json"
    file.write_text('{"cat": "x", "dog": "z", "cat": "y"}')
    with pytest.raises(ValueError, match="names.json: the key 'cat' is there twice; leave one"):
        read_prompts(file=file)
    file.write_text('["cat", "dog", "cat"]')
    assert read_prompts(file=file) == {"cat": ["cat"], "dog": ["dog"]}


def test_a_name_that_comes_again_with_other_texts_is_refused(tmp_path):
    text, table = tmp_path / "names.txt", tmp_path / "names.json"
    text.write_text("a: red star\nb\na: blue ring\n")
    table.write_text('{"a": "red star", " a": "blue ring"}')
    with pytest.raises(ValueError, match="names.txt, line 3: 'a' is there before, as 'red star'; leave one"):
        read_prompts(file=text)
    with pytest.raises(ValueError, match="names.json: 'a' is there before, as 'red star'; leave one"):
        read_prompts(file=table)
    with pytest.raises(ValueError, match="--names 'a: blue ring': 'a' is there before"):
        read_prompts("a: red star,a: blue ring")
    text.write_text("a\na: red star\n")
    with pytest.raises(ValueError, match="line 2: 'a' is there before, as 'a'"):
        read_prompts(file=text)
    text.write_text("a: red star; star\nb\na:  red star;star\n")
    assert read_prompts(file=text) == {"a": ["red star", "star"], "b": ["b"]}


def test_a_heading_over_a_list_is_no_name(tmp_path):
    file = tmp_path / "names.json"
    for head in ("names", "Classes"):
        file.write_text(json.dumps({head: ["red star", "blue ring"]}))
        with pytest.raises(ValueError, match=f"got a list below the heading '{head}'; give the list alone"):
            read_prompts(file=file)
    file.write_text(json.dumps({"label": ["label", "sticker"], "cup": "cup"}))  # two names, one of which is a label
    assert read_prompts(file=file) == {"label": ["label", "sticker"], "cup": ["cup"]}
    file.write_text(json.dumps({"label": "sticker"}))
    assert read_prompts(file=file) == {"label": ["sticker"]}


def test_class_ids_are_no_names(tmp_path):
    text, table = tmp_path / "names.txt", tmp_path / "names.json"
    text.write_text("0: cat\n2: dog\n")
    table.write_text('{"0": "cat", "2": "dog"}')
    for file, mend in (
        (text, "give the texts alone, or, in a file, double quotes"),
        (table, "give a list of the texts"),
    ):
        with pytest.raises(ValueError, match=f"{file.name}.*: expected a name and its texts, got numbers .*; {mend}"):
            read_prompts(file=file)
    with pytest.raises(ValueError, match="--names '0: cat': expected a name and its texts, got numbers"):
        read_prompts("0: cat,1: dog")
    digits = {"0": ["zero"], "1": ["one"]}
    text.write_text('"0": zero\n"1": one\n')
    table.write_text(json.dumps(digits))
    assert read_prompts(file=text) == read_prompts(file=table) == digits
    for other in ("0: zero; nought\n1: one\n", "911: a Porsche 911\n"):
        text.write_text(other)
        assert next(iter(read_prompts(file=text))) == other.split(":")[0]


def test_names_that_look_equal_are_one(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("caf\u00e9\ncafe\u0301\nzero\u200bwidth\n\ufeffzerowidth\nم\u200cن\n", encoding="utf-8")
    names = ["caf\u00e9", "zerowidth", "م\u200cن"]  # a joiner makes another word
    assert read_names("hard\u00a0hat, hard hat,hard\u3000hat") == ["hard hat"]
    assert read_names(file=file) == list(read_prompts(file=file)) == names
    assert read_names("cafe\u0301, a\u00adb") == ["caf\u00e9", "ab"]
    (tmp_path / "names.json").write_text(json.dumps({"cafe\u0301": "a cafe\u0301"}))
    assert read_prompts(file=tmp_path / "names.json") == {"caf\u00e9": ["a caf\u00e9"]}


def test_names_that_differ_by_case_are_told(tmp_path, caplog):
    file = tmp_path / "names.txt"
    file.write_text("Cat\ndog\ncat\n")
    for read in (lambda: read_names(file=file), lambda: read_prompts(file=file), lambda: read_prompts("Cat,dog,cat")):
        caplog.clear()
        assert list(read()) == ["Cat", "dog", "cat"]
        assert len(caplog.records) == 1 and "but for case are names of their own: 'Cat', 'cat'" in caplog.text
    caplog.clear()
    assert read_names("cat, dog") and not caplog.records


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("cat,\ndog,\n", "every line ends with a comma; remove the commas"),
        ("cat,\ndog,\nbird\n", "every line ends with a comma"),
        ("- cat\n- dog\n", "every line is an item of a list; remove the dashes"),
        ("cat;\ndog;\n", "every line ends with a semicolon; remove the semicolons"),
        ("1. cat\n2. dog\n3. bird\n", "the lines are numbered; remove the numbers"),
        ("1 cat\n2 dog\n", "the lines are numbered; remove the numbers, or write double quotes"),
        ("0\tcat\n1\tdog\n", "the lines are numbered; remove the numbers"),
        ("id,name\n1,cat\n2,dog\n", "rows of a table below its header"),
        ("name\tsupercategory\ncat\tanimal\n", "rows of a table below its header"),
    ],
)
def test_a_file_of_another_format_is_refused(tmp_path, text, what):
    file = tmp_path / "names.txt"
    file.write_text(text)
    for read in (read_names, read_prompts):
        with pytest.raises(ValueError, match=f"names.txt, line 1: expected one name a line and .*, got .*{what}"):
            read(file=file)


@pytest.mark.parametrize(
    "text",
    [
        "1. FC Köln\nFC Bayern\n",
        "1. FC Köln\n1. FC Nürnberg\n",
        "1. FC Köln\n",
        "1 euro\n2 euro\n5 euro\n",
        "salt, pepper\ncup\nname tag\n",
        "salt, pepper\noil, vinegar\n",
        "id card\nname tag\n",
        "-20 °C\n- sign\n",
    ],
)
def test_names_that_look_like_it_are_names(tmp_path, text):
    file = tmp_path / "names.txt"
    file.write_text(text, encoding="utf-8")
    assert read_names(file=file) == text.splitlines()
