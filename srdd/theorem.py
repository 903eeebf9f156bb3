"""Each proposition of chapters 2 and 7 as a check on a random toy, in float64.

A check takes a seed, makes a toy, and returns named numbers. Their names say what
is claimed: a "difference" must be rounding, a "slope" must be 1, and every other
number must be clearly above zero, since it shows that two things are *not* equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import KeyValueCache, attend_keys
from .diffusion import (
    Reverse,
    absorbing_chain,
    exact_bound,
    exact_law,
    group_chain,
    kl,
    outcomes,
    posterior,
    predict_clean,
    reveal,
    survival,
    uniform_chain,
)
from .likelihood import (
    ScaleLaws,
    best_denoiser,
    best_laws,
    entropy,
    exact_cross_entropy,
    exact_joint,
    label_entropy,
    margin,
    merge_cost,
    places_of,
    redraw_matrix,
    resampled_law,
    scale_predictor,
    state_loss,
    substep_bound,
    total_correlation,
    value_labels,
)
from .quantization import MultiScaleQuantizer, ScaleCodes
from .scales import ScaleSchedule, area_down, bicubic_up
from .transformer import (
    Condition,
    ScaleTransformer,
    TransformerConfig,
    modulated,
    see_known,
)

Numbers = dict[str, float]
# Rounding is below 1e-12 here; what counts as visible is a thousand times what counts
# as equal, and nothing between the two passes as either.
TOLERANCE, VISIBLE, SLOPE = 1e-10, 1e-7, 0.01


@dataclass(frozen=True)
class Toy:
    """A law of images and a causal model of it; every outcome can be listed."""

    law: Tensor
    """One axis of v codes per token."""
    counts: tuple[int, ...]
    """Tokens of each scale."""
    laws: ScaleLaws
    """The model, which has nothing to do with the law."""

    @property
    def vocab(self) -> int:
        """Codes v."""
        return self.law.shape[0]

    @property
    def groups(self) -> Tensor:
        """Scale of each token, ``(n,)``."""
        counts = torch.tensor(self.counts)
        return torch.arange(len(counts)).repeat_interleave(counts)

    @property
    def reverse(self) -> Reverse:
        """The model as the reverse of the chain that hides scale by scale."""
        predict = scale_predictor(self.counts, self.vocab, self.laws)
        return reveal(self.groups, self.vocab, predict)


def dice_of(seed: int) -> torch.Generator:
    """A generator for one toy."""
    return torch.Generator().manual_seed(seed)


def random_law(seed: int, places: int, vocab: int = 3) -> Tensor:
    """A law of images with frequent and rare outcomes, none impossible."""
    law = torch.rand(vocab**places, generator=dice_of(seed), dtype=torch.float64)
    law = law.pow(4) + 1e-6
    return (law / law.sum()).view((vocab,) * places)


def random_laws(seed: int, counts: Sequence[int], vocab: int = 3) -> ScaleLaws:
    """A causal model: a random table for every prefix of every scale."""
    dice, starts = dice_of(seed + 1), [own.start for own in places_of(counts)]
    tables = [
        (3 * torch.rand(vocab**start, n, vocab, generator=dice).double()).softmax(-1)
        for start, n in zip(starts, counts, strict=True)
    ]

    def laws(k: int, prefix: Tensor) -> Tensor:
        radix = vocab ** torch.arange(prefix.shape[1] - 1, -1, -1)
        return tables[k][(prefix * radix).sum(1)]

    return laws


def random_toy(seed: int) -> Toy:
    """A toy of two or three scales and three codes."""
    choices = ((1, 2), (1, 3), (2, 2), (1, 1, 2), (1, 2, 2))
    counts = choices[seed % len(choices)]
    return Toy(random_law(seed, sum(counts)), counts, random_laws(seed, counts))


def random_loop(seed: int, sides: Sequence[int], vocab: int, phi: float) -> ScaleCodes:
    """The loop of chapter 3 with random codes and convolutions, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        schedule = ScaleSchedule(tuple(sides))
        loop = ScaleCodes(vocab, 1, schedule, phi_convs=len(sides), phi_ratio=phi)
    return loop.double()


def largest(gap: Tensor) -> float:
    """Largest absolute entry."""
    return gap.abs().max().item()


def slope_of(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of y against x in double logarithmic axes."""
    a, b = (torch.tensor(z, dtype=torch.float64).log() for z in (x, y))
    a = a - a.mean()
    return ((a * b).sum() / a.square().sum()).item()


# ------------------------------------------------------ the chain and its bound
def bound_is_cross_entropy(seed: int) -> Numbers:
    """P1: for any model, the bound is the cross-entropy, and it is tight."""
    toy = random_toy(seed)
    chain = group_chain(toy.groups, toy.vocab)
    bound = exact_bound(chain, toy.reverse, toy.law)
    ce = exact_cross_entropy(toy.law, toy.counts, toy.laws)
    model = exact_law(chain, toy.reverse, toy.law.ndim)
    nll = -torch.xlogy(toy.law, model).sum()
    return {
        "difference of bound and cross-entropy": largest(bound.total - ce.sum()),
        "difference of bound and likelihood": largest(bound.total - nll),
    }


def random_guess(seed: int, states: int, places: int, vocab: int = 3) -> Reverse:
    """A guess of the clean tokens for every state, the same at every step."""
    table = torch.rand(states**places, places, vocab, generator=dice_of(seed + 2))
    table = (3 * table.double()).softmax(-1)
    radix = states ** torch.arange(places - 1, -1, -1)
    return lambda z, t: table[(z * radix).sum(-1)]


def limit_of_random_kernels(seed: int) -> Numbers:
    """P2: with slack eps, the bound tends to the cross-entropy like eps."""
    law, counts = random_law(seed, 3), (1, 2)
    groups, guess = torch.tensor([0, 1, 1]), random_guess(seed, 4, 3)

    def total(slack: float) -> Tensor:
        chain = group_chain(groups, 3, slack)
        return exact_bound(chain, predict_clean(chain, guess), law).total

    def laws(k: int, prefix: Tensor) -> Tensor:
        state = F.pad(prefix, (0, 3 - prefix.shape[1]), value=3)  # 3 is the mask
        return guess(state, 0)[:, places_of(counts)[k]]

    ce = exact_cross_entropy(law, counts, laws).sum()
    epsilons = [10.0**-n for n in (6, 7, 8)]
    gaps = [abs((total(eps) - ce).item()) for eps in epsilons]
    return {
        "difference of bound and cross-entropy at 0": largest(total(0.0) - ce),
        "slope of the gap": slope_of(epsilons, gaps),
    }


def terms_of_the_bound(seed: int) -> Numbers:
    """P3: what each term is, and which vanish."""
    toy, scales = random_toy(seed), len(random_toy(seed).counts)
    chain = group_chain(toy.groups, toy.vocab)
    x, weight = outcomes(toy.vocab, toy.law.ndim), toy.law.flatten()
    ce = exact_cross_entropy(toy.law, toy.counts, toy.laws)
    found = {"prior": 0.0, "posterior": 0.0, "kept": 0.0, "written": 0.0}
    found["prior"] = exact_bound(chain, toy.reverse, toy.law).prior.item()
    for t in range(1, scales + 1):
        z = torch.where(toy.groups < scales - t, x, toy.vocab)
        told = posterior(chain, z, t, F.one_hot(x, toy.vocab).double())
        gaps = kl(told, toy.reverse(z, t))  # (m, n)
        own = toy.groups == scales - t
        term = (weight @ gaps[:, own]).sum() - ce[scales - t]
        found["written"] = max(found["written"], largest(term))
        if not own.all():
            found["kept"] = max(found["kept"], largest(gaps[:, ~own]))
        found["posterior"] = max(found["posterior"], largest(entropy(told)))
    return {
        "difference of the first term and 0": found["prior"],
        "difference of the posteriors' entropies and 0": found["posterior"],
        "difference of kept tokens' terms and 0": found["kept"],
        "difference of a term and its scale's cross-entropy": found["written"],
    }


# ------------------------------------------------------------- states and values
def seen_rank_gap(small: int, large: int, h: int = 3) -> float:
    """Least singular value of ``D_k U_j``: above 0 if the scale j can be read."""
    cells = torch.eye(small * small).double().view(-1, 1, small, small)
    seen = area_down(bicubic_up(cells, h), large).flatten(1)
    return torch.linalg.svdvals(seen).min().item()


def state_of_values(seed: int) -> Numbers:
    """P4: values keep the prefix with phi, and not without; sides 1, 2, 3."""
    law = random_law(seed, 14, vocab=2)
    smooth = value_labels(random_loop(seed, (1, 2, 3), 2, phi=0.5), 2)
    plain = value_labels(random_loop(seed, (1, 2, 3), 2, phi=0.0), 2)
    last = torch.arange(32) % 16  # the four tokens of scale 2
    joint = random_loop(seed, (1, 2, 3), 2, phi=0.5).schedule.sides
    seen = [seen_rank_gap(j, k) for j, k in combinations(joint, 2)]
    return {
        "least singular value of an average of an enlarged scale": min(seen),
        "difference of loss with phi and 0": state_loss(law, 5, 9, smooth).item(),
        "loss without phi": state_loss(law, 5, 9, plain).item(),
        "loss of the last tokens alone": state_loss(law, 5, 9, last).item(),
        "prefixes that share a value, without phi": 32.0 - len(plain.unique()),
    }


def fitted(table: Tensor, labels: Tensor) -> Tensor:
    """Best law of the columns of a joint table for each state of its rows."""
    merged = torch.zeros_like(table).index_add(0, labels, table)
    return (merged / merged.sum(1, keepdim=True).clamp_min(1e-300))[labels]


def loss_is_information(seed: int) -> Numbers:
    """P5: the best cross-entropies differ by the conditional information.

    For a law of the whole scale by that of the scale, for a product over its tokens
    by the sum over tokens; other laws pay more than the best.
    """
    law, dice = random_law(seed, 4), dice_of(seed)
    table, labels = law.reshape(9, 9), torch.randint(4, (9,), generator=dice)
    each = [law.sum(3).reshape(9, 3), law.sum(2).reshape(9, 3)]  # of single tokens

    def cost(table: Tensor, guess: Tensor) -> Tensor:
        return -torch.xlogy(table, guess).sum()

    every, found = torch.arange(9), {}
    for name, tables in (("scale", [table]), ("tokens", each)):
        best = [fitted(x, labels) for x in tables]
        gap = sum(
            cost(x, own) - cost(x, fitted(x, every))
            for x, own in zip(tables, best, strict=True)
        )
        other = [
            own.lerp(torch.rand(own.shape[1], generator=dice).double().softmax(0), 0.1)
            for own in best
        ]
        worse = sum(
            cost(x, own) - cost(x, o)
            for x, o, own in zip(tables, best, other, strict=True)
        )
        found[name] = gap, worse
    single = [law.sum(3), law.sum(2)]
    return {
        "difference of the gap and the information": largest(
            found["scale"][0] - state_loss(law, 2, 2, labels)
        ),
        "difference of the product's gap and the tokens' information": largest(
            found["tokens"][0] - sum(state_loss(x, 2, 1, labels) for x in single)
        ),
        "gap of a random state": float(found["scale"][0]),
        "gap of a random state, product over tokens": float(found["tokens"][0]),
        "least cost of another law": float(min(found["scale"][1], found["tokens"][1])),
    }


def collisions_of_results(seed: int) -> Numbers:
    """P10: the tokens' bound exceeds the result's likelihood where results collide."""
    counts, found = (1, 4), {}
    law, model = random_law(seed, 5), exact_joint(3, counts, random_laws(seed, counts))
    nll = -torch.xlogy(law, model).sum()
    for name, phi in (("with phi", 0.5), ("without phi", 0.0)):
        final = value_labels(random_loop(seed, (1, 2), 3, phi), 2)
        by_value = torch.zeros(243).double().index_add(0, final, model.flatten())
        found[name] = (nll + law.flatten() @ by_value[final].log()).item()
    return {
        "difference of bound and likelihood with phi": found["with phi"],
        "bound minus likelihood without phi": found["without phi"],
    } | chain_of_values(seed)


def line_values(x: Tensor) -> list[Tensor]:
    """Number of the value after 0, 1, 2, 3 scales: codes -1, 0, 1, enlarged, added."""
    f_hat = torch.zeros(len(x), 4)
    seen = [torch.zeros(len(x), dtype=torch.int64)]
    for own in places_of((1, 2, 4)):
        f_hat = f_hat + (x[:, own] - 1).repeat_interleave(4 // len(own), 1)
        seen.append(f_hat.unique(dim=0, return_inverse=True)[1])
    return seen


def chain_of_values(seed: int) -> Numbers:
    """The rest of P10: values on a line, which are no Markov chain forward.

    A reverse model that is told the value before writes tokens, and so draws the next
    value. Its law of the last value is found by multiplying the matrices of its steps
    and by adding up token sequences; its bound with the tokens as clean variable is
    their cross-entropy, and with the last value as clean variable it is lower by what
    the value hides of its trajectory.
    """
    x, law, dice = outcomes(3, 7), random_law(seed, 7), dice_of(seed)
    seen, weight = line_values(x), law.flatten()
    chance, paths = torch.ones(len(x)).double(), torch.ones(1, 1).double()
    bound, rows = torch.zeros(()).double(), torch.zeros(()).double()
    for own, before, after in zip(
        places_of((1, 2, 4)), seen[:-1], seen[1:], strict=True
    ):
        states = int(before.max()) + 1
        table = torch.rand(states, len(own), 3, generator=dice).double().softmax(-1)
        written = table[before].gather(2, x[:, own, None])[..., 0].prod(1)
        one = first_of(torch.cat((before[:, None], x[:, own]), 1))
        kernel = torch.zeros(states, int(after.max()) + 1).double()
        kernel.index_put_((before[one], after[one]), written[one], accumulate=True)
        rows = rows.maximum((kernel.sum(1) - 1).abs().max())
        bound = bound - weight @ kernel[before, after].log()
        chance, paths = chance * written, paths @ kernel
    by_tokens = torch.zeros(paths.shape[1]).double().index_add(0, seen[3], chance)
    value_nll = -(weight @ paths[0, seen[3]].log())
    _, s1, s2, s3 = seen
    hidden = label_entropy(law, s1, s2, s3) - label_entropy(law, s3)
    ends = label_entropy(law, s1, s2) + label_entropy(law, s2, s3)
    shared = ends - label_entropy(law, s2) - label_entropy(law, s1, s2, s3)
    return {
        "difference of the value chain's bound and cross-entropy": largest(
            bound + weight @ chance.log()
        ),
        "difference of the rows of its steps and 1": rows.item(),
        "difference of its law by steps and by tokens": largest(paths[0] - by_tokens),
        "information of S1 and S3 given S2": shared.item(),
        "trajectory hidden by the last value": hidden.item(),
        "bound with the last value as clean, minus its likelihood": (
            bound - hidden - value_nll
        ).item(),
    }


def first_of(rows: Tensor) -> Tensor:
    """One index for each distinct row."""
    _, group = rows.unique(dim=0, return_inverse=True)
    one = torch.zeros(int(group.max()) + 1, dtype=torch.int64)
    one[group] = torch.arange(len(rows))
    return one


def coarse_law(fine: Tensor) -> Tensor:
    """Law of two coarse tokens, each the sum modulo 3 of two of four fine ones."""
    x = torch.arange(3)
    add = F.one_hot((x[:, None] + x) % 3, 3).double()  # (a, b) to their sum
    return torch.einsum("abcd,abx,cdy->xy", fine, add, add)


def clean_predictors(seed: int) -> Numbers:
    """P11: the true law of the clean token gives the true step; marginals may not.

    A product of the true marginals of fine tokens, pushed to coarse ones, is worse than
    the product of the coarse tokens' own laws. Some product of fine laws is not.
    """
    law, chain = random_law(seed, 1), uniform_chain(3, survival(4))
    gap = 0.0
    for t in (1, 2, 3):
        joint = law[:, None] * chain.products[t, 0]  # z_0 and z_t
        guess = (joint / joint.sum(0)).T[:, None]  # p(z_0 | z_t), one row per z_t
        told = posterior(chain, torch.arange(3)[:, None], t, guess)[:, 0]
        before = (law @ chain.products[t - 1, 0])[:, None] * chain.steps[t - 1, 0]
        gap = max(gap, largest(told - (before / before.sum(0)).T))
    fine = random_law(seed, 4)
    truth = coarse_law(fine)
    alone = [margin(fine, [i]) for i in range(4)]
    guessed = coarse_law(torch.einsum("a,b,c,d->abcd", *alone))
    own = [margin(truth, [i]) for i in (0, 1)]
    sure = torch.eye(3, dtype=torch.float64)[0]
    fitted_fine = torch.einsum("a,b,c,d->abcd", sure, own[0], sure, own[1])
    direct = torch.outer(*own)
    penalty = kl(truth.flatten(), guessed.flatten()) - kl(
        truth.flatten(), direct.flatten()
    )
    return {
        "difference of the mixed step and the true step": gap,
        "difference of a fitted product of fine laws and coarse laws": largest(
            coarse_law(fitted_fine) - direct
        ),
        "loss of the product of clean marginals": penalty.item(),
    }


# -------------------------------------------------------- the loop without codes
def step_matrix(side: int, h: int, repeat: bool = False) -> Tensor:
    """``U D`` for maps of side h as a matrix, ``(h^2, h^2)``."""
    cells = area_down(torch.eye(h * h).double().view(-1, 1, h, h), side)
    if not repeat:
        return bicubic_up(cells, h).flatten(1).T
    return (
        cells.repeat_interleave(h // side, 2)
        .repeat_interleave(h // side, 3)
        .flatten(1)
        .T
    )


def known_matrices(sides: Sequence[int], h: int, repeat: bool = False) -> list[Tensor]:
    """M_k of a schedule: ``I`` minus the product of ``I - U_j D_j``, last on the left."""
    eye = left = torch.eye(h * h).double()
    found = []
    for side in sides:
        left = (eye - step_matrix(side, h, repeat)) @ left
        found.append(eye - left)
    return found


def markov_defects(sides: Sequence[int], h: int, repeat: bool = False) -> list[float]:
    """Share of each state that the next finer one does not determine, linearly."""
    return [
        ((a - a @ torch.linalg.pinv(b) @ b).norm() / a.norm()).item()
        for a, b in pairwise(known_matrices(sides, h, repeat))
    ]


def random_maps(seed: int, count: int, h: int) -> Tensor:
    """Smooth random maps ``(count, 1, h, h)``, float64."""
    coarse, fine = (
        torch.randn(count, 1, s, s, generator=dice_of(seed + s)).double()
        for s in (max(2, h // 4), h)
    )
    return bicubic_up(coarse, h) + 0.3 * fine


def loop_is_linear(seed: int) -> Numbers:
    """P12: without codes the loop is a matrix; nested sides make it Markov."""
    sides = ((1, 2, 3, 8), (1, 3, 5, 8), (1, 2, 3, 5, 8))[seed % 3]
    f = random_maps(seed, 4, 8)
    f_hat, gap = torch.zeros_like(f), 0.0
    for side, matrix in zip(sides, known_matrices(sides, 8), strict=True):
        f_hat = f_hat + bicubic_up(area_down(f - f_hat, side), 8)
        gap = max(gap, largest(f_hat.flatten(1) - f.flatten(1) @ matrix.T))
    return {
        "difference of the loop and the matrices": gap,
        "difference of the Markov defect of nested sides and 0": max(
            markov_defects((1, 2, 4, 8), 8, repeat=True)
        ),
        "Markov defect of sides that do not nest": max(markov_defects(sides, 8)),
    }


def energy_and_information(seed: int) -> Numbers:
    """P13: orthogonal projections never add error, bicubic steps and codes may.

    The codes are two numbers without a convolution: a toy that shows that it happens,
    not how often it does for trained codes.
    """
    f, law = random_maps(seed, 64, 8), random_law(seed, 5)
    known = [f.flatten(1) @ m.T for m in known_matrices((1, 2, 4, 8), 8, repeat=True)]
    missing = torch.stack([(f.flatten(1) - k).square().sum(1) for k in known])
    cross = [largest((k * (f.flatten(1) - k)).sum(1)) for k in known]
    norms = [
        torch.linalg.matrix_norm(torch.eye(64).double() - step_matrix(side, 8), ord=2)
        for side in (1, 2, 3, 5)
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        schedule = ScaleSchedule((1, 2, 3, 5, 8))
        coder = MultiScaleQuantizer(2, 1, schedule, phi_ratio=0.0).double()
    codes = torch.tensor([[-1.0], [1.0]]) * (1 + torch.rand(1, generator=dice_of(seed)))
    with torch.no_grad():
        coder.embedding.weight.copy_(codes)
        errors = [(f - s.f_hat).square().sum((1, 2, 3)) for s in coder.encode_steps(f)]
    rises = torch.stack([b > a for a, b in pairwise(errors)]).double().mean()
    told = [label_entropy(law, *outcomes(3, 5)[:, :n].T) for n in (1, 3, 5)]
    return {
        "difference of the cross term of projections and 0": max(cross),
        "difference of a projection's added error and 0": (missing[1:] - missing[:-1])
        .clamp_min(0)
        .max()
        .item(),
        "norm of a bicubic step, minus 1": max(norms).item() - 1,
        "share of coded steps that add error": rises.item(),
        "information that a scale adds": min(b - a for a, b in pairwise(told)).item(),
    }


# ------------------------------------------------------- what parallel tokens cost
def best_scale_laws(seed: int) -> Numbers:
    """P6: the best model pays the entropy and the total correlations."""
    toy = random_toy(seed)
    best = exact_cross_entropy(toy.law, toy.counts, best_laws(toy.law, toy.counts))
    scales = places_of(toy.counts)
    price = sum(total_correlation(toy.law, own, range(own.start)) for own in scales)
    floor, laws = entropy(toy.law), best_laws(toy.law, toy.counts)

    def other(k: int, prefix: Tensor) -> Tensor:
        return laws(k, prefix).lerp(toy.laws(k, prefix), 0.1)

    worse = exact_cross_entropy(toy.law, toy.counts, other).sum() - best.sum()
    return {
        "difference of best bound and its two parts": largest(
            best.sum() - floor - price
        ),
        "total correlation": float(price),
        "cost of another model": worse.item(),
    }


def steps_inside_a_scale(seed: int) -> Numbers:
    """P7: T random portions; the excess falls to nothing like 1 / T."""
    law = random_law(seed, 3)
    floor, guess = entropy(law), best_denoiser(law)
    chains = {t: absorbing_chain(3, survival(t)) for t in (1, 2, 3)}
    gaps = [
        exact_bound(c, predict_clean(c, guess), law).total - substep_bound(law, t)
        for t, c in chains.items()
    ]
    random = random_guess(seed, 4, 3)
    other = predict_clean(chains[3], lambda z, t: guess(z, t).lerp(random(z, t), 0.1))
    worse = exact_bound(chains[3], other, law).total - substep_bound(law, 3)
    few = [(substep_bound(law, t) - floor).item() for t in (1, 2, 4, 8, 16)]
    many = (1024, 2048, 4096)
    excess = [(substep_bound(law, t) - floor).item() for t in many]
    return {
        "difference of the formula and the chain": max(largest(x) for x in gaps),
        "difference of one portion and the total correlation": largest(
            few[0] - total_correlation(law, range(3))
        ),
        "slope of the excess against 1 / T": slope_of([1 / t for t in many], excess),
        "cost of another denoiser": worse.item(),
        "excess of one portion": few[0],
        "least fall when T doubles": min(a - b for a, b in pairwise(few)),
    }


def merging_scales(seed: int) -> Numbers:
    """P18: writing two scales at once costs their mutual information."""
    law, counts, k = random_law(seed, 4), (1, 2, 1), seed % 2
    short = ((3, 1), (1, 3))[k]
    long, merged = (
        exact_cross_entropy(law, c, best_laws(law, c)).sum() for c in (counts, short)
    )
    cost = merge_cost(law, counts, k)
    return {
        "difference of the loss and the information": largest(merged - long - cost),
        "cost of merging": cost.item(),
    }


# ------------------------------------------------------------------- drawing again
def redrawing_the_same(seed: int) -> Numbers:
    """P8: drawing unlikely tokens again from the same law is truncation."""
    law, passes = random_law(seed, 2).flatten(), seed % 6 + 1
    rank = torch.randint(2, 9, (1,), generator=dice_of(seed + 3))
    threshold = law.sort().values[rank].item()  # 2 to 8 of the 9 are below
    moves = torch.where((law < threshold)[:, None], law, torch.eye(9).double())
    wanted = law @ torch.linalg.matrix_power(moves, passes)
    found = resampled_law(law, threshold, passes)
    return {
        "difference of closed form and passes": largest(found - wanted),
        "divergence from the law": kl(found, law).item(),
    }


def redrawing_given_the_rest(seed: int) -> Numbers:
    """P9: one token at a time keeps the law, two do not; gates may or may not."""
    law = random_law(seed, 3) + 1e-3
    law = law / law.sum()
    flat, one = law.flatten(), redraw_matrix(law, [1])
    rest = torch.rand(3, 1, 3, generator=dice_of(seed)).double().expand(3, 3, 3)
    own = law / law.sum(1, keepdim=True)  # probability of the token that is there
    moved = {}
    for name, gate in (("rest", rest), ("own", (own < own.median()).double())):
        share = gate.reshape(27, 1)
        moved[name] = flat @ (share * one + (1 - share) * torch.eye(27).double()) - flat
    return {
        "difference after one token": largest(flat @ one - flat),
        "difference after one token, gated by the others": largest(moved["rest"]),
        "change after two tokens at once": largest(
            flat @ redraw_matrix(law, [0, 2]) - flat
        ),
        "change if the token's own probability gates": largest(moved["own"]),
    }


# ------------------------------------------------- objectives, guidance, the measure
def mean_weights(counts: Sequence[int]) -> Tensor:
    """Weights that turn sums over a scale into n times the mean of scale means."""
    return sum(counts) / (len(counts) * torch.tensor(counts).double())


def slope_at(seen: Tensor, weights: Tensor, logits: Tensor) -> float:
    """Largest slope of weighted cross-entropies in the logits of laws ``(K or 1, v)``."""
    logits = logits.clone().requires_grad_()
    cost = -(weights[:, None] * seen * logits.log_softmax(-1)).sum()
    cost.backward()  # not autograd.grad, which counters of operations refuse
    return largest(logits.grad)


def weighted_scales(seed: int) -> Numbers:
    """P14: token means are the bound, means per scale another objective.

    Laws of each scale's own have the same minimum under both, a shared law has not.
    """
    counts = (1, 3)
    toy = Toy(random_law(seed, 4), counts, random_laws(seed, counts))
    bound = exact_bound(group_chain(toy.groups, 3), toy.reverse, toy.law).total
    x, chance = outcomes(3, 4), exact_joint(3, counts, toy.laws).flatten()
    token_mean = -(toy.law.flatten() @ chance.log()) / x.shape[1]
    ce, weights = exact_cross_entropy(toy.law, counts, toy.laws), mean_weights(counts)
    own = [margin(toy.law, [i]) for i in range(4)]
    seen = torch.stack([own[0], own[1] + own[2] + own[3]])  # (K, v)
    ones = torch.ones(2).double()
    shared = [(w[:, None] * seen).sum(0) for w in (ones, weights)]
    costs = [-(seen * (law / law.sum()).log()).sum() for law in shared]
    return {
        "difference of token mean times tokens and bound": largest(
            4 * token_mean - bound
        ),
        "difference of the weighted slope at the bound's own minimum and 0": slope_at(
            seen, weights, seen.log()
        ),
        "weighted slope at the bound's shared minimum": slope_at(
            seen, weights, shared[0].log()[None]
        ),
        "means per scale against the bound": largest((weights * ce).sum() - bound),
        "loss of one law for all scales": (costs[1] - costs[0]).item(),
    }


def continuous_limit(seed: int) -> Numbers:
    """P15: certain kernels are finite for counted tokens, infinite for numbers."""
    delta = 0.01 + torch.rand(1, generator=dice_of(seed)).double().item()
    sigmas, found = (1e-1, 1e-2, 1e-4), []
    for sigma in sigmas:
        means = torch.tensor([0.0, delta], dtype=torch.float64)
        width = torch.tensor(sigma, dtype=torch.float64)
        a, b = (torch.distributions.Normal(m, width) for m in means)
        found.append(torch.distributions.kl_divergence(a, b).item())
    wanted = [delta**2 / (2 * s**2) for s in sigmas]
    law = random_law(seed, 1)
    told = kl(torch.eye(3).double(), law)
    return {
        "difference of divergence and formula": max(
            abs(x / y - 1) for x, y in zip(found, wanted, strict=True)
        ),
        "difference of a counted term and -log p": largest(told + law.log()),
        "divergence at sigma 0.0001": found[-1],
        "minus the entropy at sigma 0.0001": -a.entropy().item(),
    }


class Float64Transformer(ScaleTransformer):
    """The transformer without the step to float32 before its head."""

    def head_logits(
        self,
        x: Tensor,
        condition: Condition,
        known: Tensor | None = None,
        mix: Callable[..., Tensor] = attend_keys,
    ) -> Tensor:
        """Logits in the dtype of the weights."""
        if known is not None:
            x = see_known(self, x, known, condition, mix)
        scale, shift = condition.head
        return self.head(modulated(x, 1 + scale, shift))


def in_float64(model: ScaleTransformer) -> ScaleTransformer:
    """A copy of a model that computes in float64 throughout."""
    exact = Float64Transformer(model.config).double()
    exact.load_state_dict(model.state_dict())
    return exact.eval().requires_grad_(False)


def random_transformer(seed: int, mask: str) -> ScaleTransformer:
    """Two layers, five scales, weights far from zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        schedule = ScaleSchedule((1, 2, 3, 4, 5))
        config = TransformerConfig(2, 8, 2, schedule, 5, 2, 3, mask=mask)
        model = ScaleTransformer(config)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
    return in_float64(model)


def masks_in_a_network(seed: int) -> Numbers:
    """P16: packed scales are single scales; a band of L layers reaches L back."""
    model, dice = random_transformer(seed, "markov"), dice_of(seed)
    schedule, labels = model.config.schedule, torch.tensor([1])
    maps = torch.randn(5, 1, 2, 5, 5, generator=dice).double()
    seen = [
        area_down(m, s).flatten(2) for m, s in zip(maps, schedule.sides, strict=True)
    ]
    inputs = torch.cat(seen[1:], 2).transpose(1, 2)
    own = KeyValueCache(schedule, "markov")  # each scale keeps to itself
    single = [model.scale_logits(k, maps[k], labels, cache=own) for k in range(5)]
    gap = largest(model(inputs, labels) - torch.cat(single, 1))
    reach = {}
    for mask in ("markov", "band"):
        own_inputs = inputs.detach().requires_grad_()
        logits = random_transformer(seed, mask)(own_inputs, labels)
        logits[:, schedule.starts[4] :].square().sum().backward()
        slope = own_inputs.grad
        ends = [start - 1 for start in schedule.starts[1:]]
        reach[mask] = [largest(slope[:, a:b]) for a, b in pairwise(ends)]
    return {
        "difference of packed and single scales": gap,
        "difference of the Markovian reach and 0": max(reach["markov"][:-1]),
        "difference of the band's reach beyond its layers and 0": reach["band"][0],
        "gradient of the band, two scales back": reach["band"][1],
        "gradient of the band, one scale back": reach["band"][2],
    }


def label_mixture(share: float, with_label: Tensor, without: Tensor) -> Tensor:
    """A loss in training, when a share of the labels is dropped."""
    return (1 - share) * with_label + share * without


def labels_and_guidance(seed: int) -> Numbers:
    """P17: dropped labels mix two bounds; guided scales sample no tilted joint.

    Two classes with laws of their own; the null model is the best one for the mean of
    the class models.
    """
    first, rho, w = random_toy(seed), 0.1, 3.0
    counts, chain = first.counts, group_chain(first.groups, 3)
    laws = (first.law, random_law(seed + 5, first.law.ndim))
    models = (first.laws, random_laws(seed + 7, counts))
    share = torch.rand(1, generator=dice_of(seed + 9)).double().item()
    classes = (share, 1 - share)
    joints = [exact_joint(3, counts, model) for model in models]
    null = best_laws(sum(c * j for c, j in zip(classes, joints, strict=True)), counts)
    mean_law = sum(c * law for c, law in zip(classes, laws, strict=True))

    def bound(law: Tensor, model: ScaleLaws) -> Tensor:
        return exact_bound(chain, Toy(law, counts, model).reverse, law).total

    loss = torch.zeros(()).double()  # every class, label dropped or not
    for chance, law, model in zip(classes, laws, models, strict=True):
        for dropped in (False, True):
            told = exact_cross_entropy(law, counts, null if dropped else model).sum()
            loss = loss + chance * (rho if dropped else 1 - rho) * told
    with_class = sum(
        c * bound(x, m) for c, x, m in zip(classes, laws, models, strict=True)
    )
    mixed = label_mixture(rho, with_class, bound(mean_law, null))

    def guided(k: int, prefix: Tensor) -> Tensor:
        told, without = models[0](k, prefix).log(), null(k, prefix).log()
        return (without + w * (told - without)).softmax(-1)

    drawn = exact_joint(3, counts, guided)
    a, b = joints[0].log(), exact_joint(3, counts, null).log()
    tilted = (b + w * (a - b)).flatten().softmax(0)
    return {
        "difference of the loss and the mixed bounds": largest(loss - mixed),
        "divergence of tilted and guided law": kl(tilted, drawn.flatten()).item(),
    }


PROPOSITIONS: dict[str, Callable[[int], Numbers]] = {
    "P1": bound_is_cross_entropy,
    "P2": limit_of_random_kernels,
    "P3": terms_of_the_bound,
    "P4": state_of_values,
    "P5": loss_is_information,
    "P6": best_scale_laws,
    "P7": steps_inside_a_scale,
    "P8": redrawing_the_same,
    "P9": redrawing_given_the_rest,
    "P10": collisions_of_results,
    "P11": clean_predictors,
    "P12": loop_is_linear,
    "P13": energy_and_information,
    "P14": weighted_scales,
    "P15": continuous_limit,
    "P16": masks_in_a_network,
    "P17": labels_and_guidance,
    "P18": merging_scales,
}


def failures(numbers: Numbers) -> list[str]:
    """What does not hold, in words; empty if all does."""
    wrong = []
    for name, value in numbers.items():
        if name.startswith("difference"):
            fine = abs(value) <= TOLERANCE
        elif name.startswith("slope"):
            fine = abs(value - 1) <= SLOPE
        else:
            fine = value > VISIBLE
        if not fine or math.isnan(value):
            wrong.append(f"{name}: {value:.3g}")
    return wrong


def check_all(seeds: Sequence[int]) -> dict[str, list[float]]:
    """All propositions on one toy per seed: ``"P1/name"`` to a number per seed."""
    found: dict[str, list[float]] = {}
    for label, check in PROPOSITIONS.items():
        for seed in seeds:
            for name, value in check(seed).items():
                found.setdefault(f"{label}/{name}", []).append(value)
    return found
