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
from .metrics import (
    Judge,
    Reference,
    evaluate,
    in_batches,
    train_judge,
    yardsticks,
)
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


def balanced(images: ImageSet, count: int, seed: int) -> Tensor:
    """Indices of as many images of each class, ``(count,)``, sorted by class."""
    order, each = permutation(len(images), seed, 0), count // len(images.classes)
    labels = images.labels[order]
    return torch.cat([order[labels == c][:each] for c in range(len(images.classes))])


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
    for real in in_batches(images):
        yield tokenizer.reconstruct(real)


def fashion(setting: Setting) -> tuple[ImageSet, ImageSet]:
    """Training and test images of Fashion-MNIST."""
    names = ("fashion", "fashion-test")
    train, test = (open_images(name, root=setting.root) for name in names)
    return train, test


def rows(measured: dict[str, dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Measures of several sets as values of a record: ``set/measure``."""
    return {
        f"{name}/{key}": single(value)
        for name, values in measured.items()
        for key, value in values.items()
    }


def measure_judge(setting: Setting) -> dict[str, Any]:
    """Train the judge, test it, and measure the yardsticks with it."""
    train, test = fashion(setting)
    judge = train_judge(
        train,
        setting.out or "judge",
        test=test,
        seed=setting.seed,
        progress=setting.progress,
        licence="MIT, Zalando SE 2017",
        command="srdd experiment judge",
    )
    reference = Reference.build(judge, test, train)
    part = train.subset(balanced(train, len(test), setting.seed).tolist())
    return {"values": rows(yardsticks(reference, test, part, setting.seed))}


def measure_quality(setting: Setting) -> dict[str, Any]:
    """Samples, reconstructions and yardsticks against the test images."""
    train, test = fashion(setting)
    reference = Reference.build(Judge.from_pretrained("judge"), test, train)
    labels = class_labels(len(test), len(test.classes))
    names = {"Markovian": "fashion", "causal twin": "fashion-causal"}
    pipes = {k: Pipeline.from_pretrained(v) for k, v in names.items()}
    tokenizer = pipes["Markovian"].tokenizer
    measured = {}
    for name, pipe in pipes.items():
        for how, changes in (("guided", {}), ("not guided", {"guidance": 1.0})):
            images = sampled(pipe, labels, setting, **changes)
            measured[f"{name}, {how}"] = evaluate(images, labels, reference)
    images = reconstructed(tokenizer, test)
    measured["reconstructions"] = evaluate(images, test.labels, reference)
    part = train.subset(balanced(train, len(test), setting.seed).tolist())
    measured |= yardsticks(reference, test, part, setting.seed)
    with torch.no_grad():
        errors = [psnr(tokenizer.reconstruct(x), x) for x in in_batches(test)]
    measured["reconstructions"]["psnr_db"] = torch.cat(errors).mean().item()
    return {"values": rows(measured)}


def measure_guidance(setting: Setting) -> dict[str, Any]:
    """rel-FD against the guidance weight, on 2,500 samples."""
    train, test = fashion(setting)
    reference = Reference.build(Judge.from_pretrained("judge"), test, train)
    labels = class_labels(2500, len(test.classes))
    pipe, measured = Pipeline.from_pretrained("fashion"), {}
    for rule in ("linear", "constant"):
        for weight in (1.0, 1.25, 1.5, 2.0, 3.0):
            images = sampled(pipe, labels, setting, guidance=weight, guidance_rule=rule)
            measured[f"{rule} {weight}"] = evaluate(images, labels, reference)
    return {"values": rows(measured)}


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
    reference = Reference.build(judge, test, test)
    labels = class_labels(count, len(pipe.classes))
    values = evaluate(sampled(pipe, labels, setting), labels, reference)
    return {
        "model": name,
        "data": test.name,
        "real_images": len(test),
        "features": judge.name,
        **values,
    }
