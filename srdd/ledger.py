"""What the parts of an experiment took, those that earlier runs had kept too.

`opened` starts the account of a process, `part` and `once` keep a part with its cost in
a file, `at_once` does several at the same time. A part that was kept brings its cost
along, with its commit and its device, so that a run that was stopped and went on says
what its parts took. Only the seconds of a part that was itself stopped on the way are
lost.

In a `Rehearsal` each training makes two steps and each set of samples one batch, and
they are counted as if they made all: what an experiment takes is known before it is run,
or where it cannot be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.flop_counter import flop_registry

from . import training
from .data import digest
from .files import read_json, write_json
from .records import BEGAN, commit_id, device_name, read_record
from .training import Task, TrainConfig


class Operations(TorchDispatchMode):
    """Counts the operations of matrix products, convolutions and attention.

    By PyTorch's own formulas, as its `FlopCounterMode` does, which follows modules
    too and makes a training step of a small network twice as long.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total, self.known = 0.0, True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=made)
        return made


@dataclass(frozen=True)
class Cost:
    """What one part took, without the parts inside of it.

    Args:
        key: drawn when it was measured, so that nothing is counted twice.
        began: seconds since 1970.
        seconds: until it was done; what an attempt took that was stopped is lost.
        flops: counted operations; None if they were not counted.
        commit, device: where.
    """

    key: str
    began: float
    seconds: float
    flops: float | None
    commit: str
    device: str

    @classmethod
    def unknown(cls, path: Path) -> Cost:
        """Of a part that was kept without its cost."""
        return cls(digest(str(path)), 0.0, 0.0, None, "unknown", "unknown")


class Account:
    """What happens between its making and `close`.

    Args:
        counter: of operations, running; None counts none.
        began: seconds since 1970, for the account of a whole process.
    """

    def __init__(self, counter: Operations | None, began: float | None = None) -> None:
        self.counter, self.began = counter, began or time.time()
        self.start = counter.total if counter else 0.0
        self.known: dict[str, Cost] = {}
        self.here: set[str] = set()

    def spent(self) -> tuple[float, float | None]:
        """Seconds and operations of this process so far."""
        counter = self.counter
        told = counter is not None and counter.known
        flops = counter.total - self.start if told else None
        return max(0.0, time.time() - self.began), flops

    def take(self, costs: list[Cost], here: bool = False) -> None:
        """Add the costs of parts; `here` are those that this process measured now."""
        self.known |= {cost.key: cost for cost in costs}
        self.here |= {cost.key for cost in costs} if here else set()

    def close(self) -> list[Cost]:
        """The cost of all of it, without that of the parts inside, and theirs."""
        seconds, flops = self.spent()
        inside = [cost for key, cost in self.known.items() if key in self.here]
        seconds = max(0.0, seconds - sum(cost.seconds for cost in inside))
        if flops is not None:
            flops -= sum(cost.flops or 0.0 for cost in inside)
        own = Cost(
            uuid4().hex, self.began, seconds, flops, commit_id(), device_name()
        )  # fmt: skip
        self.take([own], here=True)
        return list(self.known.values())

    def facts(self) -> dict[str, Any]:
        """What a record says: `wall_seconds`, `flops` and `kept`.

        The seconds of parts that other processes measured while this one waited are
        in its own. Operations are None if those of any part are not known.
        """
        seconds, flops = self.spent()
        kept = [cost for key, cost in self.known.items() if key not in self.here]
        earlier = [cost for cost in kept if cost.began < self.began]
        if flops is not None:
            each = [cost.flops for cost in kept]
            flops = None if None in each else float(flops + sum(each))
        return {
            "wall_seconds": round(seconds + sum(c.seconds for c in earlier), 1),
            "flops": flops,
            "kept": summary(earlier),
        }


def summary(costs: list[Cost]) -> list[dict[str, Any]]:
    """Costs by commit and device, the largest first."""
    groups: dict[tuple[str, str], list[Cost]] = {}
    for cost in costs:
        groups.setdefault((cost.commit, cost.device), []).append(cost)
    found = []
    for (commit, device), each in groups.items():
        flops = [cost.flops for cost in each]
        found.append(
            {
                "commit": commit,
                "device": device,
                "parts": len(each),
                "seconds": round(sum(cost.seconds for cost in each), 1),
                "flops": None if None in flops else sum(flops),
            }
        )
    return sorted(found, key=lambda group: -group["seconds"])


CURRENT: ContextVar[Account | None] = ContextVar("account", default=None)


@contextmanager
def current(account: Account) -> Iterator[Account]:
    """Parts inside are of this account."""
    token = CURRENT.set(account)
    try:
        yield account
    finally:
        CURRENT.reset(token)


@contextmanager
def opened(counted: bool = True) -> Iterator[Account]:
    """The account of a process; inside of another one, that one.

    Args:
        counted: whether operations are.
    """
    if (outer := CURRENT.get()) is not None:
        yield outer
        return
    counter = Operations() if counted else None
    began = time.time() - (time.monotonic() - BEGAN)
    with ExitStack() as stack:
        if counter is not None:
            stack.enter_context(counter)
        yield stack.enter_context(current(Account(counter, began)))


def measured(make: Callable[[], Any]) -> tuple[Any, list[dict[str, Any]]]:
    """What a part gives, and its costs as a file keeps them."""
    outer = CURRENT.get()
    with current(Account(outer.counter if outer else None)) as mine:
        made = make()
    costs = mine.close()
    if outer:
        outer.take([cost for cost in costs if cost.key in mine.here], here=True)
        outer.take(costs)
    return made, [asdict(cost) for cost in costs]


def take_kept(found: list[dict[str, Any]] | None, path: Path) -> None:
    """Add the costs of a part that was kept; None where they were not."""
    if (account := CURRENT.get()) is not None:
        costs = [Cost.unknown(path)] if found is None else [Cost(**c) for c in found]
        account.take(costs)


def part(path: str | Path, measure: Callable[[], dict[str, Any]]) -> Any:
    """What was measured before, or measure it and keep it, with its cost beside it."""
    path = Path(path)
    if not path.is_file():
        values, costs = measured(measure)
        write_json(path, {"values": values, "costs": costs})
        return read_json(path)["values"]
    found = read_json(path)
    old = set(found) != {"values", "costs"}  # of a version that kept no costs
    take_kept(None if old else found["costs"], path)
    return found if old else found["values"]


def once(done: Path, make: Callable[[], Any]) -> None:
    """Make files unless they are there; ``NAME-cost.json`` beside them has their cost.

    Args:
        done: the file that is written last; the folder of a ``manifest.json`` gives
            the name.
        make: writes it.
    """
    kept = done.parent if done.name == "manifest.json" else done.with_suffix("")
    path = kept.with_name(f"{kept.name}-cost.json")
    if not done.is_file():
        write_json(path, measured(make)[1])
    else:
        take_kept(read_json(path) if path.is_file() else None, done)


def at_once(
    run: Callable[..., None],
    jobs: Sequence[tuple[Any, ...]],
    device: str,
    processes: int,
) -> None:
    """Do jobs that keep what they find: side by side on a GPU, else in turn.

    Args:
        run: a function of a module; on a GPU it is called in another process, so it
            opens an account of its own.
        jobs: its arguments.
        device: where the jobs compute.
        processes: at most so many at the same time on a GPU.
    """
    if torch.device(device).type == "cpu" or REHEARSAL.get():
        for job in jobs:
            run(*job)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for each in [pool.submit(run, *job) for job in jobs]:
            each.result()


@dataclass
class Rehearsal:
    """What is left out while it is `running`: steps of trainings, batches of samples.

    Args:
        size: kind of device whose size of an experiment is rehearsed.
        steps, batches: that were not made.
        seconds: that they would have taken, by those that stood for them.
    """

    size: str
    steps: int = 0
    batches: int = 0
    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[Rehearsal]:
        """What is inside is rehearsed."""
        token = REHEARSAL.set(self)
        try:
            yield self
        finally:
            REHEARSAL.reset(token)

    def fit(
        self,
        task: Watched,
        config: TrainConfig,
        out: str | Path,
        on_save: Callable[[int, nn.Module], None] | None = None,
        **options: Any,
    ) -> nn.Module:
        """Two steps of a training, then all its marks as the network then is."""
        few = min(2, config.steps)
        short = replace(config, steps=few, save_every=few)
        made = training.fit(task, short, out, **options)
        every = range(config.save_every, config.steps, config.save_every)
        for step in (*every, config.steps) if on_save else ():
            on_save(step, made)
        self.steps += config.steps - few
        self.seconds += task.seconds * (config.steps - few)
        return made


REHEARSAL: ContextVar[Rehearsal | None] = ContextVar("rehearsal", default=None)


def kind(device: str) -> str:
    """Kind of device an experiment has its size for: where it runs, or is rehearsed."""
    rehearsal = REHEARSAL.get()
    return rehearsal.size if rehearsal else torch.device(device).type


def recalled(name: str) -> dict[str, float]:
    """What the record of a name says, in a rehearsal; else, or without one, nothing.

    What is measured in a rehearsal says nothing, so what an experiment chooses by its
    measures is chosen there as it was when the record was made.
    """
    if REHEARSAL.get() is None:
        return {}
    try:
        values = read_record(name).values
    except FileNotFoundError:
        return {}
    return {key: value["mean"] for key, value in values.items()}


def each(make: Callable[[slice], Any], parts: Iterable[slice]) -> Iterator[Any]:
    """What is made of each part; in a rehearsal the first of a length is that of all."""
    rehearsal, account = REHEARSAL.get(), CURRENT.get()
    known: dict[int, tuple[Any, float, float]] = {}
    for part in parts:
        if not rehearsal or not account or not account.counter:
            yield make(part)
            continue
        counter, length = account.counter, part.stop - part.start
        if length not in known:
            before, began = counter.total, time.monotonic()
            made = make(part)
            known[length] = made, counter.total - before, time.monotonic() - began
        else:
            made, flops, seconds = known[length]
            counter.total += flops
            rehearsal.batches += 1
            rehearsal.seconds += seconds
        yield made


class Watched:
    """A training task whose steps are numbered, and counted all or one for all.

    All that is outside of the steps is counted in full. The one step is the second
    that this process makes, if there are two: before the first a codebook may be
    filled.

    Args:
        task: what is trained.
        counter: is running.
        one_step: count no step after the second.
    """

    def __init__(self, task: Task, counter: Operations, one_step: bool) -> None:
        self.task, self.counter, self.one_step = task, counter, one_step
        self.steps, self.each, self.start = 0, 0.0, 0.0
        self.began, self.seconds = 0.0, 0.0
        self.silent = ExitStack()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def losses(self, batch: Any, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The losses of a step, which is counted or not until `after`."""
        self.silent.close()  # a step that was skipped had no end
        self.steps += 1
        self.start, self.began = self.counter.total, time.monotonic()
        if self.one_step and self.steps > 2:
            self.silent.enter_context(_disable_current_modes())
        return self.task.losses(batch, step)

    def after(self, step: int, optimizers: Any) -> None:
        """The end of a step."""
        self.silent.close()
        if self.steps <= 2 or not self.one_step:
            self.each = self.counter.total - self.start
        self.seconds = time.monotonic() - self.began
        self.task.after(step, optimizers)


def fit(
    task: Task,
    config: TrainConfig,
    out: str | Path,
    *,
    one_step: bool | None = None,
    **options: Any,
) -> nn.Module:
    """`srdd.training.fit`, with its operations in the account, if there is one.

    Args:
        task, config, out, options: of `srdd.training.fit`.
        one_step: count one step for all that this process makes; None does so unless
            the networks are on a CPU. Beside a GPU counting every step takes longer
            than the steps.

    A step that an earlier process made, before it was stopped, counts as the last one
    of this process. If that made none, the operations are not known from here on.
    """
    account = CURRENT.get()
    if account is None or account.counter is None:
        return training.fit(task, config, out, **options)
    if one_step is None:
        weight = next(iter(task.modules.values())).parameters()
        one_step = next(weight).device.type != "cpu"
    watched, rehearsal = Watched(task, account.counter, one_step), REHEARSAL.get()
    run = rehearsal.fit if rehearsal else training.fit
    try:
        made = run(watched, config, out, **options)
    finally:
        watched.silent.close()
    counted = min(watched.steps, 2) if one_step else watched.steps
    account.counter.total += watched.each * (config.steps - counted)
    account.counter.known &= watched.steps > 0
    return made
