"""Likelihoods of tokens, and the helpers that list every outcome of a toy."""

import math
import time

import pytest
import torch

from srdd.diffusion import exact_bound, group_chain, outcomes, reveal
from srdd.likelihood import (
    best_denoiser,
    best_laws,
    conditional_entropy,
    count_collisions,
    entropy,
    exact_cross_entropy,
    exact_joint,
    label_entropy,
    margin,
    places_of,
    scale_predictor,
    token_likelihood,
    total_correlation,
    value_labels,
)
from srdd.quantization import ScaleCodes
from srdd.sampling import sample
from srdd.scales import ScaleSchedule
from srdd.tokenizer import Tokenizer, TokenizerConfig
from srdd.transformer import ScaleTransformer, TransformerConfig


def random_law(seed, places, vocab=3):
    """A law of images with frequent and rare outcomes."""
    dice = torch.Generator().manual_seed(seed)
    law = torch.rand(vocab**places, generator=dice, dtype=torch.float64).pow(4) + 1e-9
    return (law / law.sum()).view((vocab,) * places)


def even_laws(vocab, counts=(1, 2, 3)):
    """A model that knows nothing."""

    def laws(k, prefix):
        shape = (len(prefix), counts[k], vocab)
        return torch.full(shape, 1 / vocab, dtype=torch.float64)

    return laws


def groups_of(counts):
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


# ------------------------------------------------------- listing every outcome
def test_a_million_states_are_listed_in_seconds():
    """9 codes and a mask at 6 places; and 10 codes at 6 places."""
    law, counts = random_law(0, 6, 9), (1, 2, 3)
    start = time.process_time()
    reverse = reveal(groups_of(counts), 9, scale_predictor(counts, 9, even_laws(9)))
    bound = exact_bound(group_chain(groups_of(counts), 9), reverse, law)
    assert bound.total.item() == pytest.approx(6 * math.log(9))
    law = random_law(0, 6, 10)
    ce = exact_cross_entropy(law, counts, best_laws(law, counts)).sum()
    prices = [
        total_correlation(law, own, range(own.start)) for own in places_of(counts)
    ]
    torch.testing.assert_close(ce, entropy(law) + sum(prices), rtol=0, atol=1e-9)
    assert time.process_time() - start < 30


def test_the_best_denoiser_knows_every_conditional():
    law = random_law(3, 3)
    z = torch.tensor([[3, 3, 3], [3, 1, 3], [2, 3, 0]])  # 3 is the mask
    guess = best_denoiser(law)(z, 1)
    torch.testing.assert_close(guess[0, 1], law.sum((0, 2)))
    torch.testing.assert_close(guess[1, 0], law[:, 1].sum(1) / law[:, 1].sum())
    torch.testing.assert_close(guess[2, 1], law[2, :, 0] / law[2, :, 0].sum())


def test_values_are_numbered_as_the_loop_makes_them():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loop = ScaleCodes(3, 2, ScaleSchedule((1, 2)), phi_ratio=0.0).double()
    assert value_labels(loop, 1).unique().tolist() == [0, 1, 2]
    final, x = value_labels(loop, 2), outcomes(3, 5)
    one, two = (torch.tensor(t) for t in ([0, 1, 1, 1, 1], [1, 0, 0, 0, 0]))
    same = [int((x == t).all(1).nonzero()) for t in (one, two)]
    assert final[same[0]] == final[same[1]]  # a swap of two scales, without phi
    with torch.no_grad():
        loop.embedding.weight[2] = loop.embedding.weight[1]
    assert len(value_labels(loop, 1).unique()) == 2


def test_a_joint_law_is_the_product_of_its_scales():
    law, counts = random_law(2, 4), (1, 3)
    joint = exact_joint(3, counts, best_laws(law, counts))
    assert joint.sum().item() == pytest.approx(1)
    torch.testing.assert_close(margin(joint, [0]), margin(law, [0]))
    ce = exact_cross_entropy(law, counts, best_laws(law, counts)).sum()
    torch.testing.assert_close(-(law * joint.log()).sum(), ce)


def test_labels_tell_what_they_tell():
    law, x = random_law(1, 3), outcomes(3, 3)
    torch.testing.assert_close(
        label_entropy(law, x[:, 0], x[:, 2]), entropy(margin(law, [0, 2]))
    )


# ----------------------------------------------------------- trained models
def small_pair(mask, groups=None):
    torch.manual_seed(0)
    schedule = ScaleSchedule((1, 2, 4))
    tokenizer = Tokenizer(TokenizerConfig(1, 4, (1,), 1, (), 2, 4, 16, 2, schedule))
    model = ScaleTransformer(
        TransformerConfig(2, 16, 2, schedule, 16, 4, 3, mask=mask, groups=groups)
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


@pytest.mark.parametrize("groups", [None, (1, 1, 1), (1, 2), (2, 1), (3,)])
def test_token_likelihood_is_the_law_that_tokens_are_drawn_from(groups):
    """Also of models that write several scales in one pass."""
    model, tokenizer = small_pair("markov", groups=groups)
    made = sample(model, tokenizer, [0, 1, 2, 1, 0], seeds=range(5))
    drawn = torch.stack([entry.log_prob.sum(1) for entry in made.trace], 1)
    tokens, labels = torch.cat(made.tokens, 1), torch.tensor([0, 1, 2, 1, 0])
    found = token_likelihood(model, tokenizer, tokens, labels)
    torch.testing.assert_close(found.nats, -drawn, rtol=0, atol=1e-4)


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
