"""Public checkpoints: the layout key by key, and every way a file can be wrong."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from srdd.checkpoints import (
    BUFFERS,
    KEY_MAP,
    buffer_shapes,
    check_expressible,
    from_var,
    heads_of,
    key_names,
    phi_form,
    phi_keys,
    read_file,
    read_state,
    to_var,
    tokenizer_shape,
    transformer_shape,
)
from srdd.files import CheckpointError
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
    told = {k: torch.empty(s, device="meta") for k, s in want.items() if k != "lvl_1L"}
    sides = VAR_512 if name == "d36" else VAR_256
    assert transformer_shape(told, "causal", sides) == config


def test_the_published_tokenizer_is_told_by_its_shapes():
    layout = json.loads((GOLDEN / "vae_layout.json").read_text())
    told = {k: torch.empty(s, device="meta") for k, s in layout.items()}
    assert tokenizer_shape(told, VAR_256) == TokenizerConfig()


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


@pytest.mark.parametrize("mask", ["causal", "markov", "band"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_round_trip_is_bit_equal(mask, shared, qk_norm):
    model = transformer(mask=mask, shared_adaln=shared, qk_norm=qk_norm)
    pair = tokenizer(), model
    states = to_var(*pair)
    again = from_var(*states, mask=mask, heads=4)
    for one, other in zip(again, pair, strict=True):
        equal(one.state_dict(), other.state_dict())
        assert not one.training
    assert again[1].config.heads == 4 and again[1].config.mask == mask
    for one, other in zip(to_var(*again), states, strict=True):
        equal(one, other)


@pytest.mark.parametrize("form, convs", [("one", 1), ("shared", 3), ("each", 3)])
def test_three_forms_of_phi(form, convs):
    given = tokenizer(convs)
    states = to_var(given, transformer(), phi=form)
    assert phi_form(states[0]) == (form, convs)
    assert phi_keys(form, convs).keys() <= states[0].keys()
    found, _ = from_var(*states)
    equal(found.state_dict(), given.state_dict())


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


def test_a_published_length_is_offered_as_a_hint():
    shape = LAYOUTS["var_d16_256"]
    told = {k: torch.empty(s, device="meta") for k, (s, _, _) in shape.items()}
    with pytest.raises(CheckpointError, match=r"published \(1, 2, 3, 4, 5, 6, 8"):
        transformer_shape(without(told, "lvl_1L"))


def test_heads_are_asked_for_and_must_fit(states):
    codes, weights = states
    assert "the file has 4" in said(codes, weights, heads=2)
    odd = to_var(tokenizer(), transformer(width=96, heads=3, qk_norm=False))
    assert "pass heads=" in said(*odd)
    assert from_var(*odd, heads=3)[1].config.heads == 3
    assert "must divide the width 96" in said(*odd, heads=5)
    ruled = to_var(tokenizer(), transformer(heads=2, qk_norm=False))
    assert from_var(*ruled)[1].config.heads == 2


def test_an_unknown_mask_is_refused(states):
    with pytest.raises(ValueError, match="mask must be one of"):
        from_var(*states, mask="full")


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


def test_each_missing_name_is_named(states):
    codes, weights = states
    derived = {"lvl_1L", "attn_bias_for_masking"}
    told = ("zero_k_bias", "scale_mul")  # derived, or without it a model has none
    for key in weights.keys() - derived:
        if not any(part in key for part in told):
            assert key in said(codes, without(weights, key)), key
    for key in sorted(codes.keys() - {"quantize.ema_vocab_hit_SV"})[::6]:
        if "attn.0.qkv.weight" not in key:  # without it, no attention is expected
            text = said(without(codes, key), weights)
            assert key in text or "levels have widths" in text, key


def test_surplus_names_can_be_dropped_and_nothing_else(states, pair):
    codes, weights = states
    more = without(weights, surplus=torch.zeros(1))
    assert "strict=False" in said(codes, more)
    found = from_var(without(codes, extra=torch.zeros(1)), more, strict=False)
    equal(found[1].state_dict(), pair[1].state_dict())
    text = said(codes, without(more, "head.bias"), strict=False)
    assert "1 missing" in text and "save the model's state_dict again" in text


def test_other_networks_are_named(states):
    codes, weights = states
    assert "is a tokenizer: swap" in said(weights, codes)
    assert "is a tokenizer: swap" in said(codes, codes)
    assert "is a transformer: swap" in said(weights, weights)
    alien = {"layer.weight": torch.zeros(2, 2)}
    assert "it has layer.weight" in said(codes, alien)
    assert "cannot be told" in said(alien, weights)
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


@pytest.mark.parametrize(
    "bad, text",
    [({}, "no entries"), ({"a": 1}, "it has a"), ([1], "holds a list")],
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


@pytest.mark.parametrize("content", ["zip", "plain"])
def test_other_objects_are_not_read(states, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path, bad = tmp_path / "trap.pth", dict(states[1], args=Trap())
    if content == "zip":
        torch.save(bad, path)
    else:
        path.write_bytes(pickle.dumps({"args": Trap()}, 2))
    text = said(states[0], path)
    assert "can run code" in text and "mkdir" in text and "state_dict alone" in text
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
        (b"{'json': 1}", "damaged"),
    ],
)
def test_what_only_looks_like_a_checkpoint(states, tmp_path, suffix, content, text):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    message = said(path, states[1])
    assert text in message and str(path) in message


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
    ],
)
def test_what_the_layout_cannot_say(shape, network, text):
    with pytest.raises(ValueError, match=text):
        to_var(tokenizer(**shape), transformer(**network))


def test_an_unknown_form_of_phi_is_refused(pair):
    for form in ("one", "none"):
        with pytest.raises(ValueError, match="phi must be"):
            to_var(*pair, phi=form)
    check_expressible(pair[0].config, pair[1].config)


@pytest.mark.parametrize("heads", [0, 4.0, True, "4"])
def test_heads_are_a_whole_number_that_fits(heads):
    state = {"blocks.0.attn.scale_mul_1H11": torch.zeros(1, 4, 1, 1)}
    with pytest.raises(CheckpointError, match="heads"):
        heads_of(state, depth=2, width=16, given=heads)
