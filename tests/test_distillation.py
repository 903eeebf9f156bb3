"""Chapter 11: prices of grouping, three meanings of a list, counts, a slim decoder."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import avg_pool2d
from torch.utils.flop_counter import FlopCounterMode

from srdd.data import CounterSampler, colour_shapes, fashion_slice
from srdd.distillation import (
    MEANINGS,
    DecoderTask,
    PaintedMaps,
    StateTask,
    best_groups,
    candidates,
    distil,
    edge_loss,
    generation_flops,
    grouping_cost,
    groups_of,
    image_maps,
    merge_path,
    pareto_front,
    screen,
    sharpened,
    sharpening,
    shortened,
    shortened_transformer,
    slimmed,
    state_table,
    student_steps,
    with_schedule,
)
from srdd.likelihood import merge_cost
from srdd.pipeline import Pipeline
from srdd.quantization import MultiScaleQuantizer
from srdd.resampling import resample
from srdd.runs import encode_images
from srdd.sampling import ResamplingPlan, SampleConfig, image_seeds, sample
from srdd.scales import SHORT_256, VAR_256, ScaleSchedule, area_down
from srdd.schedule_study import (
    CANDIDATES,
    TOLERANCE,
    Setup,
    chosen,
    finalists,
    setups,
)
from srdd.tokenizer import PatchDiscriminator, Tokenizer, TokenizerConfig, psnr
from srdd.training import TrainConfig, TransformerTask, fit, scale_cross_entropy
from srdd.transformer import ScaleTransformer, TransformerConfig, preset

SIDES = ScaleSchedule((1, 2, 3, 4))
SHAPE = TokenizerConfig(1, 8, (1, 2, 2, 2), 1, (), 4, 6, 20, 4, SIDES)  # 32 x 32, grey
NETWORK = TransformerConfig(2, 16, 2, SIDES, 20, 6, 10)
CHAPTER = "11_schedules"


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    return Tokenizer(SHAPE).eval()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    network = ScaleTransformer(NETWORK)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return network.eval()


@pytest.fixture(scope="module")
def images():
    return fashion_slice().subset(list(range(0, 1000, 40)))


@pytest.fixture(scope="module")
def pixels(images):
    return images.batch(range(len(images)))[0]


@pytest.fixture(scope="module")
def tokens(images, tokenizer):
    return encode_images(
        images, tokenizer.encode, sides=SIDES.sides, tokenizer_hash="test"
    )


def law_of(seed, count, vocab=3):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((vocab,) * count, generator=generator, dtype=torch.float64)
    return (2 * noise).flatten().softmax(0).view(noise.shape)


# ---------------------------------------------------------- the price of merging
@pytest.mark.parametrize("seed", range(3))
def test_merging_two_scales_costs_the_mutual_information(reference, seed):
    law, counts = law_of(seed, 7), (1, 2, 4)
    table = reference(CHAPTER)["states_reference"](law, counts)
    for groups, k in (((2, 1), 0), ((1, 2), 1)):
        assert grouping_cost(table, groups) == pytest.approx(
            merge_cost(law, counts, k).item(), abs=1e-10
        )
    assert grouping_cost(table, (1, 1, 1)) == 0
    steps = [grouping_cost(table, groups) for groups in merge_path(table)]
    assert steps == sorted(steps)  # seeing less never helps


def test_one_pass_costs_all_that_binds_the_tokens(reference):
    law = law_of(0, 5)
    table = reference(CHAPTER)["states_reference"](law, (1, 4))
    alone = sum(
        -torch.xlogy(m, m).sum()
        for m in (law.sum([j for j in range(5) if j != i]) for i in range(5))
    )
    assert table[:, 0].sum().item() == pytest.approx(alone.item(), abs=1e-12)


def test_greedy_is_nested_and_best_is_never_worse(reference):
    table = reference(CHAPTER)["states_reference"](law_of(4, 5), (1,) * 5)
    path = merge_path(table)
    assert [len(groups) for groups in path] == [5, 4, 3, 2, 1]
    for groups in path:
        best = best_groups(table, len(groups))
        assert sum(best) == 5 and len(best) == len(groups)
        assert grouping_cost(table, best) <= grouping_cost(table, groups) + 1e-12


def test_the_table_is_the_cross_entropy_under_each_map(model, tokenizer, tokens):
    table = state_table(model, tokenizer, tokens, batch=10)
    counts = torch.tensor(SIDES.counts)
    wanted = scale_cross_entropy(model, tokenizer, tokens).double() * counts
    torch.testing.assert_close(table.diagonal(), wanted, rtol=1e-5, atol=1e-5)
    model = with_groups(model, (1, 2, 1))
    wanted = scale_cross_entropy(model, tokenizer, tokens).double() * counts
    assert table[2, 1].item() == pytest.approx(wanted[2].item(), rel=1e-5)
    assert (table.triu(1)[:-1].sum(1) == torch.inf).all()


def with_groups(model, groups):
    other = ScaleTransformer(replace(model.config, groups=groups))
    other.load_state_dict(model.state_dict())
    return other.eval()


def test_the_state_task_shows_the_maps_of_random_groupings(
    tokenizer, tokens, tmp_path, monkeypatch
):
    network = ScaleTransformer(NETWORK)
    task = StateTask(network, tokenizer, tokens, TrainConfig(30, batch=4, warmup=1))
    plain, shown = tokenizer.quantize.teacher_inputs, []

    def spy(parts, seen):
        shown.append(tuple(seen))
        return plain(parts, seen=seen)

    monkeypatch.setattr(tokenizer.quantize, "teacher_inputs", spy)
    fit(task, task.config, tmp_path, progress=False)
    every = {
        replace(NETWORK, groups=groups).seen
        for groups in ((4,), (1, 3), (2, 2), (3, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1))
    } | {(0, 1, 2, 3)}
    assert set(shown) <= every and len(set(shown)) > 5


# -------------------------------------------------------------- three meanings
def test_a_side_keeps_its_convolution():
    assert shortened(VAR_256, SHORT_256.sides).phi == (0, 1, 1, 2, 3, 3)
    assert shortened(VAR_256, VAR_256.sides) is VAR_256
    fashion = ScaleSchedule((1, 2, 3, 4, 6, 8))
    assert shortened(fashion, (1, 4, 8)) == fashion.subset((1, 4, 8))
    assert shortened(fashion, (1, 3, 5, 8)).phi[2] == fashion.phi_for(4)[3]  # as 4
    for bad in ((), (1, 2), (2, 1, 8)):
        with pytest.raises(ValueError, match="sides must"):
            shortened(fashion, bad)


def test_groups_end_at_the_kept_sides():
    fashion = ScaleSchedule((1, 2, 3, 4, 6, 8))
    assert groups_of(fashion, (1, 3, 6, 8)) == (1, 2, 2, 1)
    assert groups_of(fashion, (8,)) == (6,)
    assert groups_of(fashion, fashion.sides) == (1,) * 6
    for bad in ((1, 5, 8), (1, 3), ()):
        with pytest.raises(ValueError, match="passes must end at growing sides"):
            groups_of(fashion, bad)


@torch.no_grad()
def test_retokenising_runs_the_same_weights(tokenizer, pixels):
    made = distil(tokenizer, (1, 3, 4))
    schedule = shortened(SIDES, (1, 3, 4))
    wanted = tokenizer.encode(pixels, schedule)
    assert made.tokenizer.schedule == schedule and made.groups is None
    assert all(map(torch.equal, made.encode(pixels), wanted))
    assert torch.equal(
        made.tokenizer.decode(wanted), tokenizer.decode(wanted, schedule)
    )


@torch.no_grad()
def test_merging_keeps_tokenizer_and_tokens(tokenizer, pixels):
    made = distil(tokenizer, (1, 3, 4), "merge")
    assert made.tokenizer is tokenizer and made.groups == (1, 2, 1)
    assert all(map(torch.equal, made.encode(pixels), tokenizer.encode(pixels)))


@torch.no_grad()
@pytest.mark.parametrize("sides", [(1, 3, 4), (2, 4), (1, 2, 3, 4)])
def test_meanings_differ_in_the_map_they_aim_at(reference, tokenizer, pixels, sides):
    literal = reference(CHAPTER)["encode_reference"]
    f, schedule = tokenizer.features(pixels), shortened(SIDES, sides)
    maps = dict(zip(SIDES.sides, tokenizer.maps(tokenizer.encode(pixels)), strict=True))
    aims = {"retokenise": [f] * len(sides), "student": [maps[s] for s in sides]}
    for meaning, targets in aims.items():
        got = distil(tokenizer, sides, meaning).encode(pixels)
        wanted = literal(tokenizer.quantize, targets, schedule)
        for a, b in zip(got, wanted, strict=True):
            assert (a == b).float().mean() > 0.99  # ties of float32 distances


@torch.no_grad()
def test_a_student_step_cannot_be_bettered_by_another_code(tokenizer, pixels):
    f, schedule = tokenizer.features(pixels), shortened(SIDES, (2, 4))
    teacher = tokenizer.maps(tokenizer.encode(pixels))[1]
    first = next(student_steps(tokenizer, f, schedule))
    cells = area_down(teacher, 2).flatten(2).transpose(1, 2)
    codes = tokenizer.quantize.embedding.weight
    distance = torch.cdist(cells, codes)
    chosen = distance.gather(-1, first.tokens[..., None])[..., 0]
    torch.testing.assert_close(chosen, distance.min(-1).values)


def test_what_does_not_fit_is_refused(tokenizer):
    with pytest.raises(ValueError, match="meaning must be one of .*got 'short'"):
        distil(tokenizer, (1, 4), "short")
    for meaning in MEANINGS:
        with pytest.raises(ValueError, match="got"):
            distil(tokenizer, (1, 3), meaning)
    with pytest.raises(ValueError, match=r"no maps of sides \[1, 3\]"):
        steps = student_steps(
            with_schedule(tokenizer, ScaleSchedule((2, 4))), torch.zeros(1), SIDES
        )
        next(steps)


@torch.no_grad()
def test_a_cut_transformer_answers_as_before_at_the_kept_sides(model):
    short = ScaleSchedule((2, 4))
    cut, state = shortened_transformer(model, short), torch.randn(3, 6, 4, 4)
    labels = torch.tensor([0, 3, 9])
    last = [m.scale_logits(k, state, labels) for m, k in ((cut, 1), (model, 3))]
    assert torch.equal(*last)
    assert cut.config.schedule == short and not cut.training
    other = shortened_transformer(model, ScaleSchedule((1, 3, 5)))
    assert other.position_embed.shape == (1, 35, 16)
    assert torch.equal(other.position_embed[:, :1], model.position_embed[:, :1])


@pytest.mark.parametrize("meaning", MEANINGS)
def test_every_meaning_trains_and_samples(tokenizer, images, tmp_path, meaning):
    made = distil(tokenizer, (1, 3, 4), meaning)
    sides = made.tokenizer.schedule.sides
    tokens = encode_images(images, made.encode, sides=sides, tokenizer_hash=meaning)
    config = replace(NETWORK, schedule=made.tokenizer.schedule, groups=made.groups)
    plan = TrainConfig(2, batch=4, warmup=1)
    task = TransformerTask(ScaleTransformer(config), made.tokenizer, tokens, plan)
    trained = fit(task, plan, tmp_path, progress=False)
    some = sample(trained, made.tokenizer, [0, 1], seeds=image_seeds(0, 2))
    assert some.images.shape == (2, 1, 32, 32)


# ----------------------------------------------------------------------- costs
def counted(model, tokenizer, sampling):
    """Operations of one image that PyTorch counts, as the sampler runs them."""
    with torch.device("meta"):
        network, coder = ScaleTransformer(model), Tokenizer(tokenizer)
        label = torch.zeros(1, dtype=torch.int64)
        side = model.schedule.sides[-1]
        f_hat = torch.zeros(1, model.code_width, side, side)
    loop = MultiScaleQuantizer(2, model.code_width, model.schedule)  # not on meta
    scales, k = len(model.schedule), 0
    acts = [sampling.weight(j, scales) != 1 for j in range(scales)]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        single = network.condition(label)
        double = network.condition(label.repeat(2)) if any(acts) else None
        while k < scales:
            together = model.seen.count(k)
            both = any(acts[k : k + together])
            state = f_hat.repeat(1 + both, 1, 1, 1)
            condition = double if both else single
            network.scale_logits(k, state, condition, scales=together)
            k += together
        for j, s in enumerate(model.schedule.sides):
            loop.lift(torch.zeros(1, model.code_width, s, s), j, model.schedule)
        coder.decode_map(f_hat)
    return counter.get_total_flops()


PUBLISHED = TokenizerConfig()
SHORT = TokenizerConfig(schedule=SHORT_256)
END = SampleConfig(2.0, "interval", interval=(0.0, 0.7))


@pytest.mark.parametrize("sampling", [SampleConfig(), SampleConfig(2.0), END])
@pytest.mark.parametrize("groups", [None, (1, 2, 1), (4,)])
def test_a_small_image_costs_what_is_counted(sampling, groups):
    config, slim = replace(NETWORK, groups=groups), replace(SHAPE, decoder_base=4)
    for shape in (SHAPE, slim):
        made = generation_flops(config, shape, sampling).total
        assert made == pytest.approx(counted(config, shape, sampling), rel=0.01)


@pytest.mark.parametrize(
    "schedule, shape", [(VAR_256, PUBLISHED), (SHORT_256, SHORT)], ids=["10", "6"]
)
def test_a_published_image_costs_what_is_counted(schedule, shape):
    config = preset("d16", schedule=schedule)
    for sampling in (SampleConfig(), SampleConfig(1.5, "constant")):
        made = generation_flops(config, shape, sampling).total
        assert made == pytest.approx(counted(config, shape, sampling), rel=0.01)


def test_causal_models_pay_for_guidance_at_earlier_scales():
    last = SampleConfig(2.0, "interval", interval=(0.9, 1.0))
    markov = generation_flops(NETWORK, SHAPE, last).transformer
    causal = generation_flops(replace(NETWORK, mask="causal"), SHAPE, last).transformer
    assert causal.mlp == 2 * generation_flops(NETWORK, SHAPE).transformer.mlp
    assert markov.mlp < causal.mlp


# ------------------------------------------------------------ search and decoder
def test_candidates_are_all_lists_that_end_at_the_map():
    every = candidates(SIDES)
    assert len(every) == len(set(every)) == 8
    assert every[0] == SIDES.sides and every[-1] == (4,)
    assert all(sides[-1] == 4 for sides in every)


@torch.no_grad()
def test_the_screen_is_the_psnr_of_the_tokenizer_alone(tokenizer, pixels):
    lists = [(1, 2, 3, 4), (1, 4), (2, 3, 4)]
    for sides, got in zip(lists, screen(tokenizer, pixels, lists), strict=True):
        made = distil(tokenizer, sides)
        wanted = psnr(made.tokenizer.reconstruct(pixels), pixels).mean().item()
        assert got == pytest.approx(wanted, abs=1e-4)


def test_the_front_holds_what_no_other_beats():
    costs, losses = [3, 1, 2, 2, 4, 1], [1, 5, 3, 2, 1, 5]
    assert pareto_front(costs, losses) == [1, 3, 0]
    assert pareto_front([], []) == []


@torch.no_grad()
def test_a_slim_decoder_leaves_tokens_and_maps_alone(tokenizer, pixels):
    slim = slimmed(tokenizer, 4).eval()
    assert all(map(torch.equal, slim.encode(pixels), tokenizer.encode(pixels)))
    tokens = slim.encode(pixels)
    assert torch.equal(slim.maps(tokens), tokenizer.maps(tokens))
    again = slimmed(tokenizer, 4).eval()
    assert torch.equal(slim.decode(tokens), again.decode(tokens))
    assert not torch.equal(slim.decode(tokens), slimmed(tokenizer, 4, 1).decode(tokens))


def test_the_decoder_learns_and_nothing_else_moves(tokenizer, images, tmp_path):
    slim = slimmed(tokenizer, 4)
    before = {k: v.clone() for k, v in slim.state_dict().items()}
    maps = image_maps(tokenizer, [images.batch(range(len(images)))[0]])
    task = DecoderTask(slim, PaintedMaps(tokenizer, maps, 8))
    plan = TrainConfig(12, batch=8, lr=3e-3, warmup=2, ema=0.5, log_every=1)
    losses = []
    trained = fit(
        task,
        plan,
        tmp_path,
        progress=False,
        on_log=lambda step, row: losses.append(row["loss/model"]),
    )
    assert losses[-1] < 0.9 * losses[0]
    for key, value in trained.state_dict().items():
        moves = key.startswith(("decoder.", "post_quant_conv."))
        assert moves or torch.equal(value, before[key]), key


def test_pairs_are_what_the_teacher_paints_in_the_order_of_the_sampler(
    tokenizer, pixels
):
    maps = image_maps(tokenizer, pixels.split(5))
    torch.testing.assert_close(
        maps, tokenizer.maps(tokenizer.encode(pixels))[-1], rtol=0, atol=1e-5
    )
    kept = PaintedMaps(tokenizer, maps, batch=4, seed=1)
    order = iter(CounterSampler(len(maps), 4, 1, 2))
    for some, pictures in islice(kept(2), 3):
        rows = [index for _, index in next(order)]
        assert torch.equal(some, maps[rows])
        wanted = tokenizer.decode_map(maps[rows])
        torch.testing.assert_close(pictures, wanted, rtol=0, atol=1e-5)


def test_edges_are_differences_of_neighbours():
    flat, step = torch.zeros(1, 1, 2, 3), torch.tensor([[[[0.0, 0.0, 3.0]] * 2]])
    assert edge_loss(flat + 0.4, flat) == 0
    assert edge_loss(step, flat) == pytest.approx(3.0 / 2)  # 2 of 4 pairs across
    assert edge_loss(step, step) == 0


def squares(images):
    """Mean squares of the differences of neighbours."""
    return sum(images.diff(dim=d).square().mean().item() for d in (-2, -1))


def test_sharpening_makes_a_blurred_image_as_sharp_as_it_was():
    real = 0.3 * colour_shapes(20, 16, 0).batch(range(20))[0]  # far from the clamp
    faint = avg_pool2d(real, 3, 1, 1)
    strength = sharpening(faint, real)
    assert strength > 0 and squares(faint) < 0.9 * squares(real)
    assert squares(sharpened(faint, strength)) == pytest.approx(squares(real), rel=1e-4)
    assert sharpening(real, faint) == 0  # nothing is missing
    flat = torch.full((1, 1, 3, 3), 0.5)
    assert torch.equal(sharpened(flat, 9.0), flat)
    spot = torch.zeros(1, 1, 3, 3)
    spot[..., 1, 1] = 0.1
    wanted = spot + 0.5 * torch.tensor([[0, -0.1, 0], [-0.1, 0.4, -0.1], [0, -0.1, 0]])
    torch.testing.assert_close(sharpened(spot, 0.5), wanted)
    assert sharpened(spot * 10, 9.0).abs().max() == 1


def test_sharpened_pairs_are_the_pictures_of_the_teacher_sharpened(tokenizer, pixels):
    maps = image_maps(tokenizer, pixels.split(5))
    plain, sharp = (PaintedMaps(tokenizer, maps, 4, strength=x) for x in (0.0, 0.2))
    assert torch.equal(sharp.pictures, sharpened(plain.pictures, 0.2))
    assert torch.equal(sharp.maps, plain.maps)


@pytest.mark.parametrize("middle", [True, False])
def test_a_slim_decoder_may_have_fewer_blocks_and_no_middle(tokenizer, middle):
    slim = slimmed(tokenizer, 8, blocks=1, middle=middle).eval()
    assert slim.config.decoder_blocks == 1
    assert slim.config.decoder_middle is middle
    photos = fashion_slice().batch(range(2))[0]
    tokens = tokenizer.encode(photos)
    for a, b in zip(tokens, slim.encode(photos), strict=True):
        assert torch.equal(a, b)
    images = slim.decode(tokens)
    assert images.shape == photos.shape
    whole = sum(w.numel() for w in tokenizer.decoder.parameters())
    assert sum(w.numel() for w in slim.decoder.parameters()) < whole


def test_every_loss_of_a_slim_decoder_is_in_the_log_and_counts(tokenizer):
    slim = slimmed(tokenizer, 4, blocks=1, middle=False)
    photos = fashion_slice().batch(range(8))[0]
    pairs = PaintedMaps(tokenizer, image_maps(tokenizer, [photos]), 4)

    def distance(fake, real):
        return (fake - real).abs().mean()

    task = DecoderTask(
        slim, pairs, edges=2.0, perceptual=distance, perceptual_weight=0.5,
        discriminator=PatchDiscriminator(1, 4), adversarial_start=3,
    )  # fmt: skip
    batch = next(iter(task.batches(0)))
    losses, early = task.losses(batch, 0)
    _, late = task.losses(batch, 3)
    assert set(early) == {"pixels", "edges", "perceptual", "adversarial"}
    assert early["adversarial"] == 0 != late["adversarial"]
    total = losses["model"].item()
    assert total == pytest.approx(sum(early.values()).item(), rel=1e-5)
    assert set(losses) == set(task.modules) == {"model", "discriminator"}
    losses["model"].backward()
    grads = {k for k, w in slim.named_parameters() if w.grad is not None}
    assert grads and all(k.startswith(("decoder", "post_quant_conv")) for k in grads)


def test_the_screen_chooses_by_the_rule_that_its_module_states():
    def point(flops, rel_fd):
        return {"flops": {"mean": flops}, "rel_fd": {"mean": rel_fd}}

    found = {setup.name: point(100, 2.0) for setup in setups()}
    whole, alone, slim, far = (
        Setup(CANDIDATES[0]),
        Setup(CANDIDATES[2]),
        Setup(CANDIDATES[2], "last not guided", "10 x 2"),
        Setup(CANDIDATES[3], "guided", "12 x 1"),
    )
    found |= {
        whole.name: point(100, 1.0),
        alone.name: point(90, 1.0 + 0.9 * TOLERANCE),
        slim.name: point(40, 1.0 + 0.5 * TOLERANCE),
        far.name: point(10, 1.0 + 1.1 * TOLERANCE),  # too far
    }
    values = {f"{n}/{key}": x for n, row in found.items() for key, x in row.items()}
    assert chosen(values) == {"schedule alone": alone, "all levers": slim}
    final = finalists(values)
    assert final[0] == CANDIDATES[0] and CANDIDATES[2] in final
    assert len(final) == len(set(final)) <= 7


CALLS = {
    "law": SampleConfig(),
    "linear": SampleConfig(2.0),
    "ended early": SampleConfig(3.0, guidance_off=1),
    "law of the map": SampleConfig(2.0, resampling=ResamplingPlan(passes=2, law="map")),
    "back to the fifth": SampleConfig(2.0, back_to=4),
    "back, not guided at the end": SampleConfig(2.0, guidance_off=1, back_to=2),
    "passes and back": SampleConfig(
        back_to=3, resampling=ResamplingPlan(scales=(2, 5), law="map")
    ),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("model", ["fashion", "fashion-causal"])
def test_a_call_on_a_cpu_costs_what_is_counted_of_it(model, name, own):
    """The shipped models, sampled and painted for real."""
    pipe = Pipeline.from_pretrained(model)
    if model == "fashion-causal" and CALLS[name].resampling is not None:
        pytest.skip("a causal model has no such passes")
    tokenizer = pipe.tokenizer if own else pipe.painter
    how, count = {"config": CALLS[name], "seeds": range(20)}, 20
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        resample(pipe.transformer, tokenizer, [1] * count, **how)
    sizes = pipe.transformer.config, tokenizer.config, CALLS[name]
    made = generation_flops(*sizes, folded=True).total
    assert made == pytest.approx(counter.get_total_flops() / count, rel=0.01)
    assert made < generation_flops(*sizes).total


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda t: slimmed(t, 4, blocks=0), "base and blocks .* 4 and 0"),
        (lambda t: slimmed(t, 0), "base and blocks .* 0 and None"),
        (lambda t: distil(t, (3, 1, 4), "merge"), r"growing sides.*\(3, 1, 4\)"),
        (lambda t: distil(t, (1, 1, 4), "merge"), r"growing sides.*\(1, 1, 4\)"),
        (lambda t: distil(t, (1, 1, 4)), "growing"),
        (lambda t: distil(t, (), "student"), "sides must end with 4"),
        (lambda t: distil(t, (1, 5, 4), "student"), "grow"),
        (lambda t: grouping_cost(torch.zeros(4, 4), (1, 2)), "sum to 4 scales"),
        (lambda t: grouping_cost(torch.zeros(3, 3), (0, 3)), "must be >= 1"),
        (lambda t: pareto_front([1, 2], [1]), "2 costs and 1 losses"),
        (lambda t: generation_flops(NETWORK, TokenizerConfig()), "differ in schedule"),
        (lambda t: best_groups(torch.zeros(3, 3), 4), "passes .* 1 to 3 .* got 4"),
        (lambda t: best_groups(torch.zeros(3, 3), 0), "passes .* 1 to 3 .* got 0"),
        (
            lambda t: generation_flops(NETWORK, SHAPE, SampleConfig((1.0, 2.0))),
            "guidance has 2 numbers, the schedule 4",
        ),
        (
            lambda t: generation_flops(
                NETWORK, SHAPE, SampleConfig(resampling=ResamplingPlan())
            ),
            "law 'head' needs a mask head",
        ),
        (
            lambda t: generation_flops(NETWORK, SHAPE, SampleConfig(back_to=4)),
            r"back_to must be one of \[0, 1, 2, 3\]",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(tokenizer, make, words):
    with pytest.raises(ValueError, match=words):
        make(tokenizer)


def test_a_student_wants_maps_that_its_teacher_has(tokenizer):
    longer = with_schedule(tokenizer, shortened(tokenizer.schedule, (1, 3, 4)))
    with pytest.raises(ValueError, match="growing sides of"):
        distil(longer, (1, 2, 4), "student")
    assert distil(longer, (1, 2, 4)).tokenizer.schedule.sides == (1, 2, 4)
