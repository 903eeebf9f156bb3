"""What a pipeline is given, checked: types of numbers, devices, generators, sizes."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from math import prod
from numbers import Integral

import torch

from .costs import sampling_bytes
from .sampling import SampleConfig, image_seeds, plain_number
from .tokenizer import TokenizerConfig
from .transformer import TransformerConfig

FLOATS = ("float32", "bfloat16", "float16")


def float_type(dtype: str | torch.dtype, title: str = "dtype") -> torch.dtype:
    """The torch type that a name means.

    Raises:
        ValueError: another name, or a type of other numbers.
    """
    found = getattr(torch, dtype) if dtype in FLOATS else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"{title} must be one of {', '.join(FLOATS)}, got {dtype!r}")
    return found


def usable(device: str | torch.device) -> str | torch.device:
    """A device as it is.

    Raises:
        ValueError: PyTorch does not know it, or finds none here.
    """
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError, TypeError) as error:
        found = "cpu or cuda" if torch.cuda.is_available() else "cpu (no GPU is seen)"
        why = str(error)[:80]
        raise ValueError(f"device must be {found}, got {device!r}: {why}") from error
    return device


def seeds_of(
    generator: torch.Generator | Sequence[torch.Generator] | None, count: int
) -> list[int]:
    """One seed per image from one generator, one per image, or chance.

    Raises:
        ValueError: something else, or a list of another length.
    """
    if generator is None:
        return image_seeds(int(torch.randint(2**62, ())), count)
    if isinstance(generator, torch.Generator):
        return image_seeds(generator.initial_seed(), count)
    several = list(generator) if isinstance(generator, Iterable) else [generator]
    for each in several:
        if not isinstance(each, torch.Generator):
            number = plain_number(each) if isinstance(each, Integral) else 0
            raise ValueError(
                f"generator has {each!r}, want torch.Generator().manual_seed({number})"
            )
    if len(several) != count:
        raise ValueError(
            f"generator has {len(several)} entries for {count} images; "
            "pass one per image, or a single one"
        )
    return [image_seeds(g.initial_seed(), 1)[0] for g in several]


def machine_memory() -> int:
    """Bytes of memory of this machine; where it does not tell, more than any has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 2**50


def check_count(count: int, shape: tuple[int, ...]) -> int:
    """A number of images that a call returns, as it is.

    Args:
        count: images.
        shape: of one, ``(c, H, W)``; they are made in float32.
    Raises:
        ValueError: more than the memory of this machine can hold.
    """
    most = max(1, machine_memory() // (4 * prod(shape)))
    if count > most:
        raise ValueError(
            f"{count:,} images at once do not fit in the memory of this machine, which "
            f"holds {most:,}: make fewer, several times, each time with another seed"
        )
    return count


def check_batch(
    images: int,
    networks: tuple[TransformerConfig, TokenizerConfig],
    sampling: SampleConfig,
    size: int,
) -> None:
    """Refuse a batch that a CPU cannot have in its memory.

    Args:
        images: in the batch.
        networks: what draws them and what paints them.
        sampling: as it will be done.
        size: bytes of a weight.
    Raises:
        ValueError: naming the batch size that fits.
    """

    def need(batch: int) -> int:
        how = {"sampling": sampling, "size": size}
        return sampling_bytes(*networks, 0, batch, **how).total

    there = machine_memory()
    if images > 1 and need(images) > there:
        fits = bisect_right(range(1, images), there, key=need)
        raise ValueError(
            f"a batch of {images:,} images needs about {need(images) / 1e9:.3g} GB, "
            f"this machine has {there / 1e9:.3g} GB: give a batch size of at most "
            f"{max(1, fits):,}"
        )
