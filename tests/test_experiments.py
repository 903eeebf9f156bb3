"""Experiments: a row each, kept in parts, with their operations counted."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from srdd import experiments
from srdd.experiments import EXPERIMENTS, Experiment, Operations, Setting, run
from srdd.records import read_record, single


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
