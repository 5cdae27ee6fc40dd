"""The model of a step's time on many devices, beside rings and trees that are played through."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

import benchmarks.train_step
from benchmarks.cost_model import Cluster, Work, all_reduce, on_one_machine, predict, ring, tree
from benchmarks.scaling import CPU, GPU, cases, fitted, main, predictions_table, with_measured

CLUSTER = Cluster(
    per_host=4, inside_gb=2, inside_us=0, between_gb=1, between_us=0, readers=2, photos_per_reader=50, photo_kb=40,
    jitter=0,
)  # fmt: skip
WORK = Work(compute_seconds=0.5, gradient_bytes=1e8, pairs=3, photos_per_pair=2)


def play_ring(n: int, rng: np.random.Generator) -> tuple[int, float]:
    """Rounds of a ring all-reduce, and the share of the array that a device sends in all of them together."""
    own = rng.standard_normal((n, n))  # device, piece
    held, rounds, sent = own.copy(), 0, 0
    for turn in range(2 * (n - 1)):
        adding = turn < n - 1
        pieces = [(device - turn) % n for device in range(n)]
        messages = [held[device, piece] for device, piece in enumerate(pieces)]
        for device, (piece, message) in enumerate(zip(pieces, messages, strict=True)):
            after = (device + 1) % n
            held[after, piece] = held[after, piece] + message if adding else message
        rounds, sent = rounds + 1, sent + 1
    np.testing.assert_allclose(held, np.broadcast_to(own.sum(0), (n, n)))
    return rounds, sent / n


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_a_ring_takes_as_long_as_one_that_is_played_through(n, rng):
    rounds, share = play_ring(n, rng)
    assert ring(n, 6e6, 3e6, 0.25) == pytest.approx(share * 6e6 / 3e6 + rounds * 0.25)


def test_a_tree_sends_everything_twice_however_many_there_are():
    assert tree(1, 6e6, 3e6, 0.25) == 0
    assert tree(2, 6e6, 3e6, 0.25) == pytest.approx(2 * 2 + 2 * 0.25)
    assert tree(1024, 6e6, 3e6, 0.25) == pytest.approx(2 * 2 + 20 * 0.25)


def test_hosts_add_up_their_own_first_and_then_share_their_way_out():
    assert all_reduce(1, 1, 1e8, CLUSTER) == 0
    assert all_reduce(4, 1, 1e8, CLUSTER) == pytest.approx(2 * 3 / 4 * 0.05)
    assert all_reduce(4, 2, 1e8, CLUSTER) == pytest.approx(2 * 3 / 4 * 0.05 + 2 * 1 / 2 * 0.1)
    late = dataclasses.replace(CLUSTER, between_us=1000, messages=5)
    assert all_reduce(1, 128, 1e8, late) == pytest.approx(2 * 0.1 + 2 * 7 * 5 * 1e-3), "a ring would wait 254 times"


def test_a_step_waits_for_the_slowest_device_the_all_reduce_and_the_photos():
    alone = predict(1, WORK, CLUSTER)
    assert (alone.seconds, alone.reduce_seconds, alone.waits_for) == (0.5, 0, "computing")
    assert alone.photos_per_second == pytest.approx(12)
    assert alone.megabytes_per_second == pytest.approx(12 * 0.04)
    assert alone.readers_needed == pytest.approx(12 / 50)

    eight = predict(8, WORK, CLUSTER)
    assert (eight.hosts, eight.seconds) == (2, pytest.approx(0.5 + 0.075 + 0.1))
    assert eight.pairs_per_second == pytest.approx(24 / 0.675)
    assert eight.photos_per_second == pytest.approx(24 / 0.675), "of each of two hosts, two photos a pair"

    hidden = predict(8, WORK, dataclasses.replace(CLUSTER, overlap=0.8))
    assert hidden.reduce_seconds == pytest.approx(0.2 * 0.175)

    starved = predict(8, WORK, dataclasses.replace(CLUSTER, readers=1, photos_per_reader=20))
    assert (starved.seconds, starved.waits_for) == (pytest.approx(24 / 20), "photos")
    assert starved.readers_needed == pytest.approx(24 / 0.675 / 20)

    heavy = predict(8, dataclasses.replace(WORK, gradient_bytes=1e10, pause_seconds=0.25), CLUSTER)
    assert (heavy.seconds, heavy.waits_for) == (pytest.approx(0.5 + 17.5 + 0.25), "the all-reduce")


@pytest.mark.parametrize("n", [2, 8, 64, 1024])
def test_the_slowest_of_many_is_not_later_than_said_nor_much_earlier(n, rng):
    spread = 0.1
    slowest = rng.normal(1, spread, (2000, n)).max(1).mean()
    free = dataclasses.replace(CLUSTER, per_host=1, jitter=spread, inside_gb=math.inf, between_gb=math.inf)
    said = predict(n, dataclasses.replace(WORK, compute_seconds=1.0), free).slowest_seconds
    assert slowest < said < slowest + spread


def test_devices_that_do_not_fill_their_hosts_are_refused():
    assert predict(2, WORK, CLUSTER).hosts == 1
    for devices in (0, 6):
        with pytest.raises(ValueError, match=f"multiple of 4 per host, or fewer, got {devices}"):
            predict(devices, WORK, CLUSTER)


def test_the_all_reduce_that_was_measured_on_two_devices_comes_out_of_what_is_fitted_to_it():
    latency, bandwidth = fitted(0.3, 0.02, 8e7)
    assert latency == pytest.approx(0.01)
    assert ring(2, 8e7, bandwidth / 2, latency) == pytest.approx(0.3)
    assert on_one_machine(2, 1.5, 8e7, bandwidth, latency) == pytest.approx(3.3)
    assert on_one_machine(4, 1.5, 8e7, bandwidth, 0.0) == pytest.approx(6 + 3 * 0.28)
    assert fitted(-0.1, 0.2, 8e7)[1] > 0, "noise"


def parts(stage: str) -> dict:
    return {
        "group": "split", "job": "parts", "flags": {"stage": stage}, "pairs": 2, "photos_per_pair": 1, "flops": 4e11,
        "forward_and_backward": [2.0, 2.2, 9.0], "update": [0.1], "gradient_bytes": 8e7, "checkpoint_copy": [0.3],
    }  # fmt: skip


READING = {
    "group": "split", "job": "reading", "file_bytes": 50_000.0, "photos_per_second": {"0": 999.0, "1": 90.0, "2": 200.0}
}  # fmt: skip


def test_what_is_predicted_comes_from_what_was_measured():
    found = cases([parts("synthetic"), parts("weak"), READING], 4, CPU, GPU, (50.0, 200.0))
    assert len(found) == 6
    title, work, cluster = found[0]
    assert "synthetic" in title and "CPU" in title
    assert work == Work(compute_seconds=4.5, gradient_bytes=8e7, pairs=4, photos_per_pair=1, pause_seconds=0.3)
    assert (cluster.photos_per_reader, cluster.photo_kb) == (100, 50)
    assert found[1][1].compute_seconds == pytest.approx(2 * 4e11 / 50e12)
    assert found[2][1].compute_seconds == pytest.approx(2 * 4e11 / 200e12)
    assert with_measured(CLUSTER, READING) == CLUSTER, "what was assumed stays"

    words = predictions_table([predict(n, work, cluster) for n in (1, 8)], 4)
    assert words.splitlines()[2].startswith("| 1 | 4800.0 | 0.00 | 0.83 | 100 % | computing | 0.89 | 0.04 | 0.01 |")


@pytest.mark.parametrize("rows", [[], [parts("weak")], [{**parts("weak"), "error": "killed"}, READING]])
def test_a_file_without_what_it_needs_is_refused(rows):
    with pytest.raises(ValueError, match="measured: expected rows of the group split"):
        cases(rows, 4, CPU, GPU, (50.0,))


def test_the_check_puts_the_model_beside_what_was_measured(monkeypatch, capsys, tmp_path):
    asked = []

    def shared_cores(job, flags, *, devices, repeats, processes=1):
        n = devices * processes
        asked.append((job, n, processes))
        assert flags["batch_size"] == 3 * n, "the same number of pairs for each"
        if job == "step":
            return {"seconds": [1.5 * n + 0.2 * (n > 1)]}
        return {"seconds": [0.1 * n], "latency_seconds": [0.02], "bytes": 8e7}

    monkeypatch.setattr(benchmarks.train_step, "measured", shared_cores)
    (tmp_path / "split.json").write_text(
        json.dumps({"machine": benchmarks.train_step.machine(), "rows": [parts("weak"), READING]})
    )
    main(tmp_path / "split.json", devices=(1, 1024), gpu_tflops=(50.0,), check_pairs=3, out=tmp_path / "out.json")
    words = capsys.readouterr().out
    assert words.splitlines()[-4:] == [
        "| 1 | - | - | 1.500 | - | - |",
        "| 2 | 0.200 | 0.200 | 3.200 | 3.200 | +0 % |",
        "| 4 | 0.400 | 0.600 | 6.200 | 6.600 | -6 % |",
        "| 2 processes | 0.200 | 0.200 | 3.200 | 3.200 | +0 % |",
    ]
    assert ("all_reduce", 2, 2) in asked and ("step", 4, 1) in asked
    predictions = json.loads((tmp_path / "out.json").read_text())["predictions"]
    assert [step["devices"] for step in predictions[1]["steps"]] == [1, 1024]
    assert predictions[1]["work"]["pause_seconds"] == 0.3 / 1000
