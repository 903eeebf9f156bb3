"""The public implementation of next-scale prediction beside ours, both with our weights.

It is not part of this package: somebody who has a checkout of it names the folder.
What it computes is compared before it is timed, so this is also a check of the map of
names in appendix A5 and of the "usual algorithm" of chapter 16.
"""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .checkpoints import to_var
from .fast import one_thread, plain_decode, plain_training_step, take_turns
from .sampling import SampleConfig
from .scales import SHORT_256, VAR_256
from .speed import (
    CAUSAL,
    MARKOV,
    PLAIN,
    SHORT,
    Models,
    cached_step,
    decoded,
    ours,
    ratio,
    tallied,
    usual,
)
from .tokenizer import TokenizerConfig
from .transformer import TransformerConfig, preset

PUBLIC = "public implementation"
OWN = ("models", "dist", "utils")  # the top-level names it takes
TRAIN = "training step, "


@contextmanager
def quietly() -> Iterator[None]:
    """Without what it prints of itself, and what PyTorch says about its age."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Its modules can be imported in the block, and are forgotten behind it."""
    before = {name: m for name, m in sys.modules.items() if name.split(".")[0] in OWN}
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    try:
        with quietly():
            yield
    finally:
        sys.path.remove(str(folder))
        for name in [n for n in sys.modules if n.split(".")[0] in OWN]:
            del sys.modules[name]
        sys.modules.update(before)


def checkout(root: str | Path | None) -> Path:
    """The folder of the public implementation.

    Raises:
        FileNotFoundError: it does not lie there.
    """
    folder = Path(root or ".").resolve()
    if not (folder / "models" / "var.py").is_file():
        raise FileNotFoundError(
            f"no models/var.py below {folder}: clone github.com/FoundationVision/VAR "
            "and pass its folder as --root"
        )
    return folder


def revision(folder: Path) -> str:
    """Commit of a checkout, or "unknown"."""
    told = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return told.stdout.strip()[:12] or "unknown"


def public_pair(root: str | Path | None, models: Models) -> tuple[Any, Any]:
    """Its tokenizer and its transformer with the weights of ours, loaded strictly.

    Args:
        root: the checkout.
        models: of the published layout.
    """
    shape, config = models.tokenizer.config, models.causal.config
    sides, folder = config.schedule.sides, checkout(root)
    weights = to_var(models.tokenizer, models.causal)
    with importable(folder):
        kinds = [importlib.import_module(f"models.{name}") for name in ("vqvae", "var")]
        vae = kinds[0].VQVAE(
            vocab_size=shape.vocab, z_channels=shape.code_width, ch=shape.base,
            share_quant_resi=shape.phi_convs, v_patch_nums=sides,
        )  # fmt: skip
        var = kinds[1].VAR(
            vae, num_classes=config.classes, depth=config.depth,
            embed_dim=config.width, num_heads=config.heads, patch_nums=sides,
            mlp_ratio=config.mlp_ratio, shared_aln=config.shared_adaln,
            attn_l2_norm=config.qk_norm, drop_path_rate=0.0, cond_drop_rate=0.0,
        )  # fmt: skip
    for network, state in zip((vae, var), weights, strict=True):
        network.load_state_dict(state, strict=True, assign=True)
    return vae.eval(), var.eval()


def public_images(var: Any, models: Models, sampling: SampleConfig) -> Tensor:
    """Images ``(b, 3, h, w)`` in [0, 1] as the public code samples them."""
    return var.autoregressive_infer_cfg(
        len(models.labels), models.labels, g_seed=0, cfg=float(sampling.guidance) - 1,
        top_k=sampling.top_k, top_p=sampling.top_p,
    )  # fmt: skip


def public_step(vae: Any, var: Any, images: Tensor, labels: Tensor) -> Callable:
    """A training step of the public code: it begins with images."""

    def step() -> Tensor:
        var.zero_grad(set_to_none=True)
        with torch.no_grad():
            tokens = vae.img_to_idxBl(images)
            inputs = vae.quantize.idxBl_to_var_input(tokens)
        with quietly():
            logits = var(labels, inputs).flatten(0, 1)
        loss = F.cross_entropy(logits, torch.cat(tokens, 1).flatten())
        loss.backward()
        return loss

    return step


@dataclass(frozen=True)
class Sides:
    """Both sides of the comparison."""

    models: Models
    vae: Any
    var: Any
    images: Tensor
    """For a training step, in [-1, 1]."""

    def samplers(self) -> dict[str, Callable[[], Tensor]]:
        """From a class to pixels, the ways that are compared."""
        m, own = self.models, self.models.tokenizer
        return {
            PUBLIC: lambda: public_images(self.var, m, m.sampling),
            PLAIN: lambda: plain_decode(own, usual(m)[1]),
            CAUSAL: lambda: decoded(m, ours(m, m.causal)[1]),
            MARKOV: lambda: decoded(m, ours(m, m.markov)[1]),
            SHORT: lambda: decoded(m, ours(m, m.short, m.short_codes)[1]),
        }

    def steps(self) -> dict[str, Callable[[], Tensor]]:
        """Training steps; ours has its tokens already."""
        m, codes = self.models, self.models.tokenizer.quantize
        with torch.no_grad():
            tokens = m.tokenizer.encode(self.images)
        return {
            TRAIN + PUBLIC: public_step(self.vae, self.var, self.images, m.labels),
            TRAIN + PLAIN: plain_training_step(
                m.causal, m.tokenizer, self.images, m.labels
            ),
            TRAIN + CAUSAL: cached_step(m.causal, codes, tokens, m.labels),
            TRAIN + MARKOV: cached_step(m.markov, codes, tokens, m.labels),
        }

    @torch.no_grad()
    def equal(self) -> dict[str, float]:
        """How far apart both sides are where they should agree."""
        m = self.models
        tokens = m.tokenizer.encode(self.images)
        theirs = self.vae.img_to_idxBl(self.images)
        inputs = m.tokenizer.quantize.teacher_inputs(tokens)
        with quietly():
            logits = self.var(m.labels, inputs)
        mine = m.causal(inputs, m.labels)
        greedy = replace(m.sampling, top_k=1, top_p=1.0)
        images = public_images(self.var, m, greedy)
        own = (decoded(m, ours(m, m.causal, sampling=greedy)[1]) + 1) / 2
        return {
            "tokens": sum(t.numel() for t in tokens),
            "tokens of the encoder that differ": sum(
                int((a != b).sum()) for a, b in zip(tokens, theirs, strict=True)
            ),
            "largest difference of a logit": (logits - mine).abs().max().item(),
            "largest logit": mine.abs().max().item(),
            "greedy images, largest difference in steps of 1/255": 255
            * (images - own).abs().max().item(),
        }


def public_suite(
    root: str | Path | None, repeats: int = 5, *, config: TransformerConfig | None = None,
    shape: TokenizerConfig | None = None, batch: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Both sides in turn: whole images, and training steps.

    Args:
        root: checkout of the public implementation.
        repeats: rounds.
        config, shape: of the networks; by default d16 at 256 pixels.
        batch: images at a time.
    Returns:
        Seconds, ratios to the public implementation, counts and equality.
    Raises:
        FileNotFoundError: no such checkout.
    """
    checkout(root)
    torch.manual_seed(0)
    config = config or preset("d16", mask="causal", schedule=VAR_256)
    short = SHORT_256 if config.schedule == VAR_256 else config.schedule
    models = Models.of(config, shape or TokenizerConfig(), short, batch)
    side = models.tokenizer.config.image_side
    images = torch.rand(batch, 3, side, side) * 2 - 1
    both = Sides(models, *public_pair(root, models), images)
    found: dict[str, Any] = {"equal": both.equal(), "seconds": {}, "ratios": {}}
    with one_thread():
        for candidates in (both.samplers(), both.steps()):
            seconds = take_turns(candidates, repeats)
            first, *others = candidates
            found["seconds"] |= seconds
            found["ratios"] |= {
                f"{first} / {name.removeprefix(TRAIN)}": ratio(seconds, [first], [name])
                for name in others
            }
        own, public = (models.tokenizer, models.causal), (both.vae, both.var)
        found["counts"] = {
            name: tallied(run, *(public if name == PUBLIC else own))
            for name, run in both.samplers().items()
        }
    return found
