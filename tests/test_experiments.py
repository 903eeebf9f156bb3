"""Experiments: a row each, kept in parts, with their operations counted."""

import inspect
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from srdd import experiments
from srdd.data import fashion_slice
from srdd.experiments import (
    EXPERIMENTS,
    SMALLER_SIZES,
    STUDY_SIZES,
    Experiment,
    Setting,
    measure_study_size,
    run,
)
from srdd.ledger import Operations
from srdd.records import read_record, single
from srdd.studies import Study, Variant


def test_a_part_is_measured_once_for_a_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "commit_id", lambda: "abc")
    told, calls = Setting(work=str(tmp_path)), []

    def measure():
        calls.append(1)
        return {"x": 1.5}

    assert told.part("a", measure) == told.part("a", measure) == {"x": 1.5}
    assert len(calls) == 1
    told.part("b", measure)
    Setting(work=str(tmp_path), seed=1).part("a", measure)
    monkeypatch.setattr(experiments, "commit_id", lambda: "def")
    told.part("a", measure)
    assert len(calls) == 4  # another part, another seed, another commit


def test_with_changed_files_nothing_is_kept(tmp_path, monkeypatch):
    told = Setting(work=str(tmp_path))
    for commit in ("abc+", "unknown"):
        monkeypatch.setattr(experiments, "commit_id", lambda c=commit: c)
        assert told.part("a", lambda: {"x": 1.0}) == {"x": 1.0}
    assert not list(tmp_path.iterdir())


def test_operations_are_counted_unless_the_row_says_no(tmp_path, monkeypatch):
    def measure(setting):
        torch.ones(2, 3) @ torch.ones(3, 5)
        return {"values": {"x": single(1.0)}}

    monkeypatch.setattr("srdd.records.results_dir", lambda start=".": tmp_path)
    for counted, flops in ((True, 2 * 2 * 3 * 5), (False, None)):
        monkeypatch.setitem(EXPERIMENTS, "toy", Experiment("c", measure, counted))
        assert run("toy") == {"x": 1.0}
        assert read_record("toy", tmp_path).flops == flops


def test_a_record_goes_where_it_is_sent_or_nothing_is_measured(tmp_path, monkeypatch):
    def nowhere(start="."):
        raise FileNotFoundError("no results/ folder; --out")

    monkeypatch.setattr("srdd.records.results_dir", nowhere)
    found = {"values": {"x": single(1.0)}}
    monkeypatch.setitem(EXPERIMENTS, "toy", Experiment("c", lambda setting: found))
    assert run("toy", out=str(tmp_path / "mine")) == {"x": 1.0}
    assert read_record("toy", tmp_path / "mine").claim == "c"
    never = Experiment("c", lambda setting: pytest.fail("measured"))
    monkeypatch.setitem(EXPERIMENTS, "toy", never)
    with pytest.raises(FileNotFoundError, match="--out"):
        run("toy")


def test_operations_are_those_of_the_counter_of_pytorch():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, 5)
    )

    def step():
        net(torch.randn(3, 1, 8, 8)).square().sum().backward()

    with Operations() as mine:
        step()
    with FlopCounterMode(display=False) as theirs:
        step()
    assert mine.total == theirs.get_total_flops() > 0


def source_of(row):
    """The source of what a row runs."""
    return inspect.getsource(getattr(row.measure, "func", row.measure))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_seed_is_used_or_refused(name, tmp_path, monkeypatch):
    row = EXPERIMENTS[name]
    assert row.seeded == ("setting.seed" in source_of(row)), name
    found = {"values": {"x": single(1.0)}}
    monkeypatch.setitem(EXPERIMENTS, name, replace(row, measure=lambda told: found))
    monkeypatch.setattr("srdd.records.results_dir", lambda start=".": tmp_path)
    if row.seeded:
        assert run(name, seed=3) == {"x": 1.0}
        assert read_record(name, tmp_path).seeds == [3]
    else:
        with pytest.raises(ValueError, match=f"{name} takes no --seed, got 3.*leave"):
            run(name, seed=3)
        assert not list(tmp_path.iterdir())
    assert run(name) == {"x": 1.0}


def test_the_shipped_pair_is_trained_again_as_it_was(tmp_path, monkeypatch):
    as_shipped, rows = experiments.trained_as, 40
    pair = {name: as_shipped(name) for name in experiments.MODELS}
    assert [variant.mask for variant in pair.values()] == ["markov", "causal"]
    for variant in pair.values():
        how = variant.train_config(0, 1)
        assert (variant.depth, variant.width, variant.heads) == (4, 128, 4)
        assert (how.steps, how.batch, how.lr, how.ema) == (2000, 128, 2e-3, 0.996)
        assert (how.dtype, how.warmup, how.seed) == ("bfloat16", 100, 0)

    def short(name):
        small = {"depth": 1, "width": 16, "heads": 1, "steps": 200, "batch": 2}
        return replace(as_shipped(name), **small)

    def study_of(setting):
        made = Study(setting.work)
        made.train = fashion_slice().subset(range(rows))
        made.test = fashion_slice().subset(range(rows, 2 * rows))
        return made

    monkeypatch.setattr(experiments, "trained_as", short)
    monkeypatch.setattr(experiments, "study_of", study_of)
    values = experiments.measure_training(Setting(work=str(tmp_path)))["values"]
    losses = {
        f"{mask} {step}/cross_entropy"
        for mask in ("markov", "causal")
        for step in (100, 200)
    }
    assert losses < set(values)
    for mask in ("markov", "causal"):
        again, shipped = (
            values[f"{mask}, {who}/cross_entropy"]["mean"]
            for who in ("again", "as shipped")
        )
        assert 2 < shipped < 4 < again  # two hundred steps of two images


class ToyStudy:
    """A study whose rel-FD is known from the variant, with a spread over seeds."""

    device = "cpu"

    def run(self, variant, seed):
        return [(variant, seed)]

    def measure(self, saved):
        variant, seed = saved
        level = 1000 / variant.steps + 64 / variant.width + seed / 100
        return {"rel_fd": level, "kid_1000": level}

    def cross_entropy(self, saved):
        return {"mean": self.measure(saved)["rel_fd"]}

    def step_seconds(self, variants):
        return dict.fromkeys(variants, 0.5)


def test_a_size_is_compared_with_half_of_its_steps_and_of_its_width(monkeypatch):
    asked = []
    monkeypatch.setattr(
        experiments,
        "study_of",
        lambda setting, sides: asked.append(sides) or ToyStudy(),
    )
    sizes = {
        "study size": (Variant(steps=1000, width=64), None),
        "tiny": (Variant(steps=100, width=16, heads=1), (1, 8)),
    }
    found = measure_study_size(sizes, Setting())["values"]
    assert asked == [None, (1, 8)]
    values = {key: value["mean"] for key, value in found.items()}
    for half, size, gap in (
        ("half the steps", "study size", 1.0),
        ("half the width", "study size", 1.0),
        ("tiny, half the steps", "tiny", 10.0),
        ("tiny, half the width", "tiny", 4.0),
    ):
        assert values[f"{half} against {size}/rel_fd, difference"] == pytest.approx(gap)
    assert values["tiny/CPU seconds of a training"] == 50.0


def test_the_smaller_sizes_are_smaller_than_those_of_the_study():
    cost = [v.steps * v.width for v, _ in (STUDY_SIZES | SMALLER_SIZES).values()]
    assert max(cost[len(STUDY_SIZES) :]) < min(cost[: len(STUDY_SIZES)])
    assert not STUDY_SIZES.keys() & SMALLER_SIZES.keys()
