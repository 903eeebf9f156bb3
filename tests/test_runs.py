"""Runs: what is left behind is whole, of this run, and gone on with."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace

import pytest
import torch

from srdd.data import FASHION_CLASSES, ImageSet, fashion_slice
from srdd.files import (
    CheckpointError,
)
from srdd.runs import (
    TrainLog,
    check_same_run,
    encode_images,
    latest_state,
    load_state,
    load_tokens,
    prune_states,
    save_state,
    save_tokens,
    token_fingerprint,
)


def test_resume_files_round_trip_and_the_newest_whole_one_counts(tmp_path):
    tensors = {"a": torch.randn(3), "n": torch.tensor(7)}
    for step in (1, 2, 3):
        save_state(tmp_path / f"step-{step:08d}", tensors, {"step": step})
    got, facts = load_state(latest_state(tmp_path))
    assert facts == {"step": 3} and all(
        torch.equal(got[k], tensors[k]) for k in tensors
    )
    (tmp_path / "step-00000003" / "state.safetensors").write_bytes(b"")
    assert latest_state(tmp_path).name == "step-00000002"
    prune_states(tmp_path / "step-00000003", keep=1)
    assert [p.name for p in tmp_path.glob("step-*")] == ["step-00000003"]
    assert latest_state(tmp_path / "nowhere") is None


def test_a_resume_file_with_infinite_numbers_loads_as_it_is(tmp_path):
    odd = {"adam.model.0.exp_avg_sq": torch.tensor([1.0, math.inf])}
    folder = save_state(tmp_path / "step-00000001", odd, {"step": 1})
    assert torch.equal(
        *(x["adam.model.0.exp_avg_sq"] for x in (odd, load_state(folder)[0]))
    )


SAVER = """
import sys, torch
from srdd.runs import save_state
step = 0
while True:
    step += 1
    save_state(f"{sys.argv[1]}/step-{step:08d}", {"x": torch.full((20_000,), step)}, {})
    print(step, flush=True)
"""


def test_a_save_that_is_killed_leaves_the_one_before(tmp_path):
    chance = random.Random(0)
    for trial in range(4):
        root = tmp_path / str(trial)
        command = [sys.executable, "-c", SAVER, str(root)]
        saver = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ)
        assert saver.stdout.readline()
        for _ in range(5):  # stopped at a random moment is killed at that moment
            time.sleep(chance.uniform(0, 0.03))
            saver.send_signal(signal.SIGSTOP)
            found = latest_state(root)
            got, _ = load_state(found)
            assert got["x"].unique().tolist() == [int(found.name[5:])]
            saver.send_signal(signal.SIGCONT)
        saver.kill()
        saver.wait()
        saver.stdout.close()
        assert load_state(latest_state(root))


def shrink(images: torch.Tensor) -> list[torch.Tensor]:
    """A stand-in for a tokenizer: 1 + 4 ids per image."""
    small = torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)
    ids = ((small + 1) * 100).long()
    return [ids[:, :1], ids]


def tokens(images: ImageSet, **options):
    return encode_images(images, shrink, sides=(1, 2), tokenizer_hash="t", **options)


def test_tokens_do_not_depend_on_the_batch_and_flips_double_them():
    images = fashion_slice().subset(range(20))
    made = tokens(images, flips=True, batch=7)
    assert made.tokens.shape == (40, 5) and len(made.labels) == 40
    assert torch.equal(made.tokens, tokens(images, flips=True).tokens)
    ids, labels = made.batch([(0, 3), (1, 23)])
    assert ids.dtype == torch.int64 and labels[0] == labels[1]
    mirrored = images.batch([3])[0].flip(-1)
    assert torch.equal(ids[1], torch.cat(shrink(mirrored), 1)[0])


def test_a_token_file_round_trips_and_knows_what_it_was_made_from(tmp_path):
    images = fashion_slice().subset(range(20))
    made, path = tokens(images), tmp_path / "tokens.safetensors"
    save_tokens(path, made)
    want = token_fingerprint(images, "t", False)
    got = load_tokens(path, want)
    assert torch.equal(got.tokens.int(), made.tokens.int()) and got.sides == (1, 2)
    assert got.classes == FASHION_CLASSES and torch.equal(got.labels, made.labels)
    for other in (
        token_fingerprint(images, "other", False),
        token_fingerprint(images, "t", True),
        token_fingerprint(fashion_slice(), "t", False),
    ):
        with pytest.raises(ValueError, match="another tokenizer"):
            load_tokens(path, other)


def test_a_file_that_holds_no_tokens_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.safetensors"):
        load_tokens(tmp_path / "none.safetensors")
    (tmp_path / "x.safetensors").write_text("x")
    with pytest.raises(CheckpointError, match="x.safetensors"):
        load_tokens(tmp_path / "x.safetensors")


def test_a_log_that_a_crash_cut_off_is_gone_on_with(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "a": 1.0}\n{"step": 5, "a": 1.0}\n{"step": 2, "se')
    TrainLog(path, 3).write(4, {"a": 2.0})
    assert [json.loads(line)["step"] for line in path.open()] == [1, 4]


def test_states_of_an_earlier_run_go_with_the_first_of_a_new_one(tmp_path):
    for step in (6, 8, 4):
        made = save_state(tmp_path / f"step-{step:08d}", {"a": torch.ones(1)}, {})
    assert len(list(tmp_path.glob("step-*"))) == 3
    prune_states(made)
    assert [p.name for p in tmp_path.glob("step-*")] == ["step-00000004"]


@dataclass(frozen=True)
class Settings:
    steps: int = 10
    lr: float = 0.1
    workers: int = 0


@pytest.mark.parametrize(
    ("change", "mark", "said"),
    [
        ({"lr": 0.2}, "a", r"'lr': \(0.1, 0.2\)"),
        ({"steps": 5}, "a", r"'steps': \(8, 5\)"),
        ({}, "b", "'learned from': 'other images"),
    ],
)
def test_the_state_of_another_run_is_refused(tmp_path, change, mark, said):
    facts = {"step": 8, "config": asdict(Settings()), "mark": "a"}
    check_same_run(tmp_path, facts, Settings(steps=20, workers=3), "a")
    with pytest.raises(CheckpointError, match=said):
        check_same_run(tmp_path, facts, replace(Settings(), **change), mark)
    del facts["mark"]  # of a version that wrote none
    check_same_run(tmp_path, facts, Settings(), "anything")
