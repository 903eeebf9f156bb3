"""Attention over scales: three masks, three backends, one cache."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from srdd import attention
from srdd.attention import (
    BACKENDS,
    MASKS,
    KeyValueCache,
    Linear,
    attend,
    attend_keys,
    dense_mask,
    key_start,
    of_length,
    project,
)
from srdd.scales import SHORT_256, VAR_256, VAR_512, ScaleSchedule

SIDES = [(1,), (1, 2), (1, 3, 5), (2, 3, 4, 6)]
CPU_BACKENDS = [name for name in BACKENDS if name != "flex"]
by_mask = pytest.mark.parametrize("mask", MASKS)
by_sides = pytest.mark.parametrize("sides", SIDES, ids=str)


@pytest.fixture(scope="module")
def attend_reference(reference):
    """The definition, from the chapter."""
    return reference("05_attention")["attend_reference"]


def problem(sides, device="cpu", width=8, dtype=torch.float64):
    """Random q, k, v of two images and two heads, as one leaf tensor."""
    generator = torch.Generator().manual_seed(sum(sides))
    shape = (3, 2, 2, ScaleSchedule(sides).length, width)
    qkv = torch.randn(shape, generator=generator, dtype=dtype).to(device)
    return qkv.requires_grad_()


def value_and_gradients(run, qkv):
    out = run(*qkv)
    (gradients,) = torch.autograd.grad(out.square().sum(), qkv)
    return out.detach(), gradients


def allowed(mask, query, key):
    """The rule itself, for two scales."""
    reach = {"markov": 0, "band": 1, "causal": query}[mask]
    return query - reach <= key <= query


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("scale", [None, 0.3])
@by_mask
@by_sides
def test_backend_equals_the_definition(
    attend_reference, device, sides, mask, backend, scale
):
    schedule, qkv = ScaleSchedule(sides), problem(sides, device)
    want = value_and_gradients(
        lambda q, k, v: attend_reference(q, k, v, sides, mask, scale), qkv
    )
    got = value_and_gradients(
        lambda q, k, v: attend(q, k, v, schedule, mask, backend, scale), qkv
    )
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)  # float64: rounding only


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flex runs on CUDA only")
@by_mask
def test_flex_equals_packed_in_value_and_gradient(mask):
    schedule, width = VAR_256, 64
    qkv = problem(schedule.sides, "cuda", width, torch.float32)
    runs = [
        value_and_gradients(
            lambda q, k, v, b=backend: attend(q, k, v, schedule, mask, b), qkv
        )
        for backend in ("flex", "packed")
    ]
    for a, b in zip(*runs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=5e-3)  # TF32 products


@by_mask
@by_sides
def test_dense_mask_is_the_rule_about_scales(sides, mask):
    schedule = ScaleSchedule(sides)
    levels = schedule.levels().tolist()
    want = torch.tensor([[allowed(mask, i, j) for j in levels] for i in levels])
    assert torch.equal(dense_mask(schedule, mask), want)


@by_mask
@by_sides
def test_perturbing_a_hidden_scale_changes_nothing_at_all(sides, mask):
    schedule, qkv = ScaleSchedule(sides), problem(sides, dtype=torch.float32).detach()
    base = attend(*qkv, schedule, mask)
    for j, changed in enumerate(schedule.slices()):
        other = qkv.clone()
        other[:, :, :, changed] += 1
        moved = attend(*other, schedule, mask) - base
        for i, rows in enumerate(schedule.slices()):
            change = moved[:, :, rows].abs().max().item()
            if allowed(mask, i, j):
                assert change > 1e-3
            else:
                assert change == 0.0


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_band_reaches_one_scale_further_per_layer(layers):
    schedule = ScaleSchedule((1, 2, 3, 4, 5))
    reached = dense_mask(schedule, "band").double()
    whole = torch.linalg.matrix_power(reached, layers) > 0
    levels = schedule.levels()
    gap = levels[:, None] - levels[None, :]
    assert torch.equal(whole, (gap >= 0) & (gap <= layers))
    markov = dense_mask(schedule, "markov").double()
    assert torch.equal(torch.linalg.matrix_power(markov, layers) > 0, gap == 0)


@pytest.mark.parametrize(
    "schedule, markov, causal",
    [
        (VAR_256, 110_468, 286_434),
        (SHORT_256, 98_900, 186_738),
        (VAR_512, 1_522_100, 3_269_850),
    ],
)
def test_pair_counts_of_the_published_schedules(schedule, markov, causal):
    def pairs(mask):
        runs = zip(schedule.slices(), key_start(schedule, mask), strict=True)
        return sum((own.stop - own.start) * (own.stop - first) for own, first in runs)

    assert (pairs("markov"), pairs("causal")) == (markov, causal)
    assert pairs("band") < pairs("causal")


def test_five_tokens_on_paper():
    schedule = ScaleSchedule((1, 2))
    value = torch.tensor([10.0, 1, 2, 3, 4]).view(1, 1, 5, 1)
    key = torch.tensor([4.0, 1, 1, 1, 1]).log().view(1, 1, 5, 1)
    query = torch.ones_like(value)
    wanted = {"markov": 2.5, "causal": 6.25, "band": 6.25}
    for mask, want in wanted.items():
        for backend in CPU_BACKENDS:
            out = attend(query, key, value, schedule, mask, backend).flatten()
            torch.testing.assert_close(out, torch.tensor([10.0, *[want] * 4]))


@pytest.mark.parametrize("scale", [None, 0.2])
def test_unmasked_attention_is_the_same_with_and_without_gradients(scale):
    q, k, v = torch.randn(3, 2, 2, 5, 4, dtype=torch.float64)
    k, v = torch.cat((k, k), 2), torch.cat((v, -v), 2)
    want = F.scaled_dot_product_attention(q, k, v, scale=scale)
    torch.testing.assert_close(attend_keys(q, k, v, scale), want)
    traced = attend_keys(q.requires_grad_(), k, v, scale)
    torch.testing.assert_close(traced.detach(), want, rtol=0, atol=1e-12)


def test_bfloat16_stays_bfloat16():
    schedule = ScaleSchedule((1, 2, 3))
    qkv = torch.randn(3, 1, 2, schedule.length, 8).bfloat16()
    for mask in MASKS:
        packed = attend(*qkv, schedule, mask)
        assert packed.dtype == torch.bfloat16
        exact = attend(*qkv.double(), schedule, mask)
        torch.testing.assert_close(packed.double(), exact, rtol=0, atol=0.03)


@by_mask
@by_sides
def test_cache_gives_what_the_whole_row_gives(sides, mask):
    schedule, qkv = ScaleSchedule(sides), problem(sides).detach()
    cache, out = KeyValueCache(schedule, mask), []
    for k, own in enumerate(schedule.slices()):
        query, key, value = qkv[:, :, :, own]
        seen = cache.extend(0, k, key, value)
        assert seen[0].shape[2] == own.stop - key_start(schedule, mask)[k]
        out.append(attend_keys(query, *seen))
    whole = attend(*qkv, schedule, mask)
    torch.testing.assert_close(torch.cat(out, 2), whole, rtol=0, atol=1e-12)


def test_cache_counts_its_bytes_and_a_markov_one_has_none():
    schedule = ScaleSchedule((1, 2, 3))
    key = torch.zeros(2, 4, 1, 8)
    for mask in MASKS:
        cache = KeyValueCache(schedule, mask)
        assert cache.bytes == 0
        for block in range(3):
            cache.extend(block, 0, key, key)
        full = 2 * 3 * 2 * schedule.length * 32 * 4  # k and v, blocks, images, n, d
        assert cache.bytes == (0 if mask == "markov" else full)


def test_cache_keeps_blocks_apart_and_narrows_to_the_first_images():
    schedule = ScaleSchedule((1, 2))
    cache = KeyValueCache(schedule, "causal")
    first = torch.arange(4.0).view(4, 1, 1, 1)
    for block in range(2):
        cache.extend(block, 0, first + 10 * block, -first)
    cache.narrow(2)
    new = torch.full((2, 1, 4, 1), 7.0)
    keys, values = cache.extend(1, 1, new, new)
    assert keys.shape == (2, 1, 5, 1)
    assert keys[:, 0, 0, 0].tolist() == [10.0, 11.0]
    assert values[:, 0, 0, 0].tolist() == [0.0, -1.0]
    assert (keys[:, :, 1:] == 7).all()


def test_two_caches_share_nothing():
    schedule = ScaleSchedule((1, 2))
    one, two = KeyValueCache(schedule, "causal"), KeyValueCache(schedule, "causal")
    key = torch.ones(1, 1, 1, 1)
    one.extend(0, 0, key, key)
    assert two.bytes == 0
    two.extend(0, 0, 5 * key, key)
    later = torch.zeros(1, 1, 4, 1)
    assert one.extend(0, 1, later, later)[0][0, 0, 0, 0] == 1


@pytest.mark.parametrize(
    "change, words",
    [
        ({"mask": "diagonal"}, "mask must be one of .*got 'diagonal'"),
        ({"backend": "sparse"}, "backend must be one of .*got 'sparse'"),
        ({"q": 13}, "q has 13 positions"),
        ({"k": 5}, "k has 5 positions.*has 14"),
        ({"v": 15}, "v has 15 positions"),
        ({"backend": "flex"}, 'needs CUDA.*use "packed"'),
    ],
)
def test_bad_input_is_refused(change, words):
    schedule = ScaleSchedule((1, 2, 3))
    lengths = {name: change.get(name, 14) for name in "qkv"}
    tensors = {name: torch.zeros(1, 1, n, 4) for name, n in lengths.items()}
    options = {name: x for name, x in change.items() if name not in tensors}
    with pytest.raises(ValueError, match=words):
        attend(**tensors, schedule=schedule, **options)
    ok = torch.zeros(1, 1, 14, 4)
    assert attend(ok, ok, ok, schedule).shape == ok.shape  # it works afterwards


def test_cache_refuses_an_unknown_mask():
    with pytest.raises(ValueError, match="mask must be one of"):
        KeyValueCache(VAR_256, "full")


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("rows", [(0, 3), (1, 1), (2, 5), (4, 7, 3)])
def test_products_are_the_same_with_and_without_gradients(rows, gelu):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(*rows, 12, generator=generator)
    weight, bias = torch.randn(9, 13, generator=generator).split((12, 1), dim=1)
    for plus in (None, bias[:, 0]):
        want = F.linear(
            x.double(), weight.double(), None if plus is None else plus.double()
        )
        want = (F.gelu(want, approximate="tanh") if gelu else want).float()
        with torch.no_grad():
            torch.testing.assert_close(project(x, weight, plus, gelu), want)
            turned = project(x.transpose(0, 1), weight, plus, gelu)
        torch.testing.assert_close(turned.transpose(0, 1), want)
        torch.testing.assert_close(project(x, weight, plus, gelu), want)


@pytest.mark.parametrize("rows", [(0, 3), (), (1, 1), (4, 7, 3)])
@pytest.mark.parametrize("turn", [False, True])
def test_gradients_of_a_product_are_those_of_torch(rows, turn):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(*rows, 12, generator=generator)
    x = x.transpose(0, -2) if turn and len(rows) > 1 else x
    weight, bias = torch.randn(9, 13, generator=generator).split((12, 1), dim=1)
    found = []
    for product, exact in (
        (project, torch.Tensor.float),
        (F.linear, torch.Tensor.double),
    ):
        parts = [exact(p).detach().requires_grad_() for p in (x, weight, bias[:, 0])]
        y = product(*parts)
        (y * torch.linspace(1, 2, 9)).square().sum().backward()
        found.append([part.grad.float() for part in parts])
    for mine, torchs in zip(*found, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_vectors_of_a_given_length_and_their_gradients_are_those_of_torch(dtype):
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(2, 3, 4, 7, 8, generator=generator).to(dtype)
    x[0, 0, 0, 0] = 0  # has no direction, and keeps none
    length = torch.rand(2, 1, 4, 1, 1, generator=generator).to(
        torch.float32 if dtype == torch.bfloat16 else dtype
    )
    found = []
    for run in (of_length, lambda a, b: (F.normalize(a, dim=-1) * b).to(a.dtype)):
        parts = [part.clone().requires_grad_() for part in (x, length)]
        y = run(*parts)
        (y * torch.linspace(-1, 1, 8, dtype=dtype)).sum().backward()
        found.append([y.detach(), *(part.grad for part in parts)])
    with torch.no_grad():
        assert torch.equal(of_length(x, length), found[0][0])
    tolerance = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {}
    for mine, torchs in zip(*found, strict=True):
        assert mine.dtype == torchs.dtype and mine.shape == torchs.shape
        torch.testing.assert_close(mine, torchs, **tolerance)


def test_the_gradient_of_a_length_has_a_gradient():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    length = torch.rand(3, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(of_length, (x, length))


@pytest.mark.parametrize("mkl", [False, True])
def test_only_the_gradients_that_are_wanted_are_computed(monkeypatch, mkl):
    monkeypatch.setattr(attention, "MKL_TRAINS", mkl)
    x, weight = torch.randn(3, 8), torch.randn(4, 8, requires_grad=True)
    project(x, weight).sum().backward()
    assert x.grad is None and weight.grad.shape == (4, 8)
    frozen = x.requires_grad_()
    project(frozen, weight.detach()).sum().backward()
    assert frozen.grad.shape == (3, 8)


def test_a_training_gives_the_same_gradients_by_either_library(monkeypatch):
    x, layer, found = torch.randn(5, 7, 8), Linear(8, 4), []
    for mkl in (False, True):
        monkeypatch.setattr(attention, "MKL_TRAINS", mkl)
        assert ("Product" in str(layer(x).grad_fn)) is not mkl
        mine = x.clone().requires_grad_()
        layer.zero_grad()
        y = layer(mine, gelu=True)
        y.square().sum().backward()
        found.append([mine.grad, layer.weight.grad, layer.bias.grad])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_processor_is_told_by_the_head_of_a_file(tmp_path):
    facts = tmp_path / "cpuinfo"
    for vendor, answer in (("GenuineIntel", True), ("AuthenticAMD", False)):
        facts.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
        assert attention.of_intel(str(facts)) is answer
    assert not attention.of_intel(str(tmp_path / "none"))


def test_products_of_other_types_and_under_autocast_are_those_of_torch():
    x, layer = torch.randn(3, 8), Linear(8, 4)
    with torch.no_grad():
        assert torch.equal(
            layer.double()(x.double()), F.linear(x.double(), layer.weight, layer.bias)
        )
        with torch.autocast("cpu", torch.bfloat16):
            assert layer.float()(x).dtype == torch.bfloat16


def test_products_without_onednn(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    x, layer = torch.randn(3, 8), Linear(8, 4)
    with torch.no_grad():
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_products_are_counted():
    x, layer = torch.randn(2, 3, 8), Linear(8, 4)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(x)
        layer(x, gelu=True)
    assert counter.get_total_flops() == 2 * 2 * 6 * 8 * 4


def test_a_linear_layer_keeps_the_names_of_its_weights():
    assert set(Linear(3, 2).state_dict()) == {"weight", "bias"}
    loss = Linear(3, 2)(torch.ones(1, 3)).sum()
    loss.backward()
