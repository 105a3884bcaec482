"""The layers of an acoustic model in torch, one to one with those of `runtime.network`.

Every layer is `forward(x (batch, frames, features), lengths (batch,)) -> (y, lengths)`. What an utterance gets never
depends on the padding behind it: frames past its length are masked wherever a layer would look at them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr_compress.models.lstm import LSTMDirection

CLIP = 20.0  # DeepSpeech's clipped ReLU: min(max(x, 0), 20) (Hannun et al. 2014, section 2)


class Layer(nn.Module):
    """`forward(x (batch, frames, features), lengths int64 (batch,)) -> (y, lengths)`."""

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.map(x), lengths

    def map(self, x: Tensor) -> Tensor:
        """For layers that work on each frame alone: `(batch, frames, features)` in and out."""
        raise TypeError(f"{type(self).__name__} defines neither forward nor map")


class Normalize(Layer):
    """Global mean and variance normalization, `(x - mean) * scale`. The statistics are buffers, not trained."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", scale.float())

    def map(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale


class FrameStack(Layer):
    """Low frame rate: output t is frames `[t * stride, t * stride + stack)` side by side, zeros past the end."""

    def __init__(self, stack: int, stride: int) -> None:
        super().__init__()
        self.stack, self.stride = stack, stride

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = mask_padding(x, lengths)
        batch, frames, features = x.shape
        count = -(-frames // self.stride)
        x = functional.pad(x, (0, 0, 0, max(0, (count - 1) * self.stride + self.stack - frames)))
        windows = x.unfold(1, self.stack, self.stride)[:, :count]  # (batch, count, features, stack)
        return windows.transpose(2, 3).reshape(batch, count, self.stack * features), _ceil_div(lengths, self.stride)

    def extra_repr(self) -> str:
        return f"stack={self.stack}, stride={self.stride}"


class Conv(Layer):
    """Convolution over time, and over frequency where a frame is `(bins, channels)` flattened; "same" zero padding.

    A time-delay layer (Waibel et al. 1989; Peddinti et al. 2015) is `bins=1` with a kernel of width 1 in frequency.

    Attributes:
        weight: `(out_channels, in_channels, kernel time, kernel frequency)`.
        bias: `(out_channels,)`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        bins: int = 1,
    ) -> None:
        super().__init__()
        reference = nn.Conv2d(in_channels, out_channels, kernel)  # for torch's default initialization
        assert reference.bias is not None
        self.weight, self.bias = reference.weight, reference.bias
        self.in_channels, self.out_channels, self.bins = in_channels, out_channels, bins
        self.kernel, self.stride, self.dilation = kernel, stride, dilation

    @property
    def outputs(self) -> int:
        """Features of an output frame."""
        return -(-self.bins // self.stride[1]) * self.out_channels

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = mask_padding(x, lengths)
        batch, frames, _ = x.shape
        image = x.reshape(batch, frames, self.bins, self.in_channels).permute(0, 3, 1, 2)
        image = functional.pad(image, self._padding(self.bins, 1) + self._padding(frames, 0))
        image = functional.conv2d(image, self.weight, self.bias, self.stride, dilation=self.dilation)
        return image.permute(0, 2, 3, 1).reshape(batch, image.shape[2], -1), _ceil_div(lengths, self.stride[0])

    def _padding(self, size: int, axis: int) -> tuple[int, int]:
        span = self.dilation[axis] * (self.kernel[axis] - 1)
        left = span // 2
        needed = (-(-size // self.stride[axis]) - 1) * self.stride[axis] + span + 1
        return left, max(0, needed - size - left)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel={self.kernel}, stride={self.stride}, "
            f"dilation={self.dilation}, bins={self.bins}"
        )


class Activation(Layer):
    """`relu`, or `clipped_relu` (at 20)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind not in ("relu", "clipped_relu"):
            raise ValueError(f"activation {kind!r}; allowed: relu, clipped_relu")
        self.kind = kind

    def map(self, x: Tensor) -> Tensor:
        return functional.relu(x) if self.kind == "relu" else functional.hardtanh(x, 0.0, CLIP)

    def extra_repr(self) -> str:
        return self.kind


class Recurrent(Layer):
    """One LSTM layer; with `bidirectional`, two directions side by side on the feature axis, forward first."""

    def __init__(self, inputs: int, hidden: int, bidirectional: bool = False, projection: int = 0) -> None:
        super().__init__()
        sides = (False, True)[: 1 + bidirectional]
        directions = [LSTMDirection(inputs, hidden, projection, reverse=reverse) for reverse in sides]
        for direction in directions:
            remember_at_first(direction)
        self.directions = nn.ModuleList(directions)

    @property
    def outputs(self) -> int:
        """Features of an output frame."""
        return sum(direction.outputs for direction in self.directions if isinstance(direction, LSTMDirection))

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        outputs = [direction(x, lengths)[0] for direction in self.directions]
        return torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0], lengths


class LayerNorm(Layer):
    """Layer normalization of each frame (Ba et al. 2016).

    Attributes:
        live: bool `(features,)`, the features that exist once pruned units are removed, or None for all. The others
            count neither in mean nor in variance and come out as zero, so that masked units are as good as gone.
    """

    live: Tensor | None

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.eps = eps
        self.register_buffer("live", None)

    def map(self, x: Tensor) -> Tensor:
        if self.live is None:
            return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        live = self.live.to(x.dtype)
        centered = (x - (x * live).sum(-1, keepdim=True) / live.sum()) * live
        variance = centered.square().sum(-1, keepdim=True) / live.sum()
        return (centered * torch.rsqrt(variance + self.eps) * self.weight + self.bias) * live


class Linear(Layer):
    """Affine map of each frame. `weight (outputs, inputs)`, `bias (outputs,)`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        reference = nn.Linear(inputs, outputs)
        self.weight, self.bias = reference.weight, reference.bias

    def map(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"


class Dropout(Layer):
    """Dropout between layers; training only, so a `Network` has no such layer."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def map(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0 or x.device.type != "cpu":
            return functional.dropout(x, self.rate, self.training)
        return x * _dropout_mask(x.shape, self.rate).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.rate}"


def _dropout_mask(shape: torch.Size, rate: float) -> Tensor:
    """float32 `shape`, zero with probability `rate` (to 1/65536), else what keeps the mean.

    Four numbers are cut from each random 64 bits: torch's own dropout draws anew for each element, which took a
    twentieth of a training step.
    """
    count = shape.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    dropped = round(rate * 65536)
    kept = bits.view(torch.int16)[:count] >= dropped - 32768
    return (kept.to(torch.float32) * (65536 / max(65536 - dropped, 1))).view(shape)


def mask_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """`x (batch, frames, features)` with zeros past each utterance's length."""
    valid = torch.arange(x.shape[1], device=x.device)[None] < lengths.to(x.device)[:, None]
    return x * valid[:, :, None].to(x.dtype)


def remember_at_first(direction: LSTMDirection) -> None:
    """Start with forget gates at sigma(1): gradients reach far back from the first step (Jozefowicz et al. 2015)."""
    if direction.bias_ih is None or direction.bias_hh is None:
        return
    hidden = direction.hidden
    with torch.no_grad():
        direction.bias_ih[hidden : 2 * hidden] = 1.0
        direction.bias_hh[hidden : 2 * hidden] = 0.0


def _ceil_div(lengths: Tensor, divisor: int) -> Tensor:
    return torch.div(lengths + divisor - 1, divisor, rounding_mode="floor")
