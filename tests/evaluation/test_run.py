"""Evaluation over shards, devices and kills: the same answers to the bit."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rtn_jax import evaluation
from rtn_jax.evaluation import Answer, Journal, Transfer
from rtn_jax.evaluation.matchers import BATCH
from tests.benchmarks_small import dense_benchmark, keypoint_benchmark
from tests.networks import moving_params

SUBJECT = {"dataset": "small", "weights": "abc", "versions": {"jax": "1"}}


def by_batch(pairs):
    """Answers that depend on the whole batch, as an accelerator's last bits may."""
    shift = sum(len(pair.src_points) for pair in pairs) + 0.1
    return [Transfer(lambda points, shift=shift: points + shift) for _ in pairs]


def same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name].points, second[name].points)


@pytest.fixture
def benchmark():
    pairs = tuple(
        pair.__class__(**{**vars(pair), "id": f"{pair.id} {n}"})
        for n in range(4)
        for pair in keypoint_benchmark().pairs
    )
    return keypoint_benchmark().replace(pairs=pairs)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_together_are_the_whole(benchmark, count):
    whole = evaluation.answers("m", lambda _: by_batch, benchmark)
    parts = [evaluation.answers("m", lambda _: by_batch, benchmark, shard=(i, count)) for i in range(count)]
    assert sum(map(len, parts)) == len(benchmark.pairs)
    same(whole, {name: part[name] for part in parts for name in part})


def test_devices_together_are_the_whole(benchmark):
    built = []
    whole = evaluation.answers("m", lambda _: by_batch, benchmark)
    split = evaluation.answers("m", lambda device: built.append(device) or by_batch, benchmark, devices=["one", "two"])
    same(whole, split)
    assert sorted(built) == ["one", "two"]


def test_the_network_answers_the_same_to_the_bit_in_shards():
    benchmark = keypoint_benchmark()
    params = moving_params()

    def build(_):
        return evaluation.network(evaluation.ImageFeatures(params, benchmark.files))

    whole = evaluation.answers("m", build, benchmark)
    parts = [evaluation.answers("m", build, benchmark, shard=(i, 2)) for i in range(2)]
    same(whole, parts[0] | parts[1])


@pytest.mark.parametrize("devices", [["good", "bad"], ["bad", "good"]])
def test_a_failure_in_one_device_stops_the_others(benchmark, devices):
    failed = threading.Event()
    matched = []

    def build(device):
        def fail(pairs):
            failed.set()
            raise ValueError("no such image")

        def wait(pairs):
            assert failed.wait(10)
            time.sleep(0.1)
            matched.append(pairs)
            return by_batch(pairs)

        return fail if device == "bad" else wait

    with pytest.raises(ValueError, match="no such image"):
        evaluation.answers("m", build, benchmark, devices=devices)
    assert len(matched) <= 1, "of three"


def test_an_evaluation_goes_on_where_it_was_killed(benchmark, tmp_path):
    matched = []

    def dying(pairs):
        if len(matched) == 3:
            raise KeyboardInterrupt
        matched.append([pair.id for pair in pairs])
        return by_batch(pairs)

    journal = Journal(tmp_path, SUBJECT)
    with pytest.raises(KeyboardInterrupt):
        evaluation.answers("m", lambda _: dying, benchmark, journal=journal)
    first = list(matched)
    matched.clear()
    again = Journal(tmp_path, SUBJECT)
    done = evaluation.answers(
        "m", lambda _: lambda p: matched.append([q.id for q in p]) or by_batch(p), benchmark, journal=again
    )
    assert first + matched == [
        [p.id for p in benchmark.pairs[i : i + BATCH]] for i in range(0, len(benchmark.pairs), BATCH)
    ]
    same(done, evaluation.answers("m", lambda _: by_batch, benchmark))
    again.remove()
    assert not list(tmp_path.iterdir())


def test_shards_meet_in_the_journal(benchmark, tmp_path):
    for i in range(3):
        journal = Journal(tmp_path, SUBJECT, (i, 3))
        evaluation.answers("m", lambda _: by_batch, benchmark, shard=(i, 3), journal=journal)

    def fail(pairs):
        raise AssertionError("everything was done by the shards")

    gathered = evaluation.answers("m", lambda _: fail, benchmark, journal=Journal(tmp_path, SUBJECT))
    same(gathered, evaluation.answers("m", lambda _: by_batch, benchmark))


class TestJournal:
    """What is on disk reads back bit-equal; what is not whole is not believed."""

    @pytest.mark.parametrize(
        "given",
        [
            Answer(points=np.array([[0.1 + 0.2, 1e-300], [np.pi, -0.0]])),
            Answer(points=np.array([[np.nan, 1.0]])),
            Answer(values={"accuracy": 1 / 3}),
            Answer(values={"LOC-ERR": float("nan"), "IoU": 0.1}),
        ],
    )
    def test_round_trip(self, tmp_path, given):
        first = Journal(tmp_path, SUBJECT)
        first.add("m", {"pair": given})
        back = Journal(tmp_path, SUBJECT).done["m", "pair"]
        if given.points is not None:
            assert back.points.tobytes() == given.points.tobytes()
        else:
            assert repr(back.values) == repr(given.values)

    def test_a_line_that_was_cut_off_does_not_count_and_does_no_harm(self, tmp_path):
        first = Journal(tmp_path, SUBJECT)
        first.add("m", {"a": Answer(values={"x": 1.0}), "b": Answer(values={"x": 2.0})})
        path = next(first.folder.iterdir())
        path.write_bytes(path.read_bytes()[:-7])
        second = Journal(tmp_path, SUBJECT)
        assert set(second.done) == {("m", "a")}
        second.add("m", {"c": Answer(values={"x": 3.0})})
        assert set(Journal(tmp_path, SUBJECT).done) == {("m", "a"), ("m", "c")}

    def test_killed_before_the_first_line(self, tmp_path):
        Journal(tmp_path, SUBJECT)
        path = tmp_path / "journal" / "0-of-1.jsonl"
        path.write_bytes(path.read_bytes()[:5])
        assert Journal(tmp_path, SUBJECT).done == {}
        assert json.loads(path.read_text()) == SUBJECT

    def test_another_evaluation_is_not_continued(self, tmp_path):
        Journal(tmp_path, SUBJECT)
        with pytest.raises(ValueError, match="unfinished evaluation with another weights"):
            Journal(tmp_path, SUBJECT | {"weights": "def"})

    def test_a_first_line_that_is_no_object(self, tmp_path):
        Journal(tmp_path, SUBJECT)
        (tmp_path / "journal" / "0-of-1.jsonl").write_text("[]\n")
        with pytest.raises(ValueError, match=r"0-of-1.jsonl line 1: damaged"):
            Journal(tmp_path, SUBJECT)

    def test_an_answer_that_does_not_fit_its_pair(self, tmp_path):
        benchmark = keypoint_benchmark(1)
        Journal(tmp_path, SUBJECT).add("m", {benchmark.pairs[0].id: Answer(points=np.zeros((9, 2)))})
        with pytest.raises(ValueError, match="damaged at pair 'x/a-b'"):
            evaluation.answers("m", lambda _: by_batch, benchmark, journal=Journal(tmp_path, SUBJECT))

    @pytest.mark.parametrize(
        "line",
        [
            b"garbage\n",
            b'{"matcher": "m"}\n',
            b"[]\n",
            b"\xff\xfe\n",
            b'{"matcher": "m", "pair": "p", "points": [["x", 1]]}\n',
        ],
    )
    def test_a_damaged_line_is_named(self, tmp_path, line):
        Journal(tmp_path, SUBJECT)
        path = tmp_path / "journal" / "0-of-1.jsonl"
        path.write_bytes(path.read_bytes() + line)
        with pytest.raises(ValueError, match=r"0-of-1.jsonl line 2: damaged; remove .* to start over"):
            Journal(tmp_path, SUBJECT)

    def test_two_processes_do_not_write_one_journal(self, tmp_path):
        code = (
            "import sys; from rtn_jax.evaluation import Journal; from pathlib import Path;"
            f"Journal(Path({str(tmp_path)!r}), {SUBJECT!r}, (0, 2)); print('ready', flush=True); sys.stdin.read()"
        )
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
        with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
            assert other.stdout.readline() == "ready\n"
            with pytest.raises(ValueError, match=r"another process is writing .*0-of-2.jsonl"):
                Journal(tmp_path, SUBJECT, (0, 2))
            gathering = Journal(tmp_path, SUBJECT)
            with pytest.raises(ValueError, match="another process is writing"):
                gathering.remove()
            other.kill()
        Journal(tmp_path, SUBJECT, (0, 2))
        gathering.remove()
        assert not list(tmp_path.iterdir())

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / "journal").write_text("a file")
        with pytest.raises(ValueError, match="journal"):
            Journal(tmp_path, SUBJECT)


class TestSurvey:
    """Every file is read once before the long work."""

    def test_the_hash_is_of_the_content(self):
        benchmark = keypoint_benchmark()
        same, first = evaluation.survey(benchmark)
        assert [pair.id for pair in same.pairs] == [pair.id for pair in benchmark.pairs]
        assert evaluation.survey(keypoint_benchmark())[1] == first
        fewer = evaluation.survey(benchmark.replace(pairs=benchmark.pairs[:-1]))[1]
        images = dict(benchmark.files.images)
        images["b"] = images["b"].copy()
        images["b"][0, 0, 0] ^= 1
        altered = evaluation.survey(benchmark.replace(files=type(benchmark.files)(images)))[1]
        points = vars(benchmark.pairs[0]) | {"tgt_points": benchmark.pairs[0].tgt_points + 1e-9}
        moved = evaluation.survey(benchmark.replace(pairs=(type(benchmark.pairs[0])(**points), *benchmark.pairs[1:])))[
            1
        ]
        assert len({first, fewer, altered, moved}) == 4

    @pytest.mark.parametrize("protocol", ["flow", "masks"])
    def test_flows_and_masks_are_part_of_it(self, protocol):
        benchmark, other = dense_benchmark(protocol), dense_benchmark(protocol)
        assert evaluation.survey(benchmark)[1] == evaluation.survey(other)[1]
        if protocol == "flow":
            other.files.flows[other.pairs[2].id][20, 20] += 1
        else:
            other.files.masks["b"][0, 0] ^= True
        assert evaluation.survey(benchmark)[1] != evaluation.survey(other)[1]

    def test_a_bad_image_is_an_error_or_left_out_with_all_its_pairs(self):
        benchmark = keypoint_benchmark()
        images = {name: image for name, image in benchmark.files.images.items() if name != "c"}
        lacking = benchmark.replace(files=type(benchmark.files)(images))
        with pytest.raises(ValueError, match="c: no such image"):
            evaluation.survey(lacking)
        kept, _ = evaluation.survey(lacking, skip_bad=True)
        assert [pair.id for pair in kept.pairs] == ["x/a-b", "x/b-a"]
        assert len(kept.left_out) == 4
        assert all("c: no such image" in line for line in kept.left_out)

    def test_a_pair_without_a_threshold(self):
        """A single keypoint has no box."""
        benchmark = keypoint_benchmark()
        single = {name: getattr(benchmark.pairs[1], name)[:1] for name in ("src_points", "tgt_points")}
        pairs = (benchmark.pairs[0], dataclasses.replace(benchmark.pairs[1], **single), *benchmark.pairs[2:])
        with pytest.raises(ValueError, match="'y/b-c' has no length for the threshold 'bbox-kp'"):
            evaluation.survey(benchmark.replace(pairs=pairs))
        kept, _ = evaluation.survey(benchmark.replace(pairs=pairs), skip_bad=True)
        assert (len(kept.pairs), len(kept.left_out)) == (5, 1)

    def test_nothing_left_is_an_error(self):
        benchmark = keypoint_benchmark()
        with pytest.raises(ValueError, match="no pair can be used"):
            evaluation.survey(benchmark.replace(files=type(benchmark.files)({})), skip_bad=True)
