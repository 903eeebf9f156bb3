"""Costs: the formulas against what PyTorch counts and keeps."""

import weakref
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from srdd.attention import MASKS
from srdd.costs import (
    Memory,
    cache_bytes,
    decoder_flops,
    decoding_bytes,
    encoder_flops,
    guided_scales,
    pairs,
    quantizer_flops,
    rows_of,
    sampling_bytes,
    training_bytes,
    training_flops,
    transformer_flops,
    transformer_parameters,
)
from srdd.pipeline import Pipeline
from srdd.runs import TokenSet
from srdd.sampling import SampleConfig, ScaleSampler, sample
from srdd.scales import SHORT_256, VAR_256, ScaleSchedule
from srdd.tokenizer import Tokenizer, TokenizerConfig
from srdd.training import TrainConfig, Trainer, TransformerTask
from srdd.transformer import ScaleTransformer, TransformerConfig, preset

SCHEDULE = ScaleSchedule((1, 2, 3, 5))
TINY = TransformerConfig(
    depth=2, width=32, heads=2, schedule=SCHEDULE, vocab=24, code_width=8, classes=4
)
SLIM = TokenizerConfig(1, 8, (1, 2), 2, (0,), 4, 6, 40, 2, SCHEDULE, decoder_base=4)
SMALL = TokenizerConfig(1, 8, (1, 2, 3), 1, (1, 2), 4, 6, 40, 2, SCHEDULE)
GIGA = 1e9


def counted(run):
    """Operations that PyTorch counts on the meta device, where it sees attention."""
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        run()
    return counter.get_total_flops()


@cache
def on_meta(config):
    """A transformer of shapes without numbers."""
    with torch.device("meta"):
        return ScaleTransformer(config)


def both_ways(config, backend):
    """Operations of a pass forward on one image, and of it and the way back."""
    model = on_meta(config)
    n, first = config.schedule.length, config.schedule.counts[0]
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        inputs = torch.zeros(1, n - first, config.code_width)
        logits = model(inputs, torch.zeros(1, dtype=torch.int64), backend)
        ahead = counter.get_total_flops()
        targets = torch.zeros(1, n, dtype=torch.int64)
        F.cross_entropy(logits.transpose(1, 2), targets).backward()
    return ahead, counter.get_total_flops()


def generate(config, rows=2, per_scale=False):
    """All scales of one image, as the sampler runs them."""
    model = on_meta(config)
    labels = torch.zeros(rows, dtype=torch.int64)
    condition = labels if per_scale else model.condition(labels)
    with torch.no_grad():
        for k, count in enumerate(config.schedule.counts):
            maps = torch.zeros(rows, count, config.code_width)
            cache = Everything(config, k) if config.mask != "markov" else None
            model.run_scale(k, maps, condition, cache=cache)


class Everything:
    """A cache that gives keys of the right number, for counting."""

    def __init__(self, config, k):
        schedule = config.schedule
        start = pairs(schedule, config.mask)[k] // schedule.counts[k]
        self.count = start

    def extend(self, block, scale, k, v):
        return k.new_zeros(2, *k.shape[:2], self.count, k.shape[3])


def off(a, b):
    """How far a is from b, as a share of b."""
    return abs(a / b - 1)


def named(config):
    """Depth, mask and kind of modulation."""
    return f"d{config.depth}-{config.mask}-{config.shared_adaln}"


SHAPES = [replace(TINY, mask=m, shared_adaln=a) for m in MASKS for a in (False, True)]


@pytest.mark.parametrize("config", [*SHAPES, preset("d16")], ids=named)
def test_sampling_operations_are_those_counted(config):
    made = counted(lambda: generate(config))
    assert off(transformer_flops(config).total, made) < 0.01
    if config.width > 100:
        return
    scales = len(config.schedule)
    plain = transformer_flops(config, guided=False, conditions=scales)
    made = counted(lambda: generate(config, 1, per_scale=True))
    assert off(plain.total, made) < 0.01


@pytest.mark.parametrize("config", [*SHAPES[::2], preset("d16")], ids=named)
def test_training_operations_are_those_counted(config):
    for backend in ("packed", "dense"):
        dense = backend == "dense"
        ahead, both = both_ways(config, backend)
        plain = transformer_flops(config, guided=False, dense=dense).total
        assert off(plain, ahead) < 0.01
        assert off(training_flops(config, dense=dense), both) < 0.01


@pytest.mark.parametrize(
    "config", [SMALL, SLIM, TokenizerConfig()], ids=["small", "slim", "vq"]
)
@torch.no_grad()
def test_tokenizer_operations_are_those_counted(config):
    with torch.device("meta"):
        tokenizer = Tokenizer(config)
        side, z = config.schedule.sides[-1], config.code_width
        maps = torch.zeros(1, z, side, side)
        image = torch.zeros(1, *tokenizer.image_shape)
    decoded = counted(lambda: tokenizer.decode_map(maps))
    assert off(decoder_flops(config), decoded) < 0.01
    encoded = counted(lambda: tokenizer.features(image))
    assert off(encoder_flops(config), encoded) < 0.01


@torch.no_grad()
def test_operations_of_the_loop_over_scales_are_those_counted():
    loop, z = Tokenizer(SMALL).quantize, SMALL.code_width
    ids = [torch.zeros(1, c, dtype=torch.int64) for c in SCHEDULE.counts]
    with FlopCounterMode(display=False) as counter:
        loop.decode(ids)
    assert off(quantizer_flops(SMALL), counter.get_total_flops()) < 0.01
    with FlopCounterMode(display=False) as counter:
        loop.encode(torch.zeros(1, z, 5, 5))
    found = counter.get_total_flops()
    assert off(quantizer_flops(SMALL, encode=True), found) < 0.01


def test_the_published_sizes_cost_what_the_peer_costs():
    """Counted once in the reference implementation, GF per image."""
    causal, markov = preset("d16", mask="causal"), preset("d16")
    for config, sides, want in (
        (causal, VAR_256, 600.8),
        (markov, VAR_256, 577.7),
        (causal, SHORT_256, 457.8),
        (markov, SHORT_256, 446.3),
    ):
        made = transformer_flops(config, sides, conditions=len(sides))
        assert made.total / GIGA == pytest.approx(want, abs=0.1)
    assert decoder_flops(TokenizerConfig()) / GIGA == pytest.approx(393.7, abs=0.1)
    assert encoder_flops(TokenizerConfig()) / GIGA == pytest.approx(215.1, abs=0.1)
    dense = training_flops(causal, dense=True) / GIGA
    assert dense == pytest.approx(930.1, abs=0.1)
    for sides, want in ((VAR_256, 287.0), (SHORT_256, 222.1)):
        ahead = transformer_flops(markov, sides, guided=False)
        assert ahead.total / GIGA == pytest.approx(want, abs=0.1)


def test_pairs_by_mask_on_paper():
    schedule = ScaleSchedule((1, 2))
    assert pairs(schedule, "markov") == (1, 16)
    assert pairs(schedule, "causal") == (1, 20)
    assert sum(pairs(VAR_256, "causal")) == 286_434
    assert sum(pairs(SHORT_256, "markov")) == 98_900


def test_a_scale_without_guidance_costs_one_row():
    every, none = (transformer_flops(TINY, guided=g) for g in (True, False))
    assert every.total == 2 * none.total
    last = transformer_flops(TINY, guided=[False, False, False, True])
    assert last.mlp - none.mlp == none.mlp * 25 // SCHEDULE.length
    assert rows_of([True, False], 2) == [2, 1]
    with pytest.raises(ValueError, match="guided has 3 entries"):
        transformer_flops(TINY, guided=[True] * 3)


# Memory: bytes of live tensors, followed through every operation


class Live(TorchDispatchMode):
    """Bytes of the tensors alive inside, the given ones included, and their peak.

    Storages count whole, once, from the operation that makes them to their end.
    Scratch space inside an operation and an allocator's rounding do not count.
    """

    def __init__(self, given):
        super().__init__()
        self.now, self.alive = 0, {}
        for tensor in given:
            self.add(tensor)
        self.peak = self.now

    def add(self, tensor):
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.alive:
            self.now += size
            self.alive[key] = weakref.ref(storage, lambda _: self.drop(key, size))

    def drop(self, key, size):
        if self.alive.pop(key, None) is not None:
            self.now -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                self.add(x)
        self.peak = max(self.peak, self.now)
        return out


SIX = ScaleSchedule((1, 2, 3, 4, 6, 8))
CODES = TokenizerConfig(3, 32, (1, 2, 2), 1, (2,), 32, 16, 128, 4, SIX)
BASE = TransformerConfig(2, 128, 2, SIX, 128, 16, 10)
NETWORKS = {
    "markov": BASE,
    "causal": replace(BASE, mask="causal"),
    "band": replace(BASE, mask="band", depth=3, heads=4),
    "plain scores": replace(BASE, qk_norm=False, width=64),
    "shared": replace(BASE, shared_adaln=True, depth=3),
    "narrow MLP": replace(BASE, mlp_ratio=2.0),
    "large vocabulary": replace(BASE, vocab=1024),
    "wide": replace(BASE, width=256, vocab=64, mask="causal"),
}


def pair_of(config, shape, dtype=torch.float32):
    """Networks, the tensors they hold, and the number of the tokenizer's weights."""
    shape = replace(shape, vocab=config.vocab)
    nets = [Tokenizer(shape), ScaleTransformer(config)]
    tokenizer, model = (net.eval().to(dtype) for net in nets)
    given = [*tokenizer.state_dict().values(), *model.state_dict().values()]
    return tokenizer, model, given, sum(w.numel() for w in tokenizer.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_memory_of_sampling_is_the_measured_peak(name):
    config = NETWORKS[name]
    tokenizer, model, given, size = pair_of(config, CODES)
    for guidance in (1.0, 2.0):
        how = SampleConfig(guidance, "constant")
        with Live(given) as live:
            sample(model, tokenizer, [0] * 8, config=how, seeds=range(8))
        want = sampling_bytes(config, tokenizer.config, size, 8, sampling=how)
        assert off(want.total, live.peak) < 0.1


ONE = replace(CODES, decoder_base=8, decoder_blocks=1, decoder_middle=False)
STEEP = replace(CODES, multipliers=(1, 8), attention_levels=())
FINE = replace(CODES, attention_levels=(0, 1))
DEEP = replace(CODES, decoder_base=8, decoder_blocks=3)
TOP_K, TOP_P = {"top_k": 64}, {"top_p": 0.96}
BOTH = {"top_k": 900, "top_p": 0.96}
HALF = torch.bfloat16
RANGE = [  # vocabulary, batch, mask, decoder, weight of guidance, truncation
    (64, 1, "markov", ONE, 2.0, {}),
    (64, 4, "causal", STEEP, 1.0, TOP_P),
    (64, 32, "markov", ONE, 2.0, TOP_P),
    (64, 4, "markov", ONE, 2.0, {}, HALF),
    (64, 1, "causal", CODES, 2.0, {}, HALF),
    (512, 1, "causal", FINE, 2.0, TOP_K),
    (512, 4, "markov", ONE, 1.0, {"temperature": 0.9}),
    (512, 32, "markov", ONE, 2.0, {"guidance_off": 1}),
    (1024, 1, "causal", ONE, 2.0, {}),
    (1024, 4, "markov", DEEP, 1.0, {"top_k": 900}),
    (1024, 4, "markov", ONE, 2.0, {"top_k": 990, "top_p": 0.5}),
    (1024, 16, "causal", ONE, 2.0, {"top_k": 64, "temperature": 0.9}),
    (1024, 4, "causal", ONE, 2.0, BOTH, HALF),
    (4096, 1, "markov", CODES, 2.0, {}),
    (4096, 1, "causal", ONE, 2.0, BOTH),
    (4096, 4, "markov", ONE, 1.0, TOP_K),
    (4096, 4, "causal", ONE, 2.0, TOP_P),
    (4096, 16, "markov", ONE, 2.0, TOP_K),
    (4096, 16, "markov", ONE, 2.0, {}),
    (4096, 4, "markov", CODES, 1.0, TOP_K, HALF),
]


@pytest.mark.parametrize("case", RANGE, ids=lambda c: f"{c[0]}-{c[1]}-{c[2]}")
def test_memory_of_a_pipeline_is_the_measured_peak_over_a_range(case):
    """Within a tenth, also of what is not weights, which would hide the rest."""
    vocab, batch, mask, shape, weight, rest, *dtype = case
    config = replace(BASE, vocab=vocab, mask=mask)
    tokenizer, model, given, size = pair_of(config, shape, *dtype)
    how = SampleConfig(weight, "constant", **rest)
    pipe = Pipeline(tokenizer, model, sampling=how)
    with Live(given) as live:
        pipe([0] * batch, output_type="pt", generator=torch.Generator())
    size_of = 2 if dtype else 4
    want = sampling_bytes(
        config, tokenizer.config, size, batch, sampling=how, size=size_of
    )
    assert off(want.total, live.peak) < 0.1
    assert off(want.kept + want.working, live.peak - want.weights) < 0.1


PLANS = [
    {"groups": (1, 1, 2, 2)},
    {"groups": (1, 1, 1, 1, 2), "mlp_ratio": 8.0},
    {"qk_norm": False, "heads": 4},
    {"mask_blocks": 2, "shared_adaln": True},
    {"mask": "band", "mlp_ratio": 8.0},
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("how", [SampleConfig(2.0), SampleConfig(2.0, guidance_off=2)])
def test_memory_of_sampling_other_networks_and_guidance_in_part(plan, how):
    config = replace(BASE, vocab=64, **plan)
    tokenizer, model, given, size = pair_of(config, ONE)
    with Live(given) as live:
        sample(model, tokenizer, [0] * 4, config=how, seeds=range(4))
    want = sampling_bytes(config, tokenizer.config, size, 4, sampling=how)
    assert off(want.total, live.peak) < 0.1
    assert off(want.kept + want.working, live.peak - want.weights) < 0.1
    labels, seeds = torch.zeros(4).long(), torch.arange(4)
    chooser = ScaleSampler(model, tokenizer.quantize, labels, seeds, how)
    if config.groups is None:
        assert guided_scales(config, how) == chooser.guided


@pytest.mark.parametrize("batch, chunk", [(5, 2), (4, 1), (3, 8)])
@pytest.mark.parametrize("shape", [CODES, ONE, STEEP, FINE], ids=lambda s: str(s)[-60:])
@torch.no_grad()
def test_memory_of_decoding_in_parts_is_the_measured_peak(shape, batch, chunk):
    tokenizer = Tokenizer(shape).eval()
    maps = torch.randn(batch, 16, *[shape.schedule.sides[-1]] * 2)
    with Live(tokenizer.state_dict().values()) as live:
        start = live.now
        tokenizer.decode_map(maps, chunk)
    made = decoding_bytes(shape, batch, chunk=chunk)
    assert off(made + maps.nbytes, live.peak - start) < 0.1


def test_keys_and_values_follow_the_mask_the_number_format_and_guidance():
    causal, plain = replace(BASE, mask="causal"), SampleConfig()
    once = 2 * 4 * BASE.depth * BASE.width * SIX.length
    assert cache_bytes(BASE, plain) == cache_bytes(BASE, SampleConfig(2.0)) == 0
    assert cache_bytes(causal, plain) == once
    assert cache_bytes(causal, SampleConfig(2.0)) == 2 * once
    assert cache_bytes(causal, SampleConfig(2.0), size=2) == once
    tokenizer, model, _, _ = pair_of(causal, ONE)
    for how in (plain, SampleConfig(2.0), SampleConfig((2.0,) + 5 * (1.0,))):
        labels, seeds = torch.zeros(3).long(), torch.arange(3)
        chooser = ScaleSampler(model, tokenizer.quantize, labels, seeds, how)
        with torch.no_grad():
            chooser.hidden(0, torch.zeros(3, 16, 8, 8))
        assert chooser.cache.bytes == 3 * cache_bytes(causal, how)


def training_peak(config, batch, half):
    """Largest number of live bytes in a step of the real training loop."""
    tokenizer = Tokenizer(replace(ONE, vocab=config.vocab))
    model = ScaleTransformer(config)
    n = config.schedule.length
    ids = torch.zeros(batch, n, dtype=torch.int32)
    tokens = TokenSet(ids, torch.zeros(batch).long(), ("a",), SIX.sides, "")
    how = TrainConfig(9, batch, dtype="bfloat16" if half else "float32")
    trainer = Trainer(TransformerTask(model, tokenizer, tokens, how), how, "unused")
    state = trainer.optimizers["model"].state
    for w in model.parameters():
        averages = {x: torch.zeros_like(w) for x in ("exp_avg", "exp_avg_sq")}
        state[w] = {"step": torch.tensor(1.0), **averages}
    states = [t for s in state.values() for t in s.values()]
    given = [*model.parameters(), *trainer.ema.parameters(), *states]
    batches = next(iter(trainer.task.batches(0)))
    with Live([*given, *batches]) as live:
        trainer.train_step(batches)
    assert model.head.weight.grad is not None  # it was a step
    return live.peak


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_memory_of_a_training_step_is_the_measured_peak(name, half):
    config = NETWORKS[name]
    for batch in (1, 6):
        want = training_bytes(config, batch, half=half).total
        assert off(want, training_peak(config, batch, half)) < 0.1


@pytest.mark.parametrize(
    "vocab, batch, half, rest",
    [
        (64, 1, False, {"qk_norm": False}),
        (64, 32, False, {}),
        (64, 4, True, {"mask": "causal"}),
        (512, 16, False, {"mask": "causal", "drop_path": 0.1}),
        (512, 4, True, {"mlp_ratio": 2.0, "heads": 8, "width": 64}),
        (1024, 16, False, {"depth": 6, "width": 64}),
        (1024, 16, True, {"depth": 1, "width": 32}),
        (4096, 1, False, {"mask": "causal"}),
        (4096, 1, True, {}),
        (4096, 16, False, {"depth": 1}),
    ],
)
def test_memory_of_a_training_step_over_a_range(vocab, batch, half, rest):
    config = replace(BASE, vocab=vocab, **rest)
    want = training_bytes(config, batch, half=half)
    peak = training_peak(config, batch, half)
    assert off(want.total, peak) < 0.1
    assert off(want.total - want.weights, peak - want.weights) < 0.1


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_counted_without_a_model(name):
    model = ScaleTransformer(NETWORKS[name])
    made = sum(w.numel() for w in model.parameters())
    assert transformer_parameters(NETWORKS[name]) == made


def test_published_sizes_and_the_mask_head():
    sizes = {"d16": 310_283_520, "d20": 600_917_136, "d24": 1_033_399_360}
    for name, want in (sizes | {"d30": 2_010_020_356}).items():
        assert transformer_parameters(preset(name)) == want
    short = preset("d36", schedule=VAR_256)
    assert transformer_parameters(short) == 2_350_299_664
    extra = replace(BASE, mask_blocks=2)
    made = sum(w.numel() for w in ScaleTransformer(extra).parameters())
    assert transformer_parameters(extra) == made
    assert Memory(1, 2, 3).total == 6
