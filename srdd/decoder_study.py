"""The study of chapter 11 of slim decoders: how near to their teacher they come.

All students learn from the same maps, of photographs and of samples of the shipped
model, and from what the shipped decoder paints of them. Some have a feature loss too,
in the layers of a classifier of their own: it has the layout of the judge, but other
weights, and never judges.

What counts as equal was fixed before the run: a student is as good as its teacher if
its mean rel-FD over the training seeds, on reconstructions of the 10,000 test images,
is at most `EQUAL` times the teacher's.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .data import permutation
from .distillation import DecoderTask, PaintedMaps, image_maps, slimmed
from .features import Judge, train_judge
from .files import load_tensors, save_tensors
from .ledger import fit, once, opened, part
from .metrics import in_batches
from .sampling import SampleConfig
from .schedule_study import EDGES, SLIM, SLIMS
from .studies import SEEDS, Study, drawn
from .tokenizer import FeatureLoss, Tokenizer, psnr
from .training import TrainConfig
from .transformer import ScaleTransformer

EQUAL = 1.05
CRITIC_SEED, SAMPLE_SEED, MAP_SEED = 100, 1, 0
DRAWN = SampleConfig(guidance=3.0)
"""The shipped model's own settings."""


@dataclass(frozen=True)
class Student:
    """A slim decoder and how it learns.

    Args:
        shape: one of `srdd.schedule_study.SLIMS`.
        features: weight of the feature loss; 0 has none.
    """

    shape: str
    features: float = 0.0

    @property
    def name(self) -> str:
        """Its key in the record."""
        return f"{self.shape}, features" if self.features else self.shape


STUDENTS = (
    Student("10 x 2"),
    Student("10 x 2", features=10.0),
    Student("12 x 2", features=10.0),
)


@dataclass(frozen=True)
class Size:
    """How long everything is trained on a device, and with how much.

    Args:
        steps: of a student, `srdd.schedule_study.SLIM.batch` maps each.
        critic_steps: of the classifier.
        maps: of photographs, and as many of samples.
        images: test images, and as many samples, that measure a student.
    """

    steps: int
    critic_steps: int
    maps: int
    images: int

    @property
    def training(self) -> TrainConfig:
        """The training of a student."""
        return replace(SLIM, steps=self.steps, save_every=self.steps)


SIZES = {
    "cpu": Size(steps=3000, critic_steps=1500, maps=20_000, images=10_000),
    "cuda": Size(steps=10_000, critic_steps=2000, maps=60_000, images=10_000),
}


class DecoderStudy(Study):
    """Trains students of the shipped decoder and measures them.

    Args:
        work: folder of what is kept.
        root: where Fashion-MNIST lies.
        device: where all networks are.
        size: None asks `SIZES`.
    """

    def __init__(
        self,
        work: str | Path,
        root: str | None,
        device: str = "cpu",
        size: Size | None = None,
    ) -> None:
        super().__init__(work, root=root, device=device)
        self.size = size or SIZES[torch.device(device).type]

    @cached_property
    def critic(self) -> Judge:
        """The classifier of the feature loss."""
        folder = self.work / "critic"

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
        made = drawn(model, self.tokenizer, labels, sampling=DRAWN, seed=seed)
        for each in made:
            yield self.tokenizer.maps(each.tokens)[-1]

    @cached_property
    def maps(self) -> Tensor:
        """What the students learn from, ``(2 n, z, h, h)``, made once and kept."""
        path, count = self.work / "maps.safetensors", self.size.maps

        @torch.no_grad()
        def make() -> None:
            rows = permutation(len(self.train), MAP_SEED, 0)[:count].tolist()
            real = image_maps(self.tokenizer, in_batches(self.train.subset(rows)))
            parts = [real, *self.sampled(count, MAP_SEED)]
            save_tensors(path, {"maps": torch.cat(parts).cpu()})

        once(path, make)
        return load_tensors(path)["maps"].to(self.device)

    def trained(self, student: Student, seed: int) -> Tokenizer:
        """The tokenizer with a student's decoder, trained or found."""
        folder = self.work / "students" / f"{student.name}, seed {seed}"

        def make() -> None:
            slim = slimmed(self.tokenizer, seed=seed, **SLIMS[student.shape])
            task = DecoderTask(
                slim.to(memory_format=torch.channels_last),
                PaintedMaps(self.tokenizer, self.maps, SLIM.batch, seed),
                edges=EDGES,
                perceptual=FeatureLoss(self.critic.stages)
                if student.features
                else None,
                perceptual_weight=student.features,
            )
            config = replace(self.size.training, seed=seed)
            work = folder.with_name(f"{folder.name}-training")
            made = fit(task, config, work, progress=self.progress)
            made.save_pretrained(folder)

        once(folder / "manifest.json", make)
        found = Tokenizer.from_pretrained(folder, device=self.device)
        return found.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def quality(self, painter: Tokenizer) -> dict[str, float]:
        """Reconstructions of test images, and samples, as a decoder paints them.

        Returns:
            rel-FD, KID and accuracy of both, dB of the reconstructions to the
            photographs, and to what the teacher paints.
        """
        count, made, near, same = self.size.images, [], [], []
        test = self.test.subset(list(range(min(count, len(self.test)))))
        for real in in_batches(test):
            real = real.to(self.device, memory_format=torch.channels_last)
            f = self.tokenizer.features(real)
            *_, last = self.tokenizer.quantize.encode_steps(f)
            made.append(painter.decode_map(last.f_hat))
            near.append(psnr(made[-1], real))
            same.append(psnr(made[-1], self.tokenizer.decode_map(last.f_hat)))
        found = {"psnr_db": torch.cat(near).mean().item()}
        if painter is not self.tokenizer:
            found["psnr_db to the teacher's"] = torch.cat(same).mean().item()
        labels = torch.arange(count) % len(test.classes)
        fresh = (painter.decode_map(maps) for maps in self.sampled(count, SAMPLE_SEED))
        sets = {"": (iter(made), test.labels), "samples, ": (fresh, labels)}
        for name, (images, asked) in sets.items():
            scores = self.judged(images, asked)
            for key in ("rel_fd", "fd", "kid_1000", "accuracy", "recall", "coverage"):
                found[name + key] = scores[key]
        return found

    def measured(self, student: Student | None, seed: int) -> dict[str, float]:
        """Quality of a student, or of the teacher (None), measured once and kept."""
        name = f"{student.name}, seed {seed}" if student else "teacher"
        painter = self.trained(student, seed) if student else self.tokenizer
        path = self.work / f"quality of {name}.json"
        return part(path, lambda: self.quality(painter))


def learn(
    work: str, root: str | None, device: str, student: Student, seed: int
) -> None:
    """Train and measure one student, in a process of its own."""
    with opened():
        DecoderStudy(work, root, device).measured(student, seed)


def finished(work: str, root: str | None, device: str, processes: int = 9) -> Any:
    """The study with all students trained; on a GPU several at the same time."""
    study = DecoderStudy(work, root, device)
    jobs = [(student, seed) for seed in SEEDS for student in STUDENTS]
    if torch.device(device).type == "cpu":
        return study
    assert study.critic and len(study.maps)  # made once, before the others ask
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for each in [pool.submit(learn, work, root, device, *job) for job in jobs]:
            each.result()
    return study
