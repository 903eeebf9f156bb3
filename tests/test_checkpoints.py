"""Public checkpoints: the layout key by key, and every way a file can be wrong."""

import bz2
import gzip
import json
import math
import os
import pickle
import re
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from srdd.attention import dense_mask
from srdd.checkpoints import (
    BUFFERS,
    KEY_MAP,
    buffer_shapes,
    check_expressible,
    from_var,
    heads_of,
    key_names,
    layout_names,
    phi_form,
    phi_keys,
    to_var,
    tokenizer_shape,
    transformer_shape,
)
from srdd.files import CheckpointError
from srdd.foreign import as_schedule, form_of, read_file, read_state
from srdd.scales import VAR_256, VAR_512, ScaleSchedule
from srdd.tokenizer import Tokenizer, TokenizerConfig
from srdd.transformer import ScaleTransformer, TransformerConfig, preset

GOLDEN = Path(__file__).parent / "golden"
SIDES = ScaleSchedule((1, 2, 4))
LAYOUTS = json.loads((GOLDEN / "var_layout.json").read_text())


def tokenizer(phi_convs=4, sides=SIDES, **changes):
    """A tokenizer with the published names, in small, all weights lively."""
    shape = {"base": 32, "multipliers": (1, 2), "blocks": 1, "attention_levels": (1,)}
    shape |= {"code_width": 8, "vocab": 40, "phi_convs": phi_convs, "schedule": sides}
    return lively(Tokenizer(TokenizerConfig(**(shape | changes))))


def transformer(sides=SIDES, **changes):
    """A transformer for it."""
    shape = {"depth": 2, "width": 128, "heads": 4, "schedule": sides, "vocab": 40}
    shape |= {"code_width": 8, "classes": 5, "mask": "causal"}
    return lively(ScaleTransformer(TransformerConfig(**(shape | changes))))


def lively(model):
    """The model with every tensor different from every other."""
    generator = torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def pair():
    return tokenizer(), transformer()


@pytest.fixture(scope="module")
def states(pair):
    return to_var(*pair)


def equal(one, other):
    """Same names, types and bits."""
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        assert tensor.dtype == other[key].dtype and torch.equal(tensor, other[key]), key


def said(*args, **options):
    """The error of `from_var`, in one line."""
    with pytest.raises(CheckpointError) as caught:
        from_var(*args, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


# The layout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_and_shapes_are_the_published_ones(layout):
    name = layout.split("_")[1]
    config = preset(name, mask="causal")
    with torch.device("meta"):
        model = ScaleTransformer(config)
    own = model.state_dict()
    names = {t: o for t, o in key_names(config.depth).items() if o in own}
    assert set(names.values()) == own.keys()
    mine = {t: list(own[o].shape) for t, o in names.items()}
    mine |= {k: list(s) for k, s in buffer_shapes(config).items()}
    want = {}
    for key, (shape, _, _) in LAYOUTS[layout].items():
        for i in range(config.depth if key.startswith("blocks.0.") else 1):
            want[key.replace("blocks.0.", f"blocks.{i}.")] = shape
    assert mine.keys() == want.keys()
    for key, shape in want.items():
        if key.endswith("ada_gss"):  # its axes of size 1 stand elsewhere
            assert mine[key] == [6, 1, 1, shape[3]] and shape[:3] == [1, 1, 6]
        else:
            assert mine[key] == shape, key
    weights = want.keys() - buffer_shapes(config).keys()
    told = {k: torch.empty(want[k], device="meta") for k in weights}
    sides = VAR_512 if name == "d36" else VAR_256
    assert transformer_shape(told, "causal", sides) == config


def test_the_published_tokenizer_is_told_by_its_shapes():
    layout = json.loads((GOLDEN / "vae_layout.json").read_text())
    told = {k: torch.empty(s, device="meta") for k, s in layout.items()}
    assert tokenizer_shape(told, VAR_256) == TokenizerConfig()
    other = {form_of(k) for f in ("one", "each") for k in phi_keys(f, 1)}
    assert layout_names("tokenizer") == {form_of(k) for k in layout} | other


def test_buffers_are_those_of_the_reference(states):
    _, weights = states
    kinds = LAYOUTS["var_d16_256"]
    named = {
        k.replace("0", "#") for k, (_, _, kind) in kinds.items() if kind == "buffer"
    }
    assert named == {b.replace("0", "#") for b in BUFFERS}
    assert weights["lvl_1L"].dtype == torch.int64
    assert weights["lvl_1L"].tolist() == [[0] + 4 * [1] + 16 * [2]]
    bias, levels = weights["attn_bias_for_masking"][0, 0], weights["lvl_1L"][0]
    seen = levels[:, None] >= levels[None]
    assert torch.equal(bias == 0, seen) and bias[~seen].eq(-torch.inf).all()
    assert weights["blocks.1.attn.zero_k_bias"].tolist() == [0.0] * 128


def test_no_name_stands_twice_in_the_map():
    assert len(set(KEY_MAP.values())) == len(KEY_MAP)
    names = key_names(3)
    assert len(set(names.values())) == len(names)


# Round trips


@pytest.mark.parametrize("mask", ["causal", "markov"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_round_trip_is_bit_equal(mask, shared, qk_norm):
    model = transformer(mask=mask, shared_adaln=shared, qk_norm=qk_norm)
    pair = tokenizer(), model
    states = to_var(*pair)
    again = from_var(*states, mask=mask, heads=None if qk_norm else 4)
    for one, other in zip(again, pair, strict=True):
        equal(one.state_dict(), other.state_dict())
        assert not one.training
    assert again[1].config.heads == 4 and again[1].config.mask == mask
    for one, other in zip(to_var(*again), states, strict=True):
        equal(one, other)


@pytest.mark.parametrize("mask", ["causal", "markov", "band"])
def test_the_file_says_which_mask_it_has(mask, tmp_path):
    model = transformer(mask=mask)
    states = to_var(tokenizer(), model)
    bias = states[1]["attn_bias_for_masking"][0, 0]
    assert torch.equal(bias == 0, dense_mask(SIDES, mask))
    assert bias[bias != 0].eq(-torch.inf).all()
    paths = [tmp_path / "vae.pth", tmp_path / "var.pth"]
    for path, state in zip(paths, states, strict=True):
        torch.save(state, path)
    tokens = torch.randn(2, SIDES.length - 1, 8)
    with torch.no_grad():
        want = model(tokens, torch.tensor([0, 4]))
    for found in (from_var(*states)[1], from_var(*paths)[1]):
        assert found.config.mask == mask
        with torch.no_grad():
            assert torch.equal(found(tokens, torch.tensor([0, 4])), want)
    half = without(states[1], attn_bias_for_masking=bias[None, None].half())
    assert from_var(states[0], half, mask=mask)[1].config.mask == mask
    other = "causal" if mask == "markov" else "markov"
    assert from_var(*states, mask=other)[1].config.mask == other  # to train it on
    silent = without(states[1], "attn_bias_for_masking")
    assert from_var(states[0], silent)[1].config.mask == "causal"
    assert from_var(states[0], silent, mask=mask)[1].config.mask == mask


def test_another_pattern_than_a_mask_is_refused(states):
    codes, weights = states
    bias = weights["attn_bias_for_masking"]
    for odd in (torch.zeros_like(bias), bias.mT, bias.nan_to_num(neginf=-9.0), -bias):
        text = said(codes, without(weights, attn_bias_for_masking=odd))
        assert "attn_bias_for_masking is no mask of the scales (1, 2, 4)" in text
        assert "missing" not in text and "of another shape" not in text
    short = without(weights, attn_bias_for_masking=bias[..., :3, :3])
    assert "attn_bias_for_masking: got (1, 1, 3, 3), want" in said(codes, short)


def test_one_scale_has_one_mask():
    sides = ScaleSchedule((4,))
    model = transformer(sides, mask="markov")
    states = to_var(tokenizer(sides=sides), model)
    assert from_var(*states)[1].config.mask == "causal"  # the same function
    assert from_var(*states, mask="markov")[1].config.mask == "markov"


@pytest.mark.parametrize("form, convs", [("one", 1), ("shared", 3), ("each", 3)])
def test_three_forms_of_phi(form, convs):
    given = tokenizer(convs)
    states = to_var(given, transformer(), phi=form)
    assert phi_form(states[0]) == (form, convs)
    assert phi_keys(form, convs).keys() <= states[0].keys()
    found, _ = from_var(*states, phi_convs=convs)
    equal(found.state_dict(), given.state_dict())
    if form == "shared":
        assert "pass phi_convs=3" in said(*states)
    else:  # then the number is told
        equal(from_var(*states)[0].state_dict(), given.state_dict())
        assert f"phi_convs is 4, the file has {convs}" in said(*states, phi_convs=4)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_and_a_trainers_file(states, pair, tmp_path, suffix):
    paths = [tmp_path / f"{name}{suffix}" for name in ("vae", "var")]
    for path, state in zip(paths, states, strict=True):
        (save_file if suffix == ".safetensors" else torch.save)(dict(state), path)
    for one, other in zip(from_var(*paths), pair, strict=True):
        equal(one.state_dict(), other.state_dict())
    nested = {"var_wo_ddp": states[1], "vae_local": states[0], "config": {"depth": 2}}
    whole = tmp_path / "ar-ckpt-last.pth"
    torch.save({"epoch": 1, "iter": 2, "trainer": nested, "args": {}}, whole)
    for one, other in zip(from_var(str(whole), whole), pair, strict=True):
        equal(one.state_dict(), other.state_dict())
    found = from_var({"trainer": nested}, nested)
    equal(found[1].state_dict(), pair[1].state_dict())


@pytest.mark.parametrize("wrap", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_that_all_names_have_are_taken_away(states, pair, tmp_path, wrap):
    wrapped = [{wrap + k: v for k, v in state.items()} for state in states]
    paths = [tmp_path / "vae.pth", tmp_path / "var.pth"]
    for path, state in zip(paths, wrapped, strict=True):
        torch.save({"state_dict": state, "epoch": 3}, path)
    for files in (wrapped, paths, [{"state_dict": state} for state in wrapped]):
        for one, other in zip(from_var(*files), pair, strict=True):
            equal(one.state_dict(), other.state_dict())
    nested = {"trainer": {"var_wo_ddp": wrapped[1], "vae_local": states[0]}}
    equal(from_var(nested, nested)[1].state_dict(), pair[1].state_dict())
    mixed = without(wrapped[1], f"{wrap}head.bias")
    mixed |= {"head.bias": states[1]["head.bias"]}
    text = said(states[0], mixed)
    assert f"unexpected ({wrap}attn_bias_for_masking" in text and "missing" in text


def test_the_given_tensors_are_left_alone(states):
    codes, weights = ({k: v.clone() for k, v in s.items()} for s in states)
    for model in from_var(codes, weights):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(1)
    equal(codes, states[0])
    equal(weights, states[1])


def test_half_precision_is_read_as_float32(states):
    def half(state):
        return {k: v.half() if v.is_floating_point() else v for k, v in state.items()}

    _, model = from_var(*map(half, states))
    assert {w.dtype for w in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("odd", [math.nan, math.inf])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("lenient", [False, True])
def test_weights_that_are_not_finite_are_named(states, tmp_path, odd, suffix, lenient):
    codes, weights = ({k: v.clone() for k, v in s.items()} for s in states)
    codes["quant_conv.bias"][0] = weights["head.weight"][1, 1] = odd
    files = [tmp_path / (name + suffix) for name in ("vae", "var")]
    write = torch.save if suffix == ".pth" else save_file
    for path, state in zip(files, (codes, weights), strict=True):
        write(state, path)
    text = said(*files, strict=not lenient)
    assert "the transformer does not fit: 1 not finite (head.weight)" in text
    assert "the tokenizer does not fit: 1 not finite (quant_conv.bias)" in text


def test_derived_tensors_may_be_absent(states, pair):
    codes, weights = states
    bare = {k: v for k, v in weights.items() if k not in buffer_shapes(pair[1].config)}
    assert len(weights) - len(bare) == 4
    found = from_var(codes, bare, schedule=SIDES)
    equal(found[1].state_dict(), pair[1].state_dict())
    unused = {k: v for k, v in codes.items() if not k.endswith("ema_vocab_hit_SV")}
    assert from_var(unused, weights)[0].quantize.ema_vocab_hit_SV.eq(0).all()
    fewer = dict(codes, **{"quantize.ema_vocab_hit_SV": torch.ones(10, 40)})
    hits = from_var(fewer, weights)[0].quantize.ema_vocab_hit_SV
    assert hits.shape == (3, 40) and hits.eq(0).all()


# What cannot be told is asked for


ONE = torch.zeros(1)


def without(state, *keys, **more):
    return {k: v for k, v in state.items() if k not in keys} | more


def test_the_schedule_is_asked_for_and_must_fit(states):
    codes, weights = states
    silent = without(weights, "lvl_1L")
    text = said(codes, silent)
    assert "21 positions in 3 scales" in text and "pass schedule=" in text
    text = said(codes, silent, schedule=ScaleSchedule((1, 2, 3)))
    assert "14 positions" in text and "the file 21" in text
    text = said(codes, weights, schedule=ScaleSchedule((1, 2, 3)))
    assert "(1, 2, 3)" in text and "the file has (1, 2, 4)" in text
    other = torch.tensor([[0] + 9 * [1] + 11 * [2]])
    assert "no square maps" in said(codes, without(weights, lvl_1L=other))
    assert "no square maps" in said(codes, without(weights, lvl_1L=other.float()))
    short = torch.tensor([[0] + 4 * [1] + 9 * [2]])
    assert "14 positions" in said(codes, without(weights, lvl_1L=short))


def test_a_cut_table_of_positions_is_damage_if_the_file_tells_its_scales(states):
    codes, weights = states
    cut = {"pos_1LC": weights["pos_1LC"][:, :20]}
    for given in (None, SIDES):
        text = said(codes, without(weights, **cut), schedule=given)
        assert "(1, 2, 4) has 21 positions in 3 scales, the file 20 in 3" in text
        assert "damaged; take the published file" in text and "schedule=" not in text
    few = {"lvl_embed.weight": weights["lvl_embed.weight"][:2]}
    assert "the file 21 in 2: the file, which" in said(codes, without(weights, **few))
    text = said(codes, without(weights, "lvl_1L", **cut), schedule=SIDES)
    assert "or take another file if it is damaged" in text


def test_a_bias_of_the_keys_is_refused(states):
    codes, weights = states
    key = "blocks.1.attn.zero_k_bias"
    text = said(codes, without(weights, "head.bias", **{key: torch.ones(128)}))
    assert f"{key} must be zero: no model here has a bias of the keys" in text
    assert "1 missing (head.bias)" in text


def test_a_published_length_is_offered_as_a_hint():
    shape = LAYOUTS["var_d16_256"]
    names = [k for k, (_, _, kind) in shape.items() if kind != "buffer"]
    told = {k: torch.empty(shape[k][0], device="meta") for k in names}
    with pytest.raises(CheckpointError, match=r"published \(1, 2, 3, 4, 5, 6, 8"):
        transformer_shape(told)


def test_heads_are_asked_for_and_must_fit(states):
    codes, weights = states
    assert "the file has 4" in said(codes, weights, heads=2)
    odd = to_var(tokenizer(), transformer(width=96, heads=3, qk_norm=False))
    assert "pass heads=" in said(*odd)
    assert from_var(*odd, heads=3)[1].config.heads == 3
    assert "must divide the width 96" in said(*odd, heads=5)
    ruled = to_var(tokenizer(), transformer(heads=2, qk_norm=False))
    assert "pass heads=" in said(*ruled)  # the rule 64 x depth would fit, by chance
    assert from_var(*ruled, heads=2)[1].config.heads == 2


@pytest.mark.parametrize("mask", ["full", "", 1, ["causal"]])
def test_an_unknown_mask_is_refused(states, mask):
    with pytest.raises(ValueError, match=r"mask must be one of \('causal', ") as caught:
        from_var(*states, mask=mask)
    assert str(caught.value).endswith(f"got {mask!r}")


@pytest.mark.parametrize("given", [(1, 2, 4), [1, 2, 4], "1-2-4", "1,2,4", "1, 2, 4"])
def test_a_schedule_may_be_sides_or_a_text(states, pair, given):
    silent = without(states[1], "lvl_1L")
    found = from_var(states[0], silent, schedule=given)[1]
    assert found.config.schedule == SIDES
    equal(found.state_dict(), pair[1].state_dict())


@pytest.mark.parametrize("given", ["", "a-b", (4, 2), (1, 2.5), 7, "1--2", (), True])
def test_what_is_no_schedule(states, given):
    with pytest.raises(ValueError, match="schedule= must be growing sides, as .* got"):
        from_var(*states, schedule=given)
    assert as_schedule(None) is None


@pytest.mark.parametrize(
    "name", ["heads", "depth", "classes", "phi_convs", "blocks", "attention_levels"]
)
@pytest.mark.parametrize("size", [0, -1, 2.0, True, "2"])
def test_given_sizes_are_whole_numbers(states, name, size):
    if (name, size) == ("attention_levels", 0):
        pytest.skip("no level may have attention")
    with pytest.raises(ValueError, match=f"{name}= must be a whole number >= 1"):
        from_var(*states, **{name: size})


@pytest.mark.parametrize("strict", [None, 0, "no"])
def test_strict_is_yes_or_no(states, strict):
    with pytest.raises(ValueError, match="strict must be True or False, got"):
        from_var(*states, strict=strict)


# What is wrong is listed, all of it


def test_every_difference_is_in_one_message(states):
    codes, weights = states
    wrong = without(
        weights,
        "blocks.1.attn.proj.weight",
        "blocks.0.ffn.fc2.bias",
        "blocks.1.attn.q_bias",
        surplus=torch.zeros(1),
        another=torch.zeros(2),
        **{
            "head.bias": torch.zeros(7),
            "blocks.0.attn.v_bias": torch.zeros(3),
            "pos_start": torch.zeros(1, 1, 128, dtype=torch.int64),
        },
    )
    text = said(codes, wrong)
    assert "3 missing" in text and "2 unexpected (another, surplus)" in text
    assert "2 of another shape" in text and "head.bias: got (7,), want (40,)" in text
    assert "1 not floating point (pos_start)" in text
    for key in (
        "blocks.1.attn.proj.weight",
        "blocks.0.ffn.fc2.bias",
        "blocks.0.attn.v",
    ):
        assert key in text
    many = without(weights, *[k for k in weights if ".ffn.fc2" in k or ".attn.q" in k])
    assert said(codes, many).count("blocks.") == 6


DERIVED = ("lvl_1L", "attn_bias_for_masking", "zero_k_bias", "ema_vocab_hit_SV")


def test_each_missing_name_is_named(states):
    codes, weights = states
    for strict in (True, False):
        for key in sorted(weights)[:: 1 if strict else 5]:
            if not key.endswith(DERIVED):
                text = said(codes, without(weights, key), strict=strict)
                assert f"1 missing ({key}); take the published" in text, key
        for key in sorted(codes)[:: 5 if strict else 17]:
            if not key.endswith(DERIVED):
                text = said(without(codes, key), weights, strict=strict)
                assert f"1 missing ({key}); take the published" in text, key


@pytest.mark.parametrize(
    "part, mark",
    [
        (0, r"encoder\.down\.1\.attn"),
        (0, r"encoder\.down\.1"),
        (0, r"encoder\.down\.\d\.block\.0"),
        (0, r"decoder\.up\.0"),
        (0, r"decoder\.up\.\d\.block\.1"),
        (0, r"quantize\.quant_resi\.qresi_ls\.1"),
        (0, r".*conv1"),
        (0, r"quantize\.embedding"),
        (1, r"blocks\.0\."),
        (1, r"blocks\.0\.ffn\.fc1"),
        (1, r"blocks\.\d\.ada_lin"),
        (1, r"head\."),
        (1, r"word_embed|class_emb"),
        (1, r".*\.weight"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_all_names_of_a_lost_part_are_named(states, part, mark, strict):
    state = states[part]
    lost = [k for k in state if re.match(mark, k) and not k.endswith(DERIVED)]
    assert lost
    files = list(states)
    files[part] = without(state, *(k for k in state if re.match(mark, k)))
    text = said(*files, strict=strict)
    assert f"{len(lost)} missing ({', '.join(sorted(lost))})" in text


def test_what_cannot_be_told_is_asked_for_with_the_list(states):
    codes, weights = states
    bare = without(weights, "lvl_1L", "head.bias", "blocks.1.attn.proj.bias", more=ONE)
    for key in bare.copy():
        if "scale_mul" in key:
            del bare[key]
    text = said(without(codes, "post_quant_conv.bias", extra=ONE), bare)
    assert "pass schedule=" in text and "pass heads=" in text
    assert "2 missing (blocks.1.attn.proj.bias, head.bias)" in text
    assert "1 unexpected (more)" in text and "1 unexpected (extra)" in text
    assert "1 missing (post_quant_conv.bias)" in text
    text = said(codes, without(weights, "class_emb.weight", "head.weight", "pos_1LC"))
    assert "3 missing (class_emb.weight, head.weight, pos_1LC)" in text


def test_a_lost_last_block_is_doubted_by_the_published_rule():
    states = to_var(tokenizer(), transformer(depth=2, heads=2))  # 2 heads of 64
    lost = {k: v for k, v in states[1].items() if "blocks.1." not in k}
    text = said(states[0], lost)
    assert "has 1 blocks" in text and "pass depth=1" in text
    for strict in (True, False):
        text = said(states[0], lost, depth=2, strict=strict)
        assert "12 missing (blocks.1.ada_lin.1.bias, " in text
    assert from_var(states[0], lost, depth=1)[1].config.depth == 1
    assert from_var(*states)[1].config.depth == 2
    assert "unexpected (blocks.1.ada_lin.1.bias" in said(*states, depth=1, strict=False)


def test_gaps_and_stray_blocks(states):
    codes, weights = states
    three = to_var(tokenizer(), transformer(depth=3))[1]
    gap = {k: v for k, v in three.items() if "blocks.1." not in k}
    text = said(codes, gap)
    assert "12 missing (blocks.1.ada_lin.1.bias" in text and "unexpected" not in text
    for name in ("blocks.300.ffn.fc1.weight", "blocks.99999999999.attn.q_bias"):
        for strict in (True, False):
            text = said(codes, without(weights, **{name: ONE}), strict=strict)
            assert f"1 unexpected ({name}); take" in text and "missing" not in text
    text = said(codes, without(weights, **{"blocks.2.attn.q_bias": ONE}), strict=False)
    assert "11 missing (blocks.2.ada_lin.1.bias" in text
    named = without(weights, **{"blocks.2.lora.weight": ONE, "blocks.x": ONE})
    assert "strict=False drops them" in said(codes, named)
    from_var(codes, named, strict=False)


@pytest.mark.parametrize("strict", [True, False])
def test_a_feature_is_in_all_blocks_or_in_none(states, strict):
    codes, weights = states
    factor = "blocks.0.attn.scale_mul_1H11"
    text = said(codes, without(weights, factor), strict=strict)
    assert f"1 missing ({factor})" in text
    plain = to_var(tokenizer(), transformer(qk_norm=False))[1]
    plain["blocks.1.attn.scale_mul_1H11"] = weights["blocks.1.attn.scale_mul_1H11"]
    text = said(codes, plain, strict=strict, heads=4)
    assert f"1 missing ({factor})" in text
    both = without(weights, **{"shared_ada_lin.1.weight": torch.zeros(768, 128)})
    text = said(codes, both, strict=strict)
    assert "1 unexpected (shared_ada_lin.1.weight); take the published" in text
    shared = to_var(tokenizer(), transformer(shared_adaln=True))[1]
    both = without(shared, **{"blocks.1.ada_lin.1.bias": torch.zeros(768)})
    text = said(codes, both, strict=strict)
    assert "1 unexpected (blocks.1.ada_lin.1.bias); take the published" in text
    text = said(codes, without(shared, "blocks.1.ada_gss"), strict=strict)
    assert "1 missing (blocks.1.ada_gss)" in text
    stray = "encoder.down.0.attn.0.norm.weight"
    text = said(without(codes, **{stray: torch.zeros(32)}), weights, strict=strict)
    assert "missing (" in text and "encoder.down.0.attn.0.norm.bias" in text
    for phi in ("qresi", "0", "qresi_ls.4"):
        name = f"quantize.quant_resi.{phi}.weight"
        extra = without(codes, **{name: torch.zeros(8, 8, 3, 3)})
        text = said(extra, weights, strict=strict)
        assert "phi_convs=5" in text if phi == "qresi_ls.4" else name in text


def test_a_lost_convolution_is_missed(states):
    codes, weights = states
    last = [k for k in codes if "qresi_ls.3" in k]
    text = said(without(codes, *last), weights, strict=False)
    assert "has 3 shared convolutions" in text and "pass phi_convs=3" in text
    text = said(without(codes, *last, "quant_conv.bias", extra=ONE), weights)
    assert "pass phi_convs=3" in text and "1 missing (quant_conv.bias)" in text
    assert "1 unexpected (extra)" in text
    text = said(without(codes, *last), weights, phi_convs=4)
    assert f"2 missing ({', '.join(sorted(last))})" in text
    each = to_var(tokenizer(3), transformer(), phi="each")[0]
    lost = without(each, "quantize.quant_resi.2.weight", "quantize.quant_resi.2.bias")
    assert "2 missing (quantize.quant_resi.2.bias" in said(lost, weights)


@pytest.fixture(scope="module")
def published():
    """A pair with the levels of the published tokenizer."""
    shape = {"multipliers": (1, 1, 2, 2, 4), "blocks": 2, "attention_levels": (4,)}
    return to_var(tokenizer(**shape), transformer())


@pytest.mark.parametrize(
    "lost, asked",
    [
        (r"\.attn\.", "pass attention_levels=0"),
        (r"encoder.*\.block\.1\.|decoder.*\.block\.2\.", None),
        (r"encoder.*\.attn\.|decoder.*\.attn\.[12]", None),
        (r"\.mid\.attn_1", None),
        (r"(down|up)\.4\.", None),
        (r"(down|up)\.4\.|down\.3\.downsample", None),
        (r"encoder.*\.(block|attn)\.1\.|decoder.*\.(block|attn)\.2\.", "pass blocks=1"),
        (r"\.(block|attn)\.[12]\.", "pass blocks=1"),
    ],
)
def test_what_encoder_and_decoder_have_lost(published, lost, asked):
    codes, weights = published
    kept = {k: v for k, v in codes.items() if not re.search(lost, k)}
    gone = sorted(codes.keys() - kept.keys())
    text = said(kept, weights)
    assert asked is None or asked in text
    if "4" not in lost:  # without a whole level, shapes differ
        assert f"{len(gone)} missing ({', '.join(gone)})" in text


def test_a_tokenizer_of_another_form_is_read_when_the_caller_says_so(states, published):
    codes, weights = states
    plain = {k: v for k, v in codes.items() if ".attn." not in k}
    text = said(plain, weights)
    assert "level 1, the last of the tokenizer, has no attention" in text
    assert f"{len(codes) - len(plain)} missing (decoder.up.1.attn.0.norm.bias" in text
    found, _ = from_var(plain, weights, attention_levels=0)
    assert found.config.attention_levels == ()
    assert from_var(codes, weights, attention_levels=1, blocks=1)[0].config.blocks == 1
    text = said(codes, weights, attention_levels=2)
    assert "attention_levels is 2, the file has 1: leave it out" in text
    text = said(codes, weights, blocks=2)
    assert "missing (decoder.up.0.block.2.conv1.bias" in text
    slim = r"encoder.*\.(block|attn)\.1\.|decoder.*\.(block|attn)\.2\."
    kept = {k: v for k, v in published[0].items() if not re.search(slim, k)}
    assert from_var(kept, published[1], blocks=1)[0].config.blocks == 1
    pair = tokenizer(attention_levels=()), transformer()
    again = from_var(*to_var(*pair), attention_levels=0)
    equal(again[0].state_dict(), pair[0].state_dict())
    both = to_var(tokenizer(attention_levels=(0, 1)), transformer())
    lost = {k: v for k, v in both[0].items() if not re.search(r"\.0\.attn", k)}
    assert from_var(lost, both[1])[0].config.attention_levels == (1,)  # no trace
    assert "the file has 1: leave" in said(lost, both[1], attention_levels=2)


def test_a_number_of_classes_is_compared(states):
    codes, weights = states
    assert from_var(codes, weights, classes=5)[1].config.classes == 5
    short = without(weights, **{"class_emb.weight": weights["class_emb.weight"][:5]})
    text = said(codes, short, classes=5)
    assert "classes is 5, the file has 4 (class_emb.weight): leave it out, or" in text
    assert from_var(codes, short)[1].config.classes == 4  # leaves no trace
    text = said(codes, weights, classes=1000)
    assert "classes is 1000, the file has 5 (class_emb.weight): leave it out" in text


def test_one_wrong_shape_does_not_make_the_others_wrong(states):
    codes, weights = states
    for key, value in weights.items():
        if key == "lvl_1L" or "blocks.1." in key:
            continue
        wide, deep = tuple(s + 1 for s in value.shape), (*value.shape, 1)
        for size in (wide, deep, (7,))[:: 1 if "blocks" not in key else 2]:
            text = said(codes, without(weights, **{key: torch.zeros(size)}))
            assert key in text or "positions" in text or "heads" in text, (key, size)
            if f"{key}: got" in text and key != "head.weight":
                assert "1 of another shape" in text, (key, size, text)
    for key in sorted(codes)[::9]:
        value = codes[key]
        text = said(without(codes, **{key: torch.zeros(*value.shape, 2)}), weights)
        assert f"1 of another shape ({key}: got" in text, (key, text)


@pytest.mark.parametrize(
    "key, size, text",
    [
        ("class_emb.weight", (0, 128), "1 empty (class_emb.weight)"),
        ("class_emb.weight", (1, 128), "got (1, 128), want (2, 128)"),
        ("head.weight", (0, 128), "1 empty (head.weight)"),
        ("head.weight", (40, 0), "1 empty (head.weight)"),
        ("pos_1LC", (1, 0, 128), "1 empty (pos_1LC)"),
        ("blocks.0.ffn.fc1.weight", (0, 128), "1 empty (blocks.0.ffn.fc1.weight)"),
        ("quantize.embedding.weight", (0, 8), "1 empty (quantize.embedding.weight)"),
        ("quantize.ema_vocab_hit_SV", (), "got (), want (3, 40)"),
        ("quantize.ema_vocab_hit_SV", (9, 41), None),
        ("encoder.conv_in.weight", (0, 3, 3, 3), "1 empty (encoder.conv_in.weight)"),
        ("quantize.quant_resi.qresi_ls.0.weight", (0,), "1 empty"),
    ],
)
def test_empty_and_flat_tensors(states, key, size, text):
    files = [without(s, **{key: torch.zeros(size)}) if key in s else s for s in states]
    if text is None:  # usage counts of other scales, as the reference, are not read
        from_var(*files)
    else:
        assert text in said(*files)


def test_all_tensors_empty(states):
    nothing = [{k: v.new_zeros(0) for k, v in s.items()} for s in states]
    text = said(*nothing)
    assert "empty (" in text and "lvl_1L" in text
    narrow = {k: v[..., :0] for k, v in states[1].items()}
    assert "empty (" in said(states[0], without(narrow, "lvl_1L"), schedule=SIDES)


@pytest.mark.parametrize(
    "levels",
    [
        torch.tensor([[False] + 20 * [True]]),
        torch.zeros(1, 21, dtype=torch.complex64),
        torch.full((1, 21), 2**62),
        torch.tensor([[0] + 19 * [1] + [2**40]]),
        torch.tensor([[0] + 4 * [-1] + 16 * [2]]),
        torch.tensor([[0] + 16 * [1] + 4 * [2]]),
        torch.tensor([[0, 2] + 4 * [1] + 15 * [2]]),
        torch.tensor([[0] + 4 * [2] + 16 * [3]]),
        torch.zeros(0, dtype=torch.int64),
        torch.tensor(0.5),
    ],
    ids=str,
)
def test_levels_that_are_no_schedule(states, levels):
    text = said(states[0], without(states[1], lvl_1L=levels))
    assert "no square maps, coarse to fine" in text and "pass schedule=" in text
    narrow = states[1]["lvl_1L"].to(torch.uint8)
    from_var(states[0], without(states[1], lvl_1L=narrow))


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.zeros(1, 1, 128), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(1, 1, 128).to_sparse(),
        quantised,
        lambda: torch.zeros(1, 1, 128, device="meta"),
        lambda: [0.0],
    ],
)
def test_tensors_that_are_not_plain(states, make):
    text = said(states[0], without(states[1], pos_start=make()))
    assert "it has pos_start; want names with dense tensors" in text
    assert "it has 3; want names" in said({3: ONE} | states[0], states[1])
    kind = without(states[1], pos_start=torch.zeros(1, 1, 128, dtype=torch.complex64))
    assert "1 not floating point (pos_start)" in said(states[0], kind)


def test_surplus_names_can_be_dropped_and_nothing_else(states, pair):
    codes, weights = states
    more = without(weights, surplus=torch.zeros(1))
    assert "1 unexpected (surplus); strict=False drops them" in said(codes, more)
    text = said(without(codes, extra=torch.zeros(1)), more)
    assert "(surplus)" in text and "(extra)" in text
    found = from_var(without(codes, extra=torch.zeros(1)), more, strict=False)
    equal(found[1].state_dict(), pair[1].state_dict())
    for strict in (True, False):
        text = said(codes, without(more, "head.bias"), strict=strict)
        assert "1 missing" in text and "save the model's state_dict again" in text
        assert "strict=False" not in text


def test_other_networks_are_named(states):
    codes, weights = states
    assert "is a tokenizer: swap" in said(weights, codes)
    assert "is a tokenizer: swap" in said(codes, codes)
    assert "is a transformer: swap" in said(weights, weights)
    alien = {"layer.weight": torch.zeros(2, 2)}
    assert "it has layer.weight" in said(codes, alien)
    assert "cannot be told" in said(alien, weights)
    renamed = {f"net.{k}": v for k, v in weights.items()}
    text = said(codes, renamed, strict=False)
    assert "it has net." in text and "take the published file" in text
    flat = without(weights, **{"class_emb.weight": torch.zeros(6)})
    assert "class_emb.weight" in said(codes, flat)


def test_parts_that_were_not_trained_together(states):
    codes, weights = states
    other = to_var(tokenizer(vocab=48), transformer(vocab=48))
    assert "vocab 48, the transformer 40" in said(other[0], weights)
    wide = to_var(tokenizer(code_width=16), transformer(code_width=16))
    assert "code_width 16" in said(wide[0], weights)


def test_a_quantizer_without_phi_is_refused(states):
    codes, weights = states
    bare = {k: v for k, v in codes.items() if "quant_resi" not in k}
    assert "its phi is the identity" in said(bare, weights)
    text = said(without(bare, "quant_conv.bias", extra=ONE), weights)
    assert "its phi is the identity" in text and "1 missing (quant_conv.bias)" in text
    assert "1 unexpected (extra)" in text


@pytest.mark.parametrize(
    "bad, text",
    [
        ({}, "no entries"),
        ({"a": 1}, "it has a"),
        ([1], "holds a list"),
        ({1: torch.zeros(1)}, "it has 1"),
    ],
)
def test_what_is_no_state_dict(states, tmp_path, bad, text):
    torch.save(bad, tmp_path / "odd.pth")
    assert text in said(states[0], tmp_path / "odd.pth")
    assert text in said(tmp_path / "odd.pth", states[1])


# Files


class Trap:
    """Unpickling it would run code and leave a mark."""

    def __reduce__(self):
        return (os.mkdir, ("this-ran",))


@pytest.mark.parametrize("content", ["zip", "legacy", "plain"])
def test_other_objects_are_not_read(states, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path, bad = tmp_path / "trap.pth", dict(states[1], args=Trap())
    if content == "plain":
        path.write_bytes(pickle.dumps({"args": Trap()}, 2))
    else:
        torch.save(bad, path, _use_new_zipfile_serialization=content == "zip")
    text = said(states[0], path)
    assert "can run code" in text and "state_dict alone" in text
    assert ("mkdir" in text) == (content != "plain")  # there nothing is looked at
    assert not (tmp_path / "this-ran").exists()


def test_truncated_files_are_damaged(states, tmp_path):
    whole = tmp_path / "whole.pth"
    torch.save(states[1], whole)
    data = whole.read_bytes()
    for share in range(1, 10):
        path = tmp_path / f"cut-{share}.pth"
        path.write_bytes(data[: len(data) * share // 10])
        assert "damaged, cut short" in said(states[0], path)
    save_file(dict(states[1]), tmp_path / "whole.safetensors")
    data = (tmp_path / "whole.safetensors").read_bytes()
    for share in range(1, 10):
        path = tmp_path / f"cut-{share}.safetensors"
        path.write_bytes(data[: len(data) * share // 10])
        assert "damaged" in said(states[0], path)


def test_a_hole_in_a_file_is_found_by_its_checksum(states, pair, tmp_path):
    path = tmp_path / "whole.pth"
    torch.save(states[1], path)
    data = path.read_bytes()
    bytes_of = states[1]["blocks.0.ffn.fc1.weight"].numpy().tobytes()
    start = data.index(bytes_of)
    for size in (4, 4096, len(bytes_of)):
        hole = tmp_path / f"hole-{size}.pth"
        hole.write_bytes(data[:start] + bytes(size) + data[start + size :])
        assert torch.load(hole, weights_only=True).keys() == states[1].keys()
        text = said(states[0], hole)
        assert f"{hole} is damaged: its record whole/data/" in text, text
        assert "fails the checksum; copy it again" in text
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(states[1], path)
    finally:
        torch.serialization.set_crc32_options(True)
    equal(from_var(states[0], path)[1].state_dict(), pair[1].state_dict())


@pytest.mark.parametrize("part", [0, 1])
def test_a_file_whose_half_did_not_arrive(states, tmp_path, part):
    path = tmp_path / "part.safetensors"
    save_file(dict(states[part]), path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    files = list(states)
    files[part] = path
    assert "layers with only zeros (" in said(*files)


def test_fresh_networks_and_layers_at_zero_have_no_holes(states):
    torch.manual_seed(0)
    shape = tokenizer().config, transformer(shared_adaln=True).config
    fresh = to_var(Tokenizer(shape[0]), ScaleTransformer(shape[1]))
    from_var(*fresh)
    gates = r".*(ada_lin\.1|ada_gss|proj|fc2|conv2|proj_out|head|bias)(\.weight)?"
    still = [
        {k: v * 0 if re.fullmatch(gates, k) else v for k, v in state.items()}
        for state in states
    ]
    assert sum(bool((v == 0).all()) for v in still[1].values()) > 8
    from_var(*still)
    one = without(states[1], **{"blocks.0.ffn.fc1.weight": torch.zeros(512, 128)})
    from_var(states[0], one)  # one of five: somebody took it out


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content, text",
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b"<?xml version='1.0'?><Error/>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"\x00\x01\x02garbage" * 40, "damaged"),
        (b"{'json': 1}", "is JSON text"),
        (b'[{"error": "gated"}]', "is JSON text"),
        (b"\xef\xbb\xbf<!DOCTYPE html><html>", "a web page"),
        ("\ufeff<!DOCTYPE html><html>".encode("utf-16"), "a web page"),
        ("\ufeff<html>".encode("utf-16-be"), "a web page"),
        (b"Access to model is restricted", "text, not tensors: it begins with 'access"),
        (gzip.compress(b"weights"), "is a gzip archive: unpack it first"),
        (bz2.compress(b"weights"), "is a bz2 archive: unpack it first"),
        (b"\0" * 1000, "is empty, or only zeros"),
    ],
)
def test_what_only_looks_like_a_checkpoint(states, tmp_path, suffix, content, text):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    message = said(path, states[1])
    assert text in message and str(path) in message


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_without_torch(states, tmp_path, protocol):
    path = tmp_path / "var.pth"
    path.write_bytes(pickle.dumps({"pos_1LC": [0.0]}, protocol))
    text = said(states[0], path)
    assert "is a pickle that torch.save did not write" in text
    assert "torch.save the state_dict alone" in text


def test_archives_of_something_else(states, tmp_path):
    note = tmp_path / "note.txt"
    note.write_text("weights are elsewhere")
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.write(note, "folder/note.txt")
    text = said(states[0], tmp_path / "a.pth")
    assert "a zip archive with folder/note.txt" in text and "unpack it first" in text
    with tarfile.open(tmp_path / "b.pth", "w") as archive:
        archive.add(note, "note.txt")
    assert "is a tar archive: unpack it first" in said(states[0], tmp_path / "b.pth")
    with zipfile.ZipFile(tmp_path / "c.pth", "w") as archive:
        archive.writestr("c/data.pkl", b"")
        archive.writestr("c/constants.pkl", b"")
    assert "a TorchScript archive" in said(states[0], tmp_path / "c.pth")


def test_a_long_reason_ends_at_a_word(tmp_path, monkeypatch):
    reason = " ".join(f"word{i:03d}" for i in range(100))

    def fail(*_, **__):
        raise RuntimeError(reason)

    torch.save({"a": ONE}, tmp_path / "a.pth")
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(CheckpointError) as caught:
        read_file(tmp_path / "a.pth")
    assert re.search(
        r"\(word000 .* word\d{3} \.\.\.\): copy it again", str(caught.value)
    )


def test_renamed_files(states, tmp_path):
    torch.save(states[1], tmp_path / "var.safetensors")
    assert "is a pickle" in said(states[0], tmp_path / "var.safetensors")
    save_file(dict(states[1]), tmp_path / "var.pth")
    text = said(states[0], tmp_path / "var.pth")
    assert "safetensors file under another name" in text and "var.safetensors" in text


def test_missing_files_are_named(states, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        from_var(tmp_path / "nowhere.pth", states[1])
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path)
    assert read_state(states[0], "tokenizer").keys() == states[0].keys()


class PlainPath(os.PathLike):
    """A path of another library."""

    def __fspath__(self):
        return "gone.pth"


def test_a_source_is_a_path_or_a_state_dict(states, pair):
    for bad in (pair[0], None, [1], b"var.pth"):
        kind = type(bad).__name__
        with pytest.raises(ValueError, match=rf"tokenizer= must be a .*, got {kind};"):
            from_var(bad, states[1])
        with pytest.raises(ValueError, match=rf"transformer= must be .*, got {kind};"):
            from_var(states[0], bad)
    with pytest.raises(FileNotFoundError, match=r"no file gone\.pth"):
        from_var(PlainPath(), states[1])


def test_messages_say_which_file(states, tmp_path):
    codes, weights = states
    vae, var = tmp_path / "vae.pth", tmp_path / "var.pth"
    torch.save(without(codes, "quant_conv.bias"), vae)
    torch.save(without(weights, "lvl_1L"), var)
    text = said(vae, var)
    assert f"in the transformer file {var}: the file has no lvl_1L, so" in text
    assert f"; in the tokenizer file {vae}: the tokenizer does not fit: 1 miss" in text
    assert str(tmp_path) not in said(*(without(s, "lvl_1L", more=ONE) for s in states))
    text = said(codes, var)
    assert text.startswith(f"in the transformer file {var}: ") and "vae" not in text
    for path in (vae, var):
        path.write_bytes(b"<html>")
    text = said(vae, var)
    assert f"{vae} is a web page" in text and f"; {var} is a web page" in text
    assert said(vae, vae).count("web page") == 1
    with pytest.raises(FileNotFoundError, match=r"no file .*a\.pth; no file .*b\.pth"):
        from_var(tmp_path / "a.pth", str(tmp_path / "b.pth"))


# The way back refuses what the layout cannot say


@pytest.mark.parametrize(
    "shape, network, text",
    [
        ({"norm_groups": 16}, {}, "norm_groups: 16"),
        ({"decoder_base": 64}, {}, "decoder widths"),
        ({}, {"mask": "markov", "groups": (1, 2)}, "groups"),
        ({}, {"mask": "markov", "mask_blocks": 1}, "mask_blocks: 1"),
        ({"sides": ScaleSchedule((1, 2, 4), (0, 0, 0))}, {}, "phi"),
        ({"vocab": 48}, {}, "vocab 48"),
        ({}, {"sides": ScaleSchedule((1, 4))}, "has schedule .*1, 2, 4.* the transf"),
    ],
)
def test_what_the_layout_cannot_say(shape, network, text):
    with pytest.raises(ValueError, match=text):
        to_var(tokenizer(**shape), transformer(**network))


def test_an_unknown_form_of_phi_is_refused(pair):
    for form in ("one", "none", "each"):  # four convolutions for three scales
        with pytest.raises(ValueError, match=r"phi must be one of \['shared'\], for 4"):
            to_var(*pair, phi=form)
    few = ScaleSchedule((1, 2, 3, 4, 5))
    with pytest.raises(ValueError, match="for 4 convolutions and 5 scales, got 'each'"):
        to_var(tokenizer(sides=few), transformer(few), phi="each")
    check_expressible(pair[0].config, pair[1].config)


@pytest.mark.parametrize("heads", [0, 4.0, True, "4"])
def test_heads_are_a_whole_number_that_fits(heads):
    state = {"blocks.0.attn.scale_mul_1H11": torch.zeros(1, 4, 1, 1)}
    with pytest.raises(CheckpointError, match="heads"):
        heads_of(state, depth=2, width=16, given=heads)
