"""The study of chapter 11: shorter schedules in three meanings, and what they cost.

Every candidate starts from the same trained network of its seed, is trained for the
same number of steps on its own tokens, and is sampled with guidance at every scale, at
all but the last and at all but the last two. Its samples are painted by the shipped
decoder and by slim ones that learned from it.

What the claim is about was fixed before the run. The screen, with a
training seed of its own, chooses two settings: the cheapest list of sides, in any
meaning, guided everywhere and painted by the shipped decoder ("schedule alone"), and
the cheapest setting of all ("all levers"), each among those whose rel-FD is not more
than `TOLERANCE` above that of the full list, guided, shipped decoder. The verdict is
that of three other training seeds. They also train the four lists that are best on the
screen when guided everywhere, so that the choice can be seen among its neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from .data import ImageSet, digest, permutation
from .distillation import (
    DecoderTask,
    PaintedMaps,
    StateTask,
    distil,
    generation_flops,
    image_maps,
    shortened_transformer,
    slimmed,
    state_table,
    with_schedule,
)
from .files import load_tensors, save_tensors
from .ledger import each, fit, once
from .metrics import (
    FeatureMoments,
    accuracy,
    features_of,
    frechet_distance,
    in_batches,
    relative_fd,
)
from .sampling import SampleConfig, image_seeds, sample
from .studies import MakeTask, Study, Variant, batches, drawn, encoding_digest
from .tokenizer import Tokenizer, psnr
from .training import TOKENIZER_TRAINING, TrainConfig, TransformerTask
from .transformer import ScaleTransformer

FULL = (1, 2, 3, 4, 6, 8)
SHORT = (
    (1, 2, 4, 6, 8),
    (1, 3, 6, 8),
    (1, 2, 3, 6, 8),
    (1, 2, 3, 4, 8),
    (1, 3, 4, 8),
    (1, 2, 4, 8),
    (1, 4, 8),
    (1, 8),
)
LISTS = {
    "retokenise": (FULL, (1, 3, 5, 8), *SHORT),
    "merge": SHORT,
    "student": SHORT,
}
SCREEN_SEED = 3
TOLERANCE = 0.02
PARENT = Variant()
TUNING = {"steps": 200, "batch": 32, "lr": 1e-3}
IMAGES, SAMPLES, ALONE = 20_000, 5000, 2000
WEIGHT = 3.0
"""The best one for a network of this size, by the record ``guidance-schedules``."""
WAYS = {
    "guided": SampleConfig(WEIGHT, "constant"),
    "last not guided": SampleConfig(WEIGHT, "constant", guidance_off=1),
    "last two not guided": SampleConfig(WEIGHT, "constant", guidance_off=2),
}
SLIMS: dict[str, dict[str, Any]] = {
    "12 x 2": {"base": 12, "blocks": 2, "middle": False},
    "10 x 2": {"base": 10, "blocks": 2, "middle": False},
    "12 x 1": {"base": 12, "blocks": 1, "middle": False},
}
"""Slim decoders: channels at full resolution, residual blocks per level."""
SLIM_MAPS, EDGES = 20_000, 6.0
SLIM = TrainConfig(
    steps=3000,
    batch=128,
    lr=4e-3,
    ema=0.998,
    save_every=3000,
    log_every=100,
    **TOKENIZER_TRAINING,
)


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
    Candidate(meaning, sides) for meaning, lists in LISTS.items() for sides in lists
)


@dataclass(frozen=True)
class Setup:
    """A candidate, how it is sampled, and who paints: None is the shipped decoder."""

    candidate: Candidate
    way: str = "guided"
    slim: str | None = None

    @property
    def name(self) -> str:
        """Its key in the record."""
        painted = f", decoder {self.slim}" if self.slim else ""
        return f"{self.candidate.name}, {self.way}{painted}"


def setups(candidates: Sequence[Candidate] = CANDIDATES) -> Iterator[Setup]:
    """All that is measured of some candidates, each with everything on first."""
    for candidate in candidates:
        for way in WAYS:
            yield from (Setup(candidate, way, slim) for slim in (None, *SLIMS))


def chosen(values: Mapping[str, Any]) -> dict[str, Setup]:
    """What a screen chooses, by the rule at the top of this module."""

    def mean(setup: Setup, measure: str) -> float:
        return values[f"{setup.name}/{measure}"]["mean"]

    every = list(setups())
    limit = mean(every[0], "rel_fd") + TOLERANCE
    good = [each for each in every if mean(each, "rel_fd") <= limit]
    alone = [each for each in good if each.way == "guided" and each.slim is None]

    def cost(setup: Setup) -> tuple[float, float]:
        return mean(setup, "flops"), mean(setup, "rel_fd")

    return {"schedule alone": min(alone, key=cost), "all levers": min(good, key=cost)}


def finalists(values: Mapping[str, Any]) -> tuple[Candidate, ...]:
    """The full list, what a screen chose, and the four best of it."""

    def guided(candidate: Candidate) -> float:
        return values[f"{Setup(candidate).name}/rel_fd"]["mean"]

    whole, *others = CANDIDATES
    picked = [setup.candidate for setup in chosen(values).values()]
    return tuple(dict.fromkeys((whole, *picked, *sorted(others, key=guided)[:4])))


class ScheduleStudy(Study):
    """A study on the tokens of a candidate, from part of the training images.

    Args:
        candidate: how the schedule is shortened.
        parents: the study of the full list, with its judge and its tokenizer.
        task: makes what is trained.
    """

    def __init__(self, candidate: Candidate, parents: Study, task: Any = None) -> None:
        made = distil(parents.tokenizer, candidate.sides, candidate.meaning)
        super().__init__(
            parents.work,
            root=parents.root,
            tokenizer=made.tokenizer,
            task=task or TransformerTask,
            device=parents.device,
        )
        self.made, self.mark = made, encoding_digest(made)
        self.encode = made.encode

    def draws(
        self, saved: Path, sampling: SampleConfig, count: int, seed: int = 0
    ) -> list[torch.Tensor]:
        """Tokens of samples of balanced classes, drawn once and kept: ids per scale."""
        facts = json.dumps([asdict(sampling), count, seed], sort_keys=True)
        path = saved / f"draws-{digest(facts)[:12]}.safetensors"

        def make() -> None:
            model = self.saved(saved)
            labels = torch.arange(count) % model.config.classes
            made = drawn(model, self.tokenizer, labels, sampling=sampling, seed=seed)
            ids = [torch.cat(part.tokens, 1).to(torch.int16).cpu() for part in made]
            save_tensors(path, {"tokens": torch.cat(ids)})

        once(path, make)
        ids = load_tensors(path)["tokens"].long()
        return list(self.tokenizer.schedule.split(ids))

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

    base, tuning, samples = PARENT, TUNING, SAMPLES
    """Network of the full list, how much further all are trained, images of a set."""

    def __init__(self, work: str, root: str | None, device: str = "cpu") -> None:
        self.place = work, root, device
        self.work, self.device = work, device
        self.parents = self.study_of(TransformerTask)
        self.studies: dict[tuple[Candidate, Any], ScheduleStudy] = {}
        self.slims: dict[str, Tokenizer] = {}
        self.saved: dict[tuple[Candidate, int], Path] = {}

    def study_of(self, task: MakeTask) -> Study:
        """The study of the full list of Fashion-MNIST."""
        work, root, device = self.place
        return Study(work, root=root, task=task, device=device)

    @cached_property
    def images(self) -> ImageSet:
        """A random part of the training images, the same for all candidates."""
        every = self.parents.train
        return every.subset(permutation(len(every), 0, 0)[:IMAGES].tolist())

    def study(self, candidate: Candidate, task: Any = None) -> ScheduleStudy:
        """The study of a candidate; all share their images and the judge."""
        if (candidate, task) not in self.studies:
            made = ScheduleStudy(candidate, self.parents, task)
            made.train, made.test = self.images, self.parents.test
            made.judge, made.reference = self.parents.judge, self.parents.reference
            self.studies[candidate, task] = made
        return self.studies[candidate, task]

    def parent(self, seed: int, sides: tuple[int, ...] = FULL) -> Path:
        """The network of a seed, cut to some sides, as a folder."""
        whole = self.parents.run(self.base, seed)[-1]
        if sides == FULL:
            return whole
        schedule = distil(self.parents.tokenizer, sides).tokenizer.schedule
        folder = whole.with_name(f"cut-{named(sides)}")
        if not (folder / "manifest.json").is_file():
            model = ScaleTransformer.from_pretrained(whole)
            shortened_transformer(model, schedule).save_pretrained(folder)
        return folder

    def variant(self, candidate: Candidate, **changes: Any) -> Variant:
        """The network of a candidate, and its training."""
        groups = self.study(candidate).made.groups
        network = {} if groups is None else {"groups": groups}
        return replace(self.base, network=network, **changes)

    def trained(self, candidate: Candidate, seed: int) -> Path:
        """A candidate's network, trained from its parent."""
        if (candidate, seed) not in self.saved:
            sides = FULL if candidate.meaning == "merge" else candidate.sides
            start = str(self.parent(seed, sides))
            variant = self.variant(candidate, init=start, **self.tuning)
            made = self.study(candidate).run(variant, seed, marks=1)
            self.saved[candidate, seed] = made[-1]
        return self.saved[candidate, seed]

    def table(self, seed: int, count: int = 500) -> torch.Tensor:
        """Cross-entropies of the criterion on test images, nats per image.

        From one network that was trained for all groupings at once.
        """
        study = self.study(Candidate("merge", FULL), StateTask)
        variant = replace(self.base, init=str(self.parent(seed)), **self.tuning)
        saved = study.run(variant, seed, marks=1)[-1]

        def measured() -> dict[str, Any]:
            some = study.tokens(study.test.subset(list(range(count))))
            model = study.saved(saved)
            return {"table": state_table(model, study.tokenizer, some).tolist()}

        found = study.kept(saved / f"states-{count}.json", measured)["table"]
        return torch.tensor(found, dtype=torch.float64)

    @cached_property
    def slim_maps(self) -> torch.Tensor:
        """Maps to learn from: of photographs, of samples of a network of each size."""
        teacher, images = self.parents.tokenizer, self.parents.train
        some = images.subset(permutation(len(images), 0, 0)[:SLIM_MAPS].tolist())
        maps = [image_maps(teacher, in_batches(some))]
        models = (
            self.parents.saved(self.parent(SCREEN_SEED)),
            ScaleTransformer.from_pretrained("fashion", device=self.device),
        )
        labels = torch.arange(SLIM_MAPS) % len(images.classes)
        for model in models:
            made = drawn(
                model, teacher, labels, sampling=WAYS["guided"], seed=SCREEN_SEED
            )
            with torch.no_grad():
                maps += [teacher.maps(part.tokens)[-1] for part in made]
        return torch.cat(maps)

    def slim(self, name: str) -> Tokenizer:
        """The shipped tokenizer with one of the slim decoders."""
        if name in self.slims:
            return self.slims[name]
        shape, teacher = SLIMS[name], self.parents.tokenizer
        facts = json.dumps([shape, asdict(SLIM), SLIM_MAPS, EDGES], sort_keys=True)
        folder = Path(self.work) / f"slim-{digest(facts)[:12]}"

        def make() -> None:
            student = slimmed(teacher, **shape).to(memory_format=torch.channels_last)
            pairs = PaintedMaps(teacher, self.slim_maps, SLIM.batch, SLIM.seed)
            task = DecoderTask(student, pairs, edges=EDGES)
            work = folder.with_name(folder.name + "-training")
            trained = fit(task, SLIM, work, progress=False)
            trained.save_pretrained(folder)

        once(folder / "manifest.json", make)
        self.slims[name] = Tokenizer.from_pretrained(folder, device=self.device)
        return self.slims[name]

    def painter(self, study: ScheduleStudy, slim: str | None) -> Tokenizer:
        """The tokenizer that paints the samples of a study."""
        tokenizer = study.tokenizer
        if slim is not None:
            tokenizer = with_schedule(self.slim(slim), tokenizer.schedule)
        return tokenizer.to(memory_format=torch.channels_last)

    def measured(
        self, setup: Setup, seed: int, every: bool = False
    ) -> dict[str, float]:
        """Quality of samples of one training seed, and the operations of an image.

        Args:
            setup: what is sampled.
            seed: of the training.
            every: with all measures of `srdd.metrics.score`, which on a CPU take
                longer than rel-FD and accuracy alone.
        """
        study, saved = self.study(setup.candidate), self.trained(setup.candidate, seed)
        sampling, painter = WAYS[setup.way], self.painter(study, setup.slim)

        @torch.no_grad()
        def found() -> dict[str, float]:
            tokens = study.draws(saved, sampling, self.samples)
            labels = torch.arange(self.samples) % len(study.test.classes)

            def seen(part: slice) -> torch.Tensor:
                images = painter.decode([x[part].to(self.device) for x in tokens])
                return features_of(study.judge, images)

            parts = batches(study.judge, self.samples)
            features = torch.cat(list(each(seen, parts)))
            if every:
                return study.scored(features, labels)
            answers = study.judge.classify(features.to(self.device))
            return study.scores(features) | {"accuracy": accuracy(answers, labels)}

        facts = [asdict(sampling), self.samples, asdict(painter.config)]
        mark = digest(json.dumps([*facts, setup.slim and asdict(SLIM)]))[:12]
        name = "judged" if every else "painted"
        quality = study.kept(saved / f"{name}-{mark}.json", found)
        classes = len(study.test.classes)
        config = self.variant(setup.candidate).config(study.tokenizer, classes)
        cost = generation_flops(config, painter.config, sampling)
        return quality | {
            "flops": cost.total,
            "transformer_flops": cost.transformer.total,
        }

    def reconstruction(self, candidate: Candidate, slim: str | None = None) -> dict:
        """Tokenizer alone on test images: rel-FD and PSNR, no transformer."""
        study = self.study(candidate)
        painter = self.painter(study, slim)  # trained here, outside of no_grad
        name = f"{candidate.name}{f', decoder {slim}' if slim else ''}"
        path = Path(self.work) / f"reconstruction {name}.json"

        @torch.no_grad()
        def found() -> dict[str, float]:
            real = list(in_batches(study.test.subset(list(range(ALONE)))))
            fake = [painter.decode(study.encode(x.to(self.device))).cpu() for x in real]
            pairs = zip(fake, real, strict=True)
            decibel = torch.cat([psnr(a, b) for a, b in pairs]).mean().item()
            found = study.scores(features_of(study.judge, torch.cat(fake)))
            return {"rel_fd": found["rel_fd"], "psnr_db": decibel}

        return study.kept(path, found)

    def sampler(self, setup: Setup) -> Callable[[], object]:
        """What makes 64 images, to be timed: the weights do not matter."""
        study = self.study(setup.candidate)
        classes = len(study.test.classes)
        labels = torch.arange(64) % classes
        model = study.start(self.variant(setup.candidate), 0, classes).eval()
        tokenizer = study.tokenizer
        if setup.slim is not None:
            tokenizer = slimmed(tokenizer, **SLIMS[setup.slim])
        tokenizer = tokenizer.to(memory_format=torch.channels_last).eval()
        config, seeds = WAYS[setup.way], image_seeds(0, 64)
        return lambda: sample(model, tokenizer, labels, config=config, seeds=seeds)
