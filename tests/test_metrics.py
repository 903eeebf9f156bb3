"""Measures: equal to the literal ones, blind where they must be, strict."""

import math
import weakref
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import pytest
import torch
import torch.nn.functional as F

from srdd.data import colour_shapes, fashion_slice, permutation
from srdd.features import shipped_judge
from srdd.metrics import (
    FeatureMoments,
    Judge,
    JudgeConfig,
    Reference,
    accuracy,
    blur,
    check_features,
    class_scores,
    evaluate,
    features_of,
    fidelity,
    frechet_distance,
    in_batches,
    inception_score,
    kid,
    mmd,
    nearest_distance,
    neighbour_scores,
    paired_test,
    radii,
    relative_fd,
    score,
    ssim,
    student_tails,
    yardsticks,
)
from srdd.tokenizer import FeatureLoss


def cloud(n, d=6, seed=0, **changes):
    """Correlated features, ``(n, d)`` float64."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix
    return x * changes.get("scale", 1) + changes.get("shift", 0)


def moments_of(mean, covariance, count=1000):
    """Moments of given mean and covariance."""
    mean = torch.as_tensor(mean, dtype=torch.float64)
    covariance = torch.as_tensor(covariance, dtype=torch.float64)
    return FeatureMoments(count, mean, (count - 1) * covariance)


EYE = torch.eye(2, dtype=torch.float64)
PLAIN = torch.zeros(2, 1, 12, 12)


class Thumbnail:
    """A feature network without weights: the image at 4 x 4 pixels."""

    name, width = "thumbnail", 16

    def __call__(self, images):
        return F.adaptive_avg_pool2d(images.mean(1, keepdim=True), 4).flatten(1)

    def classify(self, features):
        return torch.stack((features.sum(1), -features.sum(1)), 1)


@pytest.fixture(scope="module")
def halves():
    return fashion_slice().split(0.5, seed=0)


# ------------------------------------------------------------- the distances
@pytest.mark.parametrize("cuts", [(1, 299), (100, 100, 100), (299, 1), (2,) * 150])
def test_moments_of_parts_join_to_the_moments_of_the_whole(cuts):
    x = cloud(300, shift=1e4)  # large means lose digits in naive sums
    first, *rest = (FeatureMoments.of(part) for part in x.split(cuts))
    joined = sum(rest, start=first)
    whole = FeatureMoments.of(x)
    assert joined.count == 300
    torch.testing.assert_close(joined.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(joined.covariance, x.T.cov(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_frechet_distance_equals_the_literal_one(reference, seed):
    literal = reference("14_evaluation")["frechet_reference"]
    x, y = cloud(400, seed=seed), cloud(300, seed=seed + 50, shift=0.3, scale=1.4)
    got = frechet_distance(FeatureMoments.of(x), FeatureMoments.of(y))
    assert got == pytest.approx(literal(x, y), rel=1e-6)
    back = frechet_distance(FeatureMoments.of(y), FeatureMoments.of(x))
    assert back == pytest.approx(got, rel=1e-9)


def test_frechet_distance_of_known_normal_laws():
    a = moments_of([0.0, 0.0], [[1.0, 0.0], [0.0, 4.0]])
    b = moments_of([3.0, 1.0], [[9.0, 0.0], [0.0, 4.0]])
    assert frechet_distance(a, b) == pytest.approx(9 + 1 + 4, abs=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    turned = [moments_of(turn @ m.mean, turn @ m.covariance @ turn.T) for m in (a, b)]
    assert frechet_distance(*turned) == pytest.approx(14, abs=1e-9)


def test_a_covariance_without_full_rank_does_no_harm():
    x = cloud(200)
    flat = torch.cat((x, x[:, :1], torch.zeros(200, 1)), 1)
    moments = FeatureMoments.of(flat)
    assert frechet_distance(moments, moments) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_equals_the_double_loop(reference):
    literal = reference("14_evaluation")["mmd_reference"]
    x, y = cloud(25), cloud(18, seed=1)
    assert mmd(x, y).item() == pytest.approx(literal(x, y), rel=1e-10)


def test_kernel_distance_is_unbiased():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(3000, 2, 20, 3, generator=generator, dtype=torch.float64)
    values = torch.stack([mmd(x, y) for x, y in draws])
    assert values.mean().abs() < 4 * values.std() / len(values) ** 0.5
    assert (values < 0).any()  # nothing is clipped


def test_kid_is_the_mean_over_disjoint_parts():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 1000, 4, generator=generator).unbind(0)
    y = y + 0.4
    value, error = kid(x, y)
    assert value > 5 * error > 0
    assert kid(x, y) == (value, error)  # the shuffle has a seed
    assert kid(x, y, seed=1) != (value, error)
    two, _ = kid(x, y, blocks=2)
    assert two == pytest.approx(value, rel=0.5)


# ------------------------------------------------------------ the neighbours
@pytest.mark.parametrize("k", [1, 5])
def test_neighbour_scores_equal_brute_force_for_any_chunk(reference, k):
    literal = reference("14_evaluation")["coverage_reference"]
    real, fake = cloud(60, 3), cloud(45, 3, seed=9)
    scores = neighbour_scores(real, fake, k)
    assert scores["coverage"] == literal(real, fake, k)
    assert scores["recall"] == pytest.approx(
        _inside(fake, real, k).any(0).double().mean()
    )
    inside = _inside(real, fake, k)  # (balls, queries)
    assert scores["precision"] == pytest.approx(inside.any(0).double().mean().item())
    assert scores["density"] == pytest.approx(inside.sum().item() / (k * 45))
    for chunk in (7, 13, 59):
        assert neighbour_scores(real, fake, k, chunk) == scores


def _inside(points, queries, k):
    """Which balls of `points` hold which queries, one distance at a time."""
    radius = torch.cdist(points, points).sort(1).values[:, k]
    return torch.cdist(points, queries) <= radius[:, None]


def test_a_set_covers_itself_and_a_missing_kind_is_seen():
    real = torch.cat((cloud(100, 2), cloud(100, 2, shift=40)))
    assert neighbour_scores(real, real)["coverage"] == 1
    scores = neighbour_scores(real, real[:100])
    assert scores["precision"] == 1 and scores["coverage"] == 0.5


def test_copies_are_near():
    train, new = cloud(300), cloud(50, seed=7)
    assert nearest_distance(train[:9], train).max() < 1e-5
    wanted = torch.cdist(new, train).min(1).values
    torch.testing.assert_close(nearest_distance(new, train, chunk=11), wanted)


def test_frechet_and_kernel_are_blind_where_the_chapter_says():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(4000, 4, generator=generator)
    coin = torch.randint(2, (4000, 4), generator=generator) * 2.0 - 1
    d = frechet_distance(FeatureMoments.of(real), FeatureMoments.of(coin))
    values = []
    for _ in range(40):
        a = torch.randn(200, 4, generator=generator)
        b = torch.randint(2, (200, 4), generator=generator) * 2.0 - 1
        values.append(mmd(a.double(), b.double()))
    values = torch.stack(values)
    assert d < 0.02 and values.mean().abs() < 4 * values.std() / 40**0.5
    assert neighbour_scores(real, coin)["coverage"] < 0.2


# ------------------------------------------------------------------- the classes
@pytest.mark.parametrize("splits", [2, 5, 10])
def test_inception_score_equals_the_library(splits):
    isc = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 3 * cloud(500, 7)
    mean, sd = inception_score(logits, splits=splits)
    order = permutation(500, 0, 0)
    wanted = isc.isc_features_to_metric(logits[order], splits=splits, shuffle=False)
    assert mean == pytest.approx(wanted["inception_score_mean"], rel=1e-9)
    scale = (splits / (splits - 1)) ** 0.5  # the library divides by n, we by n - 1
    assert sd == pytest.approx(wanted["inception_score_std"] * scale, rel=1e-9)


def test_frechet_distance_equals_the_library():
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    x, y = cloud(400), cloud(350, seed=3, shift=0.5)
    stats = [fid.fid_features_to_statistics(z) for z in (x, y)]
    key = "frechet_inception_distance"
    wanted = fid.fid_statistics_to_metric(*stats, verbose=False)[key]
    got = frechet_distance(FeatureMoments.of(x), FeatureMoments.of(y))
    assert got == pytest.approx(wanted, rel=1e-6)


def test_kernel_distance_equals_the_library():
    module = pytest.importorskip("torch_fidelity.metric_kid")
    x, y = cloud(80), cloud(80, seed=3, shift=0.5)
    wanted = module.kernel_mmd(x.numpy(), y.numpy(), kid_kernel="poly")
    assert mmd(x, y).item() == pytest.approx(float(wanted), rel=1e-9)


# ------------------------------------------------------------------- the pairs
@pytest.mark.parametrize("shape", [(2, 1, 11, 11), (1, 3, 14, 13)])
def test_ssim_equals_the_windows_one_by_one(reference, shape):
    literal = reference("14_evaluation")["ssim_reference"]
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(shape, generator=generator) - 1
    y = (x + 0.3 * torch.randn(shape, generator=generator)).clamp(-1, 1)
    for one, got in enumerate(ssim(x, y)):
        pairs = zip(x[one], y[one], strict=True)
        wanted = torch.stack([literal(a, b) for a, b in pairs]).mean()
        assert got.item() == pytest.approx(wanted.item(), abs=1e-9)


def test_ssim_is_symmetric_and_one_for_equal_images():
    x, y = 2 * torch.rand(2, 4, 1, 16, 16) - 1
    torch.testing.assert_close(ssim(x, y), ssim(y, x))
    torch.testing.assert_close(ssim(x, x), torch.ones(4, dtype=torch.float64))
    assert (ssim(x, y) < 0.5).all()


def test_fidelity_is_per_image_and_independent_of_the_batches():
    photos = fashion_slice().batch(range(30))[0]
    soft = blur(photos)
    loss = FeatureLoss(lambda x: [x, F.avg_pool2d(x, 2)])
    whole = fidelity(soft, photos, perceptual=loss.each)
    parts = fidelity(soft.split(7), photos.split(7), perceptual=loss.each)
    assert list(whole) == ["psnr", "ssim", "perceptual"]
    for name, values in whole.items():
        assert values.shape == (30,)
        torch.testing.assert_close(values, parts[name], rtol=1e-5, atol=1e-6)
    error = (soft - photos).double().square().flatten(1).mean(1)
    torch.testing.assert_close(
        whole["psnr"], 10 * (4 / error).log10(), rtol=1e-6, atol=0
    )
    mean = whole["perceptual"].mean().float()
    torch.testing.assert_close(loss(soft, photos), mean, rtol=1e-5, atol=1e-6)
    assert list(fidelity(photos, photos)) == ["psnr", "ssim"]
    both = fidelity(soft, photos, one=loss.each, two=lambda a, b: a.flatten(1).sum(1))
    assert list(both) == ["psnr", "ssim", "one", "two"]


def test_few_pairs_are_exchanged_in_all_ways():
    a = torch.tensor([3.0, 1.0, 2.0])
    assert paired_test(a, 0 * a)[2] == 2 / 8  # all signs alike: the two extremes
    mean, error, p = paired_test(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0]))
    assert mean == 0 and error == 1 and p == 1
    gap = torch.tensor([5.0, -1.0])  # sums -6, -4, 4, 6; seen 4
    assert paired_test(gap, 0 * gap)[2] == 1


def test_the_paired_test_keeps_its_level_and_finds_shifts():
    generator = torch.Generator().manual_seed(0)
    for n in (8, 50):
        draws = torch.randn(400, n, generator=generator, dtype=torch.float64)
        p = [paired_test(x, 0 * x)[2] for x in draws]
        share = sum(v < 0.05 for v in p) / 400
        assert share < 0.05 + 4 * (0.05 * 0.95 / 400) ** 0.5
    x = torch.randn(50, generator=generator) + 1
    assert paired_test(x, 0 * x)[2] < 1e-6
    same = torch.ones(20)
    assert paired_test(same, same)[2] == 1
    assert paired_test(same, 0 * same)[2] < 1e-9  # no scatter, and not 0


@pytest.mark.parametrize(
    ("t", "freedom", "p"),  # of tables of Student's law
    [(2.179, 12, 0.05), (2.201, 11, 0.05), (3.055, 12, 0.01), (1.962, 1000, 0.05)],
)
def test_the_tails_of_students_law(t, freedom, p):
    assert student_tails(t, freedom) == pytest.approx(p, rel=2e-3)
    assert student_tails(-t, freedom) == student_tails(t, freedom)
    assert student_tails(0.0, freedom) == 1


# ---------------------------------------------------------------- the images
def test_blur_is_a_normalised_gaussian_that_repeats_the_border():
    flat = torch.full((2, 3, 8, 8), 0.25)
    torch.testing.assert_close(blur(flat), flat)
    x = torch.randn(1, 2, 9, 9, dtype=torch.float64)
    taps = torch.exp(-0.5 * (torch.arange(-3, 4, dtype=torch.float64) / 0.7) ** 2)
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    padded = F.pad(x, (3,) * 4, mode="replicate")
    wanted = F.conv2d(padded, kernel.expand(2, 1, 7, 7), groups=2)
    torch.testing.assert_close(blur(x), wanted, rtol=0, atol=1e-12)


def test_features_do_not_depend_on_the_batches(halves):
    photos, labels = halves[0].batch(range(120))
    net = Thumbnail()
    whole = features_of(net, photos)
    for size in (1, 50, 119):
        assert torch.equal(features_of(net, photos.split(size)), whole)
    some = halves[0].subset(list(range(120)))
    assert torch.equal(features_of(net, some), whole)
    reference = Reference.of(net, halves[1].batch(range(100))[0])
    labels = torch.zeros(120, dtype=torch.int64)
    once = evaluate(net, photos, reference, labels)
    again = evaluate(net, iter(photos.split(7)), reference, labels)
    assert once == pytest.approx(again, rel=1e-9)
    assert once["images"] == 120 and 0 <= once["accuracy"] <= 1


def test_two_processes_measure_what_one_does(halves):
    judge, photos = shipped_judge("cpu"), halves[0].batch(range(200))[0]
    reference = Reference.of(judge, halves[1].batch(range(200))[0])
    labels = halves[0].labels[:200]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        parts = list(pool.map(partial(features_of, judge), photos.split(110)))
    found = score(judge, torch.cat(parts), reference, labels)
    alone = evaluate(judge, photos, reference, labels)
    assert found == pytest.approx(alone, rel=1e-4, abs=1e-5)
    joined = FeatureMoments.of(parts[0]) + FeatureMoments.of(parts[1])
    distance = frechet_distance(joined, FeatureMoments.of(reference.real))
    assert distance == pytest.approx(alone["fd"], rel=1e-5)


def test_no_more_than_a_batch_of_pixels_is_held():
    alive = weakref.WeakSet()
    most = []

    def stream():
        for i in range(20):
            batch = torch.full((5, 1, 16, 16), i / 20)
            alive.add(batch)
            most.append(len(alive))
            yield batch

    class Grid(Thumbnail):
        def __call__(self, images):  # makes fresh tensors, as any network does
            return super().__call__(images) + 0

    assert features_of(Grid(), stream()).shape == (100, 16)
    assert len(fidelity(stream(), stream())["psnr"]) == 100
    assert max(most) <= 2 * 3  # what is made, what is handed on, what is measured
    assert len(most) == 60


def test_measures_do_not_depend_on_the_device(device):
    x, y, logits = cloud(300), cloud(280, seed=1, shift=0.3), 3 * cloud(300, 7)
    labels = torch.arange(300) % 7

    def measured(where):
        a, b, p = (z.to(where) for z in (x, y, logits))
        yield frechet_distance(*(FeatureMoments.of(z) for z in (a, b)))
        yield from kid(a, b)
        yield from neighbour_scores(a, b).values()
        yield nearest_distance(a, b).mean().item()
        yield from inception_score(p)
        yield accuracy(p, labels)

    assert list(measured(device)) == pytest.approx(list(measured("cpu")), rel=1e-6)


def test_stored_photographs_are_counted_as_copies(halves):
    net, (known, new) = Thumbnail(), halves
    reference = Reference.of(net, new, train=features_of(net, known))
    mixed = torch.cat((known.batch(range(100))[0], new.batch(range(300))[0]))
    found = evaluate(net, mixed, reference)
    assert 0.25 <= found["copies"] <= 0.28  # 100 copies of 400, and 1 % of the rest
    assert found["neighbour"] > 0.5  # the median hides them
    assert evaluate(net, new, reference)["copies"] <= 0.01


def test_a_small_reference_gives_no_frechet_distance_and_all_the_rest(halves):
    net, photos = Thumbnail(), halves[0].batch(range(30))[0]
    small = Reference.of(net, photos[:16])  # as many images as features
    assert math.isnan(small.unit)
    found = evaluate(net, photos, small, k=3, blocks=5)
    assert {"fd", "rel_fd"}.isdisjoint(found) and "kid_1000" in found
    assert not any(math.isnan(value) for value in found.values())
    full = Reference.of(net, photos)
    with pytest.raises(ValueError, match="12 images for 16 features"):
        evaluate(net, photos[:12], full, k=3, blocks=5)


def test_classes_of_another_network_give_no_accuracy(halves):
    net = Thumbnail()
    photos, labels = halves[0].batch(range(60))
    reference = Reference.of(net, photos)
    net.foreign = True
    found = evaluate(net, photos, reference, labels)
    assert "accuracy" not in found and found["is"] >= 1
    with pytest.raises(ValueError, match=r"labels \(59,\) for 60 images"):
        evaluate(net, photos, reference, labels[:59])


def test_yardsticks_stand_in_order(halves):
    judge = Judge.from_pretrained("judge")
    reference = Reference.of(judge, halves[0], features_of(judge, halves[1]))
    known = yardsticks(judge, reference, *halves)
    order = [known[name]["rel_fd"] for name in ("test", "train", "blur", "noise")]
    assert order == sorted(order) and order[0] == pytest.approx(0, abs=1e-6)
    assert known["blur"]["rel_fd"] == pytest.approx(1, abs=1e-6)
    assert known["train"]["neighbour"] == pytest.approx(0, abs=1e-3)  # its own copies
    assert known["test"]["neighbour"] == pytest.approx(1, abs=1e-6)
    assert known["noise"]["accuracy"] < 0.3 < 0.9 < known["test"]["accuracy"]


# ----------------------------------------------------------------- the judge
def test_a_judge_survives_its_folder(tmp_path):
    torch.manual_seed(0)
    judge = Judge(JudgeConfig(channels=3, side=16, widths=(8, 12), classes=4)).eval()
    judge.save_pretrained(tmp_path / "j", data="none")
    back = Judge.from_pretrained(tmp_path / "j")
    x = torch.rand(5, 3, 16, 16)
    assert torch.equal(back.logits(x), judge.logits(x))
    assert back.width == 12 and back.config == judge.config


def test_the_shipped_judge_names_clothes():
    judge, (photos, labels) = (
        Judge.from_pretrained("judge"),
        fashion_slice().batch(range(0, 1000, 4)),
    )
    assert accuracy(judge.logits(photos), labels) > 0.9


# ----------------------------------------------------------------- bad input
def test_features_that_cannot_be_measured_are_refused():
    bad = cloud(10)
    bad[3, 2] = math.nan
    for x, words in (
        (bad, r"NaN or infinity in 1 of 10"),
        (cloud(1), "give more images"),
        (cloud(4)[0], r"want \(n, d\)"),
    ):
        with pytest.raises(ValueError, match=words):
            check_features(x, "features")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: frechet_distance(*(FeatureMoments.of(cloud(6)),) * 2), "6 images"),
        (
            lambda: frechet_distance(
                FeatureMoments.of(cloud(50, 3)), FeatureMoments.of(cloud(50, 4))
            ),
            "3 and 4 features",
        ),
        (
            lambda: FeatureMoments.of(cloud(5, 3)) + FeatureMoments.of(cloud(5, 4)),
            "one network",
        ),
        (lambda: kid(cloud(30), cloud(30, 5)), "one width"),
        (lambda: kid(cloud(30), cloud(30), blocks=1), "blocks must be .*at least 2"),
        (lambda: kid(cloud(15), cloud(30)), "give more images"),
        (lambda: neighbour_scores(cloud(30), cloud(30), k=0), "k must be"),
        (lambda: neighbour_scores(cloud(30), cloud(4), k=5), "give more images"),
        (lambda: relative_fd(1.0, 0.0), "unit must be"),
        (lambda: relative_fd(1.0, math.nan), "unit must be"),
        (lambda: blur(torch.zeros(1, 1, 4, 4), 0.0), "sigma must be"),
        (lambda: accuracy(torch.zeros(3, 4), torch.tensor([0, 1, 4])), "0..4.*knows 4"),
        (lambda: accuracy(torch.zeros(3, 4), torch.tensor([0, 1])), "for 3 images"),
        (
            lambda: accuracy(torch.full((3, 4), math.nan), torch.tensor([0, 1, 2])),
            "logits has NaN or infinity in 3 of 3",
        ),
        (lambda: accuracy(torch.zeros(0, 4), torch.zeros(0)), "give more images"),
        (lambda: nearest_distance(cloud(0), cloud(9)), "give more images"),
        (lambda: nearest_distance(cloud(9), math.nan * cloud(9)), "points has NaN"),
        (lambda: kid(math.nan * cloud(30), cloud(30)), "x has NaN or infinity in 30"),
        (lambda: neighbour_scores(cloud(30), math.inf * cloud(30)), "fake has NaN"),
        (lambda: FeatureMoments.of(math.nan * cloud(30)), "NaN or infinity in 30"),
        (lambda: fidelity([], []), "images has no images"),
        *(
            (
                lambda of=of: fidelity(*torch.zeros(2, 40, 1, 12, 12), d=of),
                words,
            )
            for of, words in (
                (lambda a, b: a.flatten(1).sum(1)[:2], "d has shape .2, 1.*n >= 40"),
                (lambda a, b: a.flatten(1), "d has shape .40, 1, 144"),
                (lambda a, b: a.flatten(1).sum(1) / 0, "d has NaN or infinity in 40"),
            )
        ),
        (lambda: list(in_batches(torch.full((1, 1, 4, 4), 3.0))), r"want \[-1, 1\]"),
        (lambda: list(in_batches(torch.full((1, 1, 4, 4), math.nan))), "nan"),
        (lambda: features_of(Thumbnail(), []), "no images"),
        (lambda: ssim(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)), "from 11"),
        (
            lambda: ssim(torch.zeros(2, 1, 12, 12), torch.zeros(1, 1, 12, 12)),
            "one shape",
        ),
        (
            lambda: fidelity(torch.zeros(5, 1, 12, 12), torch.zeros(4, 1, 12, 12)),
            "pair",
        ),
        (
            lambda: fidelity(torch.zeros(300, 1, 12, 12), torch.zeros(250, 1, 12, 12)),
            "pair up, got batches .50.* and None",
        ),
        (lambda: inception_score(torch.zeros(19, 3)), "give more images"),
        (
            lambda: inception_score(torch.zeros(40, 3), splits=1),
            "splits must be .*at least 2.*got 1",
        ),
        (
            lambda: inception_score(torch.zeros(40, 3), splits=0),
            "splits must be .*at least 2.*got 0",
        ),
        (lambda: mmd(math.nan * cloud(9), cloud(9)), "x has NaN or infinity in 9"),
        (lambda: mmd(cloud(1), cloud(9)), "x has shape .1, .*give more images"),
        (lambda: mmd(cloud(9, 4), cloud(9, 5)), "x and y have 4 and 5 features"),
        (
            lambda: neighbour_scores(cloud(9, 4), cloud(9, 5)),
            "real and fake have 4 and 5 features",
        ),
        (
            lambda: nearest_distance(cloud(9, 4), cloud(9, 5)),
            "queries and points have 4 and 5 features",
        ),
        (lambda: radii(cloud(4), 4), "points has shape .4, .*n >= 5.*give more"),
        (lambda: radii(cloud(4), 0), "k must be at least 1.*got 0"),
        (lambda: radii(cloud(4), 2.5), "k must be .* whole number, got 2.5"),
        (lambda: kid(cloud(40), cloud(40), blocks=2.5), "blocks must be .*got 2.5"),
        (lambda: kid(cloud(40) + 1j, cloud(40)), "complex.*, want .n, d., real"),
        (lambda: inception_score(cloud(40), splits=2.5), "splits must be .*got 2.5"),
        (lambda: relative_fd(math.nan, 1.0), "distance finite, got 1.0 and nan"),
        (lambda: relative_fd(1.0, math.inf), "unit must be positive"),
        (
            lambda: features_of(Thumbnail(), torch.zeros(0, 3, 16, 16)),
            "shape .0, 3, 16, 16.: no images",
        ),
        (lambda: Reference.of(Thumbnail(), []), "images has no images"),
        (
            lambda: Reference.of(Thumbnail(), torch.zeros(0, 3, 16, 16)),
            "shape .0, 3, 16, 16.: no images",
        ),
        (
            lambda: accuracy(torch.zeros(3, 4), torch.tensor([0.0, 1.0, 2.0])),
            "labels has .*float32.*integer class id",
        ),
        (
            lambda: ssim(torch.full((1, 1, 12, 12), 2.0), torch.zeros(1, 1, 12, 12)),
            r"fake have values 2..2, want \[-1, 1\]",
        ),
        (
            lambda: ssim(
                torch.zeros(1, 1, 12, 12), torch.full((1, 1, 12, 12), math.nan)
            ),
            "real have values nan",
        ),
        (lambda: inception_score(torch.full((40, 3), math.nan)), "NaN"),
        (lambda: paired_test(torch.zeros(3), torch.zeros(4)), "want pairs"),
        (lambda: paired_test(torch.zeros(1), torch.zeros(1)), "n >= 2"),
        (lambda: paired_test(torch.tensor([1, math.nan]), torch.zeros(2)), "NaN"),
        (lambda: Judge(JudgeConfig())(torch.zeros(2, 3, 32, 32)), "judge wants"),
        *(
            (lambda c=c: neighbour_scores(cloud(9), cloud(9), chunk=c), words)
            for c, words in (
                (0, "chunk must be at least 1, a whole number, got 0"),
                (-3, "chunk .*got -3"),
                (2.5, "chunk .*got 2.5"),
            )
        ),
        (lambda: radii(cloud(9), 5, chunk=0), "chunk .*got 0"),
        (lambda: nearest_distance(cloud(9), cloud(9), chunk=0), "chunk .*got 0"),
        (lambda: next(in_batches(PLAIN, batch=0)), "batch .*got 0"),
        (lambda: neighbour_scores(cloud(9), cloud(9), k=None), "k must be.*got None"),
        (lambda: kid(cloud(30, 0), cloud(30, 0)), "shape .30, 0.*d >= 1"),
        (lambda: FeatureMoments.of(torch.zeros(9, 0)), "features has .*d >= 1"),
        (lambda: accuracy(torch.zeros(3, 0), torch.zeros(3).long()), "d >= 1"),
        (lambda: moments_of([math.nan, 0], EYE), "mean has NaN"),
        (lambda: moments_of([0, 0], math.inf * EYE), "scatter has NaN or inf.* 2 of 2"),
        (
            lambda: moments_of([0, 0], EYE[:1]),
            "scatter's rows and columns have 1 and 2",
        ),
        (lambda: moments_of([0, 0, 0], EYE), "mean and scatter have 3 and 2 features"),
        (lambda: FeatureMoments(0, EYE[0], EYE), "count must be at least 1.*got 0"),
        (lambda: FeatureMoments(9, [0.0, 0.0], EYE), "mean must be a tensor, got list"),
        *(
            (
                lambda bad=bad: frechet_distance(
                    FeatureMoments(9, EYE[0], bad), FeatureMoments(9, EYE[0], EYE)
                ),
                "scatter is no sum of outer products",
            )
            for bad in (-EYE, 1 - 3 * EYE)
        ),
        (lambda: FeatureMoments(1, EYE[0], EYE).covariance, "count .* least 2.*got 1"),
        *(
            (lambda of=of: of(cloud(30).numpy()), "must be a tensor, got ndarray")
            for of in (
                FeatureMoments.of,
                lambda x: kid(x, cloud(30)),
                lambda x: mmd(cloud(30), x),
                lambda x: radii(x, 5),
                lambda x: nearest_distance(cloud(30), x),
                lambda x: inception_score(x),
                lambda x: accuracy(x, torch.zeros(30).long()),
                lambda x: blur(x),
                lambda x: ssim(x, PLAIN),
                lambda x: ssim(PLAIN, x),
                lambda x: fidelity(x, PLAIN),
                lambda x: list(in_batches(x)),
                lambda x: features_of(Thumbnail(), x),
                lambda x: evaluate(Thumbnail(), x, None),
                lambda x: Reference.of(Thumbnail(), x),
                lambda x: Judge(JudgeConfig())(x),
            )
        ),
        (lambda: accuracy(torch.zeros(2, 4), [0, 1]), "labels must .*got list"),
        (
            lambda: class_scores(Thumbnail(), cloud(9), [0] * 9),
            "labels must .*got list",
        ),
        (lambda: paired_test([1.0, 2.0], torch.zeros(2)), "a must be .*got list"),
        (lambda: paired_test(torch.zeros(2), [1.0, 2.0]), "b must be .*got list"),
        (lambda: list(in_batches(None)), "images must be a tensor, got NoneType"),
        (lambda: list(in_batches([[0.0]])), "images must be a tensor, got list"),
        (lambda: list(in_batches(PLAIN[0])), "shape .1, 12, 12.*want .b, c, H, W"),
        (lambda: list(in_batches(torch.tensor(0.0))), "want .b, c, H, W"),
        (lambda: blur(PLAIN[0]), "shape .1, 12, 12"),
        (lambda: blur(PLAIN, math.inf), "sigma must be.*got inf"),
        *(
            (lambda name=name: fidelity(PLAIN, PLAIN, **{name: PLAIN.sub}), words)
            for name, words in (
                ("psnr", "got 'psnr'.*psnr and ssim are taken"),
                ("ssim", "got 'ssim'"),
                ("", "got ''"),
                ("my distance", "got 'my distance'"),
            )
        ),
        (lambda: fidelity(PLAIN, PLAIN, lpips="LPIPS"), "got 'lpips' as str"),
        (lambda: fidelity(PLAIN, PLAIN, d=lambda a, b: 0.5), "d must .*got float"),
        (
            lambda: fidelity(PLAIN, PLAIN, d=lambda a, b: (a - b).mean()),
            "d has shape .1, 1.*n >= 2",
        ),
        (
            lambda: fidelity(PLAIN, PLAIN, d=lambda a, b: torch.zeros(3)),
            "d: 3 rows for 2 images",
        ),
        *(
            (lambda w=w: Judge(JudgeConfig(widths=w)), "widths")
            for w in ((), (8, 0), (8, -1))
        ),
        (lambda: JudgeConfig(classes=0), "classes"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_training_images_among_the_held_out_ones_are_refused(halves):
    net = Thumbnail()
    features = features_of(net, halves[0])
    with pytest.raises(ValueError, match="lies in train"):
        Reference.of(net, halves[0], train=features)


def test_a_network_that_loses_images_is_named():
    class Lossy(Thumbnail):
        name = "lossy"

        def __call__(self, images):
            return super().__call__(images[1:])

    images = colour_shapes(4, 16, seed=0).batch(range(4))[0]
    with pytest.raises(ValueError, match="lossy: 3 rows for 4 images"):
        features_of(Lossy(), images)


@pytest.mark.parametrize("width", [8, 17, 0])
def test_a_network_whose_width_is_not_its_own_is_named(width):
    net = Thumbnail()
    net.width, images = width, colour_shapes(4, 16, seed=0).batch(range(4))[0]
    with pytest.raises(ValueError, match=rf"thumbnail: .*\(4, 16\), .*width {width}"):
        features_of(net, images)
    net.width = 16  # nothing was remembered of the refusal
    assert features_of(net, images).shape == (4, 16)


@pytest.mark.parametrize("answer", [[1.0], torch.tensor(1.0), torch.zeros(4, 16, 1)])
def test_a_network_that_gives_no_rows_is_named(answer):
    class Odd(Thumbnail):
        name = "odd"

        def __call__(self, images):
            return answer

    with pytest.raises(ValueError, match="odd"):
        features_of(Odd(), colour_shapes(4, 16, seed=0).batch(range(4))[0])


def test_every_image_counts(halves):
    net, photos = Thumbnail(), halves[0].batch(range(103))[0]
    reference = Reference.of(net, halves[1].batch(range(101))[0])
    before = evaluate(net, photos, reference)
    measures = "fd rel_fd kid_1000 is density"
    for i in (0, 50, 102):  # a block of KID or IS, or a chunk, may not leave one out
        other = photos.clone()
        other[i] = -photos[i]
        after = evaluate(net, other, reference)
        assert after["images"] == 103
        assert all(after[name] != before[name] for name in measures.split()), i


def test_a_network_that_answers_nonsense_is_named():
    class Broken(Thumbnail):
        name = "broken"

        def __call__(self, images):
            return super().__call__(images) / 0

    images = colour_shapes(4, 16, seed=0).batch(range(4))[0]
    with pytest.raises(ValueError, match="broken features"):
        features_of(Broken(), images)
