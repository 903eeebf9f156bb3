"""The transformer: two ways through it, its starting weights, its bad inputs."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from srdd.attention import MASKS, KeyValueCache, attend, dense_mask
from srdd.files import CheckpointError, config_from_dict, config_to_dict
from srdd.scales import VAR_512, ScaleSchedule
from srdd.transformer import (
    MLP,
    Block,
    ScaleTransformer,
    SelfAttention,
    TransformerConfig,
    check_inputs,
    check_labels,
    drop_rates,
    preset,
    split_vectors,
)

SCHEDULE = ScaleSchedule((1, 2, 3, 5))
TINY = TransformerConfig(
    depth=2, width=32, heads=2, schedule=SCHEDULE, vocab=24, code_width=8, classes=4
)
LABELS = torch.tensor([0, 3, 1])
by_mask = pytest.mark.parametrize("mask", MASKS)


def lively(seed=0, **changes):
    """A model whose every weight is of ordinary size, in evaluation mode."""
    torch.manual_seed(seed)
    model = ScaleTransformer(replace(TINY, **changes))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "modulation" in name or name.startswith("head."):
                weight.normal_(std=0.3)
            elif "log_scale" in name:
                weight.uniform_(0, 6)  # some below, some above the clamp
            elif name.endswith("bias"):
                weight.normal_(std=0.2)
    return model.eval()


def given_inputs(seed=1, schedule=SCHEDULE):
    generator = torch.Generator().manual_seed(seed)
    rows = schedule.length - schedule.starts[1]
    return torch.randn(3, rows, TINY.code_width, generator=generator)


@torch.no_grad()
def one_by_one(model, inputs, labels):
    """Logits of all scales in the order of sampling."""
    schedule = model.config.schedule
    cache = KeyValueCache(schedule, model.config.mask)
    condition = model.condition(labels)
    rows = torch.cat((inputs[:, : schedule.starts[1]], inputs), dim=1)
    slices = enumerate(schedule.slices())
    parts = [model.run_scale(k, rows[:, s], condition, cache=cache) for k, s in slices]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("sides", [(1, 2, 3, 5), (2, 3, 4)])
@pytest.mark.parametrize("shared", [False, True])
@by_mask
def test_packed_forward_equals_scale_by_scale(mask, shared, sides):
    schedule = ScaleSchedule(sides)
    model = lively(mask=mask, shared_adaln=shared, schedule=schedule)
    inputs = given_inputs(schedule=schedule)
    with torch.no_grad():
        whole = model(inputs, LABELS)
    parts = one_by_one(model, inputs, LABELS)
    assert whole.std() > 0.1
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=2e-5)


@by_mask
def test_backends_agree_in_logits_and_in_every_gradient(mask):
    model, results = lively(mask=mask).double(), []
    inputs = given_inputs().double()
    for backend in ("dense", "packed"):
        model.zero_grad()
        hidden = model(inputs, LABELS, backend)
        hidden.square().mean().backward()
        gradients = [weight.grad.clone() for weight in model.parameters()]
        results.append((hidden.detach(), gradients))
    (logits, slopes), (other_logits, other_slopes) = results
    torch.testing.assert_close(logits, other_logits, rtol=0, atol=1e-5)  # float32 head
    for a, b in zip(slopes, other_slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("qk_norm", [True, False])
def test_layers_equal_the_reference_of_the_chapter(reference, qk_norm):
    written = reference("06_transformer")
    torch.manual_seed(0)
    block = Block(replace(TINY, qk_norm=qk_norm), drop=0.0).double()
    x = torch.randn(2, SCHEDULE.length, 32, dtype=torch.float64)
    six = torch.randn(6, 2, 1, 32, dtype=torch.float64)
    gate1, gate2, scale1, scale2, shift1, shift2 = six
    for mask in MASKS:
        allowed = dense_mask(SCHEDULE, mask)

        def mix(q, k, v, factor, mask=mask):
            return attend(q, k, v, SCHEDULE, mask, "packed", factor)

        def branch(y, allowed=allowed):
            return written["attention_reference"](block.attention, y, allowed)

        want = written["branch_reference"](x, gate1, scale1, shift1, branch)
        want = written["branch_reference"](want, gate2, scale2, shift2, block.mlp)
        got = block(x, six, mix)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11)


def test_temperature_is_clamped_at_one_hundred():
    layer = SelfAttention(TINY)
    factors = []

    def spy(q, k, v, factor):
        factors.append((q.norm(dim=-1).max().item(), k.norm(dim=-1).max().item()))
        return v

    with torch.no_grad():
        for value in (math.log(4), 9.0):
            layer.log_scale.fill_(value)
            layer(torch.randn(1, 5, 32), spy)
    assert factors[0] == pytest.approx((4, 1), rel=1e-5)
    assert factors[1] == pytest.approx((100, 1), rel=1e-5)


@torch.no_grad()
def test_markov_logits_of_a_scale_depend_on_its_own_inputs_only():
    model, inputs = lively(), given_inputs()
    base = model(inputs, LABELS)
    for j, own in enumerate(SCHEDULE.slices()[1:], start=1):
        other = inputs.clone()
        other[:, own.start - 1 : own.stop - 1] += 1
        moved = (model(other, LABELS) - base).abs()
        for k, part in enumerate(SCHEDULE.split(moved)):
            assert (part.amax(-1).min() > 0) if k == j else (part.max() == 0.0)


@torch.no_grad()
def test_causal_logits_answer_to_all_coarser_scales_and_to_no_finer_one():
    model, inputs = lively(mask="causal"), given_inputs()
    base = model(inputs, LABELS)
    for j, own in enumerate(SCHEDULE.slices()[1:], start=1):
        other = inputs.clone()
        other[:, own.start - 1 : own.stop - 1] += 1
        moved = (model(other, LABELS) - base).abs()
        for k, part in enumerate(SCHEDULE.split(moved)):
            assert (part.max() > 0) if k >= j else (part.max() == 0.0)


@torch.no_grad()
@by_mask
def test_class_reaches_every_token(mask):
    model, inputs = lively(mask=mask), given_inputs()
    change = model(inputs, LABELS) - model(inputs, (LABELS + 1) % 4)
    assert change.abs().amax(-1).min() > 1e-4
    null = torch.full_like(LABELS, model.null_label)
    assert model.null_label == 4
    free = model(inputs, null)
    assert (free - model(inputs, LABELS)).abs().amax(-1).min() > 1e-4
    assert torch.equal(free, model(inputs, null))  # nothing is drawn in eval mode


@torch.no_grad()
def test_condition_is_all_that_the_labels_do():
    model = lively()
    state = torch.randn(3, 8, 5, 5)
    condition = model.condition(LABELS)
    assert condition.start.shape == (3, 1, 32)
    for *vectors, bias, factors in condition.blocks:
        assert [x.shape for x in vectors] == [(3, 1, 32)] * 6
        assert bias.shape == (96,) and factors.shape == (2, 1, *factors.shape[2:])
    assert len(condition.blocks) == 2
    assert condition.head.shape == (2, 3, 1, 32)
    for k in range(len(SCHEDULE)):
        by_labels = model.scale_logits(k, state, LABELS)
        assert torch.equal(by_labels, model.scale_logits(k, state, condition))
        assert by_labels.shape == (3, SCHEDULE.counts[k], 24)


@torch.no_grad()
def test_head_takes_the_scale_first_and_the_shift_second():
    model, x = lively(), torch.randn(3, 5, 32)
    both = torch.randn(2, 3, 1, 32)
    condition = replace(model.condition(LABELS), head=both)
    want = model.head(F.layer_norm(x, (32,), eps=1e-6) * (1 + both[0]) + both[1])
    torch.testing.assert_close(model.head_logits(x, condition), want)


@torch.no_grad()
def test_the_condition_of_the_first_images_is_a_part_of_the_condition_of_all():
    model, state = lively(), torch.randn(3, 8, 5, 5)
    part, alone = model.condition(LABELS).narrow(2), model.condition(LABELS[:2])
    torch.testing.assert_close(part.head, alone.head)
    got, want = (model.scale_logits(2, state[:2], c) for c in (part, alone))
    torch.testing.assert_close(got, want)


@torch.no_grad()
def test_mlp_uses_the_tanh_form_of_gelu():
    mlp, x = MLP(4, 8).double(), 2 * torch.randn(50, 4, dtype=torch.float64)
    y = mlp.fc1(x)
    inner = math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)
    want = mlp.fc2(0.5 * y * (1 + inner.tanh()))
    torch.testing.assert_close(mlp(x), want, rtol=0, atol=1e-12)


@torch.no_grad()
def test_images_of_a_batch_do_not_meet():
    model, inputs = lively(mask="causal"), given_inputs()
    whole = model(inputs, LABELS)
    for i in range(3):
        alone = model(inputs[i : i + 1], LABELS[i : i + 1])
        torch.testing.assert_close(alone, whole[i : i + 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_every_block_starts_as_nearly_the_identity(shared):
    torch.manual_seed(0)
    model = ScaleTransformer(replace(TINY, depth=6, shared_adaln=shared))
    changes = []

    def watch(_, given, out):
        changes.append(((out - given[0]).norm() / given[0].norm()).item())

    for block in model.blocks:
        block.register_forward_hook(watch)
    tokens = torch.randint(24, (3, SCHEDULE.length))
    loss = F.cross_entropy(model(given_inputs(), LABELS).transpose(1, 2), tokens)
    assert len(changes) == 6 and max(changes) < (3e-2 if shared else 1e-3)
    assert loss.item() == pytest.approx(math.log(24), abs=0.01)
    loss.backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_starting_weights_have_the_published_spread():
    torch.manual_seed(0)
    model = ScaleTransformer(replace(TINY, width=128, depth=2))
    std, block = math.sqrt(1 / (3 * 128)), model.blocks[1]
    wanted = [
        (block.attention.qkv.weight, std),
        (block.attention.proj.weight, std / 2),
        (block.mlp.fc1.weight, std),
        (block.mlp.fc2.weight, std / 2),
        (block.modulation.weight[:256], 1e-3 * std),
        (block.modulation.weight[256:], 0.5 * std),
        (model.head.weight, 0.02 * std),
        (model.head_modulation.weight, 0.5 * std),
        (model.position_embed, std),
    ]
    for weight, want in wanted:
        assert weight.std().item() == pytest.approx(want, rel=0.08)
    assert block.attention.log_scale.detach().exp().unique().item() == pytest.approx(4)
    biases = [w for n, w in model.named_parameters() if n.endswith("bias")]
    assert all((bias == 0).all() for bias in biases)


def test_drop_path_keeps_the_expectation_and_rests_in_evaluation():
    torch.manual_seed(0)
    block, branch = Block(TINY, drop=0.25), torch.ones(20_000, 2, 3)
    dropped = block.train().skip(branch)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (dropped == dropped[:, :1, :1]).all()  # a whole image at a time
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert block.eval().skip(branch) is branch
    three, one = (replace(TINY, depth=d, drop_path=0.2) for d in (3, 1))
    assert drop_rates(three) == pytest.approx([0, 0.1, 0.2])
    assert drop_rates(one) == [0]


def test_head_gives_float32_under_autocast():
    model, inputs = lively(), given_inputs()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = model(inputs, LABELS)
        parts = one_by_one(model, inputs, LABELS)
    assert half.dtype == parts.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(half, model(inputs, LABELS), rtol=0.1, atol=0.3)


@pytest.mark.parametrize(
    "name, want",
    [
        ("d16", 310_283_520),
        ("d20", 600_917_136),
        ("d24", 1_033_399_360),
        ("d30", 2_010_020_356),
        ("d36", 2_350_299_664 + (VAR_512.length - 680) * 2304),
    ],
)
def test_parameter_counts_are_the_published_ones(name, want):
    with torch.device("meta"):
        model = ScaleTransformer(preset(name))
    assert sum(weight.numel() for weight in model.parameters()) == want
    assert not list(model.buffers())


def test_presets_are_one_family():
    for depth in range(6, 37, 2):
        config = preset(f"d{depth}")
        assert (config.width, config.heads) == (64 * depth, depth)
        assert config.shared_adaln == (depth == 36)
    assert preset("d8", mask="band", classes=3).mask == "band"
    for name in ("d5", "d38", "16", ""):
        with pytest.raises(ValueError, match="name must be one of"):
            preset(name)
    with pytest.raises(TypeError, match="colour"):
        preset("d8", colour="red")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"depth": 0}, "every size"),
        ({"vocab": -1}, "every size"),
        ({"classes": 0}, "every size"),
        ({"heads": 5}, "width 32 is no multiple of heads 5"),
        ({"mask": "full"}, "mask must be one of .*got 'full'"),
        ({"drop_path": 1.0}, "drop_path must be in"),
        ({"drop_path": -0.1}, "drop_path must be in"),
        ({"drop_path": float("nan")}, "drop_path must be in"),
        ({"mlp_ratio": 0.0}, "mlp_ratio"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio"),
        ({"groups": (1, 2)}, "groups must count all 4 scales"),
        ({"groups": (4, 0)}, "groups must count all 4 scales"),
        ({"groups": (1, 2, 1), "mask": "causal"}, "groups .* mask 'causal'"),
    ],
)
def test_config_is_checked(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)


def test_scales_of_one_pass_are_the_scales_run_alone():
    for groups, seen in (((1, 2, 1), (0, 1, 1, 3)), ((3, 1), (0, 0, 0, 3))):
        model = lively(groups=groups)
        assert model.config.seen == seen
        state = torch.randn(3, 8, 5, 5)
        first = seen.index(max(seen, key=seen.count))
        count = seen.count(first)
        with torch.no_grad():
            packed = model.scale_logits(first, state, LABELS, scales=count)
            alone = [model.scale_logits(first + i, state, LABELS) for i in range(count)]
        torch.testing.assert_close(packed, torch.cat(alone, 1), rtol=0, atol=1e-5)


def test_config_survives_json():
    config = replace(TINY, mask="causal", schedule=ScaleSchedule((1, 3), (0, 2)))
    text = json.dumps(config_to_dict(config))
    assert config_from_dict(TransformerConfig, json.loads(text)) == config


@pytest.mark.parametrize("shared", [False, True])
def test_saved_model_comes_back(tmp_path, shared):
    model, inputs = lively(mask="causal", shared_adaln=shared), given_inputs()
    model.save_pretrained(tmp_path / "model")
    again = ScaleTransformer.from_pretrained(tmp_path / "model")
    assert again.config == model.config and not again.training
    with torch.no_grad():
        assert torch.equal(again(inputs, LABELS), model(inputs, LABELS))


def test_damaged_weights_are_refused(tmp_path):
    lively().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        ScaleTransformer.from_pretrained(tmp_path)


@pytest.mark.parametrize("shape", [(3, 39, 8), (3, 38, 7), (38, 8), (3, 0, 8)])
def test_inputs_of_another_shape_are_refused(shape):
    model = lively()
    with pytest.raises(ValueError, match=r"inputs has shape .*want \(b, 38, 8\)"):
        model(torch.zeros(shape), torch.zeros(shape[0], dtype=torch.int64))
    check_inputs(torch.zeros(3, 38, 8), TINY, first=1)
    assert model(given_inputs(), LABELS).shape == (3, 39, 24)  # it works afterwards


@pytest.mark.parametrize("mask", ["causal", "band"])
def test_an_exception_leaves_nothing_behind(mask):
    model, inputs = lively(mask=mask), given_inputs()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    want = one_by_one(model, inputs, LABELS)
    with pytest.raises(ValueError, match="needs a cache at scale 2"):
        model.scale_logits(2, torch.zeros(3, 8, 5, 5), LABELS)
    with pytest.raises(RuntimeError):
        cache = KeyValueCache(SCHEDULE, mask)
        model.run_scale(0, inputs[:, :1], LABELS, cache=cache)
        model.run_scale(1, inputs[:2, :4], LABELS[:2], cache=cache)  # fewer images
    assert not model.training
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert torch.equal(one_by_one(model, inputs, LABELS), want)


@pytest.mark.parametrize(
    "labels, words",
    [
        (torch.tensor([4]), "want ids in 0..3"),
        (torch.tensor([0, -1]), r"labels has \[-1\]"),
        (torch.tensor([0.0]), "want .b,. int64"),
        (torch.tensor([[0]]), "want .b,. int64"),
        (torch.tensor([0], dtype=torch.int32), "want .b,. int64"),
    ],
)
def test_labels_are_checked(labels, words):
    with pytest.raises(ValueError, match=words):
        check_labels(labels, classes=4)
    check_labels(torch.tensor([0, 3]), classes=4)


@pytest.mark.parametrize(
    "labels, words",
    [
        ([0, 1, 2], "labels must be a tensor, got list"),
        (torch.tensor([0, 99, 1]), r"labels has \[99\], want ids in 0..3.* pass 4"),
        (torch.tensor([0, -1, 1]), r"labels has \[-1\]"),
        (torch.tensor([0.0, 1, 2]), "want .b,. int64"),
    ],
)
def test_the_training_pass_checks_labels_and_knows_the_null_label(labels, words):
    model, inputs = lively(), given_inputs()
    with pytest.raises(ValueError, match=words):
        model(inputs, labels)
    with pytest.raises(ValueError, match="inputs must be a tensor, got list"):
        model(inputs.tolist(), LABELS)
    assert model(inputs, torch.tensor([0, model.null_label, 3])).isfinite().all()


def test_no_id_outside_of_a_cpu_is_looked_at_in_training():
    far = torch.tensor([0, 99], device="meta")  # has no values: looking would raise
    check_labels(far, classes=4, null=4)
    with pytest.raises(NotImplementedError):
        check_labels(far, classes=4)


def test_split_vectors_keeps_vectors_whole():
    flat = torch.arange(24.0).view(2, 1, 12)
    parts = split_vectors(flat, 3)
    assert parts.shape == (3, 2, 1, 4)
    assert torch.equal(torch.cat(list(parts), dim=-1), flat)
