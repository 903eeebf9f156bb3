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
    decoder_flops,
    encoder_flops,
    pairs,
    quantizer_flops,
    rows_of,
    sampling_bytes,
    training_bytes,
    training_flops,
    transformer_flops,
    transformer_parameters,
)
from srdd.sampling import SampleConfig, sample
from srdd.scales import SHORT_256, VAR_256, ScaleSchedule
from srdd.tokenizer import Tokenizer, TokenizerConfig
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


def forward(config, backend, backward=False):
    """A training pass on one image."""
    model = on_meta(config)
    n, first = config.schedule.length, config.schedule.counts[0]
    inputs = torch.zeros(1, n - first, config.code_width)
    logits = model(inputs, torch.zeros(1, dtype=torch.int64), backend)
    if backward:
        targets = torch.zeros(1, n, dtype=torch.int64)
        F.cross_entropy(logits.transpose(1, 2), targets).backward()


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


def near(a, b, share=0.01):
    assert abs(a / b - 1) < share, (a, b)


def named(config):
    """Depth, mask and kind of modulation."""
    return f"d{config.depth}-{config.mask}-{config.shared_adaln}"


SHAPES = [replace(TINY, mask=m, shared_adaln=a) for m in MASKS for a in (False, True)]


@pytest.mark.parametrize("config", [*SHAPES, preset("d16")], ids=named)
def test_sampling_operations_are_those_counted(config):
    near(counted(lambda: generate(config)), transformer_flops(config).total)
    if config.width > 100:
        return
    scales = len(config.schedule)
    plain = transformer_flops(config, guided=False, conditions=scales)
    near(counted(lambda: generate(config, 1, per_scale=True)), plain.total)


@pytest.mark.parametrize("config", [*SHAPES[::2], preset("d16")], ids=named)
def test_training_operations_are_those_counted(config):
    for backend in ("packed", "dense"):
        dense = backend == "dense"
        ahead = transformer_flops(config, guided=False, dense=dense).total
        near(counted(lambda b=backend: forward(config, b)), ahead)
        both = training_flops(config, dense=dense)
        near(counted(lambda b=backend: forward(config, b, True)), both)


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
    near(counted(lambda: tokenizer.decode_map(maps)), decoder_flops(config))
    near(counted(lambda: tokenizer.features(image)), encoder_flops(config))


@torch.no_grad()
def test_operations_of_the_loop_over_scales_are_those_counted():
    loop, z = Tokenizer(SMALL).quantize, SMALL.code_width
    ids = [torch.zeros(1, c, dtype=torch.int64) for c in SCHEDULE.counts]
    with FlopCounterMode(display=False) as counter:
        loop.decode(ids)
    near(counter.get_total_flops(), quantizer_flops(SMALL))
    with FlopCounterMode(display=False) as counter:
        loop.encode(torch.zeros(1, z, 5, 5))
    near(counter.get_total_flops(), quantizer_flops(SMALL, encode=True))


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


@pytest.mark.parametrize("name", NETWORKS)
def test_memory_of_sampling_is_the_measured_peak(name):
    config = NETWORKS[name]
    shape = replace(CODES, vocab=config.vocab)
    tokenizer, model = Tokenizer(shape).eval(), ScaleTransformer(config).eval()
    size = sum(w.numel() for w in tokenizer.parameters())
    given = [*tokenizer.state_dict().values(), *model.state_dict().values()]
    for guidance in (1.0, 2.0):
        how = SampleConfig(guidance, "constant")
        with Live(given) as live:
            sample(model, tokenizer, [0] * 8, config=how, seeds=range(8))
        want = sampling_bytes(config, shape, size, 8, guided=guidance != 1)
        near(want.total, live.peak, 0.1)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_memory_of_a_training_step_is_the_measured_peak(name, half):
    config, n = NETWORKS[name], SIX.length
    for batch in (1, 6):
        model = ScaleTransformer(config)
        average = [w.detach().clone() for w in model.parameters()]
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)
        inputs = torch.randn(batch, n - 1, config.code_width)
        labels, ids = (
            torch.zeros(batch, dtype=torch.int64),
            torch.zeros(batch, n).long(),
        )

        def step(model=model, optimizer=optimizer, x=inputs, y=labels, ids=ids):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = model(x, y).flatten(0, 1)
            F.cross_entropy(logits, ids.flatten()).backward()
            optimizer.step()

        step()
        optimizer.zero_grad(set_to_none=True)
        states = [t for s in optimizer.state.values() for t in s.values()]
        with Live(
            [*model.parameters(), *average, *states, inputs, labels, ids]
        ) as live:
            step()
        near(training_bytes(config, batch, half=half).total, live.peak, 0.1)


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
