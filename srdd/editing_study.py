"""The study behind chapter 12: holes, canvases and large pixels, filled two ways.

Two models with one tokenizer, a Markovian one and its causal twin, edit the same test
images with the same masks and the same seeds, so that they can be compared image by
image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .data import ImageSet, hash_counter, mix64
from .editing import Editor, emptied, inpaint, known_places, super_resolve, with_means
from .ledger import each
from .metrics import Judge, Reference, evaluate, in_batches, paired_test, smooth, ssim
from .pipeline import Pipeline
from .sampling import Sampled, full_precision, image_seeds, sample
from .scales import area_down
from .studies import batches

ROUNDS = {"one round": 1, "three rounds": 3}
MORE_ROUNDS = {"1 round": 1, "2 rounds": 2, "4 rounds": 4, "8 rounds": 8}
PUBLISHED, SEEN = "published rule", "published rule, hole seen by the encoder"
PER_IMAGE = ("psnr_db", "ssim", "feature_distance")
"""Decibels where something was unknown; similarity of the whole image; distance of the
judge's features to those of the true image."""


# Masks, True where to paint


def uniform(count: int, *key: int) -> Tensor:
    """Numbers in [0, 1) from a counter, ``(count,)`` float64."""
    bits = hash_counter(mix64(*key), torch.arange(count)) & 0xFFFF_FFFF
    return bits.double() / 2**32


def box(count: int, side: int) -> Tensor:
    """A rectangle with sides of a quarter to three quarters, anywhere, per image."""
    mask = torch.zeros(count, 1, side, side, dtype=torch.bool)
    for i, draws in enumerate(uniform(4 * count, 12, 1).view(count, 4)):
        high, wide = (side // 4 + int(x * (side // 2 + 1)) for x in draws[:2])
        top = int(draws[2] * (side - high + 1))
        left = int(draws[3] * (side - wide + 1))
        mask[i, :, top : top + high, left : left + wide] = True
    return mask


def irregular(count: int, side: int) -> Tensor:
    """Two fifths of the pixels in smooth blobs: where blurred noise is high."""
    reach, wide = 6, side + 12
    noise = uniform(count * wide * wide, 12, 2).view(count, 1, wide, wide)
    blurred = smooth(noise, 2.0, reach)
    return blurred > blurred.flatten(1).quantile(0.6, dim=1).view(-1, 1, 1, 1)


def centre(count: int, side: int) -> Tensor:
    """A square of half the side in the middle."""
    mask = torch.zeros(count, 1, side, side, dtype=torch.bool)
    mask[..., side // 4 : side - side // 4, side // 4 : side - side // 4] = True
    return mask


def right_half(count: int, side: int) -> Tensor:
    """The right half."""
    mask = torch.zeros(count, 1, side, side, dtype=torch.bool)
    mask[..., side // 2 :] = True
    return mask


HOLES: dict[str, Callable[[int, int], Tensor]] = {
    "centre": centre,
    "right half": right_half,
    "box": box,
    "irregular": irregular,
    "outpainting": lambda count, side: ~centre(count, side),
}
FACTORS = {"super-resolution x2": 2, "super-resolution x4": 4}
TASKS = (*HOLES, *FACTORS)


# Ways to fill them


def ways(name: str) -> list[str]:
    """Those of a task; what the encoder may see is asked of one task."""
    return [
        *([PUBLISHED] if name in HOLES else []),
        *([SEEN] if name == "centre" else []),
        *ROUNDS,
    ]


@dataclass(frozen=True)
class Task:
    """The images of one task, and what is known of them."""

    name: str
    images: Tensor
    labels: Tensor
    mask: Tensor
    """True where pixels are compared: where nothing is known, or all of them."""

    @classmethod
    def of(cls, name: str, images: Tensor, labels: Tensor) -> Task:
        """A task by its name."""
        count, side = len(images), images.shape[-1]
        all_of_it = torch.ones(count, 1, side, side, dtype=torch.bool)
        mask = HOLES[name](count, side) if name in HOLES else all_of_it
        return cls(name, images, labels, mask)

    def small(self) -> Tensor:
        """Large pixels of the images, for a factor."""
        return area_down(self.images, self.images.shape[-1] // FACTORS[self.name])


@torch.no_grad()
def published(
    pipe: Pipeline, images: Tensor, mask: Tensor, labels: Tensor, seeds: list[int],
    seen: bool = False,
) -> Sampled:  # fmt: skip
    """Tokens coded in advance and clamped by the published rule.

    Args:
        seen: the encoder is shown what lies under the mask.
    """
    coder = pipe.painter
    with full_precision():
        shown = images if seen else emptied(images, mask)
        given = coder.encode(shown.clamp(-1, 1))
    keep = known_places(~mask, coder.schedule, "half")
    chooser = partial(Editor, known=lambda k, f_hat: given[k], keep=keep)
    how = {"config": pipe.sampling, "seeds": seeds, "sampler": chooser}
    return sample(pipe.transformer, coder, labels, **how)


def filled(pipe: Pipeline, task: Task, way: str, seed: int) -> Tensor:
    """The images of a task, filled in one way, ``(n, c, H, W)``."""
    place, seeds = pipe.device, image_seeds(seed, len(task.images))
    nets = pipe.transformer, pipe.painter

    def make(own: slice) -> Tensor:
        images, mask = task.images[own].to(place), task.mask[own].to(place)
        labels = task.labels[own]
        how: dict[str, Any] = {"config": pipe.sampling, "seeds": seeds[own]}
        if way in (PUBLISHED, SEEN):
            made = published(pipe, images, mask, labels, seeds[own], seen=way == SEEN)
            return torch.where(mask, made.images, images).cpu()
        how["rounds"] = (ROUNDS | MORE_ROUNDS)[way]
        if task.name in FACTORS:
            small = task.small()[own].to(place)
            return super_resolve(*nets, small, labels, **how).images.cpu()
        return inpaint(*nets, images, mask, labels, **how).images.cpu()

    parts = batches(pipe.transformer, len(task.images))
    return torch.cat(list(each(make, parts)))


@torch.no_grad()
def weighed(
    pipe: Pipeline, images: Tensor, mask: Tensor, labels: Tensor, seeds: list[int]
) -> tuple[Tensor, Tensor]:
    """Holes filled in one round, and the log probability of what was known, nats."""
    coder, keep = pipe.painter, known_places(~mask, pipe.painter.schedule)
    with full_precision():
        known = coder.quantize.coder(coder.features(emptied(images, mask)))
    made: list[Editor] = []

    def noted(*rest: Any) -> Editor:
        made.append(Editor(*rest, known=known, keep=keep))
        return made[0]

    how = {"config": pipe.sampling, "seeds": seeds, "sampler": noted}
    filled = sample(pipe.transformer, coder, labels, **how).images
    return torch.where(mask, filled, images).cpu(), made[0].fit.cpu()


def by_weight(
    pipe: Pipeline, task: Task, candidates: int, seed: int
) -> tuple[Tensor, float]:
    """Of some fillings of each hole one, taken by its weight.

    Returns:
        The images, and the standard deviation of the log weights of a hole's
        candidates, nats; NaN for one.
    Source: chapter 12, (eq-clamp).
    """
    count, place = len(task.images), pipe.device
    images, mask = task.images.to(place), task.mask.to(place)

    def make(own: slice, seeds: list[int]) -> tuple[Tensor, Tensor]:
        return weighed(pipe, images[own], mask[own], task.labels[own], seeds[own])

    parts, turns = batches(pipe.transformer, count), []
    for turn in range(candidates):
        seeds = image_seeds(mix64(seed, turn), count)
        made = each(partial(make, seeds=seeds), parts)
        turns.append([torch.cat(x) for x in zip(*made, strict=True)])
    fillings, fits = (torch.stack(x) for x in zip(*turns, strict=True))
    noise = uniform(count * candidates, 12, 3, seed).view(candidates, count)
    taken = (fits - noise.log().neg().log()).argmax(0)
    spread = fits.std(0).mean().item() if candidates > 1 else math.nan
    return fillings[taken, torch.arange(count)], spread


def smoothest(task: Task, steps: int = 2000) -> Tensor:
    """Without a model: each unknown pixel is the mean of its neighbours; or bicubic."""
    if task.name in FACTORS:
        large = F.interpolate(task.small(), task.images.shape[2:], mode="bicubic")
        return with_means(large.clamp(-1, 1), task.small())
    images = emptied(task.images, task.mask)
    kernel = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]]).view(1, 1, 3, 3) / 4
    for _ in range(steps):
        flat = F.pad(images.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
        mean = F.conv2d(flat, kernel).view_as(images)
        images = torch.where(task.mask, mean, images)
    return images


# Measures


def per_image(judge: Judge, made: Tensor, task: Task) -> dict[str, list[float]]:
    """`PER_IMAGE` of each image."""
    wrong = ((made - task.images) / 2).square() * task.mask
    share = task.mask.sum((1, 2, 3)).clamp_min(1) * made.shape[1]
    error = wrong.sum((1, 2, 3)) / share
    apart = []
    for pair in zip(in_batches(made), in_batches(task.images), strict=True):
        with torch.no_grad():
            mine, true = (judge(x.to(judge.device)) for x in pair)
        apart.append((mine - true).norm(dim=1).cpu())
    found = (
        -10 * error.clamp_min(1e-10).log10(), ssim(made, task.images), torch.cat(apart)
    )  # fmt: skip
    return {k: x.tolist() for k, x in zip(PER_IMAGE, found, strict=True)}


def measures(
    judge: Judge, reference: Reference, task: Task, made: Tensor
) -> dict[str, Any]:
    """Of each image, and of the whole set."""
    whole = evaluate(judge, made, reference, task.labels)
    kept = ("rel_fd", "kid_1000", "accuracy")
    return {
        "each": per_image(judge, made, task), "set": {k: whole[k] for k in kept}
    }  # fmt: skip


def summary(found: dict[str, Any]) -> dict[str, float]:
    """Means over the images, and what the whole set has."""
    each = {k: sum(x) / len(x) for k, x in found["each"].items()}
    return each | found["set"]


def divided(fillings: Tensor, task: Task) -> dict[str, float]:
    """The error of several fillings of each hole, divided: what differs, what does not.

    Args:
        fillings: of some seeds, ``(s, n, c, H, W)``.
        task: with the true images.
    Returns:
        Mean square error in the hole on the scale from 0 to 1, the variance between
        the fillings, and the square of their mean's error, without bias.
    """
    inside = task.mask.expand_as(task.images)
    wrong = ((fillings - task.images) / 2)[:, inside].double()
    error, between = wrong.square().mean().item(), wrong.var(0).mean().item()
    return {"error": error, "between": between, "shared": error - between}


def scored(
    score: Callable[[Tensor], dict[str, Any]],
    fill: Callable[[int], Tensor],
    seed: int,
) -> dict[str, Any]:
    """The measures of what is filled with a seed."""
    return score(fill(seed))


Runs = Sequence[dict[str, Any]]


def paired(name: str, first: Runs, second: Runs) -> dict[str, dict[str, Any]]:
    """Differences image by image, of means over the seeds, as values of a record."""
    values = {}
    for key in PER_IMAGE:
        a, b = (
            torch.tensor([run["each"][key] for run in runs], dtype=torch.float64)
            for runs in (first, second)
        )
        mean, error, _ = paired_test(a.mean(0), b.mean(0))
        n = a.shape[1]
        values[f"{name}/{key}"] = {"mean": mean, "sd": error * math.sqrt(n), "n": n}
    return values


def compared(
    name: str, found: dict[tuple[str, str], Runs], models: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Of a task: the first model less the second, and three rounds less the others."""
    first, second = models
    tried, values = dict.fromkeys(way for way, _ in found), {}
    for way in tried:
        pair = found[way, first], found[way, second]
        values |= paired(f"{name}, {way}, {first} less {second}", *pair)
    last = "three rounds"
    for way in tried:
        if way != last:
            pair = found[last, first], found[way, first]
            values |= paired(f"{name}, {last} less {way}, {first}", *pair)
    return values


def some_of(test: ImageSet, each: int = 100) -> ImageSet:
    """The first images of each class, in the order of the file."""
    order = [(test.labels == c).nonzero()[:each, 0] for c in range(len(test.classes))]
    return test.subset(torch.cat(order).sort().values.tolist())
