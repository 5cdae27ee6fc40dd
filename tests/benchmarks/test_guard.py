"""The guard compares, says what has changed and how to store it, and counts the instructions that a program has."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from benchmarks import guard

HERE = "cpu x86_64, jax 0.10"
FOUND = {"apply": {"operations": 1000, "scatter instructions": 0}, "calls: apply": {"compilations": 1}}
VERSIONS = {"jaxlib": "0.10.2", "flax": "0.12.0"}


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the guard where what is given would be found: its exit code, its words."""
    monkeypatch.setattr(guard, "place", lambda: HERE)
    monkeypatch.setattr(guard, "versions", lambda: VERSIONS)

    def run(found, *, update=False):
        monkeypatch.setattr(guard, "count", lambda: found)
        code = guard.main(update, tmp_path / "guard.json")
        return code, capsys.readouterr().out

    return run


@pytest.fixture
def stored(tmp_path):
    """The file, with what `FOUND` says and something of another platform."""
    path = tmp_path / "guard.json"
    entry = {"versions": VERSIONS, "counts": FOUND}
    path.write_text(json.dumps({"gpu A100, jax 0.11": entry, HERE: entry}))
    return path


def changed(program, quantity, value):
    return {name: counts | ({quantity: value} if name == program else {}) for name, counts in FOUND.items()}


@pytest.mark.parametrize("operations", [980, 1000, 1020])
def test_what_is_as_stored_or_nearly_so_passes(run, stored, operations):
    code, words = run(changed("apply", "operations", operations))
    assert code == 0
    assert words == f"3 quantities of 2 programs are as stored for {HERE}, within 2%.\n"


@pytest.mark.parametrize(
    ("program", "quantity", "value", "line"),
    [
        ("apply", "operations", 1021, "apply: operations: stored 1,000, found 1,021 (+2.1%, allowed 2% either way)"),
        ("apply", "scatter instructions", 1, "stored 0, found 1 (allowed 2% either way)"),
        ("calls: apply", "compilations", 2, "calls: apply: compilations: stored 1, found 2 (+100.0%, "),
        ("apply", "sort instructions", 0, "apply: sort instructions: stored nothing, found 0 ("),
    ],
)
def test_more_fails_and_says_what_to_do(run, stored, program, quantity, value, line):
    before = stored.read_text()
    code, words = run(changed(program, quantity, value))
    assert code == 1
    assert line in words.splitlines()[0]
    assert "takes more than before" in words and HERE in words
    assert "\n    python -m benchmarks.guard --update\nand commit benchmarks/guard.json" in words
    assert len(words.splitlines()) == 6, "one change, and what to do"
    assert stored.read_text() == before


def test_less_fails_too_but_kindly(run, stored):
    code, words = run(changed("apply", "operations", 979))
    assert code == 1
    assert "stored 1,000, found 979 (-2.1%, " in words
    assert "All of it is less than before" in words and "    python -m benchmarks.guard --update\n" in words


def test_a_program_that_is_gone_is_missed(run, stored):
    code, words = run({"apply": FOUND["apply"]})
    assert code == 1
    assert words.startswith("calls: apply: compilations: stored 1, found nothing (")


@pytest.mark.parametrize(("value", "worse"), [(9, True), (11, False)])
def test_memory_that_is_used_again_is_better_the_more_there_is(value, worse):
    assert guard.Change("step", "donated bytes", 10, value).worse == worse
    assert guard.Change("step", "peak live bytes", 10, value).worse != worse


def test_other_versions_are_named(run, stored, monkeypatch):
    monkeypatch.setattr(guard, "versions", lambda: VERSIONS | {"flax": "0.13.0"})
    _, words = run(changed("apply", "operations", 2000))
    assert "They were counted with flax 0.12.0 (now 0.13.0)" in words
    assert "jaxlib" not in words


def test_update_stores_for_this_place_alone(run, stored):
    new = changed("apply", "operations", 2000)
    code, words = run(new, update=True)
    assert code == 0
    assert words.splitlines() == [
        "apply: operations: stored 1,000, found 2,000 (+100.0%, allowed 2% either way)",
        f"3 quantities of 2 programs are stored for {HERE} in guard.json.",
    ]
    known = json.loads(stored.read_text())
    assert known[HERE] == {"versions": VERSIONS, "counts": new}
    assert known["gpu A100, jax 0.11"]["counts"] == FOUND
    assert run(new)[0] == 0


def test_where_nothing_is_stored_it_says_so_and_passes(run, stored, monkeypatch):
    monkeypatch.setattr(guard, "place", lambda: "cpu x86_64, jax 0.12")
    code, words = run(None)
    assert code == 0
    assert words.startswith("Nothing was compared: no values are stored for cpu x86_64, jax 0.12 (there are: gpu A100")
    assert "python -m benchmarks.guard --update" in words


def test_the_first_values_make_the_file(run, tmp_path):
    assert "there are: none at all" in run(None)[1]
    assert run(FOUND, update=True)[0] == 0
    assert json.loads((tmp_path / "guard.json").read_text())[HERE]["counts"] == FOUND


def test_platform_and_version_are_named():
    assert guard.place().startswith("cpu ") and ", jax 0." in guard.place()
    assert set(guard.versions()) == {"jaxlib", "flax", "optax"}


def test_stored_values_can_be_read():
    for entry in json.loads(guard.STORED.read_text()).values():
        assert set(guard.OPERATIONS | guard.WHOLE) < set(entry["counts"]), (
            "values of programs that are no longer counted"
        )


PROGRAM = """
HloModule jit_f, entry_computation_layout={(f32[2,3]{1,0}, /*index=5*/s32[])->f32[2]{0}}

%body (p: (f32[2,3], s32[])) -> (f32[2,3], s32[]) {
  %p = (f32[2,3]{1,0}, s32[]) parameter(0)
  %scattered = f32[2,3]{1,0} scatter(%a, %b, %c), update_window_dims={1}, to_apply=%add
  ROOT %tuple = (f32[2,3]{1,0}, /*index=1*/s32[]) tuple(%scattered, %n)
}

ENTRY %main {
  dot.1 = f32[2,2]{1,0:T(8,128)} dot(%x, %y), lhs_contracting_dims={1}, metadata={op_name="jit(f)/dot(x) sort(y)"}
  %sorted = (f32[2]{0}, s32[2]{0}) sort(%k, %v), dimensions={0}
  ROOT %while.2 = (f32[2,3]{1,0}, s32[]) while(%tuple.1), condition=%test, body=%body
}
"""


def test_instructions_and_memory_are_read_from_the_compiled_program():
    memory = {"argument": 100, "output": 50, "temp": 30, "alias": 40}
    compiled = SimpleNamespace(
        cost_analysis=lambda: {"flops": 12.0, "bytes accessed": 34.0},
        memory_analysis=lambda: SimpleNamespace(**{f"{name}_size_in_bytes": size for name, size in memory.items()}),
        as_text=lambda: PROGRAM,
    )
    found = guard._counted(SimpleNamespace(compile=lambda: compiled))
    assert found["operations"] == 12 and found["bytes accessed"] == 34 and found["peak live bytes"] == 140
    instructions = {name: found[f"{name} instructions"] for name in guard.INSTRUCTIONS}
    assert instructions == dict.fromkeys(guard.INSTRUCTIONS, 0) | {"scatter": 1, "dot": 1, "sort": 1, "while": 1}
