"""Drawing again: which tokens, from which law, and what the passes must not change."""

import math
from dataclasses import replace
from itertools import combinations, product

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from srdd.distillation import generation_flops
from srdd.likelihood import resampled_law
from srdd.quantization import Step
from srdd.resampling import (
    LAWS,
    RULES,
    Draft,
    MaskHeadTask,
    MaskTask,
    halton_rank,
    hidden_cross_entropy,
    hidden_means,
    hide_tokens,
    largest,
    last_rows,
    pass_flops,
    radical_inverse,
    resample,
    step_back,
    with_mask_head,
)
from srdd.runs import TokenSet
from srdd.sampling import (
    RESAMPLING_LAWS,
    RESAMPLING_RULES,
    ResamplingPlan,
    SampleConfig,
    gumbel_noise,
    image_seeds,
    sample,
)
from srdd.scales import ScaleSchedule
from srdd.tokenizer import Tokenizer, TokenizerConfig
from srdd.training import TrainConfig, TransformerTask, fit
from srdd.transformer import ScaleTransformer, TransformerConfig


def pair(sides=(1, 2, 4), vocab=16, mask="markov", blocks=1, **network):
    """A tokenizer and a transformer with weights of ordinary size."""
    torch.manual_seed(0)
    schedule = ScaleSchedule(sides)
    shape = TokenizerConfig(1, 4, (1,), 1, (), 2, 4, vocab, 2, schedule)
    config = TransformerConfig(
        1, 16, 2, schedule, vocab, 4, 3, mask=mask, mask_blocks=blocks, **network
    )
    model = ScaleTransformer(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.5 * torch.randn_like(weight))
    return model.eval(), Tokenizer(shape).eval()


def drafted(turn=1, share=0.4, count=16, images=5):
    """A draft with random numbers in it."""
    seeds = torch.tensor(image_seeds(0, images))
    noise = gumbel_noise(seeds, 0, count, 2)
    return Draft(2, turn, seeds, -noise[..., 0].exp(), noise[..., 1].sigmoid(), share)


def plan(**fields):
    return SampleConfig(resampling=ResamplingPlan(**fields))


# --------------------------------------------------------------------------- rules
def test_the_tables_have_the_rows_that_a_plan_may_name():
    assert tuple(RULES) == RESAMPLING_RULES and tuple(LAWS) == RESAMPLING_LAWS


@pytest.mark.parametrize("name", [n for n in RULES if n != "threshold"])
@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_a_rule_takes_its_share_and_at_least_one(name, share):
    chosen = RULES[name](drafted(share=share))
    assert (chosen.sum(1) == max(1, round(16 * share))).all()


def test_each_rule_takes_the_places_that_it_is_named_after():
    draft = drafted()
    chosen = {name: rule(draft) for name, rule in RULES.items()}
    kept = ~chosen["confidence"]
    least = draft.log_prob.masked_fill(kept, -math.inf).amax(1)
    assert (draft.log_prob.masked_fill(~kept, math.inf).amin(1) >= least).all()
    surest = draft.entropy.masked_fill(~chosen["entropy"], math.inf).amin(1)
    others = draft.entropy.masked_fill(chosen["entropy"], -math.inf).amax(1)
    assert (surest >= others).all()
    assert torch.equal(chosen["threshold"], draft.log_prob < math.log(0.4))
    assert (chosen["halton"] == chosen["halton"][0]).all()


def test_digits_are_those_of_a_number_that_counts():
    for index, base in ((-1, 2), (3, 1)):
        with pytest.raises(ValueError, match=f"got {index} and {base}"):
            radical_inverse(index, base)


@pytest.mark.parametrize("name", ["sequence", "halton"])
def test_an_order_has_one_tail_that_only_shrinks(name):
    tails = [
        RULES[name](drafted(t, share)) for t, share in ((1, 0.9), (2, 0.5), (3, 0.1))
    ]
    assert (tails[1] <= tails[0]).all() and (tails[2] <= tails[1]).all()


def test_random_places_change_with_pass_and_image_and_are_uniform():
    a, b = RULES["random"](drafted(1)), RULES["random"](drafted(2))
    assert (a != b).any() and len(a.unique(dim=0)) > 1
    many = drafted(3, share=0.25, count=16, images=4000)
    share = RULES["random"](many).float().mean(0)
    assert ((share - 0.25).abs() < 5 * (0.25 * 0.75 / 4000) ** 0.5).all()


def test_ties_go_to_the_first_places():
    assert (
        largest(torch.zeros(2, 5), 2).tolist()
        == [[True, True, False, False, False]] * 2
    )


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 13])
def test_halton_visits_every_cell_once(side):
    assert sorted(halton_rank(side).tolist()) == list(range(side * side))


def test_halton_points_are_mirrored_digits():
    got = [radical_inverse(i, 2) for i in range(1, 8)]
    assert got == [1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]
    assert radical_inverse(5, 3) == pytest.approx(2 / 3 + 1 / 9)


# ----------------------------------------------------------------------- the sampler
def test_without_a_plan_it_is_sample():
    for mask in ("markov", "causal"):
        model, tokenizer = pair(mask=mask, blocks=0)
        config = SampleConfig(2.0, top_p=0.9)
        runs = [
            run(model, tokenizer, [0, 1, 2], config=config, seeds=[1, 2, 3])
            for run in (sample, resample)
        ]
        assert torch.equal(runs[0].images, runs[1].images)
        assert len(runs[1].trace) == 3


def test_the_shipped_sampler_is_the_literal_one(reference):
    literal = reference("10_resampling")["resample_reference"]
    model, tokenizer = pair(blocks=2)
    run = resample(model, tokenizer, [0, 1, 2], config=plan(passes=3), seeds=[5, 6, 7])
    with torch.no_grad():
        for i, seed in enumerate((5, 6, 7)):
            wanted = literal(model, tokenizer, i, seed, 3)
            got = [part[i : i + 1] for part in run.tokens]
            assert all(map(torch.equal, got, wanted))


def law_after_pass(model, tokenizer, first, config):
    """Exact law of the four tokens of scale 2 after one pass over two of them."""
    x = torch.tensor(list(product(range(3), repeat=4)))
    quantize, w = tokenizer.quantize, config.weight(1, 2)
    lift = quantize.lift(
        quantize.codes(torch.tensor([[first]])), 0, model.config.schedule
    ).repeat(81, 1, 1, 1)

    def law(known=None):
        cond, uncond = (
            model.scale_logits(1, lift, torch.full((81,), y), known=known).double()
            for y in (1, model.null_label)
        )
        return (uncond + w * (cond - uncond)).softmax(-1)

    before, total = law()[range(81)[:1]][0][range(4), x].prod(1), torch.zeros(81)
    total = total.double()
    for again in combinations(range(4), 2):
        known = x.clone()
        known[:, again] = 3
        after = law(known)
        for new in product(range(3), repeat=2):
            y = x.clone()
            y[:, again] = torch.tensor(new)
            chance = before * after[range(81), again[0], new[0]]
            chance = chance * after[range(81), again[1], new[1]]
            index = (y * 3 ** torch.arange(3, -1, -1)).sum(1)
            total.index_add_(0, index, chance / 6)
    return total


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_pass_of_the_mask_head_has_its_law_outcome_by_outcome(guidance):
    model, tokenizer = pair((1, 2), 3)
    halves = ResamplingPlan(scales=(1,), rule="random", share=0.5)
    config, count = SampleConfig(guidance, resampling=halves), 20_000
    run = resample(model, tokenizer, [1] * count, config=config, seeds=range(count))
    index = (run.tokens[1] * 3 ** torch.arange(3, -1, -1)).sum(1)
    for first in run.tokens[0].unique().tolist():
        own = index[run.tokens[0][:, 0] == first]
        with torch.no_grad():
            wanted = law_after_pass(model, tokenizer, first, config) * len(own)
        counts, common = own.bincount(minlength=81).double(), wanted >= 5
        if not common.any():
            continue
        both = [
            torch.cat((t[common], t[~common].sum()[None])) for t in (counts, wanted)
        ]
        statistic = ((both[0] - both[1]).square() / both[1].clamp_min(1e-9)).sum()
        freedom = int(common.sum())
        assert statistic < freedom + 6 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("passes", [1, 4])
def test_simple_resampling_has_the_law_of_p8(passes):
    model, tokenizer = pair((1, 2), 3, blocks=0)
    config, count = (
        plan(rule="threshold", law="same", share=0.25, passes=passes),
        20_000,
    )
    run = resample(model, tokenizer, [1] * count, config=config, seeds=range(count))
    with torch.no_grad():
        empty = torch.zeros(1, 4, 2, 2)
        law = model.scale_logits(0, empty, torch.tensor([1])).double().softmax(-1)
    closed = resampled_law(law[0, 0], 0.25, passes)
    assert (law < 0.25).any()
    share = run.tokens[0][:, 0].bincount(minlength=3) / count
    assert ((share - closed).abs() < 5 * (closed / count).sqrt() + 1e-9).all()


@pytest.mark.parametrize("law", RESAMPLING_LAWS)
@pytest.mark.parametrize("rule", RESAMPLING_RULES)
def test_a_thousand_images_do_not_depend_on_their_batch(rule, law):
    model, tokenizer = pair()
    share = 0.1 if rule == "threshold" else None
    passes = ResamplingPlan(scales=(1, 2), passes=2, rule=rule, law=law, share=share)
    config, count = SampleConfig(2.0, resampling=passes), 1000
    seeds = image_seeds(3, count)

    def run(size):
        parts = (seeds[at : at + size] for at in range(0, count, size))
        made = [
            resample(model, tokenizer, [1] * len(part), config=config, seeds=part)
            for part in parts
        ]
        return torch.cat([torch.cat(m.tokens, 1) for m in made])

    whole = run(count)
    changed = (run(37) != whole).any(1).sum().item()
    # float32 sums of another order may turn a tie: at most one image in 1,000
    assert changed <= 1, f"{changed} of {count} images changed"


def watched(model, tokenizer, **settings):
    """Two samples with passes over scale 2, and the steps that were reported."""
    steps: list[Step] = []
    made = resample(
        model,
        tokenizer,
        [0, 1],
        seeds=[1, 2],
        callback=steps.append,
        config=plan(scales=(2,), **settings),
    )
    return steps, made


def test_a_pass_changes_only_what_the_rule_chose_and_says_so():
    model, tokenizer = pair()
    steps, run = watched(model, tokenizer, passes=3)
    assert [(s.k, s.turn) for s in run.trace] == [(0, 0), (1, 0)] + [
        (2, t) for t in range(4)
    ]
    assert [s.k for s in steps] == [0, 1, 2, 2, 2, 2]
    for old, new, trace in zip(steps[2:], steps[3:], run.trace[3:], strict=False):
        kept = ~trace.redrawn
        assert torch.equal(old.tokens[kept], new.tokens[kept])
    assert torch.equal(steps[-1].tokens, run.tokens[2])
    maps = tokenizer.quantize.maps(run.tokens)
    torch.testing.assert_close(steps[-1].f_hat, maps[-1])


def test_the_first_draw_is_that_of_sample_whatever_follows():
    model, tokenizer = pair()
    plain = sample(model, tokenizer, [0, 1], seeds=[1, 2])
    for law in RESAMPLING_LAWS:
        run = resample(
            model, tokenizer, [0, 1], seeds=[1, 2], config=plan(scales=(2,), law=law)
        )
        assert all(map(torch.equal, run.tokens[:2], plain.tokens[:2]))
        torch.testing.assert_close(run.trace[2].log_prob, plain.trace[2].log_prob)


@torch.no_grad()
def test_the_map_law_is_the_networks_for_a_map_with_the_kept_codes():
    model, tokenizer = pair(blocks=0)
    how = {"law": "map", "rule": "random", "share": 0.5}
    steps, run = watched(model, tokenizer, **how)
    before, again = steps[2].tokens, run.trace[-1].redrawn
    codes = tokenizer.quantize.embedding(before) * ~again[..., None]  # (b, 16, z)
    grid = codes.mT.unflatten(2, (4, 4))
    f_hat = steps[1].f_hat + tokenizer.quantize.lift(grid, 2, model.config.schedule)
    law = model.scale_logits(2, f_hat, torch.tensor([0, 1])).log_softmax(-1)
    wanted = law.gather(-1, run.tokens[2][..., None])[..., 0]
    got = run.trace[-1].log_prob
    torch.testing.assert_close(got[again], wanted[again], rtol=0, atol=1e-5)


def test_the_temperature_of_the_passes_is_their_own():
    model, tokenizer = pair()
    kinds = {}
    for heat in (1e-3, 50.0):
        config = plan(rule="random", share=1.0, passes=1, temperature=heat)
        run = resample(model, tokenizer, [0] * 50, seeds=range(50), config=config)
        kinds[heat] = len(run.tokens[0].unique())
    assert kinds[1e-3] == 1 and kinds[50.0] > 10


def test_a_plan_that_the_model_cannot_follow_is_refused():
    for mask, blocks, law, words in (
        ("markov", 0, "head", "mask head.*--mask-blocks"),
        ("causal", 0, "map", "markov mask, got 'causal'"),
    ):
        model, tokenizer = pair(mask=mask, blocks=blocks)
        with pytest.raises(ValueError, match=words):
            resample(model, tokenizer, [0], seeds=[1], config=plan(law=law))
        assert len(resample(model, tokenizer, [0], seeds=[1]).images) == 1


def test_a_causal_model_can_draw_again_from_the_same_law():
    model, tokenizer = pair(mask="causal", blocks=0)
    config = plan(rule="threshold", law="same", share=0.1)
    assert len(resample(model, tokenizer, [0], seeds=[1], config=config).trace) == 6


# ---------------------------------------------------------------------- a step back
def test_a_step_back_keeps_the_coarse_code_of_the_finished_map():
    model, tokenizer = pair()
    made = resample(model, tokenizer, [0, 1, 2], seeds=[1, 2, 3])
    again = step_back(model, tokenizer, made.tokens, [0, 1, 2], to=2, seeds=[1, 2, 3])
    coded = tokenizer.quantize.encode(tokenizer.quantize.decode(made.tokens))
    assert all(map(torch.equal, again.tokens[:2], coded[:2]))
    assert not torch.equal(again.tokens[2], made.tokens[2])  # other noise


@pytest.mark.parametrize("mask", ["markov", "causal"])
def test_a_step_back_to_the_start_with_the_first_noise_is_the_first_run(mask):
    model, tokenizer = pair(mask=mask, blocks=0)
    made = resample(model, tokenizer, [0, 1], seeds=[1, 2])
    again = step_back(
        model, tokenizer, made.tokens, [0, 1], to=0, seeds=[1, 2], attempt=0
    )
    assert torch.equal(made.images, again.images)


def test_a_causal_model_sees_the_coarse_tokens_that_it_did_not_draw():
    model, tokenizer = pair(mask="causal", blocks=0)
    made = resample(model, tokenizer, [0, 1], seeds=[1, 2])
    again = step_back(model, tokenizer, made.tokens, [0, 1], to=2, seeds=[1, 2])
    inputs = tokenizer.quantize.teacher_inputs(again.tokens)
    with torch.no_grad():
        law = model(inputs, torch.tensor([0, 1]))[:, 5:].log_softmax(-1)
    wanted = law.gather(-1, again.tokens[2][..., None])[..., 0]
    torch.testing.assert_close(again.trace[-1].log_prob, wanted, rtol=0, atol=1e-5)


def test_a_step_back_starts_where_a_pass_begins():
    model, tokenizer = pair(groups=(1, 2), blocks=0)
    made = resample(model, tokenizer, [0], seeds=[1])
    step_back(model, tokenizer, made.tokens, [0], to=1, seeds=[1])
    for to in (2, 3, -1, 1.0):
        with pytest.raises(ValueError, match=rf"\[0, 1\].*got {to}"):
            step_back(model, tokenizer, made.tokens, [0], to=to, seeds=[1])


@pytest.mark.parametrize(
    "mask, sampling",
    [
        ("markov", SampleConfig(2.0)),
        ("causal", SampleConfig(2.0)),
        ("causal", SampleConfig(2.0, guidance_off=2)),  # a cache of half its rows
        ("band", SampleConfig()),
        ("markov", plan(law="map", passes=2)),
    ],
)
def test_a_way_back_is_a_step_back_in_the_same_call(mask, sampling):
    model, tokenizer = pair(mask=mask, blocks=0)
    known, seeds = (model, tokenizer, [0, 1, 2]), [1, 2, 3]
    made = resample(*known, seeds=seeds, config=replace(sampling, back_to=None))
    for to in range(3):
        config = replace(sampling, back_to=to)
        whole = resample(*known, seeds=seeds, config=config)
        again = step_back(
            model,
            tokenizer,
            made.tokens,
            [0, 1, 2],
            to=to,
            seeds=seeds,
            config=sampling,
        )
        assert all(map(torch.equal, whole.tokens, again.tokens))
        assert torch.equal(whole.images, again.images)
        assert len(whole.trace) == len(made.trace) + len(again.trace)
        alone = resample(model, tokenizer, [1], seeds=[2], config=config)
        second = [ids[1:2] for ids in whole.tokens]
        assert all(map(torch.equal, alone.tokens, second))


def test_a_way_back_that_the_model_cannot_go_is_refused():
    model, tokenizer = pair(groups=(1, 2), blocks=0)
    for to in (2, 3):
        with pytest.raises(ValueError, match=rf"back_to .*\[0, 1\].*got {to}"):
            resample(model, tokenizer, [0], seeds=[1], config=SampleConfig(back_to=to))
    assert resample(
        model, tokenizer, [0], seeds=[1], config=SampleConfig(back_to=1)
    ).trace
    for bad in (-1, 0.5, math.nan):
        with pytest.raises(ValueError, match="back_to must be an integer >= 0"):
            SampleConfig(back_to=bad)


def test_a_step_back_wants_as_many_images_as_seeds():
    model, tokenizer = pair(blocks=0)
    made = resample(model, tokenizer, [0], seeds=[1])
    with pytest.raises(ValueError, match=r"tokens of \[1, 1, 1\] images .* want 2"):
        step_back(model, tokenizer, made.tokens, [0, 1], to=1, seeds=[1, 2])


# ------------------------------------------------------------------------- training
SCHEDULE = ScaleSchedule((1, 2, 4))


def test_the_number_of_hidden_tokens_is_uniform_and_so_are_the_places():
    ids = torch.arange(21).expand(4000, -1)
    torch.manual_seed(0)
    known, gone = hide_tokens(ids, SCHEDULE, 99)
    assert torch.equal(known, ids.masked_fill(gone, 99))
    sizes = gone[:, 5:].sum(1).bincount(minlength=17)[1:].float()
    assert ((sizes - 250).square() / 250).sum() < 15 + 5 * 30**0.5
    share = gone[:, 5:].float().mean(0)
    assert (share - 8.5 / 16).abs().max() < 5 * 0.5 / 4000**0.5


@pytest.mark.parametrize(
    "shown, sizes", [(0.0, (1, 4, 16)), (0.5, (1, 2, 8)), (0.99, (1, 1, 1))]
)
def test_a_given_part_stays_visible_but_never_all(shown, sizes):
    gone = hide_tokens(torch.zeros(3, 21, dtype=torch.int64), SCHEDULE, 9, shown)[1]
    found = [part.sum(1) for part in SCHEDULE.split(gone)]
    assert all((f == size).all() for f, size in zip(found, sizes, strict=True))


def test_the_loss_is_the_mean_over_the_hidden_tokens_of_each_image():
    losses = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    gone = torch.tensor([[True, True, False], [True, True, True]])
    assert hidden_means(losses, gone, (1, 2)).tolist() == [2.5, (2.0 + 5.5) / 2]


def test_rows_of_all_scales_in_one_pass_are_those_of_each_scale():
    model, tokenizer = pair()
    tokens = sample(model, tokenizer, [0, 1], seeds=[1, 2]).tokens
    ids, labels = torch.cat(tokens, 1), torch.tensor([0, 1])
    with torch.no_grad():
        rows = last_rows(model, tokenizer, ids, model.condition(labels))
        got = model.head_logits(rows, model.condition(labels))
        inputs = tokenizer.quantize.teacher_inputs(tokens)
        torch.testing.assert_close(got, model(inputs, labels), rtol=0, atol=1e-5)


def token_set(count=64):
    torch.manual_seed(1)
    tokens = torch.randint(0, 16, (count, 1)).expand(-1, 21).clone()  # all alike
    labels = torch.arange(count) % 3
    return TokenSet(tokens.int(), labels, ("a", "b", "c"), (1, 2, 4), "none")


def test_a_head_learns_from_the_kept_tokens_and_the_network_does_not_move(tmp_path):
    model, tokenizer = pair(blocks=0)
    headed, tokens = with_mask_head(model, 1), token_set()
    config = TrainConfig(150, batch=32, lr=1e-2, warmup=5, ema=0.5, label_drop=0.1)
    before = [hidden_cross_entropy(headed, tokenizer, tokens, s) for s in (0.0, 0.5)]
    task = MaskHeadTask(headed, tokenizer, tokens, config)
    learned = fit(task, config, tmp_path, progress=False)
    after = [hidden_cross_entropy(learned, tokenizer, tokens, s) for s in (0.0, 0.5)]
    assert after[1][2] < 0.5 * before[1][2]  # a token in sight tells the others
    assert after[1][2] < after[0][2]
    state = learned.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert any("mask_head" in k for k in state)


def test_trained_together_both_laws_are_learned():
    model, tokenizer = pair()
    config = TrainConfig(1, batch=8)
    task = MaskTask(model, tokenizer, token_set(8), config)
    batch = next(iter(task.batches(0)))
    losses, numbers = task.losses(batch, 0)
    losses["model"].backward()
    assert model.head.weight.grad is not None and "hidden/2" in numbers
    assert all(p.grad is not None for p in model.blocks.parameters())
    assert all(p.grad is not None for p in model.mask_head.parameters())


def test_a_model_without_a_mask_head_cannot_be_trained_for_one():
    model, tokenizer = pair(blocks=0)
    with pytest.raises(ValueError, match="no mask head"):
        MaskTask(model, tokenizer, token_set(8), TrainConfig(1))
    assert issubclass(MaskTask, TransformerTask)


def test_a_head_can_be_given_to_a_trained_network_and_replaced():
    model, tokenizer = pair(blocks=0)
    a, b, c = (with_mask_head(model, 1, seed) for seed in (0, 0, 1))
    assert torch.equal(a.mask_head.embed.weight, b.mask_head.embed.weight)
    assert not torch.equal(a.mask_head.embed.weight, c.mask_head.embed.weight)
    assert len(with_mask_head(a, 2).mask_head.blocks) == 2
    runs = [sample(m, tokenizer, [0], seeds=[1]).tokens for m in (model, a)]
    assert all(map(torch.equal, *runs))


def test_shown_tokens_are_drawn_from_a_seed_and_nothing_else_is_touched():
    (model, tokenizer), tokens = pair(), token_set()
    torch.manual_seed(4)
    wanted = torch.rand(2)
    torch.manual_seed(4)
    runs = [hidden_cross_entropy(model, tokenizer, tokens, 0.5) for _ in "ab"]
    assert torch.equal(torch.rand(2), wanted) and torch.equal(*runs)
    parts = hidden_cross_entropy(model, tokenizer, tokens, 0.5, batch=7)
    assert parts.isfinite().all()


# ----------------------------------------------------------------------------- cost
@pytest.mark.parametrize("law", RESAMPLING_LAWS)
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_passes_cost_what_is_counted(law, guidance, monkeypatch):
    # products by oneDNN are not counted
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    torch.manual_seed(0)
    schedule = ScaleSchedule((1, 2, 4))
    shape = TokenizerConfig(1, 8, (1,), 1, (), 4, 8, 32, 2, schedule)
    config = TransformerConfig(2, 32, 2, schedule, 32, 8, 3, mask_blocks=1)
    model, tokenizer = ScaleTransformer(config), Tokenizer(shape)
    passes = ResamplingPlan(scales=(1, 2), passes=2, law=law)
    sampling = SampleConfig(guidance, "constant", resampling=passes)
    plain = replace(sampling, resampling=None)
    extra = [counted(model, tokenizer, c) for c in (plain, sampling)]
    wanted = [generation_flops(config, shape, c) for c in (plain, sampling)]
    assert wanted[1].total - wanted[0].total == extra[1] - extra[0]
    passes_ = pass_flops(config, sampling, [guidance != 1] * 3).total
    assert wanted[1].transformer.total - wanted[0].transformer.total == passes_
    assert (passes_ == 0) == (law == "same")


def counted(model, tokenizer, sampling):
    """Operations of one image that PyTorch counts."""
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),  # the fused kernel is not counted on a CPU
    ):
        resample(model, tokenizer, [0], seeds=[1], config=sampling)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ids: ids + 10**5, "tokens.*want 0"),
        (lambda ids: ids - 1, "tokens.*want 0"),
        (lambda ids: ids.float(), "torch.float32"),
        (lambda ids: ids[:1], "tokens of .* images per scale, want 2"),
    ],
)
def test_tokens_that_no_image_has_are_not_taken_back(change, words):
    model, tokenizer = pair(blocks=0)
    zeros = [torch.zeros(2, n, dtype=torch.int64) for n in tokenizer.schedule.counts]
    with pytest.raises(ValueError, match=words):
        step_back(
            model, tokenizer, list(map(change, zeros)), [0, 1], to=1, seeds=[1, 2]
        )
    step_back(model, tokenizer, zeros, [0, 1], to=1, seeds=[1, 2])
