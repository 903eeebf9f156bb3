"""The study of chapter 14: how much a tokenizer loses, and what its codebook costs.

Small tokenizers are trained alike except for the number of codes. One more has no
quantizer: its decoder sees the encoder's map itself. What the others lose to it is
the codebook's share of the error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .data import ImageSet, loader
from .ledger import fit, once, part
from .metrics import Judge, Reference, evaluate, in_batches, ssim
from .studies import FashionSets
from .tokenizer import Tokenizer, TokenizerConfig, TokenizerTask, psnr
from .training import TOKENIZER_TRAINING, TrainConfig

VOCABS = (16, 64, 256, 1024)
SMALL = {"base": 8, "norm_groups": 4}
TRAINING = TrainConfig(
    steps=300,
    batch=48,
    lr=3e-3,
    ema=0.99,
    save_every=300,
    **TOKENIZER_TRAINING,
)


class ContinuousTokenizer(Tokenizer):
    """A tokenizer whose decoder is trained on the encoder's map itself."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """For training: images not clamped, no quantizer loss, tokens for the log."""
        f = self.features(images)
        tokens = self.quantize.encode(f.detach())
        return self.decoder(self.post_quant_conv(f)), f.new_zeros(()), tokens

    def reconstruct(self, images: Tensor) -> Tensor:
        """Encode and decode without a quantizer."""
        return self.decode_map(self.features(images))


@torch.no_grad()
def reconstruction(
    tokenizer: Tokenizer, judge: Judge, reference: Reference, images: ImageSet
) -> dict[str, float]:
    """Quality of reconstructions: by the judge, in dB, and structure.

    Args:
        tokenizer: what is measured.
        judge: the feature network of the reference, on the same device.
        reference: made from `images`.
        images: real ones, ``n`` of them.
    Returns:
        All of `srdd.metrics.evaluate`, `psnr_db` and `ssim`.
    """
    made, decibel, alike = [], [], []
    for batch in in_batches(images):
        real = batch.to(judge.device)
        made.append(tokenizer.reconstruct(real))
        decibel.append(psnr(made[-1], real))
        alike.append(ssim(made[-1], real))
    found = evaluate(judge, torch.cat(made), reference, images.labels)
    pixels = {"psnr_db": torch.cat(decibel), "ssim": torch.cat(alike)}
    return found | {name: each.mean().item() for name, each in pixels.items()}


@dataclass
class TokenizerStudy(FashionSets):
    """Trains small tokenizers and measures what they lose.

    Args:
        work: folder of what is kept.
        root: where Fashion-MNIST lies; None asks `$SRDD_DATA`.
        device: where all networks are.
        training: of each tokenizer.
        progress: show bars.
    """

    work: str | Path = "runs"
    root: str | None = None
    device: str = "cpu"
    training: TrainConfig = TRAINING
    progress: bool = False

    def config(self, vocab: int | None) -> TokenizerConfig:
        """The shipped layout at half the width, with another number of codes."""
        shipped = Tokenizer.from_pretrained("fashion").config
        return replace(shipped, vocab=vocab or shipped.vocab, **SMALL)

    def trained(self, vocab: int | None, seed: int) -> Tokenizer:
        """A tokenizer with so many codes, or without a quantizer (None)."""
        kind = ContinuousTokenizer if vocab is None else Tokenizer
        folder = self.folder(vocab, seed)

        def make() -> None:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                fresh = kind(self.config(vocab))
            config = replace(self.training, seed=seed)

            def stream(start: int) -> Iterable[tuple[Tensor, Tensor]]:
                return loader(self.train, config.batch, seed, start)

            task = TokenizerTask(
                fresh.to(self.device, memory_format=torch.channels_last),
                stream,
                seed=seed,
                start_codes=vocab is not None,
                restart_until=0 if vocab is None else config.steps * 3 // 4,
            )
            work = folder.with_name(folder.name + "-training")
            fit(task, config, work, progress=self.progress).save_pretrained(folder)

        once(folder / "manifest.json", make)
        return kind.from_pretrained(folder, device=self.device)

    def folder(self, vocab: int | None, seed: int) -> Path:
        """Where such a tokenizer is kept."""
        name = f"vocab-{vocab or 'none'}-steps-{self.training.steps}-seed-{seed}"
        return Path(self.work) / "tokenizers" / name

    def measured(self, vocab: int | None, seeds: Sequence[int]) -> list[dict]:
        """What tokenizers with so many codes lose, one row per training seed."""
        found = []
        for seed in seeds:
            path = self.folder(vocab, seed) / "quality.json"
            tokenizer = self.trained(vocab, seed)

            def measure(own: Tokenizer = tokenizer) -> dict[str, float]:
                return reconstruction(own, self.judge, self.reference, self.test)

            found.append(part(path, measure))
        return found
