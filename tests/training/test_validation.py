"""What a run is measured on: which pairs, which figures, and that nothing it meets ends the run by surprise."""

from __future__ import annotations

import functools
import json
import math

import jax
import numpy as np
import pytest

from rtn_jax import evaluation
from rtn_jax.data.pairs import Pair
from rtn_jax.data.tss import tss
from rtn_jax.evaluation.matchers import BATCH
from rtn_jax.flow_files import write_flow
from rtn_jax.images import save_image
from rtn_jax.model import match
from rtn_jax.params import Params
from rtn_jax.training import validation
from rtn_jax.training.validation import Validation, field_numbers, headline, validate, validation_sets
from tests.benchmarks_small import dense_benchmark, keypoint_benchmark
from tests.networks import ONE_LEVEL, moving_params, photos, small_config

SHAPE = (32, 32)
FIELD = ("mean_axx", "mean_axy", "mean_ayx", "mean_ayy", "mean_determinant", "folded")


def sets(*val, pairs=0):
    return validation_sets(val, pairs=pairs, shape=SHAPE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos, a list of seven pairs of them, a table of two, and a small TSS."""
    place = tmp_path_factory.mktemp("data")
    (place / "zoo").mkdir()
    pictures = photos(np.random.default_rng(0), 20, 18, 24)
    for number, picture in enumerate(pictures):
        save_image(place / "zoo" / f"{number:02}.png", picture)
    lines = [
        {"src": f"{n:02}.png", "tgt": f"{n + 1:02}.png", "src_points": [[n, 3], [9, 9]], "tgt_points": [[2, n], [8, 7]]}
        for n in range(7)
    ]
    (place / "zoo" / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (place / "zoo" / "two.csv").write_text("image,class\n03.png,cat\n11.png,cat\n")
    for subset in ("FG3DCar", "JODS", "PASCAL"):
        for pair in ("a", "b"):
            _tss_pair(place / "TSS_CVPR2016" / subset / pair)
    return place


def _tss_pair(place):
    place.mkdir(parents=True)
    mask = np.zeros((12, 16, 3), np.uint8)
    mask[3:9, 4:12] = 255
    for k in (1, 2):
        save_image(place / f"image{k}.png", photos(np.random.default_rng(k), 1, 12, 16)[0])
        save_image(place / f"mask{k}.png", mask)
        write_flow(place / f"flow{k}.flo", np.where(mask[..., :2] > 0, 1.5, 1e10).astype(np.float32))
    (place / "flip_gt.txt").write_text("0")


class TestSets:
    def test_each_value_gives_its_set(self, folder):
        zoo = folder / "zoo"
        found = sets("builtin", f"tss:{folder}", str(zoo / "list.jsonl"), str(zoo / "two.csv"), str(zoo))
        assert [one.key for one in found] == ["held_out", "tss", "list", "two", "zoo"]
        assert [one.benchmark.name for one in found] == [
            "held-out warps",
            "TSS",
            "list",
            f"warps of 2 of 2 photos of {zoo / 'two.csv'}",
            f"warps of 16 of 20 photos of {zoo}",
        ]
        assert [len(one.benchmark.pairs) for one in found] == [2 * 8, 12, 7, 2 * 8, 16 * 8]
        held_out, dense, listed, table, whole = (one.benchmark for one in found)
        assert {pair.tgt for pair in held_out.pairs} == {"chelsea", "motorcycle"}
        assert {pair.tgt for pair in table.pairs} == {"03.png", "11.png"}
        assert [pair.id for pair in dense.pairs] == [pair.id for pair in tss(folder).pairs]
        assert [pair.src for pair in listed.pairs] == [f"{n:02}.png" for n in range(7)]
        evenly = [round(n * 19 / 15) for n in range(16)]
        assert list(dict.fromkeys(pair.tgt for pair in whole.pairs)) == [f"{n:02}.png" for n in evenly]
        assert held_out.files.shape("chelsea") == whole.files.shape("00.png") == SHAPE

    def test_warps_are_those_of_every_run(self, folder):
        (first,), (again,) = (sets(str(folder / "zoo" / "two.csv")) for _ in range(2))
        for one, other in zip(first.benchmark.pairs, again.benchmark.pairs, strict=True):
            np.testing.assert_array_equal(one.tgt_points, other.tgt_points)
            images = [one_set.benchmark.files.image(one.src) for one_set in (first, again)]
            np.testing.assert_array_equal(*images)

    def test_names_are_unique_and_fit_for_curves(self, folder, tmp_path, monkeypatch):
        for name in ("my zoo (old)", "..."):
            (tmp_path / name).mkdir()
            save_image(tmp_path / name / "a.png", photos(np.random.default_rng(0))[0])
        monkeypatch.chdir(tmp_path / "my zoo (old)")
        listed = str(folder / "zoo" / "list.jsonl")
        (tmp_path / "list_2.jsonl").write_text((folder / "zoo" / "list.jsonl").read_text())
        for n in range(8):
            save_image(tmp_path / f"{n:02}.png", photos(np.random.default_rng(0), 1, 18, 24)[0])
        found = sets(listed, str(tmp_path / "list_2.jsonl"), listed, listed, ".", str(tmp_path / "..."), pairs=1)
        assert [one.key for one in found] == ["list", "list_2", "list_3", "list_4", "my_zoo_old", "val"]

    @pytest.mark.parametrize(
        ("pairs", "chosen"), [(0, range(7)), (7, range(7)), (8, range(7)), (3, (0, 3, 6)), (4, (0, 2, 4, 6)), (1, (0,))]
    )
    def test_a_part_is_evenly_spread_and_says_so(self, folder, pairs, chosen):
        (one,) = sets(str(folder / "zoo" / "list.jsonl"), pairs=pairs)
        assert [pair.src for pair in one.benchmark.pairs] == [f"{n:02}.png" for n in chosen]
        assert one.benchmark.name == ("list" if len(chosen) == 7 else f"list ({pairs} of 7 pairs)")

    def test_warps_are_cut_too(self, folder):
        (one,) = sets(str(folder / "zoo" / "two.csv"), pairs=3)
        assert [pair.id for pair in one.benchmark.pairs] == ["03.png warp 0", "11.png warp 0", "11.png warp 7"]

    @pytest.mark.parametrize("total", [1, 2, 5, 100, 997])
    def test_no_pair_is_chosen_twice(self, total):
        for count in {1, 2, total // 2 + 1, total - 1, total} - {0}:
            places = validation._spread(total, count)
            assert len(set(places)) == min(count, total)
            assert places == sorted(places)
            assert np.diff(places).max(initial=1) - np.diff(places).min(initial=total) <= 1

    def test_the_validation_split_is_taken_where_there_is_one(self, monkeypatch):
        asked = []
        monkeypatch.setattr(
            validation,
            "read_benchmark",
            lambda name, folder, split: asked.append((name, folder, split)) or keypoint_benchmark(),
        )
        found = sets("pf_pascal:here", "pf_willow:~/over:there", "pf_pascal:here")
        assert asked == [
            ("pf_pascal", "here", "val"),
            ("pf_willow", "~/over:there", None),
            ("pf_pascal", "here", "val"),
        ]
        assert [one.key for one in found] == ["pf_pascal", "pf_willow", "pf_pascal_2"]


class TestMistakes:
    """Each is one line that begins with the flag's name."""

    def refused(self, val, pairs=0):
        with pytest.raises(ValueError) as error:
            sets(val, pairs=pairs)
        message = str(error.value)
        assert message.startswith("val: ") and "\n" not in message
        return message.removeprefix("val: ")

    def test_what_is_nothing_of_the_kind(self, folder):
        expected = "expected builtin, NAME:FOLDER (NAME: pf_willow, pf_pascal, tss, caltech101, spair71k), "
        for wrong in ("nowhere", "pf-willow:/data", "tss :x"):
            message = self.refused(wrong)
            assert message.startswith(expected) and message.endswith(f"got {wrong!r}, which is not there")
        assert self.refused(str(folder / "zoo" / "00.png")).endswith("00.png'")

    def test_a_data_set_that_is_not_there(self, tmp_path):
        assert self.refused("tss") == "expected tss:FOLDER with the folder that TSS is in, got 'tss'"
        assert self.refused("tss:") == "expected tss:FOLDER with the folder that TSS is in, got 'tss:'"
        assert self.refused(f"tss:{tmp_path}").startswith("TSS needs the folder 'TSS_CVPR2016', not found: ")

    def test_a_folder_without_photos(self, tmp_path):
        assert self.refused(str(tmp_path)).startswith("expected images (")

    def test_a_list_that_is_not_as_described(self, folder, tmp_path):
        bare = tmp_path / "bare.jsonl"
        save_image(tmp_path / "a.png", photos(np.random.default_rng(0))[0])
        bare.write_text('{"src": "a.png", "tgt": "a.png"}\n')
        assert self.refused(str(bare)) == f"{bare} line 1: expected src_points and tgt_points, got neither"
        assert self.refused(str(tmp_path / "none.jsonl")).startswith(f"{tmp_path / 'none.jsonl'}: cannot be read")
        assert self.refused(str(tmp_path / "none.csv")).startswith(f"{tmp_path / 'none.csv'}: cannot be read")

    @pytest.mark.parametrize("kind", ["list", "warps", "flow"])
    def test_a_damaged_file_is_found_at_the_start(self, tmp_path, kind):
        save_image(tmp_path / "a.png", photos(np.random.default_rng(0), 1, 60, 60)[0])
        whole = (tmp_path / "a.png").read_bytes()
        (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])  # the header is whole
        row = {"src": "a.png", "tgt": "b.png", "src_points": [[1, 2]], "tgt_points": [[1, 2]]}
        (tmp_path / "list.jsonl").write_text(json.dumps(row) + "\n")
        for subset in ("FG3DCar", "JODS"):
            _tss_pair(tmp_path / "tss" / "TSS_CVPR2016" / subset / "a")
        broken = tmp_path / "tss" / "TSS_CVPR2016" / "JODS" / "a" / "flow2.flo"
        broken.write_bytes(broken.read_bytes()[:-4])
        given = {"list": tmp_path / "list.jsonl", "warps": tmp_path, "flow": f"tss:{tmp_path / 'tss'}"}[kind]
        assert str(broken if kind == "flow" else tmp_path / "b.png") in self.refused(str(given))

    def test_a_negative_number_of_pairs(self):
        assert self.refused("builtin", pairs=-1) == "expected a number of pairs, or 0 for all, got -1"


class TestHeadline:
    @pytest.mark.parametrize(
        ("alphas", "kinds", "name"),
        [
            ((0.05, 0.1, 0.15), ("bbox-kp", "img"), "PCK@0.10 (bbox-kp)"),
            ((0.1,), ("img", "bbox-kp"), "PCK@0.10 (img)"),
            ((0.3, 0.02, 0.05), ("bbox",), "PCK@0.05 (bbox)"),
            ((0.2, 0.01), ("img",), "PCK@0.20 (img)"),
        ],
    )
    def test_of_keypoints(self, alphas, kinds, name):
        benchmark = keypoint_benchmark(alphas=alphas, thresholds=kinds)
        assert headline(benchmark) == name
        assert name in evaluation.evaluate("identity", evaluation.identity(benchmark.files), benchmark).metrics

    def test_of_flows_and_masks(self):
        flow = dense_benchmark("flow").replace(subsets=("one", "two", "three"))
        assert headline(flow) == "mean"
        assert headline(flow.replace(pairs=flow.pairs[2:5])) == "two", "no mean of all subsets"
        assert headline(dense_benchmark("masks")) == "LT-ACC"


@functools.cache
def opened(name):
    benchmark = keypoint_benchmark(5, alphas=(0.3, 0.5, 0.7)) if name == "keypoints" else dense_benchmark(name)
    return Validation(name, benchmark, headline(benchmark))


@pytest.fixture(scope="module")
def params():
    """A network whose fields fold in places."""
    return moving_params(small_config(levels=ONE_LEVEL), scale=0.3)


class TestMeasuring:
    @pytest.mark.parametrize("name", ["keypoints", "flow", "masks"])
    def test_figures_are_those_of_an_evaluation(self, params, name):
        one = opened(name)
        matcher = evaluation.network(evaluation.ImageFeatures(params, one.benchmark.files))
        expected = evaluation.evaluate("network", matcher, one.benchmark).metrics
        found = validate(params, one)
        assert next(iter(found)) == one.headline
        assert {figure: found[figure] for figure in expected} == expected
        assert set(list(found)[-7:]) == {*FIELD, "confidence"}
        assert len(found) == len(expected) + 7
        assert expected[one.headline] not in (0, 100)

    def test_the_features_alone(self, params):
        one = opened("keypoints")
        features = evaluation.ImageFeatures(params, one.benchmark.files)
        expected = evaluation.evaluate("nearest", evaluation.nearest(features), one.benchmark).metrics
        found = validate(params, one, matcher="nearest")
        assert {figure: found[figure] for figure in expected} == expected
        assert set(found) == {*expected, "confidence"}, "there is no field to tell of"
        assert found != validate(params, one)

    def test_numbers_of_the_field_are_means_over_the_pairs(self, params):
        """Five pairs: the batch that is filled up with copies of the last must not count them."""
        one = opened("keypoints")
        features = evaluation.ImageFeatures(params, one.benchmark.files)
        matrices, folds, confidences = [], [], []
        for pair in one.benchmark.pairs:
            copies = (features.batch([name] * BATCH)[0] for name in (pair.src, pair.tgt))  # a program that is there
            out = match(params, *copies)
            cells = [np.asarray(out.affine, np.float64)[0, y, x, :, :2] for y in range(8) for x in range(8)]
            matrices.append(cells)
            folds.append(sum(a[0, 0] * a[1, 1] - a[0, 1] * a[1, 0] <= 0 for a in cells) / len(cells))
            surest = np.sort(np.asarray(out.confidence, np.float64)[0].ravel())
            confidences.append(surest[3 * surest.size // 4 :].mean())
        found = validate(params, one)
        mean = np.mean(matrices, axis=(0, 1))
        for i, row in enumerate("xy"):
            for j, column in enumerate("xy"):
                assert found[f"mean_a{row}{column}"] == pytest.approx(mean[i, j], abs=1e-5)
        assert found["mean_determinant"] == pytest.approx(np.mean(np.linalg.det(matrices)), abs=1e-4)
        assert found["folded"] == pytest.approx(np.mean(folds), abs=1e-6)
        assert found["confidence"] == pytest.approx(np.mean(confidences), abs=1e-5)
        assert 0.01 < found["folded"] < 0.99 and abs(mean[0, 1] - mean[1, 0]) > 0.01 and np.std(folds) > 0

    def test_the_same_to_the_bit_again_and_on_more_devices(self, params):
        one, device = opened("keypoints"), jax.devices()[0]
        first = validate(params, one)
        assert validate(params, one) == first
        assert validate(params, one, devices=[device, device]) == first
        assert validate(jax.tree.map(np.asarray, params), one) == first

    def test_it_does_not_matter_which_device_is_done_first(self, params, monkeypatch):
        """Numbers whose sum depends on their order."""
        one, answers = opened("keypoints"), evaluation.answers
        numbers, given = iter([1e17, 3.0, -1e17, 1.0, 1.0]), {}

        def of_field(field):
            if field.tobytes() not in given:
                given[field.tobytes()] = next(numbers)
            return {"x": given[field.tobytes()]}

        monkeypatch.setattr(validation, "field_numbers", of_field)
        first = validate(params, one)
        assert (len(given), first["x"]) == (5, 0.4)

        def backwards(*args, keep, **options):
            kept = []
            done = answers(*args, keep=lambda *given: kept.append(given), **options)
            for given in reversed(kept):
                keep(*given)
            return done

        monkeypatch.setattr(evaluation, "answers", backwards)
        assert validate(params, one) == first

    def test_the_matcher_tells_every_pair_its_own_field(self, params):
        pairs = opened("keypoints").benchmark.pairs[:3]
        features = evaluation.ImageFeatures(params, opened("keypoints").benchmark.files)
        images = [[*(getattr(pair, side) for pair in pairs), getattr(pairs[-1], side)] for side in ("src", "tgt")]
        out = match(params, *(features.batch(names)[0] for names in images))
        for transfer, field in zip(evaluation.network(features)(pairs), np.asarray(out.affine), strict=False):
            np.testing.assert_array_equal(transfer.affine, field)
        assert np.abs(np.diff(np.asarray(out.affine), axis=0)).max() > 0.01

    def test_every_device_is_used(self, params, monkeypatch):
        used = []
        put = jax.device_put
        monkeypatch.setattr(jax, "device_put", lambda tree, device: used.append(device) or put(tree, device))
        device = jax.devices()[0]
        validate(params, opened("keypoints"), devices=[device, device])
        assert used == [device, device]

    @pytest.mark.parametrize(
        ("name", "bad"), [("keypoints", np.nan), ("flow", np.nan), ("masks", np.nan), ("flow", np.inf), ("masks", 1e37)]
    )
    def test_a_network_that_has_diverged_is_measured(self, params, name, bad):
        weights = jax.tree.map(np.array, params.weights)
        weights["geometry"]["conv10"]["bias"][:] = bad
        one = opened(name)
        found = validate(Params(weights, params.config), one, devices=jax.devices()[:1] * 2)  # in threads
        assert next(iter(found)) == one.headline
        assert set(FIELD) < set(found)
        if name != "masks":  # a background that is pulled onto a background is right
            assert found[one.headline] == 0
        if np.isnan(bad):
            assert all(math.isnan(found[number]) for number in FIELD)

    def test_a_headline_that_no_pair_has_is_nan(self, params, monkeypatch):
        monkeypatch.setattr(evaluation.Result, "metrics", {"other": 1.0})
        found = validate(params, opened("masks"))
        assert list(found)[:2] == ["LT-ACC", "other"]
        assert math.isnan(found["LT-ACC"])

    def test_progress_is_told_and_may_end_it(self, params):
        one, told = opened("keypoints"), []
        validate(params, one, progress=told.append)
        assert told == [0, 4, 5]

        def enough(done):
            if done:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            validate(params, one, progress=enough)

    def test_a_file_that_is_gone_is_named(self, params):
        one = opened("keypoints")
        points = np.array([[1.0, 1.0], [2.0, 2.0]])
        lost = Pair(id="lost", src="a", tgt="gone", src_points=points, tgt_points=points)
        benchmark = one.benchmark.replace(pairs=(*one.benchmark.pairs, lost))
        with pytest.raises(ValueError, match="gone"):
            validate(params, Validation("x", benchmark, one.headline))


def test_a_field_that_is_not_known_has_no_folds():
    """A determinant that is not a number is not above zero either."""
    field = np.zeros((3, 4, 2, 3), np.float32)
    field[..., :2] = np.eye(2)
    assert field_numbers(field) == {
        "mean_axx": 1,
        "mean_axy": 0,
        "mean_ayx": 0,
        "mean_ayy": 1,
        "mean_determinant": 1,
        "folded": 0,
    }
    field[0, 0, 0, 1], field[1, 2, 1, 1] = 12, -1
    numbers = field_numbers(field)
    assert (numbers["mean_axy"], numbers["mean_ayx"]) == (1, 0)
    assert numbers["folded"] == pytest.approx(1 / 12)
    field[2, 3, 0, 0] = np.nan
    numbers = field_numbers(field)
    assert math.isnan(numbers["folded"]) and math.isnan(numbers["mean_determinant"])
