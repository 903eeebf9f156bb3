"""The suite `var-gpu`: the published size on a GPU, the usual algorithm against ours.

The usual algorithm runs as it is published: float32 weights, frozen, under float16
autocast, call by call; and once more with its blocks and its decoder compiled. Ours
has float16 weights and is one recorded graph. Everything takes turns in one run.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ._kernels import fused
from .fast import (
    PlainSampler,
    Replay,
    device_seconds,
    plain_decode,
    replayed,
    take_turns,
)
from .sampling import ScaleSampler, full_precision
from .scales import SHORT_256, VAR_256
from .speed import (
    CAUSAL,
    MARKOV,
    PLAIN,
    SHORT,
    Compiled,
    Models,
    ratio,
    training_part,
)
from .tokenizer import Tokenizer, TokenizerConfig
from .transformer import ScaleTransformer, preset

COMPILED, FUSED, EAGER = "usual, compiled", ", fused", ", call by call"
EXACT = ", decoder in float32"
Run = Callable[[], Any]


# The two sides


def in_half(models: Models) -> Models:
    """The same weights in float16, convolutions in channels_last."""
    coder = deepcopy(models.tokenizer).half().to(memory_format=torch.channels_last)
    short, batch = models.short.config.schedule, len(models.labels)
    return Models.around(coder, deepcopy(models.causal).half(), short, batch)


def resized(models: Models, batch: int) -> Models:
    """The same networks for another number of images."""
    short = models.short.config.schedule
    return Models.around(models.tokenizer, models.causal, short, batch)


def short_tokenizer(models: Models) -> Tokenizer:
    """The tokenizer for the tokens of the short schedule, its weights shared."""
    config = replace(models.tokenizer.config, schedule=models.short.config.schedule)
    with torch.device("meta"):
        short = Tokenizer(config)
    for name in ("encoder", "decoder", "quant_conv", "post_quant_conv"):
        setattr(short, name, getattr(models.tokenizer, name))
    short.quantize = models.short_codes
    return short.eval()


def pairs(models: Models) -> dict[str, tuple[ScaleTransformer, Tokenizer]]:
    """Our three models, each with the tokenizer of its schedule."""
    return {
        CAUSAL: (models.causal, models.tokenizer),
        MARKOV: (models.markov, models.tokenizer),
        SHORT: (models.short, short_tokenizer(models)),
    }


@torch.no_grad()
def usual_images(
    models: Models,
    kind: type[PlainSampler] = PlainSampler,
    decode: Callable[[Tokenizer, Tensor], Tensor] = plain_decode,
) -> Tensor:
    """Images of the usual algorithm, all of it under autocast."""
    codes, labels, seeds = models.tokenizer.quantize, models.labels, models.seeds
    with torch.autocast(labels.device.type, torch.float16):
        _, f_hat = kind(models.causal, codes, labels, seeds, models.sampling).run()
        return decode(models.tokenizer, f_hat)


@torch.no_grad()
def our_images(models: Models, model: ScaleTransformer, coder: Tokenizer) -> Any:
    """What a graph records, call by call."""
    chooser = ScaleSampler(
        model, coder.quantize, models.labels, models.seeds, models.sampling
    )
    return chooser.run(coder)


def recorded(models: Models, model: ScaleTransformer, coder: Tokenizer) -> Run:
    """Our sampling as a graph."""
    graph = replayed(model, coder, len(models.labels), models.sampling)
    return partial(graph, models.labels, models.seeds)


# The parts of the suite


def usual_runs(models: Models, compiled: bool) -> dict[str, Run]:
    """The baselines: plain, and compiled if asked."""
    found: dict[str, Run] = {PLAIN: partial(usual_images, models)}
    if compiled:
        decode = torch.compile(plain_decode)
        found[COMPILED] = partial(usual_images, models, Compiled, decode)
    return found


def our_runs(models: Models, small: Models) -> dict[str, Run]:
    """Ours call by call, recorded, and recorded with small functions compiled.

    All in float16, and once with the decoder of the float32 `models`.
    """
    ours, exact = pairs(small), (small.short, short_tokenizer(models))
    found: dict[str, Run] = {SHORT + EAGER: partial(our_images, small, *ours[SHORT])}
    found |= {name: recorded(small, *pair) for name, pair in ours.items()}
    with fused():
        found |= {k + FUSED: recorded(small, *pair) for k, pair in ours.items()}
        found[SHORT + EXACT + FUSED] = recorded(small, *exact)
    return found


def latency_part(
    models: Models, small: Models, repeats: int, compiled: bool
) -> dict[str, Any]:
    """Seconds of whole generations, decoder included, and their ratios."""
    bases, ours = usual_runs(models, compiled), our_runs(models, small)
    seconds = take_turns(bases | ours, repeats, device_seconds)
    found = {f"{a} / {b}": ratio(seconds, [a], [b]) for a in bases for b in ours}
    if compiled:
        found[f"{PLAIN} / {COMPILED}"] = ratio(seconds, [PLAIN], [COMPILED])
    return {"seconds": seconds, "ratios": found}


@torch.no_grad()
def decoder_part(models: Models, small: Models, repeats: int) -> dict[str, Any]:
    """The decoder alone: seconds, and how far other formats are from float32."""
    config, batch = models.tokenizer.config, len(models.labels)
    side, device = config.schedule.sides[-1], models.labels.device
    maps = torch.randn(batch, config.code_width, side, side, device=device)

    def usual() -> Tensor:
        with torch.autocast(device.type, torch.float16):
            return plain_decode(models.tokenizer, maps)

    half = maps.half()
    decode, exactly = small.tokenizer.decode_map, models.tokenizer.decode_map
    with fused():
        quick = partial(Replay(decode, half), half)
        coarse = partial(Replay(exactly, maps), maps)
        with full_precision():
            single = partial(Replay(exactly, maps), maps)
    runs: dict[str, Run] = {
        "usual decoder": usual,
        "our decoder": partial(decode, half),
        "our decoder, recorded": partial(Replay(decode, half), half),
        "our decoder" + FUSED: quick,
        "our decoder, TF32" + FUSED: coarse,
        "our decoder, float32" + FUSED: single,
    }
    with full_precision():
        exact = exactly(maps)
    apart = {
        f"{name}, steps of 1/255": (run().float() - exact).abs().max().item() * 127.5
        for name, run in runs.items()
    }
    return {"seconds": take_turns(runs, repeats, device_seconds)} | apart


def peak_bytes(run: Run) -> int:
    """Most memory of the device while `run` is called, weights included."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def memory_part(make: Callable[[], Models], batch: int) -> dict[str, float]:
    """Peak memory of one batch on either side, with nothing else on the device.

    Args:
        make: makes the float32 models on the device.
        batch: images at a time.
    """
    models = resized(make(), batch)
    found: dict[str, float] = {PLAIN: peak_bytes(partial(usual_images, models))}
    small = in_half(models)
    del models
    for name, pair in pairs(small).items():
        found[name] = peak_bytes(partial(our_images, small, *pair))
    whole = {f"{name} / {PLAIN}": found[name] / found[PLAIN] for name in pairs(small)}
    return found | whole


@torch.no_grad()
def equality_part(models: Models, small: Models) -> dict[str, float]:
    """Tokens of half precision against those of float32, and graph against calls."""
    args = models.tokenizer.quantize, models.labels, models.seeds, models.sampling
    exact = torch.cat(PlainSampler(models.causal, *args).run()[0], 1)
    with torch.autocast(models.labels.device.type, torch.float16):
        usual = torch.cat(PlainSampler(models.causal, *args).run()[0], 1)
    single = our_images(models, models.causal, models.tokenizer)
    model, coder = pairs(small)[SHORT]
    calls, graph = our_images(small, model, coder), recorded(small, model, coder)()
    with fused():
        quick = recorded(small, model, coder)()

    def differ(a: list[Tensor], b: list[Tensor]) -> int:
        return sum(int((x != y).sum()) for x, y in zip(a, b, strict=True))

    half = our_images(small, small.causal, small.tokenizer)
    return {
        "tokens": exact.numel(),
        "ours in float32, tokens that differ": differ(
            [exact], [torch.cat(single.tokens, 1)]
        ),
        "usual in float16, tokens that differ": int((exact != usual).sum()),
        "ours in float16, tokens that differ": differ(
            [exact], [torch.cat(half.tokens, 1)]
        ),
        "graph against calls, tokens that differ": differ(calls.tokens, graph.tokens),
        "fused against calls, tokens that differ": differ(calls.tokens, quick.tokens),
    }


def step_part(models: Models, repeats: int) -> dict[str, Any]:
    """Training steps in bfloat16 autocast: as usual, and on cached tokens."""
    for network in (models.causal, models.markov, models.short):
        network.requires_grad_(True)
    with torch.autocast(models.labels.device.type, torch.bfloat16):
        found = training_part(models, repeats, device_seconds)
    return {name: found[name] for name in ("seconds", "ratios")} | found["losses"]


def gpu_suite(
    repeats: int = 20,
    name: str = "d16",
    batch: int = 64,
    keep: Callable[[str, Run], Any] = lambda _, part: part(),
) -> dict[str, Any]:
    """The published size ``name`` with random weights, 256 pixels, guided.

    Args:
        repeats: rounds.
        name: a preset.
        batch: images of the large batch; the small one is a single image.
        keep: called with the name of each part and a function that measures it.
    Returns:
        Seconds and ratios round by round, counts and bytes, by part.
    Raises:
        ValueError: no CUDA device.
    """
    if not torch.cuda.is_available():
        raise ValueError("suite var-gpu needs a CUDA device, and torch sees none")

    def make() -> Models:
        torch.manual_seed(0)
        config = preset(name, mask="causal", schedule=VAR_256)
        models = Models.of(config, TokenizerConfig(), SHORT_256)
        for network in (models.tokenizer, models.causal):
            network.requires_grad_(False).to("cuda")
        return Models.around(models.tokenizer, models.causal, SHORT_256, 1)

    found = {"memory": keep("memory", lambda: memory_part(make, batch))}
    models = make()
    small = in_half(models)
    many, small_many = resized(models, batch), resized(small, batch)
    for title, part in {
        "equal": lambda: equality_part(models, small),
        "one image, compiled too": lambda: latency_part(models, small, repeats, True),
        "one image": lambda: latency_part(models, small, repeats, compiled=False),
        f"{batch} images": lambda: latency_part(many, small_many, repeats, False),
        "decoder, one image": lambda: decoder_part(models, small, repeats),
        f"decoder, {batch} images": lambda: decoder_part(many, small_many, repeats),
        "training, 16 images": lambda: step_part(resized(models, 16), repeats),
    }.items():
        found[title] = keep(title, part)
    return found
