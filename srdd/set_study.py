"""The study of chapter 14 on colour photographs: both masks, and what a tokenizer loses.

A row of `SETS` says how large all networks of a set are and how long they train. A set
has a judge and a tokenizer of its own, so its numbers compare with each other alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .data import ImageSet, open_images
from .features import train_judge
from .figures import image_grid
from .files import load_tensors, save_tensors
from .ledger import at_once, kind, once, opened
from .metrics import Judge, Reference, features_of, score
from .scales import ScaleSchedule
from .studies import (
    SEEDS,
    STUDY_SAMPLES,
    STUDY_SAMPLING,
    MakeTask,
    Study,
    Variant,
    drawn,
)
from .tokenizer import TokenizerConfig
from .tokenizer_study import TokenizerStudy
from .training import (
    TOKENIZER_TRAINING,
    TrainConfig,
    TransformerTask,
    best_dtype,
)

MARKS, MASKS = 4, ("markov", "causal")
SMALL_MAPS, LARGE_MAPS = (1, 2, 3, 4, 6, 8), (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class SetPlan:
    """How one set is studied.

    Args:
        title: of the set, for people.
        folder: below the root, with one sub-folder of classes per part.
        held: the part that nothing is trained on.
        side: pixels per side; larger files are resized.
        sides: of the token maps; the last is a quarter of `side`.
        judge_steps: of the feature network, 128 images each.
        tokenizer: steps, batch and more of `TrainConfig`, also for the twin
            without codes.
        transformer: fields of `Variant`, but for the mask.
        samples: images that a finished network is measured with.
        vocab: codes of the tokenizer.
        processes: networks that are trained at the same time on a GPU.
        limit: about so many images of each part, evenly spaced; None takes all.
        tier: what the numbers may support.
        base: channels of the tokenizer at full resolution.
        on_cpu: other values of these fields where there is no GPU.
    """

    title: str
    folder: str
    held: str
    side: int
    sides: tuple[int, ...]
    judge_steps: int
    tokenizer: dict[str, Any]
    transformer: dict[str, Any]
    samples: int
    vocab: int = 1024
    processes: int = 7
    limit: int | None = None
    tier: str = "tiny model"
    base: int = 32
    on_cpu: dict[str, Any] = field(default_factory=dict)


ON_CPU = {
    "judge_steps": 300,
    "tokenizer": {"steps": 500, "batch": 32},
    "transformer": {
        "depth": 2, "width": 64, "heads": 2, "lr": 3e-3, "steps": 400, "batch": 16
    },
    "samples": 1000,
    "limit": 5000,
    "base": 16,
}  # fmt: skip
SIZE = {"depth": 4, "width": 192, "heads": 3, "lr": 1.5e-3}
SETS = {
    "cifar10": SetPlan(
        title="CIFAR-10, JPEG copy",
        folder="CIFAR10-jpeg",
        held="test",
        side=32,
        sides=SMALL_MAPS,
        judge_steps=1500,
        tokenizer={"steps": 1500, "batch": 128},
        transformer=SIZE | {"steps": 2000, "batch": 128},
        samples=10_000,
        on_cpu=ON_CPU
        | {
            "transformer": ON_CPU["transformer"] | {"steps": 800, "batch": 32},
            "samples": 1500,
        },
    ),
    "tiny-imagenet": SetPlan(
        title="TinyImageNet-50",
        folder="TinyImageNet50",
        held="val",
        side=64,
        sides=LARGE_MAPS,
        judge_steps=1500,
        tokenizer={"steps": 1500, "batch": 64},
        transformer=SIZE | {"steps": 1800, "batch": 64},
        samples=5_000,
        on_cpu=ON_CPU,
    ),
    "flowers": SetPlan(
        title="Flowers5 at 64 pixels",
        folder="Flowers5-128",
        held="val",
        side=64,
        sides=LARGE_MAPS,
        judge_steps=800,
        tokenizer={"steps": 1000, "batch": 64},
        transformer=SIZE | {"steps": 600, "batch": 64},
        samples=2_000,
        on_cpu=ON_CPU,
    ),
}
BASE = TrainConfig(steps=1, lr=2e-3, ema=0.995, **TOKENIZER_TRAINING)
SHAPE = {
    "image_channels": 3,
    "multipliers": (1, 2, 2),
    "blocks": 1,
    "attention_levels": (),
    "norm_groups": 8,
    "code_width": 16,
}
TRIAL = {"steps": 40, "log_every": 20}
TINY = {"depth": 1, "width": 32, "heads": 1, "batch": 8}


def planned(name: str, device: str) -> SetPlan:
    """The plan of a set on a device; with `$SRDD_FAST` a trial, to see that all runs.

    On a GPU a trial has networks of the full size, so that its steps can be timed.
    """
    plan, small = SETS[name], kind(device) == "cpu"
    if small:
        plan = replace(plan, **plan.on_cpu)
    if not os.environ.get("SRDD_FAST"):
        return plan
    network = plan.transformer | {"training": {"log_every": TRIAL["log_every"]}}
    return replace(
        plan,
        judge_steps=TRIAL["steps"],
        tokenizer=plan.tokenizer | TRIAL | ({"batch": 8} if small else {}),
        transformer=network | {"steps": TRIAL["steps"]} | (TINY if small else {}),
        samples=150 if small else 1000,
        limit=200 if small else 1000,
        tier="toy",
    )


class SetTokenizers(TokenizerStudy):
    """The images of a set, its judge, its tokenizer and the twin without codes.

    Args:
        plan: of the set.
        work: folder of what is kept.
        root: where the set lies.
        device: where all networks are.
    """

    def __init__(
        self, plan: SetPlan, work: Path, root: str | None, device: str
    ) -> None:
        training = replace(BASE, dtype=best_dtype(device), **plan.tokenizer)
        training = replace(training, save_every=training.steps)
        super().__init__(work, root or os.environ.get("SRDD_DATA"), device, training)
        self.plan = plan

    def opened(self, part: str) -> ImageSet:
        """A part of the set, decoded once, with its pixels on the device.

        Raises:
            FileNotFoundError: the set is not below the root.
        """
        from torchvision.datasets import ImageFolder

        plan, path = self.plan, Path(self.work) / f"{part}.safetensors"
        files = ImageFolder(Path(self.root or ".") / plan.folder / part)
        if not path.is_file():
            step = len(files) // (plan.limit or len(files))
            files.samples = files.samples[:: max(1, step)]
            found = open_images(files, side=plan.side, channels=3)
            save_tensors(path, {"images": found.source, "labels": found.labels})
        stored = load_tensors(path)
        made = open_images((stored["images"], stored["labels"]))
        made.name, made.classes = plan.title, tuple(files.classes)
        made.source = made.source.to(self.device)
        return made

    @cached_property
    def train(self) -> ImageSet:
        """The training images."""
        return self.opened("train")

    @cached_property
    def test(self) -> ImageSet:
        """The images that nothing is trained on."""
        return self.opened(self.plan.held)

    @cached_property
    def judge(self) -> Judge:
        """The feature network, trained on the training images."""
        folder = Path(self.work) / "judge"

        def make() -> None:
            trained = train_judge(
                self.train,
                folder.with_name("judge-training"),
                steps=self.plan.judge_steps,
                dtype=best_dtype(self.device),
                device=self.device,
                progress=self.progress,
            )
            trained.save_pretrained(folder, data=self.plan.title)

        once(folder / "manifest.json", make)
        return Judge.from_pretrained(folder, device=self.device)

    @cached_property
    def near(self) -> Reference:
        """The reference on the device, where its many distances are fast."""
        known, device = self.reference, self.device
        return replace(known, real=known.real.to(device), soft=known.soft.to(device))

    def scored(self, images: Any, labels: Tensor) -> dict[str, float]:
        """All measures of images against those that nothing is trained on."""
        features = features_of(self.judge, images).to(self.device)
        return score(self.judge, features, self.near, labels)

    def known_sets(self) -> dict[str, dict[str, float]]:
        """What the held-out images score, blurred too, and as many training images."""
        judge, near, labels = self.judge, self.near, self.test.labels
        some = torch.arange(len(labels)) * len(self.train) // len(labels)
        part = self.train.subset(some.tolist())
        return {
            "held-out images": score(judge, near.real, near, labels),
            "held-out images, blurred": score(judge, near.soft, near, labels),
            "training images": self.scored(part, part.labels),
        }

    def config(self, vocab: int | None) -> TokenizerConfig:
        """The layout of the set, with so many codes."""
        schedule, codes = ScaleSchedule(self.plan.sides), vocab or self.plan.vocab
        return TokenizerConfig(
            **SHAPE, base=self.plan.base, schedule=schedule, vocab=codes
        )


class SetStudy(Study):
    """Both masks on the tokens of a set, mirror images included.

    Args:
        plan: of the set.
        work: folder of what is kept.
        root: where the set lies.
        device: where all networks are.
        task: makes what is trained.
    """

    flips = True

    def __init__(
        self,
        plan: SetPlan,
        work: str | Path,
        root: str | None,
        device: str = "cpu",
        task: MakeTask = TransformerTask,
    ) -> None:
        self.plan = plan
        self.tokenizers = SetTokenizers(plan, Path(work), root, device)
        tokenizer = self.tokenizers.trained(plan.vocab, 0)
        how = {"root": root, "tokenizer": tokenizer, "task": task, "device": device}
        super().__init__(work, **how)

    @property
    def train(self) -> ImageSet:
        """The training images."""
        return self.tokenizers.train

    @property
    def test(self) -> ImageSet:
        """The images that nothing is trained on."""
        return self.tokenizers.test

    @property
    def judge(self) -> Judge:
        """The feature network of the set."""
        return self.tokenizers.judge

    @property
    def reference(self) -> Reference:
        """The held-out images as it sees them, on the device."""
        return self.tokenizers.near

    @property
    def variants(self) -> dict[str, Variant]:
        """The two networks, which differ in their mask alone."""
        asked = self.plan.transformer
        usual = {"dtype": best_dtype(self.device), "ema": BASE.ema}
        shared = asked | {"training": usual | asked.get("training", {})}
        return {mask: Variant(mask=mask, **shared) for mask in MASKS}

    def cross_entropy(self, saved: Path, count: int = 10**6) -> dict[str, float]:
        """As of every study, but on all held-out images: they lie class by class."""
        return super().cross_entropy(saved, count)

    def finish(self, mask: str, seed: int) -> None:
        """Train one network, and measure it and the states on its way."""
        saved = self.run(self.variants[mask], seed, MARKS)
        for state in saved[1:]:
            self.cross_entropy(state)
            self.measure(state, count=min(STUDY_SAMPLES, self.plan.samples))
        self.measure(saved[-1], count=self.plan.samples)

    def pictures(self) -> Path:
        """A grid: held-out images, the tokenizer's, both networks' of those classes."""
        classes = torch.arange(min(10, len(self.test.classes)))
        first = [int((self.test.labels == c).nonzero()[0]) for c in classes]
        real = self.test.batch(first)[0].to(self.device)
        with torch.no_grad():
            rows = [real, self.tokenizer.reconstruct(real)]
        for variant in self.variants.values():
            model = self.saved(self.run(variant, 0, MARKS)[-1])
            made = drawn(
                model, self.tokenizer, classes, sampling=STUDY_SAMPLING, seed=0
            )
            rows += [part.images for part in made]
        path = self.work / "pictures.png"
        image_grid(torch.cat(rows).cpu(), columns=len(classes)).save(path)
        return path


@cache
def study_of(name: str, work: str, root: str | None, device: str) -> SetStudy:
    """The study of a set, once in a process."""
    return SetStudy(planned(name, device), work, root, device)


def finish(
    name: str, work: str, root: str | None, device: str, mask: str | None, seed: int
) -> None:
    """One network of a set; mask None is the tokenizer without codes."""
    with opened():  # in a process of its own it has an account of its own
        study = study_of(name, work, root, device)
        if mask is None:
            study.tokenizers.measured(None, [seed])
        else:
            study.finish(mask, seed)


def finished(name: str, work: str, root: str | None, device: str) -> SetStudy:
    """The study of a set with all that takes long done and kept.

    On a GPU some networks are trained at the same time, each by a process.
    """
    study = study_of(name, work, root, device)
    for images in (study.train, study.test):
        study.tokens(images)
    jobs = [(None, 0), *((mask, seed) for seed in SEEDS for mask in MASKS)]
    jobs = [(name, work, root, device, *job) for job in jobs]
    at_once(finish, jobs, device, study.plan.processes)
    return study
