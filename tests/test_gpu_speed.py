"""The suite for a GPU: what of it runs anywhere, at a tiny size."""

import pytest
import torch

from srdd import _kernels, speed, tokenizer, transformer
from srdd.gpu_speed import in_half, our_images, pairs, resized, usual_images
from srdd.scales import ScaleSchedule
from srdd.speed import Models
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


def test_half_shares_no_weight_with_the_original(models):
    small = in_half(models)
    before = models.causal.head.weight.clone()
    small.causal.head.weight.zero_()
    assert torch.equal(models.causal.head.weight, before)
    assert small.markov.head.weight.abs().max() == 0  # but its siblings do


def test_fusing_ends_with_its_block():
    before = tokenizer.norm_silu, transformer.modulated
    with pytest.raises(RuntimeError), _kernels.fused():
        assert transformer.modulated is not before[1]
        raise RuntimeError
    assert before == (tokenizer.norm_silu, transformer.modulated)


def test_the_norm_that_is_fused_is_the_one_of_the_tokenizer():
    norm, x = torch.nn.GroupNorm(4, 8), torch.randn(2, 8, 3, 5)
    torch.nn.init.normal_(norm.weight)
    x = x.to(memory_format=torch.channels_last)
    mine = _kernels.group_silu(x, 4, norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(mine, tokenizer.norm_silu(norm, x))


def test_without_a_gpu_the_suite_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="needs a CUDA device"):
        speed.run_suite("var-gpu")
