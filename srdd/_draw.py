"""One Triton kernel for all that `ScaleSampler.draw` does to a row of logits.

Top k and top p are found by halving, 32 steps each, over the bits of the numbers: a
row stays in the registers of its program, and nothing is sorted.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .data import GOLDEN, MIX, hash_counter

WORD = (1 << 64) - 1
STEP = tl.constexpr(GOLDEN & WORD)
FIRST, SECOND = (tl.constexpr(factor & WORD) for _, factor in MIX)


@triton.jit
def _draw(
    logits, keys, tokens, logs, places, heat, top_k, top_p,
    VOCAB: tl.constexpr, BLOCK: tl.constexpr, CUT_K: tl.constexpr, CUT_P: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    code = tl.arange(0, BLOCK)
    inside = code < VOCAB
    at = row.to(tl.int64) * VOCAB + code
    x = tl.load(logits + at, mask=inside, other=-float("inf")) / heat
    bits = x.to(tl.uint32, bitcast=True)  # unsigned numbers in the order of x
    order = tl.where(bits >> 31 == 1, bits ^ 0xFFFFFFFF, bits | 0x80000000)
    floor = tl.zeros((), tl.uint32)
    if CUT_K:  # the largest number that top_k codes reach
        for i in range(32):
            trial = floor | (tl.full((), 0x80000000, tl.uint32) >> i)
            many = tl.sum((order >= trial).to(tl.int32), 0) >= top_k
            floor = tl.where(many, trial, floor)
    top = tl.max(x, 0)
    mass = tl.where(inside & (order >= floor), tl.exp(x - top), 0.0)
    if CUT_P:  # the largest number above which the rest has its share
        wanted = top_p * tl.sum(mass, 0)
        least = tl.zeros((), tl.uint32)
        for i in range(32):
            trial = least | (tl.full((), 0x80000000, tl.uint32) >> i)
            much = tl.sum(tl.where(order >= trial, mass, 0.0), 0) >= wanted
            least = tl.where(much, trial, least)
        floor = tl.maximum(floor, least)
        mass = tl.where(order >= floor, mass, 0.0)
    counter = ((row % places) * VOCAB + code).to(tl.uint64)
    mixed = tl.load(keys + row // places).to(tl.uint64, bitcast=True) + STEP
    mixed += counter * STEP  # `hash_counter`, in unsigned numbers
    mixed = ((mixed >> 30) ^ mixed) * FIRST
    mixed = ((mixed >> 27) ^ mixed) * SECOND
    mixed = (mixed >> 31) ^ mixed
    high = ((mixed >> 41) & 0x7FFFFF).to(tl.int32)
    uniform = (high.to(tl.float32) + 0.5) * 1.1920928955078125e-07
    noisy = x - tl.log(-tl.log(uniform))
    best = tl.argmax(tl.where(inside & (order >= floor), noisy, -float("inf")), 0)
    drawn = tl.sum(tl.where(code == best, x, 0.0), 0)
    tl.store(tokens + row, best.to(tl.int64))
    tl.store(logs + row, drawn - top - tl.log(tl.sum(mass, 0)))


def draw_rows(
    logits: Tensor,
    seeds: Tensor,
    k: int,
    turn: int = 0,
    heat: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Tokens and their log probabilities, ``(b, n)`` each.

    Args:
        logits: ``(b, n, v)`` float32, on a CUDA device.
        seeds: ``(b,)`` int64.
        k, turn: scale and pass, as in `gumbel_noise`.
        heat: temperature.
        top_k: codes to keep; 0 keeps all. Ties of the last one survive.
        top_p: probability to keep among those; 1 keeps all.
    """
    (b, n, v), logits = logits.shape, logits.contiguous()
    stream = torch.full((), (turn << 16) + k, device=seeds.device)
    tokens = torch.empty(b, n, dtype=torch.int64, device=logits.device)
    logs = torch.empty(b, n, device=logits.device)
    _draw[(b * n,)](
        logits, hash_counter(seeds, stream), tokens, logs, n, heat, top_k, top_p,
        VOCAB=v, BLOCK=triton.next_power_of_2(v),
        CUT_K=0 < top_k < v, CUT_P=top_p < 1, num_warps=8 if v > 1024 else 4,
    )  # fmt: skip
    return tokens, logs
