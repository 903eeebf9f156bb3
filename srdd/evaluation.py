"""A model against real images of any kind: what ``srdd eval`` prints."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .data import ImageSet, open_images, permutation
from .experiments import Setting, class_labels, sampled
from .features import fd_name, feature_net, suited_features, voted_accuracy
from .metrics import (
    FeatureMoments,
    FeatureNet,
    Reference,
    evaluate,
    features_of,
    fidelity,
    frechet_distance,
    in_batches,
    score,
)
from .pipeline import Pipeline
from .tokenizer import FeatureLoss, Tokenizer

MEASURES = {
    "images": "images",
    "rel_fd": "rel-FD",
    "fd": "FD",
    "kid_1000": "KID x 1000",
    "kid_1000_se": "its error",
    "is": "IS",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "accuracy": "accuracy",
    "voted": "accuracy, 5 nearest",
    "neighbour": "neighbour",
    "copies": "copies",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "perceptual": "perceptual",
}
LEAST = 40  # two halves of the real images, each enough for a KID over ten parts


def class_order(known: tuple[str, ...], found: tuple[str, ...]) -> Tensor | None:
    """The model's class id of each class of the data; None without classes.

    Raises:
        ValueError: the classes are not the same.
    """
    if len(found) == 1 and found != known:
        return None
    if sorted(known) != sorted(found):
        other = [name for name in found if name not in known]
        raise ValueError(
            f"data has {len(found)} classes that are not the model's {len(known)} "
            f"(unknown: {', '.join(other[:5]) or 'none'}; the model's: "
            f"{', '.join(known[:5])}, ...); name the sub-folders alike, or put all "
            "images into one folder without classes"
        )
    return torch.tensor([known.index(name) for name in found])


def noise_like(images: ImageSet) -> Iterator[Tensor]:
    """Uniform noise of the same shapes."""
    generator = torch.Generator().manual_seed(0)
    for real in in_batches(images):
        yield 2 * torch.rand(real.shape, generator=generator) - 1


def evaluate_model(
    name: str,
    *,
    data: str,
    setting: Setting,
    features: str | None = None,
    train: str | None = None,
    count: int | None = None,
) -> dict[str, Any]:
    """All measures of a model against real images, with floors and yardsticks.

    Args:
        name: of the model.
        data: images that it was not trained on.
        setting: root, seed, device, progress.
        features: name of the network; None takes the one that suits the images.
        train: the training images, to look for copies.
        count: samples; None makes as many as there are real images.
    Returns:
        model, data, features, sets (a table of measures) and notes.
    Raises:
        ValueError: other classes than the model's, too few images, no network.
    """
    pipe = Pipeline.from_pretrained(name, device=setting.device)
    shape = pipe.tokenizer.image_shape
    size = {"root": setting.root, "side": shape[1], "channels": shape[0]}
    real = open_images(data, **size)
    if min(len(real), len(real) if count is None else count) < LEAST:
        raise ValueError(
            f"{len(real)} real images and {count or len(real)} samples; the measures "
            f"need at least {LEAST} of each"
        )
    order = class_order(pipe.classes, real.classes)
    features = features or suited_features(shape, real.classes)
    net = feature_net(features, setting.device)
    points = None if train is None else features_of(net, open_images(train, **size))
    reference = Reference.of(net, real, points)
    wanted = shuffled_labels(real, order, count or len(real), len(pipe.classes))
    known = None if order is None else order[real.labels]
    made = features_of(net, sampled(pipe, wanted, setting))
    passed = reconstructions(net, pipe.tokenizer, real, setting.device)
    sets = {
        "samples": score(net, made, reference, wanted if order is not None else None),
        "reconstructed": score(net, passed.pop("features"), reference, known)
        | {key: value.mean().item() for key, value in passed.items()},
        "real halves": halves(net, reference, known),
        "blurred": score(net, reference.soft, reference, known),
        "noise": evaluate(net, noise_like(real), reference),
    }
    if known is not None and getattr(net, "foreign", False):
        sets["samples"]["voted"] = voted_accuracy(made, wanted, reference.real, known)
    return {
        "model": name,
        "data": real.name,
        "features": net.name,
        "sets": {
            row: {
                shown_name(k, net.name, len(wanted)): found[k]
                for k in MEASURES
                if k in found
            }
            for row, found in sets.items()
        },
        "notes": evaluation_notes(net, real, reference, order, train, shape),
    }


def shown_name(key: str, features: str, images: int) -> str:
    """A measure as the table calls it: only Inception features make an FID and an IS."""
    if key == "fd":
        return fd_name(features, images)
    named = key in ("kid_1000", "is") and features != "inception"
    return f"{MEASURES[key]} ({features})" if named else MEASURES[key]


def shuffled_labels(
    real: ImageSet, order: Tensor | None, count: int, classes: int
) -> Tensor:
    """Classes to draw, ``(count,)``: as frequent as among the real images."""
    if order is None:
        return class_labels(count, classes)
    mine = order[real.labels[permutation(len(real), 0, 0)]]
    return mine[torch.arange(count) % len(mine)]


@torch.no_grad()
def reconstructions(
    net: FeatureNet, tokenizer: Tokenizer, real: ImageSet, device: str
) -> dict[str, Tensor]:
    """Features of the images after the tokenizer, and how near they are to them."""
    perceptual = FeatureLoss(net.stages).each if hasattr(net, "stages") else None
    found: dict[str, list[Tensor]] = {}
    for batch in in_batches(real):
        fake = tokenizer.reconstruct(batch.to(device)).clamp(-1, 1)
        row = fidelity([fake], [batch.to(device)], perceptual)
        row["features"] = features_of(net, [fake])
        for key, value in row.items():
            found.setdefault(key, []).append(value)
    return {key: torch.cat(parts) for key, parts in found.items()}


def halves(
    net: FeatureNet, reference: Reference, labels: Tensor | None
) -> dict[str, float]:
    """What one random half of the real images scores against the other."""
    one, two = permutation(len(reference.real), 0, 1).tensor_split(2)
    unit = math.nan
    if len(two) > reference.real.shape[1]:
        soft, real = (
            FeatureMoments.of(x[two]) for x in (reference.soft, reference.real)
        )
        unit = frechet_distance(soft, real)
    half = Reference(reference.real[two], reference.soft[two], unit)
    found = score(
        net, reference.real[one], half, None if labels is None else labels[one]
    )
    if labels is not None and getattr(net, "foreign", False):
        found["voted"] = voted_accuracy(
            reference.real[one], labels[one], half.real, labels[two]
        )
    return found


def evaluation_notes(
    net: FeatureNet,
    real: ImageSet,
    reference: Reference,
    order: Tensor | None,
    train: str | None,
    shape: tuple[int, ...],
) -> list[str]:
    """What a reader of the table has to know."""
    notes = [
        "Reconstructed: real images through the tokenizer. Real halves: one random "
        "half against the other, a floor. Blurred: real images, by 0.7 pixels; their "
        "FD is the unit of rel-FD.",
        "FD and rel-FD compare only at equal numbers of images and one network.",
    ]
    if net.name != "inception":
        notes.append(f"FD and IS use {net.name} features: they are no FID, no IS.")
    if math.isnan(reference.unit):
        notes.append(
            f"No FD: {len(real)} real images, and it needs more than the {net.width} "
            f"features of {net.name}. KID has no such bound."
        )
    elif len(real) // 2 <= net.width:
        notes.append("No FD of the halves: they have no more images than features.")
    if order is None:
        notes.append("The data have no classes: no accuracy.")
    elif getattr(net, "foreign", False):
        notes.append("Accuracy is by vote of the 5 nearest real images.")
    if train is None:
        notes.append("Give --train to look for copies of training images.")
    return notes
