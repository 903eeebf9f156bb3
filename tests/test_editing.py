"""Editing: what is known stays, what is not known is not seen, and from which law."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from srdd.data import fashion_slice
from srdd.editing import (
    KEEP_RULES,
    Editor,
    check_mask,
    edit,
    emptied,
    first_scales,
    inpaint,
    known_places,
    on_canvas,
    super_resolve,
    with_means,
)
from srdd.pipeline import Pipeline
from srdd.resampling import resample
from srdd.sampling import ResamplingPlan, SampleConfig, image_seeds, sample
from srdd.scales import ScaleSchedule, area_down
from srdd.tokenizer import Tokenizer, TokenizerConfig
from srdd.transformer import ScaleTransformer, TransformerConfig

SCHEDULE = ScaleSchedule((1, 2, 4))
GUIDED = SampleConfig(3.0)
LABELS, SEEDS = [0, 1, 2], image_seeds(3, 3)


@pytest.fixture(scope="module", params=["markov", "causal"])
def small(request):
    """A lively random pair for images of 8 pixels, with a mask head if Markovian."""
    torch.manual_seed(0)
    shape = TokenizerConfig(1, 4, (1, 2), 1, (), 2, 4, 12, 2, SCHEDULE)
    blocks = 1 if request.param == "markov" else 0
    config = TransformerConfig(
        1, 16, 2, SCHEDULE, 12, 4, 3, mask=request.param, mask_blocks=blocks
    )
    model = ScaleTransformer(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.5 * torch.randn_like(weight))
    return model.eval(), Tokenizer(shape).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def hole():
    mask = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
    mask[..., 2:6, 3:] = True
    return mask


@pytest.fixture(scope="module")
def fashion():
    pipe = Pipeline.from_pretrained("fashion")
    images, labels = fashion_slice().batch(range(0, 1000, 125))
    return pipe, images, labels.tolist()


def edited(model, tokenizer, images, keep, **how):
    call = {"config": GUIDED, "seeds": SEEDS} | how
    return edit(model, tokenizer, images, [keep], LABELS, **call)


# The sampler


def test_the_shipped_sampler_is_the_reference(reference, small, images):
    lesson = reference("12_editing")["edit_reference"]
    model, tokenizer = small
    if model.config.mask == "causal":
        pytest.skip("the reference asks one scale at a time")
    with torch.no_grad():
        f = tokenizer.features(images)
    places = torch.Generator().manual_seed(2)
    keep = [torch.rand(3, n, generator=places) < 0.5 for n in SCHEDULE.counts]
    made = edited(
        model, tokenizer, images, keep, config=SampleConfig(), seeds=[4, 5, 6]
    )
    for i in range(3):
        mine = [part[i : i + 1] for part in keep]
        with torch.no_grad():
            wanted = lesson(model, tokenizer, f[i : i + 1], mine, LABELS[i], 4 + i)
        for got, want in zip(made.tokens, wanted, strict=True):
            assert torch.equal(got[i : i + 1], want)


def test_nothing_known_is_sampling_and_all_known_is_the_encoder(small, images):
    model, tokenizer = small
    none, every = (first_scales(SCHEDULE, n, images) for n in (0, 3))
    free = edited(model, tokenizer, images, none)
    drawn = sample(model, tokenizer, LABELS, config=GUIDED, seeds=SEEDS)
    assert torch.equal(free.images, drawn.images)
    with torch.no_grad():
        coded = tokenizer.reconstruct(images)
    assert torch.equal(edited(model, tokenizer, images, every).images, coded)


@pytest.mark.parametrize("rule", ["sequence", "confidence", "random"])
@pytest.mark.parametrize("law", ["head", "map", "same"])
def test_passes_leave_known_tokens_alone(small, images, rule, law):
    model, tokenizer = small
    if model.config.mask == "causal" and law != "same":
        pytest.skip("a causal model has no such law")
    plan = ResamplingPlan(passes=3, rule=rule, law=law)
    keep = known_places(torch.arange(8).expand(3, 1, 8, 8) < 4, SCHEDULE)
    steps = []
    made = edited(
        model, tokenizer, images, keep, config=replace(GUIDED, resampling=plan),
        callback=steps.append,
    )  # fmt: skip
    last = [s for s in steps if s.k == 2]
    assert len(last) == 4  # the draft and three passes
    first = last[0].tokens[keep[2]]
    assert all(torch.equal(s.tokens[keep[2]], first) for s in last)
    assert any(not torch.equal(s.tokens, last[0].tokens) for s in last)
    assert torch.equal(made.tokens[2], last[-1].tokens)


def test_an_image_belongs_to_its_seed_in_any_batch(small, images, hole):
    model, tokenizer = small
    whole = inpaint(model, tokenizer, images, hole, LABELS, config=GUIDED, seeds=SEEDS)
    for i in range(3):
        one = slice(i, i + 1)
        alone = inpaint(
            model, tokenizer, images[one], hole[one], LABELS[one],
            config=GUIDED, seeds=SEEDS[one],
        )  # fmt: skip
        for a, b in zip(alone.tokens, whole.tokens, strict=True):
            assert torch.equal(a, b[one])


def test_the_fit_is_the_log_probability_of_the_known_tokens(small, images):
    model, tokenizer = small
    keep = first_scales(SCHEDULE, 2, images)
    made = []

    def noted(*rest):
        with torch.no_grad():
            choose = tokenizer.quantize.coder(tokenizer.features(images))
        made.append(Editor(*rest, known=choose, keep=keep))
        return made[-1]

    run = sample(model, tokenizer, LABELS, seeds=SEEDS, sampler=noted)
    inputs = tokenizer.quantize.teacher_inputs(run.tokens)
    with torch.no_grad():
        logs = model(inputs, torch.tensor(LABELS)).log_softmax(-1)
    each = logs.gather(-1, torch.cat(run.tokens, 1)[..., None])[..., 0]
    torch.testing.assert_close(made[0].fit, each[:, :5].sum(1), rtol=0, atol=1e-4)
    drawn = torch.cat([t.log_prob for t in run.trace], 1)
    assert (drawn[:, :5] == 0).all() and (drawn[:, 5:] < 0).all()


# Which tokens


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**64 - 1), st.sampled_from([(1, 2, 4), (1, 3, 8), (2, 5, 8)]))
def test_whole_cells_are_touched_ones_and_rules_agree_at_the_ends(bits, sides):
    cells = torch.tensor([bits >> i & 1 for i in range(64)], dtype=torch.bool)
    known, schedule = cells.view(1, 1, 8, 8), ScaleSchedule(sides)
    rules = {rule: known_places(known, schedule, rule) for rule in KEEP_RULES}
    for whole, touched in zip(rules["whole"], rules["touched"], strict=True):
        assert (whole <= touched).all()
    for value in (True, False):
        same = torch.full_like(known, value)
        for rule in KEEP_RULES:
            assert all((x == value).all() for x in known_places(same, schedule, rule))


def test_a_whole_cell_has_no_unknown_pixel():
    known = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    known[..., 12, 20] = False
    for side, part in zip(
        (1, 3, 8), known_places(known, ScaleSchedule((1, 3, 8))), strict=True
    ):
        cells = part.view(side, side)
        assert not cells[12 * side // 32, 20 * side // 32]
        assert side == 1 or cells[0, 0]


# Holes


def test_what_lies_under_the_mask_is_not_looked_at(small, images, hole):
    model, tokenizer = small
    call = {"config": GUIDED, "seeds": SEEDS}
    other = torch.where(hole, -images, images)
    first, second = (
        inpaint(model, tokenizer, x, hole, LABELS, **call) for x in (images, other)
    )
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.images[~hole], images[~hole])
    for value in (float("nan"), -9.0):
        wild = images.masked_fill(hole, value)
        assert torch.equal(emptied(wild, hole), emptied(images, hole))
        made = inpaint(model, tokenizer, wild, hole, LABELS, **call)
        assert torch.equal(made.images, first.images)


def test_no_hole_gives_the_image_and_a_whole_hole_plain_samples(small, images, hole):
    model, tokenizer = small
    call = {"config": GUIDED, "seeds": SEEDS}
    same = inpaint(model, tokenizer, images, hole & False, LABELS, **call)
    assert torch.equal(same.images, images)
    every = inpaint(model, tokenizer, images, hole | True, LABELS, rounds=1, **call)
    plain = resample(model, tokenizer, LABELS, **call)
    assert torch.equal(every.images, plain.images)


def test_another_round_draws_with_other_noise(small, images, hole):
    model, tokenizer = small
    call = {"config": GUIDED, "seeds": SEEDS}
    made = [
        inpaint(model, tokenizer, images, hole | True, LABELS, rounds=n, **call).images
        for n in (1, 2)
    ]
    assert not torch.equal(*made)


def test_rounds_bring_the_shipped_model_nearer_to_the_truth(fashion):
    pipe, images, labels = fashion
    mask = torch.zeros(len(images), 1, 32, 32, dtype=torch.bool)
    mask[..., 8:24, 8:24] = True
    errors = []
    for rounds in (1, 3):
        made = inpaint(
            pipe.transformer, pipe.painter, images, mask, labels, rounds=rounds,
            config=pipe.sampling, seeds=image_seeds(0, len(images)),
        ).images  # fmt: skip
        errors.append((made - images).square().sum())
    assert errors[1] < errors[0]


# Canvases, scales, large pixels


def test_a_canvas_has_the_image_where_it_was_asked_for(images):
    canvas, mask = on_canvas(images, 12, (1, 3))
    assert torch.equal(canvas[..., 1:9, 3:11], images)
    assert mask.sum() == 3 * (144 - 64) and not mask[..., 1:9, 3:11].any()
    middle, _ = on_canvas(images, 12)
    assert torch.equal(middle[..., 2:10, 2:10], images)
    for side, at in ((7, None), (12, (5, 0)), (12, (0, -1))):
        with pytest.raises(ValueError, match="do not fit on a canvas"):
            on_canvas(images, side, at)


@pytest.mark.parametrize("side", [2, 4])
def test_super_resolution_keeps_the_means_and_the_coarse_tokens(small, images, side):
    model, tokenizer = small
    low = area_down(images, side) / 2  # far from the ends of the range
    call = {"config": GUIDED, "seeds": SEEDS}
    made = super_resolve(model, tokenizer, low, LABELS, rounds=1, **call)
    assert (area_down(made.images, side) - low).abs().max() < 1e-6
    large = torch.nn.functional.interpolate(low, (8, 8), mode="bicubic").clamp(-1, 1)
    kept = {2: 1, 4: 2}[side]  # scales 1 and 2 have sides 1 and 2
    with torch.no_grad():
        coded = tokenizer.encode(large)
    for k in range(kept):
        assert torch.equal(made.tokens[k], coded[k])


def test_means_are_exact_and_smooth():
    low = torch.rand(4, 1, 4, 4) - 0.5
    made = with_means(torch.zeros(4, 1, 16, 16), low)
    torch.testing.assert_close(area_down(made, 4), low, rtol=0, atol=1e-6)
    hard = torch.rand(4, 1, 4, 4).round() * 1.98 - 0.99  # nearly black beside white
    wild = with_means(torch.rand(4, 1, 16, 16) * 2 - 1, hard)
    torch.testing.assert_close(area_down(wild, 4), hard, rtol=0, atol=1e-6)
    steps = torch.nn.functional.interpolate(low, (16, 16))
    assert (made.diff(dim=-1).abs().amax() < steps.diff(dim=-1).abs().amax()).all()


# Bad input


@pytest.mark.parametrize(
    "mask",
    [None, torch.zeros(3, 1, 8, 8), torch.zeros(3, 8, 8, dtype=torch.bool),
     torch.zeros(3, 1, 8, 6, dtype=torch.bool)],
)  # fmt: skip
def test_what_is_no_mask_is_refused(mask):
    with pytest.raises(ValueError, match=r"mask is .*want bool \(b, 1, H, H\)"):
        check_mask(mask)


def test_bad_input_is_named_and_the_model_works_afterwards(small, images, hole):
    model, tokenizer = small
    call = partial(inpaint, model, tokenizer, config=GUIDED, seeds=SEEDS)
    before = call(images, hole, LABELS).images
    bad = [
        ((images[:2], hole, LABELS), {}, "mask has shape"),
        ((images, hole[..., :4, :4], LABELS), {}, "mask has shape"),
        ((images * 3, hole, LABELS), {}, "images has values"),
        ((images.expand(-1, 3, -1, -1), hole, LABELS), {}, "images has shape"),
        ((images, hole, [0]), {}, "labels has 1 entries"),
        ((images, hole, [0, 1, 9]), {}, "9"),
        ((images, hole, LABELS), {"rounds": 0}, "rounds must be"),
        ((images, hole, LABELS), {"rounds": 1.5}, "rounds must be"),
        ((images, hole, LABELS), {"seeds": [1]}, "1 seeds"),
    ]
    for args, how, words in bad:
        with pytest.raises(ValueError, match=words):
            call(*args, **how)
    with pytest.raises(ValueError, match="a round at least"):
        edit(model, tokenizer, images, [], LABELS, seeds=SEEDS)
    with pytest.raises(ValueError, match="rule must be one of"):
        known_places(~hole, SCHEDULE, "most")
    with pytest.raises(ValueError, match=r"scales must be in 0\.\.3"):
        first_scales(SCHEDULE, 4, images)
    for low in (images[..., :3, :3], images, images[..., :0, :0]):
        with pytest.raises(ValueError, match="want a side that divides 8"):
            super_resolve(model, tokenizer, low, LABELS, seeds=SEEDS)
    for low in (images[..., :2, :4], 99 * images[..., :4, :4]):
        with pytest.raises(ValueError, match="images has"):
            super_resolve(model, tokenizer, low, LABELS, seeds=SEEDS)
    for at in (3, (1.5, 2), (1, 2, 3), "ab"):
        with pytest.raises(ValueError, match="at must be a row and a column"):
            on_canvas(images, 12, at)
    with pytest.raises(ValueError, match="back_to is 1: an edit has no way back"):
        call(images, hole, LABELS, config=SampleConfig(back_to=1))
    with pytest.raises(ValueError, match="want at least that of the finest map"):
        known_places(~hole[..., :3, :3], SCHEDULE)
    assert torch.equal(call(images, hole, LABELS).images, before)


def test_weights_give_the_chance_of_tokens_that_the_encoder_chooses_on_the_way():
    """Proposition of chapter 12, with known tokens that depend on what is drawn."""
    torch.manual_seed(5)
    schedule = ScaleSchedule((1, 2))
    tokenizer = Tokenizer(TokenizerConfig(1, 4, (1,), 1, (), 2, 4, 3, 2, schedule))
    model = ScaleTransformer(TransformerConfig(1, 16, 2, schedule, 3, 4, 3)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.5 * torch.randn_like(weight))
    f, label, places = torch.randn(1, 4, 2, 2), torch.tensor([1]), [0, 2]
    quantize, total, tokens = tokenizer.quantize, 0.0, set()
    with torch.no_grad():
        empty = torch.zeros(1, 4, 2, 2)
        start = model.scale_logits(0, empty, label).softmax(-1)[0, 0]
        for first in range(3):
            codes = quantize.codes(torch.tensor([[first]]))
            state = quantize.lift(codes, 0, schedule)
            law = model.scale_logits(1, state, label).softmax(-1)[0]
            coded = quantize.coder(f)(1, state)[0]
            tokens.add(tuple(coded[places].tolist()))
            total += start[first] * law[places, coded[places]].prod()
    assert len(tokens) > 1  # they do depend on what is drawn
    count, made = 20_000, []
    keep = [torch.zeros(count, n, dtype=torch.bool) for n in (1, 4)]
    keep[1][:, places] = True

    def noted(*rest):
        known = quantize.coder(f.expand(count, -1, -1, -1))
        made.append(Editor(*rest, known=known, keep=keep))
        return made[-1]

    sample(model, tokenizer, [1] * count, seeds=range(count), sampler=noted)
    chance = made[0].fit.double().exp()
    assert abs(chance.mean() - total) < 4 * chance.std() / count**0.5
