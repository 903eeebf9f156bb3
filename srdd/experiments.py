"""Named experiments: each measures one claim and writes one record to results/."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import ledger, records
from .costs import decoder_flops
from .data import ImageSet, digest, open_images, permutation
from .distillation import generation_flops, shortened
from .fast import Timing
from .features import feature_net, shipped_judge, train_judge
from .files import read_json, resolve_model
from .runs import TrainLog, encode_images
from .gpu_speed import gpu_suite
from .likelihood import count_collisions
from .metrics import (
    FeatureNet,
    Images,
    Judge,
    Reference,
    blur,
    evaluate,
    features_of,
    in_batches,
    yardsticks,
)
from .peer_speed import PUBLIC, checkout, public_suite, revision
from .pipeline import Pipeline
from .presets import EVERY, GRID, MODELS, WIDE, chosen
from .records import (
    command_line,
    commit_id,
    environment,
    read_record,
    single,
    spread,
    write_record,
)
from .resampling import resample
from .sampling import SampleConfig, image_seeds
from .speed import fashion_suite, var_suite
from .studies import (
    SEEDS,
    STUDY_SAMPLES,
    STUDY_SAMPLING,
    Study,
    Variant,
    drawn,
    over_seeds,
    resolution,
    seconds_in_turn,
    time_to_equal,
)
from .theorem import PROPOSITIONS, check_all
from .tokenizer import Tokenizer, psnr
from .tokenizer_study import VOCABS, TokenizerStudy, reconstruction
from .training import scale_cross_entropy
from .transformer import ScaleTransformer

BATCH, MARKS = 250, 4
SAMPLING_SEEDS, SOME = 3, 2500
PAIR = dict(zip(("Markovian", "causal twin"), MODELS, strict=True))


@dataclass(frozen=True)
class Setting:
    """What every experiment is told."""

    root: str | None = None
    seed: int = 0
    device: str = "cpu"
    out: str | None = None
    progress: bool = False
    work: str = "runs"

    def part(
        self, name: str, measure: Callable[[], dict[str, float]]
    ) -> dict[str, float]:
        """Measure one part of an experiment, or find that this was done before.

        A part is kept below the work folder with its cost, for the commit that
        measured it: a run that was stopped goes on where it was. With changed
        files, or outside of a checkout, nothing is kept.
        """
        commit = commit_id()
        if commit.endswith("+") or commit == "unknown":
            return measure()
        facts = asdict(replace(self, progress=False, work="", root=None))
        key = digest(json.dumps([name, facts], sort_keys=True))[:12]
        path = Path(self.work) / "parts" / commit / f"{key}.json"
        return ledger.part(path, measure)


@dataclass(frozen=True)
class Experiment:
    """A row of the table: the claim it speaks about, and what to run.

    Args:
        claim: the sentence that the values speak about.
        measure: gives the values, and other fields of the record.
        counted: whether operations are; not where something compiled is timed.
        seeded: whether ``--seed`` moves its draws. The others have training seeds of
            their own, which are part of the claim, or draw nothing.
    """

    claim: str
    measure: Callable[[Setting], dict[str, Any]]
    counted: bool = True
    seeded: bool = False


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
    made = drawn(
        pipe.transformer,
        pipe.painter,
        labels,
        sampling=pipe.config_with(None, changes),
        seed=setting.seed,
        progress=setting.progress,
    )
    for part in made:
        yield part.images.cpu()


@torch.no_grad()
def reconstructed(tokenizer: Tokenizer, images: ImageSet) -> Iterator[Tensor]:
    """Reconstructions of a set in batches."""
    device = next(tokenizer.parameters()).device
    for real in in_batches(images):
        yield tokenizer.reconstruct(real.to(device))


def fashion(setting: Setting) -> tuple[ImageSet, ImageSet]:
    """Training and test images of Fashion-MNIST."""
    names = ("fashion", "fashion-test")
    train, test = (open_images(name, root=setting.root) for name in names)
    return train, test


def pipeline(name: str, setting: Setting, own: bool = False) -> Pipeline:
    """A model on the device of a setting.

    Args:
        name: of the model.
        setting: says where.
        own: painted by the tokenizer's own decoder, whoever paints otherwise.
    """
    pipe = Pipeline.from_pretrained(name, device=setting.device)
    if own:
        pipe.painter = pipe.tokenizer
    return pipe


def clock(device: str) -> str:
    """What seconds are of: "CPU" or "GPU"."""
    return "CPU" if device == "cpu" else "GPU"


def rows(measured: dict[str, dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Measures of several sets as values of a record: ``set/measure``."""
    return {
        f"{name}/{key}": single(value)
        for name, values in measured.items()
        for key, value in values.items()
    }


def compared_with(judge: Judge, train: ImageSet, test: ImageSet) -> Reference:
    """The test images as reference, with the training images to look for copies."""
    return Reference.of(judge, test, features_of(judge, train))


def known_sets(
    judge: Judge, reference: Reference, train: ImageSet, test: ImageSet, seed: int
) -> dict[str, dict[str, float]]:
    """The yardsticks, with as many training images as there are test images."""
    part = train.subset(balanced(train, len(test), seed).tolist())
    return yardsticks(judge, reference, test, part)


def measure_judge(setting: Setting) -> dict[str, Any]:
    """Train the judge, save it, and measure the yardsticks with it."""
    train, test = fashion(setting)
    out = Path(setting.out or "judge")
    judge = train_judge(
        train,
        out.with_name(out.name + "-training"),
        dtype="bfloat16",
        seed=setting.seed,
        device=setting.device,
        progress=setting.progress,
    )
    facts = {
        "data": "Fashion-MNIST, the 60,000 training images",
        "licence": "data: MIT, Zalando SE 2017; weights: Apache-2.0",
        "command": "srdd experiment judge",
    }
    judge.save_pretrained(out, dtype=torch.float16, **facts)
    # as it will be used: float16 on disk
    judge = Judge.from_pretrained(out, device=setting.device)
    reference = compared_with(judge, train, test)
    return {"values": rows(known_sets(judge, reference, train, test, setting.seed))}


def sample_quality(
    judge: Judge,
    reference: Reference,
    labels: Tensor,
    pipe: Pipeline,
    setting: Setting,
    **changes: Any,
) -> dict[str, float]:
    """All measures of samples with some settings of sampling changed."""
    images = sampled(pipe, labels, setting, **changes)
    return evaluate(judge, images, reference, labels)


def measure_quality(setting: Setting) -> dict[str, Any]:
    """Samples, reconstructions and yardsticks against the test images."""
    train, test = fashion(setting)
    judge = shipped_judge(setting.device)
    reference = compared_with(judge, train, test)
    labels = class_labels(len(test), len(test.classes))
    pipes = {k: pipeline(v, setting) for k, v in PAIR.items()}
    tokenizer = pipes["Markovian"].tokenizer
    seeds, values = [setting.seed + i for i in range(SAMPLING_SEEDS)], {}
    for name, pipe in pipes.items():
        for how, changes in (("guided", {}), ("not guided", {"guidance": 1.0})):
            runs = []
            for seed in seeds:
                told = replace(setting, seed=seed)
                known = (judge, reference, labels, pipe, told)
                measure = partial(sample_quality, *known, **changes)
                runs.append(told.part(f"quality of {name}, {how}", measure))
            values |= over_seeds(f"{name}, {how}", runs)
    images = reconstructed(tokenizer, test)
    measured = {"reconstructions": evaluate(judge, images, reference, test.labels)}
    measured |= known_sets(judge, reference, train, test, setting.seed)
    with torch.no_grad():
        pairs = zip(reconstructed(tokenizer, test), in_batches(test), strict=True)
        errors = [psnr(fake.cpu(), real) for fake, real in pairs]
    measured["reconstructions"]["psnr_db"] = torch.cat(errors).mean().item()
    return {"values": values | rows(measured), "seeds": seeds}


WEIGHTS = {
    "linear": (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0),
    "constant": (1.0, 1.25, 1.5, 2.0, 3.0),
}


def measure_guidance(setting: Setting) -> dict[str, Any]:
    """rel-FD against the guidance weight, on 2,500 samples of three seeds."""
    train, test = fashion(setting)
    judge = shipped_judge(setting.device)
    reference = compared_with(judge, train, test)
    labels = class_labels(SOME, len(test.classes))
    pipe, values = pipeline("fashion", setting, own=True), {}
    seeds = [setting.seed + i for i in range(SAMPLING_SEEDS)]
    for rule, weights in WEIGHTS.items():
        for weight in weights:
            name, runs = f"{rule} {weight}", []
            for seed in seeds:
                told = replace(setting, seed=seed)
                known = (judge, reference, labels, pipe, told)
                changes = {"guidance": weight, "guidance_rule": rule}
                measure = partial(sample_quality, *known, **changes)
                runs.append(told.part(f"guidance {name}", measure))
            values |= over_seeds(name, runs)
    return {"values": values, "seeds": seeds}


TRUNCATIONS: dict[str, dict[str, tuple[float, float]]] = {
    "temperature": {"0.8": (0.8, 0.8), "0.9": (0.9, 0.9), "1.1": (1.1, 1.1),
                    "1 to 0.8": (1.0, 0.8), "0.8 to 1": (0.8, 1.0)},
    "top_k": {"32": (32, 32), "64": (64, 64), "128": (128, 128),
              "512 to 32": (512, 32), "32 to 512": (32, 512)},
    "top_p": {"0.8": (0.8, 0.8), "0.9": (0.9, 0.9), "0.95": (0.95, 0.95),
              "1 to 0.8": (1.0, 0.8), "0.8 to 1": (0.8, 1.0)},
}  # fmt: skip
"""Of each lever: what it is at the first and at the last scale, even steps between."""


def measure_truncation(setting: Setting) -> dict[str, Any]:
    """rel-FD by temperature, top k and top p, alike at all scales or changing."""
    _, test = fashion(setting)
    judge = shipped_judge(setting.device)
    known = judge, Reference.of(judge, test), class_labels(SOME, len(test.classes))
    pipe, values = pipeline("fashion", setting, own=True), {}
    scales = len(pipe.tokenizer.schedule)
    tried: dict[str, dict[str, Any]] = {"the law itself": {}}
    for lever, ways in TRUNCATIONS.items():
        kind = int if lever == "top_k" else float
        for name, ends in ways.items():
            steps = torch.linspace(*ends, scales, dtype=torch.float64).tolist()
            numbers = tuple(kind(round(x, 6)) for x in steps)
            tried[f"{lever} {name}"] = {lever: numbers}
    seeds = [setting.seed + i for i in range(SAMPLING_SEEDS)]
    for name, changes in tried.items():
        runs = []
        for seed in seeds:
            told = replace(setting, seed=seed)
            measure = partial(sample_quality, *known, pipe, told, **changes)
            runs.append(told.part(f"truncation: {name}", measure))
        values |= over_seeds(name, runs)
    return {"values": values, "seeds": seeds}


KEPT = ("kid_1000", "kid_1000_se", "precision", "recall", "coverage")


def photograph_features(
    reference: Reference, net: FeatureNet, images: Callable[[], Images]
) -> dict[str, float]:
    """The measures that need no more images than there are features."""
    found = evaluate(net, images(), reference)
    return {key: found[key] for key in KEPT}


def measure_features(setting: Setting) -> dict[str, Any]:
    """KID in the features of a network of photographs, 2,500 images of each set."""
    train, test = fashion(setting)
    net = feature_net("efficientnet", setting.device)
    held, some = (
        test.subset(balanced(test, 2 * SOME, setting.seed)[at::2].tolist())
        for at in (0, 1)
    )
    reference, labels = Reference.of(net, held), class_labels(SOME, len(test.classes))
    part = train.subset(balanced(train, SOME, setting.seed).tolist())
    tokenizer = pipeline("fashion", setting).tokenizer
    sets: dict[str, Callable[[], Images]] = {
        "other test images": lambda: some,
        "training images": lambda: part,
        "test images, blurred": lambda: (blur(x) for x in in_batches(some)),
        "reconstructions": lambda: reconstructed(tokenizer, some),
    }
    measured = {
        name: setting.part(name, partial(photograph_features, reference, net, images))
        for name, images in sets.items()
    }
    values, seeds = rows(measured), [setting.seed + i for i in range(SAMPLING_SEEDS)]
    for name, model in PAIR.items():
        pipe = pipeline(model, setting, own=True)
        for how, changes in (("guided", {}), ("not guided", {"guidance": 1.0})):
            runs = []
            for seed in seeds:
                told = replace(setting, seed=seed)
                made = partial(sampled, pipe, labels, told, **changes)
                measure = partial(photograph_features, reference, net, made)
                runs.append(told.part(f"{name}, {how}, features", measure))
            values |= over_seeds(f"{name}, {how}", runs)
    return {"values": values, "seeds": seeds}


SCREEN_SEED = 100


def measure_presets(model: str, setting: Setting) -> dict[str, Any]:
    """A screen of settings of a shipped model; the chosen ones with three seeds."""
    train, test = fashion(setting)
    judge = shipped_judge(setting.device)
    reference = Reference.of(judge, test)
    labels, values = class_labels(SOME, len(test.classes)), {}
    pipes = {own: pipeline(model, setting, own) for own in (False, True)}
    network = pipes[True].transformer.config

    def quality(name: str, seed: int, own: bool = False) -> dict[str, float]:
        told, changes = replace(setting, seed=seed), vars(EVERY[name])
        known = (judge, reference, labels, pipes[own], told)
        measure = partial(sample_quality, *known, **changes)
        part = told.part(f"preset of {model}: {name}, {WIDE if own else ''}", measure)
        painter = pipes[own].painter.config
        return part | {"flops": generation_flops(network, painter, EVERY[name]).total}

    for name in EVERY if network.mask == "markov" else GRID:
        values |= rows({f"screen, {name}": quality(name, SCREEN_SEED)})
    seeds, runs = [setting.seed + i for i in range(SAMPLING_SEEDS)], {}
    for preset, name in chosen(values).items():
        for own, row in ((False, preset), (True, f"{preset}, {WIDE}")):
            values |= over_seeds(row, [quality(name, seed, own) for seed in seeds])
            runs[row] = partial(
                resample,
                pipes[own].transformer,
                pipes[own].painter,
                class_labels(64, len(test.classes)),
                config=EVERY[name],
                seeds=image_seeds(0, 64),
            )
    for row, seconds in seconds_in_turn(runs, setting.device).items():
        key = f"{row}/{clock(setting.device)} seconds of 64 images"
        values[key] = single(seconds)
    return {"values": values, "seeds": seeds}


def measure_tokenizer_gap(setting: Setting) -> dict[str, Any]:
    """What tokenizers lose: the shipped one, and small ones by number of codes."""
    study = TokenizerStudy(
        setting.work, setting.root, setting.device, progress=setting.progress
    )
    known = (study.judge, study.reference, study.test)
    shipped = Tokenizer.from_pretrained("fashion", device=setting.device)
    found = setting.part("shipped", partial(reconstruction, shipped, *known))
    values = rows({"shipped tokenizer": found})
    for vocab in (*VOCABS, None):
        name = f"{vocab} codes" if vocab else "no quantizer"
        values |= over_seeds(name, study.measured(vocab, SEEDS))
    return {"values": values, "seeds": list(SEEDS)}


def measure_loss(setting: Setting) -> dict[str, Any]:
    """Cross-entropy per scale of the shipped pair, nats per token."""
    train, test = fashion(setting)
    part = train.subset(balanced(train, len(test), setting.seed).tolist())
    measured = {}
    for name in ("fashion", "fashion-causal"):
        pipe = pipeline(name, setting)
        model, tokenizer = pipe.transformer, pipe.tokenizer
        counts = torch.tensor(tokenizer.schedule.counts)
        for which, images in (("train", part), ("test", test)):
            tokens = encode_images(
                images,
                lambda pixels, own=tokenizer: own.encode(pixels.to(setting.device)),
                sides=tokenizer.schedule.sides,
                tokenizer_hash="not kept",
            )
            losses = scale_cross_entropy(model, tokenizer, tokens)
            named = {f"scale {k}": x for k, x in enumerate(losses.tolist(), 1)}
            mean = (losses * counts).sum() / counts.sum()
            measured[f"{name}, {which}"] = named | {"mean": mean.item()}
    return {"values": rows(measured)}


def measure_theorem(setting: Setting) -> dict[str, Any]:
    """Every proposition of chapters 2 and 7 on five random toys, exactly."""
    seeds = [setting.seed + i for i in range(5)]
    found = check_all(seeds)
    values = {name: spread(numbers) for name, numbers in found.items()}
    for label in PROPOSITIONS:
        gaps = [
            abs(number)
            for name, numbers in found.items()
            for number in numbers
            if name.startswith(f"{label}/difference")
        ]
        values[f"{label}/largest difference"] = single(max(gaps))
    return {"values": values, "seeds": seeds, "tier": "toy"}


def measure_collisions(setting: Setting) -> dict[str, Any]:
    """Prefixes and values of the shipped tokenizer that differ, 60,000 images."""
    train, _ = fashion(setting)
    tokenizer = Pipeline.from_pretrained("fashion").tokenizer
    sides = tokenizer.schedule.sides
    with torch.no_grad():
        tokens = encode_images(
            train, tokenizer.encode, sides=sides, tokenizer_hash="not kept"
        ).tokens
    values = {"images": single(len(train))}
    for k, pair in enumerate(count_collisions(tokenizer, tokens), start=2):
        for name, count in zip(("prefixes", "values"), pair, strict=True):
            values[f"scale {k}/{name}"] = single(count)
    return {"values": values}


def trained_as(name: str) -> Variant:
    """What a shipped transformer was trained as, by its own manifest."""
    own = ScaleTransformer.from_pretrained(name).config
    made = read_json(resolve_model(name) / "manifest.json")["training"]["train.json"]
    how = {key: value for key, value in made["train"].items() if key != "save_every"}
    size = {key: how.pop(key) for key in ("steps", "batch", "lr")}
    how |= {"log_every": 20}
    return Variant(own.depth, own.width, own.heads, own.mask, **size, training=how)


def measure_training(setting: Setting) -> dict[str, Any]:
    """The transformers of the shipped pair, trained once more as they were."""
    study, values = study_of(setting), {}
    for name in MODELS:
        variant = trained_as(name)
        *_, last = study.run(variant, setting.seed, marks=10)
        lines = TrainLog.rows(study.folder(variant, setting.seed) / "log.jsonl")
        losses = {line["step"]: line["loss/model"] for line in lines}
        for end in range(100, max(losses) + 1, 100):
            near = [v for step, v in losses.items() if end - 100 < step <= end]
            mean = {"cross_entropy": sum(near) / len(near)}
            values |= rows({f"{variant.mask} {end}": mean})
        shipped = ScaleTransformer.from_pretrained(name)
        shipped = shipped.save_pretrained(study.work / "studies" / f"shipped-{name}")
        for who, saved in (("again", last), ("as shipped", shipped)):
            values |= rows({f"{variant.mask}, {who}": cross_entropy(study, saved)})
    return {"values": values}


def measure_speed(setting: Setting) -> dict[str, Any]:
    """Seconds, ratios and bytes of the shipped pair, on one thread."""
    found = fashion_suite(20)
    values: dict[str, Any] = {
        "generate 64, causal / Markovian": single(
            found["generate_ratio_causal_over_markov"]
        ),
        "training step of 32, dense / packed": single(
            found["train_ratio_dense_over_packed"]
        ),
    }
    for what in ("generate_64", "train_step_32"):
        for name, timing in found[what].items():
            for part in ("median", "low", "high"):
                values[f"{what}/{name}, CPU seconds, {part}"] = single(timing[part])
    for what in ("saved_bytes", "cache_bytes_64"):
        for name, count in found[what].items():
            values[f"{what}/{name}"] = single(count)
    return {"values": values}


def rounds(name: str, numbers: list[float]) -> dict[str, Any]:
    """A measure over the rounds of a run, with its median and quartiles."""
    timing = asdict(Timing.of(numbers))
    ends = {f"{name}, {e}": single(timing[e]) for e in ("low", "median", "high")}
    return {name: spread(numbers)} | ends


def measure_var_speed(setting: Setting) -> dict[str, Any]:
    """The published size d16 with random weights: the usual algorithm and ours."""
    found, values = var_suite(), {}
    for part in ("sampling", "training", "compiled", "large"):
        where = "" if part in ("sampling", "training") else f"{part}, few blocks: "
        for name, numbers in found[part].get("ratios", {}).items():
            values |= rounds(name, numbers)
        for name, numbers in found[part].get("seconds", {}).items():
            values |= rounds(f"{where}{name}, CPU seconds", numbers)
    for name, numbers in found["wastes"]["shares"].items():
        values |= rounds(f"waste/{name}", numbers)
    for name, row in found["counts"].items():
        values |= {f"{name}/{key}": single(number) for key, number in row.items()}
    for name, row in found["memory"].items():
        values |= {f"{name}, {key}": single(number) for key, number in row.items()}
    for part in ("bytes moved in bfloat16", "decoder, batch of 8", "GFLOP per image"):
        values |= {f"{part}/{k}": single(number) for k, number in found[part].items()}
    values |= {
        key: single(number) for key, number in found["sampling"]["equal"].items()
    }
    values["blocks of the table of wastes"] = single(found["wastes"]["blocks"])
    return {"values": values, "tier": "full scale"}


def measure_var_peer(setting: Setting) -> dict[str, Any]:
    """The public implementation, whose checkout is the root, beside ours."""
    found = public_suite(setting.root)
    values = {f"equal/{name}": single(n) for name, n in found["equal"].items()}
    for name, numbers in found["ratios"].items():
        values |= rounds(name, numbers)
    for name, numbers in found["seconds"].items():
        values |= rounds(f"{name}, CPU seconds", numbers)
    for name, row in found["counts"].items():
        values |= {f"{name}/{key}": single(number) for key, number in row.items()}
    versions = environment()["versions"] | {PUBLIC: revision(checkout(setting.root))}
    command = command_line().replace("$SRDD_DATA", "$SRDD_PEER")
    facts = {"tier": "full scale", "versions": versions, "command": command}
    return facts | {"values": values}


def measure_var_gpu(setting: Setting) -> dict[str, Any]:
    """The published size d16 on a GPU: the usual algorithm and ours as a graph."""
    values: dict[str, Any] = {}
    for part, found in gpu_suite(keep=setting.part).items():
        for name, numbers in found.pop("ratios", {}).items():
            values |= rounds(f"{part}/{name}", numbers)
        for name, numbers in found.pop("seconds", {}).items():
            values |= rounds(f"{part}/{name}, seconds", numbers)
        values |= {f"{part}/{name}": single(number) for name, number in found.items()}
    return {"values": values, "tier": "full scale"}


Sizes = dict[str, tuple[Variant, tuple[int, ...] | None]]
"""A network with its training, and sides of the token maps; None has them all."""
STUDY_SIZES: Sizes = {
    "study size": (Variant(), None),
    "smaller network": (Variant(width=32, heads=1, steps=500), None),
    "fewer maps": (Variant(), (1, 4, 8)),
}
SMALLER_SIZES: Sizes = {
    "width 16": (Variant(width=16, heads=1, steps=250), None),
    "width 8": (Variant(width=8, heads=1, steps=120), None),
    "width 4": (Variant(width=4, heads=1, steps=60), None),
}
HALVES = ("half the steps", "half the width")


def study_of(setting: Setting, sides: Sequence[int] | None = None) -> Study:
    """The study of the shipped tokenizer's tokens, of some sides or of all."""
    whole = Tokenizer.from_pretrained("fashion").schedule
    return Study(
        setting.work,
        root=setting.root,
        schedule=shortened(whole, sides) if sides else None,
        device=setting.device,
        progress=setting.progress,
    )


def halved(variant: Variant) -> dict[str, Variant]:
    """A variant with half of its training steps, and with half of its width."""
    narrow = {"width": variant.width // 2, "heads": max(1, variant.heads // 2)}
    changes = ({"steps": variant.steps // 2}, narrow)
    each = (replace(variant, **change) for change in changes)
    return dict(zip(HALVES, each, strict=True))


def measure_study_size(sizes: Sizes, setting: Setting) -> dict[str, Any]:
    """Half the steps and half the width at some sizes."""
    values: dict[str, Any] = {}
    for size, (whole, sides) in sizes.items():
        study, runs = study_of(setting, sides), {}
        short = "" if size == "study size" else f"{size}, "
        halves = {f"{short}{name}": v for name, v in halved(whole).items()}
        for name, variant in ({size: whole} | halves).items():
            saved = [study.run(variant, seed)[-1] for seed in SEEDS]
            runs[name] = [study.measure(s) | cross_entropy(study, s) for s in saved]
            values |= over_seeds(name, runs[name])
        for name in halves:
            for key in ("rel_fd", "kid_1000", "cross_entropy"):
                found = resolution(runs[size], runs[name], key)
                values |= {f"{name} against {size}/{k}": v for k, v in found.items()}
        step = study.step_seconds({size: whole})[size]
        key = f"{size}/{clock(study.device)} seconds of a training"
        values[key] = single(step * whole.steps)
    return {"values": values, "seeds": list(SEEDS)}


def cross_entropy(study: Study, saved: Path) -> dict[str, float]:
    """Cross-entropy of a saved model under names that stand beside its quality."""
    found = study.cross_entropy(saved)
    return {"cross_entropy": found.pop("mean")} | {
        f"cross_entropy, {scale}": value for scale, value in found.items()
    }


def differences(
    runs: Sequence[dict[str, float]], base: Sequence[dict[str, float]]
) -> list[dict[str, float]]:
    """Every measure of some runs, less that of others, seed by seed."""
    pairs = zip(runs, base, strict=True)
    return [{key: a[key] - b[key] for key in a} for a, b in pairs]


def masks(
    study: Study, variants: dict[str, Variant], count: int, seeds: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Quality of the variants "markov" and "causal", and their difference."""
    values, runs = {}, {}
    for name, variant in variants.items():
        saved = [study.run(variant, seed, MARKS)[-1] for seed in seeds]
        runs[name] = [
            study.measure(s, count=count) | cross_entropy(study, s) for s in saved
        ]
        values |= over_seeds(name, runs[name])
    gaps = differences(runs["markov"], runs["causal"])
    return values | over_seeds("markov minus causal", gaps)


EIGHT_SEEDS = tuple(range(8))
"""With three of them rounding alone decided whether a difference is beyond chance."""


def measure_study_mask(setting: Setting) -> dict[str, Any]:
    """Markovian and causal attention at study size, eight training seeds."""
    variants = {name: Variant(mask=name) for name in ("markov", "causal")}
    values = masks(study_of(setting), variants, STUDY_SAMPLES, EIGHT_SEEDS)
    return {"values": values, "seeds": list(EIGHT_SEEDS)}


CONVERGENCE = {
    "causal": Variant(mask="causal"),
    "Markovian": Variant(),
    "Markovian, random scales": Variant(
        batch=74, training={"scale_share": (1.0, 1.0, 1.0, 0.5, 0.5, 0.25)}
    ),
}


def convergence(
    study: Study, variants: dict[str, Variant], count: int = STUDY_SAMPLES
) -> dict[str, dict[str, Any]]:
    """Quality against steps and seconds, and what "causal" takes to equal the others.

    Args:
        study: of the training runs.
        variants: by name; one of them is "causal".
        count: samples at each mark.
    """
    values, curves = {}, {}
    seconds = [study.step_seconds(variants) for _ in SEEDS]
    unit = f"{clock(study.device)} seconds"
    for name, variant in variants.items():
        values[f"{name}/{unit} of a step"] = spread([each[name] for each in seconds])
        each = [study.run(variant, seed, MARKS) for seed in SEEDS]
        curves[name] = []
        for part in range(2, MARKS + 1):  # the first is far from any level
            marks = [saved[part - 1] for saved in each]
            steps = part * variant.steps / MARKS
            found = [
                study.measure(m, count=count) | cross_entropy(study, m) for m in marks
            ]
            kept = [{k: f[k] for k in ("rel_fd", "cross_entropy")} for f in found]
            for row, own in zip(kept, seconds, strict=True):
                row |= {"steps": steps, unit: steps * own[name]}
            curves[name].append(kept)
            values |= over_seeds(f"{name}, {part} of {MARKS}", kept)
    for other in [name for name in variants if name != "causal"]:
        for cost in ("steps", unit):
            name = f"{cost} to equal rel-FD, causal / {other}"
            ratios = time_to_equal(curves["causal"], curves[other], "rel_fd", cost)
            early = sum(math.isnan(each["ratio"]) for each in ratios)
            values[f"{name}/seeds there before the first mark"] = single(early)
            if not early:
                values |= over_seeds(name, ratios)
    return values


def measure_study_convergence(setting: Setting) -> dict[str, Any]:
    """Quality against steps and CPU seconds, three training seeds."""
    values = convergence(study_of(setting), CONVERGENCE)
    return {"values": values, "seeds": list(SEEDS)}


def measure_set(name: str, setting: Setting) -> dict[str, Any]:
    """Both masks, their convergence and the tokenizer's loss on colour photographs."""
    from . import set_study

    work = str(Path(setting.work) / name)
    study = set_study.finished(name, work, setting.root, setting.device)
    plan, known, variants = study.plan, study.tokenizers, study.variants
    size = {key: plan.transformer[key] for key in ("depth", "width", "steps", "batch")}
    values = rows({"training set": {"images": len(study.train)}, "network": size})
    values |= rows(known.known_sets())
    for vocab in (plan.vocab, None):
        title = f"{vocab} codes" if vocab else "no quantizer"
        values |= over_seeds(title, known.measured(vocab, SEEDS[:1]))
    values |= masks(study, variants, plan.samples, SEEDS)
    named = {"causal": variants["causal"], "Markovian": variants["markov"]}
    values |= convergence(study, named, min(STUDY_SAMPLES, plan.samples))
    study.pictures()
    facts = {"seeds": list(SEEDS), "tier": plan.tier}
    return {"values": values} | facts


def measure_set_floors(name: str, setting: Setting) -> dict[str, Any]:
    """What real photographs of a set score by its judge: no other network is needed.

    The judge is that of `measure_set` in the same work folder, or trained anew by the
    same plan. Then FD is of another network; rel-FD, in units of its own blur, compares.
    """
    from . import set_study

    plan, work = set_study.planned(name, setting.device), Path(setting.work) / name
    known = set_study.SetTokenizers(plan, work, setting.root, setting.device)
    values = rows({"training set": {"images": len(known.train)}})
    return {"values": values | rows(known.known_sets()), "tier": plan.tier}


def measure_study_floors(setting: Setting) -> dict[str, Any]:
    """What no network can beat: as many training images, and their reconstructions."""
    study, values = study_of(setting), {}
    for count in (STUDY_SAMPLES, 2 * STUDY_SAMPLES):
        found: dict[str, list[dict[str, float]]] = {}
        for seed in SEEDS:
            part = study.train.subset(balanced(study.train, count, seed).tolist())
            again = (
                study.tokenizer.reconstruct(x.to(setting.device))
                for x in in_batches(part)
            )
            for name, images in (("training images", part), ("reconstructions", again)):
                with torch.no_grad():
                    got = evaluate(study.judge, images, study.reference, part.labels)
                found.setdefault(f"{count} {name}", []).append(got)
        for name, runs in found.items():
            values |= over_seeds(name, runs)
    return {"values": values, "seeds": list(SEEDS)}


LARGE = {"depth": 4, "width": 128, "heads": 4, "steps": 100, "lr": 1e-3}


def measure_causal_to_markov(setting: Setting) -> dict[str, Any]:
    """The causal twin under the Markovian mask: before, while and after training."""
    study, values = study_of(setting), {}

    def quality(saved: Path) -> dict[str, float]:
        return study.measure(saved, count=1000) | cross_entropy(study, saved)

    start = ScaleTransformer.from_pretrained("fashion-causal")
    masks = {"causal mask": "causal", "Markovian mask, not trained": "markov"}
    for name, mask in masks.items():
        model = ScaleTransformer(replace(start.config, mask=mask))
        model.load_state_dict(start.state_dict())
        saved = model.save_pretrained(study.work / "studies" / f"before-{mask}")
        values |= over_seeds(name, [quality(saved)])
    ways = {"from causal": "fashion-causal", "from scratch": None}
    for name, init in ways.items():
        variant = Variant(**LARGE, init=init)
        each = [study.run(variant, seed, MARKS) for seed in SEEDS]
        *early, last = zip(*each, strict=True)
        for part, states in enumerate(early, start=1):
            found = [cross_entropy(study, state) for state in states]
            values |= over_seeds(f"{name}, step {part * variant.steps // MARKS}", found)
        values |= over_seeds(
            f"{name}, step {variant.steps}", [quality(state) for state in last]
        )
    return {"values": values, "seeds": list(SEEDS)}


def measure_slim_decoder(setting: Setting) -> dict[str, Any]:
    """Slim decoders beside the shipped one: how near, and at which share of its cost."""
    from . import decoder_study as study

    every = study.finished(setting.work, setting.root, setting.device)
    teacher, size = every.teacher(), asdict(every.size)
    found = {"teacher": teacher, "teacher, sharpened": every.teacher(sharp=True)}
    values = rows(found | {"size": size | {"strength": every.strength}})
    whole = decoder_flops(every.tokenizer.config)
    for student in study.STUDENTS:
        runs = [every.measured(student, seed) for seed in SEEDS]
        for run in runs:
            run |= {
                "rel-FD / teacher's": run["rel_fd"] / teacher["rel_fd"],
                "samples, rel-FD less teacher's": run["samples, rel_fd"]
                - teacher["samples, rel_fd"],
            }
        values |= over_seeds(student.name, runs)
        share = decoder_flops(every.trained(student, SEEDS[0]).config) / whole
        values |= rows({student.name: {"share of the operations": share}})
    return {"values": values, "seeds": list(SEEDS)}


def measure_schedules(setting: Setting) -> dict[str, Any]:
    """Shorter schedules in three meanings: a screen with one training seed."""
    from . import schedule_study as study

    every, values = study.Schedules(setting.work, setting.root, setting.device), {}
    for setup in study.setups():
        values |= rows({setup.name: every.measured(setup, study.SCREEN_SEED)})
    whole, *shorter = study.CANDIDATES
    alone = [(whole, slim) for slim in (None, *study.SLIMS)]
    alone += [(c, None) for c in shorter if c.meaning != "merge"]
    for candidate, slim in alone:
        name = study.Setup(candidate, "tokenizer alone", slim).name
        values |= rows({name: every.reconstruction(candidate, slim)})
    return {"values": values, "seeds": [study.SCREEN_SEED]}


def measure_schedule_seeds(setting: Setting) -> dict[str, Any]:
    """What the screen chose and its best lists, over three other training seeds."""
    from . import schedule_study as study

    every, values = study.Schedules(setting.work, setting.root, setting.device), {}
    screen = read_record("schedules").values
    runs = {
        setup: [every.measured(setup, seed) for seed in SEEDS]
        for setup in study.setups(study.finalists(screen))
    }
    base = next(iter(runs.values()))
    for name, setup in study.chosen(screen).items():
        pairs = zip(runs[setup], base, strict=True)
        gaps = [
            {"rel-FD against the full list": a["rel_fd"] - b["rel_fd"]}
            for a, b in pairs
        ]
        values |= over_seeds(name, runs[setup]) | over_seeds(name, gaps)
    for setup, found in runs.items():
        values |= over_seeds(setup.name, found)
    curves = {"states": every.table(0).tril().flatten().tolist()}
    return {"values": values, "curves": curves, "seeds": list(SEEDS)}


def measure_schedule_quality(setting: Setting) -> dict[str, Any]:
    """All measures of what the screen chose and of its best lists, eight seeds, guided.

    The slim decoder learns as in ``schedules``; the record was made with the one that
    the run of ``schedules`` had trained.
    """
    from . import schedule_study as study

    every, values = study.Schedules(setting.work, setting.root, setting.device), {}
    screen = read_record("schedules").values
    setups = [study.Setup(candidate) for candidate in study.finalists(screen)]
    setups += study.chosen(screen).values()
    runs = {
        setup: [every.measured(setup, seed, every=True) for seed in EIGHT_SEEDS]
        for setup in dict.fromkeys(setups)
    }
    runs = {setup: kept_measures(found, "coverage") for setup, found in runs.items()}
    base, *others = runs
    for setup, found in runs.items():
        values |= over_seeds(setup.name, found)
    for setup in others:
        gaps = differences(runs[setup], runs[base])
        values |= over_seeds(f"{setup.name}, minus the full list", gaps)
    return {"values": values, "seeds": list(EIGHT_SEEDS)}


def measure_schedule_seconds(setting: Setting) -> dict[str, Any]:
    """Seconds of 64 images for all settings of the screen, timed in turn."""
    from . import schedule_study as study

    every, values = study.Schedules(setting.work, setting.root, setting.device), {}
    timed = {
        setup.name: every.sampler(setup)
        for setup in study.setups()
        if setup.candidate.meaning != "student"  # those of the list re-tokenised
    }
    for name, seconds in seconds_in_turn(timed, setting.device).items():
        values[f"{name}/{clock(setting.device)} seconds of 64 images"] = single(seconds)
    return {"values": values}


KNOWN = (
    "images", "rel_fd", "fd", "kid_1000", "is", "precision", "recall", "coverage",
    "accuracy",
)  # fmt: skip
COSTS = ("flops", "transformer_flops")


def kept_measures(runs: Sequence[dict[str, float]], *more: str) -> Any:
    """The measures of runs that a record keeps."""
    return [{key: run[key] for key in (*KNOWN, *COSTS, *more)} for run in runs]


def measure_resampling(setting: Setting) -> dict[str, Any]:
    """Passes over the scales against tuned settings and networks of equal cost."""
    from . import resampling_study as study

    every = study.Passes(setting.work, setting.root, setting.device)
    size, screen = every.size, every.screen
    how, values = {"count": size.samples, "seed": study.SEED}, {}

    def measured(network: Any, sampling: SampleConfig) -> list[dict[str, float]]:
        return [every.measured(network(seed), sampling, **how) for seed in SEEDS]

    for name, (network, sampling) in every.finals().items():
        values |= over_seeds(name, kept_measures(measured(network, sampling)))
    usual = measured(every.trunk, screen.tuned)
    for name in size.curves:
        found = kept_measures(measured(every.headed, screen.plans[name]))
        for key in ("rel_fd", "kid_1000", "coverage"):
            for run, base in zip(found, usual, strict=True):
                run[f"{key} against no passes"] = run[key] - base[key]
        values |= over_seeds(f"curve, {name}", found)
    values |= rows({"size": size.values()}) | screen.values()
    return {"values": values, "seeds": list(SEEDS)}


def measure_fashion_resampling(setting: Setting) -> dict[str, Any]:
    """Passes and a step back on the shipped model, against its tuned settings."""
    from . import resampling_study as study

    every = study.Passes(setting.work, setting.root, setting.device)
    size, screen = every.shipped_size, every.shipped_screen
    heads = [(every.shipped(head), seed) for head, seed in size.seeds]

    def measured(sampling: SampleConfig) -> list[dict[str, float]]:
        how = {"count": size.samples}
        return [every.measured(h, sampling, seed=s, **how) for h, s in heads]

    usual = measured(size.settings[study.DEFAULT])

    def over(name: str, runs: list[dict[str, float]]) -> dict[str, Any]:
        found = kept_measures(runs)
        for run, base in zip(found, usual, strict=True):
            run["rel-FD against own settings"] = run["rel_fd"] - base["rel_fd"]
        return over_seeds(name, found)

    own = map(every.shipped, sorted(set(size.heads)))
    known = [every.knowledge(head, size.samples) for head in own]
    values = rows({"size": size.values()}) | over_seeds("mask head", known)
    values |= over("no passes", measured(screen.tuned))
    values |= over("no passes, own settings", usual)
    for name in (*screen.finalists, *size.curves):
        values |= over(name, measured(screen.plans[name]))
    backs = [every.back(head, screen.tuned, seed) for head, seed in heads]
    for to in study.FINE:
        values |= over(f"back to scale {to + 1}", [back[to] for back in backs])
    for gate in size.gates:
        chains = [every.chain(head, gate, seed) for head, seed in heads]
        for mark in study.MARKS:
            runs = [chain[mark] for chain in chains]
            keys = ("rel_fd", "kid_1000", "precision", "recall", "code_entropy")
            found = [{key: run[key] for key in keys} for run in runs]
            values |= over_seeds(f"chain, {gate}, {mark} passes", found)
    values |= screen.values()
    return {"values": values, "seeds": [seed for _, seed in size.seeds]}


def measure_set_passes(name: str, setting: Setting) -> dict[str, Any]:
    """Passes on a set of photographs, against networks of equal cost."""
    from . import set_sampling_study as study

    work = str(Path(setting.work) / name)
    every = study.finished_passes(name, work, setting.root, setting.device)
    values = rows({"size": every.size.values()})
    for row in every.against_wider():
        runs = [every.final(row, seed) for seed in SEEDS]
        values |= over_seeds(row, kept_measures(runs))
    facts = {"seeds": list(SEEDS), "tier": every.plan.tier}
    return facts | {"values": values | every.screen.values()}


def measure_set_schedules(name: str, setting: Setting) -> dict[str, Any]:
    """Shorter lists on a set of photographs, in three meanings."""
    from . import set_sampling_study as study

    work = str(Path(setting.work) / name)
    every = study.finished_schedules(name, work, setting.root, setting.device)
    found = [every.of_seed(seed) for seed in SEEDS]
    runs = {s: kept_measures([each[s] for each in found]) for s in found[0]}
    values, base = {}, next(iter(runs.values()))
    for setup, own in runs.items():
        values |= over_seeds(setup.name, own)
        gaps = differences(own, base)
        values |= over_seeds(f"{setup.name}, minus the full list", gaps)
    return {"values": values, "seeds": list(SEEDS), "tier": every.plan.tier}


def measure_mask_head_control(setting: Setting) -> dict[str, Any]:
    """A pass of the shipped model's mask head against one that sees no token."""
    from . import resampling_study as study

    every = study.Passes(setting.work, setting.root, setting.device)
    size, own = every.shipped_size, every.shipped_size.settings[study.DEFAULT]
    plan = replace(own, resampling=size.plans[study.SEEING].passes)
    ways = {"no passes": own, study.SEEING: plan, study.BLIND: study.unseeing(plan)}
    runs = {
        name: [
            every.measured(every.shipped(head), sampling, count=size.samples, seed=seed)
            for head, seed in size.seeds
        ]
        for name, sampling in ways.items()
    }
    values = rows({"size": {"images": size.samples, "heads": len(set(size.heads))}})
    for name, found in runs.items():
        values |= over_seeds(name, kept_measures(found))
    for other in ("no passes", study.BLIND):
        pairs = zip(runs[study.SEEING], runs[other], strict=True)
        shifts = [{key: a[key] - b[key] for key in KNOWN[1:]} for a, b in pairs]
        values |= over_seeds(f"{study.SEEING}, less {other}", shifts)
    return {"values": values, "seeds": [seed for _, seed in size.seeds]}


def measure_mask_head(setting: Setting) -> dict[str, Any]:
    """What mask heads know: on a frozen network, trained with it, on the shipped one."""
    from . import resampling_study as study

    every = study.Passes(setting.work, setting.root, setting.device)
    heads = sorted(set(every.shipped_size.heads))
    ways: dict[str, tuple[Callable[[int], Path], Sequence[int]]] = {
        "on a frozen network": (every.headed, SEEDS),
        "trained together": (every.joint, SEEDS),
        "on the shipped network": (every.shipped, heads),
    }
    if len(heads) > 1:  # a GPU, which can afford it
        large = partial(every.shipped, blocks=4)
        ways["on the shipped network, 4 blocks"] = large, heads[:1]
    values, count = {}, every.size.samples
    for name, (network, seeds) in ways.items():
        found = [every.knowledge(network(seed), count) for seed in seeds]
        values |= over_seeds(name, found)
    return {"values": values, "seeds": list(SEEDS)}


GUIDED_SAMPLES = {"cpu": 2_500, "cuda": 10_000}
STRONG = 4.0  # the weight of the schedules that leave scales out
GUIDANCE = {
    **{f"constant, w {w:g}": SampleConfig(w, "constant") for w in (1, 1.5, 2, 3, 4)},
    **{f"linear, w {w:g}": SampleConfig(w) for w in (2, 3, 4, 6)},
    **{
        f"interval {low:g} to {high:g}": SampleConfig(
            STRONG, "interval", interval=(low, high)
        )
        for low, high in ((0, 0.5), (0.25, 0.75), (0.5, 1))
    },
    **{
        f"linear, off at the last {m}": SampleConfig(STRONG, guidance_off=m)
        for m in (1, 2, 3)
    },
}


def measure_guidance_schedules(setting: Setting) -> dict[str, Any]:
    """rel-FD by the rule of the guidance weight, three training seeds."""
    study, values = study_of(setting), {}
    saved = [study.run(Variant(), seed)[-1] for seed in SEEDS]
    config = ScaleTransformer.from_pretrained(saved[0]).config
    count = GUIDED_SAMPLES[ledger.kind(setting.device)]
    values |= rows({"each set": {"images": count}})
    for name, sampling in GUIDANCE.items():
        how = {"sampling": sampling, "count": count, "seed": 1}
        runs = [study.measure(folder, **how) for folder in saved]
        keys = ("rel_fd", "kid_1000", "accuracy", "recall", "coverage")
        values |= over_seeds(name, [{k: run[k] for k in keys} for run in runs])
        made = generation_flops(config, study.tokenizer.config, sampling)
        values |= rows({name: {"transformer_flops": made.transformer.total}})
    return {"values": values, "seeds": list(SEEDS)}


def measure_editing(setting: Setting) -> dict[str, Any]:
    """Seven tasks, filled by both shipped models, three sampling seeds."""
    from . import editing_study as study

    _, test = fashion(setting)
    some, judge = study.some_of(test), shipped_judge(setting.device)
    images, labels = some.batch(range(len(some)))
    reference = Reference.of(judge, test)
    pipes = {name: pipeline(model, setting) for name, model in PAIR.items()}
    seeds = [setting.seed + i for i in range(SAMPLING_SEEDS)]
    values = rows({"the images": evaluate(judge, images, reference, labels)})
    for name in study.TASKS:
        task = study.Task.of(name, images, labels)
        score = partial(study.measures, judge, reference, task)
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for way, (model, pipe) in product(study.ways(name), pipes.items()):
            fill = partial(study.filled, pipe, task, way)
            found[way, model] = [
                replace(setting, seed=seed).part(
                    f"editing: {name}, {way}, {model}",
                    partial(study.scored, score, fill, seed),
                )
                for seed in seeds
            ]
            row = [study.summary(run) for run in found[way, model]]
            values |= over_seeds(f"{name}, {way}, {model}", row)
        smooth = study.summary(score(study.smoothest(task)))
        values |= rows({f"{name}, no model": smooth})
        values |= study.compared(name, found, tuple(PAIR))
    return {"values": values, "seeds": seeds}


CANDIDATES, FILLINGS = (1, 4, 16), 5


def measure_editing_candidates(setting: Setting) -> dict[str, Any]:
    """A hole filled once, by one of some candidates, three sampling seeds."""
    from . import editing_study as study

    test, judge = fashion(setting)[1], shipped_judge(setting.device)
    images, labels = study.some_of(test, 50).batch(range(500))
    task = study.Task.of("centre", images, labels)
    reference, pipe = Reference.of(judge, test), pipeline("fashion", setting)
    seeds, values = [setting.seed + i for i in range(SAMPLING_SEEDS)], {}

    def measure(candidates: int, seed: int) -> dict[str, float]:
        made, spread = study.by_weight(pipe, task, candidates, seed)
        found = study.summary(study.measures(judge, reference, task, made))
        return found | ({"log_weight_sd": spread} if candidates > 1 else {})

    for candidates in CANDIDATES:
        runs = [
            replace(setting, seed=seed).part(
                f"one of {candidates} candidates", partial(measure, candidates, seed)
            )
            for seed in seeds
        ]
        values |= over_seeds(f"one of {candidates}", runs)
    return {"values": values, "seeds": seeds}


def measure_editing_rounds(setting: Setting) -> dict[str, Any]:
    """A hole filled in one to eight rounds, five sampling seeds."""
    from . import editing_study as study

    test, judge = fashion(setting)[1], shipped_judge(setting.device)
    images, labels = study.some_of(test).batch(range(1000))
    task = study.Task.of("centre", images, labels)
    reference, pipe = Reference.of(judge, test), pipeline("fashion", setting)
    seeds, values = [setting.seed + i for i in range(FILLINGS)], {}

    def measure(way: str) -> dict[str, Any]:
        made = torch.stack([study.filled(pipe, task, way, seed) for seed in seeds])
        runs = [study.measures(judge, reference, task, x) for x in made]
        return study.divided(made, task) | {"runs": [study.summary(x) for x in runs]}

    for way in study.MORE_ROUNDS:
        found = setting.part(f"editing in {way}", partial(measure, way))
        values |= over_seeds(way, found.pop("runs")) | rows({way: found})
    return {"values": values, "seeds": seeds}


def measure_editing_masks(setting: Setting) -> dict[str, Any]:
    """The seven tasks at study size, three trainings of each mask, three rounds."""
    from . import editing_study as study

    trained, test = study_of(setting), fashion(setting)[1]
    some, judge = study.some_of(test, 50), shipped_judge(setting.device)
    images, labels = some.batch(range(len(some)))
    reference, values = Reference.of(judge, test), {}
    for name in study.TASKS:
        task, way = study.Task.of(name, images, labels), "three rounds"
        score = partial(study.measures, judge, reference, task)
        found: dict[str, list[dict[str, float]]] = {}
        for mask, seed in product(("markov", "causal"), SEEDS):
            saved = trained.run(Variant(mask=mask), seed, MARKS)[-1]
            pipe = Pipeline(
                trained.tokenizer, trained.saved(saved), sampling=STUDY_SAMPLING
            )
            measure = partial(
                study.scored, score, partial(study.filled, pipe, task, way), seed
            )
            part = setting.part(
                f"editing at study size: {name}, {mask}, {seed}", measure
            )
            found.setdefault(mask, []).append(study.summary(part))
        for mask, runs in found.items():
            values |= over_seeds(f"{name}, {mask}", runs)
        gaps = differences(found["markov"], found["causal"])
        values |= over_seeds(f"{name}, markov minus causal", gaps)
    return {"values": values, "seeds": list(SEEDS)}


PHOTOGRAPHS = {
    "cifar10": "CIFAR-10 in its JPEG copy",
    "tiny-imagenet": "TinyImageNet-50",
    "flowers": "Flowers5 at 64 pixels",
}
EXPERIMENTS: dict[str, Experiment] = {
    "judge": Experiment(
        "The judge names at least 92 % of the test images.",
        measure_judge,
        seeded=True,
    ),
    "fashion-quality": Experiment(
        "The shipped models against the test images, with yardsticks.",
        measure_quality,
        seeded=True,
    ),
    "fashion-guidance": Experiment(
        "A moderate guidance weight is better than none.",
        measure_guidance,
        seeded=True,
    ),
    "fashion-truncation": Experiment(
        "Cutting the tail of the law is better than the law itself.",
        measure_truncation,
        seeded=True,
    ),
    "fashion-loss": Experiment(
        "The Markovian model's tokens cost little more than its causal twin's.",
        measure_loss,
        seeded=True,
    ),
    "theorem": Experiment(
        "P1 to P18: equal to 1e-10 in float64, or visibly not equal.",
        measure_theorem,
        seeded=True,
    ),
    "fashion-collisions": Experiment(
        "No two prefixes of training images share a value.", measure_collisions
    ),
    "fashion-training": Experiment(
        "The training loss of the shipped pair has not stopped falling.",
        measure_training,
        seeded=True,
    ),
    "study-size": Experiment(
        "Half the steps and half the width are told apart with three seeds.",
        partial(measure_study_size, STUDY_SIZES),
    ),
    "smaller-sizes": Experiment(
        "At some smaller size half the steps or half the width is not told apart.",
        partial(measure_study_size, SMALLER_SIZES),
    ),
    "study-floors": Experiment(
        "Training images set the floor of every distance to the test images.",
        measure_study_floors,
    ),
    "study-mask": Experiment(
        "The Markovian mask costs little against the causal one, over training seeds.",
        measure_study_mask,
    ),
    "study-convergence": Experiment(
        "The Markovian model reaches a quality sooner than the causal one.",
        measure_study_convergence,
    ),
    "causal-to-markov": Experiment(
        "A Markovian model starts better from causal weights than from fresh ones.",
        measure_causal_to_markov,
    ),
    "schedules": Experiment(
        "At study size some shorter schedule is as good as the full one.",
        measure_schedules,
    ),
    "schedule-seeds": Experiment(
        "All levers save at least 20 % of the compute within the seed spread.",
        measure_schedule_seeds,
    ),
    "slim-decoder": Experiment(
        "A slim decoder reconstructs as well as its teacher at a part of the cost.",
        measure_slim_decoder,
    ),
    "schedule-quality": Experiment(
        "What the schedule study chose is as good as the full list by every measure.",
        measure_schedule_quality,
    ),
    "schedule-seconds": Experiment(
        "A shorter schedule saves seconds too.",
        measure_schedule_seconds,
    ),
    "fashion-editing": Experiment(
        "A Markovian model fills holes and draws detail better than a causal one.",
        measure_editing,
        seeded=True,
    ),
    "editing-candidates": Experiment(
        "A filling that is chosen by its weight is nearer to the truth.",
        measure_editing_candidates,
        seeded=True,
    ),
    "editing-rounds": Experiment(
        "More rounds bring a filling nearer to the truth and leave fewer kinds of it.",
        measure_editing_rounds,
        seeded=True,
    ),
    "editing-masks": Experiment(
        "At study size a Markovian model edits better than a causal one.",
        measure_editing_masks,
    ),
    "fashion-features": Experiment(
        "A network of photographs ranks the shipped models as the judge does.",
        measure_features,
        seeded=True,
    ),
    **{
        f"{model}-presets": Experiment(
            "Some setting of the sampler is better than the default, some is cheaper.",
            partial(measure_presets, model),
            seeded=True,
        )
        for model in MODELS
    },
    "tokenizer-gap": Experiment(
        "One codebook costs fine detail, and more codes cost less.",
        measure_tokenizer_gap,
    ),
    **{
        name: Experiment(
            f"{title}: the Markovian model is as good as the causal one.",
            partial(measure_set, name),
        )
        for name, title in PHOTOGRAPHS.items()
    },
    **{
        f"{name}-floors": Experiment(
            f"{title}: training images set the floor of every distance.",
            partial(measure_set_floors, name),
        )
        for name, title in PHOTOGRAPHS.items()
    },
    "cifar10-passes": Experiment(
        f"{PHOTOGRAPHS['cifar10']}: passes are ahead of all that costs no more.",
        partial(measure_set_passes, "cifar10"),
    ),
    "cifar10-schedules": Experiment(
        f"{PHOTOGRAPHS['cifar10']}: some shorter list is as good as the full one.",
        partial(measure_set_schedules, "cifar10"),
    ),
    "mask-head": Experiment(
        "A mask head learns more from tokens in sight if all is trained together.",
        measure_mask_head,
    ),
    "mask-head-control": Experiment(
        "A pass of the shipped model's mask head is better because it sees tokens.",
        measure_mask_head_control,
    ),
    "guidance-schedules": Experiment(
        "Where guidance acts matters as much as how strong it is.",
        measure_guidance_schedules,
    ),
    "resampling": Experiment(
        "Passes are ahead of all that costs no more by more than twice the spread.",
        measure_resampling,
    ),
    "fashion-resampling": Experiment(
        "Passes over its scales, or a step back, are better than the shipped model's "
        "tuned settings.",
        measure_fashion_resampling,
    ),
    "fashion-speed": Experiment(
        "Markovian sampling and packed training steps against the alternatives.",
        measure_speed,
    ),
    "var-speed": Experiment(
        "A model of published size is sampled and trained faster than usual, with "
        "the same tokens.",
        measure_var_speed,
    ),
    "var-peer": Experiment(
        "The public implementation computes what ours does, and takes longer.",
        measure_var_peer,
    ),
    "var-gpu": Experiment(
        "On a GPU a model of published size is sampled faster than usual.",
        measure_var_gpu,
        counted=False,
    ),
}


def experiment(name: str, told: Setting) -> Experiment:
    """The experiment of a name, if it takes the setting.

    Raises:
        ValueError: no experiment of that name, or a seed for one that takes none.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"name must be one of {', '.join(EXPERIMENTS)}, got {name!r}")
    if told.seed and not EXPERIMENTS[name].seeded:
        raise ValueError(
            f"{name} takes no --seed, got {told.seed}: it draws nothing, or its seeds "
            "are part of what it claims; leave --seed out. These take one: "
            f"{', '.join(k for k, v in EXPERIMENTS.items() if v.seeded)}"
        )
    return EXPERIMENTS[name]


def run(name: str, **setting: Any) -> dict[str, Any]:
    """Run a named experiment and write its record.

    Its seconds and operations are those of this run and of the parts that it found
    kept, see `srdd.ledger`. Of calls that are timed the one before the first is
    counted; of a training on a GPU one step, which stands for all.

    Raises:
        ValueError: no experiment of that name, or a seed for one that takes none.
        FileNotFoundError: no folder for the record, before anything is measured.
    """
    told = Setting(**setting)
    row = experiment(name, told)
    own = told.out is not None and name != "judge"  # whose --out is the model's
    target = Path(str(told.out)) if own else records.results_dir()
    with ledger.opened(row.counted) as account:
        measured = row.measure(told)
    facts = {"claim": row.claim, "tier": "tiny model", "seeds": [told.seed]}
    facts |= account.facts()
    record = write_record(target, name=name, **(facts | measured))
    return {k: v["mean"] for k, v in record.values.items()}


def rehearse(name: str, **setting: Any) -> dict[str, Any]:
    """Run an experiment with a part of its work, and write what the whole takes.

    Each training makes two steps, each set of samples one batch; all else is done in
    full, in a folder that is removed. The device says whose size is rehearsed; where it
    is not there, a CPU computes. The measurements are thrown away; what an experiment
    chooses by them, as `resampling` its finalists, is chosen as in its record, if it has
    one. The record NAME-rehearsal has the operations of the whole experiment and, by
    the step and the batch that stood for the others, about its seconds on this machine.

    Raises:
        ValueError: as `run`, or an experiment that does not count operations.
        FileNotFoundError: no folder for the record, before anything is done.
    """
    told = Setting(**setting)
    row, size = experiment(name, told), told.device.partition(":")[0]
    if size not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, got {told.device!r}")
    if not row.counted:
        raise ValueError(
            f"{name} can't be rehearsed: it times compiled code, whose operations "
            "nobody counts; run it"
        )
    target = Path(told.out) if told.out is not None else records.results_dir()
    here = told.device if size == "cpu" or torch.cuda.is_available() else "cpu"
    Path(told.work).mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=told.work, prefix="rehearsal-") as work,
        ledger.Rehearsal(size).running() as left_out,
        ledger.opened() as account,
    ):
        made = row.measure(replace(told, device=here, work=work, out=f"{work}/out"))
        facts = {"tier": "tiny model", "seeds": [told.seed]}
        facts |= {key: made[key] for key in facts if key in made} | account.facts()
    values = {
        "operations": facts.pop("flops"),
        "seconds, about": facts["wall_seconds"] + left_out.seconds,
        "training steps left out": left_out.steps,
        "batches of samples left out": left_out.batches,
    }
    record = write_record(
        target,
        name=f"{name}-rehearsal",
        claim=f"What {name} takes, at the size for {size}.",
        values={key: single(value) for key, value in values.items()},
        **facts,
    )
    return {k: v["mean"] for k, v in record.values.items()}
