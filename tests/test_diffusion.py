"""Discrete diffusion: equal to Bayes' rule, to the likelihood, and to itself."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from srdd.diffusion import (
    Chain,
    absorbing_chain,
    ancestral,
    draw,
    estimate_bound,
    exact_bound,
    exact_law,
    gaussian_chain,
    group_chain,
    joint_with,
    kl,
    outcomes,
    posterior,
    predict_clean,
    q_sample,
    reveal,
    rows_of,
    step_loss,
    survival,
    uniform_chain,
)
from srdd.scales import ScaleSchedule

seeds = st.integers(0, 10_000)


def random_chain(seed, steps=3, places=1, states=4, vocab=3):
    """A chain of random matrices."""
    dice = torch.Generator().manual_seed(seed)
    q = torch.rand(steps, places, states, states, generator=dice, dtype=torch.float64)
    prior = torch.rand(states, generator=dice, dtype=torch.float64)
    return Chain(q / q.sum(-1, keepdim=True), prior / prior.sum(), vocab)


def random_law(seed, places=3, vocab=3):
    """A law of clean images with some outcomes much rarer than others."""
    dice = torch.Generator().manual_seed(seed + 1)
    law = torch.rand(vocab**places, generator=dice, dtype=torch.float64).pow(4) + 1e-6
    return (law / law.sum()).view((vocab,) * places)


def random_guess(seed, states, places=3, vocab=3, sharp=3.0):
    """Laws of the clean tokens for every state and step."""
    dice = torch.Generator().manual_seed(seed + 2)
    table = torch.rand(8, states**places, places, vocab, generator=dice)
    table = (sharp * table.double()).softmax(-1)
    radix = states ** torch.arange(places - 1, -1, -1)
    return lambda z, t: table[t, (z * radix).sum(-1)]


def kinds(vocab=3, steps=4):
    alive = survival(steps)
    betas = torch.linspace(0.2, 3.0, steps).double()
    return {
        "absorbing": absorbing_chain(vocab, alive),
        "uniform": uniform_chain(vocab, alive),
        "gaussian": gaussian_chain(vocab, betas),
        "random": random_chain(0, steps, 3),
        "groups": group_chain(torch.tensor([0, 1, 1]), vocab),
        "slack": group_chain(torch.tensor([0, 1, 1]), vocab, slack=0.2),
    }


# -------------------------------------------------------------------- kernels
@pytest.mark.parametrize("name", kinds())
def test_products_are_products_of_laws(name):
    chain = kinds()[name]
    wanted = torch.eye(len(chain.prior), dtype=torch.float64).expand_as(chain.steps[0])
    for t in range(len(chain) + 1):
        torch.testing.assert_close(chain.products[t], wanted, rtol=0, atol=1e-14)
        if t < len(chain):
            wanted = wanted @ chain.steps[t]
    assert (chain.products.sum(-1) - 1).abs().max() < 1e-12


def test_survival_is_what_its_name_says():
    alive = survival(5)
    chain = absorbing_chain(4, alive)
    torch.testing.assert_close(chain.products[:, 0, 2, 2], alive)
    assert chain.products[-1, 0, :, 4].tolist() == [1.0] * 5
    uniform = uniform_chain(4, alive)
    wanted = alive + (1 - alive) / 4
    torch.testing.assert_close(uniform.products[:, 0, 1, 1], wanted)


def test_the_gaussian_prefers_neighbours_and_keeps_the_even_law():
    chain = gaussian_chain(7, torch.tensor([0.1, 0.5]).double())
    row = chain.steps[0, 0, 3]
    assert (row[3:-1] > row[4:]).all() and (row[:3] < row[1:4]).all()
    torch.testing.assert_close(chain.prior @ chain.steps[0, 0], chain.prior)


def test_groups_are_hidden_from_the_last_to_the_first():
    schedule = ScaleSchedule((1, 2, 3))
    chain = group_chain(schedule.levels(), vocab=5)
    assert len(chain) == 3
    for t in range(4):
        hidden = chain.products[t, :, 0, 5]
        assert torch.equal(hidden, (schedule.levels() >= 3 - t).double())


# ------------------------------------------------------------ one step back
@given(seeds)
@settings(max_examples=60, deadline=None)
def test_posterior_is_bayes_rule(seed):
    chain, places = random_chain(seed, places=2), 2
    dice = torch.Generator().manual_seed(seed)
    z = torch.randint(4, (5, places), generator=dice)
    clean = torch.rand(5, places, 3, generator=dice, dtype=torch.float64)
    clean = clean / clean.sum(-1, keepdim=True)
    for t in (1, 2, 3):
        got = posterior(chain, z, t, clean)
        for b in range(5):
            for i in range(places):
                wanted = torch.zeros(4, dtype=torch.float64)
                for x in range(3):
                    joint = (
                        chain.products[t - 1, i, x] * chain.steps[t - 1, i, :, z[b, i]]
                    )
                    wanted += clean[b, i, x] * joint / joint.sum()
                torch.testing.assert_close(got[b, i], wanted, rtol=0, atol=1e-12)


def test_posterior_agrees_with_the_chapter(reference):
    literal = reference("01_diffusion")["posterior_reference"]
    chain, guess = kinds()["absorbing"], torch.tensor([0.2, 0.5, 0.3]).double()
    for t in range(1, 5):
        for now in (0, 3) if t < 4 else (3,):
            got = posterior(chain, torch.tensor([[now]]), t, guess[None, None])
            wanted = literal(
                chain.products[t - 1, 0], chain.steps[t - 1, 0], now, guess
            )
            torch.testing.assert_close(got[0, 0], wanted)


def test_a_token_that_is_still_there_stays():
    chain = kinds()["absorbing"]
    wrong = torch.tensor([[[0.0, 1.0, 0.0]]]).double()  # a guess that cannot be
    law = posterior(chain, torch.tensor([[2]]), 2, wrong)
    assert law.flatten().tolist() == [0, 0, 1, 0]


def test_times_may_differ_between_images():
    chain = random_chain(3, places=2)
    z, clean = torch.tensor([[0, 1], [3, 2], [1, 1]]), torch.rand(3, 2, 3).double()
    t = torch.tensor([1, 3, 2])
    together = posterior(chain, z, t, clean)
    for b in range(3):
        alone = posterior(chain, z[b : b + 1], int(t[b]), clean[b : b + 1])
        torch.testing.assert_close(together[b : b + 1], alone)


def test_corrupted_tokens_have_the_law_of_the_chain():
    dice = torch.Generator().manual_seed(0)
    chain = random_chain(1, places=2)
    tokens = torch.tensor([[2, 0]]).expand(40_000, 2)
    z = q_sample(chain, tokens, 2, dice)
    for i, x in ((0, 2), (1, 0)):
        share = z[:, i].bincount(minlength=4) / 40_000
        assert (share - chain.products[2, i, x]).abs().max() < 0.012
    assert torch.equal(q_sample(chain, tokens, 0, dice), tokens)


# ------------------------------------------------------------------ the bound
@pytest.mark.parametrize("name", kinds())
def test_the_exact_bound_equals_a_sum_over_everything(name):
    """Every clean image, every state, every place, one by one."""
    chain, law = kinds()[name], random_law(5)
    states = len(chain.prior)
    reverse = predict_clean(chain, random_guess(5, states))
    bound, z = exact_bound(chain, reverse, law), outcomes(states, 3)
    for t in range(1, len(chain) + 1):
        model, total = reverse(z, t), 0.0
        for x in outcomes(3, 3):
            table = chain.products[t].expand(3, states, states)
            weight = rows_of(table, x[None])[0].gather(1, z.T).prod(0)  # q(z_t | x)
            live = weight > 0
            clean = F.one_hot(x, 3).double().expand(len(z), 3, 3)[live]
            gap = kl(posterior(chain, z[live], t, clean), model[live]).sum(1)
            total += law[tuple(x)] * (weight[live] @ gap)
        torch.testing.assert_close(bound.steps[t - 1], total, rtol=0, atol=1e-10)


@given(seeds, st.sampled_from(sorted(kinds())))
@settings(max_examples=40, deadline=None)
def test_the_bound_lies_above_the_likelihood_and_that_above_the_entropy(seed, name):
    chain, law = kinds()[name], random_law(seed)
    reverse = predict_clean(chain, random_guess(seed, len(chain.prior)))
    model = exact_law(chain, reverse, 3)
    nll = -torch.xlogy(law, model).sum()
    entropy = -torch.xlogy(law, law).sum()
    bound = exact_bound(chain, reverse, law)
    assert bound.total >= nll - 1e-10 and nll >= entropy - 1e-10
    assert model.sum() <= 1 + 1e-10


@given(seeds, st.permutations([0, 0, 1, 2]))
@settings(max_examples=40, deadline=None)
def test_without_chance_the_bound_is_the_likelihood(seed, groups):
    groups = torch.tensor(groups)
    chain, law = group_chain(groups, 3), random_law(seed, places=4)
    reverse = reveal(groups, 3, random_guess(seed, 4, places=4))
    bound = exact_bound(chain, reverse, law)
    nll = -torch.xlogy(law, exact_law(chain, reverse, 4)).sum()
    torch.testing.assert_close(bound.total, nll, rtol=0, atol=1e-10)
    assert bound.prior == 0


def test_a_random_kernel_tends_to_the_certain_one_linearly():
    groups, law = torch.tensor([0, 1, 1]), random_law(2)
    guess = random_guess(2, 4)
    certain = exact_bound(
        group_chain(groups, 3), predict_clean(group_chain(groups, 3), guess), law
    ).total
    gaps = []
    for slack in (1e-3, 1e-4, 1e-5):
        chain = group_chain(groups, 3, slack)
        gaps.append(
            exact_bound(chain, predict_clean(chain, guess), law).total - certain
        )
    slope = math.log10(abs(gaps[0] / gaps[2])) / 2
    assert slope == pytest.approx(1, abs=0.01)


def test_the_best_model_of_one_step_pays_the_total_correlation():
    law = random_law(7)
    margins = torch.stack([law.sum((1, 2)), law.sum((0, 2)), law.sum((0, 1))])
    groups = torch.zeros(3, dtype=torch.int64)
    best = reveal(groups, 3, lambda z, t: margins.expand(len(z), 3, 3))
    total = exact_bound(group_chain(groups, 3), best, law).total
    wanted = -torch.xlogy(margins, margins).sum()
    torch.testing.assert_close(total, wanted, rtol=0, atol=1e-12)


def test_draws_agree_with_enumeration():
    chain, law = kinds()["uniform"], random_law(3)
    reverse = predict_clean(chain, random_guess(3, 3))
    dice = torch.Generator().manual_seed(0)
    images = outcomes(3, 3)[
        torch.multinomial(law.flatten(), 4000, True, generator=dice)
    ]
    drawn = estimate_bound(chain, reverse, images, dice, draws=4)
    exact = exact_bound(chain, reverse, law)
    assert drawn.total.item() == pytest.approx(exact.total.item(), rel=0.02)
    losses = step_loss(chain, reverse, images, torch.full((4000,), 2), dice)
    assert losses.mean().item() == pytest.approx(exact.steps[1].item(), rel=0.05)


def test_samples_have_the_law_of_the_model():
    dice = torch.Generator().manual_seed(0)
    for name in ("absorbing", "uniform", "groups"):
        chain = kinds()[name]
        reverse = predict_clean(chain, random_guess(1, len(chain.prior)))
        path = list(ancestral(chain, reverse, 20_000, 3, dice))
        assert [t for t, _ in path] == list(range(len(chain), -1, -1))
        radix = torch.tensor([9, 3, 1])
        share = (path[-1][1] * radix).sum(1).bincount(minlength=27) / 20_000
        wanted = exact_law(chain, reverse, 3).flatten()
        assert (share - wanted).abs().max() < 0.015


def test_gradients_of_the_loss_are_finite_where_laws_have_zeros():
    chain = absorbing_chain(2, survival(4).float())
    logits = torch.zeros(6, 5, 2, requires_grad=True)
    reverse = predict_clean(chain, lambda z, t: (20 * logits).softmax(-1))
    tokens = torch.randint(2, (6, 5))
    step_loss(chain, reverse, tokens, torch.tensor([1, 2, 3, 4, 1, 2])).sum().backward()
    assert logits.grad.isfinite().all() and logits.grad.abs().sum() > 0


# -------------------------------------------------------------------- helpers
def test_listing_and_joint_laws():
    assert outcomes(2, 3).tolist()[:3] == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert outcomes(5, 1).tolist() == [[i] for i in range(5)]
    law, moves = random_law(0), random_chain(0, places=3).products[2][:, :3]
    for place in range(3):
        joint = joint_with(law, moves, place)
        assert joint.shape == (3, 64) and joint.sum().item() == pytest.approx(1)
        others = [i for i in range(3) if i != place]
        torch.testing.assert_close(joint.sum(1), law.sum(others))


def test_divergence_of_known_laws():
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.25, 0.5])
    assert kl(p, q).item() == pytest.approx(math.log(2))
    assert kl(p, p) == 0 and kl(q, p) == math.inf


def test_draws_repeat_with_their_generator():
    laws = torch.rand(10, 4, 5)
    one, two = (draw(laws, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two) and one.shape == (10, 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Chain(torch.eye(3)[None], torch.ones(3) / 3, 3), "want .T, n, s, s"),
        (lambda: Chain(torch.eye(3)[None, None], torch.ones(2) / 2, 2), "want"),
        (lambda: Chain(torch.eye(2)[None, None], torch.ones(2) / 2, 3), r"1\.\.2"),
        (lambda: Chain(2 * torch.eye(2)[None, None], torch.ones(2) / 2, 2), "sum 1"),
        (lambda: Chain(torch.eye(2)[None, None], torch.ones(2), 2), "prior.*sum 1"),
        (lambda: survival(0), "at least 1"),
        (lambda: group_chain(torch.arange(2), 3, slack=1.0), "slack"),
        (lambda: outcomes(10, 7), "more than 1,000,000"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
