"""The study of chapter 10: what is compared costs the same, and is chosen by rule."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from srdd import ledger, resampling, resampling_study
from srdd.data import fashion_slice
from srdd.experiments import EXPERIMENTS
from srdd.records import read_record
from srdd.resampling import resample
from srdd.resampling_study import (
    CURVES,
    DEFAULT,
    GATES,
    PLANS,
    SEEING,
    SETTINGS,
    SHIPPED_SETTINGS,
    SHIPPED_SIZES,
    SIZES,
    Passes,
    Screen,
    chained,
    code_entropy,
    returned,
    truncates,
    unseeing,
)
from srdd.sampling import (
    RESAMPLING_LAWS,
    RESAMPLING_RULES,
    SAMPLING_PRESETS,
    ResamplingPlan,
    SampleConfig,
    image_seeds,
)
from srdd.studies import SEEDS, Variant
from srdd.transformer import ScaleTransformer

PLAIN, COOL = SETTINGS["constant 3, no truncation"], SETTINGS["constant 2, top k 32"]


@pytest.fixture(scope="module")
def passes(tmp_path_factory):
    """A study whose trunk has the study size, and was trained for two steps."""
    made = Passes(str(tmp_path_factory.mktemp("runs")), None)
    made.size = replace(made.size, head={"steps": 2, "batch": 4})
    for study in (made.plain, made.heads, made.both):
        study.train = fashion_slice().subset(range(40))
        study.test = fashion_slice().subset(range(40, 60))

    def trunk(seed, **size):
        return made.plain.run(Variant(**size, steps=2, batch=4), seed, 1)[-1]

    made.trunk = trunk
    return made


def screen(better, cost=None):
    """A screen where some samplings are better, others dear."""

    def measure(sampling):
        level = 1.0 - better.get(sampling, 0.0)
        flops = (cost or (lambda s: 1.0))(sampling)
        return [{"rel_fd": level, "kid_1000": 1.0, "transformer_flops": flops}] * 2

    return Screen(SETTINGS, measure)


def test_as_many_plans_as_settings_are_tried_with_every_rule_and_law():
    assert len(PLANS) == len(SETTINGS) == len(SHIPPED_SETTINGS)
    assert {plan.passes.rule for plan in PLANS.values()} == set(RESAMPLING_RULES)
    assert {plan.passes.law for plan in PLANS.values()} == set(RESAMPLING_LAWS)
    assert set(CURVES) < set(PLANS) and len(CURVES) == 4 * len(RESAMPLING_RULES)


def test_a_cpu_gets_a_small_comparison_with_the_same_sides():
    assert set(SIZES) == set(SHIPPED_SIZES) == {"cpu", "cuda"}
    for size in (*SIZES.values(), *SHIPPED_SIZES.values()):
        assert {plan.passes.law for plan in size.plans.values()} == set(RESAMPLING_LAWS)
        assert {truncates(s) for s in size.settings.values()} == {True, False}
        assert set(size.curves) <= set(size.plans)
        assert size.values()["images of a compared set"] == size.samples
    for size in SIZES.values():
        assert {plan.passes.rule for plan in size.plans.values()} == set(
            RESAMPLING_RULES
        )
        assert not set(size.screen_seeds) & set(SEEDS)  # of no result
    for size in SHIPPED_SIZES.values():
        assert size.settings[DEFAULT] == SAMPLING_PRESETS["fashion"]
        assert set(size.gates) <= set(GATES)
    assert SHIPPED_SIZES["cpu"].seeds == [(0, 1), (0, 2), (0, 3)]
    assert SHIPPED_SIZES["cuda"].seeds == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize(("best", "other"), [(PLAIN, COOL), (COOL, PLAIN)])
def test_the_two_drafts_are_the_best_with_and_without_truncation(best, other):
    made = screen({best: 0.5, other: 0.4})
    assert made.drafts == (best, other) and made.tuned == best
    assert truncates(best) != truncates(other)


def test_a_plan_may_be_warmer_than_its_draft_or_stand_on_the_other_one():
    cool = SETTINGS["linear 4, temperature 0.8"]
    made = screen({cool: 0.5, PLAIN: 0.4})
    warm = made.plans["halton, 8 passes, warmer"]
    assert warm == replace(cool, resampling=warm.resampling)
    assert warm.resampling.temperature == pytest.approx(0.9)
    second = made.plans["halton, 8 passes, second draft"]
    assert second == replace(PLAIN, resampling=PLANS["halton, 8 passes"].passes)


def test_finalists_are_the_best_cheap_plan_and_the_best_other_that_asks_a_network():
    made = screen({PLAIN: 0.1})
    plans = made.plans
    better = {
        plans["halton, 1 pass"]: 0.2,
        plans["random, 8 passes"]: 0.3,
        plans["threshold, 8 passes, same law"]: 0.9,
    }

    def cost(sampling):
        plan = sampling.resampling
        return 1.0 if plan is None else 1.0 + 0.6 * plan.passes

    made = screen(better | {PLAIN: 0.1}, cost)
    assert made.finalists == ("halton, 1 pass", "random, 8 passes")
    values = made.values()
    assert values["screen, halton, 1 pass/rel_fd"]["mean"] == pytest.approx(0.8)
    assert len(values) == 3 * (len(PLANS) + len(SETTINGS))


def test_a_rehearsal_chooses_what_its_record_did(monkeypatch):
    """What is measured in it says nothing; the record of the GPU's size is there."""
    with ledger.Rehearsal("cuda").running():
        made = Passes("runs", None)
        assert made.record == "resampling" and made.shipped_record in EXPERIMENTS

        def measure(sampling):
            config = Variant(network={"mask_blocks": 1}).config(
                made.plain.tokenizer, 10
            )
            return [{"rel_fd": 1.0} | made.cost(config, sampling)]

        recalled = Screen(SIZES["cuda"].settings, measure, SIZES["cuda"].plans)
    finalists = recalled.finalists
    blind = Screen(SIZES["cuda"].settings, measure, SIZES["cuda"].plans)
    assert recalled.known and not blind.known
    rows = {key.split("/")[0] for key in read_record("resampling").values}
    assert {f"width 64, {name}" for name in finalists} < rows
    assert not {f"width 64, {name}" for name in blind.finalists} < rows
    monkeypatch.setattr("srdd.records.results_dir", lambda: Path("nowhere"))
    with ledger.Rehearsal("cuda").running():
        assert ledger.recalled("resampling") == {}


def test_where_no_plan_is_cheap_the_cheapest_are_in_their_place():
    def cost(sampling):
        passes = sampling.resampling
        return 1.0 if passes is None else 2.0 + passes.passes

    cheap, dear = screen({}, cost).finalists
    assert PLANS[cheap].passes.passes == 1 < PLANS[dear].passes.passes


def test_the_control_costs_as_much_and_its_head_sees_no_token(passes, monkeypatch):
    model, coder = passes.plain.saved(passes.headed(1)), passes.plain.tokenizer
    known, law = [], resampling.head_law

    def note(sampler, state, tokens, again):
        known.append(tokens.masked_fill(again, model.config.mask_token))
        return law(sampler, state, tokens, again)

    monkeypatch.setitem(resampling.LAWS, "head", note)
    for plan in ("sequence, 2 passes", "entropy, 1 pass"):
        seeing = replace(PLAIN, resampling=PLANS[plan].passes)
        blind, shown = unseeing(seeing), []
        assert passes.cost(model.config, blind) == passes.cost(model.config, seeing)
        for config in (seeing, blind):
            known.clear()
            seeds = image_seeds(7, 3)
            resample(model, coder, torch.arange(3), config=config, seeds=seeds)
            hidden = [(x == model.config.mask_token).all().item() for x in known]
            shown.append((len(known), all(hidden)))
        assert shown[0] == (shown[1][0], False) and shown[1][1]


def test_a_shipped_plan_with_a_control_is_screened_on_every_device():
    for size in SHIPPED_SIZES.values():
        plan = size.plans[SEEING]
        assert plan.passes.law == "head" and not plan.warmer and not plan.second


def test_networks_of_equal_cost_are_the_widest_that_cost_no_more(passes):
    plan = replace(PLAIN, resampling=PLANS["halton, 1 pass"].passes)
    own, flops = (passes.transformer_flops(s, 1) for s in (PLAIN, plan))
    assert own == passes.transformer_flops(PLAIN, 0)  # a head that nobody asks is free
    wide = passes.equal_width(PLAIN, flops)
    costs = [passes.transformer_flops(PLAIN, 0, w) for w in (wide, wide + 2)]
    assert costs[0] <= flops < costs[1]
    narrow = passes.equal_width(plan, own, blocks=1)
    costs = [passes.transformer_flops(plan, 1, w) for w in (narrow, narrow + 2)]
    assert costs[0] <= own < costs[1] and narrow < Variant().width < wide


def test_finals_hold_every_side_of_the_comparison(passes, monkeypatch):
    made = screen({PLAIN: 0.1})
    made.finalists = ("halton, 1 pass", "random, 8 passes")
    monkeypatch.setitem(vars(passes), "screen", made)
    found = passes.finals()
    assert list(found) == [
        "width 64, no passes",
        "width 64, halton, 1 pass",
        "width 84, no passes",
        "width 64, random, 8 passes",
        "width 172, no passes",
        "width 46, halton, 1 pass",
        "trained together, no passes",
        "trained together, halton, 1 pass",
    ]
    for name, (_, sampling) in found.items():
        assert (sampling.resampling is None) == name.endswith("no passes")
    assert found["width 84, no passes"][0].keywords == {"width": 84}


def test_the_head_stands_on_the_trunk_of_its_seed(passes):
    trunk = ScaleTransformer.from_pretrained(passes.trunk(1)).state_dict()
    saved = passes.headed(1)
    headed = ScaleTransformer.from_pretrained(saved).state_dict()
    assert all(torch.equal(v, headed[k]) for k, v in trunk.items())
    found = passes.knowledge(saved, count=10)
    assert len(found) == 13 and all(x > 0 for x in found.values())


def test_a_chain_shows_a_scale_before_some_of_its_passes(passes, monkeypatch):
    monkeypatch.setattr(resampling_study, "MARKS", (0, 2, 3))
    model = passes.plain.saved(passes.headed(1))
    coder, labels = passes.plain.tokenizer, torch.arange(3)
    gate = replace(GATES["random, half"], passes=3)
    (pairs,) = chained(model, coder, labels, gate, 7)
    for passed, (images, tokens) in zip((0, 2, 3), pairs, strict=True):
        plan = replace(gate, passes=passed)  # its first passes are the same passes
        how = {"config": SampleConfig(resampling=plan), "seeds": image_seeds(7, 3)}
        made = resample(model, coder, labels, **how)
        assert torch.equal(made.tokens[-1], tokens)
        torch.testing.assert_close(made.images, images)
    assert code_entropy(torch.tensor([[0, 0], [3, 3]])) == pytest.approx(
        0.6931, abs=1e-4
    )


def test_a_step_back_keeps_the_seed_of_each_image(passes, monkeypatch):
    monkeypatch.setattr("srdd.studies.BATCH", 2)
    model, coder = passes.plain.saved(passes.trunk(1)), passes.plain.tokenizer
    how = {"sampling": SampleConfig(2.0), "to": (4, 5), "seed": 3}
    labels = torch.arange(3)
    parts = list(returned(model, coder, labels, **how))
    monkeypatch.setattr("srdd.studies.BATCH", 3)
    (whole,) = returned(model, coder, labels, **how)
    assert [len(part[0]) for part in parts] == [2, 1]
    for images, every in zip(zip(*parts, strict=True), whole, strict=True):
        torch.testing.assert_close(torch.cat(images), every)


def test_a_step_back_costs_its_scales_once_more(passes, monkeypatch):
    monkeypatch.setattr(passes.plain, "kept", lambda path, measure: {"1": {}, "5": {}})
    found = passes.back(passes.trunk(1), SampleConfig(2.0), 0, to=(1, 5))
    costs = [found[to]["transformer_flops"] for to in (1, 5)]
    once = passes.transformer_flops(SampleConfig(2.0), 0)
    last = replace(SampleConfig(2.0), resampling=ResamplingPlan((5,), law="map"))
    assert costs[1] == passes.transformer_flops(last, 0)  # the same rows once more
    assert once < costs[1] < costs[0] < 2 * once
