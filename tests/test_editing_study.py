"""The study of editing: its masks, its ways, and what it compares."""

import math
from types import SimpleNamespace

import pytest
import torch

from srdd.claims import EDITED, edits_better
from srdd.data import fashion_slice
from srdd.editing_study import (
    FACTORS,
    HOLES,
    PER_IMAGE,
    PUBLISHED,
    ROUNDS,
    SEEN,
    TASKS,
    Task,
    box,
    by_weight,
    compared,
    divided,
    filled,
    irregular,
    paired,
    per_image,
    smoothest,
    some_of,
    ways,
)
from srdd.features import shipped_judge
from srdd.pipeline import Pipeline
from srdd.scales import area_down


@pytest.fixture(scope="module")
def pipe():
    return Pipeline.from_pretrained("fashion")


@pytest.fixture(scope="module")
def some():
    return some_of(fashion_slice(), 1).batch(range(10))


@pytest.mark.parametrize("name", HOLES)
def test_a_hole_leaves_something_and_is_the_same_for_the_same_image(name):
    mask = HOLES[name](20, 32)
    assert mask.shape == (20, 1, 32, 32) and mask.dtype == torch.bool
    share = mask.flatten(1).float().mean(1)
    assert (share > 0).all() and (share < 1).all()
    assert torch.equal(HOLES[name](8, 32), mask[:8]) or name in ("box", "irregular")
    assert torch.equal(HOLES[name](20, 32), mask)


def test_boxes_have_the_sides_that_were_asked_for_and_blobs_their_share():
    for mask in box(200, 32)[:, 0]:
        high, wide = mask.any(1).sum(), mask.any(0).sum()
        assert 8 <= high <= 24 and 8 <= wide <= 24 and mask.sum() == high * wide
    share = irregular(20, 32).flatten(1).float().mean(1)
    assert (share - 0.4).abs().max() < 0.01


def test_some_of_a_set_has_as_many_of_each_class():
    few = some_of(fashion_slice(), 3)
    assert few.labels.bincount().tolist() == [3] * 10


@pytest.mark.parametrize("name", TASKS)
def test_every_way_keeps_what_is_known(pipe, some, name):
    task = Task.of(name, *some)
    fillings = [filled(pipe, task, way, 0) for way in ways(name)]
    for made in (*fillings, smoothest(task, 50)):
        assert made.shape == task.images.shape and made.isfinite().all()
        if name in FACTORS:
            low = area_down(made, 32 // FACTORS[name])
            assert (low - task.small()).abs().max() < 1e-5
        else:
            known = ~task.mask
            assert torch.equal(made[known], task.images[known])
    assert len({made.numpy().tobytes() for made in fillings}) == len(fillings)


def test_the_encoder_that_sees_the_hole_is_asked_once():
    assert [name for name in TASKS if SEEN in ways(name)] == ["centre"]
    assert all((PUBLISHED in ways(name)) == (name in HOLES) for name in TASKS)
    assert all(list(ROUNDS) == ways(name)[-2:] for name in TASKS)


def test_smoothing_solves_the_equation_of_means(some):
    task = Task.of("centre", *some)
    made = smoothest(task)
    inner = task.mask[..., 1:-1, 1:-1]
    around = made[..., :-2, 1:-1] + made[..., 2:, 1:-1]
    around = (around + made[..., 1:-1, :-2] + made[..., 1:-1, 2:]) / 4
    assert (around - made[..., 1:-1, 1:-1])[inner].abs().max() < 1e-4


def test_one_candidate_is_one_round_and_more_are_taken_by_weight(pipe, some):
    task = Task.of("centre", *some)
    one, nothing = by_weight(pipe, task, 1, 0)
    assert math.isnan(nothing) and torch.equal(one[~task.mask], task.images[~task.mask])
    four, spread = by_weight(pipe, task, 4, 0)
    same = [torch.equal(a, b) for a, b in zip(one, four, strict=True)]
    assert spread > 1 and 0 < sum(same) < len(same)  # the first is among the four


def test_an_error_is_divided_without_bias():
    dice = torch.Generator().manual_seed(0)
    truth = torch.zeros(1, 1, 64, 64)
    task = Task("", truth, torch.tensor([0]), torch.ones(1, 1, 64, 64).bool())
    for off, noise in ((0.0, 0.5), (0.3, 0.0), (0.3, 0.5)):
        made = off + noise * torch.randn(4, 1, 1, 64, 64, generator=dice)
        found = divided(made, task)
        assert found["between"] == pytest.approx(noise**2 / 4, abs=0.003)
        assert found["shared"] == pytest.approx(off**2 / 4, abs=0.003)
        assert found["error"] == pytest.approx(found["between"] + found["shared"])


def test_measures_of_images_are_those_of_the_hole_and_of_the_whole(some):
    task = Task.of("centre", *some)
    exact = per_image(shipped_judge(), task.images, task)
    assert min(exact["psnr_db"]) == 100 and max(exact["feature_distance"]) == 0
    assert min(exact["ssim"]) == pytest.approx(1)
    off = torch.where(task.mask, (task.images + 0.2).clamp(-1, 1), task.images)
    off = torch.where(off > 0.999, task.images - 0.2, off)
    found = per_image(shipped_judge(), off, task)["psnr_db"]
    assert max(found) == pytest.approx(20, abs=0.1)  # a tenth of the range


def test_differences_are_taken_image_by_image():
    def runs(shift):
        noise = [0.0, 5.0, -3.0, 1.0]
        return [{"each": {k: [x + shift for x in noise] for k in PER_IMAGE}}] * 2

    values = paired("a less b", runs(1.0), runs(0.5))
    for key in PER_IMAGE:
        assert values[f"a less b/{key}"] == {"mean": 0.5, "sd": 0.0, "n": 4}
    found = {(w, m): runs(len(w)) for w in ROUNDS for m in ("one", "two")}
    values = compared("t", found, ("one", "two"))
    assert values["t, one round, one less two/ssim"]["mean"] == 0
    assert values["t, three rounds less one round, one/ssim"]["mean"] == 3


def test_the_rule_for_editing_wants_nothing_worse_and_enough_better():
    def record(**changes):
        gaps = {f"{t}/{k}": (0.0, 1.0) for t in "abc" for k in EDITED} | changes
        values = {k: {"mean": m, "sd": s, "n": 3} for k, (m, s) in gaps.items()}
        return SimpleNamespace(values=values)

    rule = edits_better("abc", 2)
    assert not rule(record())
    two = {"a/feature_distance": (-9.0, 1.0), "b/feature_distance": (-9.0, 1.0)}
    assert rule(record(**two))
    assert not rule(record(**two, **{"c/psnr_db": (-9.0, 1.0)}))
    assert not rule(record(**two, **{"c/feature_distance": (9.0, 1.0)}))
    assert rule(record(**two, **{"c/ssim": (9.0, 1.0)}))
