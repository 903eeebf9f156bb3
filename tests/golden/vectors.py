"""The golden vectors, and the weights that they were made with."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

HERE = Path(__file__).parent
MIX = (0xBF58476D1CE4E5B9, 30), (0x94D049BB133111EB, 27)
Table = dict[str, tuple[list[int], int, float]]


def hashed(seed: int, key: str, count: int) -> np.ndarray:
    """Integers in [-127, 127] that depend on (seed, key, place) only: splitmix64."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    start = np.uint64(int.from_bytes(digest[:8], "little"))
    with np.errstate(over="ignore"):
        places = np.arange(1, count + 1, dtype=np.uint64)
        z = start + places * np.uint64(0x9E3779B97F4A7C15)
        for factor, shift in MIX:
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(32)) % np.uint64(255)).astype(np.float32) - 127


def hashed_weights(table: Table, seed: int) -> dict[str, Tensor]:
    """Weights ``offset + q 2^exp`` with q hashed, by the names of the reference.

    Args:
        table: name to shape, exponent, offset.
        seed: of the network.
    """
    made = {}
    for key, (shape, exponent, offset) in table.items():
        q = hashed(seed, key, int(np.prod(shape)))
        value = q * np.float32(2.0**exponent) + np.float32(offset)
        made[key] = torch.from_numpy(value).reshape(shape)
    return made


@dataclass(frozen=True)
class Vectors:
    """One configuration: what the reference computed, and with what."""

    name: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    tokenizer: dict[str, Tensor]
    transformers: dict[str, dict[str, Tensor]]
    """By "u" (own modulation) and "s" (shared)."""
    grad_norms: dict[str, dict[str, float]]
    """By transformer and name."""


def open_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and the facts beside them."""
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        facts = file.metadata() or {}
    return tensors, {k: json.loads(v) for k, v in facts.items()}


def tokenizer_weights(case: str) -> dict[str, Tensor]:
    """The tokenizer of a configuration; the shapes follow from the published names."""
    from srdd.scales import ScaleSchedule
    from srdd.tokenizer import Tokenizer, TokenizerConfig

    _, facts = open_file(HERE / f"tokenizer_{case}.safetensors")
    shape = facts["config"]
    config = TokenizerConfig(
        base=shape["ch"],
        code_width=shape["z"],
        vocab=shape["V"],
        schedule=ScaleSchedule(tuple(shape["pn"])),
    )
    with torch.device("meta"):
        own = {k: list(v.shape) for k, v in Tokenizer(config).state_dict().items()}
    table = {k: (own[k], *row) for k, row in facts["table"].items()}
    return hashed_weights(table, facts["seed"])


def vectors(case: str) -> Vectors:
    """Configuration "A" or "B": all of it where ``$SRDD_GOLDEN`` names the folder."""
    tensors, facts = open_file(HERE / f"var_{case}.safetensors")
    if "SRDD_GOLDEN" in os.environ:
        whole = Path(os.environ["SRDD_GOLDEN"]) / f"{case}.safetensors"
        tensors |= open_file(whole)[0]
    else:
        tensors |= open_file(HERE / f"tokenizer_{case}.safetensors")[0]
    networks = facts["weights"].items()
    return Vectors(
        name=case,
        config=facts["config"],
        tensors=tensors,
        tokenizer=tokenizer_weights(case),
        transformers={n: hashed_weights(w["table"], w["seed"]) for n, w in networks},
        grad_norms=facts["grad_norms"],
    )
