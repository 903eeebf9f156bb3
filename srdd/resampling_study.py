"""The study of chapter 10: passes over a scale, against what they have to beat.

One network per training seed is the trunk of everything: a mask head is trained on it
while it stays as it is, so all that differs between two rows is what the passes did.
Settings without passes and plans of passes are chosen in two screens of the same size,
on networks whose seeds no result uses. Against the chosen plans stand the chosen
setting, and networks of another width at equal cost. The shipped model is compared
with its own settings in the same way.

What decides, written before it was measured: passes pay if some set with passes is
ahead of *every* set without passes that costs no more, in rel-FD or in KID, by more
than twice the larger of the two standard deviations over training seeds.

Plans with the law "same" are screened, and shown, but barred from the finals, whatever
they score: they are truncation (chapter 10, section 1), so a victory of theirs would say
nothing about refinement.

Of the shipped model one plan has a control, in a record of its own: as many passes of
the same head, which draws all tokens again and so sees none of them. It costs the same.

How large a comparison is depends on the device: see `Size` and `ShippedSize`; records
say it. On a CPU more plans than settings are tried, on one network or head; of the
shipped model one head serves all seeds of the samples, whose spread it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .data import digest
from .distillation import generation_flops
from .ledger import kind, recalled
from .quantization import Step
from .resampling import (
    MaskHeadTask,
    MaskTask,
    hidden_cross_entropy,
    resample,
    step_back,
)
from .sampling import (
    RESAMPLING_RULES,
    ResamplingPlan,
    SampleConfig,
    image_seeds,
)
from .studies import MakeTask, Study, Variant, batches, drawn, over_seeds
from .tokenizer import Tokenizer
from .training import TransformerTask
from .transformer import ScaleTransformer, TransformerConfig

SCREEN_SEED, SEED = 0, 1
HEAD = {"network": {"mask_blocks": 1}}
SHIPPED = {"depth": 4, "width": 128, "heads": 4, "init": "fashion"}
CHEAP = 1.65
"""A plan is cheap if the transformer needs at most so many times the operations."""

TRUNCATIONS: dict[str, dict[str, Any]] = {
    "no truncation": {},
    "temperature 0.9": {"temperature": 0.9},
    "temperature 0.8": {"temperature": 0.8},
    "temperature 0.7": {"temperature": 0.7},
    "top p 0.95": {"top_p": 0.95},
    "top p 0.9": {"top_p": 0.9},
    "top k 128": {"top_k": 128},
    "top k 32": {"top_k": 32},
}


def settings(
    *guidances: tuple[str, float], truncations: Mapping[str, Any] = TRUNCATIONS
) -> dict[str, SampleConfig]:
    """Each rule and weight of guidance with each truncation."""
    return {
        f"{rule} {weight:g}, {name}": SampleConfig(weight, rule, **how)
        for rule, weight in guidances
        for name, how in truncations.items()
    }


SETTINGS = settings(
    ("constant", 2.0),
    ("constant", 2.5),
    ("constant", 3.0),
    ("constant", 4.0),
    ("linear", 4.0),
    ("linear", 6.0),
)
SHIPPED_SETTINGS = settings(
    ("constant", 1.5),
    ("constant", 1.75),
    ("constant", 2.0),
    ("linear", 2.5),
    ("linear", 3.0),
    ("linear", 4.0),
)
FINE, COARSE = (1, 2, 3, 4, 5), (1, 2, 3)
"""Scales with passes: all but the first, whose one token sees no other; the coarse."""


@dataclass(frozen=True)
class Plan:
    """Passes, and what they change of a tuned setting.

    Args:
        passes: the plan.
        warmer: added to the temperature of the passes.
        second: whether the first draw has the other one of the two tuned settings.
    """

    passes: ResamplingPlan
    warmer: float = 0.0
    second: bool = False


def rows_of(
    counts: dict[str, tuple[int, ...]],
    tail: str = "",
    scales: tuple[int, ...] = FINE,
    law: str = "head",
    **how: Any,
) -> dict[str, Plan]:
    """Plans of some rules, each with some numbers of passes."""
    return {
        f"{rule}, {n} pass{'es' * (n > 1)}{tail}": Plan(
            ResamplingPlan(
                scales, n, rule, 0.05 if rule == "threshold" else None, law=law
            ),
            **how,
        )
        for rule, each in counts.items()
        for n in each
    }


CURVES = rows_of(dict.fromkeys(RESAMPLING_RULES, (1, 2, 4, 8)))
"""Every rule with some numbers of passes."""
PLANS = (
    CURVES
    | rows_of(
        {
            "sequence": (1, 2, 8),
            "halton": (1, 8),
            "entropy": (1, 2),
            "confidence": (1,),
            "random": (8,),
            "threshold": (1,),
        },
        ", warmer",
        warmer=0.1,
    )
    | rows_of(
        {
            "sequence": (1, 8),
            "halton": (8,),
            "entropy": (1,),
            "confidence": (1,),
            "random": (8,),
        },
        ", second draft",
        second=True,
    )
    | rows_of({"sequence": (4, 8), "halton": (8,), "entropy": (1,)}, ", coarse", COARSE)
    | rows_of({"sequence": (1, 2)}, ", law of the map", law="map")
    | rows_of({"threshold": (1, 8)}, ", same law", law="same")
)
"""As many as there are settings without passes."""

SHOWN = (0.0, 0.25, 0.5, 0.75, 0.9)
MARKS = (0, 1, 4, 16)
GATES: dict[str, ResamplingPlan] = {
    f"{rule}, {text}": ResamplingPlan((FINE[-1],), MARKS[-1], rule, share)
    for rule, text, share in (
        ("random", "one token", 1 / 64),
        ("random", "a quarter", 0.25),
        ("random", "half", 0.5),
        ("random", "all", 1.0),
        ("entropy", "a quarter", 0.25),
        ("confidence", "a quarter", 0.25),
    )
}
"""Passes of one size over the last scale, many times."""


@dataclass(frozen=True)
class Size:
    """How much of a comparison a device can afford.

    Args:
        head: how a mask head is trained.
        screen: images of a screened set.
        screen_seeds: of the networks, or of the heads, that are screened.
        samples: images of a compared set.
        settings: what is screened without passes.
        plans: what is screened with passes.
        curves: plans that are compared over seeds, besides the finalists.
    """

    head: Mapping[str, Any]
    screen: int
    screen_seeds: tuple[int, ...]
    samples: int
    settings: Mapping[str, SampleConfig]
    plans: Mapping[str, Plan]
    curves: tuple[str, ...] = ()

    def values(self) -> dict[str, int]:
        """What a record says of the size."""
        return {
            "steps of a head": self.head["steps"],
            "images of a step": self.head["batch"],
            "settings": len(self.settings),
            "plans": len(self.plans),
            "images of a screened set": self.screen,
            "images of a compared set": self.samples,
        }


@dataclass(frozen=True)
class ShippedSize(Size):
    """The same of the shipped model, whose network is one.

    Args:
        heads: seeds of the mask heads, one for each sampling seed.
        chain: images of a chain of passes.
        gates: chains of passes, of `GATES`.
    """

    heads: tuple[int, ...] = (0, 1, 2)
    chain: int = 2500
    gates: tuple[str, ...] = tuple(GATES)

    @property
    def seeds(self) -> list[tuple[int, int]]:
        """Seed of the head and seed of the samples, pair by pair."""
        return [(head, SEED + i) for i, head in enumerate(self.heads)]

    def values(self) -> dict[str, int]:
        """What a record says of the size."""
        more = {"heads": len(set(self.heads)), "images of a chain": self.chain}
        return super().values() | more


SIZES = {
    "cpu": Size(
        {"steps": 1000, "batch": 32}, 1500, (3,), 2500,
        settings(
            ("constant", 2.5), ("constant", 3.0), ("constant", 4.0), ("linear", 6.0),
            truncations={
                "no truncation": {},
                "temperature 0.9": {"temperature": 0.9},
                "temperature 0.8": {"temperature": 0.8},
                "top p 0.9": {"top_p": 0.9},
                "top k 64": {"top_k": 64},
            },
        ),
        rows_of(dict.fromkeys(RESAMPLING_RULES, (1, 4)))
        | rows_of({"sequence": (1, 8), "entropy": (1,)}, ", warmer", warmer=0.1)
        | rows_of({"sequence": (8,)}, ", second draft", second=True)
        | rows_of({"sequence": (4,)}, ", coarse", COARSE)
        | rows_of({"sequence": (1, 2)}, ", law of the map", law="map")
        | rows_of({"threshold": (8,)}, ", same law", law="same"),
    ),
    "cuda": Size(
        {"steps": 1000, "batch": 128}, 2000, (3, 4), 5000, SETTINGS, PLANS,
        tuple(CURVES),
    ),
}  # fmt: skip
SHIPPED_SIZES = {
    "cpu": ShippedSize(
        {"steps": 800, "batch": 64, "lr": 2e-3}, 1500, (0,), 1500,
        settings(
            ("linear", 2.5), ("linear", 3.0), ("linear", 4.0),
            truncations={
                "no truncation": {},
                "temperature 0.95": {"temperature": 0.95},
                "top k 64": {"top_k": 64},
            },
        ),
        rows_of({"sequence": (1, 2, 4, 8), "entropy": (1, 2, 4)})
        | rows_of({"sequence": (1,), "entropy": (1,)}, ", warmer", warmer=0.1)
        | rows_of({"sequence": (1, 2)}, ", law of the map", law="map")
        | rows_of({"threshold": (1, 8)}, ", same law", law="same"),
        heads=(0, 0, 0), chain=1000, gates=("random, half", "confidence, a quarter"),
    ),
    "cuda": ShippedSize(
        {"steps": 2000, "batch": 128, "lr": 2e-3}, 2000, (3,), 5000,
        SHIPPED_SETTINGS, PLANS, tuple(CURVES),
    ),
}  # fmt: skip
DEFAULT = "linear 3, no truncation"
"""The shipped model's own settings; both of its sizes screen them."""
SEEING = "sequence, 1 pass"
"""A plan as warm as its draft. Its control is as dear, sees nothing, and draws all."""
BLIND = "all again, nothing in sight"
"""The control: a pass of the same head that draws all tokens again."""
Runs = list[dict[str, float]]


class Screen:
    """The settings without passes, then the plans on top of the best ones.

    Args:
        settings: what is tried without passes.
        measure: gives the measures of some networks, each of them sampled so.
        tried: the plans.
        record: what a rehearsal chooses by, see `srdd.ledger.recalled`.
    """

    def __init__(
        self,
        settings: Mapping[str, SampleConfig],
        measure: Callable[[SampleConfig], Runs],
        tried: Mapping[str, Plan] = PLANS,
        record: str = "resampling",
    ) -> None:
        self.settings, self.measure = dict(settings), cache(measure)
        self.tried, self.known = tried, recalled(record)

    def best(self, tried: Mapping[str, SampleConfig]) -> list[str]:
        """Names of settings or plans by their mean rel-FD over the networks."""

        def level(name: str) -> float:
            found = [run["rel_fd"] for run in self.measure(tried[name])]
            mean = sum(found) / len(found)
            return self.known.get(f"screen, {name}/rel_fd", mean)

        return sorted(tried, key=level)

    @cached_property
    def drafts(self) -> tuple[SampleConfig, SampleConfig]:
        """The best setting, and the best that truncates if the first does not.

        Or the best that does not, if it does.
        """
        found = [self.settings[name] for name in self.best(self.settings)]
        other = next(s for s in found if truncates(s) != truncates(found[0]))
        return found[0], other

    @property
    def tuned(self) -> SampleConfig:
        """The best setting without passes."""
        return self.drafts[0]

    def planned(self, plan: Plan) -> SampleConfig:
        """A tuned setting with the passes of a plan."""
        draft, passes = self.drafts[plan.second], plan.passes
        if plan.warmer:
            passes = replace(passes, temperature=draft.temperature + plan.warmer)
        return replace(draft, resampling=passes)

    @cached_property
    def plans(self) -> dict[str, SampleConfig]:
        """All plans, as they are sampled."""
        return {name: self.planned(plan) for name, plan in self.tried.items()}

    @cached_property
    def finalists(self) -> tuple[str, str]:
        """The best of the cheap plans, and the best of the others.

        If none is cheap, the cheapest ones are in its place.
        Plans with the same law again only truncate: they are tried and shown, and
        never chosen, even if they have the lowest rel-FD.
        """

        def cost(sampling: SampleConfig) -> float:
            return self.measure(sampling)[0]["transformer_flops"]

        plans = {n: s for n, s in self.plans.items() if s.resampling.law != "same"}
        limit = max(CHEAP * cost(self.tuned), min(map(cost, plans.values())))
        found = self.best(plans)
        cheap = [name for name in found if cost(plans[name]) <= limit]
        dear = [name for name in found if name not in cheap]
        return cheap[0], dear[0]

    def values(self) -> dict[str, dict[str, Any]]:
        """Values of a record: all that was tried."""
        found: dict[str, dict[str, Any]] = {}
        for name, sampling in (self.settings | self.plans).items():
            runs = [
                {key: run[key] for key in ("rel_fd", "kid_1000", "transformer_flops")}
                for run in self.measure(sampling)
            ]
            found |= over_seeds(f"screen, {name}", runs)
        return found


def unseeing(sampling: SampleConfig) -> SampleConfig:
    """The control of a plan: as many passes, each of which draws all tokens again.

    The head then sees no token of the scale, at the same cost.
    """
    return replace(sampling, resampling=replace(sampling.resampling, share=1.0))


def truncates(sampling: SampleConfig) -> bool:
    """Whether a setting draws from another law than the guided one."""
    return (sampling.top_k, sampling.top_p, sampling.temperature) != (0, 1.0, 1.0)


Network = Callable[[int], Path]
"""The model folder of a seed."""


class Passes:
    """All networks and measures of one work folder.

    Args:
        work: folder of what is kept.
        root: where Fashion-MNIST lies.
        device: where the networks are.
    """

    base = Variant()
    """The network of every comparison; the study size."""

    record, shipped_record = "resampling", "fashion-resampling"
    """Of these experiments."""

    def __init__(self, work: str, root: str | None, device: str = "cpu") -> None:
        self.place = work, root, device
        self.plain, self.heads, self.both = map(
            self.study_of, (TransformerTask, MaskHeadTask, MaskTask)
        )
        size = kind(device)
        self.size, self.shipped_size = SIZES[size], SHIPPED_SIZES[size]

    def study_of(self, task: MakeTask) -> Study:
        """The study of Fashion-MNIST, for one kind of training."""
        work, root, device = self.place
        return Study(work, root=root, task=task, device=device)

    def trunk(self, seed: int, **size: Any) -> Path:
        """A network without passes; by default the study size."""
        return self.plain.run(replace(self.base, **size), seed)[-1]

    def headed(self, seed: int, **size: Any) -> Path:
        """The trunk of a seed with a mask head that was trained on it, alone."""
        start = str(self.trunk(seed, **size))
        changes = size | {"init": start} | HEAD | dict(self.size.head)
        variant = replace(self.base, **changes)
        return self.heads.run(variant, seed, marks=1)[-1]

    def joint(self, seed: int) -> Path:
        """A network and a mask head that were trained together."""
        variant = replace(self.base, **HEAD, **self.size.head)
        return self.both.run(variant, seed, marks=1)[-1]

    def shipped(self, seed: int, blocks: int = 1) -> Path:
        """The shipped network with a mask head that was trained on it, alone."""
        network = {"mask_blocks": blocks}
        variant = Variant(**SHIPPED, **self.shipped_size.head, network=network)
        return self.heads.run(variant, seed, marks=1)[-1]

    def measured(
        self, saved: Path, sampling: SampleConfig, **how: Any
    ) -> dict[str, float]:
        """Quality of samples, and the operations of one image."""
        quality = self.plain.measure(saved, sampling=sampling, **how)
        return quality | self.cost(self.config(saved), sampling)

    def config(self, saved: str | Path) -> TransformerConfig:
        """The config of a saved network."""
        return ScaleTransformer.from_pretrained(saved).config

    def cost(
        self, config: TransformerConfig, sampling: SampleConfig
    ) -> dict[str, float]:
        """Operations of one image, decoder included, and of the transformer.

        A mask head that no pass asks costs nothing.
        """
        plan = sampling.resampling
        if plan is None or plan.law != "head":
            config = replace(config, mask_blocks=0)
        made = generation_flops(config, self.plain.tokenizer.config, sampling)
        return {"flops": made.total, "transformer_flops": made.transformer.total}

    @cached_property
    def screen(self) -> Screen:
        """The screens at study size; first draws do not depend on the head."""

        def measure(sampling: SampleConfig) -> Runs:
            how = {"count": self.size.screen, "seed": SCREEN_SEED}
            saved = map(self.headed, self.size.screen_seeds)
            return [self.measured(folder, sampling, **how) for folder in saved]

        return Screen(self.size.settings, measure, self.size.plans, self.record)

    @cached_property
    def shipped_screen(self) -> Screen:
        """The screens of the shipped model.

        With a head that no result uses, if there are several; the samples are
        others than those of the results in any case.
        """
        size = self.shipped_size

        def measure(sampling: SampleConfig) -> Runs:
            how = {"count": size.screen, "seed": SCREEN_SEED}
            saved = map(self.shipped, size.screen_seeds)
            return [self.measured(folder, sampling, **how) for folder in saved]

        return Screen(size.settings, measure, size.plans, self.shipped_record)

    def equal_width(self, sampling: SampleConfig, flops: float, blocks: int = 0) -> int:
        """Width of the widest study-size network that costs no more."""
        width, step = 0, self.base.heads
        while self.transformer_flops(sampling, blocks, width + step) <= flops:
            width += step
        return width

    def transformer_flops(
        self, sampling: SampleConfig, blocks: int, width: int | None = None
    ) -> float:
        """Operations of the transformer for one image, of another width if given."""
        changes = {"width": width or self.base.width}
        variant = replace(self.base, **changes, network={"mask_blocks": blocks})
        config = variant.config(self.plain.tokenizer, len(self.plain.test.classes))
        return self.cost(config, sampling)["transformer_flops"]

    def against_wider(self) -> dict[str, tuple[Network, SampleConfig]]:
        """The tuned setting, two plans, and wider networks that cost as much."""
        screen, own = self.screen, self.base.width
        found: dict[str, tuple[Network, SampleConfig]] = {
            f"width {own}, no passes": (self.trunk, screen.tuned)
        }
        for name in screen.finalists:
            sampling = screen.plans[name]
            flops = self.transformer_flops(sampling, blocks=1)
            wide = self.equal_width(screen.tuned, flops)
            network = partial(self.trunk, width=wide)
            found[f"width {own}, {name}"] = (self.headed, sampling)
            found[f"width {wide}, no passes"] = (network, screen.tuned)
        return found

    def finals(self) -> dict[str, tuple[Network, SampleConfig]]:
        """What is compared over training seeds: networks, and how they are sampled.

        The tuned setting and two plans; wider networks that cost as much as a plan,
        a narrower one that with the cheap plan costs as much as the tuned setting;
        network and head trained together.
        """
        screen, found = self.screen, self.against_wider()
        name = screen.finalists[0]
        cheap = name, screen.plans[name]
        flops = self.transformer_flops(screen.tuned, blocks=0)
        narrow = self.equal_width(cheap[1], flops, blocks=1)
        network = partial(self.headed, width=narrow)
        found[f"width {narrow}, {cheap[0]}"] = (network, cheap[1])
        found["trained together, no passes"] = (self.joint, screen.tuned)
        found[f"trained together, {cheap[0]}"] = (self.joint, cheap[1])
        return found

    def knowledge(self, saved: Path, count: int) -> dict[str, float]:
        """Cross-entropy of hidden test tokens by the part of a scale in sight.

        And their mean if they are drawn one by one in a random order.
        """

        def measured() -> dict[str, float]:
            every = self.plain.tokens(self.plain.test)
            some = replace(
                every, tokens=every.tokens[:count], labels=every.labels[:count]
            )
            model, found = self.plain.saved(saved), {}
            counts = torch.tensor(self.plain.tokenizer.schedule.counts)
            names = {f"{shown:.0%} in sight": shown for shown in SHOWN}
            for name, shown in (names | {"one by one": None}).items():
                each = hidden_cross_entropy(model, self.plain.tokenizer, some, shown)
                mean = ((each * counts).sum() / counts.sum()).item()
                found[f"{name}, nats per token"] = mean
                found[f"{name}, last scale, nats per token"] = each[-1].item()
            return found

        return self.plain.kept(saved / f"knowledge-{count}.json", measured) | {
            "first draw, nats per token": self.plain.cross_entropy(saved, count)["mean"]
        }

    def back(
        self, saved: Path, sampling: SampleConfig, seed: int, to: Sequence[int] = FINE
    ) -> dict[int, dict[str, float]]:
        """Quality after a step back to each of some scales.

        Returns:
            For each scale the measures of the images, and the operations of one.
        """
        count = self.shipped_size.samples

        def measured() -> dict[str, Any]:
            model, labels = self.plain.saved(saved), self.labels(count)
            known = (model, self.plain.tokenizer, labels)
            parts = list(returned(*known, sampling=sampling, to=to, seed=seed))
            return {
                str(k): self.plain.judged(iter(images), labels)
                for k, images in zip(to, zip(*parts, strict=True), strict=True)
            }

        config, found = self.config(saved), {}
        name = digest(repr((sampling, count, tuple(to), seed)))[:12]
        kept = self.plain.kept(saved / f"back-{name}.json", measured)
        for k in to:
            found[k] = kept[str(k)] | self.cost(config, replace(sampling, back_to=k))
        return found

    def chain(self, saved: Path, gate: str, seed: int) -> dict[int, dict[str, float]]:
        """Quality after some of many passes over the last scale, not guided.

        Returns:
            For each of `MARKS` the measures of the images, and the entropy in nats
            of the codes of the last scale, over all places and images.
        """
        count = self.shipped_size.chain

        def measured() -> dict[str, Any]:
            model, labels = self.plain.saved(saved), self.labels(count)
            known = (model, self.plain.tokenizer, labels)
            states = zip(*chained(*known, GATES[gate], seed), strict=True)
            found = {}
            for mark, parts in zip(MARKS, states, strict=True):
                images, tokens = zip(*parts, strict=True)
                entropy = code_entropy(torch.cat(tokens))
                scores = self.plain.judged(iter(images), labels)
                found[str(mark)] = scores | {"code_entropy": entropy}
            return found

        name = digest(gate, str(count), str(seed))[:12]
        found = self.plain.kept(saved / f"chain-{name}.json", measured)
        return {int(mark): measures for mark, measures in found.items()}

    def labels(self, count: int) -> Tensor:
        """Balanced class ids, ``(count,)``."""
        return torch.arange(count) % len(self.plain.test.classes)


def code_entropy(tokens: Tensor) -> float:
    """Entropy of the codes over all places and images, nats."""
    share = tokens.flatten().bincount().double() / tokens.numel()
    return torch.special.entr(share).sum().item()


def returned(
    model: ScaleTransformer,
    tokenizer: Tokenizer,
    labels: Tensor,
    *,
    sampling: SampleConfig,
    to: Sequence[int],
    seed: int,
) -> Iterator[list[Tensor]]:
    """Samples in batches after one step back to each of the scales `to`.

    Yields:
        For each batch one tensor of images for each scale, on the CPU.
    """
    seeds, at = image_seeds(seed, len(labels)), 0
    for first in drawn(model, tokenizer, labels, sampling=sampling, seed=seed):
        own = slice(at, at := at + len(first.images))
        known = (model, tokenizer, first.tokens, labels[own])
        how = {"config": sampling, "seeds": seeds[own]}
        yield [step_back(*known, to=k, **how).images.cpu() for k in to]


def chained(
    model: ScaleTransformer,
    tokenizer: Tokenizer,
    labels: Tensor,
    plan: ResamplingPlan,
    seed: int,
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Images and last tokens after some of many passes over the last scale.

    Yields:
        For each batch one pair for each of `MARKS`, on the CPU.
    """
    seeds, last = image_seeds(seed, len(labels)), len(tokenizer.schedule) - 1
    config = SampleConfig(resampling=plan)
    for own in batches(model, len(labels)):
        steps: list[Step] = []

        def note(step: Step, steps: list[Step] = steps) -> None:
            if step.k == last:
                steps.append(step)

        known = (model, tokenizer, labels[own])
        resample(*known, config=config, seeds=seeds[own], callback=note)
        with torch.no_grad():
            yield [
                (tokenizer.decode_map(steps[m].f_hat).cpu(), steps[m].tokens.cpu())
                for m in MARKS
            ]
