"""Programs that are kept whole: what finds them again, what does not, and that nothing is traced where they are."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtn_jax import programs
from rtn_jax.programs import Kept

ROOT = Path(__file__).resolve().parents[1]


class Counted:
    """Kept functions that count how often they are traced."""

    def __init__(self) -> None:
        self.traced = 0

        @Kept
        def product(a, b):
            self.traced += 1
            return {"product": a @ b["right"], "left": a}

        @partial(Kept, static_argnums=(1,))
        def scaled(x, by):
            self.traced += 1
            return x * by

        self.product, self.scaled = product, scaled


@pytest.fixture
def folder(tmp_path):
    programs.keep_in(tmp_path / "programs")  # until the test ends, see conftest.py
    return tmp_path / "programs"


@pytest.fixture
def read():
    """The names of the functions whose programs were read from the folder, as they are."""
    names, on = [], True

    def listener(event, seconds, **about):
        if on and event == programs.READ:
            assert seconds > 0
            names.append(about["fun_name"].split(".")[-1])

    jax.monitoring.register_event_duration_secs_listener(listener)
    yield names
    on = False


def started_anew(folder):
    """As another process would find it: nothing in memory, and functions that have not been traced."""
    programs.keep_in(folder)
    return Counted()


def a_and_b(rows=3):
    return jnp.arange(rows * 4.0).reshape(rows, 4), {"right": jnp.arange(8.0).reshape(4, 2)}


def largest(folder):
    return max(folder.iterdir(), key=lambda path: path.stat().st_size)


def test_a_later_process_does_not_trace(folder, read):
    first, (a, b) = Counted(), a_and_b()
    expected = first.product(a, b)
    np.testing.assert_array_equal(expected["product"], np.asarray(a) @ np.asarray(b["right"]))
    assert (first.traced, read) == (1, [])
    later = started_anew(folder)
    for _ in range(2):
        found = later.product(a, b)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        np.testing.assert_array_equal(found["product"], expected["product"])
    assert (later.traced, read) == (0, ["product"])


def test_static_values_shapes_and_dtypes_make_other_programs(folder, read):
    for turn in range(2):
        kept = started_anew(folder)
        for x in (jnp.ones(3), jnp.ones(4), jnp.ones(3, jnp.int32), jnp.asarray(1.0) * jnp.ones(())):
            for by in (2, 3):
                np.testing.assert_array_equal(kept.scaled(x, by), np.full(x.shape, by))
        assert (kept.traced, len(read)) == ((8, 0) if turn == 0 else (0, 8))


def test_static_parts_of_the_arguments_make_other_programs_even_if_the_same_is_computed(folder):
    @partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["unit"])
    @dataclasses.dataclass(frozen=True)
    class Length:
        value: jax.Array
        unit: str

    globals()["Length"] = Length  # where pickle finds it
    Length.__qualname__ = "Length"
    double = Kept(lambda length: Length(2 * length.value, length.unit))
    lengths = [double(Length(jnp.ones(2), unit)) for unit in ("cm", "m")]
    assert [length.unit for length in lengths] == ["cm", "m"]


def test_other_code_is_lowered_and_finds_the_program_if_it_is_the_same(folder, monkeypatch, read):
    Counted().product(*a_and_b())
    monkeypatch.setattr(programs, "_code", lambda: "another version of this package")
    later = started_anew(folder)
    later.product(*a_and_b())
    assert (later.traced, read) == (1, ["product"])
    again = started_anew(folder)
    again.product(*a_and_b())
    assert (again.traced, read) == (0, ["product"] * 2)


def test_another_machine_compiles(folder, monkeypatch, read):
    Counted().product(*a_and_b())
    monkeypatch.setattr(programs, "_machine", lambda: "another processor")
    later = started_anew(folder)
    later.product(*a_and_b())
    assert (later.traced, read) == (1, [])


@pytest.mark.parametrize(("name", "value"), [("jax_enable_x64", True), ("jax_default_matmul_precision", "float32")])
def test_settings_of_jax_make_other_programs(folder, name, value):
    kept, (a, b) = Counted(), a_and_b()
    kept.product(a, b)
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        kept.product(a, b)
    finally:
        jax.config.update(name, before)
    assert kept.traced == 2


def test_what_is_traced_into_a_larger_program_is_not_kept(folder):
    kept, (a, b) = Counted(), a_and_b()
    expected = kept.product(a, b)["product"]
    written = {path.name for path in folder.iterdir()}
    np.testing.assert_array_equal(jax.jit(kept.product)(a, b)["product"], expected)
    gradient = jax.grad(lambda a: kept.product(a, b)["product"].sum())(a)
    np.testing.assert_array_equal(gradient, np.broadcast_to(b["right"].sum(1), a.shape))
    assert jax.vmap(kept.product, (0, None))(jnp.stack([a, a]), b)["product"].shape == (2, 3, 2)
    with jax.disable_jit():
        np.testing.assert_array_equal(kept.product(a, b)["product"], expected)
    assert jax.eval_shape(kept.product, a, b)["product"].shape == (3, 2)
    assert {path.name for path in folder.iterdir()} == written


def test_arrays_of_numpy_and_keywords_are_left_to_jit(folder):
    kept, (a, b) = Counted(), a_and_b()
    kept.product(np.asarray(a), b)
    kept.product(a, b=b)
    assert not folder.exists()


def test_nothing_is_kept_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = Counted()
    kept.product(*a_and_b())
    kept.product(*a_and_b())
    assert (kept.traced, [*tmp_path.rglob("*")]) == (1, [])


@pytest.mark.parametrize("how", ["cut off", "one bit", "empty", "no file of ours", "gone"])
def test_a_damaged_file_is_compiled_again_and_replaced(folder, how, read):
    expected = Counted().product(*a_and_b())["product"]
    program = largest(folder)
    whole = program.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    damaged = {"cut off": whole[:-9], "one bit": bytes(flipped), "empty": b"", "no file of ours": b"\n" * 9}
    if how == "gone":
        program.unlink()
    else:
        program.write_bytes(damaged[how])
    later = started_anew(folder)
    np.testing.assert_array_equal(later.product(*a_and_b())["product"], expected)
    assert (later.traced, read) == (1, [])
    started_anew(folder).product(*a_and_b())
    assert read == ["product"]


@pytest.mark.parametrize("error", [RuntimeError("made for another machine"), AttributeError("no class Features")])
def test_what_cannot_be_used_is_compiled_again_and_said(folder, monkeypatch, caplog, read, error):
    Counted().product(*a_and_b())
    whole, errors = programs.serialize_executable.deserialize_and_load, [error]

    def refuse_once(*args, **options):
        if errors:
            raise errors.pop()
        return whole(*args, **options)

    later = started_anew(folder)
    monkeypatch.setattr(programs.serialize_executable, "deserialize_and_load", refuse_once)
    assert later.product(*a_and_b())["product"].shape == (3, 2)
    assert (later.traced, read) == (1, [])
    assert re.fullmatch(rf"{re.escape(str(folder))}/\w+: {error}; it is compiled again", caplog.messages[0])
    started_anew(folder).product(*a_and_b())
    assert read == ["product"], "replaced"


def test_what_xla_cannot_write_is_not_kept(folder, monkeypatch):
    def refuse(program):
        raise RuntimeError("UNIMPLEMENTED: `LessThan` is not serializable.")  # of some programs that sort

    monkeypatch.setattr(programs.serialize_executable, "serialize", refuse)
    for _ in range(2):
        kept = started_anew(folder)
        assert kept.product(*a_and_b())["product"].shape == (3, 2)
        assert kept.traced == 1


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    programs.keep_in(tmp_path / "file" / "programs")
    kept = Counted()
    for rows in (2, 3):
        assert kept.product(*a_and_b(rows))["left"].shape == (rows, 4)
    (message,) = caplog.messages
    assert message.startswith("compiled programs are not kept: ")
    assert str(tmp_path / "file") in message


def test_those_that_were_not_used_for_longest_go(folder, monkeypatch, read):
    monkeypatch.setattr(programs, "MOST", 6)
    kept, ones = Counted(), jnp.ones(2)
    for by in (1, 2, 3):
        kept.scaled(ones, by)
        for path in folder.iterdir():  # an hour passes
            os.utime(path, (path.stat().st_mtime - 3600,) * 2)
    started_anew(folder).scaled(ones, 1)  # used now
    started_anew(folder).scaled(ones, 4)
    assert len([*folder.iterdir()]) == 6
    assert len(read) == 1
    later = started_anew(folder)
    later.scaled(ones, 1)
    later.scaled(ones, 4)
    later.scaled(ones, 3)
    assert (later.traced, len(read)) == (0, 4)
    later.scaled(ones, 2)
    assert later.traced == 1


def test_forgotten_programs_come_back_from_the_folder(folder, read):
    kept = Counted()
    for _ in range(2):
        kept.product(*a_and_b())
        programs.forget()
    assert (kept.traced, read) == (1, ["product"])


@pytest.fixture
def jax_cache(tmp_path):
    """JAX's own, new and in use."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs", "jax_enable_compilation_cache")
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (str(tmp_path / "jax"), 0.0, True), strict=True):
        jax.config.update(name, value)
    programs.reset_cache()
    yield tmp_path / "jax"
    for name, value in before.items():
        jax.config.update(name, value)
    programs.reset_cache()


def waves(x):
    return jnp.sin(x)[::-1] @ x.T


def test_what_is_in_jaxs_cache_is_compiled_again(folder, jax_cache, read):
    """XLA writes what it has read without the machine code: such a program fails, but only when it is called."""
    x, _ = a_and_b()
    for _ in range(2):  # the second time it is read
        jax.clear_caches()
        jax.jit(waves)(x)
    assert any("waves" in path.name for path in jax_cache.iterdir())
    Kept(waves)(x)
    programs.keep_in(folder)  # as another process
    np.testing.assert_allclose(Kept(waves)(x), np.sin(x)[::-1] @ x.T, rtol=1e-5)
    assert read == ["waves"]


def test_what_fails_when_it_is_called_is_not_kept(folder, tmp_path, jax_cache, monkeypatch):
    """If JAX should have read the program all the same."""
    x, _ = a_and_b()
    monkeypatch.setattr(programs, "_compiled", lambda lowered: lowered.compile())
    for place, kept in ((folder, True), (tmp_path / "other", False)):  # compiled for the one, read for the other
        jax.clear_caches()
        programs.keep_in(place)
        np.testing.assert_allclose(Kept(waves)(x), np.sin(x)[::-1] @ x.T, rtol=1e-5)
        assert (largest(place).stat().st_size > 1000) == kept


def test_jaxs_cache_stays_in_use(folder, jax_cache):
    x, _ = a_and_b()
    Kept(waves)(x)
    assert not any("waves" in path.name for path in jax_cache.iterdir())
    jax.clear_caches()
    jax.jit(waves)(x)
    assert any("waves" in path.name for path in jax_cache.iterdir())


class TestReadAhead:
    def used(self, kept):
        kept.product(*a_and_b())
        kept.scaled(jnp.ones(3), 2)

    def test_what_was_used_last_time_is_read_beside_the_block(self, folder, read):
        with programs.read_ahead("a purpose"):
            self.used(Counted())
        later = started_anew(folder)
        with programs.read_ahead("a purpose"):
            for thread in threading.enumerate():
                if thread is not threading.main_thread() and thread.name.startswith("read ahead"):
                    thread.join()
            assert read == ["product", "scaled"], "before they are called"
            self.used(later)
        assert (later.traced, read) == (0, ["product", "scaled"])

    def test_another_purpose_reads_nothing_ahead(self, folder, read):
        with programs.read_ahead("a purpose"):
            self.used(Counted())
        programs.keep_in(folder)
        with programs.read_ahead("another"):
            pass
        assert read == []

    def test_the_list_follows_what_is_used(self, folder, read):
        for by in (2, 2, 3, 3):
            with programs.read_ahead("a purpose"):
                Counted().scaled(jnp.ones(3), by)
            programs.keep_in(folder)
        assert read == ["scaled"] * 3, "at the second, once for nothing at the third, and at the last"

    def test_a_block_that_fails_changes_no_list_and_leaves_no_thread(self, folder, read):
        with programs.read_ahead("a purpose"):
            self.used(Counted())
        listed = {path: path.read_bytes() for path in folder.iterdir()}
        programs.keep_in(folder)
        with pytest.raises(ValueError, match="a user's mistake"), programs.read_ahead("a purpose"):
            raise ValueError("a user's mistake")
        assert {path: path.read_bytes() for path in folder.iterdir()} == listed
        assert [thread for thread in threading.enumerate() if thread.name.startswith("read ahead")] == []

    def test_an_error_of_the_thread_is_that_of_the_call(self, folder, monkeypatch):
        def fail(shelf, name):
            raise MemoryError

        with programs.read_ahead("a purpose"):
            self.used(Counted())
        later = started_anew(folder)
        monkeypatch.setattr(programs._Shelf, "_read", fail)
        with pytest.raises(MemoryError), programs.read_ahead("a purpose"):
            self.used(later)

    def test_it_is_nothing_where_nothing_is_kept(self, read):
        with programs.read_ahead("a purpose"):
            self.used(Counted())
        assert read == []


SECOND_DEVICE = """
import sys, jax, numpy as np
from pathlib import Path
from rtn_jax import programs
programs.keep_in(Path(sys.argv[1]))
kept = programs.Kept(lambda x: x * x)
first, second = jax.devices()
split = jax.sharding.NamedSharding(jax.make_mesh((2,), ("d",)), jax.sharding.PartitionSpec("d"))
x = np.arange(6.0, dtype=np.float32).reshape(2, 3)
for place, devices in ((second, {second}), (split, {first, second}), (first, {first})):
    found = kept(jax.device_put(x, place))
    assert found.devices() == devices
    np.testing.assert_array_equal(found, x * x)
    print(Path(sys.argv[1]).exists())
"""


def test_only_the_first_device_has_kept_programs(tmp_path):
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", SECOND_DEVICE, str(tmp_path / "programs")]
    for expected in (["False", "False", "True"], ["True"] * 3):
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT)
        assert run.stdout.split() == expected
