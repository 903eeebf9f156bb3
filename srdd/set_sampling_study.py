"""The studies of chapters 10 and 11 once more, on a set of colour photographs.

The networks are those of `srdd.set_study`. Passes are chosen and judged as in
`srdd.resampling_study`, with fewer settings: tuned settings and plans are screened on a
network whose seed no result uses, and stand against networks of equal cost. Of the lists
nothing is chosen: two shorter ones are tried in three meanings, each beside the full one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from typing import Any

import torch

from .ledger import opened
from .resampling import MaskHeadTask
from .resampling_study import CURVES, Passes, Size, rows_of, settings
from .schedule_study import FULL, LISTS, Candidate, Schedules, Setup
from .set_study import SetStudy, planned
from .studies import SEEDS

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


class SetPasses(Passes):
    """Passes over the scales of the Markovian networks of a set.

    Args:
        name: of the set.
        work: folder of what is kept, that of `srdd.set_study` for it.
        root: where the set lies.
        device: where all networks are.
    """

    def __init__(self, name: str, work: str, root: str | None, device: str) -> None:
        plan = planned(name, device)
        self.plain = SetStudy(plan, work, root, device)
        self.heads = SetStudy(plan, work, root, device, task=MaskHeadTask)
        self.base = self.plain.variants["markov"]
        count = min(SIZE.samples, plan.samples)
        asked = {key: min(SIZE.head[key], plan.transformer[key]) for key in SIZE.head}
        screen = min(SIZE.screen, count)
        self.size = replace(SIZE, samples=count, screen=screen, head=asked)

    def final(self, name: str, seed: int) -> dict[str, float]:
        """The measures of one row of `against_wider` for a training seed."""
        network, sampling = self.against_wider()[name]
        how = {"count": self.size.samples, "seed": SEED}
        return self.measured(network(seed), sampling, **how)


class SetSchedules(Schedules):
    """Shorter lists of scales, and guidance that ends early, for a set.

    Args:
        name: of the set.
        work: folder of what is kept, that of `srdd.set_study` for it.
        root: where the set lies.
        device: where all networks are.
    """

    def __init__(self, name: str, work: str, root: str | None, device: str) -> None:
        plan = planned(name, device)
        super().__init__(work, root, device)
        self.parents = SetStudy(plan, work, root, device)
        self.base = self.parents.variants["markov"]
        less = {
            key: min(TUNING[key], plan.transformer[key]) for key in ("steps", "batch")
        }
        self.tuning = TUNING | less
        self.samples, self.tier = min(self.samples, plan.samples), plan.tier

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


def at_once(
    known: Place, run: Callable[..., None], jobs: Iterable[tuple[Any, ...]]
) -> None:
    """Run jobs whose results are kept; on a GPU several at the same time."""
    name, *_, device = known
    if torch.device(device).type == "cpu":
        for job in jobs:
            run(known, *job)
        return
    processes = planned(name, device).processes
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for each in [pool.submit(run, known, *job) for job in jobs]:
            each.result()


def finished_passes(name: str, work: str, root: str | None, device: str) -> SetPasses:
    """The study of passes with all that takes long done and kept."""
    known = (name, work, root, device)
    made = passes_of(*known)
    for images in (made.plain.train, made.plain.test):
        made.plain.tokens(images)
    _ = made.plain.reference  # with its judge, before the processes ask
    at_once(known, learn, [(seed,) for seed in (*SEEDS, SCREEN_SEED)])
    rows = made.against_wider()
    at_once(known, compare, [(row, seed) for row in rows for seed in SEEDS])
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
    at_once(known, shorten, [(seed,) for seed in SEEDS])
    return made
