"""The sampler: its law, outcome by outcome, and whose noise it is."""

import json
import math
from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pytest
import torch

from srdd.data import mix64
from srdd.quantization import Step
from srdd.resampling import resample
from srdd.sampling import (
    RESAMPLING_LAWS,
    RESAMPLING_RULES,
    ResamplingPlan,
    SampleConfig,
    at_scale,
    filter_logits,
    guide,
    gumbel_noise,
    image_seeds,
    kept_codes,
    sample,
    sampling_preset,
)
from srdd.scales import ScaleSchedule
from srdd.tokenizer import Tokenizer, TokenizerConfig
from srdd.transformer import ScaleTransformer, TransformerConfig

OUTCOMES = torch.tensor(list(product(range(3), repeat=5)))  # sides 1, 2; 3 codes
MASKS = ("markov", "causal", "band")


def pair(sides=(1, 2), vocab=3, mask="markov", seed=0, depth=1):
    """A tokenizer and a transformer with weights of ordinary size."""
    torch.manual_seed(seed)
    schedule = ScaleSchedule(sides)
    shape = TokenizerConfig(1, 4, (1,), 1, (), 2, 4, vocab, 2, schedule)
    config = TransformerConfig(depth, 16, 2, schedule, vocab, 4, 3, mask=mask)
    model = ScaleTransformer(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.5 * torch.randn_like(weight))
    return model.eval(), Tokenizer(shape).eval()


@torch.no_grad()
def law_of(model, tokenizer, label, config):
    """Probability of each of the 243 outcomes, by the training pass."""
    parts = list(OUTCOMES.split((1, 4), dim=1))
    inputs = tokenizer.quantize.teacher_inputs(parts)
    cond, uncond = (
        model(inputs, torch.full((243,), y)) for y in (label, model.null_label)
    )
    total = torch.zeros(243, dtype=torch.float64)
    for k, (c, u, ids) in enumerate(
        zip(cond.split((1, 4), 1), uncond.split((1, 4), 1), parts, strict=True)
    ):
        w = config.weight(k, 2)
        heat = at_scale(config.temperature, k)
        logits = ((1 - w) * u.double() + w * c.double()) / heat
        kept = at_scale(config.top_k, k), at_scale(config.top_p, k)
        logits = filter_logits(logits, *kept)
        chosen = logits.log_softmax(-1).gather(-1, ids[..., None])
        total += chosen.sum((1, 2))
    return total.exp()


def chi_square(tokens, law):
    """Pearson's statistic and its degrees of freedom."""
    base = 3 ** torch.arange(4, -1, -1)
    counts = (torch.cat(tokens, 1) * base).sum(1).bincount(minlength=243)
    assert counts[law == 0].sum() == 0
    expected = len(tokens[0]) * law
    common = expected >= 5  # the rare outcomes count as one
    wanted = torch.cat((expected[common], expected[~common].sum()[None]))
    got = torch.cat((counts[common], counts[~common].sum()[None])).double()
    live = wanted > 0
    statistic = ((got - wanted).square()[live] / wanted[live]).sum().item()
    return statistic, int(live.sum()) - 1


SETTINGS = {
    "plain": SampleConfig(),
    "constant": SampleConfig(2.0, "constant"),
    "linear": SampleConfig(3.0, "linear"),
    "interval": SampleConfig(2.0, "interval", interval=(0.0, 0.4)),
    "top k": SampleConfig(top_k=2),
    "top p": SampleConfig(top_p=0.8),
    "cold": SampleConfig(temperature=0.7),
    "off by scale": SampleConfig(2.0, "constant", guidance_off=1),
    "weights per scale": SampleConfig((0.5, 3.0)),
    "levers per scale": SampleConfig(
        top_k=(0, 2), top_p=(0.8, 1.0), temperature=(1.3, 0.8)
    ),
    "all": SampleConfig(1.5, "linear", top_k=2, top_p=0.95, temperature=1.2),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", SETTINGS)
def test_samples_have_the_law_of_the_model_outcome_by_outcome(mask, name):
    config = SETTINGS[name]
    model, tokenizer = pair(mask=mask)
    law = law_of(model, tokenizer, 1, config)
    assert law.sum().item() == pytest.approx(1, abs=1e-9)
    drawn = sample(model, tokenizer, [1] * 20_000, config=config, seeds=range(20_000))
    statistic, freedom = chi_square(drawn.tokens, law)
    assert statistic < freedom + 5 * math.sqrt(2 * max(freedom, 1))


def test_the_enumeration_would_notice_a_small_error():
    model, tokenizer = pair()
    drawn = sample(model, tokenizer, [1] * 20_000, seeds=range(20_000))
    for wrong in (SampleConfig(temperature=1.1), SampleConfig(1.2, "constant")):
        statistic, freedom = chi_square(
            drawn.tokens, law_of(model, tokenizer, 1, wrong)
        )
        assert statistic > freedom + 10 * math.sqrt(2 * freedom)


def test_no_class_means_the_null_label_and_no_guidance():
    model, tokenizer = pair()
    free = sample(model, tokenizer, None, seeds=range(20_000), config=SampleConfig(5.0))
    law = law_of(model, tokenizer, model.null_label, SampleConfig())
    statistic, freedom = chi_square(free.tokens, law)
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)
    assert all(step.guidance == 1 for step in free.trace)


@pytest.mark.parametrize("mask", MASKS)
def test_a_thousand_images_do_not_depend_on_their_batch(mask):
    model, tokenizer = pair((1, 2, 4), vocab=16, mask=mask, depth=2)
    config, count = SampleConfig(2.0, top_k=12, top_p=0.97), 1000
    seeds, labels = image_seeds(3, count), [i % 3 for i in range(count)]

    def run(size):
        parts = [
            torch.cat(
                sample(
                    model,
                    tokenizer,
                    labels[at : at + size],
                    config=config,
                    seeds=seeds[at : at + size],
                ).tokens,
                dim=1,
            )
            for at in range(0, count, size)
        ]
        return torch.cat(parts)

    whole = run(count)
    assert whole.unique(dim=0).shape[0] > 900  # not all alike
    for size in (3, 64, 333):
        changed = (run(size) != whole).any(1).sum().item()
        # float32 sums of another order may turn a tie: at most one image in 1,000
        assert changed <= 1, f"batch {size}: {changed} of {count} images changed"


def test_the_shipped_sampler_is_the_literal_one(reference):
    literal = reference("09_sampling")["sample_reference"]
    model, tokenizer = pair((1, 2, 4), vocab=16, depth=2)
    run = sample(model, tokenizer, [0, 1, 2], seeds=[11, 12, 13])
    with torch.no_grad():
        for i, seed in enumerate((11, 12, 13)):
            noise = [
                gumbel_noise(torch.tensor([seed]), k, count, 16)
                for k, count in enumerate((1, 4, 16))
            ]
            wanted = literal(model, tokenizer, i, noise)
            got = [part[i : i + 1] for part in run.tokens]
            assert all(map(torch.equal, got, wanted))


def test_truncation_agrees_with_the_literal_one(reference):
    literal = reference("09_sampling")["truncate_reference"]
    rows = 2 * torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    for top_k, top_p in product((0, 1, 5, 30), (1e-6, 0.3, 0.9, 0.999, 1.0)):
        shipped = filter_logits(rows, top_k, top_p)
        for row, kept in zip(rows, shipped, strict=True):
            alive = kept.isfinite().nonzero().flatten().tolist()
            assert alive == literal(row, top_k, top_p)
            assert torch.equal(kept[alive], row[alive])  # values are not touched


def test_top_p_by_hand():
    row = torch.tensor([0.10, 0.40, 0.05, 0.30, 0.15]).log()
    for top_p, kept in ((0.4, [1]), (0.41, [1, 3]), (0.8, [1, 3, 4]), (1.0, range(5))):
        alive = filter_logits(row, top_p=top_p).isfinite().nonzero().flatten()
        assert alive.tolist() == list(kept)


def test_ties_at_the_edge_survive_together():
    row = torch.tensor([1.0, 2.0, 2.0, 0.0])
    assert filter_logits(row, top_k=1).isfinite().tolist() == [False, True, True, False]


@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (20, 0.7), (100, 0.999)])
def test_kept_codes_are_those_of_the_filter(top_k, top_p):
    rows = torch.randn(7, 300, generator=torch.Generator().manual_seed(1))
    rows[0] = rows[0].round()  # with ties at the edge
    kept, codes = kept_codes(rows, top_k, top_p)
    assert kept.shape == codes.shape == (7, top_k + 64)
    whole = torch.full_like(rows, -math.inf).scatter(-1, codes, kept)
    assert torch.equal(whole, filter_logits(rows, top_k, top_p))
    assert kept_codes(rows, 0, top_p)[1] is None
    with pytest.raises(ValueError, match="at most the vocabulary"):
        kept_codes(rows, 301)


def test_noise_of_some_codes_is_that_of_all(monkeypatch):
    seeds, codes = torch.tensor([3, 4]), torch.randint(50, (2, 9, 6))
    whole = gumbel_noise(seeds, 2, 9, 50, turn=1)
    some = gumbel_noise(seeds, 2, 9, 50, 1, codes)
    assert torch.equal(some, whole.gather(-1, codes))
    monkeypatch.setattr("srdd.sampling.NOISE_PART", 64)  # in many parts
    assert torch.equal(gumbel_noise(seeds, 2, 9, 50, turn=1), whole)


def test_tokens_do_not_depend_on_whose_noise_is_drawn(monkeypatch):
    model, tokenizer = pair((1, 2, 4), vocab=200, depth=2)
    how = {"config": SampleConfig(2.0, top_k=20, top_p=0.9), "seeds": range(20)}
    few = sample(model, tokenizer, [1] * 20, **how)

    def every(*given):
        return filter_logits(*given), None

    monkeypatch.setattr("srdd.sampling.kept_codes", every)
    whole = sample(model, tokenizer, [1] * 20, **how)
    assert all(map(torch.equal, few.tokens, whole.tokens))
    for a, b in zip(few.trace, whole.trace, strict=True):
        torch.testing.assert_close(a.log_prob, b.log_prob, rtol=0, atol=1e-5)


def test_guidance_is_the_line_through_both_laws():
    cond, uncond = torch.randn(2, 4, 3, 7, dtype=torch.float64)
    assert torch.equal(guide(cond, uncond, 1.0), cond)
    assert torch.equal(guide(cond, uncond, 0.0), uncond)
    wanted = uncond + 2.5 * (cond - uncond)
    torch.testing.assert_close(guide(cond, uncond, 2.5), wanted, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="one shape"):
        guide(cond, uncond[:1], 2.0)


def test_guidance_weights_of_the_three_rules():
    linear = SampleConfig(4.0)
    assert [linear.weight(k, 4) for k in range(4)] == [1, 2, 3, 4]
    assert linear.weight(0, 1) == 4  # a single scale is the last one
    assert [SampleConfig(4.0, "constant").weight(k, 3) for k in range(3)] == [4] * 3
    part = SampleConfig(4.0, "interval", interval=(0.5, 1.0))
    assert [part.weight(k, 3) for k in range(3)] == [1, 4, 4]


def test_guidance_can_be_off_at_the_last_scales_and_given_scale_by_scale():
    off = SampleConfig(4.0, guidance_off=2)
    assert [off.weight(k, 4) for k in range(4)] == [1, 2, 1, 1]
    assert [SampleConfig(4.0, guidance_off=9).weight(k, 4) for k in range(4)] == [1] * 4
    hand = SampleConfig((1.5, 2.5, 3.5), guidance_off=1)
    assert [hand.weight(k, 3) for k in range(3)] == [1.5, 2.5, 1]


def test_one_number_for_all_scales_is_the_same_as_one_for_each():
    model, tokenizer = pair((1, 2, 4), vocab=16)
    one = SampleConfig(3.0, "constant", top_k=9, top_p=0.9, temperature=1.1)
    each = SampleConfig((3.0,) * 3, "linear", (0, 1), (9,) * 3, (0.9,) * 3, (1.1,) * 3)
    runs = [
        sample(model, tokenizer, [0, 1], seeds=[1, 2], config=c).tokens
        for c in (one, each)
    ]
    assert all(map(torch.equal, *runs))


def test_a_plan_knows_its_passes_and_shares():
    plan = ResamplingPlan(scales=(0, 2), passes=(1, 2, 3), share=(0.9, 0.5))
    assert [plan.passes_at(k) for k in range(3)] == [1, 0, 3]
    assert [plan.share_at(turn, 3) for turn in (1, 2, 3)] == [0.9, 0.5, 0.5]
    falling = [ResamplingPlan().share_at(turn, 8) for turn in range(1, 9)]
    assert falling == sorted(falling, reverse=True) and 0 < falling[-1] < 0.2
    assert ResamplingPlan(share=0.4).share_at(7, 8) == 0.4


@pytest.mark.parametrize("rule", RESAMPLING_RULES)
@pytest.mark.parametrize("law", RESAMPLING_LAWS)
def test_sample_says_who_carries_a_plan_out(rule, law):
    model, tokenizer = pair()
    plan = SampleConfig(resampling=ResamplingPlan(rule=rule, share=0.5, law=law))
    with pytest.raises(ValueError, match=r"srdd\.resampling\.resample"):
        sample(model, tokenizer, [0], seeds=[1], config=plan)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"rule": "best"}, "rule must be one of.*halton.*best"),
        ({"law": "none"}, "law must be one of.*head.*none"),
        ({"scales": (-1,)}, "scales.*integer.*-1"),
        ({"passes": -1}, "passes.*integer"),
        ({"passes": 2.0}, "passes.*integer.*2.0"),
        ({"passes": 1024}, "passes.*0 to 1023.*1024"),
        ({"scales": 3}, "scales must be a tuple or None, got 3"),
        ({"scales": [1, 2]}, r"scales must be a tuple or None, got \[1, 2\]"),
        ({"passes": (1, 0.5)}, "passes.*0.5"),
        ({"share": 0.0}, r"share.*\(0, 1\]"),
        ({"share": (0.5, 1.5)}, "share.*1.5"),
        ({"share": ()}, "share"),
        ({"temperature": 0.0}, "temperature.*positive"),
        ({"rule": "threshold"}, "threshold.*one share"),
    ],
)
def test_a_plan_refuses(bad, words):
    with pytest.raises(ValueError, match=words):
        ResamplingPlan(**bad)


def test_the_second_law_is_computed_only_where_it_is_needed(monkeypatch):
    for mask, wanted in (("markov", [4, 4, 8, 4]), ("causal", [8, 8, 8, 4])):
        model, tokenizer = pair((1, 2, 3, 4), mask=mask)
        rows, plain = [], model.hidden

        def count(k, inputs, *rest, rows=rows, plain=plain):
            rows.append(len(inputs))
            return plain(k, inputs, *rest)

        monkeypatch.setattr(model, "hidden", count)
        middle = SampleConfig(2.0, "interval", interval=(0.6, 0.7))
        sample(model, tokenizer, [0] * 4, config=middle, seeds=range(4))
        assert rows == wanted  # an earlier scale's keys are guided as well


@pytest.mark.parametrize("name", ["plain", "linear", "interval"])
def test_a_group_is_drawn_from_the_map_before_it(name):
    model, tokenizer = pair((1, 2, 3, 4), depth=2)
    model.config = replace(model.config, groups=(1, 2, 1))
    config, seeds = SETTINGS[name], image_seeds(0, 5)
    labels = torch.tensor([0, 1, 2, 0, 1])
    got = sample(model, tokenizer, labels, config=config, seeds=seeds)
    inputs = tokenizer.quantize.teacher_inputs(got.tokens, seen=(0, 1, 1, 3))
    with torch.no_grad():
        cond, uncond = (
            model.config.schedule.split(model(inputs, y))
            for y in (labels, torch.full_like(labels, model.null_label))
        )
    for k in range(4):
        law = guide(cond[k], uncond[k], config.weight(k, 4)).log_softmax(-1)
        wanted = law.gather(-1, got.tokens[k][..., None])[..., 0]
        torch.testing.assert_close(got.trace[k].log_prob, wanted, rtol=0, atol=1e-5)


def test_noise_is_a_function_of_its_counters():
    seeds = torch.tensor(image_seeds(0, 6))
    whole = gumbel_noise(seeds, 3, 16, 50)
    for i in range(6):
        assert torch.equal(gumbel_noise(seeds[i : i + 1], 3, 16, 50)[0], whole[i])
    other = [
        gumbel_noise(seeds, 2, 16, 50),
        gumbel_noise(seeds, 3, 16, 50, turn=1),
        gumbel_noise(seeds + 1, 3, 16, 50),
    ]
    assert all((noise != whole).float().mean() > 0.99 for noise in other)


def test_noise_is_gumbel_noise():
    noise = gumbel_noise(torch.tensor(image_seeds(0, 32)), 4, 64, 256).flatten()
    assert noise.isfinite().all()
    n, sd = len(noise), math.pi / math.sqrt(6)
    assert noise.mean().item() == pytest.approx(0.5772157, abs=5 * sd / n**0.5)
    assert noise.var().item() == pytest.approx(sd**2, rel=0.01)
    levels = torch.tensor([-1.0, 0.0, 1.0, 3.0])
    share = (noise[:, None] < levels).float().mean(0)
    torch.testing.assert_close(share, (-(-levels).exp()).exp(), rtol=0, atol=3e-3)


def test_seeds_are_the_hash_of_run_and_image():
    for run, first in ((0, 0), (-1, 7), (2**63 - 1, 10**12)):
        want = [mix64(run, first + i) & (2**63 - 1) for i in range(5)]
        assert image_seeds(run, 5, first) == want


def test_seeds_of_a_run_do_not_collide():
    assert image_seeds(5, 10, start=90) == image_seeds(5, 100)[90:]
    several = [s for run in range(20) for s in image_seeds(run, 500)]
    assert len(set(several)) == 10_000 and min(several) >= 0


def test_the_trace_holds_the_law_each_token_was_drawn_from():
    model, tokenizer = pair((1, 2), vocab=3)
    run = sample(model, tokenizer, [2] * 50, seeds=range(50))
    law = law_of(model, tokenizer, 2, SampleConfig())
    ids = (torch.cat(run.tokens, 1) * 3 ** torch.arange(4, -1, -1)).sum(1)
    total = sum(step.log_prob.sum(1) for step in run.trace)
    torch.testing.assert_close(total, law[ids].log().float(), rtol=0, atol=1e-4)


def test_callbacks_see_every_scale_and_their_exception_leaves_nothing_behind():
    model, tokenizer = pair((1, 2, 4), vocab=16, mask="causal")
    before = sample(model, tokenizer, [0, 1], seeds=[1, 2])
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    attributes = set(vars(model))
    seen = []

    def stop(step: Step) -> None:
        seen.append((step.k, tuple(step.tokens.shape), tuple(step.f_hat.shape)))
        if step.k == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(model.train(), tokenizer, [0, 1], seeds=[1, 2], callback=stop)
    assert seen == [(0, (2, 1), (2, 4, 4, 4)), (1, (2, 4), (2, 4, 4, 4))]
    assert model.training and set(vars(model)) == attributes
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    after = sample(model.eval(), tokenizer, [0, 1], seeds=[1, 2])
    assert torch.equal(before.images, after.images)


def test_the_global_generator_is_not_touched():
    model, tokenizer = pair()
    torch.manual_seed(9)
    wanted = torch.rand(3)
    torch.manual_seed(9)
    sample(model, tokenizer, [0], seeds=[1])
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"guidance": math.nan}, "guidance.*finite.*nan"),
        ({"guidance": math.inf}, "guidance.*finite"),
        ({"guidance_rule": "cosine"}, "guidance_rule.*linear.*cosine"),
        ({"interval": (0.6, 0.2)}, r"interval.*\[0, 1\]"),
        ({"interval": (-0.1, 0.5)}, "interval"),
        ({"interval": (0.5,)}, r"interval must be two numbers.*\(0.5,\)"),
        ({"interval": 0.5}, "interval must be two numbers.*0.5"),
        ({"interval": ("a", "b")}, "interval must be two numbers"),
        ({"top_k": 5.0}, "top_k must be an integer.*5.0"),
        ({"top_k": True}, "top_k must be an integer.*True"),
        ({"back_to": 2.0}, "back_to must be an integer >= 0, got 2.0"),
        ({"guidance_off": ()}, r"guidance_off must be an integer >= 0, got \(\)"),
        ({"guidance_off": None}, "guidance_off must be an integer"),
        ({"top_k": -1}, "top_k.*-1"),
        ({"top_k": 1.5}, "top_k.*1.5"),
        ({"top_p": 0.0}, r"top_p.*\(0, 1\].*0"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_p": math.nan}, "top_p"),
        ({"temperature": 0.0}, "temperature.*positive"),
        ({"temperature": math.inf}, "temperature"),
        ({"guidance": (1.0, math.nan)}, "guidance.*finite"),
        ({"guidance_off": -1}, "guidance_off.*-1"),
        ({"top_k": (3, -1)}, "top_k.*tuple"),
        ({"top_p": (0.5, 2.0)}, "top_p"),
        ({"temperature": ()}, "temperature"),
    ],
)
def test_a_config_refuses(bad, words):
    with pytest.raises(ValueError, match=words):
        SampleConfig(**bad)


def test_numbers_of_numpy_become_plain_ones():
    made = SampleConfig(
        np.float32(3), interval=(np.int64(0), np.float64(1)), top_k=(np.int64(5), 7)
    )
    assert made == SampleConfig(3.0, interval=(0, 1.0), top_k=(5, 7))
    numbers = [made.guidance, *made.interval, *made.top_k]
    assert [type(x) for x in numbers] == [float, int, float, int, int]
    plan = ResamplingPlan(passes=np.int64(2), share=(np.float16(0.5),))
    assert plan == ResamplingPlan(passes=2, share=(0.5,))
    assert json.loads(json.dumps(asdict(replace(made, resampling=plan))))
    for bad in (np.bool_(True), np.array([3]), np.float32("nan")):
        with pytest.raises(ValueError, match="top_k must be an integer"):
            SampleConfig(top_k=bad)


@pytest.mark.parametrize(
    ("labels", "seeds", "options", "words"),
    [
        ([3, 0], [1, 2], {}, "label"),
        ([-1, 0], [1, 2], {}, "label"),
        ([0], [1, 2], {}, "1 entries, seeds has 2"),
        ([0, 1], [1, 2], {"top_k": 17}, "top_k.*16.*17"),
        ([0, 1], [1, 2], {"top_k": (3, 17)}, "top_k.*16.*17"),
        ([0, 1], [1, 2], {"top_p": (0.5,) * 3}, "top_p has 3 numbers.*2 scales"),
        ([0, 1], [1, 2], {"guidance": (2.0,)}, "guidance has 1 numbers.*2 scales"),
    ],
)
def test_sample_refuses_and_works_afterwards(labels, seeds, options, words):
    model, tokenizer = pair((1, 2), vocab=16)
    with pytest.raises(ValueError, match=words):
        sample(model, tokenizer, labels, seeds=seeds, config=SampleConfig(**options))
    assert len(sample(model, tokenizer, [0, 1], seeds=[1, 2]).images) == 2


def test_a_tokenizer_of_another_shape_is_refused():
    model, _ = pair((1, 2), vocab=16)
    for other, name in ((pair((1, 3), 16)[1], "schedule"), (pair((1, 2), 8)[1], "voc")):
        with pytest.raises(ValueError, match=f"differ in {name}"):
            sample(model, other, [0], seeds=[1])


def test_top_k_one_is_greedy_whatever_the_seed():
    model, tokenizer = pair((1, 2, 4), vocab=16)
    runs = [
        sample(model, tokenizer, [1], seeds=[s], config=SampleConfig(top_k=1)).tokens
        for s in range(5)
    ]
    same = [list(map(torch.equal, run, runs[0])) for run in runs]
    assert all(map(all, same))


def test_samples_on_the_device_equal_those_on_the_cpu(device):
    model, tokenizer = pair((1, 2, 4), vocab=16)
    here = sample(model, tokenizer, [0, 1, 2], seeds=[1, 2, 3])
    there = sample(model.to(device), tokenizer.to(device), [0, 1, 2], seeds=[1, 2, 3])
    assert all(
        torch.equal(a, b.cpu()) for a, b in zip(here.tokens, there.tokens, strict=True)
    )


def test_presets_are_the_published_settings_in_our_convention():
    """The peer writes (1 + t) cond - t uncond with t = 1.5 k / (K - 1)."""
    fid, demo = sampling_preset("var-fid"), sampling_preset("var-demo")
    for config, t in ((fid, 1.5), (demo, 4.0)):
        weights = [config.weight(k, 10) for k in range(10)]
        assert weights == pytest.approx([1 + t * k / 9 for k in range(10)], abs=1e-12)
    assert (fid.top_k, fid.top_p, demo.top_k, demo.top_p) == (900, 0.96, 900, 0.95)
    assert sampling_preset("plain") == SampleConfig()
    with pytest.raises(ValueError, match="one of plain, .* got 'fid'"):
        sampling_preset("fid")
    with pytest.raises(ValueError, match=r"one of plain, .* got \['fid'\]"):
        sampling_preset(["fid"])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SampleConfig(resampling={"passes": 1}), "resampling must be a plan"),
        (lambda: SampleConfig([1.0, 2.0]), "guidance must be a finite number"),
        (lambda: SampleConfig(top_k="5"), "top_k must be an integer"),
        (lambda: SampleConfig(resampling=ResamplingPlan((9,))), r"scales \[9\]"),
        (lambda: SampleConfig(2.0, guidance_off=9), "guidance_off 9 of a schedule"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(make, said):
    model, tokenizer = pair()
    with pytest.raises(ValueError, match=said):
        resample(model, tokenizer, [0], config=make(), seeds=[1])
