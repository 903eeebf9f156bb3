"""Tokenizer and transformer as one object: class names in, pictures out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ._inputs import (
    check_batch,
    check_count,
    float_type,
    images_of,
    mask_of,
    seeds_of,
    usable,
)
from ._kernels import fused
from .editing import edit, first_scales, inpaint, on_canvas, super_resolve
from .fast import Replay, replayed
from .figures import to_pil
from .files import (
    CheckpointError,
    check_replaceable,
    check_whole,
    config_from_dict,
    load_tensors,
    read_json,
    replace_folder,
    resolve_model,
    save_tensors,
    verify_manifest,
    write_json,
    write_manifest,
)
from .quantization import Step
from .resampling import resample
from .sampling import (
    SAMPLING_PRESETS,
    ResamplingPlan,
    SampleConfig,
    Sampled,
    check_pair,
    full_precision,
    plain_number,
    sample_labels,
)
from .tokenizer import Tokenizer
from .transformer import ScaleTransformer

STEP_TENSORS = ("tokens", "f_hat")
OUTPUT_TYPES = ("pil", "pt", "np")
NEAR = 0.5
"""Steps of 1/255 that a few images may be apart: of many, some are twice as far."""


@dataclass(frozen=True)
class PipelineOutput:
    """What a pipeline made."""

    images: Any
    """PIL images, or a tensor ``(b, c, H, W)`` in [-1, 1], or an array
    ``(b, H, W, c)`` in [0, 1]."""
    labels: list[int] | None
    """Class id of each image; None without classes."""
    tokens: list[Tensor]
    """``(b, s_k^2)`` int64 per scale."""


class Pipeline:
    """A trained model ready to sample.

    Args:
        tokenizer: images to tokens and back.
        transformer: predicts the tokens; same schedule and vocabulary.
        classes: class names, in the order of the ids.
        sampling: how to sample unless a call says otherwise.
        presets: settings of this model with a name: fast, balanced, best.
        painter: turns the tokens of samples into images: a tokenizer with the same
            codes and another decoder, see `load_decoder`; None is `tokenizer`.
    Raises:
        ValueError: the networks do not fit, or the number of names is not the number
            of classes.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        transformer: ScaleTransformer,
        *,
        classes: Sequence[str] = (),
        sampling: SampleConfig | None = None,
        presets: Mapping[str, SampleConfig] | None = None,
        painter: Tokenizer | None = None,
    ) -> None:
        self.tokenizer, self.transformer = tokenizer.eval(), transformer.eval()
        self.sampling = sampling or SampleConfig()
        self.presets = dict(presets or {})
        self.painter = self.tokenizer if painter is None else painter.eval()
        self.graphs: dict[tuple[int, SampleConfig], Replay] | None = None
        self.fused = False
        for each in (self.tokenizer, self.painter):
            check_pair(transformer, each, self.sampling)
        count = transformer.config.classes
        self.classes = tuple(classes) or tuple(str(i) for i in range(count))
        if len(self.classes) != count:
            raise CheckpointError(
                f"classes has {len(self.classes)} names, want {count}: the transformer "
                f"knows {count} classes; name each of them, or leave the names out"
            )

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = torch.float32,
        tokenizer_dtype: str | torch.dtype | None = None,
    ) -> Pipeline:
        """Load a model folder, a shipped model ("fashion") or a hub id.

        Args:
            name: of the model.
            device: where the networks go.
            dtype: of their weights, "float32", "bfloat16" or "float16".
            tokenizer_dtype: of tokenizer and painter; None is `dtype` where the images
                are proved to be the same within 1/255 (`steps_apart`), else float32.
        Raises:
            FileNotFoundError: nothing of that name, with what was looked for.
            CheckpointError: a file is damaged, missing or of another shape.
            ValueError: a device that is not there, or no type of a float.
        """
        kind = float_type(dtype)
        wanted = float_type(tokenizer_dtype or kind, "tokenizer_dtype")
        place, folder = usable(device), resolve_model(str(name))
        settings, decoder = read_settings(folder / "manifest.json")
        tokenizer = painter = Tokenizer.from_pretrained(folder, device=place)
        if decoder is not None:
            painter = load_decoder(tokenizer, inside(folder, decoder))
        sure = tokenizer_dtype is not None or wanted == torch.float32
        if sure or steps_apart(painter, wanted) <= NEAR:
            tokenizer, painter = tokenizer.to(wanted), painter.to(wanted)
        net = ScaleTransformer.from_pretrained(folder, device=place, dtype=kind)
        return cls(tokenizer, net, painter=painter, **settings)

    def save_pretrained(
        self, folder: str | Path, *, dtype: torch.dtype | None = None, **facts: Any
    ) -> Path:
        """Write the model folder that `from_pretrained` reads, in one move.

        Args:
            folder: replaced as a whole if it exists.
            dtype: of the saved weights; None keeps them as they are.
            facts: more entries of the manifest, for example the data and its
                licence.
        """
        final = check_replaceable(folder)
        ours = {"classes", "sampling", "presets", "decoder"}
        if taken := sorted((ours | {"format", "library", "files"}) & set(facts)):
            raise ValueError(f"facts has {taken}, which the manifest has already")
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=final.parent, prefix=f".{final.name}-"
        ) as scratch:
            fresh = Path(scratch) / final.name
            fresh.mkdir()
            self.tokenizer.save_pretrained(fresh / "tokenizer", dtype=dtype)
            self.transformer.save_pretrained(fresh / "transformer", dtype=dtype)
            known = {
                "classes": list(self.classes),
                "sampling": asdict(self.sampling),
                "presets": {
                    k: {"sampling": asdict(v)} for k, v in self.presets.items()
                },
            }
            if self.painter is not self.tokenizer:
                made = save_decoder(self.painter, fresh / "decoder", dtype=dtype)
                known["decoder"] = made.name
            write_manifest(fresh, **(known | facts))
            replace_folder(fresh, final)
        return final

    def to(self, device: str | torch.device) -> Pipeline:
        """Move the networks, the painter included; returns the pipeline itself."""
        for network in (self.tokenizer, self.transformer, self.painter):
            network.to(usable(device))
        self.graphs = None  # they hold the old weights
        return self

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.transformer.parameters()).device

    def class_ids(self, class_labels: Any) -> list[int]:
        """Ids of classes given by id or name, one or several.

        Raises:
            ValueError: as `class_id`, or no class at all.
        """
        if isinstance(class_labels, Tensor | np.ndarray):
            class_labels = class_labels.flatten().tolist()
        single = isinstance(class_labels, str) or not isinstance(class_labels, Iterable)
        labels = [class_labels] if single else list(class_labels)
        if not labels:
            raise ValueError("class_labels is empty, want at least one class")
        return [self.class_id(label) for label in labels]

    def class_id(self, label: Any) -> int:
        """Id of the class that a text or a whole number means.

        A text is the name of a class, else a name in another case, else an id.

        Raises:
            ValueError: an unknown name or id, with the known ones, or a text that may
                mean several classes.
        """
        names, index = self.classes, plain_number(label)
        if isinstance(label, str):
            exact = [i for i, x in enumerate(names) if x == label]
            text = label.casefold()
            found = exact or [i for i, x in enumerate(names) if x.casefold() == text]
            if len(found) > 1:
                which = " or ".join(f"{names[i]!r} (id {i})" for i in found)
                raise ValueError(f"class_labels has {label!r}, want {which}")
            index = found[0] if found else int(label) if label.isdecimal() else -1
        if type(index) is not int or not 0 <= index < len(names):
            raise ValueError(
                f"class_labels has {label!r}, want an id in "
                f"0..{len(names) - 1} or one of {', '.join(names)}"
            )
        return index

    def __call__(
        self,
        class_labels: Any = None,
        guidance_scale: float | None = None,
        *,
        preset: str | None = None,
        num_images_per_label: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        batch_size: int = 64,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = STEP_TENSORS,
        **sampling: Any,
    ) -> PipelineOutput:
        """Make images.

        Args:
            class_labels: ids or names, one or several; None is unconditional.
            guidance_scale: weight w of classifier-free guidance; 1 is none.
            preset: settings with a name instead of the model's own: one of its
                `presets`, or of `srdd.sampling.SAMPLING_PRESETS`; the other
                arguments still change them.
            num_images_per_label: images for each label (or in all, without); all of
                a call are in memory at once.
            generator: one for the call or one per image. Only its initial
                seed is read, so in float32 the same generator gives the same
                images, whatever the batch size.
            output_type: "pil", "pt" or "np".
            batch_size: images per pass through the networks, if there are so many.
            callback_on_step_end: ``f(pipeline, k, scales_left, tensors)``,
                called after each scale, and after each pass over it; what it
                returns is not used.
            callback_on_step_end_tensor_inputs: which tensors it gets.
            sampling: other fields of `SampleConfig`; `resampling` takes a plan.
        Returns:
            Images with their labels and tokens.
        Raises:
            ValueError: a bad argument, named with what was wanted.
        """
        each = check_whole(plain_number(num_images_per_label), "num_images_per_label")
        ids = None if class_labels is None else self.class_ids(class_labels)
        ids, count = self.repeated(ids, each)

        def make(own: slice, **how: Any) -> Sampled:
            return self.draw(None if ids is None else ids[own], **how)

        return self.batches(
            make,
            ids,
            count,
            guidance_scale,
            preset=preset,
            generator=generator,
            output_type=output_type,
            batch_size=batch_size,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            **sampling,
        )

    def batches(
        self,
        make: Callable[..., Sampled],
        ids: list[int] | None,
        count: int,
        guidance_scale: float | None = None,
        *,
        preset: str | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        batch_size: int = 64,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = STEP_TENSORS,
        **sampling: Any,
    ) -> PipelineOutput:
        """What every way to make images shares: settings, seeds, batches, output.

        Args:
            make: ``make(own, config=, seeds=, callback=)`` makes one batch, the images
                `own` of all.
            ids: class of each image; None without.
            count: images.
            guidance_scale: this and the rest are those of a call.
        Raises:
            ValueError: a bad argument, named with what was wanted.
        """
        if output_type not in OUTPUT_TYPES:
            raise ValueError(
                f"output_type must be one of {OUTPUT_TYPES}, got {output_type!r}"
            )
        size = check_whole(plain_number(batch_size), "batch_size", usual=64)
        config = self.config_with(guidance_scale, sampling, preset)
        seeds = seeds_of(generator, count)
        hook = self.step_hook(callback_on_step_end, callback_on_step_end_tensor_inputs)
        self.check_memory(min(size, count), config, ids)
        parts = [
            make(own, config=config, seeds=seeds[own], callback=hook)
            for own in (slice(at, at + size) for at in range(0, count, size))
        ]
        images = torch.cat([part.images for part in parts])
        tokens = [
            torch.cat(scale) for scale in zip(*(p.tokens for p in parts), strict=True)
        ]
        return PipelineOutput(convert(images, output_type), ids, tokens)

    def inpaint(
        self,
        images: Any,
        mask: Any,
        class_labels: Any = None,
        guidance_scale: float | None = None,
        *,
        rounds: int = 3,
        num_images_per_image: int = 1,
        **call: Any,
    ) -> PipelineOutput:
        """Fill holes in images; the known pixels come back as they are.

        Args:
            images: one PIL image, several, or a tensor ``(b, c, H, W)`` in [-1, 1], of
                the size of the model. What lies under the mask is not looked at.
            mask: where to paint: a PIL image (white), or a tensor or an array of bool,
                ``(H, W)`` for all images or ``(b, H, W)``.
            class_labels: of all images, or of each; one image may have several, and is
                filled for each. None is unconditional.
            guidance_scale: as in a call of the pipeline.
            rounds: how often the result is looked at and drawn again (chapter 12).
            num_images_per_image: fillings of each.
            call: the other arguments of a call.
        Raises:
            ValueError: a bad argument, named with what was wanted.
        """
        c, side, _ = self.tokenizer.image_shape
        given = images_of(images, c, side, checked=False)
        holes = mask_of(mask, len(given), side)
        ids, rows = self.paired(class_labels, len(given), num_images_per_image)
        known = given[rows].to(self.device), holes[rows].to(self.device)

        def make(own: slice, **how: Any) -> Sampled:
            labels, nets = ids and ids[own], (self.transformer, self.painter)
            parts = (x[own] for x in known)
            return inpaint(*nets, *parts, labels, rounds=rounds, **how)

        return self.batches(make, ids, len(rows), guidance_scale, **call)

    def outpaint(
        self,
        images: Any,
        class_labels: Any = None,
        guidance_scale: float | None = None,
        *,
        at: tuple[int, int] | None = None,
        **call: Any,
    ) -> PipelineOutput:
        """Draw what lies around images that are smaller than those of the model.

        Args:
            images: as for `inpaint`, smaller.
            class_labels, guidance_scale: as for `inpaint`.
            at: row and column of their upper left corner; None is the middle.
            call: the other arguments of `inpaint`.
        Raises:
            ValueError: a bad argument, named with what was wanted.
        """
        c, side, _ = self.tokenizer.image_shape
        canvas, mask = on_canvas(images_of(images, c), side, at)
        return self.inpaint(canvas, mask, class_labels, guidance_scale, **call)

    def super_resolve(
        self,
        images: Any,
        class_labels: Any = None,
        guidance_scale: float | None = None,
        *,
        rounds: int = 3,
        num_images_per_image: int = 1,
        **call: Any,
    ) -> PipelineOutput:
        """Draw the detail of small square images; the means of the pixels stay.

        Args:
            images: as for `inpaint`; their side divides that of the model.
            class_labels, guidance_scale, rounds, num_images_per_image, call: as there.
        Raises:
            ValueError: a bad argument, named with what was wanted.
        """
        given = images_of(images, self.tokenizer.image_shape[0])
        ids, rows = self.paired(class_labels, len(given), num_images_per_image)
        small = given[rows].to(self.device)

        def make(own: slice, **how: Any) -> Sampled:
            labels, nets = ids and ids[own], (self.transformer, self.painter)
            return super_resolve(*nets, small[own], labels, rounds=rounds, **how)

        return self.batches(make, ids, len(rows), guidance_scale, **call)

    def edit(
        self,
        images: Any,
        class_labels: Any,
        guidance_scale: float | None = None,
        *,
        scales: int | None = None,
        num_images_per_image: int = 1,
        **call: Any,
    ) -> PipelineOutput:
        """Keep the coarse scales of images and draw the fine ones as another class.

        Args:
            images, class_labels, guidance_scale, num_images_per_image, call: as for
                `inpaint`.
            scales: how many are kept; None is half of them.
        Raises:
            ValueError: a bad argument, named with what was wanted.
        """
        c, side, _ = self.tokenizer.image_shape
        schedule, given = self.tokenizer.schedule, images_of(images, c, side)
        kept = check_whole(
            len(schedule) // 2 if scales is None else plain_number(scales), "scales", 0
        )
        ids, rows = self.paired(class_labels, len(given), num_images_per_image)
        known = given[rows].to(self.device)

        def make(own: slice, **how: Any) -> Sampled:
            labels, nets = ids and ids[own], (self.transformer, self.painter)
            keep = [first_scales(schedule, kept, known[own])]
            return edit(*nets, known[own], keep, labels, **how)

        return self.batches(make, ids, len(rows), guidance_scale, **call)

    def paired(
        self, class_labels: Any, count: int, each: int
    ) -> tuple[list[int] | None, Tensor]:
        """The class of each result, and the number of the image it is made of.

        Args:
            class_labels: of all images, of each, or several of one image.
            count: images.
            each: results for an image and a class.
        Raises:
            ValueError: as many classes as fit to no reading.
        """
        ids = None if class_labels is None else self.class_ids(class_labels)
        several = 1 if ids is None else len(ids)
        if several != count and 1 not in (several, count):
            raise ValueError(
                f"class_labels has {several} classes for {count} images; give one for "
                "all, or one for each"
            )
        each = check_whole(plain_number(each), "num_images_per_image")
        most = max(several, count)
        check_count(most * each, self.tokenizer.image_shape)
        ids, _ = self.repeated(ids and ids * (most // several), each)
        rows = torch.arange(count).repeat(most // count)
        return ids, rows.repeat_interleave(each)

    def repeated(
        self, ids: list[int] | None, each: int
    ) -> tuple[list[int] | None, int]:
        """A class id per image, and the number of images.

        Raises:
            ValueError: more images than the memory of this machine can hold.
        """
        labels = [None] if ids is None else ids
        count = check_count(len(labels) * each, self.tokenizer.image_shape)
        return ids and [i for i in ids for _ in range(each)], count

    def check_memory(
        self, images: int, config: SampleConfig, ids: list[int] | None
    ) -> None:
        """Refuse a batch that a CPU cannot hold, and settings that do not fit.

        Raises:
            ValueError: naming the batch size that fits, or the setting.
        """
        check_pair(self.transformer, self.painter, config)
        if self.device.type == "cpu":
            plain = config if ids is not None else replace(config, guidance=1.0)
            shapes = self.transformer.config, self.painter.config
            size = next(self.transformer.parameters()).element_size()
            check_batch(images, shapes, plain, size)

    def draw(
        self,
        ids: list[int] | None,
        seeds: list[int],
        config: SampleConfig,
        callback: Callable[[Step], None] | None = None,
    ) -> Sampled:
        """One batch: from a recorded graph if there may be one, else call by call.

        Raises:
            ValueError: on a CPU, more images than its memory can hold.
        """
        networks = self.transformer, self.painter
        self.check_memory(len(seeds), config, ids)
        plain = config if ids is not None else replace(config, guidance=1.0)
        if self.graphs is None or callback is not None or not config.once:
            how = {"config": config, "seeds": seeds, "callback": callback}
            return resample(*networks, ids, **how)
        labels = sample_labels(self.transformer, ids, len(seeds)).to(self.device)
        key = len(seeds), plain
        if key not in self.graphs:
            with fused() if self.fused else nullcontext():
                self.graphs[key] = replayed(*networks, len(seeds), plain)
        found = self.graphs[key](labels, torch.tensor(seeds, device=self.device))
        tokens = [scale.clone() for scale in found.tokens]
        return Sampled(found.images.clone(), tokens, [])

    def enable_cuda_graphs(self, fused: bool = False) -> Pipeline:
        """Record each batch size and setting once, and launch the record after that.

        Calls with a callback, with passes or a way back, run as before. Weights may change in
        place; after `to` or another load, call this again.

        Args:
            fused: make one kernel of each of the small functions between the products
                too, down to the draw; faster, and the first call of each kind takes
                some seconds longer. It rounds in other places: a token close to a tie
                may be another one. Needs Triton, which comes with PyTorch on Linux.
        Raises:
            ValueError: the networks are not on a CUDA device.
        """
        if self.device.type != "cuda":
            raise ValueError(
                f'device is {self.device}, CUDA graphs need "cuda": call '
                '.to("cuda") first'
            )
        for tokenizer in (self.tokenizer, self.painter):
            tokenizer.to(memory_format=torch.channels_last)
        self.graphs, self.fused = {}, fused
        return self

    def config_with(
        self,
        guidance_scale: float | None,
        sampling: dict[str, Any],
        preset: str | None = None,
    ) -> SampleConfig:
        """The pipeline's sampling or a preset, with what a call changes."""
        unknown = set(sampling) - set(asdict(self.sampling))
        if unknown:
            raise ValueError(
                f"unknown arguments {sorted(unknown)}; sampling takes "
                f"{', '.join(asdict(self.sampling))}"
            )
        if guidance_scale is not None:
            sampling = {"guidance": guidance_scale} | sampling
        base = self.sampling if preset is None else self.preset(preset)
        return replace(base, **sampling)

    def preset(self, name: str) -> SampleConfig:
        """Settings with a name: the model's own, or published ones.

        Raises:
            ValueError: no preset of that name, with the known ones.
        """
        known = SAMPLING_PRESETS | self.presets
        if not isinstance(name, str) or name not in known:
            raise ValueError(f"preset must be one of {', '.join(known)}, got {name!r}")
        return known[name]

    def step_hook(
        self, callback: Callable[..., Any] | None, names: Sequence[str]
    ) -> Callable[[Step], None] | None:
        """The sampler's callback for a pipeline callback."""
        unknown = set(names) - set(STEP_TENSORS)
        if unknown:
            raise ValueError(
                "callback_on_step_end_tensor_inputs has "
                f"{sorted(unknown)}, want some of {STEP_TENSORS}"
            )
        if callback is None:
            return None
        if not callable(callback):
            raise ValueError(
                f"callback_on_step_end must be a function, got {callback!r}"
            )
        scales = len(self.transformer.config.schedule)

        def hook(step: Step) -> None:
            tensors = {name: getattr(step, name) for name in names}
            callback(self, step.k, scales - 1 - step.k, tensors)

        return hook


@dataclass(frozen=True)
class DecoderShape:
    """What a saved decoder says of itself: its fields of `TokenizerConfig`."""

    decoder_base: int | None
    decoder_blocks: int | None
    decoder_middle: bool


def inside(folder: Path, name: str) -> Path:
    """A folder of a model folder.

    Raises:
        CheckpointError: the name leads elsewhere.
    """
    if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
        raise CheckpointError(
            f"{folder / 'manifest.json'} has the decoder {name!r}, want the name of a "
            "folder beside it"
        )
    return folder / name


def painting(tokenizer: Tokenizer) -> dict[str, Tensor]:
    """The weights between the accumulated map and the image."""
    parts = ("decoder.", "post_quant_conv.")
    return {k: v for k, v in tokenizer.state_dict().items() if k.startswith(parts)}


def save_decoder(
    tokenizer: Tokenizer,
    folder: str | Path,
    dtype: torch.dtype | None = None,
    **facts: Any,
) -> Path:
    """Write the decoder of a tokenizer alone: shape, weights and hashes.

    Args:
        tokenizer: for example made by `srdd.distillation.slimmed` and trained.
        folder: made if it is not there.
        dtype: of the saved weights; None keeps them as they are.
        facts: more entries of the manifest.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.to(dtype or v.dtype) for k, v in painting(tokenizer).items()}
    save_tensors(folder / "model.safetensors", weights)
    names = [field.name for field in fields(DecoderShape)]
    shape = {name: getattr(tokenizer.config, name) for name in names}
    write_json(folder / "config.json", shape)
    write_manifest(folder, **facts)
    return folder


def load_decoder(tokenizer: Tokenizer, folder: str | Path) -> Tokenizer:
    """The encoder and codes of a tokenizer, shared, with a decoder of `save_decoder`.

    Raises:
        FileNotFoundError: no such folder.
        CheckpointError: a damaged or missing file, or a decoder that does not fit.
    """
    folder = Path(folder)
    verify_manifest(folder)
    shape = config_from_dict(DecoderShape, read_json(folder / "config.json"))
    other = Tokenizer(replace(tokenizer.config, **asdict(shape)))
    weights = load_tensors(folder / "model.safetensors", painting(other))
    other.load_state_dict(weights, strict=False)
    like = tokenizer.post_quant_conv.weight
    other.to(device=like.device, dtype=like.dtype)
    other.encoder, other.quant_conv = tokenizer.encoder, tokenizer.quant_conv
    other.quantize = tokenizer.quantize
    return other.eval()


@torch.no_grad()
def steps_apart(painter: Tokenizer, dtype: torch.dtype, count: int = 8) -> float:
    """How far a decoder in `dtype` is from itself in float32.

    Args:
        painter: in float32.
        dtype: of the weights, and of all between them.
        count: images, of random tokens: they are further apart than samples.
    Returns:
        The largest distance of a pixel in steps of 1/255; NaN if one overflows.
    """
    other, draw = deepcopy(painter).to(dtype), torch.Generator().manual_seed(0)
    sizes, vocab = painter.config.schedule.counts, painter.config.vocab
    place = painter.post_quant_conv.weight.device
    tokens = [torch.randint(vocab, (count, n), generator=draw) for n in sizes]
    tokens = [ids.to(place) for ids in tokens]
    with full_precision():
        exact = painter.decode(tokens)
    return (other.decode(tokens).float() - exact).abs().max().item() * 127.5


def sampling_from(facts: dict[str, Any]) -> SampleConfig:
    """A `SampleConfig` from its JSON form."""
    known = dict(facts)
    if known.get("resampling") is not None:
        known["resampling"] = config_from_dict(ResamplingPlan, known["resampling"])
    return config_from_dict(SampleConfig, known)


def read_settings(path: Path) -> tuple[dict[str, Any], Any]:
    """What a model's manifest says to `Pipeline`, and the name of its decoder.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: it says something else.
    """
    facts = read_json(path)
    try:
        presets, names = facts.get("presets", {}), facts.get("classes", [])
        if not isinstance(names, list) or not all(isinstance(x, str) for x in names):
            raise TypeError(f"classes is {names!r}, want a list of names")
        settings = {
            "classes": names,
            "sampling": sampling_from(facts.get("sampling", {})),
            "presets": {k: sampling_from(v["sampling"]) for k, v in presets.items()},
        }
        return settings, facts.get("decoder")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no manifest of a model ({type(error).__name__}: {error}); "
            "copy the folder again"
        ) from error


def convert(images: Tensor, output_type: str) -> Any:
    """Images ``(b, c, H, W)`` in [-1, 1] as tensor, array or PIL images."""
    images = images.float().cpu()
    if output_type == "pt":
        return images
    if output_type == "np":
        return ((images + 1) / 2).permute(0, 2, 3, 1).numpy()
    pictures: list[Image.Image] = [to_pil(image) for image in images]
    return pictures
