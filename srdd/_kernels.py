"""Small functions as one kernel each, for a graph recorded on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import tokenizer, transformer
from .sampling import ScaleSampler, at_scale
from .transformer import MLP


def group_silu(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Group norm, then SiLU, of a map that lies in channels_last.

    Sums run over places, channel by channel, as the map lies; the first place is
    taken off before, so that squares lose nothing to a large mean.

    Args:
        x: ``(b, c, h, w)``.
        groups: of channels.
        weight, bias: ``(c,)``.
        eps: added to the variance.
    """
    rows = x.permute(0, 2, 3, 1).flatten(1, 2)  # (b, h w, c)
    first = rows[:, :1].float()
    y = rows.float() - first
    off, square = y.mean(1, keepdim=True), (y * y).mean(1, keepdim=True)
    each, spread = (
        t.unflatten(2, (groups, -1)) for t in (first + off, square - off**2)
    )
    mean = each.mean(3, keepdim=True)  # (b, 1, groups, 1)
    var = (spread + (each - mean) ** 2).mean(3, keepdim=True)
    root = (var + eps).rsqrt()
    factor = root.expand_as(each).flatten(2) * weight  # (b, 1, c)
    shift = bias - (mean * root).expand_as(each).flatten(2) * weight
    y = F.silu(rows.float() * factor + shift).to(x.dtype)
    return y.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


def quick_mlp(mlp: MLP, x: Tensor) -> Tensor:
    """`MLP.forward` with the GELU inside the first product."""
    rows, first = x.flatten(0, -2), mlp.fc1
    y = torch._addmm_activation(first.bias, rows, first.weight.t(), use_gelu=True)
    return mlp.fc2(y.unflatten(0, x.shape[:-1]))


def quick_draw(
    sampler: ScaleSampler,
    k: int,
    logits: Tensor,
    turn: int = 0,
    temperature: float | None = None,
) -> tuple[Tensor, Tensor]:
    """`ScaleSampler.draw` by the kernel of `srdd._draw`."""
    from ._draw import draw_rows

    config = sampler.config
    heat = temperature or at_scale(config.temperature, k)
    limits = (at_scale(config.top_k, k), at_scale(config.top_p, k))
    return draw_rows(logits, sampler.seeds, k, turn, heat, *limits)


@contextmanager
def fused() -> Iterator[None]:
    """Use one or two kernels for each of the small functions of a recorded graph.

    These are layer norm with modulation, the lengths of queries and keys, group norm
    with SiLU, GELU in its product, and the draw of the tokens. This takes seconds,
    and not the minutes of a whole network. On a CPU, which has no graphs, the first
    three alone.
    """
    activate = torch.compile(group_silu, dynamic=False)

    def norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
        return activate(x, norm.num_groups, norm.weight, norm.bias, norm.eps)

    ours: dict[tuple[Any, str], Callable[..., Any]] = {
        (tokenizer, "norm_silu"): norm_silu,
        (transformer, "modulated"): torch.compile(transformer.modulated),
        (transformer, "of_length"): torch.compile(transformer.of_length),
    }
    if torch.cuda.is_available():
        ours |= {(MLP, "forward"): quick_mlp, (ScaleSampler, "draw"): quick_draw}
    config = torch._dynamo.config  # its limit had another name before torch 2.7
    known = hasattr(config, "recompile_limit")
    limit = {"recompile_limit" if known else "cache_size_limit": 64}
    before = {(home, name): getattr(home, name) for home, name in ours}
    try:
        for (home, name), quick in ours.items():
            setattr(home, name, quick)
        with config.patch(limit):
            yield
    finally:
        for (home, name), usual in before.items():
            setattr(home, name, usual)
