"""The study of chapter 11 of slim decoders: how near to their teacher they come.

All students learn from the same maps, of photographs and of samples of the shipped
model, and from what the shipped decoder paints of them. Some have a feature loss too,
in the layers of a classifier of their own: it has the layout of the judge, but other
weights, and never judges. Others go on for some steps with pictures that are sharpened
until neighbouring pixels of reconstructed training images differ as much as those of
the photographs; no feature network has a say in how much that is.

What counts as equal was fixed before the run: a student is as good as its teacher if
its mean rel-FD over the training seeds, on reconstructions of the 10,000 test images,
is at most `EQUAL` times the teacher's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from .data import ImageSet, digest, permutation
from .distillation import (
    DecoderTask,
    PaintedMaps,
    image_maps,
    sharpened,
    sharpening,
    slimmed,
)
from .features import Judge, train_judge
from .files import load_tensors, save_tensors
from .ledger import at_once, fit, once, opened, part
from .metrics import in_batches
from .presets import BASE
from .schedule_study import EDGES, SLIM, SLIMS
from .studies import SEEDS, Study, drawn
from .tokenizer import FeatureLoss, Tokenizer, psnr
from .training import TrainConfig
from .transformer import ScaleTransformer

EQUAL, FEATURES = 1.05, 10.0
CRITIC_SEED, SAMPLE_SEED, MAP_SEED = 100, 1, 0
PROCESSES = 9
"""Students at the same time on a GPU: each holds all maps and pictures."""


@dataclass(frozen=True)
class Student:
    """A slim decoder and how it learns.

    Args:
        shape: one of `srdd.schedule_study.SLIMS`.
        features: with a feature loss of weight `FEATURES`.
        sharp: go on from the same student that is not, with sharpened pictures.
    """

    shape: str
    features: bool = False
    sharp: bool = False

    @property
    def name(self) -> str:
        """Its key in the record."""
        more = ", features" * self.features + ", sharpened" * self.sharp
        return self.shape + more


STUDENTS = (
    Student("10 x 2"),
    Student("10 x 2", sharp=True),
    Student("10 x 2", features=True),
    Student("12 x 2", features=True),
)


@dataclass(frozen=True)
class Size:
    """How long everything is trained, and with how much.

    Args:
        steps: of a student, `srdd.schedule_study.SLIM.batch` maps each.
        sharp_steps: more of them with sharpened pictures.
        critic_steps: of the classifier.
        maps: of photographs, and as many of samples.
        images: test images, and as many samples, that measure a student.
    """

    steps: int = 10_000
    sharp_steps: int = 1000
    critic_steps: int = 2000
    maps: int = 60_000
    images: int = 10_000

    def training(self, student: Student, seed: int) -> TrainConfig:
        """The training of a student."""
        steps = self.sharp_steps if student.sharp else self.steps
        lr = SLIM.lr / 4 if student.sharp else SLIM.lr
        return replace(SLIM, steps=steps, save_every=steps, lr=lr, seed=seed)


@torch.no_grad()
def missing_sharpness(tokenizer: Tokenizer, images: ImageSet, count: int) -> float:
    """How much what a tokenizer paints must be sharpened to be as sharp as photographs.

    Args:
        tokenizer: on any device.
        images: of which some are reconstructed.
        count: so many at most, drawn at random, the same in every call.
    """
    rows = permutation(len(images), MAP_SEED, 0)[:count].tolist()
    real = torch.cat(list(in_batches(images.subset(rows))))
    device = next(tokenizer.parameters()).device
    fake = [tokenizer.reconstruct(x.to(device)).cpu() for x in real.split(250)]
    return sharpening(torch.cat(fake), real)


class DecoderStudy(Study):
    """Trains students of the shipped decoder and measures them.

    Args:
        work: folder of what is kept.
        root: where Fashion-MNIST lies.
        device: where all networks are.
        size: of everything.
    """

    def __init__(
        self,
        work: str | Path,
        root: str | None,
        device: str = "cpu",
        size: Size = Size(),
    ) -> None:
        super().__init__(work, root=root, device=device)
        self.size = size
        facts = [asdict(size), asdict(SLIM), SLIMS, EDGES, FEATURES]
        mark = digest(json.dumps(facts, sort_keys=True))[:12]
        self.home = self.work / f"decoders-{mark}"

    @cached_property
    def critic(self) -> Judge:
        """The classifier of the feature loss."""
        folder = self.home / "critic"

        def make() -> None:
            trained = train_judge(
                self.train,
                folder.with_name("critic-training"),
                steps=self.size.critic_steps,
                seed=CRITIC_SEED,
                device=self.device,
                progress=self.progress,
            )
            trained.save_pretrained(folder)

        once(folder / "manifest.json", make)
        return Judge.from_pretrained(folder, device=self.device).requires_grad_(False)

    def sampled(self, count: int, seed: int) -> Iterator[Tensor]:
        """Last maps of samples of the shipped model, balanced classes, in batches."""
        model = ScaleTransformer.from_pretrained("fashion", device=self.device)
        labels = torch.arange(count) % model.config.classes
        made = drawn(model, self.tokenizer, labels, sampling=BASE, seed=seed)
        for each in made:
            yield self.tokenizer.maps(each.tokens)[-1]

    @cached_property
    def maps(self) -> Tensor:
        """What the students learn from, ``(2 n, z, h, h)``, made once and kept."""
        path, count = self.home / "maps.safetensors", self.size.maps

        @torch.no_grad()
        def make() -> None:
            rows = permutation(len(self.train), MAP_SEED, 0)[:count].tolist()
            real = image_maps(self.tokenizer, in_batches(self.train.subset(rows)))
            parts = [real, *self.sampled(count, MAP_SEED)]
            save_tensors(path, {"maps": torch.cat(parts).cpu()})

        once(path, make)
        return load_tensors(path)["maps"].to(self.device)

    @cached_property
    def strength(self) -> float:
        """How much pictures are sharpened: as training images ask for."""
        known = self.tokenizer, self.train, self.size.images
        path = self.home / "strength.json"
        return part(path, lambda: {"strength": missing_sharpness(*known)})["strength"]

    def trained(self, student: Student, seed: int) -> Tokenizer:
        """The tokenizer with a student's decoder, trained or found."""
        folder = self.home / "students" / f"{student.name}, seed {seed}"

        def make() -> None:
            if student.sharp:
                slim = self.trained(replace(student, sharp=False), seed).train()
            else:
                slim = slimmed(self.tokenizer, seed=seed, **SLIMS[student.shape])
            strength = self.strength if student.sharp else 0.0
            pairs = PaintedMaps(self.tokenizer, self.maps, SLIM.batch, seed, strength)
            task = DecoderTask(
                slim.to(memory_format=torch.channels_last),
                pairs,
                edges=EDGES,
                perceptual=FeatureLoss(self.critic.stages)
                if student.features
                else None,
                perceptual_weight=FEATURES,
            )
            work = folder.with_name(f"{folder.name}-training")
            config = self.size.training(student, seed)
            made = fit(task, config, work, progress=self.progress)
            made.save_pretrained(folder)

        once(folder / "manifest.json", make)
        found = Tokenizer.from_pretrained(folder, device=self.device)
        return found.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def quality(self, paint: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Reconstructions of test images, and samples, as a decoder paints them.

        Args:
            paint: maps to images.
        Returns:
            rel-FD, KID and more of both, dB of the reconstructions to the
            photographs, and to what the teacher paints.
        """
        count, made, near, same = self.size.images, [], [], []
        test = self.test.subset(list(range(min(count, len(self.test)))))
        for real in in_batches(test):
            real = real.to(self.device, memory_format=torch.channels_last)
            f = self.tokenizer.features(real)
            *_, last = self.tokenizer.quantize.encode_steps(f)
            made.append(paint(last.f_hat))
            near.append(psnr(made[-1], real))
            same.append(psnr(made[-1], self.tokenizer.decode_map(last.f_hat)))
        found = {
            "psnr_db": torch.cat(near).mean().item(),
            "psnr_db to the teacher's": torch.cat(same).mean().item(),
        }
        labels = torch.arange(count) % len(test.classes)
        fresh = map(paint, self.sampled(count, SAMPLE_SEED))
        sets = {"": (iter(made), test.labels), "samples, ": (fresh, labels)}
        for name, (images, asked) in sets.items():
            scores = self.judged(images, asked)
            for key in ("rel_fd", "fd", "kid_1000", "accuracy", "recall", "coverage"):
                found[name + key] = scores[key]
        return found

    def measured(self, student: Student, seed: int) -> dict[str, float]:
        """Quality of a student, measured once and kept."""
        name = f"{student.name}, seed {seed}"
        painter = self.trained(student, seed)
        path = self.home / f"quality of {name}.json"
        return part(path, lambda: self.quality(painter.decode_map))

    def teacher(self, sharp: bool = False) -> dict[str, float]:
        """Quality of the teacher, or of its pictures after they are sharpened."""

        def paint(maps: Tensor) -> Tensor:
            images = self.tokenizer.decode_map(maps)
            return sharpened(images, self.strength) if sharp else images

        name = "teacher, sharpened" if sharp else "teacher"
        return part(self.home / f"quality of {name}.json", lambda: self.quality(paint))


def learn(
    work: str, root: str | None, device: str, student: Student, seed: int
) -> None:
    """Train and measure one student, in a process of its own."""
    with opened():
        DecoderStudy(work, root, device).measured(student, seed)


def finished(work: str, root: str | None, device: str) -> DecoderStudy:
    """The study with all students trained and measured; on a GPU at the same time."""
    study = DecoderStudy(work, root, device)
    _ = study.critic, study.maps, study.strength  # made once, before the others ask
    plain = [student for student in STUDENTS if not student.sharp]
    sharp = [student for student in STUDENTS if student.sharp]
    for students in (plain, sharp):  # the sharp ones go on from others
        jobs = [(work, root, device, s, seed) for seed in SEEDS for s in students]
        at_once(learn, jobs, device, PROCESSES)
    return study
