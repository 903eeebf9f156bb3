"""Claims: the verdict follows the record, and the page follows the verdict."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from srdd.claims import (
    BARE,
    CHOSEN,
    CLAIMS,
    EACH,
    FULL_LIST,
    JUDGED,
    LESS,
    LEVERS,
    MASKS,
    OTHER_SIDES,
    PAIRED,
    SECONDS,
    SHORT,
    STEPS,
    WHOLE,
    Claim,
    above,
    ahead_at_equal_cost,
    all_of,
    as_good,
    at_most,
    cheaper,
    claims_markdown,
    cost,
    equal_keys,
    error,
    every_above,
    every_below,
    gap,
    lower,
    margin,
    matching,
    numbers,
    propositions_hold,
    reach,
    saved,
    told_apart,
    verdict,
    with_error,
    worst,
    write_claims,
)
from srdd.decoder_study import EQUAL
from srdd.experiments import EXPERIMENTS
from srdd.presets import WIDE
from srdd.records import read_record, results_dir, single, spread, write_record
from srdd.resampling_study import BLIND, SEEING
from srdd.schedule_study import chosen
from srdd.studies import Variant
from srdd.tokenizer_study import VOCABS


def on_front(name, cost, loss, among=""):
    """The earlier rule of S5: no other set is both cheaper and better, or as cheap.

    Only sets count whose names end with `among`.
    """

    def rule(record):
        others = [k.rpartition("/")[0] for k in matching(record, rf"{among}/{cost}$")]
        here = [record.values[f"{name}/{key}"]["mean"] for key in (cost, loss)]
        for other in others:
            there = [record.values[f"{other}/{key}"]["mean"] for key in (cost, loss)]
            if there != here and all(a <= b for a, b in zip(there, here, strict=True)):
                return False
        return True

    return rule


def record(folder, values, name="x"):
    facts = {"name": name, "claim": "c", "tier": "toy", "seeds": [0, 1, 2]}
    return write_record(folder, values=values, **facts)


GOOD, BAD = spread([0.10, 0.11, 0.12]), spread([0.20, 0.21, 0.22])
NEAR, HUNDRED = spread([0.105, 0.115, 0.125]), single(100.0)
DIFFERENCES = {
    "d/rel_fd": spread([-0.1, 0.1, 0.02]),
    "d/kid_1000": GOOD,
    "d/recall": GOOD,
    "w/kid_1000": HUNDRED,
    "w/recall": HUNDRED,
}


@pytest.mark.parametrize(
    ("rule", "values", "holds"),
    [
        (lower("a", "b"), {"a": GOOD, "b": BAD}, True),
        (lower("a", "b"), {"a": BAD, "b": GOOD}, False),
        (lower("a", "b"), {"a": GOOD, "b": NEAR}, False),  # within the scatter
        (as_good("d", "w", ["rel_fd"]), DIFFERENCES | {"w/rel_fd": single(9.0)}, True),
        (as_good("d", "w", ["rel_fd"]), DIFFERENCES | {"w/rel_fd": single(4.0)}, False),
        (as_good("d", "w", ["recall"]), DIFFERENCES | {"w/recall": single(0.1)}, True),
        (as_good("d", "w", ["kid_1000"]), DIFFERENCES, False),  # beyond chance
        (as_good("d", "w", ["kid_1000", "recall"]), DIFFERENCES, False),
        (cheaper("a", "b", 0.2), {"a/flops": single(80.0), "b/flops": HUNDRED}, True),
        (cheaper("a", "b", 0.2), {"a/flops": single(81.0), "b/flops": HUNDRED}, False),
        (all_of(above("a", 1.0), above("a", 0.5)), {"a": single(0.7)}, False),
        (at_most("a", "b"), {"a": GOOD, "b": single(0.2)}, True),
        (at_most("a", "b"), {"a": GOOD, "b": single(0.111)}, False),  # by chance
        (above("a", 0.05), {"a": GOOD}, True),
        (above("a", 0.109), {"a": GOOD}, False),  # above, but by chance
        (above("a", 0.9), {"a": single(0.91)}, True),
        (every_below("p$", 1e-10), {"1/p": single(1e-12), "2/p": single(0.0)}, True),
        (every_below("p$", 1e-10), {"1/p": single(1e-12), "2/p": single(1e-9)}, False),
        (every_above("^r", 1.0), {"r1": single(2.0), "r2": single(1.5)}, True),
        (every_above("^r", 1.0), {"r1": single(2.0), "r2": single(0.5)}, False),
        (equal_keys("p", "v"), {"2/p": single(9.0), "2/v": single(9.0)}, True),
        (equal_keys("p", "v"), {"2/p": single(9.0), "2/v": single(8.0)}, False),
    ],
)
def test_a_rule_reads_its_verdict_from_the_values(tmp_path, rule, values, holds):
    made = record(tmp_path, values)
    assert rule(made) is holds
    claim = Claim("T", "t", "s", "x", rule=rule)
    assert verdict(claim, tmp_path) == ("reproduced" if holds else "not reproduced")


@pytest.mark.parametrize(
    ("plan", "narrow", "kid", "holds"),
    [
        (3.0, 6.0, 9.0, False),  # ahead of the same width, behind the wide network
        (1.0, 6.0, 9.0, True),  # ahead of both
        (1.9, 6.0, 9.0, False),  # ahead of the wide one by less than twice the spread
        (3.0, 2.0, 9.0, True),  # the narrow one is ahead of all that costs as little
        (3.0, 6.0, 1.0, True),  # ahead in the other measure
    ],
)
def test_ahead_at_equal_cost_means_of_all_that_costs_no_more(
    tmp_path, plan, narrow, kid, holds
):
    def near(x):
        return spread([x - 0.1, x, x + 0.1])

    values, costs = {}, {"a": 75, "b": 120, "c": 119, "d": 73}
    names = {
        "a": ("width 64, no passes", 4.0, 5.0),
        "b": ("width 64, plan", plan, kid),
        "c": ("width 84, no passes", 2.0, 5.0),
        "d": ("width 46, plan", narrow, 9.0),
    }
    for key, (name, fd, other) in names.items():
        values |= {f"{name}/fd": near(fd), f"{name}/kid": near(other)}
        values[f"{name}/cost"] = spread([costs[key]] * 3)
    values |= {"curve, plan/fd": near(0.0), "curve, plan/cost": near(1.0)}
    rule = ahead_at_equal_cost(("fd", "kid"), "cost", 2.0)
    assert rule(record(tmp_path, values)) is holds


def test_as_good_is_not_proved_by_scatter(tmp_path):
    values = {"d/rel_fd": spread([-1.0, 1.0, 0.0]), "w/rel_fd": single(1.0)}
    made = record(tmp_path, values)
    assert worst(made, "d", "rel_fd") == pytest.approx(reach(2) / 3**0.5)
    assert not as_good("d", "w", ["rel_fd"])(made)
    values["d/rel_fd"] = single(0.0)
    record(tmp_path, values)
    claim = Claim("T", "t", "s", "x", rule=as_good("d", "w", ["rel_fd"]))
    assert verdict(claim, tmp_path) == "not yet"  # one seed has no spread


@pytest.mark.parametrize(
    ("key", "value", "holds"),
    [
        ("P1/difference of a and b", 1e-15, True),
        ("P1/difference of a and b", 1e-9, False),
        ("P1/largest difference", 1e-9, False),
        ("P2/slope of the gap", 1.02, False),
        ("P6/total correlation", 0.0, False),
    ],
)
def test_the_theorem_needs_what_is_equal_and_what_is_not(tmp_path, key, value, holds):
    values = {
        "P1/difference of a and b": single(1e-15),
        "P1/largest difference": single(1e-15),
        "P2/slope of the gap": single(1.0),
        "P6/total correlation": single(0.3),
    }
    made = record(tmp_path, values | {key: single(value)})
    assert propositions_hold(made) is holds


def test_three_runs_need_more_than_two_errors():
    """Against the quantiles of Student's law, by its distribution in closed form."""
    assert reach(1) == pytest.approx(math.tan(0.475 * math.pi), rel=1e-3)
    t = reach(2)  # the law of two degrees: 1/2 + t / (2 sqrt(2 + t^2))
    assert t / math.sqrt(2 + t * t) == pytest.approx(0.95, abs=1e-3)
    assert reach(50) == 2.2 and reach(0) == math.inf


@pytest.mark.parametrize(
    ("name", "holds"), [("cheap", True), ("good", True), ("bad", False)]
)
def test_the_front_has_nothing_cheaper_and_better(tmp_path, name, holds):
    sets = {"cheap": (1.0, 3.0), "good": (2.0, 1.0), "bad": (2.5, 2.0)}
    values = {
        f"{key}/{what}": single(x)
        for key, pair in sets.items()
        for what, x in zip(("flops", "fd"), pair, strict=True)
    }
    assert on_front(name, "flops", "fd")(record(tmp_path, values)) is holds
    assert on_front("bad", "flops", "fd", among="bad")(record(tmp_path, values))


def test_one_run_decides_by_the_error_of_its_kid_or_not_at_all(tmp_path):
    values = {
        "a/kid_1000": single(10.0),
        "a/kid_1000_se": single(3.0),
        "b/kid_1000": single(20.0),
        "b/kid_1000_se": single(4.0),
        "a/fd": single(1.0),
        "b/fd": single(2.0),
    }
    made = record(tmp_path, values)
    difference, chance = gap(made, "a/kid_1000", "b/kid_1000")
    assert difference == -10.0 and chance == reach(18) * 5.0
    assert not lower("a/kid_1000", "b/kid_1000")(made)
    assert with_error("b/kid_1000")(made) == "20 (error of one set 4)"
    claim = Claim("T", "t", "s", "x", rule=lower("a/fd", "b/fd"))
    assert verdict(claim, tmp_path) == "not yet"


def test_a_steady_set_lends_no_freedom_to_one_that_scatters(tmp_path):
    values = {"a": spread([1.0, 2.0, 3.0]), "b": spread([0.0, 1e-6, 2e-6])}
    chance = gap(record(tmp_path, values), "a", "b")[1]
    assert chance == pytest.approx(reach(2) * error(values["a"]), rel=1e-3)  # Welch
    equal = {"a": spread([1.0, 1.0]), "b": spread([1.0, 1.0])}
    assert gap(record(tmp_path, equal), "a", "b") == (0.0, 0.0)


def test_without_a_record_that_can_decide_it_is_not_yet(tmp_path):
    tmp_path.joinpath("results").mkdir()
    rule = above("a", 1.0)
    assert verdict(Claim("T", "t", "s"), tmp_path) == "not yet"
    assert verdict(Claim("T", "t", "s", "none", rule=rule), tmp_path) == "not yet"
    record(tmp_path, {"b": single(2.0)})
    assert verdict(Claim("T", "t", "s", "x", rule=rule), tmp_path) == "not yet"
    far = Claim("T", "t", "s", "x", rule=rule, testable=False)
    assert verdict(far, tmp_path) == "not testable here"


def test_a_verdict_changes_with_the_record_alone(tmp_path):
    claim = Claim("T", "t", "s", "x", (("value", "a"),), above("a", 1.0))
    for value, said in ((2.0, "reproduced"), (0.5, "not reproduced")):
        record(tmp_path, {"a": single(value)})
        page = claims_markdown([claim], tmp_path)
        assert f"| T | t | {said} |" in page and f"| value | {value:g} |" in page


def test_claims_of_our_own_hold_or_do_not(tmp_path):
    record(tmp_path, {"a": single(2.0)})
    for level, said in ((1.0, "holds"), (3.0, "does not hold")):
        assert (
            verdict(Claim("O9", "t", "s", "x", rule=above("a", level)), tmp_path)
            == said
        )


def test_further_records_are_shown_where_they_exist(tmp_path):
    record(tmp_path, {"a": single(2.0)})
    claim = Claim("T", "t", "s", also=(("x", "a", "far"), ("y", "a", "none")))
    assert numbers(claim, tmp_path) == [("far", "2")]


def test_what_saves_of_a_further_record_is_computed(tmp_path):
    record(tmp_path, {"a/s": single(3.0), "b/s": single(4.0)})
    ways = ((saved("a", "b", "s"), "saves"), (saved("a", "none", "s"), "unknown"))
    claim = Claim("T", "t", "s", also=tuple(("x", *way) for way in ways))
    assert numbers(claim, tmp_path) == [("saves", "25%")]


def test_what_the_note_of_s4_says_is_what_the_records_say():
    assert chosen(read_record("schedules").values)["all levers"].name == CHOSEN
    seconds = read_record("schedule-seconds").values
    mine, full = (
        seconds[f"{name}/{SECONDS}"]["mean"] for name in (CHOSEN, f"{WHOLE}, guided")
    )
    assert mine / full < 0.8
    again, seeds = read_record("schedule-quality"), read_record("schedule-seeds")
    gaps = {key: again.values[f"{BARE}/{key}"] for key in JUDGED}
    beyond = {key for key, gap in gaps.items() if abs(gap["mean"]) > margin(gap)}
    assert beyond == {"coverage"} and gaps["coverage"]["mean"] < 0
    full = {key: again.values[f"{FULL_LIST}/{key}"]["mean"] for key in JUDGED}
    much = {key for key in JUDGED if worst(again, BARE, key) > (EQUAL - 1) * full[key]}
    assert much == {"kid_1000"} and len(again.seeds) == 8
    ours, there = seeds.values[f"{LEVERS}/{PAIRED}"], gaps["rel_fd"]
    assert ours["mean"] <= ours["sd"] and there["mean"] <= there["sd"]
    costs = [again.values[f"{n}/flops"]["mean"] for n in (CHOSEN, SHORT, FULL_LIST)]
    assert costs[0] < 0.6 * costs[2] and costs[1] > 0.9 * costs[2]


def test_what_the_note_of_s5_says_is_what_the_records_say():
    gpu, cpu = read_record("schedule-seeds").values, read_record("schedule-quality")
    name = OTHER_SIDES
    for key, sign in (("kid_1000", 1), ("coverage", -1)):
        gap = cpu.values[f"{name}, {LESS}/{key}"]
        assert sign * gap["mean"] > margin(gap)
    for key, sign in (("rel_fd", 1), ("accuracy", -1)):
        gap = cpu.values[f"{name}, {LESS}/{key}"]
        assert 0 < sign * gap["mean"] < margin(gap)
    earlier = on_front(name, "flops", "rel_fd", among=", guided")
    assert earlier(read_record("schedules"))
    far = "retokenise 1-8, guided"  # far worse, and on the front too
    assert on_front(far, "flops", "rel_fd", among=", guided")(read_record("schedules"))
    one, full = (gpu[f"{n}/rel_fd"] for n in (name, f"{WHOLE}, guided"))
    assert one["mean"] - full["mean"] < full["sd"]


def test_on_cifar_whatever_saves_operations_is_worse_beyond_chance():
    found = read_record("cifar10-schedules").values
    whole = found[f"{WHOLE}, guided/flops"]["mean"]
    names = [k.removesuffix("/flops") for k in found if k.endswith("/flops")]
    names = [name for name in names if LESS not in name]
    cheaper = [n for n in names if found[f"{n}/flops"]["mean"] < whole]
    assert len(names) == 14 and len(cheaper) == 10
    for name in cheaper:
        gap = found[f"{name}, {LESS}/rel_fd"]
        assert gap["mean"] > margin(gap), name


def test_what_the_note_of_o6_says_is_what_the_record_says():
    found = read_record("slim-decoder").values
    for name in ("10 x 2", "10 x 2, features", "12 x 2, features"):
        assert 1.085 < found[f"{name}/rel-FD / teacher's"]["mean"] < 1.095
    sharp, plain = ("teacher, sharpened", "teacher")
    assert found[f"{sharp}/rel_fd"]["mean"] < found[f"{plain}/rel_fd"]["mean"]
    student = found["10 x 2, sharpened/rel_fd"]["mean"]
    assert student < EQUAL * found[f"{sharp}/rel_fd"]["mean"]
    for name in (sharp, "10 x 2, sharpened"):
        assert found[f"{name}/psnr_db"]["mean"] < found["teacher/psnr_db"]["mean"]


def test_what_the_note_of_s3_says_is_what_the_records_say():
    presets = read_record("fashion-presets")
    for own in ("", f", {WIDE}"):
        assert lower(f"best{own}/rel_fd", f"balanced{own}/rel_fd")(presets)
    control, pair = read_record("mask-head-control"), (SEEING, BLIND)
    assert above(f"{SEEING}, less {BLIND}/rel_fd", 0.0)(control)
    costs = [control.values[f"{name}/flops"]["mean"] for name in pair]
    assert costs[0] == costs[1]
    found = read_record("resampling").values
    for rule in ("random", "sequence", "halton", "entropy"):
        for passes in ("1 pass", "2 passes", "4 passes", "8 passes"):
            value = found[f"curve, {rule}, {passes}/rel_fd against no passes"]
            assert value["mean"] + margin(value) < 0, (rule, passes)
    images, trunk = found["size/images of a step"]["mean"], Variant()
    assert found["size/steps of a head"]["mean"] == trunk.steps
    assert images == 4 * trunk.batch
    for key in ("rel_fd", "kid_1000"):
        names = ("no passes", "entropy, 1 pass, warmer")
        plain, passed = (found[f"trained together, {name}/{key}"] for name in names)
        assert plain["mean"] - passed["mean"] < max(plain["sd"], passed["sd"])
    for key, errors in (("transformer_flops", 0), ("rel_fd", 2), ("kid_1000", 2)):
        plan = found[f"width 64, halton, 8 passes/{key}"]
        wide = found[f"width 172, no passes/{key}"]
        assert wide["mean"] < plan["mean"] - errors * plan["sd"]


def test_what_the_note_of_s2_says_is_what_the_records_say():
    record, colour = read_record("study-mask"), read_record("cifar10")
    measures = ("rel_fd", "kid_1000", "cross_entropy", "accuracy", "recall", "coverage")
    assert as_good(MASKS, "causal", measures)(record) and len(record.seeds) == 8
    assert above(f"{MASKS}/recall", 0.0)(record)
    nats = f"{MASKS}/cross_entropy"
    assert record.values[nats]["mean"] < 0
    assert above(nats, 0.0)(colour)
    for name in ("tiny-imagenet", "flowers"):
        found = read_record(name)
        for key in measures:
            value = found.values[f"{MASKS}/{key}"]
            assert worst(found, MASKS, key) > 0  # worse is possible, and not seen:
            assert worst(found, MASKS, key) < 2 * margin(value), (name, key)
        levels = [found.values[f"{m}/rel_fd"]["mean"] for m in ("causal", "markov")]
        assert min(levels) > 1


def test_what_is_told_apart_is_what_chance_may_do_to_two_sets(tmp_path):
    made = record(tmp_path, {"study size/x": GOOD})
    wanted = 2.776 * (2 / 3) ** 0.5 * 0.01
    assert float(told_apart("x")(made)) == pytest.approx(wanted, rel=0.02)


def test_what_the_note_of_s6_says_is_what_the_record_says():
    record = read_record("study-convergence")
    assert above(f"{EACH}/ratio", 1.0)(record)  # in seconds
    tiny = read_record("tiny-imagenet").values
    for name in ("causal", "Markovian"):
        half, end = (tiny[f"{name}, {part} of 4/rel_fd"]["mean"] for part in (2, 4))
        assert half < end
    assert not above(f"{STEPS}/ratio", 1.0)(record)


def test_what_the_note_of_s11_says_is_what_the_record_says():
    record = read_record("tokenizer-gap")
    for key, sign in (("rel_fd", 1), ("psnr_db", -1), ("ssim", -1)):
        names = [f"{n} codes/{key}" for n in VOCABS] + [f"no quantizer/{key}"]
        steps = [gap(record, *pair) for pair in pairwise(names)]
        assert all(sign * difference > 0 for difference, _ in steps)
        assert abs(steps[-1][0]) > steps[-1][1]
        if key != "ssim":
            assert all(abs(difference) < chance for difference, chance in steps[:-1])
        difference, chance = gap(record, names[1], names[3])
        assert (abs(difference) > chance) == (key != "rel_fd")


def test_the_page_keeps_what_stands_around_its_markers(tmp_path):
    page = tmp_path / "claims.md"
    page.write_text("before\n<!-- claims -->\nstale\n<!-- /claims -->\nafter\n")
    write_claims(page, tmp_path)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "| S1 |" in text and "stale" not in text
    write_claims(page, tmp_path)
    assert page.read_text() == text
    page.write_text("no markers")
    with pytest.raises(ValueError, match="has no <!-- claims -->"):
        write_claims(page, tmp_path)
    with pytest.raises(FileNotFoundError):
        write_claims(tmp_path / "none.md", tmp_path)


def test_every_claim_of_the_paper_has_one_row():
    labels = [claim.label for claim in CLAIMS]
    assert labels[:14] == [f"S{i}" for i in range(1, 15)]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.label)
def test_a_record_that_was_written_shows_every_value_that_is_promised(claim):
    if claim.record is None:
        assert claim.rule is None and not claim.shown
        return
    assert claim.rule is not None
    try:
        made = read_record(claim.record)
    except FileNotFoundError:
        pytest.skip(f"no record {claim.record} yet")
    assert claim.record in EXPERIMENTS
    for _, key in claim.shown:
        assert not isinstance(key, str) or key in made.values
    for name, key, _ in claim.also:
        none = name == "tiny-imagenet" and "to equal" in str(key)  # equal at once
        if not isinstance(key, str) or none or "seconds to equal" in key:
            continue  # seconds are those of the device that the record names
        if (results_dir(__file__) / f"{name}.json").is_file():
            assert key in read_record(name).values, (name, key)
    assert isinstance(claim.rule(made), bool)
    assert not any(math.isnan(value["mean"]) for value in made.values.values())


def test_samples_are_painted_by_the_decoder_whose_reconstructions_are_nearer():
    """What chapter 14 says below the table of the shipped models."""
    found = read_record("slim-decoder").values
    own, slim = (found[f"{n}/rel_fd"]["mean"] for n in ("teacher", "10 x 2, sharpened"))
    assert slim < own


def test_a_rehearsal_counts_what_the_record_does():
    """Of an experiment that has both, and whose record left nothing out."""
    whole, part = (read_record(f"smaller-sizes{w}") for w in ("", "-rehearsal"))
    assert part.values["operations"]["mean"] == pytest.approx(whole.flops, rel=1e-3)


def test_a_claim_says_what_was_kept_from_earlier_runs(tmp_path):
    found = record(tmp_path, {"x": single(1.0)})
    assert cost(replace(found, wall_seconds=1234.4)) == "1,234 s"
    rows = {"operations": single(3.14e14)}
    record(tmp_path, rows, name=f"{found.name}-rehearsal")
    assert cost(replace(found, wall_seconds=9.0), tmp_path) == (
        "9 s, about 314 TFLOP by a rehearsal"
    )
    other = replace(found, command="srdd experiment x --device cuda")  # another size
    assert cost(replace(other, wall_seconds=9.0), tmp_path) == "9 s"
    kept = [{"commit": "abc", "device": "GPU", "parts": 2, "seconds": 9, "flops": 1}]
    found = replace(found, wall_seconds=9.0, flops=2.5e12, kept=kept)
    assert cost(found) == "9 s, 2.5 TFLOP, 2 parts kept from commit abc"
