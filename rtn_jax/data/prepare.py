"""`python -m rtn_jax prepare pf_willow --data_dir=data`: a benchmark from its published files to a TFDS data set."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from rtn_jax.data.datasets import DATASETS, LIST_LIMIT, Dataset, available_splits, find_folder
from rtn_jax.data.download import check_recorded, download
from rtn_jax.data.pairs import Benchmark
from rtn_jax.data.prepared import CONFIGS, folder_name, left_out, prepared_counts, prepared_folder
from rtn_jax.data.unpack import unpack

STALE = 3600
"""Seconds without a change after which a temporary folder is taken for what a kill left behind."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Turns a published benchmark into a data set that reads fast; downloads it first if need be."""

    dataset: Positional[Literal["pf_willow", "pf_pascal", "tss", "caltech101", "spair71k"]]
    """Which benchmark."""
    data_dir: Path
    """Folder that holds the published folder or archive, or where they are downloaded to."""
    out: Path | None = None
    """Folder to write the data set into; data_dir unless given."""
    skip_bad: bool = False
    """Leave out pairs that cannot be used, and say how many, instead of stopping at the first."""
    download: bool = True
    """Download what is not there; half a download is gone on with."""


def prepare(config: PrepareConfig) -> None:
    """Prepares a data set and says where it is and what is in it; does nothing more if it is prepared already.

    Raises:
        ValueError: the published files are not there and cannot be had, or are not as published; the message says which
            file to put where. Or it was prepared with `skip_bad`, lacks pairs, and `skip_bad` is not given now.
    """
    data_dir = config.data_dir.expanduser()
    dataset, out = DATASETS[config.dataset], config.out.expanduser() if config.out else data_dir
    for name, folder in (("data_dir", data_dir), ("out", out)):
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{name}: {folder} is a file, expected a folder")
    if _is_prepared(config, out):
        return
    remove_stale(config.dataset, data_dir, out)
    obtain(dataset, data_dir, fetch=config.download)
    splits = available_splits(dataset, data_dir)
    benchmarks = {split: dataset.read(data_dir, split=split, skip_bad=config.skip_bad) for split in splits}
    with _counting(dataset.title, 2 * sum(_records(benchmark) for benchmark in benchmarks.values())) as advance:
        benchmarks = {split: sound(of, skip_bad=config.skip_bad, advance=advance) for split, of in benchmarks.items()}
        build(config.dataset, benchmarks, out, advance=advance)
    _say(f"{dataset.title}: {prepared_folder(out, config.dataset)}")
    _say_counts(prepared_counts(out, config.dataset))
    for split, benchmark in benchmarks.items():
        if benchmark.left_out:
            _say(f"  {split}: left out {len(benchmark.left_out)} bad pairs, the first: {benchmark.left_out[0]}")
    for split in (split for split in dataset.splits if split not in splits):
        _say(f"  {split}: not prepared, its list {' or '.join(dataset.lists[split])} is not there")


def _is_prepared(config: PrepareConfig, out: Path) -> bool:
    """Whether there is nothing to do; says so. Raises a `ValueError` if what is there will not do."""
    title, place = DATASETS[config.dataset].title, prepared_folder(out, config.dataset)
    counts = prepared_counts(out, config.dataset)
    if not counts and place.exists():
        raise ValueError(
            f"{place}: is there but holds no complete prepared data set; remove it, or choose another --out"
        )
    if not counts:
        return False
    lacking = left_out(out, config.dataset)
    if lacking and not config.skip_bad:
        raise ValueError(
            f"{place}: was prepared with skip_bad and lacks {len(lacking)} of the published pairs, the first:"
            f" {lacking[0]}; mend that and remove the folder to prepare it anew, or give skip_bad to keep it"
        )
    _say(f"{title} is prepared already: {place} (remove that folder to prepare it anew)")
    _say_counts(counts)
    if lacking:
        _say(f"  left out {len(lacking)} bad pairs, the first: {lacking[0]}")
    return True


def remove_stale(dataset: str, data_dir: Path, out: Path) -> None:
    """Removes the temporary folders of this data set that were left behind; not those that may still be written to."""
    for folder in (*out.glob(f".preparing-{dataset}-*"), *data_dir.glob(".unpacking-*")):
        names = {path.name for path in folder.glob("*")}
        if folder.name.startswith(".unpacking-") and names and DATASETS[dataset].folder not in names:
            continue  # of another data set
        with contextlib.suppress(OSError):  # of somebody else, or gone meanwhile: it does no harm
            changed = max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
            if time.time() - changed > STALE:
                shutil.rmtree(folder)


def obtain(dataset: Dataset, data_dir: Path, *, fetch: bool = True, progress: bool = True) -> None:
    """Makes sure that the published folder and a list of pairs are there: unpacked, or packed, or downloaded.

    Raises:
        ValueError: they are not and cannot be had; says what to put where.
    """
    archive = dataset.archive
    if find_folder(dataset, data_dir) is None:
        path = data_dir / archive.name
        if path.is_file():
            check_recorded(path)
        else:
            what = f"the folder {dataset.folder!r} ({dataset.layout}) or the archive {archive.name}"
            _fetch(dataset, archive.url, path, archive.size_limit, fetch=fetch, progress=progress, what=what)
        try:
            unpack(path, data_dir, top=dataset.folder, limit=archive.unpacked_limit)
        except ValueError as error:
            again = " and run again to have it downloaded anew" if archive.url else ""
            raise ValueError(f"{error}; remove it{again}, or put the folder {dataset.folder!r} there") from error
    if available_splits(dataset, data_dir):
        return
    folder = find_folder(dataset, data_dir) or data_dir
    for split, url in dataset.list_urls.items():
        name = dataset.lists[split][0]
        path = folder.absolute().parent / name
        _fetch(dataset, url, path, LIST_LIMIT, fetch=fetch, progress=progress, what=f"the list {name}")
    if not available_splits(dataset, data_dir):
        names = ", ".join(names[0] for names in dataset.lists.values())
        raise ValueError(f"{folder}: expected at least one of the lists {names}, found none; see {dataset.page}")


def _fetch(
    dataset: Dataset, url: str | None, path: Path, limit: int, *, fetch: bool, progress: bool, what: str
) -> None:
    by_hand = f"put {what} into {path.parent}; {dataset.title} is published at {url or dataset.page}"
    if url is None or not fetch:
        why = "not downloaded, as asked" if url else "has no address to download from"
        raise ValueError(f"{path}: not found, {why}: {by_hand}")
    try:
        download(url, path, size_limit=limit, progress=progress)
    except ValueError as error:
        raise ValueError(f"{error}; by hand: {by_hand}") from error


def sound(benchmark: Benchmark, *, skip_bad: bool = False, advance: Callable[[], object] = lambda: None) -> Benchmark:
    """The benchmark after every image, mask and flow was decoded once.

    Raises:
        ValueError: one cannot be; or with `skip_bad`, which leaves out the pairs concerned, none is left.
    """
    masked = {name for pair in benchmark.pairs if pair.has_masks for name in (pair.src, pair.tgt)}
    bad: dict[str, str] = {}

    def attempt(key: str, *reads: Callable[[str], object]) -> None:
        try:
            for read in reads:
                read(key)
        except ValueError as error:
            if not skip_bad:
                raise
            bad[key] = str(error)
        advance()

    files = benchmark.files
    for name in benchmark.images:
        attempt(name, files.image, *([files.mask] if name in masked else []))
    for pair in benchmark.pairs:
        attempt(pair.id, *([files.flow] if pair.has_flow else []))
    reasons = {pair.id: [bad[key] for key in (pair.src, pair.tgt, pair.id) if key in bad] for pair in benchmark.pairs}
    left_out = tuple(f"{pair}: {why[0]}" for pair, why in reasons.items() if why)
    pairs = tuple(pair for pair in benchmark.pairs if not reasons[pair.id])
    if not pairs:
        raise ValueError(f"every pair is bad; the first: {left_out[0]}")
    return benchmark.replace(pairs=pairs, left_out=(*benchmark.left_out, *left_out)) if left_out else benchmark


def build(
    dataset: str, benchmarks: Mapping[str, Benchmark], out: Path, *, advance: Callable[[], object] = lambda: None
) -> Path:
    """Writes benchmarks, by split, as a TFDS data set; it takes its place when images and pairs are whole.

    Raises:
        ValueError: a file of the benchmark cannot be read, there is something in the data set's place, or a split is
            larger than TFDS can write without TensorFlow, which is not installed.
    """
    import tensorflow_datasets as tfds

    from rtn_jax.data.builders import BUILDERS, write

    final = out / folder_name(dataset)
    out.mkdir(parents=True, exist_ok=True)
    tfds.disable_progress_bar()  # the caller has its own
    with tempfile.TemporaryDirectory(dir=out, prefix=f".preparing-{dataset}-", ignore_cleanup_errors=True) as temporary:
        for config in CONFIGS:
            builder = BUILDERS[dataset](
                benchmarks, advance=advance, data_dir=temporary, config=config, file_format="array_record"
            )
            with contextlib.redirect_stdout(io.StringIO()):  # it prints where its temporary folder is
                write(builder, Path(temporary))
        if final.exists():
            raise ValueError(f"{final}: is there already")
        os.replace(Path(temporary) / final.name, final)
    return final


def _records(benchmark: Benchmark) -> int:
    return len(benchmark.images) + len(benchmark.pairs)


@contextlib.contextmanager
def _counting(name: str, total: int) -> Iterator[Callable[[], object]]:
    """What to call after every record; shows a bar on stderr if that is a terminal."""
    import rich.console
    import rich.progress

    console = rich.console.Console(stderr=True)
    if not console.is_terminal:
        yield lambda: None
        return
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
    )
    with rich.progress.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda: bar.advance(task)


def _say_counts(counts: Mapping[str, tuple[int, int]]) -> None:
    for split, (pairs, images) in counts.items():
        _say(f"  {split}: {pairs:,} pairs of {images:,} images")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
