"""Timings: the stopwatch with a clock that tests control, and the counts."""

from contextlib import contextmanager

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from srdd import fast
from srdd.fast import (
    Replay,
    Timing,
    bytes_kept,
    cache_bytes,
    interleave,
    one_thread,
    replayed,
)
from srdd.ledger import Operations
from srdd.sampling import ResamplingPlan, SampleConfig, ScaleSampler, sample
from srdd.scales import ScaleSchedule
from srdd.tokenizer import Tokenizer, TokenizerConfig
from srdd.transformer import ScaleTransformer, TransformerConfig

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PHI = ScaleSchedule((1, 2, 4), (0, 0, 1))

SHAPE = {
    "depth": 2,
    "width": 32,
    "heads": 2,
    "schedule": ScaleSchedule((1, 2, 4)),
    "vocab": 16,
    "code_width": 8,
    "classes": 3,
}


class Clock:
    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self):
        return self.now

    def task(self, name, seconds):
        def run():
            self.calls.append(name)
            self.now += seconds

        return run


def test_candidates_take_turns_after_one_warm_up_each():
    clock = Clock()
    tasks = {"a": clock.task("a", 1.0), "b": clock.task("b", 0.5)}
    times = interleave(tasks, repeats=3, clock=clock)
    assert clock.calls == ["a", "b"] * 4
    assert times == {"a": Timing(1.0, 1.0, 1.0, 3), "b": Timing(0.5, 0.5, 0.5, 3)}


def test_of_timed_calls_only_the_warm_up_is_counted():
    with Operations() as counter:
        interleave({"a": lambda: torch.ones(2, 3) @ torch.ones(3, 5)}, repeats=4)
    assert counter.total == 2 * 2 * 3 * 5


def test_interleave_equals_the_reference(reference):
    clock = Clock()
    tasks = {"a": clock.task("a", 0.25), "b": clock.task("b", 0.75)}
    by_hand = reference("16_performance")["interleave_reference"](tasks, 4, clock)
    shipped = interleave(tasks, 4, clock)
    assert {name: Timing.of(times) for name, times in by_hand.items()} == shipped


def test_slow_candidates_get_five_rounds():
    clock = Clock()
    assert interleave({"a": clock.task("a", 2.1)}, 20, clock)["a"].n == 5


@pytest.mark.parametrize(("candidates", "repeats"), [({}, 3), ({"a": int}, 0)])
def test_interleave_refuses_nothing_to_time(candidates, repeats):
    with pytest.raises(ValueError, match="candidates and repeats"):
        interleave(candidates, repeats)


def test_the_median_ignores_one_bad_round():
    timing = Timing.of([1.0, 1.0, 1.0, 50.0, 1.0])
    assert timing.median == 1.0 and timing.low <= timing.median <= timing.high


def test_one_thread_gives_the_threads_back_even_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), one_thread():
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_each_kept_storage_counts_once():
    x = torch.ones(100, requires_grad=True)
    assert bytes_kept(lambda: (x * x).sum()) == 400
    assert bytes_kept(lambda: x.detach() * 2) == 0


@pytest.mark.parametrize("rows", [1, 3])
def test_only_the_causal_model_keeps_a_cache(rows):
    markov = ScaleTransformer(TransformerConfig(**SHAPE))
    causal = ScaleTransformer(TransformerConfig(**SHAPE, mask="causal"))
    assert cache_bytes(markov, rows) == 0
    assert cache_bytes(causal, rows) == rows * 2 * 2 * 32 * 21 * 4


def test_both_backends_train_the_same_step():
    model = ScaleTransformer(TransformerConfig(**SHAPE))
    losses = [fast.training_step(model, 2, name)() for name in ("packed", "dense")]
    torch.testing.assert_close(*losses, rtol=0, atol=1e-6)


def test_a_graph_needs_tensors_on_cuda_and_no_passes():
    tokenizer = Tokenizer.from_pretrained("fashion")
    model = ScaleTransformer.from_pretrained("fashion")
    with pytest.raises(ValueError, match=r"CUDA tensors, got \['cpu'\]"):
        Replay(torch.neg, torch.ones(1))
    with pytest.raises(ValueError, match="CUDA tensors, got none"):
        Replay(torch.neg)
    with pytest.raises(ValueError, match="CUDA tensors"):
        replayed(model, tokenizer, 2, SampleConfig(2.0))
    with pytest.raises(ValueError, match="cannot be recorded"):
        replayed(model, tokenizer, 2, SampleConfig(resampling=ResamplingPlan()))


@cuda
def test_a_graph_gives_what_the_calls_give():
    tokenizer = Tokenizer.from_pretrained("fashion", device="cuda")
    model = ScaleTransformer.from_pretrained("fashion", device="cuda")
    config = SampleConfig(3.0, top_k=200, top_p=0.95)
    graph = replayed(model, tokenizer, 3, config)
    for labels, seeds in ([0, 1, 2], [5, 6, 7]), ([9, 9, 4], [1, 2, 3]):
        want = sample(model, tokenizer, labels, config=config, seeds=seeds)
        got = graph(*(torch.tensor(x, device="cuda") for x in (labels, seeds)))
        for a, b in zip(got.tokens, want.tokens, strict=True):
            assert torch.equal(a, b)
        assert torch.allclose(got.images, want.images, atol=1e-4)


class NoCopies(TorchDispatchMode):
    """Refuses an operation that takes tensors of one device to another."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        places = {
            x.device.type for x in tree_leaves((args, made)) if torch.is_tensor(x)
        }
        assert len(places) < 2, f"{function} copies between {places}"
        return made


@contextmanager
def fake_cuda(*modules):
    """Tensors without values that say they are on a GPU: reading one raises."""
    with FakeTensorMode(), NoCopies():
        for module in modules:
            for part in module.modules():
                for held in (part._parameters, part._buffers):
                    for name, x in held.items():
                        if x is not None:
                            fake = torch.empty(x.shape, dtype=x.dtype, device="cuda")
                            held[name] = fake
        yield


def test_sampling_never_makes_the_host_wait():
    """A graph can be recorded only of code that reads no value and copies nothing."""
    try:
        with FakeTensorMode():
            torch.empty(2, device="cuda")[:, None]
    except RuntimeError:
        pytest.skip("this torch asks the driver about fake tensors")
    for mask in ("markov", "causal"):
        config = TransformerConfig(**SHAPE | {"schedule": PHI, "mask": mask})
        shape = TokenizerConfig(1, 8, (1, 2), 1, (), 4, 8, 16, 2, PHI)
        model = ScaleTransformer(config).half().eval()
        tokenizer = Tokenizer(shape).half().eval()
        with fake_cuda(model, tokenizer), torch.no_grad():
            where = {"device": "cuda", "dtype": torch.int64}
            both = torch.empty(2, **where), torch.empty(2, **where)
            settings = SampleConfig(2.5, top_k=5, top_p=0.9)
            chooser = ScaleSampler(model, tokenizer.quantize, *both, settings)
            images = chooser.run(tokenizer).images
            assert images.device.type == "cuda" and images.shape == (2, 1, 8, 8)
