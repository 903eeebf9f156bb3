"""The study of chapter 11: shorter schedules in three meanings, and what they cost.

Every candidate starts from the same trained network of its seed, is trained for the
same number of steps on its own tokens, and is measured with and without guidance at
the fine scales.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from .data import ImageSet, open_images, permutation
from .distillation import (
    DecoderTask,
    PaintedMaps,
    StateTask,
    distil,
    generation_flops,
    groups_of,
    image_maps,
    shortened_transformer,
    slimmed,
    state_table,
    with_schedule,
)
from .metrics import (
    FeatureMoments,
    accuracy,
    features_of,
    frechet_distance,
    in_batches,
    relative_fd,
)
from .sampling import SampleConfig, image_seeds, sample
from .studies import Study, Variant, drawn, encoding_digest
from .tokenizer import Tokenizer, psnr
from .training import TrainConfig, TransformerTask, fit
from .transformer import ScaleTransformer

FULL = (1, 2, 3, 4, 6, 8)
LISTS = (
    FULL,
    (1, 2, 4, 6, 8),
    (1, 3, 6, 8),
    (1, 3, 5, 8),
    (1, 2, 3, 4, 8),
    (1, 2, 4, 8),
    (1, 4, 8),
    (1, 8),
)
MERGED = (*(sides for sides in LISTS[1:] if 5 not in sides), (1, 3, 4, 8), (8,))
STUDENTS = ((1, 2, 4, 6, 8), (1, 3, 6, 8), (1, 2, 4, 8))
TUNING = {"steps": 80, "batch": 32, "lr": 1e-3}
SLIM_BASES, SLIM_MAPS, SLIM_SEED = (12, 10), 6000, 1000
SLIM = TrainConfig(
    steps=3000,
    batch=32,
    lr=4e-3,
    weight_decay=0.01,
    betas=(0.9, 0.99),
    clip=1.0,
    ema=0.99,
)
IMAGES, SCREEN, SAMPLES = 4000, 500, 1000
GUIDED = SampleConfig(guidance=2.0, guidance_rule="linear")


def unguided_end(sides: Sequence[int]) -> SampleConfig:
    """The same weight at all scales but the last, which runs without guidance."""
    stop = 1 - 0.5 / max(1, len(sides) - 1)
    return SampleConfig(2.0, "interval", interval=(0.0, stop))


def named(sides: Sequence[int]) -> str:
    """A list of sides as it stands in a record: ``1-3-6-8``."""
    return "-".join(map(str, sides))


@dataclass(frozen=True)
class Candidate:
    """One way to shorten a schedule."""

    meaning: str
    sides: tuple[int, ...]

    @property
    def name(self) -> str:
        """Its key in the record."""
        return f"{self.meaning} {named(self.sides)}"


CANDIDATES = tuple(
    Candidate(meaning, sides)
    for meaning, lists in (
        ("retokenise", LISTS),
        ("merge", MERGED),
        ("student", STUDENTS),
    )
    for sides in lists
)


def slim_name(base: int) -> str:
    """Folder of a narrow decoder."""
    return f"slim-{base}-drawn"


def ways(candidate: Candidate) -> dict[str, tuple[SampleConfig, int | None]]:
    """How a finalist is sampled, and the width of its decoder if it is a slim one."""
    every = FULL if candidate.meaning == "merge" else candidate.sides
    end = unguided_end(every)
    slim = {f"all levers, decoder {base}": (end, base) for base in SLIM_BASES}
    return {"guided": (GUIDED, None), "end not guided": (end, None)} | slim


class ScheduleStudy(Study):
    """A study on the tokens of a candidate, from part of the training images."""

    def __init__(
        self,
        candidate: Candidate,
        work: str,
        root: str | None,
        task: Any = None,
        device: str = "cpu",
    ) -> None:
        teacher = Tokenizer.from_pretrained("fashion", device=device)
        made = distil(teacher, candidate.sides, candidate.meaning)
        super().__init__(
            work,
            root=root,
            tokenizer=made.tokenizer,
            task=task or TransformerTask,
            device=device,
        )
        self.made, self.mark = made, encoding_digest(made)
        self.encode = made.encode

    @cached_property
    def train(self) -> ImageSet:
        """A random part of the training images, the same for all candidates."""
        images = open_images("fashion", root=self.root)
        return images.subset(permutation(len(images), 0, 0)[:IMAGES].tolist())

    def quality(
        self, model: ScaleTransformer, sampling: SampleConfig, count: int, seed: int
    ) -> dict[str, float]:
        """rel-FD and accuracy alone: what a screen of many candidates can afford."""
        labels = torch.arange(count) % model.config.classes
        made = drawn(model, self.tokenizer, labels, sampling=sampling, seed=seed)
        features = features_of(self.judge, (part.images for part in made))
        return self.scores(features) | {
            "accuracy": accuracy(self.judge.classify(features.to(self.device)), labels)
        }

    def scores(self, features: torch.Tensor) -> dict[str, float]:
        """FD of features to those of the test images, raw and relative."""
        real = FeatureMoments.of(self.reference.real)
        distance = frechet_distance(FeatureMoments.of(features), real)
        relative = relative_fd(distance, self.reference.unit)
        return {"images": len(features), "rel_fd": relative, "fd": distance}


class Schedules:
    """All candidates of one work folder.

    Args:
        work: folder of what is kept.
        root: where Fashion-MNIST lies.
        device: where the networks are.
    """

    def __init__(self, work: str, root: str | None, device: str = "cpu") -> None:
        self.work, self.root, self.device = work, root, device
        self.parents = Study(work, root=root, device=device)

    def study(self, candidate: Candidate, task: Any = None) -> ScheduleStudy:
        """The study of a candidate; the judge is loaded once."""
        study = ScheduleStudy(candidate, self.work, self.root, task, self.device)
        study.judge, study.reference = self.parents.judge, self.parents.reference
        return study

    def parent(self, seed: int, sides: tuple[int, ...]) -> str:
        """The study-size network of a seed, cut to some sides, as a folder."""
        whole = self.parents.run(Variant(), seed)[-1]
        if sides == FULL:
            return str(whole)
        schedule = distil(self.parents.tokenizer, sides).tokenizer.schedule
        folder = whole.with_name(f"cut-{named(sides)}")
        if not (folder / "manifest.json").is_file():
            model = ScaleTransformer.from_pretrained(whole)
            shortened_transformer(model, schedule).save_pretrained(folder)
        return str(folder)

    def trained(self, candidate: Candidate, seed: int) -> tuple[ScheduleStudy, Path]:
        """A candidate's network, trained from its parent."""
        study = self.study(candidate)
        sides = FULL if candidate.meaning == "merge" else candidate.sides
        groups = study.made.groups
        network = {} if groups is None else {"groups": groups}
        start = self.parent(seed, sides)
        variant = Variant(init=start, network=network, **TUNING)
        return study, study.run(variant, seed, marks=1)[-1]

    def screened(self, candidate: Candidate) -> tuple[ScheduleStudy, Path]:
        """A candidate's network of the screen, with one training seed.

        All groupings share one network that was trained for all of them.
        """
        if candidate.meaning != "merge":
            return self.trained(candidate, 0)
        study, saved = self.every_grouping(0)
        return study, self.grouped(saved, candidate.sides)

    def every_grouping(self, seed: int) -> tuple[ScheduleStudy, Path]:
        """The network that was trained for all groupings at once."""
        study = self.study(Candidate("merge", FULL), StateTask)
        variant = Variant(init=self.parent(seed, FULL), **TUNING | {"steps": 120})
        return study, study.run(variant, seed, marks=1)[-1]

    def grouped(self, saved: Path, sides: tuple[int, ...]) -> Path:
        """A copy of a saved network that samples in groups."""
        folder = saved.with_name(f"passes-{named(sides)}")
        if not (folder / "manifest.json").is_file():
            model = ScaleTransformer.from_pretrained(saved)
            groups = groups_of(model.config.schedule, sides)
            model.config = replace(model.config, groups=groups)
            model.save_pretrained(folder)
        return folder

    def table(self, seed: int, count: int = 500) -> torch.Tensor:
        """Cross-entropies of the criterion on test images, nats per image."""
        study, saved = self.every_grouping(seed)

        def measured() -> dict[str, Any]:
            tokens = study.tokens(study.test)
            some = replace(
                tokens, tokens=tokens.tokens[:count], labels=tokens.labels[:count]
            )
            model = study.saved(saved)
            return {"table": state_table(model, study.tokenizer, some).tolist()}

        found = study.kept(saved / f"states-{count}.json", measured)["table"]
        return torch.tensor(found, dtype=torch.float64)

    @cached_property
    def slim_maps(self) -> torch.Tensor:
        """Maps that the narrow decoder learns to paint: of photographs, of samples."""
        teacher = self.parents.tokenizer
        images = open_images("fashion", root=self.root)
        some = images.subset(permutation(len(images), 0, 0)[:SLIM_MAPS].tolist())
        model = self.parents.saved(self.parents.run(Variant(), 0)[-1])
        labels = torch.arange(SLIM_MAPS) % model.config.classes
        made = drawn(
            model, teacher, labels, sampling=unguided_end(FULL), seed=SLIM_SEED
        )
        maps = [teacher.maps(part.tokens)[-1] for part in made]
        return torch.cat((image_maps(teacher, in_batches(some)), *maps))

    def slim(self, base: int) -> Tokenizer:
        """The shipped tokenizer with a decoder of another width."""
        folder, teacher = Path(self.work) / slim_name(base), self.parents.tokenizer
        if not (folder / "manifest.json").is_file():
            student = slimmed(teacher, base).to(memory_format=torch.channels_last)
            pairs = PaintedMaps(teacher, self.slim_maps, SLIM.batch, SLIM.seed)
            task = DecoderTask(student, pairs)
            work = folder.with_name(folder.name + "-training")
            trained = fit(task, SLIM, work, progress=False)
            trained.save_pretrained(folder)
        return Tokenizer.from_pretrained(folder, device=self.device)

    def decoding(self, study: ScheduleStudy, slim: int | None) -> Tokenizer:
        """The tokenizer that paints the samples of a study."""
        tokenizer = study.tokenizer
        if slim is not None:
            tokenizer = with_schedule(self.slim(slim), tokenizer.schedule)
        return tokenizer.to(memory_format=torch.channels_last)

    def sampler(
        self,
        study: ScheduleStudy,
        saved: Path,
        sampling: SampleConfig,
        slim: int | None,
    ) -> Callable[[], object]:
        """What makes 64 images, to be timed."""
        model = study.saved(saved)
        tokenizer, seeds = self.decoding(study, slim), image_seeds(0, 64)
        labels = torch.arange(64) % model.config.classes
        return lambda: sample(model, tokenizer, labels, config=sampling, seeds=seeds)

    def measured(
        self,
        study: ScheduleStudy,
        saved: Path,
        sampling: SampleConfig,
        slim: int | None = None,
        count: int = SAMPLES,
    ) -> dict[str, float]:
        """Quality of samples, and the operations of one image."""
        config = ScaleTransformer.from_pretrained(saved).config
        study = copy(study)
        study.tokenizer = tokenizer = self.decoding(study, slim)
        target = (
            saved
            if slim is None
            else saved.with_name(f"{saved.name}-{slim_name(slim)}")
        )
        if slim and not target.is_dir():
            ScaleTransformer.from_pretrained(saved).save_pretrained(target)
        quality = study.measure(target, sampling=sampling, count=count)
        cost = generation_flops(config, tokenizer.config, sampling)
        return quality | {
            "flops": cost.total,
            "transformer_flops": cost.transformer.total,
        }

    def reconstruction(self, candidate: Candidate, slim: int | None = None) -> dict:
        """Tokenizer alone on test images: rel-FD and PSNR, no transformer."""
        study = self.study(candidate)
        tail = f"-{slim_name(slim)}" if slim else ""
        path = Path(self.work) / f"reconstruction {candidate.name}{tail}.json"

        tokenizer = study.tokenizer
        if slim and not path.is_file():  # trained here, outside of no_grad
            tokenizer = with_schedule(self.slim(slim), tokenizer.schedule)

        @torch.no_grad()
        def found() -> dict[str, float]:
            rows = torch.arange(SCREEN).split(250)
            real = [study.test.batch(r.tolist())[0].to(self.device) for r in rows]
            fake = [tokenizer.decode(study.encode(x)) for x in real]
            pairs = zip(fake, real, strict=True)
            decibel = torch.cat([psnr(a, b) for a, b in pairs]).mean().item()
            found = study.scores(features_of(study.judge, torch.cat(fake)))
            return {"rel_fd": found["rel_fd"], "psnr_db": decibel}

        return study.kept(path, found)
