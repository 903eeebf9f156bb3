"""Chapter 4: the tokenizer is the published one, and it refuses nonsense."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from srdd.data import fashion_slice, loader
from srdd.files import CheckpointError, config_from_dict, config_to_dict
from srdd.scales import SHORT_256, VAR_256, ScaleSchedule
from srdd.tokenizer import (
    Down,
    FeatureLoss,
    MapAttention,
    PatchDiscriminator,
    ResidualBlock,
    Tokenizer,
    TokenizerConfig,
    TokenizerTask,
    Up,
    check_images,
    check_tokens,
    hinge_losses,
    pixel_loss,
    psnr,
    usage_numbers,
)

GOLDEN = Path(__file__).parent / "golden"
SIDES = ScaleSchedule((1, 2, 3, 4))
TINY = TokenizerConfig(1, 4, (1, 2), 1, (), 2, 4, 16, 4, SIDES)  # 8 x 8, grey


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return Tokenizer(TINY)


def images(count, side=8, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, side, side, generator=generator) * 2 - 1


def stream(count=4, side=8):
    """Batches of small random images, a function of the step."""
    return lambda start: ((images(count, side, seed=s), None) for s in range(start, 99))


# The published tokenizer


def test_default_is_the_published_tokenizer_key_for_key():
    layout = json.loads((GOLDEN / "vae_layout.json").read_text())
    with torch.device("meta"):
        published = Tokenizer(TokenizerConfig())
    got = {k: list(v.shape) for k, v in published.state_dict().items()}
    assert got == layout
    assert sum(p.numel() for p in published.parameters()) == 108_948_355
    assert all(v.dtype == torch.float32 for v in published.state_dict().values())


# Blocks against the chapter's own reference code


def test_residual_block_equals_the_one_written_out(reference, device):
    written_out = reference("04_tokenizer")["residual_reference"]
    for inner, outer in ((8, 8), (8, 12)):
        block = ResidualBlock(inner, outer, groups=4).to(device).double()
        x = torch.randn(2, inner, 5, 5, device=device, dtype=torch.float64)
        equal_in_value_and_gradient(block, lambda x, b=block: written_out(b, x), x)


def test_attention_equals_softmax_written_out(reference, device):
    written_out = reference("04_tokenizer")["map_attention_reference"]
    layer = MapAttention(8, groups=4).to(device).double()
    x = torch.randn(2, 8, 4, 4, device=device, dtype=torch.float64)
    equal_in_value_and_gradient(layer, lambda x: written_out(layer, x), x)


def equal_in_value_and_gradient(one, other, x):
    outs, grads = [], []
    for run in (one, other):
        x = x.detach().clone().requires_grad_()
        y = run(x)
        y.square().sum().backward()
        outs.append(y.detach())
        grads.append(x.grad)
    torch.testing.assert_close(*outs, rtol=0, atol=1e-10)  # float64: rounding only
    torch.testing.assert_close(*grads, rtol=0, atol=1e-9)


def test_down_pads_below_and_right_only():
    layer, x = Down(1).double(), torch.randn(1, 1, 6, 6, dtype=torch.float64)
    weight, bias = layer.conv.weight[0, 0], layer.conv.bias[0]
    padded = F.pad(x, (0, 1, 0, 1))[0, 0]
    for i in range(3):
        for j in range(3):
            window = padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            assert torch.isclose(layer(x)[0, 0, i, j], (window * weight).sum() + bias)


def test_up_repeats_pixels_before_it_convolves():
    layer, x = Up(2), torch.randn(1, 2, 3, 3)
    repeated = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(layer(x), layer.conv(repeated))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8)])
def test_doubling_after_the_sums_equals_doubling_before_them(size):
    layer = Up(6).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    with torch.no_grad():
        got = layer(x)
    want = layer(x)  # with gradients: the definition
    assert want.requires_grad and not got.requires_grad
    torch.testing.assert_close(got, want.detach(), rtol=0, atol=1e-12)


# The public face


def test_decoding_for_use_equals_decoding_for_training_within_a_grey_level():
    torch.manual_seed(0)
    sizes = (3, 32, (1, 2, 2), 1, (2,), 8, 8, 16, 2)
    tokenizer = Tokenizer(TokenizerConfig(*sizes, SIDES))
    f_hat = 3 * torch.randn(3, 8, SIDES.sides[-1], SIDES.sides[-1])
    want = tokenizer.decoder(tokenizer.post_quant_conv(f_hat)).clamp(-1, 1)
    with torch.no_grad():
        got = tokenizer.decode_map(f_hat)
    assert got.is_contiguous() and got.shape == want.shape
    assert (got - want).abs().max() < 1e-4  # a grey level is 2 / 255 = 0.0078


@torch.no_grad()
def test_decoding_in_chunks_gives_the_same_images():
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig(1, 8, (1, 2), 1, (1,), 4, 8, 16, 2, SIDES))
    f_hat = torch.randn(5, 8, SIDES.sides[-1], SIDES.sides[-1])
    whole = tokenizer.decode_map(f_hat)
    for chunk in (1, 2, 4, 5, 100):
        parts = tokenizer.decode_map(f_hat, chunk)
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)


def test_shapes_dtypes_and_ranges_for_any_channel_count():
    for channels, multipliers, attention in ((1, (1, 2), (1,)), (3, (1, 1, 2), ())):
        sizes = (channels, 4, multipliers, 2, attention, 2, 4, 16, 2)
        config = TokenizerConfig(*sizes, SIDES)
        tokenizer = Tokenizer(config)
        assert tokenizer.image_shape == (channels, config.image_side, config.image_side)
        x = images(2, config.image_side, channels)
        tokens = tokenizer.encode(x)
        assert [t.shape for t in tokens] == [(2, s * s) for s in SIDES.sides]
        assert all(t.dtype == torch.int64 for t in tokens)
        made = tokenizer.decode(tokens)
        assert made.shape == x.shape and made.abs().max() <= 1
        assert torch.equal(made, tokenizer.reconstruct(x))


@torch.no_grad()
def test_maps_end_in_what_decode_paints(tiny):
    tokens = tiny.encode(images(3))
    maps = tiny.maps(tokens)
    assert maps.shape == (4, 3, TINY.code_width, 4, 4)
    torch.testing.assert_close(tiny.decode_map(maps[-1]), tiny.decode(tokens))


@torch.no_grad()
def test_another_schedule_than_the_trained_one(tiny):
    short = SIDES.subset((1, 2, 4))
    assert short.phi == (0, 1, 3)
    tokens = tiny.encode(images(2), short)
    assert [t.shape[1] for t in tokens] == [1, 4, 16]
    assert tiny.maps(tokens, short).shape[0] == 3
    assert tiny.decode(tokens, short).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="needs"):
        tiny.decode(tokens)
    with pytest.raises(ValueError, match="side"):
        tiny.encode(images(2), ScaleSchedule((1, 2, 3)))
    assert tiny.schedule == SIDES


@torch.no_grad()
def test_a_256_px_tokenizer_takes_the_short_schedule_of_the_chapters():
    config = TokenizerConfig(3, 4, (1, 1, 1, 1, 1), 1, (), 2, 4, 16, 4)
    tokenizer = Tokenizer(config)
    assert config.image_side == 256
    for schedule in (None, SHORT_256, VAR_256.subset(SHORT_256.sides)):
        tokens = tokenizer.encode(images(1, 256, 3), schedule)
        assert sum(t.shape[1] for t in tokens) == (schedule or VAR_256).length


@torch.no_grad()
def test_tokens_of_an_image_do_not_depend_on_its_batch(tiny):
    real, _ = fashion_slice().batch(range(0, 1000, 20))
    x = F.avg_pool2d(real, 4)  # 50 real images for the tiny tokenizer
    whole = torch.cat(tiny.encode(x), 1)
    for size in (1, 8):
        parts = [torch.cat(tiny.encode(part), 1) for part in x.split(size)]
        assert torch.equal(torch.cat(parts), whole)


def test_round_trip_through_a_folder_is_bit_equal(tiny, tmp_path):
    tiny.quantize.ema_vocab_hit_SV.uniform_()
    tiny.save_pretrained(tmp_path / "t")
    loaded = Tokenizer.from_pretrained(tmp_path / "t")
    assert loaded.config == tiny.config and not loaded.training
    mine, theirs = tiny.state_dict(), loaded.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)
    x = images(2)
    assert torch.equal(loaded.reconstruct(x), tiny.eval().reconstruct(x))


def test_weights_of_another_shape_are_refused(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "t")
    path = tmp_path / "t" / "config.json"
    text = path.read_text()
    assert '"vocab": 16' in text
    path.write_text(text.replace('"vocab": 16', '"vocab": 32'))
    with pytest.raises(CheckpointError):
        Tokenizer.from_pretrained(tmp_path / "t")


def test_a_decoder_may_be_slimmer_than_its_encoder(tiny):
    slim = Tokenizer(replace(TINY, decoder_base=2))
    shapes = {k: v.shape for k, v in tiny.state_dict().items()}
    other = {k: v.shape for k, v in slim.state_dict().items()}
    changed = {k for k in shapes if other.get(k) != shapes[k]}
    assert changed and all(k.startswith("decoder.") for k in changed)
    assert slim.reconstruct(images(2)).shape == (2, 1, 8, 8)
    odd = Tokenizer(replace(TINY, decoder_base=3))  # groups: the largest that divides
    assert {
        m.num_groups for m in odd.decoder.modules() if hasattr(m, "num_groups")
    } == {1}
    assert odd.reconstruct(images(2)).shape == (2, 1, 8, 8)


def test_config_survives_json():
    for config in (TokenizerConfig(), TINY):
        text = json.dumps(config_to_dict(config))
        assert config_from_dict(TokenizerConfig, json.loads(text)) == config


# Bad input: what, wanted, repair; and the object works afterwards

NAN = images(1).index_put((torch.tensor([0]),) * 4, torch.tensor(float("nan")))


@pytest.mark.parametrize(
    "bad, says",
    [
        (images(1) * 127.5, r"127\.5"),
        ((images(1) * 100).to(torch.uint8), "uint8"),
        (images(1) + 0.5, "values from"),
        (NAN, "NaN"),
        (images(1) * float("inf"), "values from"),
        (images(1)[0], "shape"),
        (images(1, channels=3), "channels"),
        (images(1, side=16), r"\(1, 1, 16, 16\)"),
        (images(0), "shape"),
        (images(1).numpy(), "images must be a tensor, got ndarray; torch.as_tensor"),
        (images(1).tolist(), "images must be a tensor, got list"),
    ],
    ids="scaled integer shifted nan inf flat channels size empty array list".split(),
)
def test_bad_images_are_refused(tiny, bad, says):
    with pytest.raises(ValueError, match=says):
        tiny.encode(bad)
    with pytest.raises(ValueError, match=says):
        tiny.reconstruct(bad)
    assert len(tiny.encode(images(1))) == 4


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.float64])
def test_images_enter_in_the_dtype_of_the_weights(tiny, weights):
    tiny.to(weights)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        given = images(2).to(dtype)
        want, got = tiny.encode(given.to(weights)), tiny.encode(given)
        assert all(map(torch.equal, got, want))
        assert tiny.reconstruct(given).dtype == tiny.features(given).dtype == weights


def ids(*changes):
    tokens = [torch.zeros(2, s * s, dtype=torch.int64) for s in SIDES.sides]
    for k, value in changes:
        tokens[k] = value
    return tokens


@pytest.mark.parametrize(
    "bad, says",
    [
        (ids((1, torch.full((2, 4), 16))), "want 0..15"),
        (ids((0, torch.full((2, 1), -1))), "from -1"),
        (ids((2, torch.zeros(2, 9))), "float32"),
        (ids((2, torch.zeros(2, 9, dtype=torch.bool))), "bool"),
        (ids((3, torch.zeros(16, dtype=torch.int64))), "shape"),
        (ids((3, torch.zeros(2, 9, dtype=torch.int64))), "needs"),
        (ids()[:3], "needs"),
        (ids() + ids()[:1], "needs"),
        (ids((2, torch.zeros(3, 9, dtype=torch.int64))), "2. has 3 images, .*0. 2;"),
        (ids((0, torch.zeros(0, 1, dtype=torch.int64))), r"0. is .* shape \(0, 1\)"),
        (ids((1, np.zeros((2, 4), int))), "tokens.1. must be a tensor, got ndarray"),
        (ids((3, [[0] * 16] * 2)), "tokens.3. must be a tensor, got list"),
    ],
    ids="high negative float bool flat side few many uneven empty array list".split(),
)
def test_bad_tokens_are_refused(tiny, bad, says):
    for call in (tiny.decode, tiny.maps):
        with pytest.raises(ValueError, match=says):
            call(bad)
    assert tiny.decode(ids()).shape == (2, 1, 8, 8)


def test_checks_accept_the_edges():
    check_images(torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2), (1, 1, 2))
    check_images(torch.full((1, 1, 2, 2), 1.0005), (1, 2, 2))  # rounding
    check_tokens([torch.tensor([[0, 15]], dtype=torch.int32)], 16)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"norm_groups": 3}, "norm_groups 3"),
        ({"vocab": 0}, ">= 1"),
        ({"multipliers": ()}, ">= 1"),
        ({"blocks": -1}, ">= 1"),
        ({"attention_levels": (4,)}, "attention_levels"),
        ({"attention_levels": (-1,)}, "attention_levels"),
    ],
)
def test_bad_configs_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        config_from_dict(TokenizerConfig, config_to_dict(TINY) | change)


# Losses and training


def test_losses_have_known_values():
    zero = torch.zeros(2, 1, 4, 4)
    assert pixel_loss(zero + 0.5, zero).item() == pytest.approx(0.75)
    assert psnr(zero + 0.2, zero).tolist() == pytest.approx([20, 20], abs=1e-4)
    assert torch.isfinite(psnr(zero, zero)).all()
    identity = FeatureLoss(lambda x: [x, x])
    a = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    b = torch.tensor([0.0, 5.0]).view(1, 2, 1, 1)
    assert identity(a, b).item() == pytest.approx(2)  # orthogonal unit vectors
    assert identity(a, 3 * a).item() == pytest.approx(0)
    generator, judge = hinge_losses(lambda x: 3 * x, zero - 1, zero + 1)
    assert (generator.item(), judge.item()) == (3, 0)  # right by a margin: no push
    undecided = hinge_losses(lambda x: 0 * x, zero, zero)
    assert undecided[1].item() == 1


def test_usage_numbers_of_known_codes():
    numbers = usage_numbers([torch.zeros(4, 1).long(), torch.arange(4)[None]], 8)
    assert numbers == pytest.approx(
        {"bits/0": 0, "used/0": 1 / 8, "bits/1": 2, "used/1": 1 / 2}
    )


def test_gradients_reach_encoder_codes_shared_convolutions_and_decoder(tiny):
    task = TokenizerTask(tiny, stream())
    losses, _ = task.losses(next(iter(task.batches(0))), 0)
    losses["model"].backward()
    assert all(p.grad is not None for p in tiny.parameters())
    quantizer = tiny.quantize
    for part in (
        tiny.encoder.conv_in,
        tiny.quant_conv,
        quantizer.embedding,
        *quantizer.quant_resi.qresi_ls,
        tiny.decoder.conv_out,
    ):
        assert part.weight.grad.abs().sum() > 0


def test_pixel_loss_alone_reaches_the_encoder_but_not_the_codes(tiny):
    fake, _, _ = tiny(images(2))
    pixel_loss(fake, images(2)).backward()
    assert tiny.encoder.conv_in.weight.grad.abs().sum() > 0  # straight through
    assert tiny.quantize.embedding.weight.grad is None


def test_judge_gives_no_gradient_to_the_decoder_and_the_decoder_gets_one(tiny):
    critic = PatchDiscriminator(1, width=4, layers=1)
    task = TokenizerTask(tiny, stream(), discriminator=critic)
    losses, numbers = task.losses(next(iter(task.batches(0))), 0)
    assert set(losses) == {"model", "discriminator"}
    losses["discriminator"].backward(retain_graph=True)
    assert all(p.grad is None for p in tiny.parameters())
    assert all(p.grad is not None for p in critic.parameters())
    losses["model"].backward()
    assert tiny.decoder.conv_out.weight.grad.abs().sum() > 0
    assert numbers["adversarial"] != 0


def test_adversary_waits_for_its_step(tiny):
    critic = PatchDiscriminator(1, width=4, layers=1)
    task = TokenizerTask(tiny, stream(), discriminator=critic, adversarial_start=5)
    batch = next(iter(task.batches(0)))
    assert task.losses(batch, 4)[1]["adversarial"] == 0
    assert task.losses(batch, 5)[1]["adversarial"] != 0


def train(task, steps, lr=3e-3):
    """A plain loop with an optimizer per network; the first and last pixel loss."""
    optimizers = {
        name: torch.optim.AdamW(module.parameters(), lr=lr)
        for name, module in task.modules.items()
    }
    seen = []
    for step, batch in enumerate(islice(task.batches(0), steps)):
        losses, numbers = task.losses(batch, step)
        for name, loss in losses.items():
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            loss.backward()
            optimizers[name].step()
        task.after(step, optimizers)
        seen.append(float(numbers["pixels"]))
    return seen[0], seen[-1]


def test_plug_ins_train_and_change_the_step():
    eye = nn.Conv2d(1, 4, 3, padding=1).requires_grad_(False)
    plug_ins = {
        "none": {},
        "perceptual": {"perceptual": FeatureLoss(lambda x: [eye(x)])},
        "adversarial": {"discriminator": PatchDiscriminator(1, width=4, layers=1)},
    }
    weights = {}
    for name, options in plug_ins.items():
        torch.manual_seed(0)
        model = Tokenizer(TINY)
        train(TokenizerTask(model, stream(), **options), 2)
        weights[name] = model.decoder.conv_out.weight.detach()
        assert torch.isfinite(weights[name]).all()
    assert not torch.equal(weights["none"], weights["perceptual"])
    assert not torch.equal(weights["none"], weights["adversarial"])


def test_codebook_starts_at_step_zero_only_and_only_if_asked(tiny):
    before = tiny.quantize.embedding.weight.detach().clone()
    TokenizerTask(tiny, stream()).batches(3)
    assert torch.equal(tiny.quantize.embedding.weight, before)
    TokenizerTask(tiny, stream(), start_codes=False).batches(0)
    assert torch.equal(tiny.quantize.embedding.weight, before)
    TokenizerTask(tiny, stream()).batches(0)
    assert not torch.equal(tiny.quantize.embedding.weight, before)


def test_restart_moves_dead_codes_and_forgets_their_averages(tiny):
    task = TokenizerTask(tiny, stream(), restart_until=4, restart_every=2)
    optimizer = torch.optim.AdamW(tiny.parameters(), lr=1e-3)
    losses, _ = task.losses(next(iter(task.batches(0))), 0)
    losses["model"].backward()
    optimizer.step()
    codes = tiny.quantize.embedding.weight
    moments = optimizer.state[codes]
    for name in ("exp_avg", "exp_avg_sq"):
        moments[name].fill_(1.0)
    tiny.quantize.ema_vocab_hit_SV.fill_(1.0)
    tiny.quantize.ema_vocab_hit_SV[:, 3] = 0.0
    before = codes.detach().clone()
    for step in (0, 1, 3, 5, 6):  # not due, or over
        task.after(step, {"model": optimizer})
    assert torch.equal(codes, before)
    task.after(2, {"model": optimizer})
    moved = (codes != before).any(1)
    assert moved.nonzero().flatten().tolist() == [3]
    for name in ("exp_avg", "exp_avg_sq"):
        assert moments[name][3].abs().sum() == 0 and moments[name][2].min() == 1
    assert tiny.quantize.ema_vocab_hit_SV[:, 3].min() > 0


def test_a_few_steps_on_real_images_lower_the_loss_and_keep_every_scale_alive():
    torch.manual_seed(0)
    schedule = ScaleSchedule((1, 2, 3, 4))
    model = Tokenizer(TokenizerConfig(1, 8, (1, 2, 2), 1, (), 4, 8, 32, 4, schedule))
    data = fashion_slice()

    def crops(start):
        for x, y in loader(data, 16, seed=0, start_step=start):
            yield x[..., 8:24, 8:24], y

    task = TokenizerTask(model, crops, restart_until=30, restart_every=10)
    first, last = train(task, 30)
    assert last < 0.8 * first
    x = data.batch(range(0, 1000, 10))[0][..., 8:24, 8:24]
    with torch.no_grad():
        numbers = usage_numbers(model.encode(x), 32)
    assert min(numbers[f"bits/{k}"] for k in range(4)) > 1  # no collapse, 1 x 1 too


def test_training_is_a_function_of_its_seed():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        model = Tokenizer(TINY)
        plan = {"seed": 3, "restart_until": 4, "restart_every": 2}
        train(TokenizerTask(model, stream(), **plan), 4)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_model_trains_under_bfloat16(tiny, device):
    tiny.to(device)
    task = TokenizerTask(tiny, stream())
    batch = next(iter(task.batches(0)))
    with torch.autocast(device, dtype=torch.bfloat16):
        losses, _ = task.losses(batch, 0)
    losses["model"].backward()
    assert torch.isfinite(losses["model"])
    assert tiny.encoder.conv_in.weight.grad.isfinite().all()
