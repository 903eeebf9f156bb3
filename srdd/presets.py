"""The named settings of the shipped models: what was tried, and which were chosen.

`GRID`, and `PASSES` where it may be, is screened with one sampling seed. From the screen
`chosen` takes "balanced" (the model's own settings, the default), "best" (lowest rel-FD)
and "fast" (lowest rel-FD among the cheap ones); those three are then measured again, with
other seeds, and once more painted by the tokenizer's own decoder. ``srdd report`` writes
them with their cost and quality into the model's manifest. The record of a model is
``NAME-presets``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .files import read_json, write_json
from .records import Record
from .sampling import ResamplingPlan, SampleConfig

CHEAP = 0.85
"""A preset is fast if it needs at most this share of the default's operations."""
BASE = SampleConfig(guidance=3.0)
MODELS = ("fashion", "fashion-causal")
"""The shipped models."""
WIDE = "the tokenizer's own decoder"


def ended(weight: float, scales: int, rule: str = "linear") -> SampleConfig:
    """Guidance that leaves the last scales out."""
    return SampleConfig(weight, rule, guidance_off=scales)


GRID: dict[str, SampleConfig] = {
    "linear 3": BASE,
    "linear 4": SampleConfig(4.0),
    "linear 3, temperature 0.95": SampleConfig(3.0, temperature=0.95),
    "linear 3, temperature 0.9": SampleConfig(3.0, temperature=0.9),
    "linear 2, temperature 0.9": SampleConfig(2.0, temperature=0.9),
    "linear 3, temperature 1 to 0.8": SampleConfig(
        3.0, temperature=(1.0, 1.0, 1.0, 0.9, 0.9, 0.8)
    ),
    "linear 3, top-p 0.95": SampleConfig(3.0, top_p=0.95),
    "linear 3, top-k 64": SampleConfig(3.0, top_k=64),
    "interval, 2 from side 2 on": SampleConfig(2.0, "interval", interval=(0.1, 1.0)),
    "linear 4, last scale not guided": ended(4.0, 1),
    "linear 3, last scale not guided": ended(3.0, 1),
    "constant 2, last scale not guided": ended(2.0, 1, "constant"),
    "constant 2, last two not guided": ended(2.0, 2, "constant"),
    "constant 3, last two not guided": ended(3.0, 2, "constant"),
    "not guided, temperature 0.8": SampleConfig(temperature=0.8),
}

PASSES: dict[str, SampleConfig] = {
    "linear 3, 2 passes of the law of the map": replace(
        BASE, resampling=ResamplingPlan((1, 2, 3, 4, 5), 2, "sequence", law="map")
    ),
}
"""Tried on the Markovian model alone: a causal one can't be shown another map."""
EVERY = GRID | PASSES


def mean_of(record: Record | Mapping[str, Any], name: str, measure: str) -> float:
    """A value of the screen."""
    values = record.values if isinstance(record, Record) else record
    return values[f"screen, {name}/{measure}"]["mean"]


def chosen(record: Record | Mapping[str, Any]) -> dict[str, str]:
    """Preset to the row of `EVERY` that the screen chose for it."""

    def quality(name: str) -> float:
        return mean_of(record, name, "rel_fd")

    values = record.values if isinstance(record, Record) else record
    first, *_ = tried = [n for n in EVERY if f"screen, {n}/rel_fd" in values]
    limit = CHEAP * mean_of(record, first, "flops")
    cheap = [name for name in tried if mean_of(record, name, "flops") <= limit]
    return {
        "fast": min(cheap, key=quality),
        "balanced": first,
        "best": min(tried, key=quality),
    }


def manifest_entry(record: Record) -> dict[str, Any]:
    """What a model's manifest says of its presets: settings, cost, quality."""
    found = {}
    for preset, name in chosen(record).items():
        keys = [key for key in record.values if key.startswith(f"{preset}/")]
        found[preset] = {
            "sampling": asdict(EVERY[name]),
            "measured": {key.partition("/")[2]: record.text(key) for key in keys},
            "command": record.command,
            "date": record.date,
        }
    return found


def write_presets(record: Record, model: str | Path) -> Path:
    """Write the presets of a record into the manifest of a model's folder."""
    path = Path(model) / "manifest.json"
    write_json(path, read_json(path) | {"presets": manifest_entry(record)})
    return path
