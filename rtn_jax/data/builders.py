"""The benchmarks as TFDS builders. Importing this file imports tensorflow_datasets; TensorFlow is not needed.

    PfWillow({"test": pf_willow(data_dir)}, data_dir=out, config="pairs", file_format="array_record")

What a record holds and where it lies is told in `prepared`, which reads the result. TFDS's own way works as well:
without benchmarks a builder reads the published files from `DownloadConfig(manual_dir=...)`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from rtn_jax.data.pairs import Benchmark
from rtn_jax.data.prepared import BOXES, CONFIGS, FLAGS, POINTS, TEXTS, VERSION, encode_flow
from rtn_jax.images import encode_png

_DESCRIPTIONS = {
    "images": "A record per image: its name, its file as distributed, and the object's mask as PNG or nothing.",
    "pairs": "A record per pair: names, keypoints and boxes in pixels (empty where not known), and the flow.",
}


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Nothing is known of these data sets elsewhere; looking it up would leave a temporary folder each time."""


class PairsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """What the builders share.

    Args:
        benchmarks: by split; as the readers of the published folders return them.
        advance: called after every record.
        options: of TFDS, such as `data_dir` and `config`.
    """

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=name, description=_DESCRIPTIONS[name]) for name in CONFIGS
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir: the folder of the published files, as `rtn_jax prepare` explains them."
    code_path: ClassVar = None  # TFDS would look for checksums beside this file, by a package that it does not require
    DATASET: ClassVar[str]
    HOMEPAGE: ClassVar[str]
    CITATION: ClassVar[str]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(skip_registration=True, **options)

    def __init__(
        self,
        benchmarks: Mapping[str, Benchmark] | None = None,
        *,
        advance: Callable[[], object] = lambda: None,
        **options: Any,
    ) -> None:
        self._benchmarks, self._advance = benchmarks, advance
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        return _Info(
            builder=self,
            description=" ".join((type(self).__doc__ or "").split()),
            features=_image_features() if self.builder_config.name == "images" else _pair_features(),
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(splits={}, sha256={}),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        if self._benchmarks is None:
            from rtn_jax.data.datasets import DATASETS, available_splits

            dataset, folder = DATASETS[self.DATASET], Path(os.fspath(dl_manager.manual_dir))
            splits = available_splits(dataset, folder)
            self._benchmarks = {split: dataset.read(folder, split=split) for split in splits}
        for split, benchmark in self._benchmarks.items():
            self.info.metadata["splits"][split] = _about(benchmark)
        return {split: self._generate_examples(split) for split in self._benchmarks}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        benchmark = (self._benchmarks or {})[split]
        records = _image_records(benchmark) if self.builder_config.name == "images" else _pair_records(benchmark)
        digest = hashlib.sha256()
        for row, record in enumerate(records):
            for value in record.values():
                digest.update(value.encode() if isinstance(value, str) else np.asarray(value).tobytes())
            yield row, record
            self._advance()
        self.info.metadata["sha256"][split] = digest.hexdigest()


def _about(benchmark: Benchmark) -> dict[str, Any]:
    """What a benchmark is besides its pairs and files."""
    return {
        "name": benchmark.name,
        "protocol": benchmark.protocol,
        "thresholds": list(benchmark.thresholds),
        "alphas": list(benchmark.alphas),
        "subsets": list(benchmark.subsets),
        "left_out": list(benchmark.left_out),
        "notes": list(benchmark.notes),
    }


def _image_features() -> tfds.features.FeaturesDict:
    files = {name: tfds.features.Scalar(np.bytes_) for name in ("image", "mask")}
    return tfds.features.FeaturesDict({"name": tfds.features.Text(), **files})


def _pair_features() -> tfds.features.FeaturesDict:
    return tfds.features.FeaturesDict(
        {
            **{name: tfds.features.Text() for name in TEXTS},
            **{name: tfds.features.Tensor(shape=(None, 2), dtype=np.float64, encoding="bytes") for name in POINTS},
            **{name: tfds.features.Tensor(shape=(None,), dtype=np.float64, encoding="bytes") for name in BOXES},
            **{name: tfds.features.Scalar(np.bool_) for name in FLAGS},
            "flow": tfds.features.Scalar(np.bytes_),
        }
    )


def _image_records(benchmark: Benchmark) -> Iterator[dict[str, Any]]:
    masked = {name for pair in benchmark.pairs if pair.has_masks for name in (pair.src, pair.tgt)}
    for name in benchmark.images:
        mask = encode_png(benchmark.files.mask(name)) if name in masked else b""
        yield {"name": name, "image": benchmark.files.encoded(name), "mask": mask}


def _pair_records(benchmark: Benchmark) -> Iterator[dict[str, Any]]:
    for pair in benchmark.pairs:
        record: dict[str, Any] = {name: getattr(pair, name) for name in (*TEXTS, *FLAGS)}
        for names, shape in ((POINTS, (0, 2)), (BOXES, (0,))):
            arrays = {name: getattr(pair, name) for name in names}
            record |= {name: np.zeros(shape) if array is None else array for name, array in arrays.items()}
        yield {**record, "flow": encode_flow(benchmark.files.flow(pair.id)) if pair.has_flow else b""}


class PfWillow(PairsBuilder):
    """PF-WILLOW: 10 classes of 10 images with 10 keypoints each, matched in all 900 ordered pairs of a class."""

    DATASET = "pf_willow"
    HOMEPAGE = "https://www.di.ens.fr/willow/research/proposalflow/"
    CITATION = """@inproceedings{ham2016proposal,
  title={Proposal Flow}, author={Ham, Bumsub and Cho, Minsu and Schmid, Cordelia and Ponce, Jean},
  booktitle={CVPR}, year={2016}}"""


class PfPascal(PairsBuilder):
    """PF-PASCAL: pairs of images of 20 PASCAL classes with keypoints (validation, test) or boxes only (training)."""

    DATASET = "pf_pascal"
    HOMEPAGE = "https://www.di.ens.fr/willow/research/proposalflow/"
    CITATION = """@article{ham2018proposal,
  title={Proposal Flow: Semantic Correspondences from Object Proposals},
  author={Ham, Bumsub and Cho, Minsu and Schmid, Cordelia and Ponce, Jean}, journal={TPAMI}, year={2018}}"""


class Tss(PairsBuilder):
    """TSS: 400 pairs of images with dense flows between their objects in both directions, 800 flow fields."""

    DATASET = "tss"
    HOMEPAGE = "https://taniai.space/projects/cvpr16_dccs"
    CITATION = """@inproceedings{taniai2016joint,
  title={Joint Recovery of Dense Correspondence and Cosegmentation in Two Images},
  author={Taniai, Tatsunori and Sinha, Sudipta N. and Sato, Yoichi}, booktitle={CVPR}, year={2016}}"""


class Caltech101Pairs(PairsBuilder):
    """Caltech-101 as a benchmark of correspondence: 1,515 pairs of images of a class with their objects' masks."""

    DATASET = "caltech101"
    HOMEPAGE = "http://www.vision.caltech.edu/Image_Datasets/Caltech101/"
    CITATION = """@inproceedings{feifei2004learning,
  title={Learning Generative Visual Models from Few Training Examples: An Incremental {Bayesian} Approach Tested
  on 101 Object Categories}, author={Fei-Fei, Li and Fergus, Rob and Perona, Pietro}, booktitle={CVPR Workshop},
  year={2004}}"""


class Spair71k(PairsBuilder):
    """SPair-71k: 70,958 pairs of images of 18 classes with keypoints and boxes; 12,234 of them are the test pairs."""

    DATASET = "spair71k"
    HOMEPAGE = "http://cvlab.postech.ac.kr/research/SPair-71k/"
    CITATION = """@article{min2019spair,
  title={{SPair-71k}: A Large-scale Benchmark for Semantic Correspondence},
  author={Min, Juhong and Lee, Jongmin and Ponce, Jean and Cho, Minsu}, journal={arXiv:1908.10543}, year={2019}}"""


def write(builder: PairsBuilder, temporary: Path) -> None:
    """Has TFDS write one configuration.

    Raises:
        ValueError: a split is too large: from 1000 MiB on TFDS sorts records in files, by way of TensorFlow.
    """
    try:
        builder.download_and_prepare(download_dir=temporary / "downloads")
    except ImportError as error:
        if (error.name or "").split(".")[0] != "tensorflow":
            raise
        raise ValueError(
            f"{builder.name}: a split of over about 1000 MiB is too large to be prepared without TensorFlow, which is"
            " not installed; there is no need to prepare it, the published folder works as it is"
        ) from error


BUILDERS = {builder.DATASET: builder for builder in (PfWillow, PfPascal, Tss, Caltech101Pairs, Spair71k)}
