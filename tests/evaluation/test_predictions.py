"""Answers in files: anybody's points and flows, scored like ours."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from rtn_jax import evaluation
from rtn_jax.coordinates import pixel_grid
from rtn_jax.evaluation.matchers import Transfer
from rtn_jax.evaluation.predictions import open_predictions, point_row, save_flow
from rtn_jax.flow_files import write_flow
from tests.benchmarks_small import SHAPES, dense_benchmark, keypoint_benchmark


def write_points(folder, benchmark, change=lambda rows: rows):
    rows = [json.loads(point_row(pair, pair.tgt_points + 1)) for pair in benchmark.pairs]
    folder.mkdir(exist_ok=True)
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in change(rows)))
    return folder


def write_flows(folder, benchmark):
    rng = np.random.default_rng(0)
    flows = {pair.id: rng.normal(0, 3, (*SHAPES[pair.src], 2)).astype(np.float32) for pair in benchmark.pairs}
    for pair in benchmark.pairs:
        save_flow(folder, pair, flows[pair.id])
    return flows


def test_points_come_back_bit_equal_in_any_order(tmp_path):
    benchmark = keypoint_benchmark()
    folder = write_points(tmp_path, benchmark, lambda rows: rows[::-1])
    transfers = open_predictions(folder, benchmark).matcher(benchmark)(benchmark.pairs)
    for pair, transfer in zip(benchmark.pairs, transfers, strict=True):
        np.testing.assert_array_equal(transfer.move(pair.src_points), pair.tgt_points + 1)


def test_pairs_may_be_named_by_their_images(tmp_path):
    benchmark = keypoint_benchmark()

    def without_ids(rows):
        return [{key: value for key, value in row.items() if key != "id"} for row in rows]

    found = open_predictions(write_points(tmp_path, benchmark, without_ids), benchmark)
    assert set(found.points) == {pair.id for pair in benchmark.pairs}


def test_no_answer_for_a_point_is_null(tmp_path):
    benchmark = keypoint_benchmark(1)
    row = json.loads(point_row(benchmark.pairs[0], np.array([[np.nan, 1], [2, 3], [np.inf, 5]])))
    assert row["tgt_points"] == [[None, 1.0], [2.0, 3.0], [None, 5.0]]
    row["tgt_points"][0] = None
    (tmp_path / "predictions.jsonl").write_text(json.dumps(row))
    points = open_predictions(tmp_path, benchmark).points[benchmark.pairs[0].id]
    assert np.isnan(points[0]).all()
    assert points[1].tolist() == [2, 3]


def test_flows_come_back_bit_equal(tmp_path):
    benchmark = dense_benchmark("flow")
    flows = write_flows(tmp_path, benchmark)
    write_flow(tmp_path / f"{benchmark.pairs[0].id}.npy", flows[benchmark.pairs[0].id])
    (tmp_path / f"{benchmark.pairs[0].id}.flo").unlink()
    transfers = open_predictions(tmp_path, benchmark).matcher(benchmark)(benchmark.pairs)
    for pair, transfer in zip(benchmark.pairs, transfers, strict=True):
        assert transfer.flow(SHAPES[pair.src]).tobytes() == flows[pair.id].tobytes()


def test_a_saved_answer_scores_like_the_matcher_that_gave_it(tmp_path):
    benchmark = dense_benchmark("flow")

    def matcher(pairs):
        return [Transfer(lambda p: p * 1.05 + np.sin(p[:, ::-1])) for _ in pairs]

    def keep(pair, transfer, _):
        save_flow(tmp_path, pair, transfer.flow(SHAPES[pair.src]))

    first = evaluation.result("m", benchmark, evaluation.answers("m", lambda _: matcher, benchmark, keep=keep))
    second = evaluation.evaluate("p", open_predictions(tmp_path, benchmark).matcher(benchmark), benchmark)
    assert first.metrics == second.metrics
    assert 0 < first.metrics["mean"] < 100


def test_a_dense_flow_answers_for_keypoints(tmp_path):
    benchmark = keypoint_benchmark()
    for pair in benchmark.pairs:
        grid = pixel_grid(SHAPES[pair.src], np.float64)
        save_flow(tmp_path, pair, (0.5 * grid + [2, -1]).astype(np.float32))  # linear: interpolation is exact
    transfers = open_predictions(tmp_path, benchmark).matcher(benchmark)(benchmark.pairs)
    for pair, transfer in zip(benchmark.pairs, transfers, strict=True):
        limit = np.array(SHAPES[pair.src][::-1]) - 1
        inside = (pair.src_points <= limit).all(-1)
        expected = 1.5 * pair.src_points + [2, -1]
        np.testing.assert_allclose(transfer.move(pair.src_points)[inside], expected[inside], atol=1e-4)


class TestAnotherSize:
    """A flow of another size than its image is rescaled, as TSS's own kit does."""

    def test_half_the_size_means_the_same(self, tmp_path):
        benchmark = dense_benchmark("flow")
        for pair in benchmark.pairs:
            height, width = SHAPES[pair.src]
            grid = pixel_grid((height // 2, width // 2), np.float64)
            save_flow(tmp_path, pair, (0.1 * grid + [1, -2]).astype(np.float32))
        for pair, transfer in zip(
            benchmark.pairs, open_predictions(tmp_path, benchmark).matcher(benchmark)(benchmark.pairs), strict=True
        ):
            flow = transfer.flow(SHAPES[pair.src])
            for x, y in ((10, 12), (21, 17)):  # x' = (x - 0.5) / 2 on the half-size grid, the vector doubled
                expected = 2 * (0.1 * (np.array([x, y]) - 0.5) / 2 + [1, -2])
                np.testing.assert_allclose(flow[y, x], expected, atol=1e-5)

    def test_both_images_squeezed_to_one_square(self, tmp_path):
        """The reverse flow tells what size the target had: positions are scaled, not vectors."""
        benchmark = dense_benchmark("flow")
        there, back = benchmark.pairs[0], benchmark.pairs[4]
        assert (there.src, there.tgt) == (back.tgt, back.src)
        both = benchmark.replace(pairs=(there, back))
        for pair in both.pairs:
            save_flow(tmp_path, pair, np.zeros((16, 16, 2), np.float32))  # nothing moves on the square
        flow = open_predictions(tmp_path, both).matcher(both)([there])[0].flow(SHAPES[there.src])
        (height, width), (tgt_height, tgt_width) = SHAPES[there.src], SHAPES[there.tgt]
        for x, y in ((0, 0), (47, 39), (20, 11)):
            expected = ((x + 0.5) * tgt_width / width - 0.5 - x, (y + 0.5) * tgt_height / height - 0.5 - y)
            np.testing.assert_allclose(flow[y, x], expected, atol=1e-4)

    def test_only_the_target_squeezed(self, tmp_path):
        """The source has its own size; that the target has not is known from the flow of the other direction."""
        benchmark = dense_benchmark("flow")
        there, back = benchmark.pairs[0], benchmark.pairs[4]
        both = benchmark.replace(pairs=(there, back))
        shape, tgt_shape = SHAPES[there.src], SHAPES[there.tgt]
        for pair in both.pairs:
            save_flow(tmp_path, pair, np.zeros((*shape, 2), np.float32))
        flow = open_predictions(tmp_path, both).matcher(both)([there])[0].flow(shape)
        for x, y in ((0, 0), (47, 39)):
            expected = ((x + 0.5) * tgt_shape[1] / shape[1] - 0.5 - x, (y + 0.5) * tgt_shape[0] / shape[0] - 0.5 - y)
            np.testing.assert_allclose(flow[y, x], expected, atol=1e-4)


def refused(folder, benchmark, message):
    with pytest.raises(ValueError) as error:
        open_predictions(folder, benchmark)
    assert re.search(message, str(error.value)), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message", "left"),
    [
        (lambda rows: rows[1:], "no answer for 'x/a-b' .*5 of 6 pairs", 1),
        (lambda rows: [*rows, rows[2]], "line 7: a second answer for 'x/c-a'", 1),
        (lambda rows: [*rows, rows[2], rows[2]], "a second answer for 'x/c-a'", 1),
        (lambda rows: [*rows, rows[0] | {"id": "z"}], "line 7: id: small has no pair 'z'", 0),
        (
            lambda rows: [rows[0] | {"tgt_points": [[1, 2]]}, *rows[1:]],
            "line 1: tgt_points of 'x/a-b': expected a list of 3 points",
            1,
        ),
        (lambda rows: [rows[0] | {"tgt_points": "no"}, *rows[1:]], "line 1: tgt_points of 'x/a-b'", 1),
        (lambda rows: [rows[0] | {"tgt_points": [["1", "2"]] * 3}, *rows[1:]], "as point 1, got .'1', '2'", 1),
        (lambda rows: [rows[0] | {"tgt_points": [[1, 2], [1, 2], [True, 1]]}, *rows[1:]], "as point 3", 1),
        (lambda rows: [rows[0] | {"tgt_points": [[10**400, 2]] * 3}, *rows[1:]], "too large", 1),
        (lambda rows: [rows[0] | {"src": "b", "tgt": "a"}, *rows[1:]], "line 1: src: expected 'a' as in the pair", 1),
        (lambda rows: [rows[0] | {"id": []}, *rows[1:]], "line 1: id: expected a text", 1),
        (lambda rows: [{"src": "a"}, *rows[1:]], "line 1: expected 'id', or 'src' and 'tgt'", 1),
        (lambda rows: ["words", *rows], "line 1: expected a JSON object", 0),
    ],
)
def test_bad_rows_are_named_and_left_out_on_request(tmp_path, change, message, left):
    benchmark = keypoint_benchmark()
    folder = write_points(tmp_path, benchmark, change)
    refused(folder, benchmark, message)
    found = open_predictions(folder, benchmark, skip_bad=True)
    assert len(found.missing) == left
    assert len(found.points) == 6 - left
    assert found.missing or found.ignored


def test_bad_flows_are_named_and_left_out_on_request(tmp_path):
    benchmark = dense_benchmark("flow")
    write_flows(tmp_path, benchmark)
    paths = [tmp_path / f"{pair.id}.flo" for pair in benchmark.pairs]
    cases = (
        (lambda: paths[0].unlink(), "for 'one/a_b/flow0'"),
        (lambda: paths[1].write_bytes(paths[1].read_bytes()[:-3]), str(paths[1])),
        (lambda: paths[2].write_bytes(b"PNG!" + paths[2].read_bytes()[4:]), str(paths[2])),
        (lambda: write_flow(paths[3].with_suffix(".npy"), np.zeros((4, 4, 2), np.float32)), "a second answer for"),
        (lambda: write_flow(tmp_path / "stray.flo", np.zeros((4, 4, 2), np.float32)), "stray.flo: belongs to no pair"),
    )
    for spoil, message in cases:
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        spoil()
        refused(tmp_path, benchmark, re.escape(message))
        if message != "stray.flo: belongs to no pair":
            assert len(open_predictions(tmp_path, benchmark, skip_bad=True).missing) == 1
        for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
            path.unlink()
        for path, content in before.items():
            path.write_bytes(content)


def test_points_and_flows_at_once_are_refused(tmp_path):
    benchmark = keypoint_benchmark()
    write_points(tmp_path, benchmark)
    write_flow(tmp_path / "x.flo", np.zeros((4, 4, 2), np.float32))
    refused(tmp_path, benchmark, "expected either predictions.jsonl or flows, found both")


def test_the_hash_is_of_the_answers(tmp_path):
    benchmark = keypoint_benchmark()
    first = open_predictions(write_points(tmp_path / "a", benchmark), benchmark).sha256()
    reversed_rows = write_points(tmp_path / "b", benchmark, lambda rows: rows[::-1])
    (reversed_rows / "notes.txt").write_text("not an answer")
    assert open_predictions(reversed_rows, benchmark).sha256() == first
    moved = write_points(tmp_path / "c", benchmark, lambda rows: [rows[0] | {"tgt_points": [[1, 2]] * 3}, *rows[1:]])
    assert open_predictions(moved, benchmark).sha256() != first


def test_wrong_folders(tmp_path):
    refused(tmp_path / "none", keypoint_benchmark(), "expected a folder, found none at")
    refused(tmp_path, keypoint_benchmark(), "no predictions.jsonl or flow in .* for 'x/a-b' .*0 of 6 pairs")
    with pytest.raises(ValueError, match=r"no answer in .* can be used"):
        open_predictions(tmp_path, keypoint_benchmark(), skip_bad=True)
    refused(write_points(tmp_path, keypoint_benchmark()), dense_benchmark("flow"), "needs flows .* not keypoints")
