"""Studies: one small model trained several times, so that a difference has a spread.

A `Variant` says what is trained. A `Study` trains it for some seeds, measures it and
keeps every finished part below a work folder: what was stopped goes on where it was.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .data import ImageSet, digest, open_images
from .distillation import Distilled, with_schedule
from .fast import interleave, one_thread
from .files import write_json
from .runs import TokenSet, encode_images, load_tokens, save_tokens, token_fingerprint
from .ledger import each, fit, once, part
from .metrics import Images, Judge, Reference, features_of, score
from .records import single, spread
from .resampling import resample
from .sampling import SampleConfig, Sampled, image_seeds
from .scales import ScaleSchedule
from .tokenizer import Tokenizer
from .training import (
    Task,
    TrainConfig,
    Trainer,
    TransformerTask,
    scale_cross_entropy,
)
from .transformer import ScaleTransformer, TransformerConfig

SEEDS = (0, 1, 2)
BATCH, GPU_BATCH = 250, 1000
STUDY_SAMPLES = 2500
STUDY_SAMPLING = SampleConfig(guidance=2.0, guidance_rule="linear")
MakeTask = Callable[[ScaleTransformer, Tokenizer, TokenSet, TrainConfig], Task]


@dataclass(frozen=True)
class Variant:
    """What is trained; the defaults are the *study size*.

    Args:
        depth, width, heads: of the transformer.
        mask: which scales a scale may look at.
        steps, batch, lr: of the training.
        init: model whose weights it starts from; None starts anew.
        network: other fields of `TransformerConfig`.
        training: other fields of `TrainConfig`.
    """

    depth: int = 2
    width: int = 64
    heads: int = 2
    mask: str = "markov"
    steps: int = 1000
    batch: int = 32
    lr: float = 3e-3
    init: str | None = None
    network: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    def config(self, tokenizer: Tokenizer, classes: int) -> TransformerConfig:
        """The network for the tokens of `tokenizer`."""
        mine = tokenizer.config
        return TransformerConfig(
            self.depth,
            self.width,
            self.heads,
            schedule=mine.schedule,
            vocab=mine.vocab,
            code_width=mine.code_width,
            classes=classes,
            mask=self.mask,
            **self.network,
        )

    def train_config(self, seed: int, marks: int) -> TrainConfig:
        """The training of one seed, with `marks` states saved on the way."""
        usual = {"ema": 0.99, "warmup": min(100, self.steps // 4), "log_every": 50}
        return TrainConfig(
            self.steps,
            self.batch,
            self.lr,
            seed=seed,
            save_every=-(-self.steps // marks),
            **(usual | self.training),
        )


class FashionSets:
    """Fashion-MNIST and the judge, opened when they are first asked for."""

    root: str | None = None
    """Where Fashion-MNIST lies; None asks `$SRDD_DATA`."""

    device: str = "cpu"
    """Where networks are trained and images measured."""

    @cached_property
    def train(self) -> ImageSet:
        """The training images."""
        return open_images("fashion", root=self.root)

    @cached_property
    def test(self) -> ImageSet:
        """The test images."""
        return open_images("fashion-test", root=self.root)

    @cached_property
    def judge(self) -> Judge:
        """The feature network."""
        return Judge.from_pretrained("judge", device=self.device)

    @cached_property
    def reference(self) -> Reference:
        """The test images as the judge sees them."""
        return Reference.of(self.judge, self.test)


def drawn(
    model: ScaleTransformer,
    tokenizer: Tokenizer,
    labels: Tensor,
    *,
    sampling: SampleConfig,
    seed: int,
    progress: bool = False,
) -> Iterator[Sampled]:
    """Samples of the labels in batches, seeded one by one.

    Args:
        model, tokenizer: a pair.
        labels: class ids ``(n,)``.
        sampling: settings, passes included.
        seed: of the run.
        progress: show a bar.
    """
    seeds, parts = image_seeds(seed, len(labels)), batches(model, len(labels))

    def make(own: slice) -> Sampled:
        how = {"config": sampling, "seeds": seeds[own]}
        return resample(model, tokenizer, labels[own], **how)

    yield from each(make, tqdm(parts, disable=not progress, leave=False))


def batches(model: nn.Module, count: int) -> list[slice]:
    """Parts of so many images, larger ones where a network is on a GPU."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    size = BATCH if on_cpu else GPU_BATCH
    return [slice(at, min(at + size, count)) for at in range(0, count, size)]


class Study(FashionSets):
    """Trains and measures variants on the tokens of Fashion-MNIST.

    Args:
        work: folder of all that is kept.
        root: where Fashion-MNIST lies; None asks `$SRDD_DATA`.
        tokenizer: folder or name, or a tokenizer.
        schedule: other sides than the tokenizer's own.
        task: makes what `srdd.training.fit` trains.
        device: where all networks are; names of files do not depend on it.
        progress: show bars.
    """

    flips = False
    """Whether the mirror images of the training images are learned too."""

    def __init__(
        self,
        work: str | Path = "runs",
        *,
        root: str | None = None,
        tokenizer: str | Tokenizer = "fashion",
        schedule: ScaleSchedule | None = None,
        task: MakeTask = TransformerTask,
        device: str = "cpu",
        progress: bool = False,
    ) -> None:
        self.work, self.root, self.device = Path(work), root, device
        self.progress = progress
        if isinstance(tokenizer, str):
            tokenizer = Tokenizer.from_pretrained(tokenizer)
        if schedule is not None:
            tokenizer = with_schedule(tokenizer, schedule)
        self.tokenizer = tokenizer.to(device, memory_format=torch.channels_last)
        self.task, self.encode = task, self.tokenizer.encode
        self.mark = weights_digest(self.tokenizer)

    def tokens(self, images: ImageSet) -> TokenSet:
        """Tokens of a set, encoded once and kept in the work folder."""
        flips = self.flips and images is self.train
        expect = token_fingerprint(images, self.mark, flips)
        path = self.work / f"tokens-{expect[:12]}.safetensors"

        def make() -> None:
            found = encode_images(
                images,
                lambda pixels: self.encode(pixels.to(self.device)),
                sides=self.tokenizer.schedule.sides,
                tokenizer_hash=self.mark,
                flips=flips,
            )
            save_tokens(path, found)

        once(path, make)
        return load_tokens(path, expect)

    def folder(self, variant: Variant, seed: int) -> Path:
        """Where a run is kept: named by everything that decides its result."""
        made = getattr(self.task, "__qualname__", type(self.task).__name__)
        facts = json.dumps([asdict(variant), made, self.mark], sort_keys=True)
        return self.work / "studies" / digest(facts)[:12] / f"seed-{seed}"

    def run(self, variant: Variant, seed: int, marks: int = 4) -> list[Path]:
        """Train a variant for one seed, or find that it was trained before.

        Returns:
            The model folders of the averaged weights at `marks` equal parts of
            the training, the last being the result.
        """
        folder = self.folder(variant, seed)
        config = variant.train_config(seed, marks)
        steps = [min((i + 1) * config.save_every, config.steps) for i in range(marks)]
        saved = [folder / f"step-{step:06d}" for step in dict.fromkeys(steps)]

        def make() -> None:
            tokens = self.tokens(self.train)
            model = self.start(variant, seed, len(tokens.classes))
            write_json(folder / "variant.json", asdict(variant) | {"seed": seed})

            def keep(step: int, averaged: nn.Module) -> None:
                averaged.save_pretrained(folder / f"step-{step:06d}")

            fit(
                self.task(model, self.tokenizer, tokens, config),
                config,
                folder,
                progress=self.progress,
                on_save=keep,
            )
            shutil.rmtree(folder / "states")

        once(saved[-1] / "manifest.json", make)
        return saved

    def start(self, variant: Variant, seed: int, classes: int) -> ScaleTransformer:
        """The network before training: fresh for its seed, or another's weights."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = ScaleTransformer(variant.config(self.tokenizer, classes))
        if variant.init is not None:
            start = ScaleTransformer.from_pretrained(variant.init)
            fresh = model.state_dict() if variant.network.get("mask_blocks") else {}
            model.load_state_dict(fresh | start.state_dict())  # or a fresh mask head
        return model.to(self.device)

    def saved(self, folder: str | Path) -> ScaleTransformer:
        """A saved network on the device of the study, in evaluation mode."""
        return ScaleTransformer.from_pretrained(folder, device=self.device)

    def step_seconds(self, variants: dict[str, Variant]) -> dict[str, float]:
        """Seconds of a training step of each, see `seconds_in_turn`."""
        tokens = self.tokens(self.train)

        def ready(variant: Variant) -> Callable[[], Any]:
            config = variant.train_config(0, 1)
            model = self.start(variant, 0, len(tokens.classes))
            task = self.task(model, self.tokenizer, tokens, config)
            trainer = Trainer(task, config, self.work)
            batches = iter(task.batches(0))
            return lambda: trainer.train_step(next(batches))

        steps = {name: ready(v) for name, v in variants.items()}
        return seconds_in_turn(steps, self.device)

    def measure(
        self,
        saved: Path,
        *,
        sampling: SampleConfig = STUDY_SAMPLING,
        count: int = STUDY_SAMPLES,
        seed: int = 0,
    ) -> dict[str, float]:
        """Quality of a saved model: samples against the test images.

        Returns:
            What `srdd.metrics.evaluate` gives.
        """
        facts = json.dumps([asdict(sampling), count, seed], sort_keys=True)
        return self.kept(
            saved / f"quality-{digest(facts)[:12]}.json",
            lambda: self.quality(self.saved(saved), sampling, count, seed),
        )

    def quality(
        self, model: ScaleTransformer, sampling: SampleConfig, count: int, seed: int
    ) -> dict[str, float]:
        """Sample balanced classes and compare them with the test images."""
        labels = torch.arange(count) % model.config.classes
        made = drawn(model, self.tokenizer, labels, sampling=sampling, seed=seed)
        return self.judged((part.images for part in made), labels)

    def judged(self, images: Images, labels: Tensor) -> dict[str, float]:
        """All measures of images of some classes, computed on the study's device."""
        return self.scored(features_of(self.judge, images), labels)

    def scored(self, features: Tensor, labels: Tensor) -> dict[str, float]:
        """All measures of the features of such images."""
        real = replace(self.reference, real=self.reference.real.to(self.device))
        return score(self.judge, features.to(self.device), real, labels)

    def cross_entropy(self, saved: Path, count: int = 2000) -> dict[str, float]:
        """Cross-entropy on test images, nats per token: each scale and the mean."""

        def measured() -> dict[str, float]:
            every = self.tokens(self.test)
            some = replace(
                every, tokens=every.tokens[:count], labels=every.labels[:count]
            )
            model = self.saved(saved)
            losses = scale_cross_entropy(model, self.tokenizer, some)
            counts = torch.tensor(self.tokenizer.schedule.counts)
            named = {f"scale {k}": x for k, x in enumerate(losses.tolist(), 1)}
            return named | {"mean": ((losses * counts).sum() / counts.sum()).item()}

        return self.kept(saved / f"cross-entropy-{count}.json", measured)

    def kept(self, path: Path, measure: Callable[[], dict[str, float]]) -> Any:
        """What was measured before, or measure it and keep it."""
        return part(path, measure)


def seconds_in_turn(
    candidates: dict[str, Callable[[], Any]], device: str
) -> dict[str, float]:
    """Median seconds of calls that are made in turn, on one thread.

    CPU seconds on a CPU; on a CUDA device those until it is done.

    Args:
        candidates: name to a function without arguments.
        device: where they compute.
    """
    on_cpu = torch.device(device).type == "cpu"

    def finished(run: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> None:
            run()
            torch.cuda.synchronize(device)

        return run if on_cpu else call

    calls = {name: finished(run) for name, run in candidates.items()}
    clock = time.process_time if on_cpu else time.perf_counter
    with one_thread():
        found = interleave(calls, clock=clock)
    return {name: timing.median for name, timing in found.items()}


def weights_digest(module: nn.Module) -> str:
    """A hash of all weights and of the config."""
    state = module.state_dict()
    parts = [state[key].cpu().contiguous().numpy().tobytes() for key in sorted(state)]
    return digest(json.dumps(asdict(module.config), sort_keys=True), *parts)


def encoding_digest(made: Distilled) -> str:
    """What the tokens of a distilled schedule depend on, besides the images."""
    mark = weights_digest(made.tokenizer)
    return digest(mark, made.meaning) if made.meaning == "student" else mark


def over_seeds(
    name: str, measured: Sequence[dict[str, float]]
) -> dict[str, dict[str, Any]]:
    """Values of a record: each measure of some runs with its spread."""
    return {
        f"{name}/{key}": spread([run[key] for run in measured]) for key in measured[0]
    }


def resolution(
    base: Sequence[dict[str, float]], other: Sequence[dict[str, float]], key: str
) -> dict[str, dict[str, Any]]:
    """Whether two variants can be told apart by one measure.

    Args:
        base, other: the measures of their runs, seed by seed.
        key: the measure.
    Returns:
        Values of a record: the difference ``other - base`` of the means, its
        standard error from the spread of both, and their ratio.
    """
    sides = [spread([run[key] for run in runs]) for runs in (base, other)]
    difference = sides[1]["mean"] - sides[0]["mean"]
    error = sum(side["sd"] ** 2 / side["n"] for side in sides) ** 0.5
    found = {"difference": difference, "error": error, "ratio": difference / error}
    return {f"{key}, {name}": single(value) for name, value in found.items()}


def crossing(costs: Sequence[float], values: Sequence[float], level: float) -> float:
    """Cost at which a falling curve reaches a level, by straight lines."""
    for i in range(1, len(values)):
        if values[i] <= level <= values[i - 1]:
            fall = values[i - 1] - values[i]
            share = (values[i - 1] - level) / fall if fall else 0.0
            return costs[i - 1] + share * (costs[i] - costs[i - 1])
    return float("nan")


def time_to_equal(
    base: Sequence[Sequence[dict[str, float]]],
    other: Sequence[Sequence[dict[str, float]]],
    key: str,
    cost: str,
) -> list[dict[str, float]]:
    """Ratio of costs to the same quality, seed by seed.

    Args:
        base, other: for each mark of the training, the measures of each seed.
        key: the measure that falls.
        cost: the measure that counts.
    Returns:
        For each seed ``{"ratio": base / other}`` at the higher of their final
        values, which both reach.
    """
    found = []
    for runs in zip(zip(*base, strict=True), zip(*other, strict=True), strict=True):
        curves = [([m[cost] for m in run], [m[key] for m in run]) for run in runs]
        level = max(values[-1] for _, values in curves)
        reached = [crossing(costs, values, level) for costs, values in curves]
        found.append({"ratio": reached[0] / reached[1]})
    return found
