"""The suite for a GPU: what of it runs anywhere, at a tiny size."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from srdd import _kernels, speed, tokenizer, transformer
from srdd.gpu_speed import (
    in_half,
    our_images,
    pairs,
    resized,
    short_tokenizer,
    usual_images,
)
from srdd.sampling import SampleConfig, ScaleSampler
from srdd.scales import ScaleSchedule
from srdd.speed import SHORT, Models
from srdd.tokenizer import TokenizerConfig
from srdd.transformer import TransformerConfig

SCHEDULE, FEW = ScaleSchedule((1, 2, 3, 4)), ScaleSchedule((1, 4))


@pytest.fixture
def models() -> Models:
    torch.manual_seed(0)
    shape = TokenizerConfig(3, 16, (1, 2), 1, (), 4, 4, 32, 2, SCHEDULE)
    config = TransformerConfig(2, 32, 2, SCHEDULE, 32, 4, 3, mask="causal")
    made = Models.of(config, shape, FEW, batch=2)
    for network in (made.tokenizer, made.causal):
        network.requires_grad_(False)
    return made


def test_both_sides_make_images_of_every_model(models):
    small = in_half(resized(models, 3))
    assert usual_images(models).shape == (2, 3, 8, 8)
    for name, (model, coder) in pairs(small).items():
        made = our_images(small, model, coder)
        assert made.images.shape == (3, 3, 8, 8), name
        assert made.images.dtype == torch.float16
        assert [x.shape[1] for x in made.tokens] == list(model.config.schedule.counts)


def test_a_float32_decoder_paints_for_a_half_transformer(models):
    small = in_half(models)
    half = our_images(small, *pairs(small)[SHORT])
    exact = our_images(small, small.short, short_tokenizer(models))
    assert small.short.head.weight.dtype == torch.float16
    assert exact.images.dtype == torch.float32
    same = torch.cat(exact.tokens, 1) == torch.cat(half.tokens, 1)
    assert same.float().mean() > 0.8  # rounding moves a few
    assert 0 < (exact.images - half.images.float()).abs().mean() < 0.05


def test_half_shares_no_weight_with_the_original(models):
    small = in_half(models)
    before = models.causal.head.weight.clone()
    small.causal.head.weight.zero_()
    assert torch.equal(models.causal.head.weight, before)
    assert small.markov.head.weight.abs().max() == 0  # but its siblings do


def test_fusing_ends_with_its_block(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # all of them

    def found():
        functions = tokenizer.norm_silu, transformer.modulated, transformer.of_length
        return *functions, transformer.MLP.forward, ScaleSampler.draw

    before = found()
    with pytest.raises(RuntimeError), _kernels.fused():
        assert not set(found()) & set(before)
        raise RuntimeError
    assert found() == before


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_the_norm_that_is_fused_is_the_one_of_the_tokenizer(mean):
    norm, x = torch.nn.GroupNorm(4, 8), mean + torch.randn(2, 8, 3, 5)
    torch.nn.init.normal_(norm.weight)
    x = x.to(memory_format=torch.channels_last)
    mine = _kernels.group_silu(x, 4, norm.weight, norm.bias, norm.eps)
    want = tokenizer.norm_silu(norm.double(), x.double()).float()
    torch.testing.assert_close(mine, want, atol=2e-6 * (1 + mean), rtol=1e-5)


def test_the_mlp_with_its_gelu_inside_is_the_mlp():
    mlp, x = transformer.MLP(8, 32), torch.randn(2, 3, 8)
    with torch.no_grad():
        # the CPU's own product applies the exact GELU, a GPU's the one of `MLP`
        torch.testing.assert_close(
            _kernels.quick_mlp(mlp, x), mlp(x), atol=1e-3, rtol=0
        )


DRAWS = """
import os
os.environ["TRITON_INTERPRET"] = "1"
from types import SimpleNamespace
import torch
from srdd import _kernels
from srdd.sampling import SampleConfig, ScaleSampler

logits = torch.randn(3, 4, 40, generator=torch.Generator().manual_seed(0)) * 3
seeds = torch.tensor([5, 2**62 + 3, 123456789])
for top_k in (0, 1, 7, 40):
    for top_p in (1.0, 0.9, 0.3):
        for heat in (1.0, 0.7):
            config = SampleConfig(top_k=top_k, top_p=top_p, temperature=heat)
            sampler = SimpleNamespace(config=config, seeds=seeds)
            want = ScaleSampler.draw(sampler, 2, logits, 1)
            got = _kernels.quick_draw(sampler, 2, logits, 1)
            assert torch.equal(got[0], want[0]), (top_k, top_p, heat)
            torch.testing.assert_close(got[1], want[1], atol=2e-6, rtol=1e-5)
            want = ScaleSampler.draw(sampler, 2, logits, 1, 1.3)
            got = _kernels.quick_draw(sampler, 2, logits, 1, 1.3)
            assert torch.equal(got[0], want[0]), "temperature of a pass"
"""


def test_the_kernel_draws_the_tokens_of_the_sampler():
    pytest.importorskip("triton")  # its interpreter, in a process of its own
    subprocess.run([sys.executable, "-c", DRAWS], check=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (900, 0.96), (0, 0.9)])
def test_the_kernel_draws_on_a_gpu_as_the_sampler_does(top_k, top_p):
    logits = 3 * torch.randn(4, 64, 4096, device="cuda")
    config = SampleConfig(top_k=top_k, top_p=top_p)
    sampler = SimpleNamespace(config=config, seeds=torch.arange(4, device="cuda"))
    tokens, logs = _kernels.quick_draw(sampler, 3, logits)
    want, logs_want = ScaleSampler.draw(sampler, 3, logits)
    same = tokens == want  # sums in another order: one may cross the edge of top p
    assert same.float().mean() > 0.99
    torch.testing.assert_close(logs[same], logs_want[same], atol=1e-3, rtol=1e-4)


def test_without_a_gpu_the_suite_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="needs a CUDA device"):
        speed.run_suite("var-gpu")
