"""The study of chapter 10: what is compared costs the same, and is chosen by rule."""

from dataclasses import replace

import pytest
import torch

from srdd.data import fashion_slice
from srdd.resampling_study import HEAD, PLANS, SETTINGS, Passes
from srdd.sampling import SampleConfig
from srdd.studies import Variant
from srdd.transformer import ScaleTransformer


@pytest.fixture(scope="module")
def passes(tmp_path_factory):
    """A study whose trunk has the study size, and was trained for two steps."""
    made = Passes(str(tmp_path_factory.mktemp("runs")), None)
    for study in (made.plain, made.heads):
        study.train = fashion_slice().subset(range(40))
        study.test = fashion_slice().subset(range(40, 60))

    def trunk(seed, **size):
        return made.plain.run(Variant(**size, steps=2, batch=4), seed, 1)[-1]

    made.trunk = trunk
    made.tuned = SETTINGS["w 3"]
    return made


def test_the_screen_has_every_rule_and_law_and_the_best_are_chosen_by_rel_fd(passes):
    assert {plan.rule for plan in PLANS.values()} == {
        "sequence",
        "halton",
        "confidence",
        "entropy",
        "threshold",
        "random",
    }
    assert {plan.law for plan in PLANS.values()} == {"head", "map", "same"}
    passes.plans = {name: {"rel_fd": 1.0 - 0.01 * i} for i, name in enumerate(PLANS)}
    assert passes.finalists == (
        "confidence at temperature 0.9, 1 pass",
        "map law, sequence at temperature 0.9, 2 passes",
    )


def test_the_best_setting_is_that_of_all_plans():
    made = Passes.__new__(Passes)
    made.settings = {name: {"rel_fd": 1.0} for name in SETTINGS}
    made.settings["w 4"] = {"rel_fd": 0.5}
    assert made.tuned == SampleConfig(4.0)
    plan = made.planned("halton, 1 pass")
    assert (plan.guidance, plan.resampling.rule) == (4.0, "halton")


def test_a_wide_network_costs_as_much_as_the_plan(passes):
    config = ScaleTransformer.from_pretrained(passes.trunk(0)).config
    headed = replace(config, mask_blocks=1)
    flops = passes.cost(headed, passes.planned("halton, 1 pass"))["transformer_flops"]
    width = passes.equal_width(flops)
    costs = [
        passes.cost(replace(config, width=w), passes.tuned)["transformer_flops"]
        for w in (width, width + 2)
    ]
    assert costs[0] <= flops < costs[1] and costs[0] > 0.95 * flops


def test_the_head_stands_on_the_trunk_of_its_seed(passes, monkeypatch):
    monkeypatch.setitem(HEAD, "steps", 2)
    trunk = ScaleTransformer.from_pretrained(passes.trunk(1)).state_dict()
    headed = ScaleTransformer.from_pretrained(passes.headed(1)).state_dict()
    assert all(torch.equal(v, headed[k]) for k, v in trunk.items())
    found = passes.knowledge(passes.headed(1), count=10)
    assert len(found) == 10 and all(x > 0 for x in found.values())
