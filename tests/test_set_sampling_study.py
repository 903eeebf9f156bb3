"""Passes and shorter lists on colour photographs: at toy size, end to end."""

from dataclasses import replace

import pytest

from srdd import set_sampling_study, set_study
from srdd.experiments import Setting, measure_set_passes, measure_set_schedules
from srdd.files import read_json
from srdd.records import spread
from srdd.schedule_study import FULL, Setup
from srdd.set_sampling_study import CANDIDATES, SHORTER, SIZE, WAYS
from srdd.set_study import SETS

FEW = (CANDIDATES[0], *(c for c in CANDIDATES if c.sides == SHORTER[1]))


@pytest.fixture(scope="module")
def setting(tmp_path_factory, shape_files):
    """Shapes as files, one folder per class and part, and a work folder."""
    base = shape_files(tmp_path_factory.mktemp("data"), 340, 32)
    return Setting(root=str(base), work=str(base / "runs"))


@pytest.fixture(autouse=True)
def shapes(monkeypatch):
    """A plan for them, and fewer settings."""
    network = {"depth": 3, "width": 12, "heads": 1, "steps": 4, "batch": 8}
    plan = replace(
        SETS["cifar10"],
        on_cpu={},
        title="shapes",
        folder="Shapes",
        sides=FULL,
        judge_steps=4,
        tokenizer={"steps": 2, "batch": 8},
        transformer=network,
        samples=140,
        vocab=32,
        base=8,
    )
    settings = dict(list(SIZE.settings.items())[:2])
    plans = {name: SIZE.plans[name] for name in ("entropy, 1 pass", "halton, 4 passes")}
    small = replace(SIZE, settings=settings, plans=plans)
    monkeypatch.delenv("SRDD_FAST", raising=False)
    monkeypatch.setitem(SETS, "shapes", plan)
    monkeypatch.setitem(set_study.SHAPE, "norm_groups", 4)
    monkeypatch.setattr(set_sampling_study, "SIZE", small)
    monkeypatch.setattr(set_sampling_study, "CANDIDATES", FEW)
    for module in ("set_sampling_study", "experiments"):
        monkeypatch.setattr(f"srdd.{module}.SEEDS", (0, 1))


def test_plans_stand_against_networks_that_cost_as_much(setting):
    values = measure_set_passes("shapes", setting)["values"]
    for plan in ("entropy, 1 pass", "halton, 4 passes"):
        assert values[f"width 12, {plan}/rel_fd"]["n"] == 2
        own = values[f"width 12, {plan}/transformer_flops"]["mean"]
        wide = [
            row["mean"]
            for name, row in values.items()
            if name.endswith("no passes/transformer_flops") and "width 12," not in name
        ]
        assert any(0.9 * own < flops <= own for flops in wide), (own, wide)
    assert f"screen, {next(iter(SIZE.settings))}/rel_fd" in values


def test_all_lists_start_from_the_same_networks_and_are_compared_in_pairs(setting):
    values = measure_set_schedules("shapes", setting)["values"]
    names = [Setup(c, way).name for c in FEW for way in WAYS]
    assert {f"{name}/coverage" for name in names} <= set(values)
    base, *others = names
    work = f"{setting.work}/shapes"
    every = set_sampling_study.schedules_of("shapes", work, setting.root, "cpu")
    runs = [
        {setup.name: run for setup, run in every.of_seed(seed).items()}
        for seed in (0, 1)
    ]
    for name in others:
        gaps = [run[name]["rel_fd"] - run[base]["rel_fd"] for run in runs]
        assert values[f"{name}, minus the full list/rel_fd"] == spread(gaps)
    starts = {
        read_json(every.trained(c, 0).parent / "variant.json")["init"] for c in FEW
    }
    whole = every.parents.run(every.base, 0)[-1]
    cut = {str(whole.with_name("cut-1-2-4-8")), str(whole)}
    assert starts == cut
    flops = {name: values[f"{name}/flops"]["mean"] for name in names}
    assert flops[base] == max(flops.values())
