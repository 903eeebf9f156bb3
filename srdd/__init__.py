"""Next-scale image generation with a Markovian transformer.

The names below load on first use, so ``import srdd`` costs next to nothing.
"""

__version__ = "0.1.0"

from importlib import import_module
from typing import Any

_HOME = {
    "CheckpointError": "files",
    "ImageSet": "data",
    "Judge": "metrics",
    "Pipeline": "pipeline",
    "SampleConfig": "sampling",
    "ScaleSchedule": "scales",
    "ScaleTransformer": "transformer",
    "Tokenizer": "tokenizer",
    "TokenizerConfig": "tokenizer",
    "TrainConfig": "training",
    "TransformerConfig": "transformer",
    "from_var": "checkpoints",
    "open_images": "data",
    "preset": "transformer",
    "sample": "sampling",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOME:
        raise AttributeError(f"module 'srdd' has no attribute {name!r}")
    return getattr(import_module(f"srdd.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """Public names."""
    return sorted(__all__)
