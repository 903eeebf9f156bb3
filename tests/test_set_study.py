"""The study of colour photographs: one set, trained and measured end to end."""

from dataclasses import replace

import pytest
import torch

from srdd import set_study
from srdd.data import colour_shapes
from srdd.experiments import PHOTOGRAPHS, Setting, measure_set, measure_set_floors
from srdd.set_study import SETS, SetStudy, planned

VALUES = (
    "training set/images",
    "held-out images/accuracy",
    "training images/rel_fd",
    "64 codes/psnr_db",
    "no quantizer/psnr_db",
    "markov/rel_fd",
    "causal/cross_entropy, scale 3",
    "markov minus causal/accuracy",
    "Markovian, 4 of 4/rel_fd",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory, shape_files):
    """Shapes as files, one folder per class and part."""
    return shape_files(tmp_path_factory.mktemp("data"), 400, 12)


@pytest.fixture
def shapes(monkeypatch):
    """A plan for them, and its name."""
    network = {"depth": 1, "width": 16, "heads": 1, "steps": 8, "batch": 8}
    plan = replace(
        SETS["cifar10"],
        on_cpu={},
        title="shapes",
        folder="Shapes",
        side=12,
        sides=(1, 2, 3),
        judge_steps=4,
        tokenizer={"steps": 4, "batch": 8},
        transformer=network,
        samples=140,
        vocab=64,
        base=8,
    )
    monkeypatch.delenv("SRDD_FAST", raising=False)
    monkeypatch.setitem(SETS, "shapes", plan)
    monkeypatch.setitem(set_study.SHAPE, "norm_groups", 4)
    monkeypatch.setattr("srdd.set_study.SEEDS", (0, 1))
    monkeypatch.setattr("srdd.experiments.SEEDS", (0, 1))
    return "shapes"


def test_a_set_is_studied_from_files_to_values(shapes, root, tmp_path, monkeypatch):
    told = Setting(root=str(root), work=str(tmp_path))
    found = measure_set(shapes, told)
    assert found["tier"] == "tiny model" and found["seeds"] == [0, 1]
    for key in VALUES:
        assert key in found["values"], key
    assert found["values"]["training set/images"]["mean"] == 200
    assert found["values"]["markov/images"] == {"mean": 140.0, "sd": 0.0, "n": 2}
    assert all(value["mean"] == value["mean"] for value in found["values"].values())
    assert (tmp_path / shapes / "pictures.png").is_file()
    for name in ("studies.fit", "tokenizer_study.fit", "set_study.train_judge"):
        monkeypatch.setattr(f"srdd.{name}", lambda *a, **k: pytest.fail("trained"))
    set_study.study_of.cache_clear()
    again = set_study.finished(shapes, str(tmp_path / shapes), str(root), "cpu")
    check_tokens_and_loss(again)


def test_floors_need_no_network_but_the_judge(shapes, root, tmp_path, monkeypatch):
    told = Setting(root=str(root), work=str(tmp_path))
    for name in ("studies.fit", "tokenizer_study.fit"):
        monkeypatch.setattr(f"srdd.{name}", lambda *a, **k: pytest.fail("trained"))
    found = measure_set_floors(shapes, told)
    for key in ("training set/images", *VALUES[1:3], "held-out images, blurred/rel_fd"):
        assert key in found["values"], key
    assert found["values"]["held-out images/rel_fd"]["mean"] == pytest.approx(
        0, abs=1e-6
    )
    monkeypatch.setattr(
        "srdd.set_study.train_judge", lambda *a, **k: pytest.fail("twice")
    )
    assert measure_set_floors(shapes, told) == found


def check_tokens_and_loss(study):
    """Mirror images are learned, not tested; the loss is of all classes."""
    assert len(study.tokens(study.train)) == 2 * len(study.train)
    held = study.tokens(study.test)
    assert len(held) == len(study.test) and len(held.labels.unique()) == 4
    saved = study.run(study.variants["causal"], 0)[-1]
    assert (saved / "cross-entropy-1000000.json").is_file()


def test_the_two_networks_differ_in_their_mask_alone(shapes, root, tmp_path):
    study = SetStudy.__new__(SetStudy)
    study.plan, study.device = SETS[shapes], "cpu"
    markov, causal = study.variants.values()
    assert replace(markov, mask="causal") == causal != markov


def test_a_trial_is_short_and_says_that_it_is_one(monkeypatch):
    monkeypatch.setenv("SRDD_FAST", "1")
    for name in PHOTOGRAPHS:
        for device, width in (("cpu", 32), ("cuda", 192)):
            plan = planned(name, device)
            assert plan.tier == "toy" and plan.transformer["steps"] == 40
            assert plan.transformer["width"] == width
        monkeypatch.delenv("SRDD_FAST")
        assert planned(name, "cuda") == SETS[name]
        assert (planned(name, "cpu") != SETS[name]) == bool(SETS[name].on_cpu)
        monkeypatch.setenv("SRDD_FAST", "1")


def test_a_set_that_is_not_there_is_named(shapes, tmp_path):
    tokenizers = set_study.SetTokenizers(SETS[shapes], tmp_path, str(tmp_path), "cpu")
    with pytest.raises(FileNotFoundError, match="Shapes"):
        tokenizers.opened("train")


def test_pixels_are_those_of_the_files(shapes, root, tmp_path):
    tokenizers = set_study.SetTokenizers(SETS[shapes], tmp_path, str(root), "cpu")
    real, found = colour_shapes(200, 12, 0), tokenizers.train
    assert found.classes == tuple(sorted(real.classes))
    label = found.classes.index("disc")
    rows = (found.labels == label).nonzero()[:, 0]
    mine = real.source[real.labels == real.classes.index("disc")]
    assert torch.equal(found.source[rows], mine)
