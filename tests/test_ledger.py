"""Costs: of every part, kept or new, counted once; a training by one of its steps."""

import json
import time

import pytest
import torch

from srdd import experiments, ledger
from srdd.cli import main
from srdd.data import colour_shapes, fashion_slice, loader
from srdd.experiments import EXPERIMENTS, Experiment, Setting, run
from srdd.features import JudgeTask
from srdd.ledger import Cost, fit, once, opened, part
from srdd.metrics import Judge, JudgeConfig
from srdd.records import read_record, single
from srdd.scales import ScaleSchedule
from srdd.studies import Study, Variant
from srdd.tokenizer import Tokenizer, TokenizerConfig, TokenizerTask
from srdd.training import TrainConfig

PRODUCT = 2 * 2 * 3 * 5


def product():
    """60 operations."""
    torch.ones(2, 3) @ torch.ones(3, 5)
    return {"x": 1.0}


def another_process(monkeypatch, **facts):
    """As if what follows were measured by a process that starts now."""
    time.sleep(0.02)
    monkeypatch.setattr(ledger, "BEGAN", time.monotonic())
    for name in ("commit_id", "device_name"):
        if name in facts:
            monkeypatch.setattr(ledger, name, lambda name=name: facts[name])


def test_a_resumed_record_counts_what_was_kept(tmp_path, monkeypatch):
    names = ["a"]

    def measure(setting):
        for name in names:
            part(tmp_path / f"{name}.json", lambda: time.sleep(0.3) or product())
        return {"values": {"x": single(1.0)}}

    monkeypatch.setattr("srdd.records.results_dir", lambda start=".": tmp_path)
    monkeypatch.setitem(EXPERIMENTS, "toy", Experiment("c", measure))
    another_process(monkeypatch, commit_id="abc", device_name="GPU 1")
    run("toy")
    first = read_record("toy", tmp_path)
    assert first.flops == PRODUCT and first.kept == []
    names += ["b", "a"]
    another_process(monkeypatch, commit_id="def", device_name="GPU 2")
    run("toy")
    found = read_record("toy", tmp_path)
    assert found.flops == 2 * PRODUCT  # a once, although it is asked for twice
    (kept,) = found.kept
    facts = {"commit": "abc", "device": "GPU 1", "parts": 1, "flops": PRODUCT}
    assert {key: kept[key] for key in facts} == facts
    stored = json.loads((tmp_path / "a.json").read_text())
    assert kept["seconds"] == round(stored["costs"][0]["seconds"], 1) >= 0.3
    assert round(found.wall_seconds - kept["seconds"], 1) >= 0.3  # both are rounded
    assert stored["values"] == {"x": 1.0}
    assert [cost["commit"] for cost in stored["costs"]] == ["abc"]


def test_parts_of_a_setting_bring_their_cost_along(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "commit_id", lambda: "abc")
    told = Setting(work=str(tmp_path))
    for _ in range(2):
        another_process(monkeypatch, commit_id="abc", device_name="CPU")
        with opened() as account:
            assert told.part("a", product) == {"x": 1.0}
        assert account.facts()["flops"] == PRODUCT
    (group,) = account.facts()["kept"]
    assert group["commit"] == "abc" and group["parts"] == 1


def test_a_part_inside_a_part_is_counted_once(tmp_path, monkeypatch):
    inner = tmp_path / "inner.json"

    def outer():
        time.sleep(0.1)
        part(inner, lambda: time.sleep(0.3) or product())
        return product()

    for turn in range(3):
        another_process(monkeypatch)
        with opened() as account:
            part(tmp_path / "outer.json", outer)
            part(inner, product)
        assert account.facts()["flops"] == 2 * PRODUCT
        assert sum(group["parts"] for group in account.facts()["kept"]) == 2 * bool(
            turn
        )
    costs = json.loads((tmp_path / "outer.json").read_text())["costs"]
    assert len(costs) == 2 and all(cost["flops"] == PRODUCT for cost in costs)
    own, nested = sorted(cost["seconds"] for cost in costs)
    assert 0.1 <= own < nested and nested >= 0.3


def test_files_are_made_once_with_their_cost_beside_them(tmp_path, monkeypatch):
    made, calls = tmp_path / "tokens-1.safetensors", []

    def make():
        calls.append(product())
        made.write_text("")

    for _ in range(2):
        another_process(monkeypatch)
        with opened() as account:
            once(made, make)
        assert account.facts()["flops"] == PRODUCT and len(calls) == 1
    assert (tmp_path / "tokens-1-cost.json").is_file()
    with opened(counted=False) as account:
        once(made, make)
    assert account.facts()["flops"] is None


def test_parts_without_a_cost_are_named_and_make_the_sum_unknown(tmp_path):
    (tmp_path / "old.json").write_text('{"x": 2.0}')
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "manifest.json").write_text("{}")
    with opened() as account:
        assert part(tmp_path / "old.json", product) == {"x": 2.0}
        once(tmp_path / "made" / "manifest.json", product)
        product()
    facts = account.facts()
    assert facts["flops"] is None
    (kept,) = facts["kept"]
    assert kept["commit"] == "unknown" and kept["parts"] == 2


def test_what_other_processes_measured_meanwhile_adds_no_seconds(tmp_path):
    with opened() as account:
        mine = Cost("k", time.time(), 1000.0, 7.0, "abc", "GPU")
        account.take([mine])
    facts = account.facts()
    assert facts["wall_seconds"] < 1000 and facts["flops"] == 7 and not facts["kept"]


def test_without_an_account_parts_are_kept_all_the_same(tmp_path):
    assert part(tmp_path / "a.json", product) == {"x": 1.0}
    assert part(tmp_path / "a.json", lambda: pytest.fail("again")) == {"x": 1.0}
    (cost,) = json.loads((tmp_path / "a.json").read_text())["costs"]
    assert cost["flops"] is None and cost["seconds"] >= 0


def test_a_part_that_fails_leaves_nothing(tmp_path):
    with opened() as account, pytest.raises(RuntimeError):
        part(tmp_path / "a.json", lambda: torch.ones(2) @ torch.ones(3))
    assert not list(tmp_path.iterdir()) and account.known == {}
    with opened() as account:
        part(tmp_path / "a.json", product)
    assert account.facts()["flops"] == PRODUCT


def test_a_study_that_is_found_again_brings_all_of_its_operations(
    tmp_path, monkeypatch
):
    tiny, sums = Variant(1, 16, 1, steps=4, batch=8, lr=1e-3), []
    for turn in range(2):
        another_process(monkeypatch, commit_id=f"commit {turn}")
        study = Study(tmp_path)
        study.train = fashion_slice().subset(range(64))
        study.test = fashion_slice().subset(range(64, 96))
        with opened() as account:
            study.cross_entropy(study.run(tiny, 0)[-1])
        sums.append(account.facts()["flops"])
    assert sums[0] == sums[1] > 1e9  # tokens of both sets, training, cross-entropy
    (kept,) = account.facts()["kept"]
    assert kept["commit"] == "commit 0" and kept["parts"] == 4
    assert kept["flops"] == sums[0]


# --------------------------------------------------------- one step for all
SHAPE = TokenizerConfig(
    image_channels=3, base=8, multipliers=(1, 2), blocks=1, attention_levels=(),
    norm_groups=4, code_width=8, vocab=16, schedule=ScaleSchedule((1, 2, 4, 6)),
)  # fmt: skip
IMAGES = colour_shapes(64, 12, seed=0)


def tokenizer_training(path, steps):
    def stream(start):
        return loader(IMAGES, 8, 0, start)

    torch.manual_seed(0)
    task = TokenizerTask(Tokenizer(SHAPE), stream, seed=0, restart_until=steps)
    return task, TrainConfig(steps, 8, 1e-3, save_every=steps)


def judge_training(path, steps):
    torch.manual_seed(0)
    judge = Judge(JudgeConfig(3, 12, (4, 8, 8), len(IMAGES.classes)))
    task = JudgeTask(judge, lambda at: loader(IMAGES, 8, 0, start_step=at))
    return task, TrainConfig(steps, 8, 1e-3, save_every=steps)


def transformer_training(path, steps, share=None):
    torch.manual_seed(0)
    study = Study(path / "work", tokenizer=Tokenizer(SHAPE).eval())
    changes = {"training": {"scale_share": share}} if share else {}
    variant = Variant(1, 16, 1, steps=steps, batch=8, **changes)
    config, tokens = variant.train_config(0, 1), study.tokens(IMAGES)
    model = study.start(variant, 0, len(tokens.classes))
    return study.task(model, study.tokenizer, tokens, config), config


@pytest.mark.parametrize(
    "training",
    [
        tokenizer_training,
        judge_training,
        transformer_training,
        lambda *a: transformer_training(*a, share=(1.0, 0.5, 0.5, 0.25)),
    ],
    ids=["tokenizer", "judge", "transformer", "random scales"],
)
@pytest.mark.parametrize("steps", [1, 2, 24])
def test_one_step_stands_for_all_within_a_percent(training, steps, tmp_path):
    counts, weights = [], []
    for one_step in (False, True):
        task, config = training(tmp_path, steps)
        with opened() as account:
            made = fit(task, config, tmp_path / f"{one_step}", one_step=one_step,
                       progress=False)  # fmt: skip
        counts.append(account.facts()["flops"])
        weights.append([x.clone() for x in made.state_dict().values()])
    assert counts[1] == pytest.approx(counts[0], rel=0.01) and counts[0] > 0
    assert all(map(torch.equal, *weights))  # who counts changes nothing


@pytest.mark.parametrize("one_step", [True, False])
def test_a_training_that_was_stopped_counts_all_of_its_steps(one_step, tmp_path):
    task, config = judge_training(tmp_path, 24)
    how = {"one_step": one_step, "progress": False}
    with opened() as account:
        fit(task, config, tmp_path / "whole", **how)
    whole = account.facts()["flops"]
    fit(*judge_training(tmp_path, 12), tmp_path / "parts", progress=False)
    with opened() as account:
        fit(task, config, tmp_path / "parts", **how)
    assert account.facts()["flops"] == pytest.approx(whole, rel=0.01)
    with opened() as account:  # nothing is left to count, and nothing is made up
        fit(task, config, tmp_path / "parts", **how)
    assert account.facts()["flops"] is None


def test_a_step_that_fails_leaves_counting_as_it_was(tmp_path):
    task, config = judge_training(tmp_path, 9)
    usual = task.losses
    task.losses = lambda batch, step: usual(batch, step) if step < 5 else 1 / 0
    with opened() as account:
        with pytest.raises(ZeroDivisionError):
            fit(task, config, tmp_path, one_step=True, progress=False)
        before = account.facts()["flops"]
        product()
    assert account.facts()["flops"] == before + PRODUCT


# ------------------------------------------------------------- rehearsals
def small_study(setting):
    """An experiment: a training with marks, a measurement of each, a size by device."""
    count = {"cpu": 32, "cuda": 64}[ledger.kind(setting.device)]
    study = Study(setting.work)
    study.train = fashion_slice().subset(range(64))
    study.test = fashion_slice().subset(range(64, 64 + count))
    saved = study.run(Variant(1, 16, 1, steps=22, batch=8, lr=1e-3), 0, marks=4)
    losses = [study.cross_entropy(folder)["mean"] for folder in saved]
    study.measure(saved[-1], count=40)  # three batches of 12, one of 4
    values = {"marks": single(len(losses)), "loss": single(losses[-1])}
    return {"values": values, "seeds": [0, 1], "tier": "toy"}


@pytest.fixture
def rehearsed(tmp_path, monkeypatch):
    """Rehearse the small study, with records and kept parts below two folders."""
    monkeypatch.setattr("srdd.records.results_dir", lambda start=".": tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("srdd.studies.BATCH", 12)
    monkeypatch.setitem(EXPERIMENTS, "toy", Experiment("c", small_study))
    work = str(tmp_path / "work")
    return lambda **setting: experiments.rehearse("toy", work=work, **setting)


def test_a_rehearsal_counts_what_the_whole_takes_and_leaves_no_trace(
    rehearsed, tmp_path
):
    found = rehearsed()
    assert found["training steps left out"] == 20 and found["seconds, about"] > 0
    assert found["batches of samples left out"] == 2
    record = read_record("toy-rehearsal", tmp_path)
    assert record.claim == "What toy takes, at the size for cpu."
    assert record.flops is None and record.device
    assert record.seeds == [0, 1] and record.tier == "toy"  # the experiment's own
    assert sorted(p.name for p in tmp_path.iterdir()) == ["toy-rehearsal.json", "work"]
    assert not list((tmp_path / "work").iterdir())
    whole = run("toy", work=str(tmp_path / "work"))
    assert whole["marks"] == 4
    flops = read_record("toy", tmp_path).flops
    assert found["operations"] == pytest.approx(flops, rel=0.01)


def test_a_rehearsal_has_the_size_of_a_device_that_is_not_there(rehearsed, tmp_path):
    small, large = rehearsed()["operations"], rehearsed(device="cuda")["operations"]
    assert 1.02 * small < large < 2 * small  # images, not steps
    assert "size for cuda" in read_record("toy-rehearsal", tmp_path).claim
    assert ledger.kind("cuda:1") == "cuda" and ledger.REHEARSAL.get() is None
    assert rehearsed(out=str(tmp_path / "mine"))["operations"] == small
    assert (tmp_path / "mine" / "toy-rehearsal.json").is_file()


def test_a_rehearsal_stays_in_its_process_on_a_gpu_too():
    done = []
    with ledger.Rehearsal("cuda").running():
        ledger.at_once(done.append, [(1,), (2,)], "cuda", 2)
    assert done == [1, 2]


@pytest.mark.parametrize(
    "name, setting, words",
    [
        ("var-gpu", {}, "var-gpu can't be rehearsed: .* compiled code"),
        ("nothing", {}, "name must be one of"),
        ("theorem", {"device": "tpu"}, "device must be cpu or cuda, got 'tpu'"),
        ("study-size", {"seed": 1}, "takes no --seed"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused(name, setting, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        experiments.rehearse(name, work=str(tmp_path / "work"), **setting)
    assert not list(tmp_path.iterdir())


def test_a_rehearsal_that_fails_ends(rehearsed, tmp_path, monkeypatch):
    broken = Experiment("c", lambda told: {"values": 1 / 0})
    monkeypatch.setitem(EXPERIMENTS, "toy", broken)
    with pytest.raises(ZeroDivisionError):
        rehearsed()
    assert ledger.REHEARSAL.get() is None and not list((tmp_path / "work").iterdir())


def test_the_command_line_rehearses(rehearsed, tmp_path, capsys):
    words = ["experiment", "toy", "--rehearse", "--device", "cuda", "--json"]
    assert main([*words, "--work", str(tmp_path / "work")]) == 0
    assert json.loads(capsys.readouterr().out)["training steps left out"] == 20
    assert main(["experiment", "var-gpu", "--rehearse"]) == 2
    assert "can't be rehearsed" in capsys.readouterr().err
