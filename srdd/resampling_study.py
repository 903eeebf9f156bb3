"""The study of chapter 10: passes over a scale, against what they have to beat.

One network per training seed is the trunk of everything: a mask head is trained on it
while it stays as it is, so all that differs between two rows is what the passes did.
The other side of the comparison is the trunk with tuned settings, and a wider network
that costs as much without passes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from .distillation import generation_flops
from .resampling import MaskHeadTask, MaskTask, hidden_cross_entropy
from .sampling import ResamplingPlan, SampleConfig
from .studies import Study, Variant
from .transformer import ScaleTransformer, TransformerConfig

SCREEN, SCREEN_SEED, SEED = 1000, 0, 1
HEAD = {"network": {"mask_blocks": 1}, "steps": 1000}
SETTINGS = {
    "w 1": SampleConfig(),
    "w 2": SampleConfig(2.0),
    "w 3": SampleConfig(3.0),
    "w 4": SampleConfig(4.0),
    "w 2, temperature 0.9": SampleConfig(2.0, temperature=0.9),
    "w 3, temperature 0.9": SampleConfig(3.0, temperature=0.9),
    "w 3, temperature 0.8": SampleConfig(3.0, temperature=0.8),
    "w 3, temperature 0.7": SampleConfig(3.0, temperature=0.7),
    "w 4, temperature 0.9": SampleConfig(4.0, temperature=0.9),
    "w 4, temperature 0.8": SampleConfig(4.0, temperature=0.8),
    "w 4, top p 0.9": SampleConfig(4.0, top_p=0.9),
    "w 3, top p 0.9": SampleConfig(3.0, top_p=0.9),
}
ALL = (1, 2, 3, 4, 5)  # the first scale has one token, which sees no other
PLANS = {
    "sequence, 1 pass": ResamplingPlan(ALL, 1, "sequence"),
    "halton, 1 pass": ResamplingPlan(ALL, 1, "halton"),
    "confidence, 1 pass": ResamplingPlan(ALL, 1, "confidence"),
    "entropy, 1 pass": ResamplingPlan(ALL, 1, "entropy"),
    "threshold, 1 pass": ResamplingPlan(ALL, 1, "threshold", 0.05),
    "sequence, 2 passes": ResamplingPlan(ALL, 2, "sequence"),
    "confidence, 2 passes": ResamplingPlan(ALL, 2, "confidence"),
    "sequence, 8 passes": ResamplingPlan(ALL, 8, "sequence"),
    "halton, 8 passes": ResamplingPlan(ALL, 8, "halton"),
    "random, 8 passes": ResamplingPlan(ALL, 8, "random"),
    "confidence, 8 passes": ResamplingPlan(ALL, 8, "confidence"),
    "map law, sequence, 2 passes": ResamplingPlan(ALL, 2, "sequence", law="map"),
    "same law, threshold, 8 passes": ResamplingPlan(
        ALL, 8, "threshold", 0.05, law="same"
    ),
}
WARM = {  # the same at another temperature of the passes; the draft keeps its own
    f"{name} at temperature {heat:g}, {count}": replace(
        PLANS[f"{name}, {count}"], temperature=heat
    )
    for name, count, heat in (
        ("sequence", "1 pass", 0.9),
        ("entropy", "1 pass", 0.9),
        ("confidence", "1 pass", 0.9),
        ("sequence", "2 passes", 0.9),
        ("sequence", "2 passes", 1.0),
        ("sequence", "8 passes", 0.9),
        ("sequence", "8 passes", 1.0),
        ("map law, sequence", "2 passes", 0.9),
    )
}
PLANS |= WARM
SHOWN = (0.0, 0.25, 0.5, 0.75, 0.9)


class Passes:
    """All networks and measures of one work folder.

    Args:
        work: folder of what is kept.
        root: where Fashion-MNIST lies.
        device: where the networks are.
    """

    def __init__(self, work: str, root: str | None, device: str = "cpu") -> None:
        self.plain = Study(work, root=root, device=device)
        self.heads = Study(work, root=root, task=MaskHeadTask, device=device)
        self.both = Study(work, root=root, task=MaskTask, device=device)

    def trunk(self, seed: int, **size: Any) -> Path:
        """A network without passes; by default the study size."""
        return self.plain.run(Variant(**size), seed)[-1]

    def headed(self, seed: int, **size: Any) -> Path:
        """The trunk of a seed with a mask head that was trained on it, alone."""
        variant = Variant(**size, init=str(self.trunk(seed, **size)), **HEAD)
        return self.heads.run(variant, seed, marks=1)[-1]

    def joint(self, seed: int) -> Path:
        """A network and a mask head that were trained together."""
        return self.both.run(Variant(network=HEAD["network"]), seed, marks=1)[-1]

    def measured(
        self, saved: Path, sampling: SampleConfig, **how: Any
    ) -> dict[str, float]:
        """Quality of samples, and the operations of one image."""
        quality = self.plain.measure(saved, sampling=sampling, **how)
        config = ScaleTransformer.from_pretrained(saved).config
        return quality | self.cost(config, sampling)

    def cost(
        self, config: TransformerConfig, sampling: SampleConfig
    ) -> dict[str, float]:
        """Operations of one image, decoder included, and of the transformer."""
        made = generation_flops(config, self.plain.tokenizer.config, sampling)
        return {"flops": made.total, "transformer_flops": made.transformer.total}

    @cached_property
    def settings(self) -> dict[str, dict[str, float]]:
        """The screen of settings without passes, on one seed."""
        how = {"count": SCREEN, "seed": SCREEN_SEED}
        saved = self.trunk(0)
        return {name: self.measured(saved, s, **how) for name, s in SETTINGS.items()}

    @cached_property
    def tuned(self) -> SampleConfig:
        """The best setting without passes; all plans use it too."""
        return SETTINGS[min(SETTINGS, key=lambda n: self.settings[n]["rel_fd"])]

    def planned(self, name: str) -> SampleConfig:
        """The tuned setting with the passes of a plan."""
        return replace(self.tuned, resampling=PLANS[name])

    @cached_property
    def plans(self) -> dict[str, dict[str, float]]:
        """The screen of plans, on one seed."""
        how = {"count": SCREEN, "seed": SCREEN_SEED}
        saved = self.headed(0)
        return {n: self.measured(saved, self.planned(n), **how) for n in PLANS}

    @property
    def finalists(self) -> tuple[str, str]:
        """The best plan of one pass, and the best of all others."""
        once = [name for name in PLANS if name.endswith(" 1 pass")]
        more = [name for name in PLANS if name not in once]
        best = [
            min(names, key=lambda n: self.plans[n]["rel_fd"]) for names in (once, more)
        ]
        return best[0], best[1]

    def equal_width(self, flops: float) -> int:
        """Width of the widest network without passes that costs no more."""
        config = ScaleTransformer.from_pretrained(self.trunk(0)).config
        width = config.width
        while True:
            wider = replace(config, width=width + 2)
            if self.cost(wider, self.tuned)["transformer_flops"] > flops:
                return width
            width += 2

    def knowledge(self, saved: Path, count: int = 1000) -> dict[str, float]:
        """Cross-entropy of hidden test tokens by the part of a scale in sight."""

        def measured() -> dict[str, float]:
            every = self.plain.tokens(self.plain.test)
            some = replace(
                every, tokens=every.tokens[:count], labels=every.labels[:count]
            )
            model, found = self.plain.saved(saved), {}
            counts = torch.tensor(self.plain.tokenizer.schedule.counts)
            for shown in SHOWN:
                each = hidden_cross_entropy(model, self.plain.tokenizer, some, shown)
                mean = ((each * counts).sum() / counts.sum()).item()
                found[f"{shown:.0%} in sight, nats per token"] = mean
                last = f"{shown:.0%} in sight, last scale, nats per token"
                found[last] = each[-1].item()
            return found

        return self.plain.kept(saved / f"knowledge-{count}.json", measured)
