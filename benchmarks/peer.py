"""The same network in PyTorch, as fast as we could make it on a CPU: what rtn_jax is timed against.

It is written from the description of the method, takes the same tree of NumPy weights as rtn_jax and computes the
same numbers. The backbone, the gathers and the correlation keep channels last, so nothing is transposed in between.

What was measured at 256x256 (PyTorch 2.15, AVX-512; a shared machine, so to a few per cent):

* torch.compile does not pay: forward 1.26 s against 1.22 s eager (1.22 against 1.28 with `freezing`), gradient 3.6 s
  against 3.4 s (CPU time, one core), after one to three minutes of compiling. It is nearly all oneDNN.
* oneDNN's packed weights (`torch.utils.mkldnn`) run the backbone as fast as plain channels-last weights.
* The geometry network is contiguous: its small maps make channels last 10 % slower in the gradient, and no faster in
  the forward pass.
* `embedding_bag` gathers in a tenth of `grid_sample`'s time; 81 shifted products take 1.5 to 3 times as long as one
  matrix product per row offset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rtn_jax.params import Params

Level = tuple[str, int]

BLOCKS = (2, 2, 4, 4, 4)  # convolutions per block of VGG-19
LAYERS = tuple(f"conv{block}_{index}" for block, count in enumerate(BLOCKS, 1) for index in range(1, count + 1))
MEAN = (123.68, 116.779, 103.939)
DEFAULT_LEVELS: tuple[Level, ...] = (("conv5_1", 2), ("conv4_1", 3))


class Peer(nn.Module):
    """Recurrent Transformer Network on VGG-19; `weights` is the tree {"backbone": ..., "geometry": ...} of rtn_jax.

    `normalization`, `upsampling` and `residual_units` are "centers", "edge" and "window" by default, "corners", "zero"
    and "image" in the release.
    Gradients reach the geometry network, and the backbone only with `train_backbone`. `dtype` is that of features and
    convolutions; norms and coordinates are float32 at least. `sampling` under the field is by `embedding_bag` or by
    `grid_sample`.
    """

    def __init__(
        self,
        weights: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]],
        *,
        levels: Sequence[Level] = DEFAULT_LEVELS,
        radius: int = 4,
        normalization: Literal["corners", "centers"] = "centers",
        upsampling: Literal["edge", "zero"] = "edge",
        residual_units: Literal["window", "image"] = "window",
        train_backbone: bool = False,
        dtype: torch.dtype = torch.float32,
        sampling: Literal["bags", "grid"] = "bags",
    ) -> None:
        super().__init__()
        self.dtype, self.sampling, self.residual_units = dtype, sampling, residual_units
        self.levels, self.radius, self.normalization = tuple(levels), radius, normalization
        self.upsample = {"edge": upsample_edge, "zero": upsample_zero}[upsampling]
        self.last_layer = max((name for name, _ in self.levels), key=LAYERS.index)
        used = LAYERS[: LAYERS.index(self.last_layer) + 1]
        self.backbone = nn.ModuleDict({name: convolution(weights["backbone"][name]) for name in used})
        self.geometry = nn.ModuleDict({name: convolution(layer) for name, layer in weights["geometry"].items()})
        self.backbone.requires_grad_(train_backbone)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.backbone.to(memory_format=torch.channels_last)
        self.backbone.to(dtype)
        self.geometry.to(dtype)

    @classmethod
    def of(cls, params: Params, *, sampling: Literal["bags", "grid"] = "bags") -> Peer:
        """The peer of a network of rtn_jax, with all of its config's conventions."""
        config = params.config
        return cls(
            jax.tree.map(np.asarray, params.weights),
            levels=[(level.layer, level.iterations) for level in config.levels],
            radius=config.radius,
            normalization=config.normalization,
            upsampling=config.upsampling,
            residual_units=config.residual_units,
            dtype=getattr(torch, config.compute_dtype),
            sampling=sampling,
        )

    def forward(self, src: Tensor, tgt: Tensor) -> list[Tensor]:
        """The affine field after every iteration, each [b, h, w, 2, 3], of RGB images [b, 3, H, W] in 0..255."""
        inputs, outputs = self.taps(src, tgt)
        field, fields = None, []
        for layer, iterations in self.levels:
            features = l2_normalize(outputs[layer])
            b, h, w, _ = features.shape
            if field is None:
                identity = features.new_tensor([1, 0, 0, 0, 1, 0], dtype=wide(features.dtype))[:, None, None]
                field = identity.expand(b, 6, h, w)
            while field.shape[2] < h:
                field = self.upsample(field)
            for _ in range(iterations):
                affine = field.permute(0, 2, 3, 1).unflatten(3, (2, 3))
                sample = {"bags": warped_convolution, "grid": grid_convolution}[self.sampling]
                warped = sample(inputs[layer], self.backbone[layer], affine, self.normalization)
                volume = WindowCorrelation.apply(features, l2_normalize(warped), self.radius)
                residual = self.residual(l2_normalize(volume).permute(0, 3, 1, 2).contiguous())
                field = field + residual.to(field.dtype) * self.units(field)
                fields.append(field.permute(0, 2, 3, 1).unflatten(3, (2, 3)))
        return fields

    def units(self, field: Tensor) -> Tensor:
        """[6, 1, 1]: what a residual's 1 is in the units of the field."""
        if self.residual_units == "image":
            return field.new_ones(6, 1, 1)
        less = 1 if self.normalization == "corners" else 0
        across, down = (2 * self.radius / (size - less) for size in (field.shape[3], field.shape[2]))
        return field.new_tensor([1, 1, across, 1, 1, down])[:, None, None]

    def taps(self, src: Tensor, tgt: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Per level's layer its input for the target and its output for the source, both [b, h, w, c].

        The images share one batch; the last convolution runs on the source only: the target's is always warped.
        """
        b = src.shape[0]
        wanted = {name for name, _ in self.levels}
        inputs, outputs = {}, {}
        x = (torch.cat([src, tgt]) - self.mean).to(self.dtype, memory_format=torch.channels_last)
        for name, layer in self.backbone.items():
            if name.endswith("_1") and name != "conv1_1":
                x = functional.max_pool2d(x, 2)
            if name in wanted:
                inputs[name] = x[b:].permute(0, 2, 3, 1)
            if name == self.last_layer:
                x = x[:b]
            x = layer(x).relu_()
            if name in wanted:
                outputs[name] = x[:b].permute(0, 2, 3, 1)
        return inputs, outputs

    def residual(self, volume: Tensor) -> Tensor:
        """Residual of the field [b, 6, h, w] from the normalised volume [b, m, h, w]: the encoder-decoder."""
        skips = [self.block(volume, 1)]
        for depth in (2, 3, 4):
            skips.append(self.block(functional.max_pool2d(skips[-1], 2, ceil_mode=True), depth))
        x = self.block(functional.max_pool2d(skips[-1], 2, ceil_mode=True), 5)
        for depth in (6, 7, 8, 9):
            skip = skips.pop()
            upsampled = self.upsample(x)[:, :, : skip.shape[2], : skip.shape[3]]
            x = self.block(torch.cat([upsampled, skip], dim=1), depth)
        return self.geometry["conv10"](x)

    def block(self, x: Tensor, depth: int) -> Tensor:
        """The two convolutions of one depth, each with its ReLU."""
        x = self.geometry[f"conv{depth}"](x).relu_()
        return self.geometry[f"conv{depth}b"](x).relu_()


def step(
    module: Peer,
    run: Callable[[Tensor, Tensor], list[Tensor]],
    src: Tensor,
    tgt: Tensor,
    truth: Sequence[Tensor],
    *,
    learning_rate: float,
    weight_decay: float,
    clip: float,
    decay: float,
    matrix_weight: float,
) -> Callable[[], Tensor]:
    """A call that makes a step of the synthetic stage on pairs whose fields are known, and returns its loss.

    L1 to the truth after every iteration, each weighing `decay` as much as the next; a clipped gradient; fused AdamW.
    """
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, learning_rate, weight_decay=weight_decay, fused=src.is_cuda)
    of_level = [field for field, (_, iterations) in zip(truth, module.levels, strict=True) for _ in range(iterations)]
    importance = [decay ** (len(of_level) - 1 - i) for i in range(len(of_level))]

    def make() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = src.new_zeros(())
        for field, true, share in zip(run(src, tgt), of_level, importance, strict=True):
            apart = (field - true).abs()
            loss = loss + share / sum(importance) * (apart[..., 2].mean() + matrix_weight * apart[..., :2].mean())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, clip)
        optimizer.step()
        return loss.detach()

    return make


def convolution(layer: Mapping[str, np.ndarray]) -> nn.Conv2d:
    """A size-keeping convolution with the given HWIO kernel and bias."""
    kernel = torch.from_numpy(np.array(layer["kernel"], np.float32)).permute(3, 2, 0, 1)
    out_channels, in_channels, size, _ = kernel.shape
    module = nn.Conv2d(in_channels, out_channels, size, padding=size // 2)
    module.weight.data = kernel.contiguous()
    module.bias.data = torch.from_numpy(np.array(layer["bias"], np.float32))
    return module


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type of norms and coordinates beside features of `dtype`."""
    return torch.promote_types(dtype, torch.float32)


def l2_normalize(x: Tensor) -> Tensor:
    """Scales the last axis: x / sqrt(sum x^2 + 0.01)."""
    exact = x.to(wide(x.dtype))
    return (exact * torch.rsqrt(exact.square().sum(-1, keepdim=True) + 0.01)).to(x.dtype)


def upsample_edge(x: Tensor) -> Tensor:
    """[b, c, 2h, 2w]: bilinear on the half-pixel grid, edges repeated."""
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def upsample_zero(x: Tensor) -> Tensor:
    """[b, c, 2h, 2w]: the released transposed convolution, which is `upsample_edge` inside a frame of zeros."""
    return upsample_edge(functional.pad(x, (1, 1, 1, 1)))[:, :, 2:-2, 2:-2]


def sampling_positions(affine: Tensor, radius: int, normalization: str) -> Tensor:
    """Where the taps o of every cell p read, p + A o + t: (x, y) in cells, [b, h, w, taps, 2], as the kernel's rows."""
    _, h, w, _, _ = affine.shape
    rows, columns = torch.arange(h, device=affine.device), torch.arange(w, device=affine.device)
    reach = torch.arange(-radius, radius + 1, device=affine.device)
    offsets = torch.cartesian_prod(reach, reach).flip(1).to(affine.dtype)
    size = affine.new_tensor([w, h]) - (1 if normalization == "corners" else 0)
    centres = affine[..., 2] * (size / 2) + torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    return centres[..., None, :] + offsets @ affine[..., :2].transpose(-1, -2)


def warped_convolution(x: Tensor, layer: nn.Conv2d, affine: Tensor, normalization: str) -> Tensor:
    """ReLU of the convolution of x [b, h, w, c] whose tap at offset o reads x at p + A o + t; [b, h, w, d].

    The bilinear samples are sums over bags of four rows, which `embedding_bag` gathers without a temporary.
    """
    b, h, w, c = x.shape
    positions = sampling_positions(affine, layer.kernel_size[0] // 2, normalization)
    corner = positions.detach().floor()
    fraction = positions - corner
    near_x, near_y = (1 - fraction).unbind(-1)
    far_x, far_y = fraction.unbind(-1)
    weights = torch.stack([near_x * near_y, far_x * near_y, near_x * far_y, far_x * far_y], dim=-1)
    # Far outside, the clamp keeps the conversion to integers defined; it stays outside.
    left, top = corner.clamp(-2, max(h, w) + 1).long().unbind(-1)
    column, row = torch.stack([left, left + 1, left, left + 1], -1), torch.stack([top, top, top + 1, top + 1], -1)
    inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
    image = torch.arange(b, device=x.device).view(b, 1, 1, 1, 1)
    index = (image * h + row.clamp(0, h - 1)) * w + column.clamp(0, w - 1)

    samples = functional.embedding_bag(
        index.view(-1, 4), x.reshape(-1, c), mode="sum", per_sample_weights=(weights * inside).view(-1, 4).to(x.dtype)
    )
    kernel = layer.weight.permute(0, 2, 3, 1).flatten(1)  # a view, because the weight is channels last
    return functional.linear(samples.view(b, h, w, -1), kernel, layer.bias).relu_()


def grid_convolution(x: Tensor, layer: nn.Conv2d, affine: Tensor, normalization: str) -> Tensor:
    """`warped_convolution` by `grid_sample`, whose grid has to have the samples' type."""
    b, h, w, _ = x.shape
    positions = sampling_positions(affine, layer.kernel_size[0] // 2, normalization)
    grid = ((2 * positions + 1) / affine.new_tensor([w, h]) - 1).view(b, h, -1, 2)
    samples = functional.grid_sample(x.permute(0, 3, 1, 2).to(grid.dtype), grid, align_corners=False)
    rows_of = samples.permute(0, 2, 3, 1).reshape(b, h, w, -1).to(x.dtype)
    return functional.linear(rows_of, layer.weight.permute(0, 2, 3, 1).flatten(1), layer.bias).relu_()


class WindowCorrelation(torch.autograd.Function):
    """<src(p), tgt(p + d)> [b, h, w, m], d row-major over the window, zero outside; maps are [b, h, w, c].

    Per row offset one batched product correlates whole rows; the window is the band around its diagonal. The batch is
    padded into one tall image, which makes every offset a slice of contiguous matrices. The backward is by hand: it
    adds into one gradient where autograd would fill and add one per offset (twice as fast).
    """

    @staticmethod
    def forward(ctx, src: Tensor, tgt: Tensor, radius: int) -> Tensor:
        """The volume."""
        b, _, w, c = src.shape
        src = functional.pad(src, (0, 0, 0, 0, 0, 2 * radius)).view(-1, w, c)
        tgt = functional.pad(tgt, (0, 0, radius, radius, radius, radius)).view(-1, w + 2 * radius, c)
        count = len(src) - 2 * radius
        rows = src.new_empty(2 * radius + 1, len(src), w, w + 2 * radius)
        for dy in range(2 * radius + 1):
            torch.bmm(src[:count], tgt[dy : dy + count].transpose(1, 2), out=rows[dy, :count])
        ctx.save_for_backward(src, tgt)
        ctx.batch, ctx.radius = b, radius
        return band(rows, b, radius).flatten(3)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Gradients of the maps, for those that need one."""
        (src, tgt), b, radius = ctx.saved_tensors, ctx.batch, ctx.radius
        tall, w, _ = src.shape
        width, h, count = 2 * radius + 1, tall // b - 2 * radius, tall - 2 * radius
        rows = grad.new_zeros(width, tall, w, w + 2 * radius)
        band(rows, b, radius).copy_(grad.unflatten(3, (width, width)))
        grad_src = torch.zeros_like(src) if ctx.needs_input_grad[0] else None
        grad_tgt = torch.zeros_like(tgt) if ctx.needs_input_grad[1] else None
        for dy in range(width):
            if grad_src is not None:
                grad_src[:count].baddbmm_(rows[dy, :count], tgt[dy : dy + count])
            if grad_tgt is not None:
                grad_tgt[dy : dy + count].baddbmm_(rows[dy, :count].transpose(1, 2), src[:count])
        if grad_src is not None:
            grad_src = grad_src.unflatten(0, (b, -1))[:, :h]
        if grad_tgt is not None:
            grad_tgt = grad_tgt.unflatten(0, (b, -1))[:, radius : radius + h, radius : radius + w]
        return grad_src, grad_tgt, None


def band(rows: Tensor, b: int, radius: int) -> Tensor:
    """A view: rows[dy, image * (h + 2 radius) + y, x, x + dx] as [image, y, x, dy, dx]."""
    width, tall, w, v = rows.shape
    h = tall // b - 2 * radius
    return rows.as_strided((b, h, w, width, width), ((h + 2 * radius) * w * v, w * v, v + 1, tall * w * v, 1))
