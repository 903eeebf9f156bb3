"""The suite of published size: equal tokens and losses, whatever is left out."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from srdd import speed
from srdd.fast import PlainSampler, Tally, Timing, plain_decode, plain_training_step
from srdd.sampling import ResamplingPlan, SampleConfig, sample
from srdd.scales import VAR_256, ScaleSchedule
from srdd.speed import CAUSAL, PLAIN, SUITES, WASTES, Models, ours, usual
from srdd.tokenizer import TokenizerConfig
from srdd.transformer import TransformerConfig

SIDES = ScaleSchedule((1, 2, 3, 4))
SMALL = TransformerConfig(2, 64, 2, SIDES, 128, 8, 10, mask="causal")
CODES = TokenizerConfig(3, 32, (1, 2), 1, (1,), 32, 8, 128, 2, SIDES)
SHORT = ScaleSchedule((1, 2, 4))


def models(batch=2, **changes):
    torch.manual_seed(0)
    return Models.of(replace(SMALL, **changes), CODES, SHORT, batch)


def shaped_like_var():
    """All ten scales, five levels of the decoder, everything narrow."""
    torch.manual_seed(1)
    config = TransformerConfig(3, 96, 3, VAR_256, 512, 16, 20, mask="causal")
    shape = TokenizerConfig(3, 32, (1, 1, 1, 1, 2), 1, (4,), 32, 16, 512, 4, VAR_256)
    return Models.of(config, shape, ScaleSchedule((1, 3, 5, 8, 13, 16)), 2)


def as_one(tokens):
    return torch.cat(tokens, 1)


@pytest.mark.parametrize(
    "changes", [{}, {"shared_adaln": True}, {"qk_norm": False}, {"depth": 3}], ids=str
)
@pytest.mark.parametrize("mask", ["causal", "markov"])
def test_the_usual_algorithm_gives_the_tokens_of_the_shipped_sampler(mask, changes):
    given = models(**changes)
    model = speed.sibling(given.causal, mask=mask)
    labels, seeds = torch.tensor([3, 7]), torch.tensor([5, 6])
    for config in (
        SampleConfig(2.5, top_k=60, top_p=0.9),
        SampleConfig(3.0, "constant"),
        SampleConfig(top_p=0.7),
    ):
        plain = PlainSampler(model, given.tokenizer.quantize, labels, seeds, config)
        tokens, f_hat = plain.run()
        made = sample(model, given.tokenizer, labels, config=config, seeds=seeds)
        assert torch.equal(as_one(tokens), as_one(made.tokens))
        images = plain_decode(given.tokenizer, f_hat)
        torch.testing.assert_close(images, made.images, rtol=0, atol=1e-5)


def test_tokens_are_unchanged_by_the_speed_ups_at_the_shape_of_var():
    given = shaped_like_var()
    tokens, f_hat = usual(given)
    shipped, map_ = ours(given, given.causal)
    assert len(tokens) == 10 and as_one(tokens).shape == (2, 680)
    assert torch.equal(as_one(tokens), as_one(shipped))
    images = plain_decode(given.tokenizer, f_hat)
    assert images.shape == (2, 3, 256, 256)
    # an eighth of a grey level: the decoder's sums come in another order
    gap = (images - given.tokenizer.decode_map(map_)).abs().max()
    assert gap < 2 / 255 / 8


def test_the_tokens_depend_on_what_is_compared():
    """Random weights alone would leave every choice to the noise."""
    given = models(8)
    tokens = as_one(usual(given)[0])
    with torch.no_grad():
        given.causal.blocks[1].mlp.fc2.weight.mul_(-1)
    assert not torch.equal(as_one(usual(given)[0]), tokens)


@pytest.mark.parametrize("name", WASTES)
def test_a_waste_removed_alone_leaves_the_tokens(name):
    given = models(shared_adaln=name.startswith("modulation"))
    want = as_one(usual(given)[0])
    assert torch.equal(as_one(usual(given, WASTES[name])[0]), want)


def test_what_is_removed_is_gone():
    given = models()

    def tally(kind):
        with Tally() as counted:
            usual(given, kind)
        return counted

    plain = tally(PlainSampler)
    for name in ("modulation at every scale", "slower products"):
        assert tally(WASTES[name]).calls < plain.calls, name
    for name in WASTES:
        assert tally(WASTES[name]).moved < plain.moved, name


@pytest.mark.parametrize("mask", ["causal", "markov"])
def test_the_usual_training_step_has_the_loss_and_gradients_of_the_shipped(mask):
    given = models(3)
    model = speed.sibling(given.causal, mask=mask)
    images, labels = torch.rand(3, 3, 8, 8) * 2 - 1, torch.tensor([1, 2, 3])
    with torch.no_grad():
        tokens = given.tokenizer.encode(images)
    literal = plain_training_step(model, given.tokenizer, images, labels)
    quantize = given.tokenizer.quantize
    losses, slopes = [], []
    for step in (
        literal,
        speed.cached_step(model, quantize, tokens, labels),
        speed.cached_step(model, quantize, tokens, labels, "dense"),
        speed.dense_step(replace(given, causal=model, labels=labels), tokens),
    ):
        losses.append(step().detach())
        slopes.append([w.grad.clone() for w in model.parameters()])
    for loss, grads in zip(losses[1:], slopes[1:], strict=True):
        torch.testing.assert_close(loss, losses[0], rtol=0, atol=1e-5)
        for one, other in zip(grads, slopes[0], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "settings", "words"),
    [
        ({"mask": "band"}, {}, "got 'band'"),
        ({"mask": "markov", "groups": (1, 2, 1)}, {}, r"\(1, 2, 1\)"),
        ({}, {"temperature": 0.9}, "no such settings"),
        ({}, {"top_k": (1, 2, 3, 4)}, "no such settings"),
        ({}, {"resampling": ResamplingPlan()}, "scale by scale"),
    ],
)
def test_the_usual_algorithm_refuses_what_it_does_not_know(changes, settings, words):
    given = models()
    model = speed.sibling(given.causal, **changes)
    with pytest.raises(ValueError, match=words):
        PlainSampler(
            model,
            given.tokenizer.quantize,
            given.labels,
            given.seeds,
            SampleConfig(**settings),
        )


def test_siblings_share_their_weights():
    given = models()
    assert given.short.config.schedule == SHORT
    one, other = (m.blocks[0].mlp.fc1.weight for m in (given.causal, given.short))
    assert one.data_ptr() == other.data_ptr()


def test_a_view_is_no_operation_and_bytes_are_those_read_and_written():
    x, table, ids = torch.ones(4, 8), torch.ones(100, 8), torch.tensor([1, 2])
    with Tally([table]) as tally:
        y = (x.T + 1).T
        rows = torch.nn.functional.embedding(ids, table)
    assert (tally.calls, tally.views) == (2, 2)  # the sum and the lookup
    assert tally.moved == 2 * x.nbytes + ids.nbytes + 2 * rows.nbytes
    assert tally.peak >= table.nbytes + y.nbytes + rows.nbytes
    with Tally() as tally:
        for _ in range(3):
            torch.ones(1000)
    assert tally.peak == 4000 and tally.now == 0


def test_the_parts_of_the_suite_on_a_small_model(monkeypatch):
    given = models()
    monkeypatch.setattr(speed, "compiler", lambda: None)
    assert speed.compiled_part(given, 2) == {"skipped": "no C++ compiler"}
    sampling = speed.sampling_part(given, 2)
    assert sampling["equal"]["tokens that differ"] == 0
    assert all(len(rounds) == 2 for rounds in sampling["ratios"].values())
    trained = speed.training_part(given, 2)
    three = list(trained["losses"].values())[:3]
    assert three == pytest.approx([three[0]] * 3, abs=1e-5)
    shares = speed.waste_part(given, 2)["shares"]
    assert shares.keys() == WASTES.keys()
    counts = speed.counts(given)
    assert counts[CAUSAL]["operations"] < counts[PLAIN]["operations"]
    assert counts["ours, Markovian 10"]["cache bytes"] == 0
    moved = speed.cast_bytes(given)
    assert moved["cast once"] < moved["cast at every scale"]
    peaks = speed.decode_peaks(given, torch.zeros(1, 8, 4, 4))
    assert peaks.keys() == {"whole batch", "in chunks"}


def test_a_waste_that_changes_tokens_would_be_seen(monkeypatch):
    class Wrong(PlainSampler):
        def filtered(self, logits):
            return -logits

    monkeypatch.setitem(speed.WASTES, "wrong", Wrong)
    with pytest.raises(ValueError, match="wrong: other tokens"):
        speed.waste_part(models(), 1)


def test_memory_by_formula_is_larger_for_the_causal_model():
    for row in speed.memory_part("d16").values():
        assert row["causal / Markovian"] > 1 and row["markov, cache bytes"] == 0
        assert row["causal, cache bytes"] > 0


def test_transformer_and_drawing_at_six_scales_stay_below_two_thousand_operations():
    """Of a sixteen-block model; width and vocabulary do not matter to the count."""
    torch.manual_seed(0)
    six = ScaleSchedule((1, 3, 5, 8, 13, 16))
    config = TransformerConfig(16, 64, 2, VAR_256, 64, 8, 10, mask="causal")
    shape = TokenizerConfig(3, 32, (1, 1), 1, (), 32, 8, 64, 4, VAR_256)
    given = Models.of(config, shape, six, 1)
    with Tally() as tally:
        ours(given, given.short, given.short_codes)
    assert tally.calls <= 2000


def test_a_ratio_is_taken_round_by_round():
    seconds = {"a": [2.0, 4.0], "b": [1.0, 1.0], "c": [1.0, 3.0]}
    assert speed.ratio(seconds, ["a"], ["b"]) == [2.0, 4.0]
    assert speed.ratio(seconds, ["a", "b"], ["c"]) == [3.0, 5 / 3]
    found = speed.summary({"x": {"y": [1.0, 3.0]}, "z": 2})
    assert found["x"]["y"]["median"] == 2.0 and found["z"] == 2


def test_a_result_can_be_read_on_the_screen(monkeypatch, capsys, tmp_path):
    from srdd.cli import main

    given = models()

    def tiny(repeats, keep):
        return {
            "sampling": keep("drawing", lambda: speed.sampling_part(given, repeats)),
            "wastes": speed.waste_part(given, repeats),
            "counts": speed.counts(given),
            "skipped": {"why": "no compiler"},
        }

    monkeypatch.setitem(SUITES, "tiny", tiny)
    out = tmp_path / "bench.json"
    assert main(["bench", "--suite", "tiny", "--repeats", "2", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "sampling, seconds:" in shown and "wastes, shares:" in shown
    line = next(x for x in shown.splitlines() if x.startswith(PLAIN))
    assert len(line.split()) == 3 + 4  # its name, median, quartiles and their number
    assert main(["bench", "--suite", "tiny", "--repeats", "2", "--json"]) == 0
    nested = json.loads(capsys.readouterr().out)
    assert nested.keys() == json.loads(out.read_text()).keys()
    assert nested["sampling"]["ratios"]["decoder, usual / ours"]["n"] == 2
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for words, bar in ((["--json"], False), ([], True)):
        assert main(["bench", "--suite", "tiny", "--repeats", "1", *words]) == 0
        assert ("drawing" in capsys.readouterr().err) == bar


def test_every_suite_has_a_name():
    assert set(SUITES) == {"fashion", "var", "var-gpu"}
    with pytest.raises(ValueError, match="var"):
        speed.run_suite("nothing")
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        speed.run_suite("var", 0)


def test_a_suite_says_what_it_measures_before_it_does():
    def stop(title, part):
        raise InterruptedError(title)

    with pytest.raises(InterruptedError, match="wastes"):
        speed.var_suite(1, keep=stop)


def test_the_fashion_suite_reports_ratios_and_bytes(monkeypatch):
    from srdd.files import shipped_names

    if not {"fashion", "fashion-causal"} <= set(shipped_names()):
        pytest.skip("this checkout has no weights/fashion pair")
    monkeypatch.setattr(
        speed,
        "interleave",
        lambda tasks, repeats: {name: Timing.of([1.0, 1.0]) for name in tasks},
    )
    found = speed.fashion_suite(2)
    assert found["generate_ratio_causal_over_markov"] == 1
    assert found["cache_bytes_64"]["markov"] == 0 < found["cache_bytes_64"]["causal"]
    # plain products keep their scores, the fused dense kernel keeps none (chapter 16):
    # packing 130 tokens saves work on a CPU and no memory
    packed, dense = found["saved_bytes"]["packed"], found["saved_bytes"]["dense"]
    assert 0 < packed < 1.2 * dense
