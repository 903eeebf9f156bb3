"""What a pipeline is given, checked: numbers, devices, seeds, sizes, images, masks."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from math import prod
from numbers import Integral
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .costs import sampling_bytes
from .data import to_mode, unit
from .sampling import SampleConfig, image_seeds, plain_number
from .tokenizer import TokenizerConfig, check_images
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


def images_of(
    images: Any, channels: int, side: int | None = None, checked: bool = True
) -> Tensor:
    """Images that somebody gives, ``(b, c, H, W)`` float32 in [-1, 1].

    Args:
        images: a PIL image or several, or a tensor in [-1, 1].
        channels: 1 makes them grey, 3 colour; a tensor has them already.
        side: wanted height and width; None is any.
        checked: whether their values are; not where some of them do not matter.
    Raises:
        ValueError: something else, or another size.
    """
    if not isinstance(images, Tensor):
        several = [images] if isinstance(images, Image.Image) else images
        if isinstance(several, str) or not isinstance(several, Sequence) or not several:
            raise ValueError(f"images must be PIL images or a tensor, got {images!r}")
        if wrong := [x for x in several if not isinstance(x, Image.Image)]:
            raise ValueError(f"images has {wrong[0]!r}, want PIL images or one tensor")
        if len(sizes := {x.size for x in several}) > 1:
            raise ValueError(f"images have the sizes {sorted(sizes)}, want one size")
        pixels = [np.array(to_mode(x, channels)) for x in several]
        stack = torch.from_numpy(np.stack(pixels))
        images = unit(stack.unflatten(-1, (-1, 1)) if channels == 1 else stack)
        images = images.permute(0, 3, 1, 2)
    if images.ndim == 3:
        images = images[None]
    shape = tuple(images.shape[1:])
    want = (channels, side, side) if side else (channels, *shape[1:3])
    if shape != want:
        raise ValueError(
            f"images has shape {tuple(images.shape)}, want (b, {channels}, "
            f"{side or 'H'}, {side or 'W'}); crop or resize them first"
        )
    if checked:
        check_images(images, want)
    return images.float()


def mask_of(mask: Any, count: int, side: int) -> Tensor:
    """A mask that somebody gives, ``(count, 1, side, side)`` bool.

    Args:
        mask: a PIL image, white where True, or a tensor or array of bool.
        count: images; one mask is that of all.
        side: wanted height and width.
    Raises:
        ValueError: something else, or another size.
    """
    if isinstance(mask, Image.Image):
        mask = np.array(mask.convert("L")) > 127
    found = torch.as_tensor(mask) if isinstance(mask, Tensor | np.ndarray) else None
    wanted = f"a PIL image or bool ({side}, {side}) or ({count}, {side}, {side})"
    if found is None or found.dtype != torch.bool:
        kind = type(mask).__name__ if found is None else found.dtype
        raise ValueError(f"mask is {kind}, want {wanted}; use mask > 0.5")
    if found.ndim == 4 and found.shape[1] == 1:
        found = found[:, 0]
    found = found[None] if found.ndim == 2 else found
    if found.shape[1:] != (side, side) or len(found) not in (1, count):
        raise ValueError(f"mask has shape {tuple(mask.shape)}, want {wanted}")
    return found[:, None].expand(count, -1, -1, -1)


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
