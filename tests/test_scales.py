"""Schedules, and moving between token maps."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from srdd.files import config_from_dict, config_to_dict
from srdd.scales import (
    SHORT_256,
    VAR_256,
    VAR_512,
    ScaleSchedule,
    area_down,
    bicubic_up,
    phi_index,
    snr_db,
)

growing = st.sets(st.integers(1, 20), min_size=1, max_size=8).map(sorted).map(tuple)


@given(growing)
def test_places_in_the_packed_sequence_agree_with_counting(sides):
    schedule = ScaleSchedule(sides)
    by_hand = [k for k, side in enumerate(sides) for _ in range(side * side)]
    assert schedule.levels().tolist() == by_hand
    assert schedule.length == len(by_hand) == sum(schedule.counts)
    assert len(schedule) == len(sides) == len(schedule.slices())
    for k, place in enumerate(schedule.slices()):
        assert by_hand[place] == [k] * schedule.counts[k]
        assert (place.start, place.stop) == schedule.starts[k : k + 2]
    packed = torch.arange(2 * schedule.length).view(2, -1)
    parts = schedule.split(packed)
    assert tuple(part.shape[1] for part in parts) == schedule.counts
    assert torch.equal(torch.cat(parts, 1), packed)


@given(growing, st.booleans())
def test_a_schedule_survives_json(sides, short):
    schedule = ScaleSchedule(sides)
    if short:
        schedule = schedule.subset(sides[:1])
    text = json.dumps(config_to_dict(schedule))
    assert config_from_dict(ScaleSchedule, json.loads(text)) == schedule


def test_published_schedules_have_the_published_lengths():
    assert (VAR_256.length, VAR_512.length, SHORT_256.length) == (680, 2240, 524)
    assert set(SHORT_256.sides) < set(VAR_256.sides)


def test_shared_convolutions_of_the_published_tokenizers():
    assert VAR_256.phi_for(4) == (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
    assert VAR_256.phi_for(1) == (0,) * 10
    assert ScaleSchedule((3,)).phi_for(4) == (0,)


def test_shared_convolutions_follow_the_literal_rule(reference):
    literal = reference("02_scales")["phi_index_reference"]
    for scales in range(1, 25):
        for convs in range(1, 9):
            found = phi_index(scales, convs)
            assert found == literal(scales, convs)
            assert list(found) == sorted(found) and max(found) < convs


def test_a_subset_keeps_the_convolution_of_each_side():
    short = VAR_256.subset(SHORT_256.sides)
    full = dict(zip(VAR_256.sides, VAR_256.phi_for(4), strict=True))
    assert short.phi_for(4) == tuple(full[s] for s in short.sides)
    assert short.phi_for(4) != SHORT_256.phi_for(4)  # the rule would say otherwise
    assert VAR_256.subset(VAR_256.sides).phi_for(4) == VAR_256.phi_for(4)


@pytest.mark.parametrize("bad", [(), (0, 1), (2, 2), (3, 1), (-1, 2), (1, 2, 2)])
def test_a_schedule_that_does_not_grow_is_refused(bad):
    with pytest.raises(ValueError, match="growing"):
        ScaleSchedule(bad)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ScaleSchedule((1, 2), phi=(0,)), "one index.*2 scales"),
        (lambda: ScaleSchedule((1, 2), phi=(0, -1)), "index >= 0"),
        (lambda: ScaleSchedule((1, 2), phi=(0, 4)).phi_for(4), "more than 4"),
        (lambda: VAR_256.subset((1, 7)), r"\[7\] are not in"),
        (lambda: VAR_256.split(torch.zeros(1, 679)), "679.*680"),
        (lambda: phi_index(0, 4), ">= 1"),
        (lambda: phi_index(4, 0), ">= 1"),
        (lambda: snr_db(torch.zeros(2), torch.zeros(3)), "one shape"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("side", [1, 3, 5, 8, 13, 16])
def test_averages_equal_those_written_out(reference, device, side):
    literal = reference("02_scales")["area_down_reference"]
    maps = torch.randn(2, 3, 16, 16, dtype=torch.float64, device=device)
    torch.testing.assert_close(
        area_down(maps, side), literal(maps, side), rtol=0, atol=1e-12
    )


def test_averaging_is_linear_keeps_means_and_does_nothing_at_its_own_side():
    x, y = torch.randn(2, 1, 2, 12, 12, dtype=torch.float64)
    for side in (1, 2, 3, 4, 6, 12):
        both = area_down(2 * x - y, side)
        torch.testing.assert_close(both, 2 * area_down(x, side) - area_down(y, side))
        assert area_down(x, side).mean() == pytest.approx(x.mean().item(), abs=1e-12)
    assert torch.equal(area_down(x, 12), x)


def test_enlarging_keeps_constants_and_its_own_side():
    flat = torch.full((1, 2, 3, 3), 0.7, dtype=torch.float64)
    wanted = torch.full((1, 2, 8, 8), 0.7, dtype=torch.float64)
    torch.testing.assert_close(bicubic_up(flat, 8), wanted)
    x = torch.randn(1, 2, 5, 5)
    assert bicubic_up(x, 5) is x
    assert bicubic_up(torch.randn(1, 1, 1, 1), 4).std() < 1e-6


def test_enlarging_overshoots_and_averaging_does_not():
    step = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(4, 4)[None, None]
    assert bicubic_up(step, 16).max() > 1
    assert area_down(step, 3).max() <= 1


def test_signal_to_noise_ratio_of_known_maps():
    f = torch.tensor([3.0, 4.0])
    assert snr_db(f, f) == math.inf
    assert snr_db(f, torch.zeros(2)) == -math.inf
    assert snr_db(f, f / 2) == pytest.approx(0)  # what is known = what is missing
    assert snr_db(f, 10 / 11 * f) == pytest.approx(20)
