"""The suite `var-gpu`: the published size on a GPU, the usual algorithm against ours.

The usual algorithm runs as it is published: float32 weights, frozen, under float16
autocast, call by call; and once more with its blocks and its decoder compiled. Ours
has float16 weights and is one recorded graph. Everything takes turns in one run.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import sampling, tokenizer, transformer
from .fast import PlainSampler, device_seconds, plain_decode, replayed, take_turns
from .sampling import ScaleSampler
from .scales import SHORT_256, VAR_256
from .speed import CAUSAL, MARKOV, PLAIN, SHORT, Compiled, Models, ratio
from .tokenizer import Tokenizer, TokenizerConfig
from .transformer import ScaleTransformer, preset

COMPILED = "usual, compiled"
FUSED = ", fused"


@contextmanager
def fused() -> Iterator[None]:
    """Compile the small functions between the products while a graph is recorded.

    Layer norm with modulation, group norm with SiLU, and the noise become one kernel
    each. They are compiled for any shape, so this takes seconds and not minutes.
    """
    activate = torch.compile(group_silu, dynamic=True)

    def norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
        return activate(x, norm.num_groups, norm.weight, norm.bias, norm.eps)

    noise, rows = sampling.gumbel_noise, transformer.modulated
    places: list[tuple[Any, str, Callable[..., Any]]] = [
        (tokenizer, "norm_silu", norm_silu),
        (transformer, "modulated", torch.compile(rows, dynamic=True)),
        (sampling, "gumbel_noise", torch.compile(noise, dynamic=True)),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in places]
    try:
        for module, name, function in places:
            setattr(module, name, function)
        yield
    finally:
        for module, name, function in before:
            setattr(module, name, function)


def group_silu(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Group norm, then SiLU."""
    return F.silu(F.group_norm(x, groups, weight, bias, eps))


def half(models: Models) -> Models:
    """The same weights in float16, convolutions in channels_last, and nothing shared."""
    small = deepcopy(models.tokenizer).half().to(memory_format=torch.channels_last)
    return Models.around(
        small, deepcopy(models.causal).half(), models.short.config.schedule, models
    )


def networks(models: Models) -> dict[str, tuple[ScaleTransformer, Tokenizer]]:
    """The three models of ours, each with the tokenizer of its schedule."""
    short = deepcopy_codes(models)
    return {
        CAUSAL: (models.causal, models.tokenizer),
        MARKOV: (models.markov, models.tokenizer),
        SHORT: (models.short, short),
    }


def deepcopy_codes(models: Models) -> Tokenizer:
    """The tokenizer with the codes of the short schedule, its weights shared."""
    config = replace(models.tokenizer.config, schedule=models.short.config.schedule)
    with torch.device("meta"):
        short = Tokenizer(config)
    short.encoder, short.decoder = models.tokenizer.encoder, models.tokenizer.decoder
    short.post_quant_conv = models.tokenizer.post_quant_conv
    short.quantize = models.short_codes
    return short.eval()


@torch.no_grad()
def usual_images(
    models: Models,
    kind: type[PlainSampler] = PlainSampler,
    decode: Callable[[Tokenizer, Tensor], Tensor] = plain_decode,
) -> Tensor:
    """Images of the usual algorithm, all of it under autocast."""
    with torch.autocast("cuda", torch.float16):
        _, f_hat = kind(
            models.causal,
            models.tokenizer.quantize,
            models.labels,
            models.seeds,
            models.sampling,
        ).run()
        return decode(models.tokenizer, f_hat)


def recorded(
    model: ScaleTransformer, tokenizer: Tokenizer, models: Models
) -> Callable[[], Any]:
    """Our sampling as a graph, ready to be called."""
    graph = replayed(model, tokenizer, len(models.labels), models.sampling)
    return partial(graph, models.labels, models.seeds)


@torch.no_grad()
def call_by_call(
    model: ScaleTransformer, tokenizer: Tokenizer, models: Models
) -> Callable[[], Any]:
    """The same without a graph."""

    def run() -> Any:
        chooser = ScaleSampler(
            model, tokenizer.quantize, models.labels, models.seeds, models.sampling
        )
        with torch.no_grad():
            return chooser.run(tokenizer)

    return run


def candidates(
    models: Models, small: Models, compiled: bool
) -> dict[str, Callable[[], Any]]:
    """All that is timed at one batch size.

    Args:
        models: float32, for the usual algorithm.
        small: float16, for ours.
        compiled: the compiled baseline too.
    """
    found: dict[str, Callable[[], Any]] = {PLAIN: partial(usual_images, models)}
    if compiled:
        decode = torch.compile(plain_decode)
        found[COMPILED] = partial(usual_images, models, Compiled, decode)
    ours = networks(small)
    found[f"{SHORT}, call by call"] = call_by_call(*ours[SHORT], small)
    found |= {name: recorded(*pair, small) for name, pair in ours.items()}
    with fused():
        found |= {
            name + FUSED: recorded(*ours[name], small)
            for name in (CAUSAL, MARKOV, SHORT)
        }
    return found


def latency_part(
    models: Models, small: Models, repeats: int, compiled: bool
) -> dict[str, Any]:
    """Seconds of whole generations, and their ratios to the baselines."""
    runs = candidates(models, small, compiled)
    seconds = take_turns(runs, repeats, device_seconds)
    bases = [name for name in (PLAIN, COMPILED) if name in seconds]
    return {
        "seconds": seconds,
        "ratios": {
            f"{base} / {name}": ratio(seconds, [base], [name])
            for base in bases
            for name in seconds
            if name not in bases
        }
        | (
            {f"{PLAIN} / {COMPILED}": ratio(seconds, [PLAIN], [COMPILED])}
            if compiled
            else {}
        ),
    }


@torch.no_grad()
def decoder_part(models: Models, small: Models, repeats: int) -> dict[str, Any]:
    """The decoder alone: seconds, and how far float16 is from float32."""
    batch, config = len(models.labels), models.tokenizer.config
    side = config.schedule.sides[-1]
    maps = torch.randn(batch, config.code_width, side, side, device="cuda")

    def usual() -> Tensor:
        with torch.autocast("cuda", torch.float16):
            return plain_decode(models.tokenizer, maps)

    runs = {
        "usual decoder": usual,
        "our decoder": partial(small.tokenizer.decode_map, maps.half()),
    }
    with fused():
        part = torch.compile(small.tokenizer.decode_map, dynamic=False)
        del part  # the whole decoder takes a minute to compile: pieces only
        seconds = take_turns(runs, repeats, device_seconds)
        runs["our decoder"]()
        seconds |= take_turns({"our decoder" + FUSED: runs["our decoder"]}, repeats)
    exact = models.tokenizer.decode_map(maps)
    off = (runs["our decoder"]().float() - exact).abs().max().item()
    return {"seconds": seconds, "largest difference, steps of 1/255": off * 127.5}
