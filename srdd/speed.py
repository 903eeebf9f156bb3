"""The suites of timings: the shipped pair, and a model of published size.

In the suite `var` everything is timed in turn, in CPU seconds of one thread, in
float32 and with random weights. The usual algorithm is that of chapter 16; both give the same tokens.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from . import fast
from .attention import project
from .costs import (
    decoder_flops,
    encoder_flops,
    sampling_bytes,
    training_flops,
    transformer_flops,
)
from .fast import (
    PlainBlocks,
    PlainSampler,
    Tally,
    Timing,
    bytes_kept,
    cache_bytes,
    generation,
    interleave,
    one_thread,
    plain_decode,
    take_turns,
    training_step,
)
from .quantization import MultiScaleQuantizer, ScaleCodes
from .sampling import SampleConfig, ScaleSampler, filter_logits, sampling_preset
from .scales import SHORT_256, VAR_256, VAR_512, ScaleSchedule
from .tokenizer import Tokenizer, TokenizerConfig
from .transformer import Block, ScaleTransformer, TransformerConfig, preset

PLAIN, CAUSAL, MARKOV, SHORT = (
    "usual, causal 10",
    "ours, causal 10",
    "ours, Markovian 10",
    "ours, Markovian 6",
)
GIGA = 1e9


# The models


def lively(model: ScaleTransformer) -> ScaleTransformer:
    """Starting weights with open gates and a head that has opinions, without dropout."""
    with torch.no_grad():
        model.head.weight.mul_(50)
        for block in model.blocks:
            gates = 2 * model.config.width
            if model.config.shared_adaln:
                block.modulation_offset[:2].mul_(300)
            else:
                block.modulation.weight[:gates].mul_(300)
    return model.eval()


def sibling(model: ScaleTransformer, **changes: Any) -> ScaleTransformer:
    """A model with another mask or fewer scales that shares the weights."""
    config = replace(model.config, **changes)
    with torch.device("meta"):
        other = ScaleTransformer(config)
    state = model.state_dict()
    state["position_embed"] = state["position_embed"][:, : config.schedule.length]
    state["scale_embed.weight"] = state["scale_embed.weight"][: len(config.schedule)]
    other.load_state_dict(state, assign=True)
    return other.eval()


def codes_for(tokenizer: Tokenizer, schedule: ScaleSchedule) -> ScaleCodes:
    """The tokenizer's codes for another list of sides."""
    own, shape = tokenizer.quantize, tokenizer.config
    made = ScaleCodes(shape.vocab, shape.code_width, schedule, shape.phi_convs)
    made.embedding, made.quant_resi = own.embedding, own.quant_resi
    return made


@dataclass(frozen=True)
class Models:
    """What the suite runs: one set of weights under two masks and two schedules."""

    tokenizer: Tokenizer
    causal: ScaleTransformer
    markov: ScaleTransformer
    short: ScaleTransformer
    short_codes: ScaleCodes
    labels: Tensor
    seeds: Tensor
    preset: str = "var-fid"

    @classmethod
    def of(
        cls,
        config: TransformerConfig,
        shape: TokenizerConfig,
        short: ScaleSchedule,
        batch: int = 1,
    ) -> Models:
        """Random models of a shape.

        Args:
            config: causal.
            shape: of the tokenizer.
            short: fewer scales, for the short model.
            batch: images at a time.
        """
        tokenizer = Tokenizer(shape).eval()
        causal = lively(ScaleTransformer(replace(config, drop_path=0.0)))
        return cls.around(tokenizer, causal, short, batch)

    @classmethod
    def around(
        cls,
        tokenizer: Tokenizer,
        causal: ScaleTransformer,
        short: ScaleSchedule,
        batch: int,
    ) -> Models:
        """The other models share the weights of these two, and their device."""
        images = torch.arange(batch, device=causal.head.weight.device)
        return cls(
            tokenizer,
            causal,
            sibling(causal, mask="markov"),
            sibling(causal, mask="markov", schedule=short),
            codes_for(tokenizer, short),
            images % causal.config.classes,
            images + 11,
        )

    @property
    def sampling(self) -> Any:
        """The published evaluation settings, top k within the vocabulary."""
        found = sampling_preset(self.preset)
        return replace(found, top_k=min(found.top_k, self.causal.config.vocab))


# What is timed


@torch.no_grad()
def ours(
    models: Models,
    model: ScaleTransformer,
    codes: ScaleCodes | None = None,
    sampling: SampleConfig | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Tokens and map as the shipped sampler makes them, without the decoder."""
    codes, how = codes or models.tokenizer.quantize, sampling or models.sampling
    sampler = ScaleSampler(model, codes, models.labels, models.seeds, how)
    steps = list(codes.steps(sampler.choose, len(models.seeds)))
    return [step.tokens for step in steps], steps[-1].f_hat


def usual(
    models: Models, kind: type[PlainSampler] = PlainSampler
) -> tuple[list[Tensor], Tensor]:
    """Tokens and map of the usual algorithm."""
    quantize = models.tokenizer.quantize
    return kind(
        models.causal, quantize, models.labels, models.seeds, models.sampling
    ).run()


def generators(models: Models) -> dict[str, Callable[[], Any]]:
    """Transformer and drawing of one batch, four ways."""
    return {
        PLAIN: lambda: usual(models),
        CAUSAL: lambda: ours(models, models.causal),
        MARKOV: lambda: ours(models, models.markov),
        SHORT: lambda: ours(models, models.short, models.short_codes),
    }


@torch.no_grad()
def decoded(models: Models, f_hat: Tensor) -> Tensor:
    """Images as shipped."""
    return models.tokenizer.decode_map(f_hat)


def cached_step(
    model: ScaleTransformer,
    codes: Any,
    tokens: list[Tensor],
    labels: Tensor,
    backend: str = "packed",
) -> Callable[[], Tensor]:
    """A training step as shipped: the tokens are there already."""

    def step() -> Tensor:
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            inputs = codes.teacher_inputs(tokens)
        logits = model(inputs, labels, backend).flatten(0, 1)
        loss = F.cross_entropy(logits, torch.cat(tokens, 1).flatten())
        loss.backward()
        return loss

    return step


# Each waste removed alone from the usual algorithm


class ModulationOnce(PlainSampler):
    """The vectors of a block are kept from the first scale on."""

    def vectors(self, block: Block, signal: Tensor) -> Sequence[Tensor]:
        """Computed at the first scale, then remembered."""
        known = self.__dict__.setdefault("known", {})
        if id(block) not in known:
            known[id(block)] = super().vectors(block, signal)
        return known[id(block)]


class CacheInPlace(PlainSampler):
    """Keys and values are written into one buffer of full length."""

    def attention(
        self, layer: Any, x: Tensor, old: Any, bias: Tensor | None
    ) -> tuple[Tensor, Any]:
        """The first scale makes the buffers."""
        if old is None:
            n, width = self.model.config.schedule.length, layer.q_bias.numel()
            shape = (len(x), layer.heads, n, width // layer.heads)
            old = tuple(x.new_empty(shape)[:, :, :0] for _ in range(2))
        return super().attention(layer, x, old, bias)

    def remember(self, old: Tensor, new: Tensor) -> Tensor:
        """Write behind what is there."""
        whole, done = old._base, old.shape[2]
        whole[:, :, done : done + new.shape[2]] = new
        return whole[:, :, : done + new.shape[2]]


class TopKFirst(PlainSampler):
    """Top p sorts what top k has left."""

    def filtered(self, logits: Tensor) -> Tensor:
        """As shipped."""
        return filter_logits(logits, self.config.top_k, self.config.top_p)


class GuidanceWhereItActs(PlainSampler):
    """The head of the empty label rests where its weight is 0."""

    def law(self, x: Tensor, t: float) -> Tensor:
        """Logits of the label alone where nothing guides."""
        if t != 0:
            return super().law(x, t)
        half = len(x) // 2
        return self.logits(x[:half], self.start[:half])


class OtherProducts(PlainSampler):
    """Products by oneDNN, the GELU with them."""

    def product(self, layer: Any, x: Tensor, bias: Tensor | None) -> Tensor:
        """As shipped."""
        return project(x, layer.weight, bias)

    def mlp(self, block: Block, x: Tensor) -> Tensor:
        """As shipped."""
        first, second = block.mlp.fc1, block.mlp.fc2
        x = project(x, first.weight, first.bias, gelu=True)
        return project(x, second.weight, second.bias)


WASTES: dict[str, type[PlainSampler]] = {
    "modulation at every scale": ModulationOnce,
    "cache by concatenation": CacheInPlace,
    "sort of the vocabulary": TopKFirst,
    "guidance of weight 0": GuidanceWhereItActs,
    "slower products": OtherProducts,
}


class Compiled(PlainSampler):
    """The usual algorithm, its blocks compiled."""

    compiled: Any = None

    def block(
        self,
        block: Block,
        x: Tensor,
        signal: Tensor,
        old: Any = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """The compiled block."""
        if Compiled.compiled is None:
            Compiled.compiled = torch.compile(PlainBlocks.block)
        return Compiled.compiled(self.blocks, block, x, signal, old, bias)

    @property
    def blocks(self) -> PlainBlocks:
        """An object whose own `block` is the plain one."""
        if "plain" not in self.__dict__:
            self.__dict__["plain"] = PlainBlocks(self.model)
        return self.__dict__["plain"]


def compiler() -> str | None:
    """A C++ compiler for torch.compile on a CPU, if there is one."""
    return shutil.which("g++") or shutil.which("clang++")


# Ratios and counts


def ratio(
    seconds: Mapping[str, Sequence[float]], slow: Sequence[str], quick: Sequence[str]
) -> list[float]:
    """Ratio of sums, round by round."""
    sums = [
        [sum(each) for each in zip(*(seconds[n] for n in names), strict=True)]
        for names in (slow, quick)
    ]
    return [a / b for a, b in zip(*sums, strict=True)]


def tallied(run: Callable[[], Any], *modules: torch.nn.Module) -> dict[str, int]:
    """Operations, views, bytes moved and peak of live bytes of a call."""
    given = [x for m in modules for x in m.state_dict().values()]
    with Tally(given) as tally:
        run()
    return {
        "operations": tally.calls,
        "views": tally.views,
        "bytes moved": tally.moved,
        "peak of live bytes": tally.peak,
    }


def counts(models: Models) -> dict[str, dict[str, float]]:
    """Counts of the four ways, one run of each, and operations by formula."""
    scales = len(models.causal.config.schedule)
    times = {PLAIN: scales, CAUSAL: 1, MARKOV: 1, SHORT: 1}
    nets = {PLAIN: models.causal, CAUSAL: models.causal}
    nets |= {MARKOV: models.markov, SHORT: models.short}
    found: dict[str, dict[str, float]] = {}
    for name, run in generators(models).items():
        config, batch = nets[name].config, len(models.seeds)
        flops = transformer_flops(config, conditions=times[name]).total
        cache = 0 if config.mask == "markov" else 2 * 2 * 4 * batch
        cache *= config.depth * config.width * config.schedule.length
        found[name] = tallied(run, nets[name], models.tokenizer.quantize)
        found[name] |= {"GFLOP per image": flops / GIGA, "cache bytes": cache}
    return found


def cast_bytes(models: Models) -> dict[str, int]:
    """Bytes moved in half precision: weights cast at every scale, once, or half."""
    moved = {}
    for name, frozen in (("cast at every scale", True), ("cast once", False)):
        models.causal.requires_grad_(not frozen)
        with torch.autocast("cpu", torch.bfloat16):
            moved[name] = tallied(lambda: usual(models))["bytes moved"]
    models.causal.requires_grad_(True)
    return moved


def decode_peaks(models: Models, f_hat: Tensor) -> dict[str, int]:
    """Peak of live bytes while a batch of eight is decoded."""
    maps = f_hat[:1].repeat(8, 1, 1, 1)
    whole = tallied(lambda: plain_decode(models.tokenizer, maps), models.tokenizer)
    parts = tallied(lambda: decoded(models, maps), models.tokenizer)
    key = "peak of live bytes"
    return {"whole batch": whole[key], "in chunks": parts[key]}


# The suite


def sampling_part(models: Models, repeats: int) -> dict[str, Any]:
    """Four ways to sample, two ways to decode."""
    tokens, f_hat = usual(models)
    same = torch.cat(tokens, 1) != torch.cat(ours(models, models.causal)[0], 1)
    candidates = generators(models) | {
        "usual decoder": lambda: plain_decode(models.tokenizer, f_hat),
        "our decoder": lambda: decoded(models, f_hat),
    }
    images = [candidates[f"{who} decoder"]() for who in ("usual", "our")]
    seconds = take_turns(candidates, repeats)
    whole = [PLAIN, "usual decoder"]
    return {
        "seconds": seconds,
        "ratios": {
            "transformer, usual / ours, 10 scales": ratio(seconds, [PLAIN], [CAUSAL]),
            "transformer, usual / Markovian 10": ratio(seconds, [PLAIN], [MARKOV]),
            "transformer, usual / Markovian 6": ratio(seconds, [PLAIN], [SHORT]),
            "decoder, usual / ours": ratio(seconds, whole[1:], ["our decoder"]),
            "end to end, usual / ours, 10 scales": ratio(
                seconds, whole, [CAUSAL, "our decoder"]
            ),
            "end to end, usual / Markovian 10": ratio(
                seconds, whole, [MARKOV, "our decoder"]
            ),
            "end to end, usual / Markovian 6": ratio(
                seconds, whole, [SHORT, "our decoder"]
            ),
            "latency at 256, causal / Markovian": ratio(seconds, [CAUSAL], [MARKOV]),
        },
        "equal": {
            "tokens": same.numel(),
            "tokens that differ": int(same.sum()),
            "largest difference of a pixel": (images[0] - images[1]).abs().max().item(),
        },
    }


def training_part(
    models: Models, repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, Any]:
    """A forward and backward pass on images against one on cached tokens."""
    side, where = models.tokenizer.config.image_side, models.labels.device
    images = torch.rand(len(models.labels), 3, side, side, device=where) * 2 - 1
    with torch.no_grad():
        tokens = models.tokenizer.encode(images)
        few = models.tokenizer.quantize.encode(
            models.tokenizer.features(images), models.short.config.schedule
        )
    labels, codes = models.labels, models.tokenizer.quantize
    short = teacher(models)
    candidates = {
        "usual step": fast.plain_training_step(
            models.causal, models.tokenizer, images, labels
        ),
        "usual step, cached tokens": dense_step(models, tokens),
        "our step, causal 10, dense mask": cached_step(
            models.causal, codes, tokens, labels, "dense"
        ),
        "our step, causal 10": cached_step(models.causal, codes, tokens, labels),
        "our step, Markovian 10": cached_step(models.markov, codes, tokens, labels),
        "our step, Markovian 6": cached_step(models.short, short, few, labels),
    }
    if where.type == "cuda":
        candidates["our step, Markovian 10, flex"] = cached_step(
            models.markov, codes, tokens, labels, "flex"
        )
    losses = {name: run().item() for name, run in candidates.items()}
    seconds = take_turns(candidates, repeats, clock)
    first, *others = candidates
    return {
        "seconds": seconds,
        "ratios": {
            f"training, usual / {name.removeprefix('our step, ')}": ratio(
                seconds, [first], [name]
            )
            for name in others
        },
        "losses": losses,
        "optimizer": "not included: it is the same for all, and a batch shares it",
    }


def teacher(models: Models) -> MultiScaleQuantizer:
    """A quantizer that makes inputs of the short schedule from tokens."""
    own, shape = models.short_codes, models.tokenizer.config
    made = MultiScaleQuantizer(
        shape.vocab, shape.code_width, own.schedule, phi_convs=shape.phi_convs
    )
    made.embedding, made.quant_resi = own.embedding, own.quant_resi
    return made


def dense_step(models: Models, tokens: list[Tensor]) -> Callable[[], Tensor]:
    """The usual step, its encoder spared."""

    class Known:
        """Stands for a tokenizer whose images were encoded before."""

        quantize = models.tokenizer.quantize

        @staticmethod
        def encode(images: Tensor) -> list[Tensor]:
            """The tokens that are known."""
            return tokens

    images = torch.zeros(len(models.labels), 1, device=models.labels.device)
    return fast.plain_training_step(models.causal, Known(), images, models.labels)


def waste_part(models: Models, repeats: int) -> dict[str, Any]:
    """Each waste removed alone: what share of the time it was."""
    candidates: dict[str, Callable[[], Any]] = {"usual": lambda: usual(models)}
    for name, kind in WASTES.items():
        candidates[name] = lambda kind=kind: usual(models, kind)
    want = torch.cat(usual(models)[0], 1)
    for name, run in candidates.items():
        if not torch.equal(torch.cat(run()[0], 1), want):
            raise ValueError(f"{name}: other tokens than the usual algorithm's")
    seconds = take_turns(candidates, repeats)
    return {
        "blocks": models.causal.config.depth,
        "seconds": seconds,
        "shares": {
            name: [1 - b / a for a, b in zip(seconds["usual"], own, strict=True)]
            for name, own in seconds.items()
            if name != "usual"
        },
    }


def compiled_part(models: Models, repeats: int) -> dict[str, Any]:
    """The usual algorithm compiled, beside itself and ours; or why not.

    Who counts operations does not count these.
    """
    if compiler() is None:
        return {"skipped": "no C++ compiler"}
    try:
        with torch.no_grad(), _disable_current_modes():
            usual(models, Compiled)
    except Exception as error:
        return {"skipped": " ".join(str(error).split())[:200]}
    candidates = {
        "usual": lambda: usual(models),
        "usual, compiled": lambda: usual(models, Compiled),
        "ours": lambda: ours(models, models.causal),
    }
    with _disable_current_modes():  # a compiler works beside no counter
        seconds = take_turns(candidates, repeats)
    return {
        "seconds": seconds,
        "ratios": {
            "transformer, compiled / ours, 10 scales": ratio(
                seconds, ["usual, compiled"], ["ours"]
            ),
            "transformer, usual / compiled": ratio(
                seconds, ["usual"], ["usual, compiled"]
            ),
        },
    }


def large_part(config: TransformerConfig, repeats: int) -> dict[str, Any]:
    """Causal against Markovian for larger images, with few blocks."""
    shape = TokenizerConfig(base=32, schedule=VAR_512)
    models = Models.of(config, shape, VAR_512)
    candidates = {k: v for k, v in generators(models).items() if k in (CAUSAL, MARKOV)}
    seconds = take_turns(candidates, repeats)
    return {
        "blocks": config.depth,
        "seconds": seconds,
        "ratios": {
            "latency at 512, causal / Markovian": ratio(seconds, [CAUSAL], [MARKOV])
        },
    }


def memory_part(name: str) -> dict[str, dict[str, float]]:
    """Memory of sampling by formula, 256 and 512 pixels, one image and 64."""
    found = {}
    for pixels, schedule in ((256, VAR_256), (512, VAR_512)):
        shape = TokenizerConfig(schedule=schedule)
        with torch.device("meta"):
            weights = sum(w.numel() for w in Tokenizer(shape).parameters())
        for batch in (1, 64):
            row: dict[str, float] = {}
            for mask in ("causal", "markov"):
                config = preset(name, mask=mask, schedule=schedule)
                memory = sampling_bytes(config, shape, weights, batch)
                row[f"{mask}, bytes"] = memory.total
                cache = 2 * 2 * 4 * config.depth * config.width * schedule.length
                row[f"{mask}, cache bytes"] = batch * cache * (mask == "causal")
            row["causal / Markovian"] = row["causal, bytes"] / row["markov, bytes"]
            found[f"memory at {pixels}, batch {batch}"] = row
    return found


def flops_part(config: TransformerConfig, shape: TokenizerConfig) -> dict[str, float]:
    """Operations of the parts that the table of counts leaves out, GFLOP."""
    markov, encoder = replace(config, mask="markov"), encoder_flops(shape)
    return {
        "decoder": decoder_flops(shape) / GIGA,
        "encoder": encoder / GIGA,
        "usual step": (training_flops(config, dense=True) + encoder) / GIGA,
        "our step, Markovian 10": training_flops(markov) / GIGA,
        "our step, Markovian 6": training_flops(markov, SHORT_256) / GIGA,
    }


Keep = Callable[[str, Callable[[], Any]], Any]


def measured(_: str, part: Callable[[], Any]) -> Any:
    """A part of a suite, measured."""
    return part()


def var_suite(
    repeats: int = 20,
    name: str = "d16",
    few: int = 4,
    batch: int = 1,
    keep: Keep = measured,
) -> dict[str, Any]:
    """The published size ``name`` with random weights, 256 pixels, guided.

    Args:
        repeats: rounds; slow candidates get five.
        name: a preset.
        few: blocks of the models for the table of wastes, the compiled baseline and
            512 pixels.
        batch: images at a time.
        keep: called with the name of each part and a function that measures it.
    Returns:
        Seconds, ratios and counts, by part.
    """
    torch.manual_seed(0)
    config, shape = preset(name, mask="causal", schedule=VAR_256), TokenizerConfig()
    small, slim = (
        replace(config, depth=min(few, config.depth)),
        TokenizerConfig(base=32),
    )
    part = cache(lambda: Models.of(small, slim, SHORT_256, batch))
    models = cache(lambda: Models.of(config, shape, SHORT_256, batch))
    f_hat = torch.zeros(1, shape.code_width, *[shape.schedule.sides[-1]] * 2)
    timed = {
        "wastes": lambda: waste_part(part(), repeats),
        "compiled": lambda: compiled_part(part(), repeats),
        "large": lambda: large_part(replace(small, schedule=VAR_512), repeats),
        "sampling": lambda: sampling_part(models(), repeats),
        "counts": lambda: counts(models()),
        "bytes moved in bfloat16": lambda: cast_bytes(models()),
        "decoder, batch of 8": lambda: decode_peaks(models(), f_hat),
        "training": lambda: training_part(models(), repeats),
    }
    with one_thread():
        found = {title: keep(title, run) for title, run in timed.items()}
    found["memory"] = keep("memory", lambda: memory_part(name))
    found["GFLOP per image"] = flops_part(config, shape)
    return found


def fashion_suite(repeats: int, keep: Keep = measured) -> dict[str, Any]:
    """The shipped pair: Markov against causal, packed against dense.

    Args:
        repeats: rounds.
        keep: as in `var_suite`.
    Returns:
        Seconds, ratios and bytes; the numbers of chapter 16.
    """
    tokenizer = Tokenizer.from_pretrained("fashion")
    markov = ScaleTransformer.from_pretrained("fashion")
    causal = ScaleTransformer.from_pretrained("fashion-causal")
    with one_thread():
        models = {"markov": markov, "causal": causal}
        drawn = {k: generation(m, tokenizer, 64, 2.0) for k, m in models.items()}
        made = keep("generate_64", lambda: interleave(drawn, repeats))
        steps = {name: training_step(markov, 32, name) for name in ("packed", "dense")}
        trained = keep("train_step_32", lambda: interleave(steps, repeats))
        kept = {name: bytes_kept(step) for name, step in steps.items()}
    return {
        "generate_64": {name: asdict(t) for name, t in made.items()},
        "generate_ratio_causal_over_markov": made["causal"].median
        / made["markov"].median,
        "train_step_32": {name: asdict(t) for name, t in trained.items()},
        "train_ratio_dense_over_packed": trained["dense"].median
        / trained["packed"].median,
        "saved_bytes": kept,
        "cache_bytes_64": {
            "markov": cache_bytes(markov, 128),
            "causal": cache_bytes(causal, 128),
        },
    }


def var_gpu_suite(repeats: int = 20, keep: Keep = measured) -> dict[str, Any]:
    """The same on a GPU: the usual algorithm against ours as a CUDA graph."""
    from .gpu_speed import gpu_suite

    return gpu_suite(repeats, keep=keep)


SUITES: dict[str, Callable[..., dict[str, Any]]] = {
    "fashion": fashion_suite,
    "var": var_suite,
    "var-gpu": var_gpu_suite,
}


def run_suite(name: str, repeats: int = 20, keep: Keep = measured) -> dict[str, Any]:
    """Run a named suite of timings; of rounds it gives median and quartiles.

    Args:
        name: of `SUITES`.
        repeats: rounds.
        keep: as in `var_suite`.
    Raises:
        ValueError: no suite of that name, with the names there are; no rounds.
    """
    if name not in SUITES:
        raise ValueError(f"suite must be one of {list(SUITES)}, got {name!r}")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    return summary(SUITES[name](repeats, keep=keep))


def summary(tree: Any) -> Any:
    """A result with every list of rounds as median, quartiles and their number."""
    if isinstance(tree, list):
        return asdict(Timing.of(tree))
    if isinstance(tree, dict):
        return {key: summary(value) for key, value in tree.items()}
    return tree


def tables(tree: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """A result as tables of one level, for the screen: measures by candidates."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        label = f"{name}, {key}" if name else key
        inner = value.values() if isinstance(value, dict) else ()
        if not any(isinstance(part, dict) for part in inner):
            found[label] = value
        elif all(isinstance(part, dict) for part in inner) and not any(
            isinstance(leaf, dict) for part in inner for leaf in part.values()
        ):
            measures = dict.fromkeys(leaf for part in inner for leaf in part)
            found[label] = {
                measure: {row: part[measure] for row, part in value.items()}
                for measure in measures
                if all(measure in part for part in inner)
            }
        else:
            found |= tables(value, label)
    return found
