"""The propositions P1 to P18, each on 100 random toys, and an error for each.

The check is `srdd.theorem.PROPOSITIONS[label]`. `test_a_proposition_holds` runs it
on 100 toys whose codes, convolutions, laws, models and schedules are random, and
`test_a_deliberate_error_is_noticed` runs *the same check* with one part replaced:

| label | deliberate error                                      | replaced part       |
|-------|-------------------------------------------------------|---------------------|
| P1    | two scales swapped: the coarse one is hidden first    | group_chain         |
| P1    | mean instead of sum over the tokens of a scale        | exact_cross_entropy |
| P1    | the reverse model is told a prefix of other codes     | scale_predictor     |
| P2    | the kernel acts with the root of the slack            | group_chain         |
| P3    | the reverse model writes all places, nothing is kept  | reveal              |
| P4    | phi is dropped                                        | random_loop         |
| P4    | the state is the last scale's tokens                  | value_labels        |
| P5    | states are merged by a mean of laws, not by their sum | fitted              |
| P6    | total correlation without its context                 | total_correlation   |
| P7    | the denoiser sees no other token                      | best_denoiser       |
| P8    | one pass too many                                     | resampled_law       |
| P9    | redrawn without looking at the rest                   | redraw_matrix       |
| P10   | phi is dropped                                        | random_loop         |
| P10   | the value forgets the first scale                     | value_labels        |
| P10   | a scale's tokens are averaged before they are added   | line_values         |
| P11   | the wrong neighbours are added                        | coarse_law          |
| P11   | clean codes are weighed by what can be seen of them   | posterior           |
| P12   | the factors stand in the wrong order                  | known_matrices      |
| P13   | bicubic where the proposition wants a projection      | step_matrix         |
| P14   | weights 1, as if scales had one size                  | mean_weights        |
| P15   | the divergence is taken the wrong way round           | kl                  |
| P16   | band mask                                             | random_transformer  |
| P17   | wrong label-drop weight: the shares are swapped       | label_mixture       |
| P18   | the cost of the other pair of scales                  | merge_cost          |
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from srdd import theorem
from srdd.theorem import PROPOSITIONS, check_all, failures


def coarse_first(groups, vocab, slack=0.0):
    return ORIGINAL["group_chain"](groups.max() - groups, vocab, slack)


def root_of_slack(groups, vocab, slack=0.0):
    return ORIGINAL["group_chain"](groups, vocab, slack**0.5)


def mean_for_sum(law, counts, laws):
    return ORIGINAL["exact_cross_entropy"](law, counts, laws) / torch.tensor(counts)


def nothing_is_kept(groups, vocab, predict):
    return lambda z, t: F.pad(predict(z, t), (0, 1))


def without_phi(seed, sides, vocab, phi):
    return ORIGINAL["random_loop"](seed, sides, vocab, 0.0)


def last_tokens(loop, scales):
    return torch.arange(32) % 16


def without_first_scale(loop, scales):
    return torch.arange(243) % 81


def other_prefix(counts, vocab, laws):
    wrong = lambda k, x: laws(k, (x + 1) % vocab)  # noqa: E731
    return ORIGINAL["scale_predictor"](counts, vocab, wrong)


def averaged_values(x):
    means = x.double()
    for own in theorem.places_of((1, 2, 4)):
        means[:, own] = means[:, own].mean(1, keepdim=True)
    return ORIGINAL["line_values"](means)


def without_division(chain, z, t, clean):
    total = chain.products[t, 0, : chain.vocab][:, z[:, 0]].T[:, None]  # q(z_t | z_0)
    weighed = clean * total
    return ORIGINAL["posterior"](chain, z, t, weighed / weighed.sum(-1, keepdim=True))


def equal_weights(counts):
    return torch.ones(len(counts)).double()


def mean_of_laws(table, labels):
    laws = table / table.sum(1, keepdim=True)
    merged = torch.zeros_like(table).index_add(0, labels, laws)
    return (merged / merged.sum(1, keepdim=True).clamp_min(1e-300))[labels]


def without_context(law, of, given=()):
    return ORIGINAL["total_correlation"](law, of)


def blind_denoiser(law):
    alone = [law.sum([j for j in range(law.ndim) if j != i]) for i in range(law.ndim)]
    return lambda z, t: torch.stack(alone).expand(*z.shape, -1)


def one_pass_more(law, threshold, passes):
    return ORIGINAL["resampled_law"](law, threshold, passes + 1)


def blind_redraw(law, places):
    alone = [law.sum([j for j in range(law.ndim) if j != i]) for i in range(law.ndim)]
    return ORIGINAL["redraw_matrix"](torch.einsum("a,b,c->abc", *alone), places)


def wrong_neighbours(fine):
    return ORIGINAL["coarse_law"](fine.transpose(1, 2))


def factors_reversed(sides, h, repeat=False):
    eye = left = torch.eye(h * h).double()
    found = []
    for side in sides:
        left = left @ (eye - theorem.step_matrix(side, h, repeat))
        found.append(eye - left)
    return found


def always_bicubic(side, h, repeat=False):
    return ORIGINAL["step_matrix"](side, h)


def wrong_way_round(p, q):
    return ORIGINAL["kl"](q, p)


def band_mask(seed, mask):
    return ORIGINAL["random_transformer"](seed, "band")


def swapped_shares(share, with_label, without):
    return ORIGINAL["label_mixture"](1 - share, with_label, without)


def other_pair(law, counts, k):
    return ORIGINAL["merge_cost"](law, counts, 1 - k)


ERRORS = [
    ("P1", "group_chain", coarse_first),
    ("P1", "exact_cross_entropy", mean_for_sum),
    ("P1", "scale_predictor", other_prefix),
    ("P2", "group_chain", root_of_slack),
    ("P3", "reveal", nothing_is_kept),
    ("P4", "random_loop", without_phi),
    ("P4", "value_labels", last_tokens),
    ("P5", "fitted", mean_of_laws),
    ("P6", "total_correlation", without_context),
    ("P7", "best_denoiser", blind_denoiser),
    ("P8", "resampled_law", one_pass_more),
    ("P9", "redraw_matrix", blind_redraw),
    ("P10", "random_loop", without_phi),
    ("P10", "value_labels", without_first_scale),
    ("P10", "line_values", averaged_values),
    ("P11", "coarse_law", wrong_neighbours),
    ("P11", "posterior", without_division),
    ("P12", "known_matrices", factors_reversed),
    ("P13", "step_matrix", always_bicubic),
    ("P14", "mean_weights", equal_weights),
    ("P15", "kl", wrong_way_round),
    ("P16", "random_transformer", band_mask),
    ("P17", "label_mixture", swapped_shares),
    ("P18", "merge_cost", other_pair),
]
ORIGINAL: dict[str, Any] = {name: getattr(theorem, name) for _, name, _ in ERRORS}


@pytest.mark.parametrize("label", PROPOSITIONS)
@given(seed=st.integers(0, 1_000_000))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_proposition_holds(label, seed):
    assert failures(PROPOSITIONS[label](seed)) == []


@pytest.mark.parametrize(
    ("label", "part", "error"), ERRORS, ids=[f"{a}-{c.__name__}" for a, _, c in ERRORS]
)
def test_a_deliberate_error_is_noticed(label, part, error, monkeypatch):
    assert failures(PROPOSITIONS[label](0)) == []
    monkeypatch.setattr(theorem, part, error)
    assert failures(PROPOSITIONS[label](0)) != []


def test_every_proposition_has_its_error_and_its_row_in_the_table():
    assert list(PROPOSITIONS) == [f"P{i}" for i in range(1, 19)]
    assert {label for label, _, _ in ERRORS} == set(PROPOSITIONS)
    rows = [[x.strip() for x in r.split("|")[1:4]] for r in __doc__.splitlines()]
    listed = [(r[0], r[2]) for r in rows if len(r) == 3 and r[0].startswith("P")]
    assert listed == [(label, part) for label, part, _ in ERRORS]


def test_failures_are_said_in_words():
    numbers = {"difference of a and b": 1e-9, "slope of c": 1.02, "loss of d": 0.0}
    assert failures(numbers) == [
        "difference of a and b: 1e-09",
        "slope of c: 1.02",
        "loss of d: 0",
    ]
    assert failures({"difference": float("nan")}) == ["difference: nan"]
    fine = {"difference of a and b": -1e-11, "slope of c": 0.995, "loss of d": 0.1}
    assert failures(fine) == []


def test_all_checks_together_give_a_number_for_each_toy():
    with FlopCounterMode(display=False):  # as experiments run
        found = check_all([0, 1])
    assert {name.split("/")[0] for name in found} == set(PROPOSITIONS)
    assert all(len(values) == 2 for values in found.values())
