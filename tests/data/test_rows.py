"""Rows of lists know their place, bad ones are named or left out, and names stay inside their folder."""

from __future__ import annotations

import pytest

from rtn_jax.data.pairs import Pair
from rtn_jax.data.rows import (
    collect,
    fields,
    finite_number,
    json_object,
    json_value,
    pair_id,
    read_any_csv,
    read_csv,
    read_json_lines,
    relative_name,
    unique_id,
    unique_ids,
)

HEADER = ("a", "b")


def write(tmp_path, content):
    path = tmp_path / "list.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_csv_rows_know_their_line(tmp_path):
    path = write(tmp_path, '\ufeffa,b\r\n1,2\r\n\r\n"3,4",5\r\n6\r\n')
    rows = read_csv(path, HEADER)
    assert rows == [(f"{path} line 2", "1,2"), (f"{path} line 4", '"3,4",5'), (f"{path} line 5", "6")]
    assert fields(rows[1][1], HEADER) == {"a": "3,4", "b": "5"}
    assert read_any_csv(path) == (["a", "b"], rows)


def test_a_quote_that_is_not_closed_swallows_no_row(tmp_path):
    path = write(tmp_path, 'a,b\n1,2\n"3,4\n5,6\n7,"8\n9,10\n')
    good, bad = collect(read_csv(path, HEADER), lambda line: fields(line, HEADER)["b"], skip_bad=True)
    assert good == ("2", "6", "10")
    assert bad[0] == f"{path} line 3: expected comma-separated values, got '\"3,4' (a quote that is not closed)"
    assert [line.split(": ")[0] for line in bad] == [f"{path} line 3", f"{path} line 5"]
    with pytest.raises(ValueError, match=r"list\.csv line 1: expected comma-separated values, got 'a,\"b' \(a quote"):
        read_csv(write(tmp_path, 'a,"b\n1,2\n'), HEADER)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", r"list\.csv: expected the header a,b, got an empty file"),
        ("x,y\n1,2\n", r"list\.csv: expected the header a,b, got x,y"),
        ("1,2\n", r"list\.csv: expected the header a,b, got 1,2"),
        ("a,b\n", r"list\.csv: expected at least one row below the header"),
        (b"\xff\xfe\x00broken", r"list\.csv: cannot be read as a table"),
    ],
)
def test_csv_refuses(tmp_path, content, match):
    with pytest.raises(ValueError, match=match):
        read_csv(write(tmp_path, content), HEADER)


def test_a_missing_csv_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.csv: cannot be read .*No such file"):
        read_csv(tmp_path / "none.csv", HEADER)


def test_long_headers_are_shortened(tmp_path):
    with pytest.raises(ValueError, match=r"expected the header c0,c1,c2,\.\.\.,c9, got a,b"):
        read_csv(write(tmp_path, "a,b\n1,2\n"), [f"c{i}" for i in range(10)])


def test_fields():
    assert fields("1,2", HEADER) == {"a": "1", "b": "2"}
    for line, count in (("1", 1), ("1,2,3", 3)):
        with pytest.raises(ValueError, match=f"expected 2 columns, got {count}"):
            fields(line, HEADER)
    for line, match in (("x" * 200_000, "field larger"), ('"1"2,3', "expected after"), ('"1,2', "not closed")):
        with pytest.raises(ValueError, match=f"^expected comma-separated values, got .*{match}") as caught:
            fields(line, HEADER)
        assert len(str(caught.value)) < 200


def test_json_lines_know_their_line(tmp_path):
    path = write(tmp_path, '\ufeff{"a": 1}\n\n  \r\n{"b": "x\u2028y\x85"}\nno json\n')
    rows = read_json_lines(path)
    assert [place for place, _ in rows] == [f"{path} line {number}" for number in (1, 4, 5)]
    # Characters that Python takes for line ends and JSON does not.
    assert json_object(rows[1][1]) == {"b": "x\u2028y\x85"}


@pytest.mark.parametrize(("content", "match"), [("\n \n", "at least one line"), (b"\xff\xff", "cannot be read")])
def test_json_lines_refuse(tmp_path, content, match):
    with pytest.raises(ValueError, match=rf"list\.csv: .*{match}"):
        read_json_lines(write(tmp_path, content))


@pytest.mark.parametrize("text", ["", "[1]", "1", "{", '{"a": }', "[" * 100_000, '{"a": 1} {"b": 2}'])
def test_json_object_refuses(text):
    with pytest.raises(ValueError, match=r"^expected a JSON object, got ") as caught:
        json_object(text)
    assert len(str(caught.value)) < 300


def test_a_member_that_is_there_twice_is_an_error():
    with pytest.raises(ValueError, match="'a' is there twice"):
        json_object('{"a": 1, "b": 2, "a": 3}')
    with pytest.raises(ValueError, match="'x' is there twice"):
        json_value('[{"b": {"x": 1, "x": 1}}]')
    assert json_value('[{"a": 1}, {"a": 2}]') == [{"a": 1}, {"a": 2}]


def odd(number):
    if number % 2 == 0:
        raise ValueError(f"{number} is even")
    return 10 * number


ROWS = [("here 1", 1), ("here 2", 2), ("here 3", 3), ("here 4", 4)]


def test_collect_fails_at_the_first_bad_row_or_lists_all():
    with pytest.raises(ValueError, match=r"^here 2: 2 is even$"):
        collect(ROWS, odd, skip_bad=False)
    assert collect(ROWS, odd, skip_bad=True) == ((10, 30), ("here 2: 2 is even", "here 4: 4 is even"))
    assert collect(ROWS[:1], odd, skip_bad=False) == ((10,), ())


def test_collect_does_not_return_nothing():
    with pytest.raises(ValueError, match=r"^every row is bad; the first: here 2: 2 is even$"):
        collect(ROWS[1::2], odd, skip_bad=True)


def test_collect_hides_no_mistake_of_the_library():
    with pytest.raises(ZeroDivisionError):
        collect(ROWS, lambda number: number // 0, skip_bad=True)


def test_finite_number():
    assert finite_number("x", " 1.5e1 ") == 15.0
    for text in ("", "nan", "inf", "-inf", "1,5", "one"):
        with pytest.raises(ValueError, match=rf"^x: expected a finite number, got '{text}'$"):
            finite_number("x", text)


def test_pair_id():
    assert pair_id("cat", "val/2010_01.jpg", "b.c.png") == "cat/2010_01-b.c"
    assert pair_id("", "a.jpg", "b.jpg") == "a-b"


def test_relative_name():
    assert relative_name("src", "a/b.jpg") == "a/b.jpg"
    assert relative_name("src", "./a//b.jpg") == "a/b.jpg"
    assert relative_name("src", "a..b/...jpg") == "a..b/...jpg"


@pytest.mark.parametrize("value", ["/a.jpg", "..", "../a.jpg", "a/../../b.jpg", "a\\b.jpg", "C:\\a.jpg", "a\0.jpg"])
def test_names_that_lead_outside_are_refused(value):
    with pytest.raises(ValueError, match=r"^src: expected a path that stays inside its folder, got "):
        relative_name("src", value)


@pytest.mark.parametrize("value", [None, 3, "", ".", ["a"]])
def test_names_that_are_none_are_refused(value):
    with pytest.raises(ValueError, match=r"^src: expected a relative path, got "):
        relative_name("src", value)


def test_repeated_ids_are_numbered_and_others_are_not():
    names = ["a", "b", "a", "a-2", "a", "b"]
    pairs = unique_ids(Pair(id=name, src="s", tgt="t") for name in names)
    assert [pair.id for pair in pairs] == ["a", "b", "a-2", "a-2-2", "a-3", "b-2"]
    assert unique_id("a", {"a", "a-2"}) == "a-3"
    assert unique_id("c", {"a"}) == "c"
