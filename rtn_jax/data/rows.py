"""Lists of pairs in files: rows with their place, and what happens to the bad ones."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from rtn_jax.data.pairs import Pair

T = TypeVar("T")
R = TypeVar("R")

Row = tuple[str, T]
"""The place of a row, such as `pairs.csv line 7`, and its content."""


def read_csv(path: Path, header: Sequence[str]) -> list[Row[str]]:
    """The rows below the header, one a line, for `fields` to take apart; empty lines are left out.

    Raises:
        ValueError: the file cannot be read, begins with another header or holds no row.
    """
    columns, rows = read_any_csv(path)
    if columns != list(header):
        got = ",".join(columns)[:80] if columns else "an empty file"
        expected = ",".join(header if len(header) <= 8 else [*header[:3], "...", header[-1]])
        raise ValueError(f"{path}: expected the header {expected}, got {got}")
    if not rows:
        raise ValueError(f"{path}: expected at least one row below the header, got none")
    return rows


def read_any_csv(path: Path) -> tuple[list[str], list[Row[str]]]:
    """The header, whatever it says (`[]` if the file is empty), and the rows below it as `read_csv` returns them.

    Raises:
        ValueError: the file cannot be read, or its header cannot be taken apart.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = [line.rstrip("\n") for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as a table of comma-separated values: {_words(error)}") from error
    rows = [(f"{path} line {number}", line) for number, line in enumerate(lines, 1) if line]
    if not rows:
        return [], []
    (place, header), *rows = rows
    try:
        return _cells(header), rows
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def fields(line: str, header: Sequence[str]) -> dict[str, str]:
    """The row's columns by name.

    Raises:
        ValueError: it has more or fewer columns than the header, or a quote is not closed in it.
    """
    row = _cells(line)
    if len(row) != len(header):
        raise ValueError(f"expected {len(header)} columns, got {len(row)}")
    return dict(zip(header, row, strict=True))


def _cells(line: str) -> list[str]:
    """The cells of one line. Taken by itself, so that a quote that is not closed cannot swallow the rows below it."""
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error as error:
        reason = "a quote that is not closed" if "unexpected end" in str(error) else _words(error)
        raise ValueError(f"expected comma-separated values, got {line[:60]!r} ({reason})") from error


def read_json_lines(path: Path) -> list[Row[str]]:
    """The lines of a file that are not empty, not parsed yet, so that one bad line can be left out.

    Raises:
        ValueError: the file cannot be read or holds no line.
    """
    try:
        # Not splitlines(), which also ends lines at characters that a JSON text may hold, such as U+2028.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {_words(error)}") from error
    rows = [(f"{path} line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise ValueError(f"{path}: expected at least one line, got none")
    return rows


def json_object(text: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: it is none.
    """
    value = json_value(text, "object")
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {text[:60]!r}")
    return value


def json_value(text: str, what: str = "value") -> Any:
    """Anything that JSON can say, but no object with two members of one name.

    Raises:
        ValueError: the text is not JSON; `what` was expected.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets without end
        raise ValueError(f"expected a JSON {what}, got {text[:60]!r} ({error})") from error


def _once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's members; of two with one name Python would silently keep the last."""
    members = dict(items)
    if len(members) != len(items):
        names = [name for name, _ in items]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return members


def collect(rows: Iterable[Row[T]], read: Callable[[T], R], *, skip_bad: bool) -> tuple[tuple[R, ...], tuple[str, ...]]:
    """What `read` makes of every row, and why rows were left out.

    Args:
        rows: with their places.
        read: raises a `ValueError` for a bad row.
        skip_bad: leave bad rows out instead of failing.

    Raises:
        ValueError: of the first bad row, its place in front; or with `skip_bad` if every row is bad.
    """
    good, left_out = [], []
    for place, row in rows:
        try:
            good.append(read(row))
        except ValueError as error:
            if not skip_bad:
                raise ValueError(f"{place}: {error}") from error
            left_out.append(f"{place}: {error}")
    if left_out and not good:
        raise ValueError(f"every row is bad; the first: {left_out[0]}")
    return tuple(good), tuple(left_out)


def finite_number(name: str, text: str) -> float:
    """A finite number.

    Raises:
        ValueError: it is none; `name` is what the message calls it.
    """
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {text!r}")
    return number


def pair_id(category: str, src: str, tgt: str) -> str:
    """`<category>/<source>-<target>` of two images' names: the relative path that stands for a pair."""
    stems = "-".join(PurePosixPath(name).stem for name in (src, tgt))
    return f"{category}/{stems}" if category else stems


def relative_name(name: str, value: Any) -> str:
    """A path below a folder, with forward slashes and without detours: what images and pairs are called.

    Raises:
        ValueError: no text, empty, absolute, or with `..` or a backslash; `name` is what the message calls it.
    """
    if not isinstance(value, str) or not PurePosixPath(value).parts:
        raise ValueError(f"{name}: expected a relative path, got {value!r}")
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or any(sign in value for sign in "\\\0"):
        raise ValueError(f"{name}: expected a path that stays inside its folder, got {value!r}")
    return str(path)


def unique_id(name: str, taken: Container[str]) -> str:
    """The name, or the name with the first of `-2`, `-3`, ... behind it that is not taken."""
    candidates = itertools.chain([name], (f"{name}-{count}" for count in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


def unique_ids(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """The pairs with a number behind every id that came before; the first of each keeps its own."""
    unique: dict[str, Pair] = {}
    for pair in pairs:
        own = unique_id(pair.id, unique)
        unique[own] = dataclasses.replace(pair, id=own)
    return tuple(unique.values())


def _words(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())
