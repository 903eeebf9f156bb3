"""Residual quantization: one loop, and codes that stay alive."""

import pytest
import torch
import torch.nn.functional as F

from srdd.data import fashion_slice
from srdd.quantization import (
    MultiScaleQuantizer,
    SharedConvs,
    codebook_usage,
    kmeans_codebook,
    residual_cells,
    restart_dead_codes,
    start_codebook,
)
from srdd.scales import ScaleSchedule, area_down

SIDES = [(1,), (4,), (1, 2, 4), (1, 2, 3, 4, 6), (2, 5)]


def quantizer_of(sides=(1, 2, 4), vocab=24, seed=0, **options):
    torch.manual_seed(seed)
    return MultiScaleQuantizer(vocab, 3, ScaleSchedule(sides), phi_convs=3, **options)


def maps_of(quantizer, batch=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    side = quantizer.schedule.sides[-1]
    return torch.randn(batch, 3, side, side, generator=generator)


@pytest.fixture(scope="module")
def patches():
    """Real photographs as maps: patches of 4 x 4 pixels, ``(500, 16, 8, 8)``."""
    photos, _ = fashion_slice().batch(range(0, 1000, 2))
    return F.pixel_unshuffle(photos, 4)


# ------------------------------------------------------------------ the loop
@pytest.mark.parametrize("sides", SIDES)
@torch.no_grad()
def test_tokens_and_map_equal_those_written_out(reference, device, sides):
    literal = reference("03_quantization")["quantize_reference"]
    quantizer = quantizer_of(sides).to(device)
    f = maps_of(quantizer).to(device)
    wanted, map_wanted = literal(
        f,
        quantizer.embedding.weight,
        quantizer.quant_resi.qresi_ls,
        quantizer.schedule.phi_for(3),
        sides,
    )
    tokens = quantizer.encode(f)
    assert all(map(torch.equal, tokens, wanted))
    torch.testing.assert_close(quantizer.decode(tokens), map_wanted, rtol=0, atol=1e-5)


@torch.no_grad()
def test_encoding_decoding_teaching_and_sampling_are_one_loop():
    quantizer = quantizer_of((1, 2, 3, 4, 6))
    f = maps_of(quantizer)
    steps = list(quantizer.encode_steps(f))
    tokens = [step.tokens for step in steps]
    partial = quantizer.maps(tokens)
    assert [step.k for step in steps] == list(range(5))
    for step, known in zip(steps, partial, strict=True):
        assert torch.equal(step.f_hat, known)  # bit-equal
    assert torch.equal(partial[-1], quantizer.decode(tokens))
    inputs = quantizer.schedule.split(
        F.pad(quantizer.teacher_inputs(tokens), (0, 0, 1, 0))
    )
    seen = []

    def choose(k, f_hat):
        side = quantizer.schedule.sides[k]
        seen.append(area_down(f_hat, side).flatten(2).transpose(1, 2))
        return tokens[k]

    *_, last = quantizer.steps(choose, len(f))
    assert torch.equal(last.f_hat, partial[-1])
    for k in range(1, 5):  # a sampler sees what the teacher showed
        assert torch.equal(seen[k], inputs[k])


@torch.no_grad()
def test_a_scale_may_be_shown_an_earlier_map():
    quantizer = quantizer_of((1, 2, 3, 4, 6))
    tokens = quantizer.encode(maps_of(quantizer))
    seen = (0, 1, 1, 0, 4)
    rows = quantizer.teacher_inputs(tokens, seen=seen)
    inputs = quantizer.schedule.split(F.pad(rows, (0, 0, 1, 0)))
    maps = [torch.zeros(4, 3, 6, 6), *quantizer.maps(tokens)]
    for k in range(1, 5):
        wanted = area_down(maps[seen[k]], quantizer.schedule.sides[k])
        assert torch.equal(inputs[k], wanted.flatten(2).transpose(1, 2))


@torch.no_grad()
def test_tokens_of_a_map_do_not_depend_on_its_batch():
    quantizer = quantizer_of()
    f = maps_of(quantizer, batch=9)
    whole = quantizer.encode(f)
    for i in range(9):
        alone = quantizer.encode(f[i : i + 1])
        assert all(
            torch.equal(a, w[i : i + 1]) for a, w in zip(alone, whole, strict=True)
        )


@torch.no_grad()
def test_a_quantizer_runs_on_another_schedule():
    quantizer = quantizer_of((1, 2, 3, 4, 6))
    short = quantizer.schedule.subset((1, 3, 6), convs=3)
    f = maps_of(quantizer)
    tokens = quantizer.encode(f, short)
    assert [t.shape[1] for t in tokens] == [1, 9, 36]
    assert quantizer.decode(tokens, short).shape == f.shape
    assert quantizer.teacher_inputs(tokens, short).shape == (4, 45, 3)
    single = ScaleSchedule((6,))
    assert quantizer.teacher_inputs(quantizer.encode(f, single), single).shape[1] == 0


@torch.no_grad()
def test_the_nearest_code_is_the_nearest_code():
    quantizer = quantizer_of(vocab=50)
    f = maps_of(quantizer)
    cells = f.flatten(2).transpose(1, 2).double()
    wanted = torch.cdist(cells, quantizer.embedding.weight.double()[None]).argmin(-1)
    assert torch.equal(quantizer.nearest(f), wanted)
    cosine = quantizer_of(vocab=50, cosine=True)
    codes = F.normalize(cosine.embedding.weight.double(), dim=-1)
    angle = (F.normalize(cells, dim=-1) @ codes.T).argmax(-1)
    assert torch.equal(cosine.nearest(f), angle)
    assert torch.equal(cosine.nearest(7 * f), angle)  # lengths do not matter


def test_without_a_share_phi_is_the_identity():
    x = torch.randn(2, 3, 4, 4)
    assert SharedConvs(2, 3, ratio=0.0)(x, 1) is x
    half = SharedConvs(2, 3, ratio=0.5)
    torch.testing.assert_close(half(x, 1), (x + half.qresi_ls[1](x)) / 2)


# ------------------------------------------------------------------ training
def test_the_gradient_goes_straight_through():
    quantizer = quantizer_of()
    f = maps_of(quantizer).requires_grad_()
    straight, _, tokens = quantizer(f)
    torch.testing.assert_close(straight, quantizer.decode(tokens), rtol=0, atol=1e-6)
    weight = torch.randn_like(straight)
    (gradient,) = torch.autograd.grad((straight * weight).sum(), f)
    assert torch.equal(gradient, weight)


@pytest.mark.parametrize("beta", [0.0, 0.25, 2.0])
def test_the_loss_is_the_mean_over_scales_of_both_terms(beta):
    quantizer = quantizer_of(beta=beta)
    f = maps_of(quantizer)
    _, loss, tokens = quantizer(f)
    each = [(step - f).square().mean() for step in quantizer.maps(tokens)]
    torch.testing.assert_close(loss, (1 + beta) * sum(each) / len(each))


def test_commitment_reaches_the_encoder_and_the_rest_the_codes():
    quantizer = quantizer_of(beta=0.25)
    f = maps_of(quantizer).requires_grad_()
    _, loss, tokens = quantizer(f)
    loss.backward()
    partial = quantizer.maps(tokens).detach()
    by_hand = sum(0.25 * 2 * (f - p) / f.numel() for p in partial) / len(partial)
    torch.testing.assert_close(f.grad, by_hand.detach())
    used = torch.cat([t.flatten() for t in tokens]).unique()
    moved = quantizer.embedding.weight.grad.abs().sum(1).nonzero().flatten()
    assert torch.equal(moved, used)  # codes nobody chose do not move


def test_autocast_changes_no_token():
    quantizer = quantizer_of(vocab=200)
    f = maps_of(quantizer)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        cast = quantizer.encode(f)
    with torch.no_grad():
        assert all(map(torch.equal, cast, quantizer.encode(f)))


# --------------------------------------------------------------------- usage
def test_usage_of_known_codes():
    even = codebook_usage(torch.arange(8).repeat(3).view(4, 6), vocab=32)
    assert (even.used, even.entropy, even.perplexity) == (0.25, 3.0, 8.0)
    one = codebook_usage(torch.full((5,), 7), vocab=8)
    assert (one.used, one.entropy, one.perplexity) == (1 / 8, 0.0, 1.0)
    with pytest.raises(ValueError, match="empty"):
        codebook_usage(torch.zeros(0, dtype=torch.int64), vocab=8)


def test_recorded_usage_is_a_running_mean():
    quantizer = quantizer_of((1, 2), vocab=4)
    tokens = [torch.tensor([[2]]), torch.tensor([[0, 0, 3, 3]])]
    quantizer.record_usage(tokens, decay=0.5)
    quantizer.record_usage(tokens, decay=0.5)
    wanted = 0.75 * torch.tensor([[0, 0, 1, 0], [2, 0, 0, 2]])
    torch.testing.assert_close(quantizer.ema_vocab_hit_SV, wanted)


@torch.no_grad()
def test_residual_cells_are_what_each_scale_codes():
    quantizer = quantizer_of()
    f = maps_of(quantizer)
    before = torch.cat((torch.zeros_like(f)[None], quantizer.maps(quantizer.encode(f))))
    for k, cells in enumerate(residual_cells(quantizer, f)):
        missing = area_down(f - before[k], quantizer.schedule.sides[k])
        wanted = missing.permute(0, 2, 3, 1).flatten(0, 2)
        torch.testing.assert_close(cells, wanted, rtol=0, atol=1e-6)


def test_kmeans_improves_finds_clusters_and_repeats_itself():
    generator = torch.Generator().manual_seed(0)
    cells = torch.randn(400, 5, generator=generator)

    def cost(centres):
        return torch.cdist(cells, centres).min(1).values.square().mean()

    costs = [cost(kmeans_codebook(cells, 20, seed=0, rounds=r)) for r in (0, 1, 3, 10)]
    assert costs == sorted(costs, reverse=True)
    again = kmeans_codebook(cells, 20, seed=0)
    assert torch.equal(again, kmeans_codebook(cells, 20, seed=0))
    assert not torch.equal(again, kmeans_codebook(cells, 20, seed=1))
    few = torch.eye(3).repeat(10, 1)
    assert kmeans_codebook(few, 8, seed=0).isfinite().all()  # empty clusters restart
    with pytest.raises(ValueError, match="30 rows, need at least vocab = 31"):
        kmeans_codebook(few, 31, seed=0)


@torch.no_grad()
def test_a_start_by_clusters_codes_real_photographs_better(patches):
    torch.manual_seed(0)
    quantizer = MultiScaleQuantizer(64, 16, ScaleSchedule((1, 2, 4, 8)))
    quantizer.embedding.weight.normal_()
    some = patches[:100]

    def error():
        return (some - quantizer.decode(quantizer.encode(some))).square().mean()

    before = error()
    start_codebook(quantizer, some, seed=0)
    assert error() < 0.5 * before
    weights = quantizer.embedding.weight.clone()
    start_codebook(quantizer, some, seed=0)
    assert torch.equal(weights, quantizer.embedding.weight)


@torch.no_grad()
def test_only_dead_codes_restart_and_their_averages_with_them():
    quantizer = quantizer_of(vocab=12)
    hits = quantizer.ema_vocab_hit_SV.fill_(2.0)
    hits[:, [3, 8]] = 0
    before = quantizer.embedding.weight.clone()
    cells = 100 + torch.randn(50, 3)
    averages = (torch.ones(12, 3), torch.ones(12))
    dead = restart_dead_codes(
        quantizer, cells, threshold=0.1, seed=0, averages=averages
    )
    assert dead.nonzero().flatten().tolist() == [3, 8]
    after = quantizer.embedding.weight
    assert torch.equal(after[~dead], before[~dead])
    assert (torch.cdist(after[dead], cells).min(1).values == 0).all()
    for average in averages:
        assert (average[dead] == 0).all() and (average[~dead] == 1).all()
    assert (hits[:, dead] > 0).all()
    again = restart_dead_codes(quantizer, cells, threshold=0.1, seed=1)
    assert not again.any()  # a fresh code has a chance first


@torch.no_grad()
def test_no_more_codes_restart_than_there_are_cells():
    quantizer = quantizer_of(vocab=12)
    quantizer.ema_vocab_hit_SV[:, 0] = 1.0
    dead = restart_dead_codes(quantizer, torch.randn(4, 3), threshold=0.1, seed=0)
    assert int(dead.sum()) == 4


@pytest.mark.parametrize("seed", range(3))
def test_coarse_scales_do_not_collapse_in_training(patches, seed):
    torch.manual_seed(seed)
    quantizer = MultiScaleQuantizer(64, 16, ScaleSchedule((1, 2, 3, 4, 8)))
    start_codebook(quantizer, patches[:100], seed=seed)
    adam = torch.optim.Adam(quantizer.parameters(), 1e-2)
    for step in range(40):
        batch = patches[torch.randperm(500)[:32]]
        _, loss, tokens = quantizer(batch)
        adam.zero_grad()
        loss.backward()
        adam.step()
        quantizer.record_usage(tokens, decay=0.9)
        if step % 10 == 9 and step < 35:
            memory = adam.state[quantizer.embedding.weight]
            restart_dead_codes(
                quantizer,
                torch.cat(residual_cells(quantizer, batch)),
                threshold=0.1,
                seed=step,
                averages=(memory["exp_avg"], memory["exp_avg_sq"]),
            )
    with torch.no_grad():
        tokens = quantizer.encode(patches[:300])
    effective = [codebook_usage(part, 64).perplexity for part in tokens]
    # 64 codes for all scales: a collapsed scale would use one or two
    assert min(effective[:3]) > 4, effective


# ----------------------------------------------------------------- bad input
def test_maps_and_tokens_that_do_not_fit_are_refused_and_the_rest_works():
    quantizer = quantizer_of((1, 2, 4))
    f = maps_of(quantizer)
    tokens = quantizer.encode(f)
    for bad in (torch.zeros(1, 3, 5, 5), torch.zeros(1, 3, 4, 5)):
        with pytest.raises(ValueError, match="needs maps of side 4"):
            quantizer.encode(bad)
    for bad in (tokens[:2], [tokens[0], tokens[2], tokens[1]]):
        with pytest.raises(ValueError, match=r"needs \(1, 4, 16\)"):
            quantizer.decode(bad)
    assert all(map(torch.equal, quantizer.encode(f), tokens))
