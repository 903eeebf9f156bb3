"""Golden vectors: what the reference implementation computed, we compute.

Tolerances stand several times above the rounding noise that two implementations
show (4e-6 for maps, 2e-5 for logits, 7e-5 for guided logits) and far below what any
mistake does. With ``SRDD_GOLDEN`` the whole set of vectors is compared.
"""

from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from golden.vectors import HERE, open_file, vectors

from srdd.checkpoints import from_var, key_names, phi_form, phi_keys
from srdd.editing import Editor, known_places
from srdd.quantization import MultiScaleQuantizer
from srdd.sampling import SampleConfig, filter_logits, guide, sample
from srdd.scales import SHORT_256, VAR_256, ScaleSchedule

CASES = [(case, name) for case in "AB" for name in "us"]
MASKS = {"causal": "", "markov": "markov."}
by_case = pytest.mark.parametrize(("case", "name"), CASES)
by_mask = pytest.mark.parametrize("mask", MASKS)
known = cache(vectors)


@cache
def pair(case, name, mask="causal"):
    """Our networks from the reference's weights, through the public reader."""
    given = known(case)
    return from_var(
        given.tokenizer,
        given.transformers[name],
        mask=mask,
        schedule=ScaleSchedule(tuple(given.config["pn"])),
        heads=given.config["vars"][name]["heads"],
    )


def close(got, want, atol):
    torch.testing.assert_close(got, want, rtol=0, atol=atol)


def labels_of(case):
    return torch.tensor(known(case).config["labels"])


# The tokenizer


@pytest.mark.parametrize("case", "AB")
@torch.no_grad()
def test_features_tokens_maps_inputs_and_pixels(case):
    tokenizer, _ = pair(case, "u")
    want = known(case).tensors
    x = want["x_int8"].float() / 128
    close(tokenizer.encoder(x), want["enc"], 1e-5)
    close(tokenizer.features(x), want["f"], 1e-5)
    tokens = tokenizer.encode(x)
    assert torch.equal(torch.cat(tokens, 1), want["idx"].long())
    maps = tokenizer.maps(tokens)
    close(maps, want["f_hat"], 1e-6)
    close(tokenizer.quantize.teacher_inputs(tokens), want["var_input"], 1e-6)
    pixels = tokenizer.decoder(tokenizer.post_quant_conv(maps[-1]))
    if "dec" in want:
        close(pixels, want["dec"], 1e-5)
    else:
        close(pixels[..., :48, :48], want["dec_top_left48"], 1e-5)
    decoded = tokenizer.decode(tokens)  # another memory layout, other rounding
    close(decoded, pixels.clamp(-1, 1), 1e-5)


# The transformer


@pytest.mark.parametrize("backend", ["packed", "dense"])
@by_mask
@by_case
@torch.no_grad()
def test_teacher_forced_logits(case, name, mask, backend):
    _, model = pair(case, name, mask)
    want = known(case).tensors
    logits = model(want["var_input"], labels_of(case), backend)
    close(logits, want[f"{name}.{MASKS[mask]}logits"], 5e-5)


@by_case
@torch.no_grad()
def test_input_rows_and_every_block(case, name):
    want = known(case).tensors
    if f"{name}.x0" not in want:
        pytest.skip("only A has them, in the folder that SRDD_GOLDEN names")
    _, model = pair(case, name)
    seen = {}
    hooks = [
        block.register_forward_hook(
            lambda _, given, out, i=i: seen.update({("in", i): given[0], i: out})
        )
        for i, block in enumerate(model.blocks)
    ]
    try:
        model(want["var_input"], labels_of(case))
    finally:
        for hook in hooks:
            hook.remove()
    close(seen["in", 0], want[f"{name}.x0"], 1e-6)
    for i in range(len(model.blocks)):
        if f"{name}.block{i}" in want:
            close(seen[i], want[f"{name}.block{i}"], 5e-5)


@pytest.mark.parametrize("backend", ["packed", "dense"])
@by_case
def test_losses_and_the_norm_of_every_gradient(case, name, backend):
    _, model = pair(case, name)
    given = known(case)
    want, norms = given.tensors, given.grad_norms[name]
    model.zero_grad(set_to_none=True)
    logits = model(want["var_input"], labels_of(case), backend).flatten(0, 1)
    targets = want["idx"].long().flatten()
    smooth = F.cross_entropy(logits, targets, label_smoothing=0.1)
    close(smooth, want[f"{name}.train.loss_ls0.1"], 1e-5)
    loss = F.cross_entropy(logits, targets)
    close(loss, want[f"{name}.train.loss_ls0"], 1e-5)
    loss.backward()
    mine = {k: w.grad.norm().item() for k, w in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    names = key_names(model.config.depth)
    assert {names[k] for k in norms} == mine.keys()
    for key, norm in norms.items():
        assert mine[names[key]] == pytest.approx(norm, rel=2e-4, abs=1e-6), key
    total = sum(n**2 for n in mine.values()) ** 0.5
    assert total == pytest.approx(
        want[f"{name}.train.total_grad_norm"].item(), rel=1e-4
    )


# Generation


@by_mask
@by_case
@torch.no_grad()
def test_greedy_guided_generation_gives_the_same_tokens(case, name, mask):
    tokenizer, model = pair(case, name, mask)
    want, labels, t = known(case).tensors, labels_of(case), known(case).config["cfg"]
    key = f"{name}.{MASKS[mask]}greedy"
    greedy = SampleConfig(1 + t, "linear", top_k=1)
    made = sample(model, tokenizer, labels, config=greedy, seeds=range(len(labels)))
    assert torch.equal(torch.cat(made.tokens, 1), want[f"{key}.idx"].long())
    inputs = tokenizer.quantize.teacher_inputs(made.tokens)
    null = torch.full_like(labels, model.null_label)
    split = model.config.schedule.split
    for backend in ("packed", "dense"):
        laws = [split(model(inputs, y, backend)) for y in (labels, null)]
        weights = [greedy.weight(k, len(laws[0])) for k in range(len(laws[0]))]
        guided = [guide(*row) for row in zip(*laws, weights, strict=True)]
        close(torch.cat(guided, 1), want[f"{key}.logits"], 2e-4)
    if f"{key}.image" in want:  # stored in half precision
        close((made.images + 1) / 2, want[f"{key}.image"].float(), 5e-4)


# The quantizer alone

EXTRAS, SETTINGS = open_file(HERE / "quantizer_filter.safetensors")
SETTINGS = SETTINGS["settings"]


def quantizer(tag):
    """Our loop with the weights of a variant, its names, and what is wanted."""
    shape, start = SETTINGS[tag], f"q.{tag}."
    want = {k.removeprefix(start): v for k, v in EXTRAS.items() if k.startswith(start)}
    weights = {k[2:]: v for k, v in want.items() if k.startswith("w.")}
    names = {"embedding.weight": "embedding.weight"}
    if tag != "resi0":
        form = phi_keys(*phi_form("quantize." + k for k in weights))
        names |= {a[9:]: b[9:] for a, b in form.items()}
    loop = MultiScaleQuantizer(
        shape["V"],
        shape["C"],
        ScaleSchedule(tuple(shape["patch_nums"])),
        phi_convs=max(1, len(names) // 2),
        phi_ratio=shape["quant_resi"],
        cosine=shape["using_znorm"],
        beta=shape["beta"],
    )
    assert names.keys() == weights.keys()
    if tag != "resi0":
        assert loop.schedule.phi_for(loop.phi_convs) == tuple(shape["phi_index"])
    own = loop.state_dict() | {names[k]: v for k, v in weights.items()}
    loop.load_state_dict(own)
    return loop, names, want


@pytest.mark.parametrize("tag", SETTINGS)
def test_quantizer_variants_with_losses_and_gradients(tag):
    loop, names, want = quantizer(tag)
    f = want["f"].clone().requires_grad_()
    with torch.no_grad():
        tokens = loop.encode(f)
        close(loop.maps(tokens), want["f_hat"], 1e-6)
        close(loop.teacher_inputs(tokens), want["var_input"], 1e-6)
    assert torch.equal(torch.cat(tokens, 1), want["idx"].long())
    out, loss, _ = loop(f)
    close(out, want["train.out"], 1e-6)
    close(loss, want["train.vq_loss"], 1e-6)
    (loss + (out * want["train.cotangent"]).mean()).backward()
    close(f.grad, want["train.grad_f"], 1e-6)
    mine = dict(loop.named_parameters())
    for theirs, ours in names.items():
        close(mine[ours].grad, want[f"train.grad.{theirs}"], 1e-6)


# The filter


@pytest.mark.parametrize(
    "key", [k for k in EXTRAS if k.startswith("filter.") and k.endswith(".probs")]
)
def test_sampling_filter(key):
    k, p = key.removeprefix("filter.k").removesuffix(".probs").split("_p")
    top_p = float(p) or 1.0  # the reference switches it off by 0
    law = filter_logits(EXTRAS["filter.logits"], int(k), top_p).softmax(-1)
    rows = torch.ones(law.shape[:2], dtype=torch.bool)
    if float(p) > 0:  # there the reference depends on how its sort breaks ties
        rows[0, 0] = rows[1, 2] = False
    close(law[rows], EXTRAS[key][rows], 1e-6)


# Editing

EDITS, BOXES = open_file(HERE / "editing.safetensors")


@pytest.mark.parametrize("schedule", [VAR_256, SHORT_256], ids=["10", "6"])
@pytest.mark.parametrize("box", range(3))
def test_places_that_the_published_editing_keeps(schedule, box):
    *corners, kind = BOXES["boxes"][box]
    side = schedule.sides[-1]
    top, left, bottom, right = (round(x * side) for x in corners)
    inside = torch.zeros(1, 1, side, side, dtype=torch.bool)
    inside[..., top:bottom, left:right] = True
    known = inside if kind == "outpaint" else ~inside
    want = EDITS[f"mask.{len(schedule)}.box{box}"].bool()
    assert torch.equal(torch.cat(known_places(known, schedule, "half"), 1)[0], want)


@by_mask
@pytest.mark.parametrize("name", "us")
@torch.no_grad()
def test_greedy_editing_with_clamped_tokens(name, mask):
    tokenizer, model = pair("A", name, mask)
    given, schedule = known("A"), model.config.schedule
    ids = schedule.split(given.tensors["idx"].long())
    fine = EDITS[f"edit.A.{name}.mask"].bool()[None, None]
    keep = [x.expand(2, -1) for x in known_places(fine, schedule, "half")]
    best = []

    class Noted(Editor):
        """Remembers what would have been drawn."""

        def first_draw(self, k, f_hat, logits):
            best.append(logits.argmax(-1))
            return super().first_draw(k, f_hat, logits)

    made = sample(
        model,
        tokenizer,
        labels_of("A"),
        config=SampleConfig(1 + given.config["cfg"], "linear", top_k=1),
        seeds=[0, 1],
        sampler=partial(Noted, known=lambda k, f_hat: ids[k], keep=keep),
    )
    key = f"edit.A.{name}.{'dense' if mask == 'causal' else mask}"
    assert torch.equal(torch.cat(best, 1), EDITS[f"{key}.pred_idx"].long())
    close(tokenizer.maps(made.tokens)[-1], EDITS[f"{key}.f_hat"], 1e-6)
