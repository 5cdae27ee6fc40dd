"""The report as a page: what it says, and that a real browser shows it."""

from __future__ import annotations

import json
import re
from html import escape
from html.parser import HTMLParser

import numpy as np
import pytest

from rtn_jax import evaluation
from rtn_jax.coordinates import resize_points
from rtn_jax.data.files import ArrayFiles
from rtn_jax.data.pairs import Benchmark, Pair
from rtn_jax.evaluation import Answer, Transfer
from rtn_jax.images import read_image
from rtn_jax.metrics import pck_name
from rtn_jax.reporting import charts
from rtn_jax.reporting.examples import LONGEST, best_and_worst, draw_pair
from rtn_jax.reporting.html import html_report
from rtn_jax.reporting.record import make_record
from rtn_jax.reporting.sections import pck_curve
from tests import chromium
from tests.benchmarks_small import TruthFiles
from tests.networks import photos

NASTY = "<img src=x onerror=alert(1)> & \"b\" 'c'/ä"

# Put into a copy of the report inside a frame: a window is never narrower than 500 pixels, a frame can be.
MEASURE = """<script>addEventListener('load', () => {
  const scrolled = [...document.querySelectorAll('.scroll *, .unseen')];
  const beyond = e => e.getBoundingClientRect().right > innerWidth + 1 && !scrolled.includes(e);
  parent.document.documentElement.dataset.measured = JSON.stringify({
    html: document.documentElement.outerHTML,
    width: innerWidth,
    scroll: document.documentElement.scrollWidth,
    images: [...document.images].map(i => [i.naturalWidth, i.naturalHeight]),
    requests: performance.getEntriesByType('resource').map(e => e.name.slice(0, 11)),
    beyond: [...document.querySelectorAll('body *')].filter(beyond).map(e => e.outerHTML.slice(0, 99)),
  });
});</script>"""


def images(rng, count):
    return {f"{i}.png": photos(rng, 1, *rng.integers(40, 120, 2))[0] for i in range(count)}


def keypoint_benchmark(count=12, **changes):
    rng = np.random.default_rng(1)
    files = images(rng, 4)
    names = ["cat", "dog", NASTY]
    pairs = []
    for i in range(count):
        src, tgt, n = f"{i % 4}.png", f"{(i + 1) % 4}.png", 4 + i % 3
        src_points, tgt_points = rng.uniform(0, 39, (2, n, 2))
        pairs.append(
            Pair(
                id=f"{names[i % 3]}/{i}",
                src=src,
                tgt=tgt,
                category=names[i % 3],
                src_points=src_points,
                tgt_points=tgt_points,
                leaked=i % 4 == 0,
            )
        )
    settings = {"thresholds": ("bbox-kp",), "left_out": ("list.csv row 7: <b> missing",)} | changes
    return Benchmark(name="PF-WILLOW", pairs=tuple(pairs), files=ArrayFiles(files), **settings)


def flow_benchmark():
    rng = np.random.default_rng(2)
    files = TruthFiles(images(rng, 4))
    pairs = []
    for i, subset in enumerate(["FG3DCar", "FG3DCar", "JODS", "JODS", "PASCAL", "PASCAL"]):
        src = f"{i % 4}.png"
        pairs.append(
            Pair(
                id=f"{subset}/{i}/flow1",
                src=src,
                tgt=f"{(i + 1) % 4}.png",
                category="car",
                subset=subset,
                has_flow=True,
                mirrored=i == 5,
            )
        )
        files.flows[pairs[-1].id] = rng.normal(0, 6, (*files.shape(src), 2)).astype(np.float32)
    return Benchmark(name="TSS", pairs=tuple(pairs), files=files, protocol="flow")


def mask_benchmark():
    rng = np.random.default_rng(3)
    files = TruthFiles(images(rng, 4))
    for name, image in files.images.items():
        files.masks[name] = np.zeros(image.shape[:2], bool)
        files.masks[name][10:30, 5:30] = True
    pairs = tuple(
        Pair(id=f"{i}", src=f"{i % 4}.png", tgt=f"{(i + 1) % 4}.png", category="ab"[i % 2], has_masks=True)
        for i in range(5)
    )
    return Benchmark(name="Caltech-101", pairs=pairs, files=files, protocol="masks")


def shaken(benchmark):
    """A matcher that is better than leaving everything where it is."""
    shape, rng = benchmark.files.shape, np.random.default_rng(4)

    def answer(pair):
        if pair.tgt_points is not None:
            moved = pair.tgt_points + rng.normal(0, 3, pair.tgt_points.shape)
            return Transfer(lambda _: moved)
        if pair.has_flow:
            flow = (benchmark.files.flow(pair.id) + rng.normal(0, 3)).astype(np.float32)
            return Transfer(lambda points: points, given_flow=lambda: flow)
        return Transfer(lambda points: resize_points(points, shape(pair.src), shape(pair.tgt)) + 2)

    return lambda pairs: [answer(pair) for pair in pairs]


def report_of(benchmark, matcher="runs/<vgg>", **extra):
    results = [
        evaluation.evaluate("identity", evaluation.identity(benchmark.files), benchmark),
        evaluation.evaluate(matcher, shaken(benchmark), benchmark),
    ]
    record = make_record(benchmark, results, 1.5) | {
        "ckpt": matcher,
        "data": "d" * 64,
        "weights": "e" * 64,
        "config": {"radius": 4},
        "versions": {"rtn_jax": "9.8.7", "jax": "0.10"},
        "options": {"ckpt": matcher, "dataset": "pf_willow", "split": None, "alphas": None, "mirror_aware": False},
        **extra,
    }
    return html_report(record, benchmark, results), results, record


BENCHMARKS = {"keypoints": keypoint_benchmark, "flow": flow_benchmark, "masks": mask_benchmark}


@pytest.fixture(scope="module")
def reports():
    return {name: (make(), *report_of(make())) for name, make in BENCHMARKS.items()}


class Parsed(HTMLParser):
    """Tables as rows of cells, and everything else that is asked about."""

    def __init__(self, page):
        super().__init__()
        self.tables, self.elements, self.words, self.cell = [], [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = []
        elif tag == "small" and self.cell:
            self.cell.append(" ")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][-1].append(" ".join("".join(self.cell).split()))
            self.cell = None

    def handle_data(self, data):
        self.words.append(data)
        if self.cell is not None:
            self.cell.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


# What the page says


def test_the_headline_table_has_floors_the_matcher_and_published_rows(reports):
    _, page, results, record = reports["keypoints"]
    head, *rows = Parsed(page).tables[0]
    names = [pck_name(alpha, "bbox-kp") for alpha in (0.05, 0.10, 0.15)]
    assert head == ["per cent", *names]
    labels = [row[0] for row in rows]
    assert labels[:2] == ["identity nothing moves", "runs/<vgg>"]
    assert labels[2:] == ["as published", "SemanticGLU-Net", "HPF", "WarpC-SemanticGLU-Net", "SCOT"]
    for result, row in zip(results, rows, strict=False):
        for name, cell in zip(names, row[1:], strict=True):
            low, high = result.intervals[name]
            assert cell == f"{result.metrics[name]:.1f} [{low:.1f}, {high:.1f}]"
    assert rows[4][1:] == ["–", "74.4", "–"]
    assert "Here 12 were measured" in page
    assert "on all 900 pairs" in page
    assert record["matcher"] == "runs/<vgg>"


@pytest.mark.parametrize("options", [{"dataset": "json"}, {"split": "val"}])
def test_published_figures_stand_beside_their_own_pairs_only(options):
    text = Parsed(report_of(keypoint_benchmark(), options=options)[0]).text
    assert "HPF" not in text
    assert "ublished figures" not in text


def test_another_threshold_has_no_published_rows():
    text = Parsed(report_of(keypoint_benchmark(thresholds=("img",)))[0]).text
    assert "HPF" not in text
    assert "ublished figures" not in text


def test_two_thresholds_have_a_table_each():
    tables = Parsed(report_of(keypoint_benchmark(thresholds=("img", "bbox-kp"), alphas=(0.1, 0.2)))[0]).tables
    assert tables[0][0] == ["per cent", "PCK@0.10 (img)", "PCK@0.20 (img)"]
    assert tables[1][0] == ["per cent", "PCK@0.10 (bbox-kp)", "PCK@0.20 (bbox-kp)"]


def test_the_other_figures_are_in_a_table_of_their_own(reports):
    _, page, results, _ = reports["keypoints"]
    head, *rows = Parsed(page).tables[-1]
    assert head == ["per cent", "pairs", "identity", "runs/<vgg>"]
    rest = results[-1].figures[3:]
    assert [row[:2] for row in rows] == [[figure.name, str(figure.pairs)] for figure in rest]
    assert {figure.pairs for figure in rest} == {9, 12}  # leak-free, per point
    for row in rows:
        assert row[3].startswith(f"{results[-1].metrics[row[0]]:.1f} [")


def test_class_bars_are_as_long_as_their_figures(reports):
    benchmark, page, results, _ = reports["keypoints"]
    (_, *rows, axis) = Parsed(page).tables[1]
    by_hand = []
    for result in results:
        shares = {}
        for pair, given in zip(benchmark.pairs, result.answers, strict=True):
            limit = 0.1 * np.ptp(pair.tgt_points, axis=0).max()
            correct = [np.hypot(*(p - t)) <= limit for p, t in zip(given.points, pair.tgt_points, strict=True)]
            shares.setdefault(pair.category, []).append(100 * np.mean(correct))
        by_hand.append({name: np.mean(values) for name, values in shares.items()})
    expected = sorted(by_hand[1], key=lambda name: -by_hand[1][name])
    assert [row[0] for row in rows] == [f"{' '.join(name.split())} 4" for name in expected]
    top = charts.axis_top(max(value for found in by_hand for value in found.values()))
    assert axis[1] == "".join(f"{top * i / 4:g}" for i in range(5))
    drawn = [(a["class"], float(a["width"].rstrip("%"))) for a in Parsed(page).of("rect")]
    for i, name in enumerate(expected):
        assert rows[i][2:] == [f"{by_hand[k][name]:.1f}" for k in (1, 0)]
        (matcher, own), (floor, other) = drawn[2 * i : 2 * i + 2]
        assert (matcher, floor) == ("m0", "m1")
        np.testing.assert_allclose([own, other], [100 * by_hand[k][name] / top for k in (1, 0)], atol=1e-3)


def test_the_curve_goes_through_the_figures(reports):
    benchmark, page, results, _ = reports["keypoints"]
    lines = [
        np.array([[float(v) for v in p.split(",")] for p in a["points"].split()]) for a in Parsed(page).of("polyline")
    ]
    assert len(lines) == 2
    for line, result in zip(lines, results, strict=True):
        assert (np.diff(line[:, 1]) <= 0).all()  # downwards is greater
        assert (line[0, 0], line[-1, 0]) == (0, 1000)
        for alpha in benchmark.alphas:
            at = line[np.argmin(abs(line[:, 0] - alpha / 0.3 * 1000)), 1]
            assert abs(100 - at / 10 - result.metrics[pck_name(alpha, "bbox-kp")]) < 0.01


def test_flow_has_bars_by_subset_and_both_tables(reports):
    _, page, results, _ = reports["flow"]
    headline, bars, rest = Parsed(page).tables
    assert headline[0] == ["per cent", "FG3DCar", "JODS", "PASCAL", "mean"]
    assert headline[-1] == ["WarpC-SemanticGLU-Net", "97.1", "84.7", "79.7", "87.2"]
    assert [row[0] for row in bars[1:-1]] == [figure.name for figure in results[-1].figures]
    assert bars[4][2] == f"{results[-1].metrics['mean']:.1f}"
    assert rest[1][:2] == ["FG3DCar (without mirrored pairs)", "2"]
    assert "6 flow fields." in page
    assert "Mean of the subsets: " in page


def test_masks_have_bars_of_the_three_figures_and_of_the_classes(reports):
    _, page, results, _ = reports["masks"]
    headline, bars, classes = Parsed(page).tables
    assert headline[0] == ["per cent", "LT-ACC", "IoU", "LOC-ERR lower is better"]
    assert [row[2] for row in bars[1:-1]] == [f"{value:.1f}" for value in results[-1].metrics.values()]
    assert {row[0] for row in classes[1:-1]} == {"a 3", "b 2"}


def test_a_floor_without_a_figure_leaves_its_cell_empty():
    benchmark = mask_benchmark()
    away = evaluation.evaluate(
        "identity", lambda pairs: [Transfer(lambda points: points + 1e4) for _ in pairs], benchmark
    )
    own = evaluation.evaluate("own", shaken(benchmark), benchmark)
    page = html_report(make_record(benchmark, [away, own], 1.0), benchmark, [away, own])
    assert Parsed(page).tables[0][1][-1] == "–"


def test_a_floor_alone_is_a_report():
    benchmark = keypoint_benchmark(count=1)
    result = evaluation.evaluate("identity", evaluation.identity(benchmark.files), benchmark)
    page = html_report(make_record(benchmark, [result], 1.0), benchmark, [result])
    assert "Best" in page
    assert ">Worst<" not in page
    assert "By class" not in page


def test_what_was_left_out_and_how_it_was_made_are_told(reports):
    _, page, *_ = reports["keypoints"]
    text = Parsed(page).text
    assert "12 pairs, 1 left out." in text
    assert "list.csv row 7: <b> missing" in text
    for word in ("d" * 64, "e" * 64, "rtn_jax 9.8.7", "1.5 s", '{"radius": 4}', "ckpt runs/<vgg>, dataset pf_willow"):
        assert word in text
    assert "mirror image" not in text
    assert "against its mirror image" in report_of(keypoint_benchmark(), mirror_aware=True)[0]


def test_many_lines_and_classes_are_folded_away():
    benchmark = keypoint_benchmark(count=40, left_out=tuple(f"row {i}: gone" for i in range(11)))
    pairs = tuple(Pair(**{**vars(pair), "category": f"class {i}"}) for i, pair in enumerate(benchmark.pairs))
    text = Parsed(report_of(benchmark.replace(pairs=pairs))[0])
    assert len(text.of("details")) == 2
    assert "40 classes" in text.text
    assert "all 11" in text.text


def test_names_are_words_and_never_markup(reports):
    for _, page, *_ in reports.values():
        parsed = Parsed(page)
        assert not parsed.of("script")
        assert not parsed.of("b") or all(not a for a in parsed.of("b"))
        assert all(a["src"].startswith("data:image/jpeg;base64,") for a in parsed.of("img"))
    assert NASTY in " ".join(Parsed(reports["keypoints"][1]).words)


def test_the_page_asks_for_nothing(reports):
    for _, page, *_ in reports.values():
        parsed = Parsed(page)
        (policy,) = [a["content"] for a in parsed.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "http" not in policy
        for _, attributes in parsed.elements:
            assert not {"href", "srcset", "xlink:href", "data", "action"} & attributes.keys()
        assert not re.search(r"url\(|@import|https?:", page)
        assert not {"link", "iframe", "object", "base", "form"} & {name for name, _ in parsed.elements}


# Parts


def test_pck_curve_is_the_mean_of_the_pairs_shares(rng):
    errors = [rng.uniform(0, 0.5, n) for n in (1, 3, 8)]
    errors[1][0] = np.inf
    alphas = np.array([0.0, errors[0][0], 0.1, 0.3, 0.5])
    expected = [100 * np.mean([np.mean([e <= alpha for e in error]) for error in errors]) for alpha in alphas]
    np.testing.assert_allclose(pck_curve(errors, alphas), expected, atol=1e-9)


def test_the_axis_holds_the_largest_value():
    assert [charts.axis_top(v) for v in (0, 20, 20.1, 99, 100, 100.1, 250)] == [20, 20, 40, 100, 100, 200, 300]
    assert [round(charts.x_step(v), 9) for v in (0.3, 0.35, 0.36, 1.0)] == [0.05, 0.05, 0.1, 0.2]


def test_best_and_worst_are_the_ends_of_the_ranking(reports):
    benchmark, _, results, _ = reports["keypoints"]
    keys = []
    for i, (pair, given) in enumerate(zip(benchmark.pairs, results[-1].answers, strict=True)):
        length = np.ptp(pair.tgt_points, axis=0).max()
        errors = np.hypot(*(given.points - pair.tgt_points).T) / length
        keys.append((-np.mean(errors <= 0.05), np.mean(np.minimum(errors, 1)), i))
    ranking = [key[2] for key in sorted(keys)]
    best, worst = best_and_worst(benchmark, results[-1].answers)
    assert best == ranking[:4]
    assert worst == ranking[:-5:-1]


def test_equal_pairs_come_in_the_benchmarks_order_and_none_twice():
    benchmark = mask_benchmark()
    answers = [Answer(values={"LT-ACC": 0.5, "IoU": 0.1, "LOC-ERR": np.nan})] * 5
    assert best_and_worst(benchmark, answers) == ([0, 1, 2], [3, 4])


def test_pictures_are_of_modest_size_whatever_the_images_are():
    for shapes in [((40, 400), (400, 40)), ((30, 300), (20, 200)), ((500, 90), (300, 60)), ((50, 50), (60, 60))]:
        files = ArrayFiles({f"{i}": np.full((*shape, 3), 99, np.uint8) for i, shape in enumerate(shapes)})
        points = np.array([[1.0, 2.0], [5.0, 3.0]])
        pair = Pair(id="x", src="0", tgt="1", src_points=points, tgt_points=points)
        benchmark = Benchmark(name="x", pairs=(pair,), files=files, thresholds=("img",))
        picture = draw_pair(benchmark, pair, Answer(points=np.array([[np.nan, 0], [1e9, -1e9]])))
        assert 0.9 * LONGEST < max(picture.shape) <= LONGEST


def test_of_many_keypoints_twenty_are_drawn(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "rtn_jax.reporting.examples.draw_matches",
        lambda *arrays, true_points, height: drawn.append((*arrays[2:], true_points)) or np.zeros((1, 1, 3), np.uint8),
    )
    for count, expected in ((5, [0, 1, 2, 3, 4]), (39, list(range(0, 39, 2)))):
        points = np.arange(2.0 * count).reshape(-1, 2)
        pair = Pair(id="x", src="0", tgt="0", src_points=points, tgt_points=points + 1)
        files = ArrayFiles({"0": np.zeros((99, 99, 3), np.uint8)})
        draw_pair(Benchmark(name="x", pairs=(pair,), files=files, thresholds=("img",)), pair, Answer(points=points + 2))
        for k, array in enumerate(drawn.pop()):
            np.testing.assert_array_equal(array, points[expected] + [0, 2, 1][k])


# In a browser


@pytest.fixture(scope="module")
def browser():
    return chromium.find()


def measured(page, path, width):
    """The page as the browser holds it, and what a script in it finds; the report itself has none."""
    policy = escape("default-src 'none'")
    assert page.count(policy) == 1
    allowed = page.replace(policy, escape("default-src 'none'; script-src 'unsafe-inline'"))
    inner = escape(allowed.replace("</body>", f"{MEASURE}</body>"))
    frame = f'<iframe style="width: {width}px; height: 800px; border: 0" srcdoc="{inner}"></iframe>'
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8><html><body>{frame}</body></html>", encoding="utf-8")
    (root,) = Parsed(chromium.dom(path, width=900)).of("html")
    found = json.loads(root["data-measured"])
    return Parsed(found["html"]), found


@pytest.mark.parametrize("protocol", list(BENCHMARKS))
def test_on_a_phone_nothing_is_cut_off_and_every_picture_is_there(browser, reports, tmp_path, protocol):
    _, page, *_ = reports[protocol]
    parsed, found = measured(page, tmp_path / "report.html", 400)
    assert found["width"] == 400
    assert found["scroll"] <= 400, found["beyond"]
    assert found["beyond"] == []
    assert len(found["images"]) == {"keypoints": 8, "flow": 6, "masks": 5}[protocol]
    assert all(LONGEST / 2 < max(size) <= LONGEST and min(size) > 30 for size in found["images"])
    assert {name[:5] for name in found["requests"]} <= {"data:"}
    assert parsed.tables == Parsed(page).tables
    assert NASTY in " ".join(parsed.words) or protocol != "keypoints"
    assert len(parsed.of("svg")) == len(Parsed(page).of("svg"))


def near(picture, color):
    return np.abs(picture.astype(int) - color).max(axis=-1) <= 8


def test_the_charts_are_drawn_in_light_and_dark(browser, reports, tmp_path):
    _, page, results, _ = reports["flow"]
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    for dark, colors in ((False, charts.LIGHT), (True, charts.DARK)):
        to = tmp_path / f"{dark}.png"
        chromium.screenshot(tmp_path / "report.html", to, width=1000, height=1500, dark=dark)
        picture = read_image(to)
        assert picture.shape == (1500, 1000, 3)
        assert bool(picture[0, 0].mean() < 60) is dark
        assert 0.5 < near(picture, picture[0, 0]).mean() < 0.97  # a page with something on it
        longest = []
        for color, thickness, result in zip(colors[:2], (11, 4), reversed(results), strict=True):
            bars = near(picture, color)
            visible = sum(value > 1 for value in result.metrics.values())
            assert visible >= 5
            assert thickness * visible <= bars.any(axis=1).sum() <= thickness * visible + 40  # and the legends
            longest.append(bars.sum(axis=1).max() / max(result.metrics.values()))
        np.testing.assert_allclose(*longest, rtol=0.1)  # as long as their figures
        assert longest[0] > 4  # pixels per per cent


def test_without_a_browser_the_tests_are_skipped_but_not_where_it_must_be(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no browser"):
        chromium.find()
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="no browser"):
        chromium.find()
