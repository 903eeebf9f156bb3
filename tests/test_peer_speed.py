"""The comparison with the public implementation, on a stand-in with its interface."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from srdd.experiments import EXPERIMENTS, Setting
from srdd.peer_speed import PUBLIC, TRAIN, importable, public_suite, revision
from srdd.scales import ScaleSchedule
from srdd.speed import CAUSAL, MARKOV, PLAIN, SHORT
from srdd.tokenizer import TokenizerConfig
from srdd.transformer import TransformerConfig

SCHEDULE = ScaleSchedule((1, 2, 4))
CONFIG = TransformerConfig(2, 32, 2, SCHEDULE, vocab=24, classes=5, mask="causal")
SHAPE = TokenizerConfig(base=32, vocab=24, schedule=SCHEDULE)

STAND_IN = {
    "dist.py": "",
    "models/__init__.py": "",
    "models/vqvae.py": """
        import torch

        class VQVAE(torch.nn.Module):
            def __init__(self, **shape):
                super().__init__()

            def load_state_dict(self, state, strict, assign):
                self.state = state

            @property
            def quantize(self):
                return self

            def img_to_idxBl(self, images):
                return self.own.encode(images)

            def idxBl_to_var_input(self, tokens):
                return self.own.quantize.teacher_inputs(tokens)
    """,
    "models/var.py": """
        import torch
        import dist
        from models.vqvae import VQVAE
        from srdd.checkpoints import from_var
        from srdd.sampling import SampleConfig, ScaleSampler

        class VAR(torch.nn.Module):
            def __init__(self, vae, **shape):
                super().__init__()
                print("I am built")
                self.parts = (vae,)

            def load_state_dict(self, state, strict, assign):
                self.parts[0].own, self.own = from_var(self.parts[0].state, state)

            def forward(self, labels, inputs):
                return self.own(inputs, labels, "dense")

            @torch.no_grad()
            def autoregressive_infer_cfg(self, b, labels, g_seed, cfg, top_k, top_p):
                how = SampleConfig(1 + cfg, top_k=top_k, top_p=top_p)
                vae, seeds = self.parts[0].own, torch.arange(b) + g_seed
                sampler = ScaleSampler(self.own, vae.quantize, labels, seeds, how)
                last = list(vae.quantize.steps(sampler.choose, b))[-1]
                return (vae.decode_map(last.f_hat) + 1) / 2
    """,
}


@pytest.fixture
def folder(tmp_path):
    """A checkout that computes with our networks, loaded from the public names."""
    for name, text in STAND_IN.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    return tmp_path


def test_both_sides_are_compared_and_timed_in_turn(folder, capsys):
    found = public_suite(folder, 2, config=CONFIG, shape=SHAPE, batch=2)
    samplers = [PUBLIC, PLAIN, CAUSAL, MARKOV, SHORT]
    steps = [TRAIN + name for name in samplers[:-1]]
    assert list(found["seconds"]) == samplers + steps
    assert all(len(times) == 2 for times in found["seconds"].values())
    first, other = (found["seconds"][name] for name in (PUBLIC, CAUSAL))
    want = [a / b for a, b in zip(first, other, strict=True)]
    assert found["ratios"][f"{PUBLIC} / {CAUSAL}"] == want
    assert len(found["ratios"]) == len(samplers) + len(steps) - 2
    equal = found["equal"]
    assert equal["tokens"] == 2 * SCHEDULE.length
    assert equal["tokens of the encoder that differ"] == 0
    assert equal["largest difference of a logit"] < 1e-5 < equal["largest logit"]
    assert equal["greedy images, largest difference in steps of 1/255"] < 0.01
    assert all(row["operations"] > 0 for row in found["counts"].values())
    assert capsys.readouterr().out == ""


def test_another_network_would_be_seen(folder):
    path = folder / "models" / "var.py"
    path.write_text(path.read_text().replace('"dense")', '"dense") + 1'))
    equal = public_suite(folder, 1, config=CONFIG, shape=SHAPE)["equal"]
    assert equal["largest difference of a logit"] > 0.9


def test_its_modules_are_forgotten_and_those_of_the_user_come_back(folder, monkeypatch):
    mine = type(sys)("utils")
    monkeypatch.setitem(sys.modules, "utils", mine)
    before = list(sys.path)
    with pytest.raises(ZeroDivisionError), importable(folder):
        import dist

        assert Path(dist.__file__).parent == folder
        raise ZeroDivisionError
    assert sys.path == before and sys.modules["utils"] is mine
    assert "dist" not in sys.modules and "models" not in sys.modules


def test_a_folder_without_it_is_refused_before_anything_is_built(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no models/var\.py .*--root"):
        EXPERIMENTS["var-peer"].measure(Setting(root=str(tmp_path)))


def test_a_checkout_is_named_by_its_commit(folder):
    assert revision(folder) == "unknown"
    run = ("git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*run, *words], check=True)
    assert len(revision(folder)) == 12


@pytest.mark.skipif("SRDD_PEER" not in os.environ, reason="SRDD_PEER names no checkout")
def test_the_public_implementation_itself():
    schedule = ScaleSchedule((1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
    config = TransformerConfig(
        2, 64, 2, schedule, vocab=64, classes=5, mask="causal", drop_path=0.0
    )
    shape = TokenizerConfig(base=32, vocab=64)
    equal = public_suite(os.environ["SRDD_PEER"], 1, config=config, shape=shape)[
        "equal"
    ]
    assert equal["tokens of the encoder that differ"] == 0
    assert equal["largest difference of a logit"] < 1e-5
    assert equal["greedy images, largest difference in steps of 1/255"] < 1
    assert torch.get_default_dtype() == torch.float32
