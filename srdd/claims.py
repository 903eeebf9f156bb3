"""The claims of the paper and our own, each with a verdict computed from a record.

`srdd report` writes them to the claims page. A row says which record speaks about a
claim, which of its values are shown, and the rule that turns them into a verdict.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from .presets import write_presets
from .records import (
    Record,
    fill_markers,
    markdown_table,
    read_record,
    results_dir,
)

Rule = Callable[[Record], bool]
REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
NOT_TESTABLE, NOT_YET = "not testable here", "not yet"
REGION = re.compile(r"(<!-- claims -->).*?(<!-- /claims -->)", re.DOTALL)
QUALITY = "Markovian, guided"


def error(value: dict[str, float | int | None]) -> float:
    """Standard error of a value's mean.

    Raises:
        ValueError: the value was measured once.
    """
    if value["sd"] is None or value["n"] < 2:
        raise ValueError("one measurement has no spread")
    return value["sd"] / math.sqrt(value["n"])


def gap(record: Record, one: str, other: str) -> tuple[float, float]:
    """Difference ``one - other`` of two values, and its standard error.

    A KID brings its own error, which holds for a single run too.
    """
    sides = []
    for key in (one, other):
        value, own = record.values[key], record.values.get(f"{key}_se")
        if value["n"] < 2 and own is not None:
            sides.append((value["mean"], own["mean"]))
        else:
            sides.append((value["mean"], error(value)))
    (a, ea), (b, eb) = sides
    return a - b, math.hypot(ea, eb)


def lower(one: str, other: str) -> Rule:
    """Rule: the first value is below the second by two standard errors."""

    def rule(record: Record) -> bool:
        difference, scatter = gap(record, one, other)
        return difference < -2 * scatter

    return rule


def not_higher(key: str) -> Rule:
    """Rule: a difference is not above zero by two standard errors."""

    def rule(record: Record) -> bool:
        value = record.values[key]
        return value["mean"] <= 2 * error(value)

    return rule


def above(key: str, level: float) -> Rule:
    """Rule: a value is above a level, by two standard errors if it has a spread."""

    def rule(record: Record) -> bool:
        value = record.values[key]
        margin = 0.0 if value["sd"] is None else 2 * error(value)
        return value["mean"] - margin > level

    return rule


def every_below(pattern: str, level: float) -> Rule:
    """Rule: all values whose key matches are below a level."""

    def rule(record: Record) -> bool:
        found = matching(record, pattern)
        return all(record.values[key]["mean"] <= level for key in found)

    return rule


def every_above(pattern: str, level: float) -> Rule:
    """Rule: all values whose key matches are above a level."""

    def rule(record: Record) -> bool:
        found = matching(record, pattern)
        return all(record.values[key]["mean"] > level for key in found)

    return rule


def best_beats_first(measure: str) -> Rule:
    """Rule: of the sets with a measure, one is lower than the first, the baseline."""

    def rule(record: Record) -> bool:
        first, *others = matching(record, rf"/{re.escape(measure)}$")
        return any(lower(key, first)(record) for key in others)

    return rule


def cheap_and_equal(saved: float, among: str = "") -> Rule:
    """Rule: a set with a share `saved` fewer operations is as good as the first.

    As good: its rel-FD is not higher by two standard errors. Only sets whose name
    ends with `among` count.
    """

    def rule(record: Record) -> bool:
        first, *others = seeded(record, "rel_fd")
        cost = record.values[f"{first}/flops"]["mean"]
        for name in others:
            dear = record.values[f"{name}/flops"]["mean"] > (1 - saved) * cost
            if dear or not name.endswith(among):
                continue
            difference, scatter = gap(record, f"{name}/rel_fd", f"{first}/rel_fd")
            if difference <= 2 * scatter:
                return True
        return False

    return rule


def equal_keys(one: str, other: str) -> Rule:
    """Rule: values of the same sets under two names are equal."""

    def rule(record: Record) -> bool:
        found = matching(record, rf"/{one}$")
        ends = len(one)
        return all(
            record.values[key]["mean"] == record.values[key[:-ends] + other]["mean"]
            for key in found
        )

    return rule


def matching(record: Record, pattern: str) -> list[str]:
    """Keys of a record that match.

    Raises:
        KeyError: none does.
    """
    found = [key for key in record.values if re.search(pattern, key)]
    if not found:
        raise KeyError(pattern)
    return found


def seeded(record: Record, measure: str) -> list[str]:
    """Sets whose measure has a spread, in the order of the record."""
    keys = matching(record, rf"/{measure}$")
    return [k.rpartition("/")[0] for k in keys if record.values[k]["n"] > 1]


def largest(pattern: str) -> Callable[[Record], str]:
    """Shows the largest of the values that match, with its power of ten."""

    def show(record: Record) -> str:
        return f"{max(record.values[k]['mean'] for k in matching(record, pattern)):.0e}"

    return show


@dataclass(frozen=True)
class Claim:
    """A row of the claims page.

    Args:
        label: S1 to S14 are the paper's, O1 and so on ours.
        text: the claim in our words.
        source: where it stands.
        record: the file in results/ that speaks about it; None if there is none yet.
        shown: what is printed to the key of a value, or to a function of the record.
        rule: reproduced or not.
        also: further records whose values are shown: (record, key, text).
        note: what the verdict does not say.
        testable: False if it needs what this book does not have.
    """

    label: str
    text: str
    source: str
    record: str | None = None
    shown: tuple[tuple[str, str | Callable[[Record], str]], ...] = ()
    rule: Rule | None = None
    also: tuple[tuple[str, str, str], ...] = ()
    note: str = ""
    testable: bool = True


PAPER, SUMMARY = "abstract", "summaries only"
STEPS = "steps to equal rel-FD, causal / Markovian"
EACH = "CPU seconds to equal rel-FD, causal / Markovian"
CLAIMS = (
    Claim(
        "S1",
        "Next-scale prediction with a Markovian mask is a discrete diffusion.",
        PAPER,
        "theorem",
        (("largest difference over all equalities", largest("/largest difference$")),),
        every_below("/largest difference$", 1e-10),
        note="Exact on toys that can be listed; chapter 7 says what is not equal.",
    ),
    Claim(
        "S2",
        "The Markovian model is as good as the causal one, trained alike.",
        "abstract, figures",
        "study-mask",
        (
            ("rel-FD, Markovian", "markov/rel_fd"),
            ("rel-FD, causal", "causal/rel_fd"),
            ("difference of rel-FD", "markov minus causal/rel_fd"),
            ("difference of nats per token", "markov minus causal/cross_entropy"),
        ),
        not_higher("markov minus causal/rel_fd"),
        (
            ("fashion-loss", "fashion, test/mean", "shipped Markovian, nats per token"),
            ("fashion-loss", "fashion-causal, test/mean", "shipped causal"),
        ),
        note="The rule is about rel-FD at the study size; a smaller difference than the "
        "record of study-size resolves would not be seen.",
    ),
    Claim(
        "S3",
        "Drawing tokens again improves quality.",
        "abstract, summaries",
        "resampling",
        (),
        best_beats_first("rel_fd"),
    ),
    Claim(
        "S4",
        "A fifth less computation at the same quality.",
        SUMMARY,
        "schedule-seeds",
        (),
        cheap_and_equal(0.2),
        note="All levers together: schedule, guidance that ends early, slim decoder.",
    ),
    Claim(
        "S5",
        "A short schedule loses nothing.",
        SUMMARY,
        "schedule-seeds",
        (),
        cheap_and_equal(0.0, ", guided"),
        note="The paper's list is for maps of side 16; ours end at 8. The list that "
        "passes is 1-2-3-4-8, chosen on one of the seeds; 1-3-6-8, which keeps every "
        "other side as the paper's does, is not on the front of the record schedules.",
    ),
    Claim(
        "S6",
        "The Markovian model converges faster.",
        PAPER,
        "study-convergence",
        (
            ("CPU seconds to equal rel-FD, causal over Markovian", f"{EACH}/ratio"),
            ("the same in steps", f"{STEPS}/ratio"),
        ),
        above(f"{STEPS}/ratio", 1.0),
        note="The rule is about steps. A Markovian step is somewhat cheaper; its seconds "
        "were timed once, so their spread holds only that of the curves.",
    ),
    Claim(
        "S7",
        "The Markovian model is cheaper to sample.",
        PAPER,
        "var-speed",
        (),
        every_above("causal / Markovian|causal over Markovian", 1.0),
        (
            (
                "fashion-speed",
                "generate 64, causal / Markovian",
                "shipped pair, seconds causal / Markovian",
            ),
        ),
    ),
    Claim("S8", "Better editing without training (inpainting and others).", PAPER),
    Claim("S9", "The gains hold on several datasets.", PAPER),
    Claim(
        "S10",
        "Classifier-free guidance works and helps.",
        SUMMARY,
        "fashion-quality",
        (
            ("rel-FD, guided", f"{QUALITY}/rel_fd"),
            ("not guided", "Markovian, not guided/rel_fd"),
            ("KID x 1000, guided", f"{QUALITY}/kid_1000"),
            ("not guided", "Markovian, not guided/kid_1000"),
        ),
        lower(f"{QUALITY}/kid_1000", "Markovian, not guided/kid_1000"),
        note="The weight was chosen by the same judge, see the record fashion-guidance.",
    ),
    Claim(
        "S11",
        "One codebook costs fine detail.",
        SUMMARY,
        "tokenizer-gap",
        (
            ("rel-FD, 1,024 codes", "1024 codes/rel_fd"),
            ("rel-FD, no quantizer", "no quantizer/rel_fd"),
            ("PSNR (dB), 1,024 codes", "1024 codes/psnr_db"),
            ("PSNR (dB), no quantizer", "no quantizer/psnr_db"),
            ("rel-FD, shipped tokenizer", "shipped tokenizer/rel_fd"),
        ),
        lower("no quantizer/rel_fd", "1024 codes/rel_fd"),
        (("fashion-quality", f"{QUALITY}/rel_fd", "rel-FD, samples"),),
        note="Small tokenizers trained alike, with up to 1,024 codes and without a "
        "quantizer. Grey photographs: what is said of colour is not testable here.",
    ),
    Claim("S12", "Future work: scaling laws.", SUMMARY),
    Claim("S13", "Future work: a learned policy for drawing again.", SUMMARY),
    Claim("S14", "Future work: a continuous residual with a light decoder.", SUMMARY),
    Claim(
        "O1",
        "The judge names at least 92 % of the test images.",
        "chapter 14",
        "judge",
        (("accuracy", "test/accuracy"),),
        above("test/accuracy", 0.92),
    ),
    Claim(
        "O2",
        "The shipped model does not copy its training images.",
        "chapter 14",
        "fashion-quality",
        (
            (
                "distance to the nearest training image, real being 1",
                f"{QUALITY}/neighbour",
            ),
        ),
        above(f"{QUALITY}/neighbour", 0.9),
    ),
    Claim(
        "O3",
        "The accumulated map keeps all that the earlier tokens said.",
        "chapter 7",
        "fashion-collisions",
        (("images", "images"),),
        equal_keys("prefixes", "values"),
    ),
    Claim(
        "O4",
        "The study size resolves half the steps, with three seeds.",
        "chapter 14",
        "study-size",
        (
            (
                "difference of rel-FD over its error, half the steps",
                "half the steps against study size/rel_fd, ratio",
            ),
            ("half the width", "half the width against study size/rel_fd, ratio"),
        ),
        above("half the steps against study size/rel_fd, ratio", 2.0),
    ),
)


def record_of(claim: Claim, folder: str | Path | None) -> Record | None:
    """The record of a claim, if it was written."""
    if claim.record is None:
        return None
    try:
        return read_record(claim.record, folder)
    except FileNotFoundError:
        return None


def verdict(claim: Claim, folder: str | Path | None = None) -> str:
    """What the record says about a claim; "not yet" without one that can."""
    if not claim.testable:
        return NOT_TESTABLE
    record = record_of(claim, folder)
    if record is None or claim.rule is None:
        return NOT_YET
    try:
        return REPRODUCED if claim.rule(record) else NOT_REPRODUCED
    except (KeyError, ValueError):
        return NOT_YET


def numbers(claim: Claim, folder: str | Path | None = None) -> list[str]:
    """The values of a claim as they stand on the page."""
    record, found = record_of(claim, folder), []
    for text, key in claim.shown if record is not None else ():
        if callable(key):
            found.append(f"{text}: {key(record)}")
        elif key in record.values:
            found.append(f"{text}: {record.text(key)}")
    for name, key, text in claim.also:
        try:
            found.append(f"{text}: {read_record(name, folder).text(key)}")
        except (FileNotFoundError, ValueError):
            continue
    if record is not None and not found:
        found = [f"{k}: {record.text(k)}" for k in headline(record)]
    return found


def headline(record: Record) -> list[str]:
    """Values that stand for a record where a claim names none."""
    spread_over = [k for k, v in record.values.items() if v["n"] > 1]
    wanted = r"/rel_fd$|ratio$|causal / Markovian"
    chosen = [k for k in spread_over or record.values if re.search(wanted, k)]
    return chosen[:6]


def section(claim: Claim, folder: str | Path | None) -> str:
    """All that is known about a claim."""
    record = record_of(claim, folder)
    lines = [f"**{claim.label}. {claim.text}**", ""]
    lines.append(f"* Source: {claim.source}. Verdict: **{verdict(claim, folder)}**.")
    if found := numbers(claim, folder):
        lines.append(f"* Numbers: {'; '.join(found)}.")
    if record is not None:
        seeds = f"{len(record.seeds)} seed" + "s" * (len(record.seeds) != 1)
        lines.append(
            f"* Tier: {record.tier}, {seeds}. `{record.command}`, {record.device}, "
            f"torch {record.versions.get('torch', '?')}, {record.date}."
        )
    if claim.note:
        lines.append(f"* {claim.note}")
    return "\n".join(lines)


def claims_markdown(
    claims: Iterable[Claim] = CLAIMS, folder: str | Path | None = None
) -> str:
    """The table of verdicts, and a paragraph for each claim."""
    claims = tuple(claims)
    rows = [["", "claim", "verdict"]]
    rows += [[c.label, c.text, verdict(c, folder)] for c in claims]
    parts = [markdown_table(rows), "## Claim by claim"]
    return "\n\n".join(parts + [section(c, folder) for c in claims])


def write_claims(path: str | Path, folder: str | Path | None = None) -> None:
    """Rewrite what stands between the two markers of the claims page.

    Raises:
        FileNotFoundError: no such page.
        ValueError: a page without the markers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    text = path.read_text(encoding="utf-8")
    if not REGION.search(text):
        raise ValueError(f"{path} has no <!-- claims --> ... <!-- /claims -->")
    made = claims_markdown(folder=folder)
    page = REGION.sub(lambda m: f"{m[1]}\n\n{made}\n\n{m[2]}", text)
    path.write_text(page, encoding="utf-8")


PRESETS, FASHION = "fashion-presets", "srdd/weights/fashion"


def write_pages(root: str | Path | None = None) -> dict[str, list[str]]:
    """Rewrite all numbers of the README and of the book's Markdown pages.

    Args:
        root: the checkout; None finds it above the working folder.
    Returns:
        The tables that were written, by page; the presets of the shipped model,
        by its manifest.
    """
    root = results_dir().parent if root is None else Path(root)
    folder, done = root / "results", {}
    for path in [root / "README.md", *sorted((root / "nbs").rglob("*.md"))]:
        name = path.relative_to(root).as_posix()
        if tables := fill_markers(path, folder):
            done[name] = tables
        if REGION.search(path.read_text(encoding="utf-8")):
            write_claims(path, folder)
            done[name] = [*done.get(name, []), "claims"]
    if (folder / f"{PRESETS}.json").is_file():
        path = write_presets(read_record(PRESETS, folder), root / FASHION)
        done[path.relative_to(root).as_posix()] = [PRESETS]
    return done
