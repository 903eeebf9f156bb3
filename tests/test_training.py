"""The loop: what a step does, and that a stopped run goes on to the same bit."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

from srdd.cli import main
from srdd.data import colour_shapes, loader
from srdd.files import CheckpointError
from srdd.runs import encode_images
from srdd.scales import ScaleSchedule
from srdd.tokenizer import Tokenizer, TokenizerConfig, TokenizerTask
from srdd.training import (
    TrainConfig,
    Trainer,
    TrainingInterrupted,
    TransformerTask,
    adamw,
    averaged,
    best_dtype,
    drop_labels,
    fit,
    held_interrupts,
    learning_rate,
    random_scale_losses,
    scale_cross_entropy,
    scale_means,
    step_randomness,
    token_losses,
)
from srdd.transformer import ScaleTransformer, TransformerConfig

SCHEDULE = ScaleSchedule((1, 2, 4))
SHAPE = TokenizerConfig(3, 8, (1, 2), 1, (), 4, 4, 16, 2, SCHEDULE)  # 8 x 8 pixels
MODEL = TransformerConfig(2, 16, 2, SCHEDULE, 16, 4, 4, drop_path=0.1)
SHORT = TrainConfig(
    steps=15, batch=24, lr=5e-3, warmup=3, ema=0.9, save_every=5, log_every=1
)


@pytest.fixture(scope="module")
def images():
    return colour_shapes(64, 8, seed=0)


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    return Tokenizer(SHAPE).eval()


@pytest.fixture(scope="module")
def tokens(images, tokenizer):
    with torch.no_grad():
        return encode_images(
            images, tokenizer.encode, sides=SCHEDULE.sides, tokenizer_hash="t"
        )


@pytest.fixture
def task(tokenizer, tokens):
    def make(config=SHORT, seed=0, **changes):
        torch.manual_seed(seed)
        shape = replace(MODEL, classes=len(tokens.classes), **changes)
        return TransformerTask(ScaleTransformer(shape), tokenizer, tokens, config)

    return make


def rows_of(out):
    """The log, without the seconds."""
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def press_at(step):
    """A log callback that presses Ctrl-C."""

    def pressed(now, row):
        if now == step:
            raise KeyboardInterrupt

    return pressed


def equal(one, two):
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Line:
    """A task of one weight, for known answers; may break at given steps."""

    def __init__(self, broken=()):
        self.modules = {"model": nn.ParameterDict({"w": nn.Parameter(torch.zeros(2))})}
        self.broken = broken

    def batches(self, start):
        step = start
        while True:
            yield torch.tensor([3.0 + math.sin(step), -1.0])
            step += 1

    def losses(self, target, step):
        loss = 0.5 * (self.modules["model"]["w"] - target).square().sum()
        return {"model": loss * (math.nan if step in self.broken else 1)}, {}

    def after(self, step, optimizers):
        """Nothing to do."""


# -------------------------------------------------------------- stop and go on
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"dtype": "bfloat16"},
        {"scale_share": (1.0, 0.5, 0.25)},
        {"label_drop": 0.5, "seed": 3},
    ],
)
def test_a_run_stopped_in_mid_epoch_goes_on_to_the_same_bit(tmp_path, task, change):
    config = replace(SHORT, **change)  # 64 images, 24 a step: epochs end inside steps
    whole = fit(task(config), config, tmp_path / "a", progress=False)
    with pytest.raises(TrainingInterrupted, match="step 7.*same command.*resume"):
        stop = press_at(7)
        fit(task(config), config, tmp_path / "b", on_log=stop, progress=False)
    resumed = fit(task(config, seed=9), config, tmp_path / "b", progress=False)
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    assert equal(whole, resumed)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_tokenizer_goes_on_to_the_same_bit_with_any_workers(
    tmp_path, images, workers
):
    config = replace(SHORT, steps=8, batch=20, workers=workers, save_every=3)

    def make():
        torch.manual_seed(1)
        return TokenizerTask(
            Tokenizer(SHAPE),
            lambda at: loader(images, 20, 0, at, workers=workers, augment=True),
            restart_until=7,
            restart_every=2,
        )

    whole = fit(make(), replace(config, workers=0), tmp_path / "a", progress=False)
    with pytest.raises(TrainingInterrupted):
        fit(make(), config, tmp_path / "b", on_log=press_at(5), progress=False)
    resumed = fit(make(), config, tmp_path / "b", progress=False)
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    assert equal(whole, resumed)


def test_a_longer_run_may_take_up_a_shorter_one(tmp_path, task):
    fit(task(), SHORT, tmp_path, progress=False)
    longer = replace(SHORT, steps=18)
    fit(task(longer), longer, tmp_path, progress=False)
    assert [row["step"] for row in rows_of(tmp_path)] == list(range(1, 19))


def test_a_finished_run_is_not_trained_again(tmp_path, task):
    first = fit(task(), SHORT, tmp_path, progress=False)
    again = fit(task(seed=5), SHORT, tmp_path, progress=False)
    assert equal(first, again) and len(rows_of(tmp_path)) == 15


def test_never_resume_starts_anew(tmp_path):
    fit(Line(), SHORT, tmp_path, progress=False)
    task = Line()
    fit(task, replace(SHORT, lr=1e-9), tmp_path, resume="never", progress=False)
    assert task.modules["model"]["w"].abs().max() < 1e-6


def test_a_state_of_another_run_is_refused(tmp_path, task):
    fit(task(), SHORT, tmp_path, progress=False)
    other = replace(SHORT, lr=1e-3, steps=30)
    with pytest.raises(CheckpointError, match="lr.*0.005.*0.001.*another out"):
        fit(task(other), other, tmp_path, progress=False)
    fit(task(), replace(SHORT, steps=16), tmp_path, progress=False)  # still works


def test_a_state_of_other_tokens_or_another_network_is_refused(
    tmp_path, task, tokens, tokenizer
):
    whole = fit(task(), SHORT, tmp_path, progress=False)
    other = replace(tokens, fingerprint="other images")
    model = ScaleTransformer(replace(MODEL, classes=len(tokens.classes)))
    for made in (
        TransformerTask(model, tokenizer, other, SHORT),
        task(mask="causal"),
    ):
        with pytest.raises(CheckpointError, match="learned from.*--resume never"):
            fit(made, SHORT, tmp_path, progress=False)
    short = replace(SHORT, steps=10)
    with pytest.raises(CheckpointError, match=r"'steps': \(15, 10\)"):
        fit(task(short), short, tmp_path, progress=False)
    assert equal(whole, fit(task(), SHORT, tmp_path, progress=False))


def test_a_new_run_leaves_no_states_of_the_old_one(tmp_path, task):
    fit(task(), SHORT, tmp_path, progress=False)
    with pytest.raises(TrainingInterrupted, match="step 7"):
        fit(task(), SHORT, tmp_path, resume="never", on_log=press_at(7), progress=False)
    found = sorted(p.name for p in (tmp_path / "states").glob("step-*"))
    assert found == ["step-00000005", "step-00000007"]


@pytest.mark.parametrize(
    "change",
    [
        {"clip": -1.0},
        {"warmup": -1},
        {"workers": -1},
        {"weight_decay": -1.0},
        {"lr": "0.1"},
        {"lr": math.nan},
        {"betas": 0.9},
        {"betas": (0.9, 1.5)},
        {"scale_share": (0.5, -1.0)},
        {"steps": 2.5},
        {"ema": 1.0},
    ],
)
def test_training_settings_out_of_range_are_named(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"{name}.*must be"):
        replace(SHORT, **change)


def test_a_damaged_newest_state_gives_way_to_the_one_before(tmp_path, task):
    whole = fit(task(), SHORT, tmp_path / "a", progress=False)
    fit(task(), SHORT, tmp_path / "b", progress=False)
    newest = max((tmp_path / "b" / "states").glob("step-*"))
    data = (newest / "state.safetensors").read_bytes()
    (newest / "state.safetensors").write_bytes(data[:-100])
    again = fit(task(seed=4), SHORT, tmp_path / "b", progress=False)
    assert equal(whole, again) and rows_of(tmp_path / "a") == rows_of(tmp_path / "b")


def test_two_states_are_kept(tmp_path):
    fit(Line(), SHORT, tmp_path, progress=False)
    names = sorted(p.name for p in (tmp_path / "states").iterdir())
    assert names == ["step-00000010", "step-00000015"]


# ------------------------------------------------------------------- Ctrl-C
def test_ctrl_c_waits_for_the_end_of_the_step(tmp_path):
    class Pressed(Line):
        def losses(self, target, step):
            if step == 6:
                signal.raise_signal(signal.SIGINT)  # in the middle of a step
            return super().losses(target, step)

    whole = fit(Line(), SHORT, tmp_path / "a", progress=False)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterrupted, match="after step 7"):
        fit(Pressed(), SHORT, tmp_path / "b", progress=False)
    assert signal.getsignal(signal.SIGINT) is before
    assert equal(whole, fit(Line(), SHORT, tmp_path / "b", progress=False))


def test_a_second_ctrl_c_leaves_at_once():
    with pytest.raises(SystemExit), held_interrupts() as pressed:
        signal.raise_signal(signal.SIGINT)
        assert pressed == [signal.SIGINT]
        signal.raise_signal(signal.SIGINT)


def test_training_runs_in_a_thread_too(tmp_path):
    done = []
    run = threading.Thread(
        target=lambda: done.append(fit(Line(), SHORT, tmp_path, progress=False))
    )
    run.start()
    run.join()
    assert len(done) == 1


def test_a_killed_run_goes_on_to_the_same_bit(tmp_path):
    """SIGKILL at step 8, after the state of step 5 was saved."""
    code = """
    import os, signal, sys
    sys.path.insert(0, {tests!r})
    from test_training import SHORT, Line, fit
    def kill(step, row):
        if step == 8:
            os.kill(os.getpid(), signal.SIGKILL)
    fit(Line(), SHORT, {out!r}, on_log=kill, progress=False)
    """
    code = textwrap.dedent(code).format(
        tests=os.path.dirname(__file__), out=str(tmp_path / "b")
    )
    ended = subprocess.run([sys.executable, "-c", code], timeout=120)
    assert ended.returncode == -signal.SIGKILL
    whole = fit(Line(), SHORT, tmp_path / "a", progress=False)
    assert equal(whole, fit(Line(), SHORT, tmp_path / "b", progress=False))
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")


# --------------------------------------------------------------- not a number
def test_a_broken_step_is_skipped_and_counted(tmp_path):
    task = Line(broken=[4, 9])
    fit(task, SHORT, tmp_path, progress=False)
    skipped = [row["step"] for row in rows_of(tmp_path) if "skipped" in row]
    assert skipped == [5, 10]
    assert task.modules["model"]["w"].isfinite().all()


def test_many_broken_steps_in_a_row_stop_the_run(tmp_path):
    task, config = Line(broken=range(6, 99)), replace(SHORT, max_bad_steps=3)
    with pytest.raises(
        ValueError, match="nan for 3 steps in a row, at step 8.*lower lr"
    ):
        fit(task, config, tmp_path, progress=False)
    assert task.modules["model"]["w"].isfinite().all()
    healed = fit(Line(), config, tmp_path, progress=False)  # from step 5
    assert healed["w"].isfinite().all()


# ------------------------------------------------------------ parts of a step
def test_a_step_equals_the_literal_one(reference, tmp_path, task):
    literal = reference("08_training")["train_reference"]
    config = replace(SHORT, weight_decay=0.0, label_drop=0.0, clip=0.5)
    first, second = task(config, drop_path=0.0), task(config, drop_path=0.0)
    trainer = Trainer(first, config, tmp_path)
    for batch, _ in zip(first.batches(0), range(config.steps), strict=False):
        trainer.train_step(batch)
        trainer.step += 1
    wanted = literal(second, config, lambda step: learning_rate(step, config))
    for a, b in zip(first.model.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_the_learning_rate_warms_up_and_ends_at_its_share():
    config = TrainConfig(steps=1000, lr=2.0, warmup=100, final_lr=0.1)
    rates = [learning_rate(step, config) for step in range(1000)]
    assert rates[0] == pytest.approx(0.02) and rates[99] == rates[100] == 2.0
    assert all(a > b for a, b in zip(rates[100:], rates[101:], strict=False))
    assert rates[550] == pytest.approx(1.1)  # half way between 2 and 0.2
    assert learning_rate(1000, config) == pytest.approx(0.2)
    assert learning_rate(5, replace(config, warmup=0)) > 1.9


def test_the_average_has_a_short_memory_at_first(reference):
    literal = reference("08_training")["ema_reference"]
    model = nn.Linear(1, 1, bias=False)
    shadow, path = averaged(model, 0.8), []
    for step in range(60):
        value = math.sin(step)
        nn.init.constant_(model.weight, value)
        shadow.update_parameters(model)
        path.append(value)
        assert shadow.module.weight.item() == pytest.approx(
            literal(path, 0.8), abs=1e-5
        )


def test_matrices_decay_and_nothing_else(task):
    model = task().model
    decay, rest = adamw(model, SHORT).param_groups
    names = {id(p): n for n, p in model.named_parameters()}
    decayed = {names[id(p)] for p in decay["params"]}
    free = {names[id(p)] for p in rest["params"]}
    assert decayed | free == set(names.values()) and not decayed & free
    assert all(p.squeeze().ndim > 1 for p in decay["params"])
    assert not [n for n in decayed if "bias" in n or "position" in n or "norm" in n]
    assert any("qkv" in n for n in decayed)
    codes = adamw(Tokenizer(SHAPE), SHORT).param_groups[1]["params"]
    assert any(p.shape == (16, 4) for p in codes)  # the codebook


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_weights_in_half_precision_are_refused_and_the_repair_trains(
    images, task, tmp_path, kind
):
    def stream(start):
        return loader(images, 24, 0, start_step=start)

    config = replace(SHORT, steps=3)
    autocast = replace(config, dtype=kind)
    for made in (TokenizerTask(Tokenizer(SHAPE), stream), task(config)):
        model = made.modules["model"].to(getattr(torch, kind))
        for asked in (config, autocast):
            with pytest.raises(
                ValueError, match=rf'float\(\).*dtype="{kind}"\).*autocast'
            ):
                fit(made, asked, tmp_path / "half", progress=False)
        assert not (tmp_path / "half").exists()
        model.float()
        out = tmp_path / type(made).__name__
        trained = fit(made, autocast, out, progress=False)
        assert all(weight.isfinite().all() for weight in trained.parameters())


def test_a_tokenizer_trains_by_command_in_half_precision(tmp_path):
    words = [
        "train-tokenizer",
        "shapes",
        "--dtype",
        "bfloat16",
        "--out",
        tmp_path / "t",
    ]
    words += ["--size", "8", "--vocab", "16", "--steps", "3", "--batch", "6"]
    assert main([*map(str, words)]) == 0
    weights = Tokenizer.from_pretrained(tmp_path / "t").state_dict().values()
    assert all(weight.isfinite().all() for weight in weights)


def test_draws_of_a_step_depend_on_seed_and_step_only():
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    draws = {}
    for seed, step in ((0, 1), (0, 2), (1, 1), (0, 1)):
        with step_randomness(seed, step):
            draw = torch.rand(4)
        assert torch.equal(draws.setdefault((seed, step), draw), draw)
    assert len({tuple(x.tolist()) for x in draws.values()}) == 3
    assert torch.equal(torch.rand(2), wanted)


def test_labels_are_dropped_at_the_given_rate():
    labels = torch.arange(8).repeat(5000)
    dropped = drop_labels(labels, 8, 0.3)
    share = (dropped == 8).double().mean().item()
    assert share == pytest.approx(0.3, abs=4 * (0.21 / 40_000) ** 0.5)
    assert (dropped[dropped < 8] == labels[dropped < 8]).all()
    assert torch.equal(drop_labels(labels, 8, 0.0), labels)
    assert (drop_labels(labels, 8, 1.0) == 8).all()


def test_the_cpu_computes_in_float32_unless_told():
    assert best_dtype("cpu") == "float32"


# ----------------------------------------------------------------- the losses
def test_the_loss_is_the_mean_over_all_tokens(task, tokenizer, tokens):
    config = replace(SHORT, label_drop=0.0)
    one = task(config)
    one.model.eval()
    ids, labels = next(iter(one.batches(0)))
    loss = one.losses((ids, labels), 0)[0]["model"]
    with torch.no_grad():
        inputs = tokenizer.quantize.teacher_inputs(SCHEDULE.split(ids))
        logits = one.model(inputs, labels).log_softmax(-1)
    by_hand = -logits.gather(-1, ids[..., None]).mean()
    torch.testing.assert_close(loss.detach(), by_hand)


def test_random_scales_are_unbiased_and_exact_when_nothing_is_left_out(task, tokenizer):
    one = task()
    model = one.model.eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("head"):
                weight.normal_(std=0.5)
        ids, labels = next(iter(one.batches(0)))
        inputs = tokenizer.quantize.teacher_inputs(SCHEDULE.split(ids))
        full = scale_means(token_losses(model(inputs, labels), ids), SCHEDULE.counts)
        everything = random_scale_losses(model, inputs, ids, labels, (1.0,) * 3)
        torch.testing.assert_close(everything, full, rtol=0, atol=1e-5)
        draws = torch.stack(
            [
                random_scale_losses(model, inputs, ids, labels, (0.5, 0.3, 0.1))
                for _ in range(400)
            ]
        )
    error = draws.std(0) / 400**0.5
    assert (error > 0).all() and ((draws.mean(0) - full).abs() < 4 * error).all()


def test_cross_entropy_does_not_depend_on_the_batch(task, tokenizer, tokens):
    model = task().model
    whole = scale_cross_entropy(model, tokenizer, tokens, batch=64)
    for batch in (1, 7, 50):
        torch.testing.assert_close(
            scale_cross_entropy(model, tokenizer, tokens, batch), whole
        )


def test_a_fresh_model_knows_little_and_a_trained_one_its_images(
    tmp_path, tokenizer, tokens
):
    few = replace(tokens, tokens=tokens.tokens[:8], labels=tokens.labels[:8])
    config = TrainConfig(150, 8, lr=1e-2, warmup=10, ema=0.9, label_drop=0.0)
    torch.manual_seed(0)
    shape = replace(MODEL, width=48, classes=len(tokens.classes), drop_path=0.0)
    one = TransformerTask(ScaleTransformer(shape), tokenizer, few, config)
    start = scale_cross_entropy(one.model, tokenizer, few)
    assert (start - math.log(16)).abs().max() < 0.6
    trained = fit(one, config, tmp_path, progress=False)
    assert scale_cross_entropy(trained, tokenizer, few)[1:].max() < 0.35


def test_the_saved_grid_is_asked_for_at_each_state(tmp_path):
    seen = []
    fit(
        Line(),
        SHORT,
        tmp_path,
        on_save=lambda step, model: seen.append((step, model.training)),
        progress=False,
    )
    assert seen == [(5, False), (10, False), (15, False)]


# ----------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps.*0"),
        ({"batch": 0}, "batch"),
        ({"save_every": 0}, "save_every"),
        ({"lr": 0.0}, "lr must be"),
        ({"lr": math.nan}, "lr must be"),
        ({"label_drop": 1.5}, "label_drop.*1.5"),
        ({"ema": 1.0}, "ema"),
        ({"dtype": "int8"}, "dtype.*int8"),
    ],
)
def test_a_config_refuses(change, words):
    with pytest.raises(ValueError, match=words):
        replace(SHORT, **change)


def test_what_does_not_fit_together_is_refused(task, tokenizer, tokens):
    share = replace(SHORT, scale_share=(1.0, 0.5, 0.5))
    with pytest.raises(ValueError, match="markov mask.*causal"):
        task(share, mask="causal")
    with pytest.raises(ValueError, match="3 numbers"):
        task(replace(SHORT, scale_share=(1.0, 0.5)))
    with pytest.raises(ValueError, match="differ in vocab: 32 and 16"):
        task(vocab=32)
