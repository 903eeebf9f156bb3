"""The equivalence: each proposition on random toys, and an error that breaks it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from srdd.diffusion import (
    exact_bound,
    exact_law,
    group_chain,
    outcomes,
    predict_clean,
    reveal,
)
from srdd.likelihood import (
    best_laws,
    conditional_entropy,
    count_collisions,
    entropy,
    exact_cross_entropy,
    margin,
    merge_cost,
    places_of,
    redraw_matrix,
    resampled_law,
    scale_predictor,
    state_loss,
    substep_bound,
    token_likelihood,
    total_correlation,
)
from srdd.scales import ScaleSchedule
from srdd.tokenizer import Tokenizer, TokenizerConfig
from srdd.transformer import ScaleTransformer, TransformerConfig

seeds = st.integers(0, 1_000_000)
schedules = st.sampled_from([(1, 2), (1, 3), (2, 2), (1, 1, 2), (1, 4), (4,)])
draws = settings(max_examples=100, deadline=None, derandomize=True)
EXACT = {"rtol": 0, "atol": 1e-10}


def random_law(seed, places, vocab=3):
    """A law of images with frequent and rare outcomes."""
    dice = torch.Generator().manual_seed(seed)
    law = torch.rand(vocab**places, generator=dice, dtype=torch.float64).pow(4) + 1e-9
    return (law / law.sum()).view((vocab,) * places)


def random_laws(seed, counts, vocab=3):
    """A causal model: a random table of all prefixes."""
    dice = torch.Generator().manual_seed(seed + 1)
    tables = [
        (
            3 * torch.rand(vocab ** sum(counts[:k]), n, vocab, generator=dice).double()
        ).softmax(-1)
        for k, n in enumerate(counts)
    ]

    def laws(k, prefix):
        radix = vocab ** torch.arange(prefix.shape[1] - 1, -1, -1)
        return tables[k][(prefix * radix).sum(1)]

    return laws


def groups_of(counts):
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def bound_of(law, counts, laws, groups=None):
    groups = groups_of(counts) if groups is None else groups
    reverse = reveal(groups, 3, scale_predictor(counts, 3, laws))
    return exact_bound(group_chain(groups, 3), reverse, law)


# --------------------------------------- P1, P3: cross-entropy is the bound
@given(seeds, schedules)
@draws
def test_bound_terms_are_the_cross_entropies_of_the_scales(seed, counts):
    law, laws = random_law(seed, sum(counts)), random_laws(seed, counts)
    bound, ce = bound_of(law, counts, laws), exact_cross_entropy(law, counts, laws)
    assert bound.prior == 0
    torch.testing.assert_close(bound.steps.flip(0), ce, **EXACT)


@given(seeds, st.sampled_from([(1, 2), (1, 1, 2), (2, 2)]))
@draws
def test_the_bound_is_the_likelihood_summed_over_all_paths(seed, counts):
    law, laws = random_law(seed, sum(counts)), random_laws(seed, counts)
    groups = groups_of(counts)
    reverse = reveal(groups, 3, scale_predictor(counts, 3, laws))
    model = exact_law(group_chain(groups, 3), reverse, sum(counts))
    nll = -torch.xlogy(law, model).sum()
    torch.testing.assert_close(bound_of(law, counts, laws).total, nll, **EXACT)


# ---------------------------------------------------- P2: the limit, linear
@pytest.mark.parametrize("seed", range(10))
def test_a_random_kernel_tends_to_the_certain_one_with_slope_one(seed):
    law, groups = random_law(seed, 3), torch.tensor([0, 1, 1])
    dice = torch.Generator().manual_seed(seed)
    table = (3 * torch.rand(64, 3, 3, generator=dice).double()).softmax(-1)
    radix = torch.tensor([16, 4, 1])

    def total(slack):
        chain = group_chain(groups, 3, slack)
        reverse = predict_clean(chain, lambda z, t: table[(z * radix).sum(-1)])
        return exact_bound(chain, reverse, law).total

    limit = total(0.0)
    gaps = [abs(total(eps) - limit) for eps in (1e-3, 1e-5)]
    assert math.log10(gaps[0] / gaps[1]) / 2 == pytest.approx(1, abs=0.01)


# ----------------------------------------- P4, P5: what a state must lose
@given(seeds, st.lists(st.integers(0, 3), min_size=9, max_size=9))
@draws
def test_a_state_loses_the_conditional_mutual_information(seed, labels):
    """Two routes: entropies, and the cross-entropy of the best fitted table."""
    law, labels = random_law(seed, 4), torch.tensor(labels)
    table = law.reshape(9, 9)
    merged = torch.zeros(4, 9, dtype=torch.float64).index_add(0, labels, table)
    fitted = merged / merged.sum(1, keepdim=True).clamp_min(1e-300)
    full = table / table.sum(1, keepdim=True)
    gap = torch.xlogy(table, full).sum() - torch.xlogy(table, fitted[labels]).sum()
    torch.testing.assert_close(state_loss(law, 2, 2, labels), gap, **EXACT)
    assert gap > -1e-12
    assert state_loss(law, 2, 2, torch.arange(9)).abs() < 1e-10


def values_of(codes, factors, counts=(1, 2, 4)):
    """Labels of D_3 f_hat_2 on a line of four cells."""
    x = outcomes(3, 3)
    coarse = codes[x[:, :1]].repeat_interleave(4, 1) * factors[0]
    fine = codes[x[:, 1:]].repeat_interleave(2, 1) * factors[1]
    rounded = ((coarse + fine) * 1e9).round()
    return rounded.unique(dim=0, return_inverse=True)[1]


@given(seeds)
@draws
def test_generic_codes_with_phi_hide_nothing_and_without_it_they_do(seed):
    dice = torch.Generator().manual_seed(seed)
    codes = torch.randn(3, generator=dice, dtype=torch.float64)
    factors = (1.0, 0.4 + 0.3 * torch.rand(1, generator=dice).item())
    law = random_law(seed, 7)
    assert state_loss(law, 3, 4, values_of(codes, factors)).abs() < 1e-10
    assert len(values_of(codes, (1.0, 1.0)).unique()) < 27  # a swap gives one sum
    assert state_loss(law, 3, 4, values_of(codes, (1.0, 1.0))) > 1e-6


# -------------------------- P6, P7, P18: what writing in parallel must cost
@given(seeds, schedules)
@draws
def test_the_best_model_pays_entropy_and_total_correlation(seed, counts):
    law = random_law(seed, sum(counts))
    best = exact_cross_entropy(law, counts, best_laws(law, counts)).sum()
    prices = [
        total_correlation(law, own, range(own.start)) for own in places_of(counts)
    ]
    torch.testing.assert_close(best, entropy(law) + sum(prices), **EXACT)
    worse = exact_cross_entropy(law, counts, random_laws(seed, counts)).sum()
    assert worse > best


@given(seeds)
@draws
def test_more_steps_inside_a_scale_fall_from_total_correlation_to_nothing(seed):
    law = random_law(seed, 3)
    excess = [substep_bound(law, t) - entropy(law) for t in (1, 2, 4, 16, 256)]
    torch.testing.assert_close(excess[0], total_correlation(law, range(3)), **EXACT)
    assert all(a > b > 0 for a, b in zip(excess, excess[1:], strict=False))
    assert excess[-1] < 0.03 * excess[0]


def test_the_excess_falls_like_one_over_the_steps():
    law = random_law(1, 4)
    a, b = (substep_bound(law, t) - entropy(law) for t in (256, 1024))
    assert math.log(a / b) / math.log(4) == pytest.approx(1, abs=0.01)


@given(seeds, st.sampled_from([((1, 2, 1), 0), ((1, 2, 1), 1), ((1, 1, 2), 1)]))
@draws
def test_merging_two_scales_costs_their_mutual_information(seed, case):
    counts, k = case
    law = random_law(seed, 4)
    short = (*counts[:k], counts[k] + counts[k + 1], *counts[k + 2 :])
    long, merged = (
        exact_cross_entropy(law, c, best_laws(law, c)).sum() for c in (counts, short)
    )
    torch.testing.assert_close(merged - long, merge_cost(law, counts, k), **EXACT)


# --------------------------------------------------- P8, P9: drawing again
@given(seeds, st.floats(0.01, 0.6), st.integers(0, 6))
@draws
def test_drawing_again_from_the_same_law_is_truncation(seed, threshold, passes):
    law = random_law(seed, 2).flatten()
    low = (law < threshold)[:, None]
    step = torch.where(low, law, torch.eye(9, dtype=torch.float64))
    wanted = law @ torch.linalg.matrix_power(step, passes)
    torch.testing.assert_close(resampled_law(law, threshold, passes), wanted, **EXACT)


@given(seeds)
@draws
def test_one_token_at_a_time_keeps_the_law_and_two_at_once_do_not(seed):
    law = random_law(seed, 3) + 1e-3
    law = law / law.sum()
    flat = law.flatten()
    for place in range(3):
        moves = redraw_matrix(law, [place])
        torch.testing.assert_close(moves.sum(1), torch.ones(27).double(), **EXACT)
        torch.testing.assert_close(flat @ moves, flat, **EXACT)
    both = redraw_matrix(law, [0, 2])
    torch.testing.assert_close(both.sum(1), torch.ones(27).double(), **EXACT)
    assert (flat @ both - flat).abs().sum() > 1e-6
    everything = flat @ redraw_matrix(law, [0, 1, 2])
    alone = [law.sum([j for j in range(3) if j != i]) for i in range(3)]
    wanted = torch.einsum("a,b,c->abc", *alone).flatten()
    torch.testing.assert_close(everything, wanted, **EXACT)


# --------------------------------------------------- P10: a chain of values
@given(seeds)
@draws
def test_collisions_of_the_result_open_the_bound(seed):
    counts = (1, 2)
    law, laws = random_law(seed, 3), random_laws(seed, counts)
    x = outcomes(3, 3)
    tokens = exact_law(
        group_chain(groups_of(counts), 3),
        reveal(groups_of(counts), 3, scale_predictor(counts, 3, laws)),
        3,
    ).flatten()
    for codes, factors, collide in (
        (torch.tensor([-1.0, 0.0, 1.0]).double(), (1.0, 1.0), True),
        (torch.tensor([-1.07, 0.1312, 0.9377]).double(), (1.0, 0.41), False),
    ):
        sums = codes[x[:, :1]] * factors[0] + codes[x[:, 1:]] * factors[1]
        final = (sums * 1e9).round().unique(dim=0, return_inverse=True)[1]
        by_value = torch.zeros(27, dtype=torch.float64).index_add(0, final, tokens)
        nll = -(law.flatten() * by_value[final].log()).sum()
        gap = bound_of(law, counts, laws).total - nll
        assert (gap > 1e-6) if collide else (abs(gap) < 1e-10)


# ------------------------------------------ P14, P17: weights, dropped labels
@given(seeds, st.floats(0, 1))
@draws
def test_dropping_labels_mixes_two_bounds(seed, share):
    counts = (1, 2)
    law = random_law(seed, 3)
    models = [random_laws(seed + i, counts) for i in (0, 5)]
    ce = [exact_cross_entropy(law, counts, m).sum() for m in models]
    bounds = [bound_of(law, counts, m).total for m in models]
    mixed = (1 - share) * ce[0] + share * ce[1]
    torch.testing.assert_close(
        mixed, (1 - share) * bounds[0] + share * bounds[1], **EXACT
    )


# ----------------------------------------- deliberate errors must be noticed
COUNTS = (1, 2, 4)


def swapped_scales():
    """P1: the coarse scale is hidden first."""
    law, laws = random_law(0, 7), random_laws(0, COUNTS)
    ce = exact_cross_entropy(law, COUNTS, laws)
    return bound_of(law, COUNTS, laws).steps - ce  # not flipped


def mean_for_sum():
    """P14: means per scale for sums."""
    law, laws = random_law(0, 7), random_laws(0, COUNTS)
    ce = exact_cross_entropy(law, COUNTS, laws)
    return bound_of(law, COUNTS, laws).total - (ce / torch.tensor(COUNTS)).sum()


def dropped_phi():
    """P4: the convolutions are left out."""
    codes = torch.tensor([-1.07, 0.1312, 0.9377]).double()
    return state_loss(random_law(0, 7), 3, 4, values_of(codes, (1.0, 1.0)))


def last_tokens():
    """P4: the state is the last scale's tokens."""
    x = outcomes(3, 3)
    return state_loss(random_law(0, 7), 3, 4, x[:, 1] * 3 + x[:, 2])


def forgotten_correlation():
    """P6: the entropy alone."""
    law = random_law(0, 7)
    best = exact_cross_entropy(law, COUNTS, best_laws(law, COUNTS)).sum()
    return best - entropy(law)


def wrong_label_weight():
    """P17: the share of dropped labels on the wrong bound."""
    law = random_law(0, 3)
    a, b = (
        exact_cross_entropy(law, (1, 2), random_laws(s, (1, 2))).sum() for s in (0, 5)
    )
    return (0.9 * a + 0.1 * b) - (0.1 * a + 0.9 * b)


def merged_wrong_way():
    """P18: the cost of the other pair."""
    law = random_law(0, 7)
    return merge_cost(law, COUNTS, 0) - merge_cost(law, COUNTS, 1)


MUTATIONS = [
    swapped_scales,
    mean_for_sum,
    dropped_phi,
    last_tokens,
    forgotten_correlation,
    wrong_label_weight,
    merged_wrong_way,
]


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_deliberate_error_is_a_million_times_the_tolerance(mutation):
    assert mutation().abs().max() > 1e-4


# ----------------------------------------------------------- trained models
def small_pair(mask):
    torch.manual_seed(0)
    schedule = ScaleSchedule((1, 2, 4))
    tokenizer = Tokenizer(TokenizerConfig(1, 4, (1,), 1, (), 2, 4, 16, 2, schedule))
    model = ScaleTransformer(
        TransformerConfig(2, 16, 2, schedule, 16, 4, 3, mask=mask)
    ).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return model, tokenizer.eval()


@pytest.mark.parametrize("mask", ["markov", "causal", "band"])
def test_token_likelihood_is_that_of_the_logits_for_any_batch(mask):
    model, tokenizer = small_pair(mask)
    dice = torch.Generator().manual_seed(0)
    tokens = torch.randint(16, (11, 21), generator=dice)
    labels = torch.randint(4, (11,), generator=dice)  # the null label included
    whole = token_likelihood(model, tokenizer, tokens, labels)
    schedule = model.config.schedule
    with torch.no_grad():
        inputs = tokenizer.quantize.teacher_inputs(schedule.split(tokens))
        law = model(inputs, labels).softmax(-1)
    each = -law.gather(-1, tokens[..., None])[..., 0].log()
    wanted = torch.stack([part.sum(1) for part in each.split((1, 4, 16), 1)], 1)
    torch.testing.assert_close(whole.nats, wanted)
    torch.testing.assert_close(whole.bits, wanted.sum(1) / math.log(2))
    for batch in (1, 4, 100):
        again = token_likelihood(model, tokenizer, tokens, labels, batch)
        torch.testing.assert_close(again.nats, whole.nats)
    with pytest.raises(ValueError, match="11 images, labels 10"):
        token_likelihood(model, tokenizer, tokens, labels[:10])


def test_collisions_are_counted():
    _, tokenizer = small_pair("markov")
    with torch.no_grad():
        tokenizer.quantize.embedding.weight[1] = tokenizer.quantize.embedding.weight[0]
    tokens = torch.zeros(3, 21, dtype=torch.int64)
    tokens[1, 0], tokens[2, 0] = 1, 2  # codes 0 and 1 are the same vector
    assert count_collisions(tokenizer, tokens) == [(3, 2), (3, 2)]


def test_entropies_of_known_laws():
    fair = torch.full((2, 2), 0.25, dtype=torch.float64)
    assert entropy(fair).item() == pytest.approx(2 * math.log(2))
    assert conditional_entropy(fair, [0], [1]).item() == pytest.approx(math.log(2))
    same = torch.eye(3, dtype=torch.float64) / 3
    assert conditional_entropy(same, [0], [1]).item() == pytest.approx(0)
    assert total_correlation(same, [0, 1]).item() == pytest.approx(math.log(3))
    assert margin(same, [1]).tolist() == pytest.approx([1 / 3] * 3)
