"""A model against real images of any kind: what ``srdd eval`` prints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .data import FASHION_CLASSES, ImageSet, open_images, permutation
from .experiments import Setting, class_labels, sampled
from .features import (
    LPIPS,
    PUBLISHED_CLASSES,
    PUBLISHED_IMAGES,
    PUBLISHED_SIDES,
    as_folders,
    fd_name,
    feature_net,
    fid_50k,
    read_statistics,
    suited_features,
    voted_accuracy,
)
from .files import CheckpointError
from .metrics import (
    FeatureMoments,
    FeatureNet,
    Judge,
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
    "lpips": "LPIPS",
    "perceptual": "perceptual",
}
LEAST = 40  # two halves of the real images, each enough for a KID over ten parts


def class_order(known: tuple[str, ...], found: tuple[str, ...]) -> Tensor | None:
    """The model's class id of each class of the data; None without classes.

    A folder cannot have a slash in its name: there a class has "-" instead.

    Raises:
        ValueError: the classes are not the same.
    """
    if len(found) == 1 and found != known:
        return None
    known, found = as_folders(known), as_folders(found)
    if sorted(known) != sorted(found):
        unlike = {
            "unknown": [name for name in found if name not in known],
            "missing": [name for name in known if name not in found],
        }
        said = [
            f"{word}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            for word, names in unlike.items()
            if names
        ]
        raise ValueError(
            f"data has {len(found)} classes, want the {len(known)} of the model "
            f"({'; '.join(said)}); name the sub-folders alike and add what is missing, "
            "or put all images into one folder without classes"
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
    on_error: str = "raise",
    upsample: bool = False,
) -> dict[str, Any]:
    """All measures of a model against real images, with floors and yardsticks.

    Args:
        name: of the model.
        data: images that it was not trained on.
        setting: root, seed, device, progress.
        features: name of the network; None takes the one that suits the images.
        train: the training images, to look for copies.
        count: samples; None makes as many as there are real images.
        on_error: "raise" at the first unreadable image, or "skip" them.
        upsample: accept images smaller than the model's.
    Returns:
        model, data, features, sets (a table of measures) and notes.
    Raises:
        ValueError: other classes than the model's, too few images, no network.
    """
    pipe = Pipeline.from_pretrained(name, device=setting.device)
    channels, side, _ = pipe.tokenizer.image_shape
    reading = {"side": side, "channels": channels, "root": setting.root}
    reading |= {"on_error": on_error, "upsample": upsample}
    real = open_images(data, **reading)
    count = len(real) if count is None else count
    if min(len(real), count) < LEAST:
        raise ValueError(
            f"data has {len(real)} real images, count is {count} samples; the measures "
            f"need at least {LEAST} of each: give more"
        )
    order = class_order(pipe.classes, real.classes)
    net = suited_net(pipe, real, features, setting.device)
    points = None if train is None else features_of(net, open_images(train, **reading))
    reference = Reference.of(net, real, points)
    wanted = shuffled_labels(real, order, count, len(pipe.classes))
    made = features_of(net, sampled(pipe, wanted, setting))
    known = None if order is None else order[real.labels]
    asked = None if order is None else wanted
    floors = halves(net, reference, known, made, asked)
    passed, missing = reconstructed(net, pipe, real, setting.device, reference, known)
    sets = {
        "samples": scored_samples(net, made, asked, reference, known),
        "reconstructed": passed,
        **floors,
        "blurred": score(net, reference.soft, reference, known),
        "noise": evaluate(net, noise_like(real), reference),
    }
    against = {row: len(real) // 2 if row in floors else len(real) for row in sets}
    return {
        "model": name,
        "data": real.name,
        "features": net.name,
        "sets": {k: shown(found, net.name, against[k]) for k, found in sets.items()},
        "notes": evaluation_notes(net, real, count, order, train) + missing,
    }


def suited_net(
    pipe: Pipeline, real: ImageSet, features: str | None, device: str
) -> FeatureNet:
    """The feature network that was asked for, or the one that suits the images."""
    shape = pipe.tokenizer.image_shape
    net = feature_net(features or suited_features(shape, real.classes), device)
    if isinstance(net, Judge) and tuple(pipe.classes) != FASHION_CLASSES:
        net.foreign = True  # it names clothes, not these classes
    return net


def scored_samples(
    net: FeatureNet,
    made: Tensor,
    asked: Tensor | None,
    reference: Reference,
    known: Tensor | None,
) -> dict[str, float]:
    """The measures of samples.

    Args:
        made: their features, `asked` the classes they were made for.
        reference: all real images, `known` their classes, if they have any.
    """
    few = len(made) <= net.width  # for a covariance
    found = score(
        net, made, replace(reference, unit=math.nan) if few else reference, asked
    )
    if known is not None and getattr(net, "foreign", False):
        found["voted"] = voted_accuracy(made, asked, reference.real, known)
    return found


def reconstructed(
    net: FeatureNet,
    pipe: Pipeline,
    real: ImageSet,
    device: str,
    reference: Reference,
    known: Tensor | None,
) -> tuple[dict[str, float], list[str]]:
    """The measures of real images after the tokenizer; why one is missing."""
    lpips, missing = learned_distance(device)
    passed = reconstructions(net, pipe.painter, real, device, lpips)
    found = score(net, passed.pop("features"), reference, known)
    return found | {k: value.mean().item() for k, value in passed.items()}, missing


def evaluate_published(
    name: str, *, statistics: str, setting: Setting
) -> dict[str, Any]:
    """FID-50k and IS of a model of ImageNet, by the published protocol.

    Args:
        name: of the model.
        statistics: the evaluator's file for images of that size.
        setting: seed, device, progress.
    Returns:
        model, statistics, features, sets (one row) and notes.
    Raises:
        ValueError: no model of ImageNet, or no network.
        FileNotFoundError: no such file of statistics.
    """
    pipe = Pipeline.from_pretrained(name, device=setting.device)
    shape, classes = pipe.tokenizer.image_shape, len(pipe.classes)
    if classes != PUBLISHED_CLASSES or shape not in [
        (3, s, s) for s in PUBLISHED_SIDES
    ]:
        raise ValueError(
            f"the protocol wants {PUBLISHED_CLASSES:,} classes and 3 x 256 x 256 or 3 x "
            f"512 x 512 pixels, {name} has {classes} classes and images {shape}; measure "
            "it against images of its own kind with --data"
        )
    real = read_statistics(statistics)
    net = feature_net("inception", setting.device)
    labels = class_labels(PUBLISHED_IMAGES, classes)
    found = fid_50k(net, sampled(pipe, labels, setting), labels, real)
    return {
        "model": name,
        "statistics": statistics,
        "features": net.name,
        "sets": {
            "samples": {
                "images": len(labels),
                "FID-50k": found["fid_50k"],
                "IS": found["is"],
                "IS, spread of ten parts": found["is_sd"],
            }
        },
        "notes": [
            f"{PUBLISHED_IMAGES // classes} samples of each class, seeds "
            f"{setting.seed} to {setting.seed + len(labels) - 1}, against all training "
            "images; IS over ten random parts."
        ],
    }


def learned_distance(device: str) -> tuple[LPIPS | None, list[str]]:
    """LPIPS where it can be had under that name; else a note that says why not.

    Raises:
        CheckpointError: its files are there and damaged.
    """
    try:
        net = LPIPS(device)
    except CheckpointError:
        raise
    except (FileNotFoundError, ValueError) as error:
        return None, [f"No LPIPS: {error}."]
    if net.name != "LPIPS":
        return None, ["No LPIPS: the weights in the cache are not the published ones."]
    return net, []


def shown(found: dict[str, float], features: str, real: int) -> dict[str, float]:
    """Measures as the table calls them: only Inception makes an FID and an IS.

    Args:
        found: by the names of `MEASURES`.
        features: name of the network.
        real: images that the set was compared with.
    """
    named = {k: f"{MEASURES[k]} ({features})" for k in ("kid_1000", "perceptual", "is")}
    names = MEASURES | (named if features != "inception" else {})
    names["fd"] = fd_name(features, int(found["images"]), real)
    return {name: found[key] for key, name in names.items() if key in found}


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
    net: FeatureNet,
    tokenizer: Tokenizer,
    real: ImageSet,
    device: str,
    lpips: LPIPS | None = None,
) -> dict[str, Tensor]:
    """Features of the images after the tokenizer, and how near they are to them."""
    distances: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}
    if lpips is not None and tokenizer.image_shape[1] >= LPIPS.least:
        distances["lpips"] = lpips
    if hasattr(net, "stages"):
        distances["perceptual"] = FeatureLoss(net.stages).each
    found: dict[str, list[Tensor]] = {}
    for batch in in_batches(real):
        fake = tokenizer.reconstruct(batch.to(device)).clamp(-1, 1)
        row = fidelity([fake], [batch.to(device)], **distances)
        row["features"] = features_of(net, [fake])
        for key, value in row.items():
            found.setdefault(key, []).append(value)
    return {key: torch.cat(parts) for key, parts in found.items()}


def halves(
    net: FeatureNet,
    reference: Reference,
    labels: Tensor | None,
    made: Tensor,
    asked: Tensor | None,
) -> dict[str, dict[str, float]]:
    """What scores against one random half of the real images.

    Args:
        net: the network of the reference.
        reference: all real images, `labels` their classes, if they have any.
        made: features of the samples, `asked` the classes they were made for.
    Returns:
        The rows of the other half, a floor, and of as many samples as it has images,
        which is left out if there are fewer.
    """
    one, two = permutation(len(reference.real), 0, 1).tensor_split(2)
    unit = math.nan
    if len(two) > reference.real.shape[1]:
        soft, real = (
            FeatureMoments.of(x[two]) for x in (reference.soft, reference.real)
        )
        unit = frechet_distance(soft, real)
    half = Reference(reference.real[two], reference.soft[two], unit)
    some = permutation(len(made), 0, 2)[: len(one)]
    sets = {
        "real halves": (reference.real, labels, one),
        "samples, as many as a half": (made, asked, some),
    }
    rows = {}
    for name, (features, classes, chosen) in sets.items():
        if len(chosen) < len(one):
            continue
        known = None if classes is None else classes[chosen]
        rows[name] = score(net, features[chosen], half, known)
        if labels is not None and getattr(net, "foreign", False):
            rows[name]["voted"] = voted_accuracy(
                features[chosen], known, half.real, labels[two]
            )
    return rows


def evaluation_notes(
    net: FeatureNet,
    real: ImageSet,
    count: int,
    order: Tensor | None,
    train: str | None,
) -> list[str]:
    """What a reader of the table has to know."""
    notes = [
        "Reconstructed: real images through the tokenizer, painted as samples are. Real halves: one random "
        "half against the other, the floor of the samples that are as many as a half. "
        "Blurred: real images, by 0.7 pixels; where there is an FD, theirs is the unit "
        "of rel-FD.",
        "FD, rel-FD, precision, recall, density, coverage and IS compare only at equal "
        "numbers of images and one network; KID comes out a little low for sets that "
        "have as many images of each class.",
    ]
    if net.name != "inception":
        notes.append(f"FD and IS use {net.name} features: they are no FID, no IS.")
    else:
        notes.append(
            "FID is to your images, not to the statistics of the published protocol "
            "(--statistics): no paper has a number to compare it with."
        )
    bound = f"it needs more than the {net.width} features of {net.name}"
    if len(real) <= net.width:
        notes.append(
            f"No FD: {len(real)} real images, and {bound}. KID has no such bound."
        )
    elif len(real) // 2 <= net.width:
        notes.append("No FD of the halves: they have no more images than features.")
    if count <= net.width < len(real):
        notes.append(
            f"No FD of the samples: {count}, and {bound}. KID has no such bound."
        )
    if count < len(real) - len(real) // 2:
        notes.append(f"No floor for the samples: {count} are fewer than a half.")
    if order is None:
        notes.append("The data have no classes: no accuracy.")
    elif getattr(net, "foreign", False):
        notes.append("Accuracy is by vote of the 5 nearest real images.")
    if real.skipped:
        notes.append(f"{real.skipped} unreadable images were left out.")
    if train is None:
        notes.append("Give --train to look for copies of training images.")
    return notes
