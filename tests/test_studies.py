"""Studies: named by what decides the result, resumed, and compared with a spread."""

from dataclasses import replace

import pytest
import torch

from srdd.data import fashion_slice
from srdd.resampling import resample
from srdd.sampling import SampleConfig, image_seeds
from srdd.scales import ScaleSchedule
from srdd.studies import (
    Study,
    Variant,
    crossing,
    drawn,
    over_seeds,
    resolution,
    time_to_equal,
    weights_digest,
    with_schedule,
)

TINY = Variant(1, 16, 1, steps=4, batch=8, lr=1e-3)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    made = Study(tmp_path_factory.mktemp("runs"))
    made.train = fashion_slice().subset(range(64))
    made.test = fashion_slice().subset(range(64, 96))
    return made


def test_a_finished_run_is_found_again_and_not_trained(study, monkeypatch):
    first = study.run(TINY, 0, marks=2)
    assert [path.name for path in first] == ["step-000002", "step-000004"]
    monkeypatch.setattr("srdd.studies.fit", lambda *a, **k: pytest.fail("trained"))
    assert study.run(TINY, 0, marks=2) == first


def test_runs_differ_by_all_that_decides_their_result(study):
    other = replace(TINY, training={"label_drop": 0.2})
    folders = {study.folder(TINY, 0), study.folder(TINY, 1), study.folder(other, 0)}
    study_of_short = Study(study.work, schedule=ScaleSchedule((1, 4, 8)))
    assert len(folders | {study_of_short.folder(TINY, 0)}) == 4


def test_samples_in_batches_are_those_of_one_batch(study, monkeypatch):
    monkeypatch.setattr("srdd.studies.BATCH", 3)
    model, labels = study.start(TINY, 0, 10), torch.arange(8)
    how = SampleConfig(2.0)
    parts = list(drawn(model, study.tokenizer, labels, sampling=how, seed=5))
    seeds = image_seeds(5, 8)
    whole = resample(model, study.tokenizer, labels, config=how, seeds=seeds)
    assert [len(part.images) for part in parts] == [3, 3, 2]
    for k, tokens in enumerate(whole.tokens):
        assert torch.equal(torch.cat([part.tokens[k] for part in parts]), tokens)


def test_measures_are_kept(study, monkeypatch):
    saved = study.run(TINY, 0, marks=2)[-1]
    found = study.cross_entropy(saved, count=16)
    assert set(found) == {"mean", *(f"scale {k}" for k in range(1, 7))}
    monkeypatch.setattr(
        "srdd.studies.scale_cross_entropy", lambda *a: pytest.fail("measured")
    )
    assert study.cross_entropy(saved, count=16) == found


def test_another_schedule_keeps_the_weights_and_changes_the_digest(study):
    other = with_schedule(study.tokenizer, ScaleSchedule((1, 3, 8)))
    torch.testing.assert_close(
        other.quantize.embedding.weight, study.tokenizer.quantize.embedding.weight
    )
    assert weights_digest(other) != weights_digest(study.tokenizer)
    images, _ = fashion_slice().batch(range(2))
    assert [x.shape[1] for x in other.encode(images)] == [1, 9, 64]


def test_a_run_can_start_from_another_models_weights(study):
    source = study.run(TINY, 0, marks=2)[-1]
    model = study.start(replace(TINY, init=str(source), mask="causal"), 1, 10)
    assert model.config.mask == "causal"
    again = study.start(replace(TINY, init=str(source)), 2, 10)
    torch.testing.assert_close(model.state_dict(), again.state_dict())


def test_steps_are_timed_in_turn_and_train_nothing_that_is_kept(study):
    found = study.step_seconds({"a": TINY, "b": replace(TINY, batch=16)})
    assert 0 < found["a"] and 0 < found["b"]


def test_two_variants_are_told_apart_by_difference_and_error():
    base, other = [{"x": 1.0}, {"x": 2.0}, {"x": 3.0}], [{"x": 5.0}] * 2
    found = resolution(base, other, "x")
    error = (1 / 3) ** 0.5
    values = [found[f"x, {k}"]["mean"] for k in ("difference", "error", "ratio")]
    assert values == pytest.approx([3, error, 3 / error])
    assert over_seeds("a", base)["a/x"] == {"mean": 2.0, "sd": 1.0, "n": 3}


def test_time_to_equal_quality_is_read_off_the_curves():
    assert crossing([1, 2, 3], [9.0, 5.0, 1.0], 3.0) == 2.5
    assert crossing([1, 2], [3.0, 3.0], 3.0) == 1
    slow = [[{"q": 9.0, "t": 1}], [{"q": 5.0, "t": 2}], [{"q": 1.0, "t": 3}]]
    fast = [[{"q": 5.0, "t": 1}], [{"q": 3.0, "t": 2}], [{"q": 2.0, "t": 3}]]
    (row,) = time_to_equal(slow, fast, "q", "t")
    assert row["ratio"] == pytest.approx(2.75 / 3)
