"""MatConvNet's models: the VGGs as SimpleNN and the ResNets as DagNN. Both are for RGB images.

Kernels are `[vertical, horizontal, in, out]`, which is the layout JAX's convolutions take. Of batch norm a DagNN keeps
`moments [c, 2]`: mean and standard deviation, epsilon in the latter.
"""

from __future__ import annotations

from rtn_jax.weights.architectures import RESNETS, VGGS, caffe_names, shapes
from rtn_jax.weights.folding import fold_batch_norm
from rtn_jax.weights.formats import Format, Table, caffe_settings, vectors
from rtn_jax.weights.layout import Wanted


def _simplenn_table(backbone: str) -> Table:
    return {
        layer: {part: Wanted(f"{layer} {part}", shape) for part, shape in parts.items()}
        for layer, parts in shapes(backbone).items()
    }


def _dagnn_table(backbone: str) -> Table:
    table: Table = {}
    for layer, parts in shapes(backbone).items():
        convolution, norm = caffe_names(backbone, layer)
        channels = parts["bias"]
        table[layer] = {
            "kernel": Wanted(f"{convolution}_filter", parts["kernel"]),
            "bias": Wanted(f"{convolution}_bias", channels, optional=True),  # the 50 layer net's conv1 has one
            "moments": Wanted(f"{norm}_moments", (*channels, 2)),
        } | vectors({"gamma": f"{norm}_mult", "beta": f"{norm}_bias"}, channels[0])
    return table


SIMPLENN = Format(
    title="MatConvNet SimpleNN",
    backbones=VGGS,
    table=_simplenn_table,
    build=dict,
    ignored=lambda _: {f"{layer} {part}" for layer in ("fc6", "fc7", "fc8") for part in ("kernel", "bias")},
    settings=caffe_settings,
)
DAGNN = Format(
    title="MatConvNet DagNN",
    backbones=RESNETS,
    table=_dagnn_table,
    build=fold_batch_norm,
    ignored=lambda _: {"fc1000_filter", "fc1000_bias"},
    settings=caffe_settings,
)
