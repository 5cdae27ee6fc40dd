"""The benchmarks by name: who reads them, where they are published, and how they are to lie on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rtn_jax.data import pf_pascal as _pf_pascal
from rtn_jax.data.caltech101 import caltech101
from rtn_jax.data.pairs import Benchmark
from rtn_jax.data.pf_pascal import pf_pascal
from rtn_jax.data.pf_willow import pf_willow
from rtn_jax.data.prepared import CONFIGS, folder_name, is_prepared, prepared_counts, prepared_folder, read_prepared
from rtn_jax.data.spair71k import spair71k
from rtn_jax.data.tss import tss

_WILLOW = "http://www.di.ens.fr/willow/research"
_LISTS = f"{_WILLOW}/cnngeometric/other_resources"

MB = 1_000_000
LIST_LIMIT = 50 * MB


Reader = Callable[..., Benchmark]
"""`(data_dir, *, split, skip_bad)`: reads one split of a published folder."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What a data set is published as."""

    name: str
    url: str | None
    """None: has no address of its own, only a page."""
    size_limit: int
    """Bytes a download may have."""
    unpacked_limit: int
    """Bytes it may unpack to."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A published benchmark."""

    title: str
    """As papers write it."""
    read: Reader
    folder: str
    """The top folder that the archive holds."""
    layout: str
    """What lies in the top folder, for messages."""
    page: str
    """Where people find it."""
    archive: Archive
    splits: tuple[str, ...] = ("test",)
    """The one that figures are published on comes first."""
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By split, the names its list of pairs may have, beside the top folder or inside; no entry if it needs none."""
    list_urls: Mapping[str, str] = field(default_factory=dict)
    """Addresses of lists that are published by themselves, by split."""
    published: Mapping[str, int] = field(default_factory=dict)
    """Pairs of the published splits, as far as they are known."""


DATASETS: dict[str, Dataset] = {
    "pf_willow": Dataset(
        title="PF-WILLOW",
        read=pf_willow,
        folder="PF-dataset",
        layout="<class>/<name>.png, .mat",
        page=f"{_WILLOW}/proposalflow/",
        archive=Archive(
            name="PF-dataset.zip",
            url=f"{_WILLOW}/proposalflow/dataset/PF-dataset.zip",
            size_limit=500 * MB,
            unpacked_limit=2_000 * MB,
        ),
        lists={"test": ("test_pairs_pf.csv",)},
        list_urls={"test": f"{_LISTS}/test_pairs_pf.csv"},
        published={"test": 900},
    ),
    "pf_pascal": Dataset(
        title="PF-PASCAL",
        read=pf_pascal,
        folder="PF-dataset-PASCAL",
        layout="JPEGImages/<id>.jpg, Annotations/<class>/<id>.mat",
        page=f"{_WILLOW}/proposalflow/",
        archive=Archive(
            name="PF-dataset-PASCAL.zip",
            url="https://www.di.ens.fr/willow/research/proposalflow/dataset/PF-dataset-PASCAL.zip",
            size_limit=1_000 * MB,
            unpacked_limit=4_000 * MB,
        ),
        splits=("test", "val", "train"),
        lists=_pf_pascal.LISTS,
        list_urls={split: f"{_LISTS}/{split}_pairs_pf_pascal.csv" for split in ("test", "val")},
        published={"test": 299, "val": 308},
    ),
    "tss": Dataset(
        title="TSS",
        read=tss,
        folder="TSS_CVPR2016",
        layout="{FG3DCar,JODS,PASCAL}/<pair>/image1.png, image2.png, mask1.png, mask2.png, flow1.flo, flow2.flo,"
        " flip_gt.txt",
        page="https://taniai.space/projects/cvpr16_dccs",
        archive=Archive(name="TSS_CVPR2016.zip", url=None, size_limit=4_000 * MB, unpacked_limit=8_000 * MB),
        published={"test": 800},
    ),
    "caltech101": Dataset(
        title="Caltech-101",
        read=caltech101,
        folder="101_ObjectCategories",
        layout="<class>/image_0001.jpg",
        page="http://www.vision.caltech.edu/Image_Datasets/Caltech101/",
        archive=Archive(
            name="101_ObjectCategories.tar.gz",
            url="http://www.vision.caltech.edu/Image_Datasets/Caltech101/101_ObjectCategories.tar.gz",
            size_limit=500 * MB,
            unpacked_limit=2_000 * MB,
        ),
        lists={"test": ("test_pairs_caltech_with_category.csv",)},
        list_urls={"test": f"{_WILLOW}/weakalign/other_resources/test_pairs_caltech_with_category.csv"},
        published={"test": 1515},
    ),
    "spair71k": Dataset(
        title="SPair-71k",
        read=spair71k,
        folder="SPair-71k",
        layout="JPEGImages, PairAnnotation, Layout/large",
        page="http://cvlab.postech.ac.kr/research/SPair-71k/",
        archive=Archive(
            name="SPair-71k.tar.gz",
            url="http://cvlab.postech.ac.kr/research/SPair-71k/data/SPair-71k.tar.gz",
            size_limit=500 * MB,
            unpacked_limit=5_000 * MB,
        ),
        splits=("test", "val", "trn"),
        lists={split: (f"Layout/large/{split}.txt",) for split in ("test", "val", "trn")},
        published={"test": 12_234},
    ),
}


def find_folder(dataset: Dataset, data_dir: str | Path) -> Path | None:
    """The published top folder below `data_dir`, or `data_dir` itself; None if it is neither."""
    data_dir = Path(data_dir)
    inside = data_dir / dataset.folder
    if inside.is_dir():
        return inside
    return data_dir if data_dir.absolute().name == dataset.folder and data_dir.is_dir() else None


def available_splits(dataset: Dataset, data_dir: str | Path) -> tuple[str, ...]:
    """The splits whose list of pairs is there."""
    folder = find_folder(dataset, data_dir)
    places = [folder.absolute().parent, folder] if folder else [Path(data_dir)]
    there = {
        split
        for split in dataset.splits
        if split not in dataset.lists
        or any((place / name).is_file() for place in places for name in dataset.lists[split])
    }
    return tuple(split for split in dataset.splits if split in there)


def read_benchmark(
    dataset: str, data_dir: str | Path, *, split: str | None = None, skip_bad: bool = False
) -> Benchmark:
    """A benchmark from the data set prepared with TFDS, if `data_dir` holds it whole, else from the published folder.

    Args:
        dataset: a name in `DATASETS`.
        data_dir: the folder of either; `~` stands for the user's own.
        split: by default the one that figures are published on.
        skip_bad: leave out pairs that cannot be used, and list them in `left_out`, instead of failing.

    Returns:
        The benchmark; a note says so if it has another number of pairs than the published one.

    Raises:
        ValueError: another name or split, the data set is not there or not as published, its prepared folder alone is
            there and not whole, or it was prepared without its bad pairs and `skip_bad` is not given.
    """
    if dataset not in DATASETS:
        raise ValueError(f"dataset: expected one of {', '.join(DATASETS)}, got {dataset!r}")
    split = DATASETS[dataset].splits[0] if split is None else split
    data_dir = Path(data_dir).expanduser()
    prepared = prepared_counts(data_dir, dataset)
    if split not in prepared and not (prepared and find_folder(DATASETS[dataset], data_dir) is None):
        _check_damage(dataset, data_dir)
        return _counted(DATASETS[dataset].read(data_dir, split=split, skip_bad=skip_bad), dataset, split)
    benchmark = read_prepared(data_dir, dataset, split)
    if benchmark.left_out and not skip_bad:
        place, count = prepared_folder(data_dir, dataset), len(benchmark.left_out)
        raise ValueError(
            f"{place}: was prepared with skip_bad and lacks {count} of the published pairs, the first:"
            f" {benchmark.left_out[0]}; give skip_bad here too to go on without them"
        )
    return _counted(benchmark, dataset, split)


def _check_damage(dataset: str, data_dir: Path) -> None:
    """That what is left of a prepared data set is not all there is."""
    inside = data_dir / folder_name(dataset)
    places = [inside] + ([data_dir] if data_dir.absolute().name == inside.name else [])
    damaged = [place for place in places if any((place / config).is_dir() for config in CONFIGS)]
    if damaged and not is_prepared(data_dir, dataset) and find_folder(DATASETS[dataset], data_dir) is None:
        raise ValueError(
            f"{damaged[0]}: is there but not complete: remove it and prepare {DATASETS[dataset].title} again, or put"
            f" the published folder {DATASETS[dataset].folder!r} into {data_dir}"
        )


def _counted(benchmark: Benchmark, dataset: str, split: str) -> Benchmark:
    """With a note if it is not the whole of what is published: its figures then do not compare."""
    published = DATASETS[dataset].published.get(split, len(benchmark.pairs))
    if published == len(benchmark.pairs):
        return benchmark
    note = f"{len(benchmark.pairs):,} pairs are here, the published {benchmark.name} {split} split has {published:,}"
    return benchmark.replace(notes=(*benchmark.notes, note))
