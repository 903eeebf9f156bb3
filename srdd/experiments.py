"""Named experiments: each measures one claim and writes one record to results/."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .data import ImageSet, open_images, permutation
from .metrics import Judge, Reference, blur, evaluate, features_of, train_judge
from .pipeline import Pipeline
from .records import single, write_record
from .sampling import image_seeds, sample
from .tokenizer import Tokenizer, psnr

BATCH = 250


@dataclass(frozen=True)
class Setting:
    """What every experiment is told."""

    root: str | None = None
    seed: int = 0
    device: str = "cpu"
    out: str | None = None
    progress: bool = False


@dataclass(frozen=True)
class Experiment:
    """A row of the table: the claim it speaks about, and what to run."""

    claim: str
    measure: Callable[[Setting], dict[str, Any]]


def batches(images: ImageSet, indices: Tensor | None = None) -> Iterator[Tensor]:
    """Images of a set, or of some of its indices, in batches."""
    rows = torch.arange(len(images)) if indices is None else indices
    for part in rows.split(BATCH):
        yield images.batch(part.tolist())[0]


def balanced(images: ImageSet, count: int, seed: int) -> Tensor:
    """Indices of as many images of each class, ``(count,)``, sorted by class."""
    order, each = permutation(len(images), seed, 0), count // len(images.classes)
    labels = images.labels[order]
    return torch.cat([order[labels == c][:each] for c in range(len(images.classes))])


def reference_for(judge: Judge, test: ImageSet, train: ImageSet) -> Reference:
    """What samples are compared with: test images, and training features."""
    near = features_of(judge, batches(train))
    return Reference.of(judge, list(batches(test)), near)


def class_labels(count: int, classes: int) -> Tensor:
    """Balanced class ids, ``(count,)``: 0, 1, 2, ..., 0, 1, 2, ..."""
    return torch.arange(count) % classes


def sampled(
    pipe: Pipeline, labels: Tensor, setting: Setting, **changes: Any
) -> Iterator[Tensor]:
    """Samples of a pipeline in batches, seeded one by one."""
    seeds = image_seeds(setting.seed, len(labels))
    config = pipe.config_with(None, changes)
    for at in tqdm(range(0, len(labels), BATCH), disable=not setting.progress):
        part = slice(at, at + BATCH)
        made = sample(
            pipe.transformer,
            pipe.tokenizer,
            labels[part],
            config=config,
            seeds=seeds[part],
        )
        yield made.images.cpu()


@torch.no_grad()
def reconstructed(tokenizer: Tokenizer, images: ImageSet) -> Iterator[Tensor]:
    """Reconstructions of a set in batches."""
    for real in batches(images):
        yield tokenizer.reconstruct(real)


def noise(count: int, shape: tuple[int, ...], seed: int) -> Iterator[Tensor]:
    """Uniform noise images in batches."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(0, count, BATCH):
        yield torch.rand(BATCH, *shape, generator=generator) * 2 - 1


def measure_judge(setting: Setting) -> dict[str, Any]:
    """Train the judge and test it on images it has not seen."""
    train = open_images("fashion", root=setting.root)
    test = open_images("fashion-test", root=setting.root)
    steps = 1800
    bar = tqdm(total=steps, disable=not setting.progress)
    judge = train_judge(
        train, steps=steps, seed=setting.seed, on_step=lambda *_: bar.update()
    )
    accuracy = judge_accuracy(judge, test)
    if setting.out:
        judge.save_pretrained(
            setting.out,
            dtype=torch.float16,
            data=train.name,
            licence="MIT, Zalando SE 2017",
            command="srdd experiment judge",
            accuracy=accuracy,
        )
    return {"values": {"accuracy": single(accuracy)}}


@torch.no_grad()
def judge_accuracy(judge: Judge, test: ImageSet) -> float:
    """Share of test images that the judge names."""
    guess = torch.cat([judge.logits(x).argmax(1) for x in batches(test)])
    return (guess == test.labels).float().mean().item()


def measure_quality(setting: Setting) -> dict[str, Any]:
    """Samples, reconstructions and yardsticks against the test images."""
    judge = Judge.from_pretrained("judge")
    train = open_images("fashion", root=setting.root)
    test = open_images("fashion-test", root=setting.root)
    reference = reference_for(judge, test, train)
    labels = class_labels(len(test), len(test.classes))
    names = {"Markovian": "fashion", "causal twin": "fashion-causal"}
    pipes = {k: Pipeline.from_pretrained(v) for k, v in names.items()}
    tokenizer = pipes["Markovian"].tokenizer
    picked = balanced(train, len(test), setting.seed)
    sets: dict[str, tuple[Iterator[Tensor], Tensor]] = {
        f"{name}, samples": (sampled(pipe, labels, setting), labels)
        for name, pipe in pipes.items()
    }
    sets |= {
        f"{name}, without guidance": (
            sampled(pipe, labels, setting, guidance=1.0),
            labels,
        )
        for name, pipe in pipes.items()
    }
    sets |= {
        "reconstructions": (reconstructed(tokenizer, test), test.labels),
        "training images": (batches(train, picked), train.labels[picked]),
        "blur 0.7": ((blur(x) for x in batches(test)), test.labels),
        "noise": (noise(len(test), tokenizer.image_shape, setting.seed), labels),
    }
    values = {}
    for name, (images, wanted) in sets.items():
        for key, value in evaluate(judge, images, reference, wanted).items():
            values[f"{name}/{key}"] = single(value)
    values["test images/accuracy"] = single(judge_accuracy(judge, test))
    decibels = [psnr(tokenizer.reconstruct(x), x) for x in batches(test)]
    values["reconstructions/psnr_db"] = single(torch.cat(decibels).mean().item())
    return {"values": values}


def measure_guidance(setting: Setting) -> dict[str, Any]:
    """rel-FD against the guidance weight, on 2,500 samples."""
    judge = Judge.from_pretrained("judge")
    train = open_images("fashion", root=setting.root)
    test = open_images("fashion-test", root=setting.root)
    reference = reference_for(judge, test, train)
    labels = class_labels(2500, len(test.classes))
    pipe, values = Pipeline.from_pretrained("fashion"), {}
    for rule in ("linear", "constant"):
        for weight in (1.0, 1.25, 1.5, 2.0, 3.0):
            images = sampled(pipe, labels, setting, guidance=weight, guidance_rule=rule)
            for key, value in evaluate(judge, images, reference, labels).items():
                values[f"{rule} {weight}/{key}"] = single(value)
    return {"values": values}


def training_curve(path: str | Path) -> dict[str, list[float]]:
    """Steps and losses of a training log, for a figure."""
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    keys = [k for k in rows[-1] if k.startswith("ce/")]
    curves = {
        "steps": [row["step"] for row in rows],
        "ce": [row["loss/model"] for row in rows],
    }
    return curves | {k: [row[k] for row in rows] for k in keys}


EXPERIMENTS: dict[str, Experiment] = {
    "judge": Experiment(
        "The judge names at least 92 % of the test images.", measure_judge
    ),
    "fashion-quality": Experiment(
        "The shipped models against the test images, with yardsticks.", measure_quality
    ),
    "fashion-guidance": Experiment(
        "A moderate guidance weight is better than none.", measure_guidance
    ),
}


def run(name: str, **setting: Any) -> dict[str, Any]:
    """Run a named experiment and write its record.

    Raises:
        ValueError: no experiment of that name.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"name must be one of {', '.join(EXPERIMENTS)}, got {name!r}")
    row, told = EXPERIMENTS[name], Setting(**setting)
    measured = row.measure(told)
    record = write_record(
        name=name, claim=row.claim, tier="tiny model", seeds=[told.seed], **measured
    )
    return {k: v["mean"] for k, v in record.values.items()}


def evaluate_model(
    name: str,
    *,
    data: str,
    root: str | None,
    count: int,
    seed: int,
    device: str,
    progress: bool,
) -> dict[str, Any]:
    """Samples of a model against images, measured by the shipped judge.

    Raises:
        ValueError: images of another shape than the judge's.
    """
    pipe = Pipeline.from_pretrained(name, device=device)
    judge = Judge.from_pretrained("judge")
    wanted = (judge.config.channels, judge.config.side, judge.config.side)
    if pipe.tokenizer.image_shape != wanted:
        raise ValueError(
            f"model {name} makes images {pipe.tokenizer.image_shape}, the shipped judge "
            f"wants {wanted}"
        )
    test = open_images(data, root=root, side=wanted[1], channels=wanted[0])
    setting = Setting(root, seed, device, None, progress)
    reference = reference_for(judge, test, test)
    labels = class_labels(count, len(pipe.classes))
    values = evaluate(judge, sampled(pipe, labels, setting), reference, labels)
    return {
        "model": name,
        "data": test.name,
        "samples": count,
        "real_images": len(test),
        "features": judge.name,
        **values,
    }
