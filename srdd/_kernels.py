"""Small functions compiled into one kernel each, for a graph recorded on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import tokenizer, transformer


def group_silu(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Group norm, then SiLU, of a map that lies in channels_last.

    Args:
        x: ``(b, c, h, w)``.
        groups: of channels.
        weight, bias: ``(c,)``.
        eps: added to the variance.
    """
    (b, c, h, w), rows = x.shape, x.permute(0, 2, 3, 1)
    y = rows.reshape(b, h * w, groups, c // groups).float()
    var, mean = torch.var_mean(y, dim=(1, 3), keepdim=True, correction=0)
    y = ((y - mean) * (var + eps).rsqrt()).reshape(b, h, w, c)
    return F.silu(y * weight + bias).to(x.dtype).permute(0, 3, 1, 2)


@contextmanager
def fused() -> Iterator[None]:
    """Compile the small functions between the products while a graph is recorded.

    Layer norm with modulation, and group norm with SiLU, become one or two kernels
    each. This takes seconds, and not the minutes of a whole network.
    """
    activate = torch.compile(group_silu, dynamic=False)
    rows = torch.compile(transformer.modulated, dynamic=True)

    def norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
        return activate(x, norm.num_groups, norm.weight, norm.bias, norm.eps)

    config = torch._dynamo.config  # its limit had another name before torch 2.7
    known = hasattr(config, "recompile_limit")
    limit = {"recompile_limit" if known else "cache_size_limit": 64}
    before = tokenizer.norm_silu, transformer.modulated
    tokenizer.norm_silu, transformer.modulated = norm_silu, rows
    try:
        with config.patch(limit):
            yield
    finally:
        tokenizer.norm_silu, transformer.modulated = before
