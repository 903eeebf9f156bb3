"""The studies of chapters 10 and 11 once more, on a set of colour photographs.

The networks are those of `srdd.set_study`. Passes are chosen and judged as in
`srdd.resampling_study`, with fewer settings: tuned settings and plans are screened on a
network whose seed no result uses, and stand against networks of equal cost. Of the lists
nothing is chosen: two shorter ones are tried in three meanings, each beside the full one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from .ledger import at_once, opened
from .resampling_study import CURVES, Passes, Size, rows_of, settings
from .schedule_study import FULL, LISTS, Candidate, Schedules, Setup
from .set_study import SetStudy, planned
from .studies import SEEDS, MakeTask
from .training import TransformerTask

SCREEN_SEED, SEED = 3, 1
SIZE = Size(
    {"steps": 1000, "batch": 128}, 2000, (SCREEN_SEED,), 5000,
    settings(
        ("constant", 1.5), ("constant", 2.0), ("constant", 3.0), ("linear", 3.0),
        truncations={
            "no truncation": {},
            "temperature 0.9": {"temperature": 0.9},
            "top k 256": {"top_k": 256},
        },
    ),
    {
        name: CURVES[name]
        for name in (
            "sequence, 1 pass", "sequence, 4 passes", "halton, 1 pass",
            "halton, 4 passes", "entropy, 1 pass", "confidence, 1 pass",
            "confidence, 4 passes",
        )
    }
    | rows_of({"sequence": (1,), "halton": (4,), "entropy": (1,)}, ", warmer", warmer=0.1),
)  # fmt: skip
SHORTER = ((1, 2, 3, 6, 8), (1, 2, 4, 8))
CANDIDATES = (
    Candidate("retokenise", FULL),
    *(Candidate(meaning, sides) for meaning in LISTS for sides in SHORTER),
)
WAYS = ("guided", "last not guided")
TUNING = {"steps": 300, "batch": 128, "lr": 1e-3}


class OfSet:
    """A study whose networks are the Markovian ones of a set.

    Args:
        name: of the set.
        work: folder of what is kept, that of `srdd.set_study` for it.
        root: where the set lies.
        device: where all networks are.
    """

    def __init__(self, name: str, work: str, root: str | None, device: str) -> None:
        self.plan = planned(name, device)
        super().__init__(work, root, device)

    def study_of(self, task: MakeTask = TransformerTask) -> SetStudy:
        """The study of the set, for one kind of training."""
        return SetStudy(self.plan, *self.place, task=task)

    def less(self, asked: Mapping[str, Any], *names: str) -> dict[str, Any]:
        """Steps, batch, ...: no more of them than the set's own training has."""
        return {key: min(asked[key], self.plan.transformer[key]) for key in names}


class SetPasses(OfSet, Passes):
    """Passes over the scales, see `OfSet`."""

    def __init__(self, *known: Any) -> None:
        super().__init__(*known)
        self.record = f"{known[0]}-passes"
        self.base = self.plain.variants["markov"]
        count = min(SIZE.samples, self.plan.samples)
        self.size = replace(
            SIZE,
            samples=count,
            screen=min(SIZE.screen, count),
            head=self.less(SIZE.head, *SIZE.head),
        )

    def final(self, name: str, seed: int) -> dict[str, float]:
        """The measures of one row of `against_wider` for a training seed."""
        network, sampling = self.against_wider()[name]
        how = {"count": self.size.samples, "seed": SEED}
        return self.measured(network(seed), sampling, **how)


class SetSchedules(OfSet, Schedules):
    """Shorter lists of scales, and guidance that ends early, see `OfSet`."""

    def __init__(self, *known: Any) -> None:
        super().__init__(*known)
        self.base = self.parents.variants["markov"]
        self.tuning = TUNING | self.less(TUNING, "steps", "batch")
        self.samples = min(self.samples, self.plan.samples)

    def of_seed(self, seed: int) -> dict[Setup, dict[str, float]]:
        """The measures of all settings for a training seed."""
        return {
            setup: self.measured(setup, seed, every=True)
            for candidate in CANDIDATES
            for setup in (Setup(candidate, way) for way in WAYS)
        }


passes_of, schedules_of = cache(SetPasses), cache(SetSchedules)
Place = tuple[str, str, str | None, str]


def learn(known: Place, seed: int) -> None:
    """A network and its mask head."""
    with opened():
        passes_of(*known).headed(seed)


def compare(known: Place, name: str, seed: int) -> None:
    """One row of the comparison at equal cost."""
    with opened():
        passes_of(*known).final(name, seed)


def shorten(known: Place, seed: int) -> None:
    """All lists of one training seed."""
    with opened():
        schedules_of(*known).of_seed(seed)


def finished_passes(name: str, work: str, root: str | None, device: str) -> SetPasses:
    """The study of passes with all that takes long done and kept."""
    known = (name, work, root, device)
    made = passes_of(*known)
    for images in (made.plain.train, made.plain.test):
        made.plain.tokens(images)
    _ = made.plain.reference  # with its judge, before the processes ask
    jobs = [(known, seed) for seed in (*SEEDS, SCREEN_SEED)]
    at_once(learn, jobs, device, made.plan.processes)
    rows = [(known, row, seed) for row in made.against_wider() for seed in SEEDS]
    at_once(compare, rows, device, made.plan.processes)
    return made


def finished_schedules(
    name: str, work: str, root: str | None, device: str
) -> SetSchedules:
    """The study of lists with all that takes long done and kept."""
    known = (name, work, root, device)
    made = schedules_of(*known)
    for candidate in CANDIDATES:  # made once, before the processes ask
        study = made.study(candidate)
        study.tokens(study.train)
    jobs = [(known, seed) for seed in SEEDS]
    at_once(shorten, jobs, device, made.plan.processes)
    return made
