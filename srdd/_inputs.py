"""What a pipeline is given, checked: types of numbers, devices, generators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral

import torch

from .sampling import image_seeds, plain_number

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
