"""The command line: ``srdd VERB``, one function per verb.

Every verb returns a dictionary of results. It is shown as text, or as JSON
with ``--json``. Bad input ends with exit code 2 and one line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

TRAINING = ("train", "train-tokenizer", "slim-decoder")
MASKS = ("markov", "causal", "band")
GUIDANCE_RULES = ("constant", "linear", "interval")
PASS_RULES = ("random", "sequence", "halton", "confidence", "entropy", "threshold")
PASS_LAWS = ("head", "map", "same")
SUITES = ("fashion", "var", "var-gpu")
"""Words that the library knows, said again here: help comes without importing it."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
EXAMPLES = """examples:
  srdd sample fashion --out grid.png          ten classes from the shipped model
  srdd edit fashion bag.png --box 8,8,24,24 --classes Bag --out filled.png
  srdd reconstruct fashion photos/ --out r.png
  srdd train-tokenizer photos/ --out tok --size 32 --steps 2000
  srdd train photos/ --tokenizer tok --out model --steps 5000
  srdd train photos/ --tokenizer tok --schedule 1,3,8 --out short
  srdd slim-decoder model photos/ --out slim
  srdd sample model --classes cat,dog --count 4 --out cats.png
"""
EDITS = """examples, with the shipped model, whose pictures are grey, 32 x 32:
  srdd edit fashion bag.png --mask hole.png --out filled.png
                          paint what is white in hole.png, four times
  srdd edit fashion bag.png --box 8,8,24,24 --classes Bag --out filled.png
                          paint the middle, and say that it is a bag
  srdd edit fashion detail.png --outpaint --at 0,8 --out wide.png
                          draw around a small picture, which lies at the top
  srdd edit fashion tiny.png --super-resolve --count 8 --out large.png
                          eight sharp pictures that tiny.png may come from
  srdd edit fashion shirt.png --keep-scales 3 --classes Dress,Coat --out coat.png
                          the same outline as another kind, both in one grid
A row of the grid is a given image, what is painted grey, and its results.
With --separate DIR every result is also a file of its own.
"""


def sample(args: argparse.Namespace) -> dict[str, Any]:
    """Make a labelled grid of images from a trained model."""
    from .figures import image_grid
    from .pipeline import Pipeline

    out = pictures_out(args, "samples.png")
    pipe = Pipeline.from_pretrained(args.model, device=args.device, dtype=dtype(args))
    pipe.sampling = sampling_options(pipe, args)
    if args.cuda_graphs:
        pipe.enable_cuda_graphs(fused=args.cuda_graphs == "fused")
    labels, count = pipe.repeated(chosen_classes(pipe, args.classes), args.count)
    images = draw(pipe, labels, count, args)
    captions = None
    if labels is not None:
        captions = [
            pipe.classes[i] if n % args.count == 0 else "" for n, i in enumerate(labels)
        ]
    grid = image_grid(images, columns=args.count, labels=captions, scale=args.zoom)
    save_image(grid, out)
    return {
        "model": args.model,
        "images": len(images),
        **drawn_files(args, out, images, labels),
        "sampling": asdict(pipe.sampling),
    }


def drawn_files(
    args: argparse.Namespace, out: Path, images: Any, labels: list[int] | None
) -> dict[str, Any]:
    """The written files, with those of ``--separate``, and the seeds of the images."""
    from .sampling import image_seeds

    files = [str(out)]
    if args.separate:
        files += save_each(images, labels, Path(args.separate))
    seeds = image_seeds(args.seed, len(images))
    return {"files": files, "seed": args.seed, "seeds": seeds}


def draw(
    pipe: Any, labels: list[int] | None, count: int, args: argparse.Namespace
) -> Any:
    """Images of the labels in batches, ``(b, c, H, W)``, with a progress bar."""
    import torch
    from tqdm.auto import tqdm

    from .sampling import image_seeds

    seeds = image_seeds(args.seed, count)
    parts = []
    for at in tqdm(range(0, count, args.batch), disable=quiet(args), leave=False):
        part = slice(at, at + args.batch)
        chosen = None if labels is None else labels[part]
        made = pipe.draw(chosen, seeds[part], pipe.sampling)
        parts.append(made.images.float().cpu())
    return torch.cat(parts)


def edit(args: argparse.Namespace) -> dict[str, Any]:
    """Paint a part of given images, draw around them, sharpen or change them."""
    import torch

    from .figures import image_grid
    from .pipeline import Pipeline

    out = pictures_out(args, "edited.png")
    check_edit(args, out)
    pipe = Pipeline.from_pretrained(args.model, device=args.device, dtype=dtype(args))
    pipe.sampling = sampling_options(pipe, args)
    labels = classes_of_images(pipe, args)
    task, given, shown = edit_task(pipe, args)
    rounds = 1 if task == "edit" else args.rounds or 3
    how = {"scales": args.keep_scales} if task == "edit" else {"rounds": rounds}
    rows = max(len(shown), len(labels or [0]))
    with scale_bar(pipe, rows * args.count, rounds, args) as bar:
        made = getattr(pipe, task)(
            *given,
            labels,
            num_images_per_image=args.count,
            generator=torch.Generator().manual_seed(args.seed),
            output_type="pt",
            batch_size=args.batch,
            callback_on_step_end=lambda *_: bar.update(),
            callback_on_step_end_tensor_inputs=(),
            **how,
        )
    firsts = shown.repeat(rows // len(shown), 1, 1, 1)[:, None]
    tiles = torch.cat((firsts, made.images.unflatten(0, (rows, -1))), 1).flatten(0, 1)
    columns, captions = args.count + 1, None
    if labels is not None:
        each = made.labels[:: args.count]
        captions = [pipe.classes[i] for i in each for _ in range(columns)]
    save_image(image_grid(tiles, columns, captions, scale=args.zoom), out)
    return {
        "model": args.model,
        "images": len(made.images),
        "rounds": rounds,
        **drawn_files(args, out, made.images, made.labels),
        "sampling": asdict(pipe.sampling),
    }


def check_edit(args: argparse.Namespace, out: Path) -> None:
    """Refuse what ``edit`` would not do, or do to the images that it is given.

    Raises:
        ValueError: an option that does nothing, or a result in the place of an image.
    """
    own_size = "--outpaint" if args.outpaint else "--super-resolve"
    kept = args.keep_scales is not None
    if args.at is not None and not args.outpaint:
        raise ValueError(
            "--at is the place for --outpaint: say that too, or leave --at"
        )
    if args.upsample and (args.outpaint or args.super_resolve):
        raise ValueError(f"--upsample does nothing with {own_size}: leave it out")
    if args.rounds is not None and kept:
        raise ValueError("--rounds does nothing with --keep-scales: leave it out")
    if args.classes == "none" and kept:
        raise ValueError(
            "--keep-scales draws an image as another class: say --classes too"
        )
    for path in map(Path, [*args.images, *([args.mask] if args.mask else [])]):
        if path.resolve() == out.resolve():
            raise ValueError(
                f"--out {out} is an image that is given, and would be replaced: name "
                "another file"
            )
        if args.separate and path.resolve().parent == Path(args.separate).resolve():
            raise ValueError(
                f"--separate {args.separate} holds {path.name}, which is given and may "
                "be replaced: name another folder"
            )


def classes_of_images(pipe: Any, args: argparse.Namespace) -> list[int] | None:
    """Class ids: one for all images, one for each, or several of one image.

    Raises:
        ValueError: as `chosen_classes`, or another number of classes.
    """
    labels, images = chosen_classes(pipe, args.classes), len(args.images)
    if args.classes == "all" and images > 1:
        raise ValueError(
            f"--classes all is for one image, got {images}: name one class for all "
            "images, or one for each"
        )
    if labels is not None and images > 1 and len(labels) not in (1, images):
        raise ValueError(
            f"--classes has {len(labels)} classes for {images} images: name one for "
            "all, or one for each"
        )
    return labels


def edit_task(pipe: Any, args: argparse.Namespace) -> tuple[str, tuple[Any, ...], Any]:
    """The pipeline's method for what was asked, its images, and how they are shown.

    Raises:
        ValueError: an image that does not fit the task, with its name.
    """
    import torch

    from .data import centre, unit

    channels, side, _ = pipe.tokenizer.image_shape
    if args.super_resolve:
        small = small_squares(args.images, channels, side)
        return "super_resolve", (small,), torch.nn.functional.interpolate(small, side)
    if args.outpaint:
        images, holes = canvases(args, channels, side)
    else:
        read = [fitted(path, args, channels, side) for path in args.images]
        images = unit(torch.stack([centre(pixels, side) for pixels, _ in read]))
        if args.keep_scales is not None:
            most = len(pipe.tokenizer.schedule) - 1
            if args.keep_scales > most:
                raise ValueError(
                    f"--keep-scales is {args.keep_scales}, want 1 to {most}: this model "
                    f"has {most + 1} scales, and one has to be drawn"
                )
            return "edit", (images,), images
        holes = box_hole(args, side) if args.box else mask_holes(args, read, side)
        holes = holes.expand(len(images), 1, side, side)
    return "inpaint", (images, holes), images.masked_fill(holes, 0)


def small_squares(paths: Sequence[str], channels: int, side: int) -> Any:
    """Files for ``--super-resolve`` at their own size, ``(b, c, s, s)``.

    Raises:
        ValueError: no square, one that does not divide the side, or several sizes.
    """
    import torch

    from .data import unit

    fit = [n for n in range(1, side) if side % n == 0]
    found = [opened(path, channels) for path in paths]
    for path, image in zip(paths, found, strict=True):
        high, wide = image.shape[1:]
        if high != wide or high not in fit:
            raise ValueError(
                f"{path} is {wide}x{high}, --super-resolve wants a square whose side is "
                f"one of {', '.join(map(str, fit))}: crop or resize it first"
            )
        if image.shape != found[0].shape:
            raise ValueError(
                f"{path} is {wide}x{high}, {paths[0]} is not: give images of one size "
                "at a time"
            )
    return unit(torch.stack(found))


def canvases(args: argparse.Namespace, channels: int, side: int) -> tuple[Any, Any]:
    """Files for ``--outpaint`` at their own size, on canvases, and what is empty there.

    Raises:
        ValueError: a file that is too large, or does not fit where ``--at`` says.
    """
    import torch

    from .data import unit
    from .editing import on_canvas

    parts = []
    for path in args.images:
        image = opened(path, channels)
        high, wide = image.shape[1:]
        if max(high, wide) > side or high == wide == side:
            raise ValueError(
                f"{path} is {wide}x{high}, --outpaint wants less than {side}x{side}: "
                "make it smaller first"
            )
        room = side - high, side - wide
        if args.at and (args.at[0] > room[0] or args.at[1] > room[1]):
            raise ValueError(
                f"--at {args.at[0]},{args.at[1]} puts {path} ({wide}x{high}) over the "
                f"edge of {side}x{side}: want at most {room[0]},{room[1]}"
            )
        parts.append(on_canvas(unit(image)[None], side, args.at))
    images, holes = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(holes)


def opened(path: str, channels: int, option: str = "") -> Any:
    """An image file at its own size, uint8 ``(c, H, W)``.

    Raises:
        ValueError: no such file, or it cannot be read.
    """
    import numpy as np
    import torch
    from PIL import Image

    from .data import to_mode

    if not Path(path).is_file():
        what = "is a folder" if Path(path).is_dir() else "is not there"
        raise ValueError(f"{option}{path} {what}, want an image file: name one")
    try:
        with Image.open(path) as file:
            pixels = np.array(to_mode(file, channels))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{option}{path} cannot be read as an image ({error}): repair it, or name "
            "another one"
        ) from error
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(
        2, 0, 1
    )


def fitted(path: str, args: argparse.Namespace, channels: int, side: int) -> Any:
    """An image file with its shorter side resized, and its own height and width.

    Raises:
        ValueError: as `opened`, or a smaller file without ``--upsample``.
    """
    from .data import read_image

    image = opened(path, channels)
    high, wide = image.shape[1:]
    if min(high, wide) < side and not args.upsample:
        raise ValueError(
            f"{path} is {wide}x{high}, want at least {side} pixels per side: --upsample "
            "enlarges it, --outpaint draws around it"
        )
    if min(high, wide) != side:
        image = read_image(Path(path), side, channels, upsample=True)
    return image, (high, wide)


def box_hole(args: argparse.Namespace, side: int) -> Any:
    """``--box`` as a mask, ``(1, 1, side, side)`` bool.

    Raises:
        ValueError: a box that is empty, leaves the picture, or is all of it.
    """
    import torch

    top, left, bottom, right = args.box
    if not (top < bottom <= side and left < right <= side):
        raise ValueError(
            f"--box is {top},{left},{bottom},{right}, want TOP < BOTTOM and LEFT < "
            f"RIGHT, all from 0 to {side}, the side of the model's pictures"
        )
    hole = torch.zeros(1, 1, side, side, dtype=torch.bool)
    hole[..., top:bottom, left:right] = True
    return check_hole(hole, "--box")


def mask_holes(args: argparse.Namespace, read: Sequence[Any], side: int) -> Any:
    """``--mask`` for each image, resized and cropped with it, ``(b, 1, side, side)``.

    A pixel is painted if any white pixel of the file falls into it.

    Raises:
        ValueError: as `opened`, or a mask of another shape, without hole or rest.
    """
    import torch

    from .data import centre

    mask, holes = opened(args.mask, 1, "--mask ") > 127, []
    high, wide = mask.shape[1:]
    for path, (pixels, own) in zip(args.images, read, strict=True):
        hole = mask
        if (high, wide) != (side, side):
            sizes = [[n * side / min(x) for n in x] for x in ((high, wide), own)]
            if any(abs(a - b) > 1 for a, b in zip(*sizes, strict=True)):
                raise ValueError(
                    f"--mask {args.mask} is {wide}x{high}, {path} is {own[1]}x{own[0]}: "
                    f"give a mask of that size, or of {side}x{side} for the middle"
                )
            pool = torch.nn.functional.adaptive_max_pool2d
            hole = centre(pool(mask.float(), pixels.shape[1:]) > 0, side)
        holes.append(check_hole(hole, f"--mask {args.mask}"))
    return torch.stack(holes)


def check_hole(hole: Any, title: str) -> Any:
    """A mask as it is.

    Raises:
        ValueError: it paints nothing, or everything.
    """
    if not hole.any():
        raise ValueError(
            f"{title} paints nothing: white is painted, and of the longer side only the "
            "middle is seen; make a part of that white"
        )
    if hole.all():
        raise ValueError(
            f"{title} paints the whole picture: leave a part of it, or make new "
            "pictures with srdd sample"
        )
    return hole


def scale_bar(pipe: Any, count: int, rounds: int, args: argparse.Namespace) -> Any:
    """A progress bar over the scales of all batches and rounds."""
    from tqdm.auto import tqdm

    total = len(pipe.tokenizer.schedule) * rounds * -(-count // args.batch)
    known = total if pipe.sampling.once else None  # passes and ways back come on top
    return tqdm(total=known, unit="scale", disable=quiet(args), leave=False)


def reconstruct(args: argparse.Namespace) -> dict[str, Any]:
    """Pass images through a tokenizer and show them beside the originals."""
    import torch

    from .data import open_images
    from .figures import image_grid
    from .tokenizer import Tokenizer, psnr

    out = check_out(args.out or "reconstruction.png", *PICTURES)
    number = dtype(args)
    tokenizer = Tokenizer.from_pretrained(args.model, device=args.device, dtype=number)
    channels, side, _ = tokenizer.image_shape
    images = open_images(args.images, side=side, channels=channels, **reading(args))
    count = min(args.count, len(images))
    real, _ = images.batch(range(count))
    with torch.no_grad():
        fake = tokenizer.reconstruct(real.to(args.device, number)).float().cpu()
    rows = torch.stack((real, fake), dim=1).flatten(0, 1)
    save_image(image_grid(rows, columns=2, scale=args.zoom), out)
    each = psnr(fake, real)
    return {
        "images": count,
        "files": [str(out)],
        "psnr_db": round(each.mean().item(), 2),
        "psnr_worst_db": round(each.min().item(), 2),
    }


def train_tokenizer(args: argparse.Namespace) -> dict[str, Any]:
    """Train a tokenizer on images; it is saved as a folder."""
    from .data import loader, open_images
    from .tokenizer import Tokenizer, TokenizerTask
    from .training import TOKENIZER_TRAINING, fit

    out = Tokenizer.check_own(args.out or "tokenizer")  # before anything is trained
    check_out(out / "model.safetensors")
    given = read_config(args.config)
    usual = {"steps": 4000, "batch": 64, "lr": 1.5e-3, "ema": 0.998}
    config = train_config(args, given, **usual, **TOKENIZER_TRAINING)
    shape, start = tokenizer_start(args, given.get("tokenizer", {}))
    images = open_images(
        args.data,
        side=shape.image_side,
        channels=shape.image_channels,
        flip=config.augment,
        **reading(args),
    )
    set_seed(args.seed)
    tokenizer = (start or Tokenizer(shape)).to(args.device)
    task = TokenizerTask(
        channels_last(tokenizer),
        lambda at: loader(
            images,
            config.batch,
            config.seed,
            start_step=at,
            workers=config.workers,
            augment=config.augment,
        ),
        seed=config.seed,
        start_codes=start is None,
        restart_until=config.steps * 3 // 4,
        **plug_in_losses(args, shape.image_channels, config.steps),
    )
    task.mark = learned_from(args, images, "tokenizer")
    trained = fit(
        task,
        config,
        out,
        resume=args.resume,
        progress=not quiet(args),
        on_save=lambda step, model: save_grid(
            out / "progress" / f"step-{step:06d}.png", model, images
        ),
    )
    trained.save_pretrained(
        out, data=images.name, command=command(), training=asdict(config)
    )
    return {"out": str(out), **counted(images), "steps": config.steps}


def plug_in_losses(
    args: argparse.Namespace, channels: int, steps: int
) -> dict[str, Any]:
    """The feature loss and the patch critic that a training verb was asked for."""
    found: dict[str, Any] = {}
    if args.perceptual:
        from .metrics import Judge
        from .tokenizer import FeatureLoss

        judge = Judge.from_pretrained(args.perceptual, device=args.device)
        found["perceptual"] = FeatureLoss(judge.requires_grad_(False).stages)
        found["perceptual_weight"] = args.perceptual_weight
    if args.adversarial:
        from .tokenizer import PatchDiscriminator

        found["discriminator"] = PatchDiscriminator(channels).to(args.device)
        found["adversarial_weight"] = args.adversarial_weight
        found["adversarial_start"] = steps // 3
    return found


def slim_decoder(args: argparse.Namespace) -> dict[str, Any]:
    """Train a slimmer decoder for a tokenizer or a whole model."""
    from .costs import decoder_flops
    from .data import open_images
    from .decoder_study import missing_sharpness
    from .distillation import DecoderTask, PaintedMaps, slimmed
    from .files import check_replaceable, resolve_model
    from .pipeline import Pipeline
    from .tokenizer import Tokenizer
    from .training import TOKENIZER_TRAINING, fit

    out = check_replaceable(args.out or "slim")  # before anything is trained
    given = read_config(args.config)
    usual = {"steps": 3000, "batch": 32, "lr": 4e-3, "ema": 0.99}
    config = train_config(args, given, **usual, **TOKENIZER_TRAINING)
    if args.maps < 1:
        raise ValueError(f"--maps must be at least 1, got {args.maps}")
    teacher = Tokenizer.from_pretrained(args.model, device=args.device)
    channels, side, _ = teacher.image_shape
    images = open_images(args.data, side=side, channels=channels, **reading(args))
    usual_base = max(1, teacher.config.base * 5 // 8)
    base = usual_base if args.base is None else args.base
    shape = {"blocks": args.blocks, "middle": args.middle}
    student = channels_last(slimmed(teacher, base, args.seed, **shape))
    pipe = None
    if (resolve_model(args.model) / "transformer").is_dir():
        pipe = Pipeline.from_pretrained(args.model, device=args.device)
    maps = maps_to_paint(args, teacher, images, pipe)
    strength = missing_sharpness(teacher, images, 1000) if args.sharpen else 0.0
    pairs = PaintedMaps(teacher, maps, config.batch, config.seed, strength)
    work = out.with_name(out.name + "-training")
    plugged = plug_in_losses(args, channels, config.steps)
    task = DecoderTask(student, pairs, edges=args.edges, **plugged)
    task.mark = learned_from(args, images, ".", args.model)  # and its samples
    trained = fit(task, config, work, resume=args.resume, progress=not quiet(args))
    made: Any = trained
    if pipe is not None:
        known = {"classes": pipe.classes, "sampling": pipe.sampling}
        made = Pipeline(trained, pipe.transformer, presets=pipe.presets, **known)
    made.save_pretrained(
        out,
        data=images.name,
        command=command(),
        training=asdict(config),
        teacher=args.model,
    )
    before, after = decoder_flops(teacher.config), decoder_flops(trained.config)
    return {
        "out": str(out),
        "steps": config.steps,
        "decoder_flops": after,
        "share_of_teacher": round(after / before, 3),
    } | ({"sharpened_by": round(strength, 4)} if args.sharpen else {})


def maps_to_paint(
    args: argparse.Namespace, teacher: Any, images: Any, pipe: Any
) -> Any:
    """What a slim decoder learns from: maps of images, and of samples if it can."""
    import torch

    from .data import permutation
    from .distillation import image_maps
    from .metrics import in_batches
    from .studies import drawn

    rows = permutation(len(images), args.seed, 0)[: args.maps].tolist()
    maps = [image_maps(channels_last(teacher), in_batches(images.subset(rows)))]
    if pipe is not None:
        made = drawn(
            pipe.transformer,
            pipe.tokenizer,
            torch.arange(args.maps) % len(pipe.classes),
            sampling=pipe.sampling,
            seed=args.seed,
            progress=not quiet(args),
        )
        maps += [pipe.tokenizer.maps(part.tokens)[-1] for part in made]
    return torch.cat(maps)


def tokenize(args: argparse.Namespace) -> dict[str, Any]:
    """Encode all images once and keep the tokens in a file."""
    from .runs import save_tokens

    out = check_out(args.out or "tokens.safetensors", ".safetensors")
    made, images, tokens = token_set(args)
    save_tokens(out, tokens)
    return {
        "out": str(out),
        "images": len(tokens),
        "tokens_per_image": made.tokenizer.schedule.length,
    }


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Train a transformer on the tokens of images; saves a whole model."""
    from .data import digest
    from .files import check_replaceable
    from .pipeline import Pipeline
    from .resampling import MaskHeadTask, MaskTask
    from .training import TransformerTask, fit, scale_cross_entropy

    out = check_replaceable(args.out or "model")  # before anything is trained
    given = read_config(args.config)
    config = train_config(args, given, steps=3000, batch=128, lr=2e-3)
    if config.augment or config.workers:
        raise ValueError(
            "train learns from tokens that are made once: augment and workers do "
            "nothing; leave them out of --config, add mirror images with --flips"
        )
    made, images, tokens = token_set(args)
    tokenizer = made.tokenizer
    model = transformer_start(args, given.get("transformer", {}), made, images)
    kind: Any = TransformerTask
    if model.config.mask_blocks:
        kind = MaskHeadTask if args.frozen else MaskTask
    elif args.frozen:
        raise ValueError("--frozen trains a mask head alone: say --mask-blocks too")
    task = kind(model.to(args.device), tokenizer, tokens, config)
    if args.init:
        own = learned_from(args, images, "transformer", args.init)
        task.mark = digest(task.mark, own)
    work = out.with_name(out.name + "-training")

    def save(step: int, averaged: Any) -> None:
        pipe = Pipeline(tokenizer, averaged, classes=images.classes)
        save_samples(work / "progress" / f"step-{step:06d}.png", pipe)

    trained = fit(
        task, config, work, resume=args.resume, progress=not quiet(args), on_save=save
    )
    pipe = Pipeline(tokenizer, trained, classes=images.classes)
    pipe.save_pretrained(
        out, data=images.name, command=command(), training=asdict(config)
    )
    some = replace(tokens, tokens=tokens.tokens[:2000], labels=tokens.labels[:2000])
    losses = scale_cross_entropy(trained, tokenizer, some)
    return {
        "out": str(out),
        **counted(images),
        "steps": config.steps,
        "cross_entropy_per_scale": [round(x, 4) for x in losses.tolist()],
    }


def info(args: argparse.Namespace) -> dict[str, Any]:
    """Sizes, operations and memory of a model folder or of a preset (d16)."""
    import re

    from .files import write_json

    if args.out:
        check_out(args.out, ".json")
    known = re.fullmatch(r"d\d+", args.model) and not Path(args.model).exists()
    found = preset_info(args) if known else folder_info(args)
    if args.out:
        write_json(args.out, found)
    return found


def folder_info(args: argparse.Namespace) -> dict[str, Any]:
    """``info`` of a model folder."""
    from .files import read_json, resolve_model
    from .pipeline import Pipeline
    from .sampling import check_configs

    folder = resolve_model(args.model)
    pipe = Pipeline.from_pretrained(args.model)
    facts = read_json(folder / "manifest.json")
    facts.pop("files", None)
    presets = {
        k: row["measured"]
        for k, row in facts.pop("presets", {}).items()
        if "measured" in row
    }
    own = next((k for k in presets if pipe.presets[k] == pipe.sampling), None)
    config = pipe.transformer.config
    if args.mask:
        config = replace(config, mask=args.mask)
    sampling = sampling_options(pipe, args)
    shape = pipe.painter.config
    check_configs(config, shape, sampling)
    networks = (pipe.tokenizer, pipe.painter)  # both are loaded
    loaded = {id(w): w.numel() for part in networks for w in part.parameters()}
    return {
        "model": args.model,
        "tokenizer_parameters": parameters(pipe.tokenizer),
        "transformer_parameters": parameters(pipe.transformer),
        "image_shape": list(pipe.tokenizer.image_shape),
        "mask": config.mask,
        "sides": list(config.schedule.sides),
        "tokens_per_image": config.schedule.length,
        **costs(args, config, shape, sum(loaded.values()), sampling),
        **({"presets": presets} if presets else {}),
        **({"default_preset": own} if own else {}),
        "manifest": facts,
    }


def preset_info(args: argparse.Namespace) -> dict[str, Any]:
    """``info`` of a published size; nothing is loaded or allocated."""
    import torch

    from .costs import transformer_parameters
    from .sampling import check_configs, sampling_preset
    from .tokenizer import Tokenizer, TokenizerConfig
    from .transformer import preset

    config = preset(args.model, mask=args.mask or "causal")
    with torch.device("meta"):
        tokenizer = Tokenizer(TokenizerConfig(schedule=config.schedule))
    sampling = changed(sampling_preset(args.preset or "var-fid"), args)
    check_configs(config, tokenizer.config, sampling)
    return {
        "model": args.model,
        "tokenizer_parameters": parameters(tokenizer),
        "transformer_parameters": transformer_parameters(config),
        "image_shape": list(tokenizer.image_shape),
        "mask": config.mask,
        "sides": list(config.schedule.sides),
        "tokens_per_image": config.schedule.length,
        **costs(args, config, tokenizer.config, parameters(tokenizer), sampling),
    }


def costs(
    args: argparse.Namespace,
    config: Any,
    tokenizer: Any,
    tokenizer_weights: int,
    sampling: Any,
) -> dict[str, Any]:
    """Operations per image, and memory of sampling and training a batch."""
    from . import costs as count
    from .distillation import generation_flops

    half, batch = args.dtype != "float32", args.batch
    size = 2 if half else 4
    if batch < 1:
        raise ValueError(f"--batch must be at least 1, got {batch}")
    memory = {
        "sampling": count.sampling_bytes(
            config, tokenizer, tokenizer_weights, batch, sampling=sampling, size=size
        ),
        "training_step": count.training_bytes(config, batch, half=half),
    }
    guided = count.transformer_flops(config)
    return {
        "cache_bytes_per_image": count.cache_bytes(config, sampling, size),
        "flops_per_image": {
            "transformer_guided": guided.total,
            "transformer_not_guided": count.transformer_flops(
                config, guided=False
            ).total,
            "training_step": count.training_flops(config),
            "decoder": count.decoder_flops(tokenizer),
            "encoder": count.encoder_flops(tokenizer),
            "sampling, passes and decoder": generation_flops(
                config, tokenizer, sampling
            ).total,
        },
        "batch": batch,
        "dtype": args.dtype,
        "sampling": asdict(sampling),
        "memory_bytes": {
            name: asdict(part) | {"total": part.total} for name, part in memory.items()
        },
    }


def convert(args: argparse.Namespace) -> dict[str, Any]:
    """Read a public VAR checkpoint, or write one with --to-var."""
    if args.to_var:
        return convert_back(args)
    from .files import check_replaceable
    from .pipeline import Pipeline
    from .sampling import sampling_preset

    if len(args.files) != 2:
        raise ValueError(
            "convert wants two files, tokenizer and transformer, or the trainer's file "
            f"twice; got {len(args.files)}"
        )
    out = check_replaceable(args.out or "model")
    pair = public_pair(args)
    peer, vocab = sampling_preset("var-fid"), pair[1].config.vocab
    peer = replace(peer, top_k=min(peer.top_k, vocab))
    pipe = Pipeline(*pair, sampling=peer)
    pipe.save_pretrained(
        out,
        dtype=None if args.dtype == "float32" else dtype(args),
        command=command(),
        source="public VAR layout",
    )
    shape = pair[1].config
    return {
        "out": str(out),
        "depth": shape.depth,
        "width": shape.width,
        "heads": shape.heads,
        "classes": shape.classes,
        "mask": shape.mask,
        "sides": list(shape.schedule.sides),
        "tokenizer_parameters": parameters(pair[0]),
        "transformer_parameters": parameters(pair[1]),
    }


TOLD = "schedule heads depth classes phi_convs blocks attention_levels".split()
"""What ``convert`` asks for where the files of a public checkpoint do not tell."""


def public_pair(args: argparse.Namespace) -> Any:
    """Both networks of a public checkpoint; questions come in words of the shell.

    Raises:
        CheckpointError: as `from_var`.
    """
    import re

    from .checkpoints import from_var
    from .files import CheckpointError

    told = {name: getattr(args, name) for name in TOLD}
    try:
        return from_var(*args.files, mask=args.mask, strict=not args.lenient, **told)
    except ValueError as error:
        text = str(error).replace("strict=False", "--lenient")
        for name in ("mask", *TOLD):
            flag = "--" + name.replace("_", "-")
            text = re.sub(rf"\b{name}=(?=\w)", f"{flag} ", text)
            text = re.sub(rf"\b{name}=", flag, text)
            text = re.sub(rf"(?<!-)\b{name} (is|has|must)\b", rf"{flag} \1", text)
        sides = re.compile(r"(?<=published )\([\d, ]+\)")
        text = sides.sub(lambda m: m[0].strip("()").replace(", ", "-"), text)
        kind = CheckpointError if isinstance(error, CheckpointError) else ValueError
        raise kind(text) from error


def convert_back(args: argparse.Namespace) -> dict[str, Any]:
    """``convert --to-var``: a model folder as two files of the public layout."""
    import torch

    from .checkpoints import to_var
    from .pipeline import Pipeline

    if len(args.files) != 1:
        raise ValueError(f"--to-var wants one model folder, got {len(args.files)}")
    given = {name: getattr(args, name) for name in ("mask", *TOLD)}
    given = [name for name, value in given.items() if value is not None]
    if given or args.lenient:
        flag = "--" + (given or ["lenient"])[0].replace("_", "-")
        raise ValueError(
            f"{flag} is for reading a public checkpoint; --to-var writes the model as "
            f"it is: leave {flag} out"
        )
    out = Path(args.out or "var")
    files = [check_new(out / name) for name in ("vae.pth", "var.pth")]
    pipe = Pipeline.from_pretrained(args.files[0])
    states = to_var(pipe.tokenizer, pipe.transformer)
    out.mkdir(parents=True, exist_ok=True)
    for path, state in zip(files, states, strict=True):
        torch.save(state, path)
    return {"files": [str(path) for path in files], "entries": [*map(len, states)]}


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Measure samples of a model against images, with yardsticks."""
    from .evaluation import evaluate_model, evaluate_published
    from .experiments import Setting
    from .files import write_json

    if args.out:
        check_out(args.out, ".json")
    setting = Setting(args.root, args.seed, args.device, progress=not quiet(args))
    if args.statistics is not None:
        refuse_other_protocol(args)
        found = evaluate_published(
            args.model, statistics=args.statistics, setting=setting
        )
    else:
        data, train = args.data or "fashion-test", args.train
        if train is None and data == "fashion-test":
            train = "fashion"
        found = evaluate_model(
            args.model,
            data=data,
            setting=setting,
            features=args.features,
            train=train,
            count=args.count,
            on_error=args.on_error,
            upsample=args.upsample,
        )
    if args.out:
        write_json(args.out, found)
    return found


FORMATS = {
    "tokenize": "tokens are made in float32",
    "eval": "what is measured is made in float32",
    "bench": "a suite says itself in which formats it runs",
    "experiment": "what is measured is made in float32",
    "report": "pages are written from records",
}
"""Verbs that leave no choice of ``--dtype``, and why."""


def refuse_dtype(args: argparse.Namespace) -> None:
    """Refuse ``--dtype`` where it would do nothing.

    Raises:
        ValueError: another number format than float32.
    """
    reason = FORMATS.get(args.verb)
    if args.verb == "convert" and args.to_var:
        reason = "--to-var writes the model as it is"
    if reason and args.dtype != "float32":
        raise ValueError(f"--dtype {args.dtype}: {reason}; leave --dtype out")


def refuse_other_protocol(args: argparse.Namespace) -> None:
    """``eval --statistics`` fixes the network, the number of samples and the reference.

    Raises:
        ValueError: an option that asks for something else.
    """
    fixed = {"features": "inception", "count": 50_000, "data": None, "train": None}
    for name, only in fixed.items():
        if (got := getattr(args, name)) not in (None, only):
            raise ValueError(
                f"--statistics is the published protocol, which has no --{name} {got}; "
                "leave that out, or leave --statistics out for a value of your own"
            )


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Time alternatives side by side in one run."""
    from tqdm.auto import tqdm

    from .files import write_json
    from .speed import run_suite, tables

    if args.out:
        check_out(args.out, ".json")
    with tqdm(unit=" parts", disable=quiet(args), leave=False) as bar:

        def watched(title: str, part: Any) -> Any:
            bar.set_description(title)
            found = part()
            bar.update()
            return found

        result = run_suite(args.suite, args.repeats, watched)
    if args.out:
        write_json(args.out, result)
    return result if args.json else tables(result)


def experiment(args: argparse.Namespace) -> dict[str, Any]:
    """Run a named experiment and write its record to results/."""
    from .experiments import rehearse, run

    if args.name == "list":
        from .experiments import EXPERIMENTS

        return {name: row.claim for name, row in EXPERIMENTS.items()}
    return (rehearse if args.rehearse else run)(
        args.name,
        root=args.root,
        seed=args.seed,
        device=args.device,
        out=args.out,
        progress=not quiet(args),
        work=args.work,
    )


def report(args: argparse.Namespace) -> dict[str, Any]:
    """Write all numbers of README.md and of the claims page from results/."""
    from .claims import write_pages
    from .records import fill_markers

    if args.out:
        return {"pages": {args.out: fill_markers(args.out)}}
    return {"pages": write_pages()}


def dtype(args: argparse.Namespace) -> Any:
    """The torch type that ``--dtype`` names."""
    import torch

    return getattr(torch, args.dtype)


def check_device(name: str) -> None:
    """Refuse a device that is not there.

    Raises:
        ValueError: a name that PyTorch does not know, or no such GPU.
    """
    if name == "cpu":
        return
    from ._inputs import usable

    kinds = ("cpu", "cuda", "mps", "xpu")
    if name.partition(":")[0] not in kinds:
        raise ValueError(f"--device {name} cannot be used, want {', '.join(kinds)}")
    try:
        usable(name)
    except ValueError as error:
        raise ValueError(f"--device {name} cannot be used: {error}") from None


def within(text: str, least: int, most: int) -> int:
    """A whole number of a range."""
    known = text.isascii() and text.isdigit() and len(text) < 20
    if not known or not least <= int(text) <= most:
        bound = f" <= {most}" if most < 2**31 else ""
        raise argparse.ArgumentTypeError(
            f"want a whole number >= {least}{bound}, got {text!r}"
        )
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1 on."""
    return within(text, 1, 2**31 - 1)


def zoom(text: str) -> int:
    """How many pixels a pixel becomes."""
    return within(text, 1, 64)


def seed(text: str) -> int:
    """A seed that every generator takes."""
    return within(text, 0, 2**63 - 1)


def check_out(out: str | Path, *suffixes: str, option: str = "--out") -> Path:
    """A file to write, refused before the work if it cannot be.

    Args:
        out: the file.
        suffixes: what its name may end with; none is anything.
        option: where the user said it.
    Raises:
        ValueError: a folder, another suffix, or a place where nothing can be written.
    """
    out = Path(out)
    if out.is_dir():
        raise ValueError(f"{option} {out} is a folder, want a file: name one in it")
    if suffixes and out.suffix.lower() not in suffixes:
        ends = f"ends with {out.suffix!r}" if out.suffix else "has no suffix"
        raise ValueError(f"{option} {out} {ends}, want one of {', '.join(suffixes)}")
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise ValueError(f"{option} {out}: {folder} is a file, want a folder")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{option} {out}: nothing can be written to {folder}")
    return out


def pictures_out(args: argparse.Namespace, usual: str) -> Path:
    """The file of ``--out``; it and the folder of ``--separate`` can be written.

    Raises:
        ValueError: as `check_out`.
    """
    if args.separate:
        check_out(Path(args.separate) / "x.png", option="--separate")
    return check_out(args.out or usual, *PICTURES)


def check_new(out: Path) -> Path:
    """A file to write of which nothing tells afterwards that it is ours.

    Raises:
        ValueError: as `check_out`, or something lies there.
    """
    if os.path.lexists(out):
        raise ValueError(
            f"--out {out.parent} holds {out.name}, which may be somebody's weights and "
            "would be replaced: name another folder, or move it away"
        )
    return check_out(out)


def reading(args: argparse.Namespace) -> dict[str, Any]:
    """How images are read, by the options of `reading_options`."""
    return {name: getattr(args, name) for name in ("root", "on_error", "upsample")}


def learned_from(
    args: argparse.Namespace, images: Any, part: str, start: str | None = None
) -> str:
    """Changes with the images, the weights a training starts from, and its losses."""
    from .data import digest
    from .files import read_json, resolve_model

    facts = [images.fingerprint]
    if name := start or getattr(args, "init", None):
        folder = resolve_model(name)
        folder = folder / part if (folder / part).is_dir() else folder
        facts.append(str(read_json(folder / "manifest.json").get("files")))
    losses = ("perceptual", "perceptual_weight", "adversarial", "adversarial_weight")
    for option in (*losses, "edges", "sharpen", "maps"):
        facts.append(str(getattr(args, option, None)))
    return digest(*facts)


def quiet(args: argparse.Namespace) -> bool:
    """No progress bars for machines."""
    return args.json or not sys.stderr.isatty()


def set_seed(seed: int) -> None:
    """Starting weights are a function of the seed."""
    import torch

    torch.manual_seed(seed)


def channels_last(model: Any) -> Any:
    """Convolutions on CPUs are several times faster in this layout."""
    import torch

    return model.to(memory_format=torch.channels_last)


def command() -> str:
    """The command line of this run, without folders."""
    from .records import command_line

    return command_line()


def names(text: str, known: Sequence[str]) -> list[str]:
    """Class names and ids with commas between them; the name of a class stays whole.

    Args:
        text: the list.
        known: names of the classes, which may have commas themselves.
    Raises:
        ValueError: a part that names one class as a whole, and several if it is split.
    """
    own = {name.casefold() for name in known}
    most = 1 + max(name.count(",") for name in ("", *own))
    parts, found = text.split(","), []
    while parts:
        runs = (",".join(parts[:n]).strip() for n in range(most, 1, -1))
        whole = next((x for x in runs if x.casefold() in own), parts[0].strip())
        count = 1 + whole.count(",")
        if count > 1 and all(x.strip().casefold() in own for x in parts[:count]):
            raise ValueError(
                f"--classes has {whole!r}, which is one class and also {count} classes: "
                "give ids"
            )
        found += [whole] if whole else []
        parts = parts[count:]
    return found


def chosen_classes(pipe: Any, text: str) -> list[int] | None:
    """Ids of the classes of ``--classes``; None without.

    Raises:
        ValueError: as `names`, an unknown class, or none at all.
    """
    if text == "none":
        return None
    known = pipe.classes
    try:
        return pipe.class_ids(
            range(len(known)) if text == "all" else names(text, known)
        )
    except ValueError as error:
        raise ValueError(str(error).replace("class_labels", "--classes")) from error


def sides(text: str) -> tuple[int, ...]:
    """A list of sides: ``1,3,8`` or ``1-3-8``."""
    try:
        return tuple(int(part) for part in text.replace("-", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"want sides of token maps, as 1,3,8, got {text!r}"
        ) from None


def read_config(path: str | None) -> dict[str, Any]:
    """The JSON file of ``--config``: objects "tokenizer", "transformer", "train"."""
    if path is None:
        return {}
    from .files import read_json

    given = read_json(Path(path))
    known = ("tokenizer", "transformer", "train")
    if not isinstance(given, dict) or set(given) - set(known):
        got = sorted(set(given) - set(known)) if isinstance(given, dict) else given
        raise ValueError(
            f"--config {path} has {got}, want objects named {', '.join(known)}"
        )
    for name, value in given.items():
        if not isinstance(value, dict):
            raise ValueError(f"--config {path}: {name} is {value!r}, want an object")
    return given


def train_config(
    args: argparse.Namespace, given: dict[str, Any], **defaults: Any
) -> Any:
    """Training settings: defaults, then ``--config``, then the options."""
    from .training import TrainConfig

    known = {field.name for field in fields(TrainConfig)}
    file = given.get("train", {})
    unknown = set(file) - known
    if unknown:
        raise ValueError(
            f"--config train has {sorted(unknown)}, want some of "
            f"{', '.join(sorted(known))}"
        )
    options = {name: getattr(args, name, None) for name in known}
    chosen = {name: value for name, value in options.items() if value is not None}
    merged = defaults | file | chosen
    for name in ("betas", "scale_share"):
        if isinstance(merged.get(name), list):
            merged[name] = tuple(merged[name])
    return TrainConfig(**merged)


def schedule_for(side: int) -> Any:
    """The published sides below a map side, and the side itself."""
    from .scales import VAR_256, ScaleSchedule

    below = [s for s in VAR_256.sides if s < side]
    if side <= 8:
        below = [s for s in below if s != 5]
    return ScaleSchedule((*below, side))


def tokenizer_start(args: argparse.Namespace, given: dict[str, Any]) -> tuple[Any, Any]:
    """Config of the tokenizer to train, and the one to start from, if any."""
    from .files import config_from_dict
    from .tokenizer import Tokenizer, TokenizerConfig

    if args.init:
        start = Tokenizer.from_pretrained(args.init, device=args.device).train()
        channels, side, _ = start.image_shape
        own = {"size": side, "channels": channels, "vocab": start.config.vocab}
        refuse_other_size(args, own)
        return start.config, start
    size = args.size or 32
    levels = 3 if size <= 64 else 4 if size <= 128 else 5
    factor = 2 ** (levels - 1)
    if size % factor or size < 2 * factor:
        raise ValueError(
            f"--size must be a multiple of {factor}, from {2 * factor} on, got {size}"
        )
    fields_ = {
        "image_channels": args.channels or 3,
        "base": 16,
        "multipliers": [1, 2, 4, 4, 4][:levels],
        "blocks": 1,
        "attention_levels": [],
        "norm_groups": 8,
        "code_width": 16,
        "vocab": args.vocab or 512,
        "schedule": {"sides": list(schedule_for(size // factor).sides)},
    }
    return config_from_dict(TokenizerConfig, fields_ | given), None


def refuse_other_size(args: argparse.Namespace, own: dict[str, int]) -> None:
    """``--init`` brings its own size.

    Raises:
        ValueError: an option that asks for another one.
    """
    for name, value in own.items():
        if getattr(args, name) not in (None, value):
            raise ValueError(
                f"--init {args.init} has {name} {value}, got --{name} "
                f"{getattr(args, name)}: leave that out, or train without --init"
            )


def token_set(args: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Distilled schedule, images and tokens, from the cache if there is one."""
    from tqdm.auto import tqdm

    from .data import open_images
    from .distillation import distil
    from .runs import encode_images, load_tokens, token_fingerprint
    from .studies import encoding_digest
    from .tokenizer import Tokenizer

    teacher = channels_last(
        Tokenizer.from_pretrained(args.tokenizer, device=args.device)
    )
    sides = args.schedule or teacher.schedule.sides
    if args.distil != "retokenise" and args.schedule is None:
        raise ValueError(
            f"--distil {args.distil} shortens a schedule: say --schedule too, with the "
            f"sides to keep of {teacher.schedule.sides}"
        )
    made = distil(teacher, sides, args.distil)
    channels_last(made.tokenizer)
    channels, side, _ = teacher.image_shape
    images = open_images(args.data, side=side, channels=channels, **reading(args))
    mark = encoding_digest(made)
    if cached := getattr(args, "tokens", None):
        wanted = token_fingerprint(images, mark, args.flips)
        return made, images, load_tokens(cached, wanted)
    tokens = encode_images(
        images,
        lambda pixels: made.encode(pixels.to(args.device)),
        sides=made.tokenizer.schedule.sides,
        tokenizer_hash=mark,
        flips=args.flips,
        progress=lambda rows: tqdm(rows, disable=quiet(args), leave=False),
    )
    return made, images, tokens


def counted(images: Any) -> dict[str, int]:
    """How many images there are, and how many files were left out."""
    skipped = {"skipped_files": images.skipped} if images.skipped else {}
    return {"images": len(images)} | skipped


def transformer_start(
    args: argparse.Namespace, given: dict[str, Any], made: Any, images: Any
) -> Any:
    """The transformer to train: new, or ``--init``."""
    from .files import config_from_dict
    from .transformer import ScaleTransformer, TransformerConfig

    if args.init:
        return transformer_tuned(args, made, images)
    if args.frozen:
        raise ValueError("--frozen keeps a trained network: say --init too")
    mine, classes = made.tokenizer.config, len(images.classes)
    fixed = {"schedule", "vocab", "code_width", "groups"} & set(given)
    if fixed or given.get("classes", classes) != classes:
        raise ValueError(
            f"--config transformer has {sorted(fixed) or 'classes'}, which the "
            f"tokenizer and the data decide ({classes} classes): leave them out"
        )
    fields_ = {
        "depth": args.depth or 4,
        "width": args.width or 128,
        "heads": args.heads or 4,
        "mask": args.mask or "markov",
        "classes": classes,
        "mask_blocks": args.mask_blocks or 0,
    } | given
    config = config_from_dict(TransformerConfig, fields_ | {"schedule": {"sides": [1]}})
    set_seed(args.seed)
    codes = {"vocab": mine.vocab, "code_width": mine.code_width}
    return ScaleTransformer(
        replace(config, schedule=mine.schedule, groups=made.groups, **codes)
    )


def transformer_tuned(args: argparse.Namespace, made: Any, images: Any) -> Any:
    """The transformer of ``--init``, for the scales and classes at hand."""
    from .distillation import shortened_transformer
    from .resampling import with_mask_head
    from .transformer import ScaleTransformer

    old = ScaleTransformer.from_pretrained(args.init, device=args.device)
    own = {name: getattr(old.config, name) for name in ("depth", "width", "heads")}
    refuse_other_size(args, own)
    if old.config.schedule != made.tokenizer.schedule:
        old = shortened_transformer(old, made.tokenizer.schedule)
    config = replace(
        old.config,
        mask=args.mask or old.config.mask,
        classes=len(images.classes),
        groups=made.groups,
    )
    weights = old.state_dict()
    if config.classes != old.config.classes:  # new classes start from "no class"
        null = weights["class_embed.weight"][-1:]
        weights["class_embed.weight"] = null.repeat(config.classes + 1, 1)
    model = ScaleTransformer(config).to(args.device)
    model.load_state_dict(weights)
    if args.mask_blocks not in (None, config.mask_blocks):
        model = with_mask_head(model, args.mask_blocks, args.seed)
    return model.train()


def sampling_options(pipe: Any, args: argparse.Namespace) -> Any:
    """The model's own sampling, or ``--preset``, with the options that were given."""
    from .sampling import ResamplingPlan

    base = pipe.preset(args.preset) if args.preset else pipe.sampling
    vocab = pipe.transformer.config.vocab
    kept = base.top_k if isinstance(base.top_k, tuple) else (base.top_k,)
    if args.preset and args.top_k is None and max(kept) > vocab:
        raise ValueError(
            f"--preset {args.preset} keeps the {max(kept)} likeliest codes, this model's "
            f"vocabulary has {vocab}: say --top-k too, at most {vocab}; 0 is all"
        )
    base = changed(base, args)
    plan = base.resampling or ResamplingPlan()
    changes = given_options(plan, args, "pass_")
    return replace(base, resampling=replace(plan, **changes)) if changes else base


def changed(base: Any, args: argparse.Namespace) -> Any:
    """A ``SampleConfig`` with the options that were given."""
    base = replace(base, **given_options(base, args))
    if args.interval is not None and base.guidance_rule != "interval":
        raise ValueError(
            f"--interval does nothing with the rule {base.guidance_rule!r}: say "
            "--guidance-rule interval too"
        )
    return base


def given_options(base: Any, args: argparse.Namespace, prefix: str = "") -> dict:
    """Those fields of a configuration that the command line sets."""
    options = {f.name: getattr(args, prefix + f.name, None) for f in fields(base)}
    return {name: value for name, value in options.items() if value is not None}


def per_scale(text: str) -> Any:
    """A number, or one per scale with commas between them, as a tuple."""
    try:
        found = [float(x) if set(x) & set(".en") else int(x) for x in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"want numbers with commas between them, as 2 or 1,1.5,2, got {text!r}"
        ) from None
    return found[0] if len(found) == 1 else tuple(found)


def several(text: str) -> tuple:
    """Numbers with commas between them, as a tuple also if it is only one."""
    found = per_scale(text)
    return found if isinstance(found, tuple) else (found,)


def box(text: str) -> tuple[int, ...]:
    """Four whole pixels of ``--box``."""
    return whole_pixels(text, "TOP,LEFT,BOTTOM,RIGHT", "8,8,24,24")


def place(text: str) -> tuple[int, ...]:
    """Two whole pixels of ``--at``."""
    return whole_pixels(text, "ROW,COLUMN", "0,8")


def whole_pixels(text: str, form: str, example: str) -> tuple[int, ...]:
    """As many whole numbers as a form has, with commas between them."""
    parts = [part.strip() for part in text.split(",")]
    known = all(x.isascii() and x.isdigit() and len(x) < 10 for x in parts)
    if not known or len(parts) != len(form.split(",")):
        raise argparse.ArgumentTypeError(
            f"want {form} in whole pixels, as {example}, got {text!r}"
        )
    return tuple(map(int, parts))


def parameters(module: Any) -> int:
    """Number of trained numbers."""
    return sum(weight.numel() for weight in module.parameters())


def save_image(image: Any, out: Path) -> None:
    """Write a picture in one move, making its folder."""
    from io import BytesIO

    from PIL import Image

    from .files import write_bytes

    out.parent.mkdir(parents=True, exist_ok=True)
    buffer = BytesIO()
    image.save(buffer, format=Image.registered_extensions()[out.suffix.lower()])
    write_bytes(out, buffer.getvalue())


def save_each(images: Any, labels: list[int] | None, folder: Path) -> list[str]:
    """Write every image as its own file."""
    from .figures import to_pil

    paths = []
    for n, image in enumerate(images):
        tag = "" if labels is None else f"-class{labels[n]}"
        paths.append(folder / f"{n:05d}{tag}.png")
        save_image(to_pil(image), paths[-1])
    return [str(path) for path in paths]


def save_grid(path: Path, tokenizer: Any, images: Any) -> None:
    """Real images and their reconstructions, while training."""
    import torch

    from .figures import image_grid

    real, _ = images.batch(range(min(8, len(images))))
    device = next(tokenizer.parameters()).device
    with torch.no_grad():
        fake = tokenizer.reconstruct(real.to(device)).cpu()
    save_image(image_grid(torch.cat((real, fake)), columns=len(real)), path)


def save_samples(path: Path, pipe: Any) -> None:
    """A few samples per class, while training."""
    import torch

    from .figures import image_grid

    labels = list(range(min(10, len(pipe.classes)))) * 2
    generator = torch.Generator().manual_seed(0)
    images = pipe(labels, generator=generator, output_type="pt").images
    save_image(image_grid(images, columns=len(labels) // 2), path)


def common() -> argparse.ArgumentParser:
    """Options that every verb takes."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("every verb")
    group.add_argument("--seed", type=seed, default=0, help="of all randomness (0)")
    group.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (cpu)")
    group.add_argument(
        "--dtype",
        default=None,
        choices=("float32", "bfloat16", "float16"),
        help="number format of the networks, where a verb leaves a choice (float32)",
    )
    group.add_argument("--out", default=None, help="where the result goes")
    group.add_argument("--json", action="store_true", help="print JSON")
    group.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def data_options(parser: argparse.ArgumentParser) -> None:
    """Options of the verbs that read images to learn from."""
    parser.add_argument(
        "data",
        help="folder (one sub-folder per class) or fashion, fashion-slice, shapes",
    )
    reading_options(parser)


def reading_options(parser: argparse.ArgumentParser) -> None:
    """How images are read."""
    parser.add_argument("--root", default=None, help="where fashion lies ($SRDD_DATA)")
    parser.add_argument(
        "--on-error",
        default="raise",
        choices=("raise", "skip"),
        help="what to do with unreadable images (raise)",
    )
    parser.add_argument(
        "--upsample", action="store_true", help="accept images smaller than the model's"
    )


def training_options(
    parser: argparse.ArgumentParser, init: bool = True, pixels: bool = False
) -> None:
    """Options of the training verbs; `pixels` if every step reads images."""
    data_options(parser)
    parser.add_argument(
        "--config",
        default=None,
        metavar="FILE.json",
        help='objects "tokenizer", "transformer", "train"',
    )
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|PATH|never",
        help="go on from the newest saved state (auto)",
    )
    if init:
        parser.add_argument(
            "--init",
            default=None,
            metavar="MODEL",
            help="start from a trained model (fine-tune)",
        )
    parser.add_argument("--steps", type=int, help="optimizer steps")
    parser.add_argument("--batch", type=int, help="images per step")
    parser.add_argument("--lr", type=float, help="peak learning rate")
    parser.add_argument("--save-every", type=int, help="steps between saved states")
    if pixels:
        parser.add_argument("--workers", type=int, help="image-loading processes")
        parser.add_argument(
            "--augment", action="store_const", const=True, help="random crops and flips"
        )


def loss_options(parser: argparse.ArgumentParser) -> None:
    """Losses that a decoder may be trained with besides that of the pixels."""
    parser.add_argument(
        "--perceptual", metavar="JUDGE", help="classifier for a feature loss"
    )
    parser.add_argument(
        "--perceptual-weight", type=float, default=0.7, help="of that loss (0.7)"
    )
    parser.add_argument("--adversarial", action="store_true", help="add a patch critic")
    parser.add_argument(
        "--adversarial-weight", type=float, default=0.1, help="of the critic (0.1)"
    )


def token_options(parser: argparse.ArgumentParser) -> None:
    """Options of the verbs that need tokens."""
    parser.add_argument("--tokenizer", required=True, help="folder or shipped name")
    parser.add_argument("--flips", action="store_true", help="add mirrored images")
    parser.add_argument(
        "--schedule",
        type=sides,
        default=None,
        metavar="1,3,8",
        help="sides of the token maps to keep, the map's own last (all)",
    )
    parser.add_argument(
        "--distil",
        default="retokenise",
        choices=("retokenise", "merge", "student"),
        help="what --schedule means: fewer scales (retokenise); all scales, the "
        "dropped ones written in the pass of the next kept one (merge); fewer "
        "scales that aim at the maps of the full list (student)",
    )


def law_options(p: argparse.ArgumentParser) -> dict[str, Any]:
    """Guidance and truncation; returns what an option for each scale takes."""
    p.add_argument(
        "--preset",
        metavar="NAME",
        help="settings to start from: fast, balanced or best of a shipped model, whose "
        "cost and quality `srdd info MODEL` prints; plain, fashion, var-fid or var-demo "
        "(the model's own; of a shipped one that is balanced)",
    )
    each = {"type": per_scale, "metavar": "X[,X...]"}
    p.add_argument("--guidance", **each, help="weight w; 1 is none; or one per scale")
    p.add_argument(
        "--guidance-rule",
        choices=GUIDANCE_RULES,
        help="the weight over the scales. constant: w; linear: from 1 to w; interval: w "
        "inside --interval, 1 outside",
    )
    p.add_argument(
        "--interval",
        type=several,
        metavar="LOW,HIGH",
        help="with --guidance-rule interval: where it begins and ends, 0 being the "
        "first scale and 1 the last",
    )
    p.add_argument(
        "--guidance-off", type=int, metavar="M", help="no guidance at the last M scales"
    )
    p.add_argument(
        "--top-k", **each, help="most likely codes kept; 0 all; or one per scale"
    )
    p.add_argument("--top-p", **each, help="probability kept; 1 all; or one per scale")
    p.add_argument(
        "--temperature",
        **each,
        help="divides the logits: below 1 sharper, above flatter; or one per scale",
    )
    return each


def sample_options(p: argparse.ArgumentParser) -> None:
    """``srdd sample``."""
    p.add_argument("model", help='folder, shipped name ("fashion") or hub id')
    p.add_argument(
        "--classes",
        default="all",
        help="all, none, or ids and names: 0,Bag; a name with commas is written as it is",
    )
    p.add_argument("--count", type=positive, default=8, help="images per class (8)")
    p.add_argument(
        "--cuda-graphs",
        nargs="?",
        const="plain",
        choices=("plain", "fused"),
        help="with --device cuda: record a batch once, then launch the record; fused "
        "also compiles small kernels, which takes seconds and is faster",
    )
    p.add_argument(
        "--back-to",
        type=int,
        metavar="K",
        help="when all scales are drawn, go back to scale K, from 0, and draw on",
    )
    drawing_options(p)


def drawing_options(p: argparse.ArgumentParser) -> None:
    """How pictures are drawn and shown: options of ``sample`` and ``edit``."""
    p.add_argument("--batch", type=positive, default=64, help="images at a time (64)")
    p.add_argument("--zoom", type=zoom, default=2, help="pixels per pixel (2)")
    p.add_argument("--separate", default=None, metavar="DIR", help="also one file each")
    pass_options(p, law_options(p))


def pass_options(p: argparse.ArgumentParser, each: dict[str, Any]) -> None:
    """Options of the passes over a scale."""
    plan = p.add_argument_group(
        "passes that draw tokens again (chapter 10)",
        "Any of these asks for passes; the others then have their defaults.",
    )
    plan.add_argument(
        "--passes",
        dest="pass_passes",
        **each,
        help="how many, after the first draw; or one number per scale (1)",
    )
    plan.add_argument(
        "--rule",
        dest="pass_rule",
        choices=PASS_RULES,
        help="which tokens. random: others in each pass; sequence (the default): the "
        "tail of one random order; halton: of one that covers the map evenly; "
        "confidence: the least likely; entropy: where the law is least sure; "
        "threshold: all less likely than --share",
    )
    plan.add_argument(
        "--law",
        dest="pass_law",
        choices=PASS_LAWS,
        help="drawn from what. head (the default): the mask head, which a model has to "
        "have; map: the network, shown a map with the kept tokens, for models with "
        "the markov mask, the shipped one too; same: the first draw's law, which only "
        "truncates",
    )
    plan.add_argument(
        "--scales",
        dest="pass_scales",
        type=several,
        metavar="K[,K...]",
        help="which scales, counted from 0 (all)",
    )
    plan.add_argument(
        "--share",
        dest="pass_share",
        **each,
        help="part of a scale's tokens in each pass, in (0, 1], or one part per pass; "
        "of threshold the probability (fewer from pass to pass, along a cosine)",
    )
    plan.add_argument(
        "--pass-temperature",
        type=float,
        metavar="X",
        help="temperature of the passes (that of the first draw)",
    )


def edit_options(p: argparse.ArgumentParser) -> None:
    """``srdd edit``."""
    p.formatter_class, p.epilog = argparse.RawDescriptionHelpFormatter, EDITS
    p.add_argument("model", help='folder, shipped name ("fashion") or hub id')
    p.add_argument(
        "images",
        nargs="+",
        help="image files; --mask, --box and --keep-scales see their middle square at "
        "the model's size, --outpaint and --super-resolve take them as they are",
    )
    edit_tasks(p)
    p.add_argument(
        "--classes",
        default="none",
        help="ids and names, as Bag or 0,8: one for all images, one for each, or several "
        "(or all) for a single image; none draws without a class (none)",
    )
    p.add_argument(
        "--count", type=positive, default=4, help="results per image and class (4)"
    )
    p.add_argument(
        "--rounds",
        type=positive,
        help="how often a result is looked at and drawn again, not with --keep-scales (3)",
    )
    p.add_argument(
        "--upsample", action="store_true", help="accept images smaller than the model's"
    )
    drawing_options(p)


def edit_tasks(p: argparse.ArgumentParser) -> None:
    """What ``srdd edit`` can do; one of them has to be said."""
    group = p.add_argument_group(
        "what to do", "One of these; --at goes with --outpaint."
    )
    task = group.add_mutually_exclusive_group(required=True)
    task.add_argument(
        "--mask",
        metavar="FILE",
        help="paint where this image is white or transparent, keep where it is black; it "
        "has the size of the images, or that of the model's pictures",
    )
    task.add_argument(
        "--box",
        type=box,
        metavar="TOP,LEFT,BOTTOM,RIGHT",
        help="paint this box: whole pixels of the model's picture, counted from 0 at its "
        "upper left, BOTTOM and RIGHT not included; 8,8,24,24 is the middle of 32 x 32",
    )
    task.add_argument(
        "--outpaint",
        action="store_true",
        help="draw what lies around images that are smaller than the model's",
    )
    task.add_argument(
        "--super-resolve",
        action="store_true",
        help="draw the detail of small squares, whose side divides that of the model: "
        "4, 8 or 16 pixels for 32",
    )
    task.add_argument(
        "--keep-scales",
        type=positive,
        metavar="N",
        help="keep the N coarsest scales, draw the finer ones as --classes says: more "
        "keep more of the image (srdd info MODEL prints the scales, as sides)",
    )
    group.add_argument(
        "--at",
        type=place,
        metavar="ROW,COLUMN",
        help="with --outpaint: where the upper left corner of the images goes, from 0 "
        "(the middle)",
    )


def reconstruct_options(p: argparse.ArgumentParser) -> None:
    """``srdd reconstruct``."""
    p.add_argument("model", help="tokenizer or model")
    p.add_argument("images", help="folder, or fashion-slice")
    reading_options(p)
    p.add_argument("--count", type=positive, default=16, help="images shown (16)")
    p.add_argument("--zoom", type=zoom, default=2, help="pixels per pixel (2)")


def train_tokenizer_options(p: argparse.ArgumentParser) -> None:
    """``srdd train-tokenizer``."""
    training_options(p, pixels=True)
    p.add_argument("--size", type=positive, help="pixels per side (32)")
    p.add_argument("--channels", type=int, choices=(1, 3), help="3 colour, 1 grey (3)")
    p.add_argument("--vocab", type=positive, help="codes (512)")
    loss_options(p)


def slim_decoder_options(p: argparse.ArgumentParser) -> None:
    """``srdd slim-decoder``."""
    p.add_argument("model", help="tokenizer or whole model, the teacher")
    training_options(p, init=False)
    p.add_argument(
        "--base",
        type=int,
        help="decoder channels at full resolution (5/8 of the teacher's)",
    )
    p.add_argument(
        "--blocks", type=int, help="its residual blocks per level (the teacher's)"
    )
    p.add_argument(
        "--middle",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether it begins with block, attention, block (yes)",
    )
    p.add_argument("--edges", type=float, default=6.0, help="weight of edges (6)")
    p.add_argument(
        "--sharpen",
        action="store_true",
        help="learn pictures as sharp as the photographs, not as the teacher's",
    )
    loss_options(p)
    p.add_argument(
        "--maps",
        type=int,
        default=6000,
        help="learn from so many photographs, and as many samples; kept in memory (6000)",
    )


def tokenize_options(p: argparse.ArgumentParser) -> None:
    """``srdd tokenize``."""
    data_options(p)
    token_options(p)


def train_options(p: argparse.ArgumentParser) -> None:
    """``srdd train``."""
    training_options(p)
    token_options(p)
    p.add_argument("--tokens", default=None, help="token file made by tokenize")
    p.add_argument(
        "--mask",
        choices=MASKS,
        help="which scales a scale may look at. markov (the default): its own; causal: "
        "all before it too; band: the one before it too",
    )
    p.add_argument("--depth", type=positive, help="blocks (4)")
    p.add_argument("--width", type=positive, help="channels (128)")
    p.add_argument("--heads", type=positive, help="attention heads (4)")
    p.add_argument("--label-drop", type=float, help="share of labels hidden (0.1)")
    p.add_argument(
        "--mask-blocks", type=positive, help="blocks of a mask head, for passes (none)"
    )
    p.add_argument(
        "--frozen",
        action="store_true",
        help="with --init and --mask-blocks: train the mask head alone",
    )


def info_options(p: argparse.ArgumentParser) -> None:
    """``srdd info``."""
    p.add_argument("model", help="folder, shipped name, or a preset: d16")
    p.add_argument("--batch", type=int, default=1, help="images, for memory (1)")
    p.add_argument(
        "--mask", choices=MASKS, help="count as with this mask (the model's own)"
    )
    law_options(p)


def convert_options(p: argparse.ArgumentParser) -> None:
    """``srdd convert``."""
    p.add_argument(
        "files", nargs="+", help="tokenizer and transformer, .pth or .safetensors"
    )
    p.add_argument(
        "--to-var", action="store_true", help="write one from a folder, as new files"
    )
    p.add_argument("--mask", choices=MASKS, help="another than that of the file")
    p.add_argument("--schedule", help="sides, if the file does not tell: 1-2-3-4")
    p.add_argument("--heads", type=int, help="if the file does not tell")
    p.add_argument("--depth", type=int, help="blocks, if not one per head")
    p.add_argument("--classes", type=int, help="labels, to be compared with the file")
    p.add_argument("--phi-convs", type=int, help="shared convolutions, if not four")
    p.add_argument("--blocks", type=int, help="of the tokenizer per level, if not two")
    p.add_argument(
        "--attention-levels", type=int, help="how many, if the last level has none: 0"
    )
    p.add_argument(
        "--lenient", action="store_true", help="drop names that the layout lacks"
    )


def eval_options(p: argparse.ArgumentParser) -> None:
    """``srdd eval``."""
    p.add_argument("model", help='folder, shipped name ("fashion") or hub id')
    p.add_argument(
        "--data",
        help="real images the model was not trained on: a folder (fashion-test)",
    )
    p.add_argument(
        "--statistics",
        metavar="FILE",
        help="FID-50k of ImageNet by the published protocol, to the evaluator's .npz",
    )
    p.add_argument(
        "--train",
        default=None,
        help="training images, to look for copies (of fashion-test: fashion)",
    )
    reading_options(p)
    p.add_argument("--count", type=int, help="samples (as many as real images)")
    p.add_argument(
        "--features",
        choices=("judge", "efficientnet", "inception"),
        help="feature network (the judge for clothes, else efficientnet)",
    )


def bench_options(p: argparse.ArgumentParser) -> None:
    """``srdd bench``."""
    p.add_argument(
        "--suite",
        default="fashion",
        metavar=f"{{{','.join(SUITES)}}}",
        help="the shipped pair, or a model of published size on a CPU or a GPU (fashion)",
    )
    p.add_argument("--repeats", type=int, default=20, help="rounds (20)")


def experiment_options(p: argparse.ArgumentParser) -> None:
    """``srdd experiment``."""
    p.add_argument("name", help='a name, or "list"')
    p.add_argument("--root", default=None, help="where fashion lies ($SRDD_DATA)")
    p.add_argument("--work", default="runs", help="keeps finished parts (runs)")
    p.add_argument(
        "--rehearse",
        action="store_true",
        help="two steps of each training, one batch of each set of samples: to see that "
        "all runs, and what it takes at the size for --device, which need not be there",
    )


VERBS: dict[str, tuple[Any, Any]] = {
    "sample": (sample, sample_options),
    "edit": (edit, edit_options),
    "reconstruct": (reconstruct, reconstruct_options),
    "train-tokenizer": (train_tokenizer, train_tokenizer_options),
    "slim-decoder": (slim_decoder, slim_decoder_options),
    "tokenize": (tokenize, tokenize_options),
    "train": (train, train_options),
    "info": (info, info_options),
    "convert": (convert, convert_options),
    "eval": (evaluate, eval_options),
    "bench": (bench, bench_options),
    "experiment": (experiment, experiment_options),
    "report": (report, None),
}
"""What a verb does, and what adds its own options."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    from . import __version__

    parser = argparse.ArgumentParser(
        prog="srdd",
        epilog=EXAMPLES,
        description="Next-scale image generation with a Markovian transformer.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    shared = common()
    for name, (run, options) in VERBS.items():
        own = verb(verbs, shared, name, run)
        if options is not None:
            options(own)
    return parser


def verb(
    verbs: Any, shared: argparse.ArgumentParser, name: str, run: Any
) -> argparse.ArgumentParser:
    """A sub-command whose help is the docstring of its function."""
    text = run.__doc__.strip()
    parser = verbs.add_parser(name, parents=[shared], help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def show(result: dict[str, Any], as_json: bool) -> None:
    """Print a result as JSON or as lines."""
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2, default=str) + "\n")
        return
    for key, value in result.items():
        if isinstance(value, dict) and value and dicts(value):
            sys.stdout.write(f"{key}:\n{aligned(value)}\n")
        elif isinstance(value, list) and key == "notes":
            sys.stdout.writelines(f"note: {line}\n" for line in value)
        elif key != "seeds":
            sys.stdout.write(f"{key}: {value}\n")


def dicts(value: dict[str, Any]) -> bool:
    """Whether every value is a dictionary itself."""
    return all(isinstance(inner, dict) for inner in value.values())


def aligned(table: dict[str, dict[str, float | str]]) -> str:
    """Columns of numbers: one line for each measure, one column for each set."""
    from .records import plain

    def cell(value: float | str | None) -> str:
        if value is None:
            return "-"
        return value if isinstance(value, str) else plain(value, 3)

    measures = list(dict.fromkeys(key for row in table.values() for key in row))
    lines = [["", *table]]
    for key in measures:
        lines.append([key, *(cell(row.get(key)) for row in table.values())])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (
        [line[0].ljust(widths[0])]
        + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        for line in lines
    )
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = build_parser().parse_args(argv)
    if args.dtype is None and args.verb not in TRAINING:
        args.dtype = "float32"
    try:
        if not getattr(args, "rehearse", False):  # which may name a GPU elsewhere
            check_device(args.device)
        refuse_dtype(args)
        show(args.run(args), args.json)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if args.debug:
            raise
        text = " ".join(str(error).split())
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            text += "; name another place with --out, or mend that one"
        elif isinstance(error, RuntimeError):
            text += "; --debug shows where"
        sys.stderr.write(f"srdd {args.verb}: error: {text}\n")
        return 2
    except KeyboardInterrupt as stop:
        if args.debug:
            raise
        sys.stderr.write(f"srdd {args.verb}: {stop or 'stopped'}\n")
        return 130
    return 0
