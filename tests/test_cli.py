"""The command line, as a new user meets it: folders of photos, mistakes, JSON."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from srdd import cli
from srdd.attention import MASKS
from srdd.cli import build_parser, main, names, schedule_for
from srdd.data import centre, fashion_slice, open_images, read_image
from srdd.features import NETS, moments_of
from srdd.figures import to_pil
from srdd.files import CheckpointError
from srdd.pipeline import Pipeline
from srdd.sampling import (
    GUIDANCE_RULES,
    RESAMPLING_LAWS,
    RESAMPLING_RULES,
    SAMPLING_PRESETS,
)
from srdd.speed import SUITES
from srdd.transformer import ScaleTransformer

VERBS = (
    "sample edit reconstruct train-tokenizer slim-decoder tokenize train info convert "
    "eval bench experiment report"
).split()


def run(*words: object) -> dict:
    """Run a verb in this process with --json; return what it printed."""
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main([*map(str, words), "--json"])
    assert code == 0, words
    return json.loads(out.getvalue())


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Colour JPEGs of mixed sizes, one class per sub-folder."""
    root = tmp_path_factory.mktemp("photos")
    for c, name in enumerate(("disc", "square", "stripe")):
        (root / name).mkdir()
        for i in range(12):
            size = (40 + 7 * i, 70 - 3 * i)
            image = Image.new("RGB", size, (20 * i, 90, 60 * c))
            draw = ImageDraw.Draw(image)
            box = (8, 8, 26 + i, 26 + i)
            if c == 0:
                draw.ellipse(box, fill=(250, 20 * i, 0))
            elif c == 1:
                draw.rectangle(box, fill=(0, 250, 20 * i))
            else:
                draw.line((0, 0, *size), fill=(255, 255, 255), width=5)
            image.save(root / name / f"{i}.jpg")
    return root


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory) -> Path:
    """Tokenizer `tok` and model `model`, trained by commands for a few steps."""
    root = tmp_path_factory.mktemp("trained")
    small = {"tokenizer": {"base": 8, "norm_groups": 4, "code_width": 4}}
    (root / "small.json").write_text(json.dumps(small))
    run(
        "train-tokenizer",
        photos,
        "--out",
        root / "tok",
        "--size",
        16,
        "--vocab",
        16,
        "--steps",
        3,
        "--batch",
        6,
        "--config",
        root / "small.json",
    )
    run(
        "train",
        photos,
        "--tokenizer",
        root / "tok",
        "--out",
        root / "model",
        "--steps",
        3,
        "--batch",
        6,
        "--depth",
        1,
        "--width",
        16,
        "--heads",
        2,
    )
    return root


CHOICES = {
    "--guidance-rule": GUIDANCE_RULES,
    "--rule": RESAMPLING_RULES,
    "--law": RESAMPLING_LAWS,
}
"""Options of ``srdd sample``, and what may stand behind them."""


def test_help_names_every_choice_that_the_library_has(capsys):
    assert (cli.PASS_RULES, cli.PASS_LAWS) == (RESAMPLING_RULES, RESAMPLING_LAWS)
    assert cli.GUIDANCE_RULES == GUIDANCE_RULES and cli.MASKS == MASKS
    assert cli.SUITES == tuple(SUITES)
    for verb, known in (
        ("sample", [*CHOICES.values(), SAMPLING_PRESETS, ("fast", "balanced", "best")]),
        ("train", [MASKS]),
        ("bench", [SUITES]),
    ):
        with pytest.raises(SystemExit):
            build_parser().parse_args([verb, "--help"])
        said = re.findall(r"[\w-]+", capsys.readouterr().out)
        assert not {name for names in known for name in names} - set(said), verb


def test_every_option_of_every_verb_says_what_it_does():
    (verbs,) = (a for a in build_parser()._actions if a.dest == "verb")
    for name, parser in verbs.choices.items():
        silent = [action.dest for action in parser._actions if not action.help]
        assert not silent, (name, silent)


def test_every_verb_has_help(capsys):
    for verb in VERBS:
        with pytest.raises(SystemExit) as stop:
            build_parser().parse_args([verb, "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        for option in ("--seed", "--device", "--dtype", "--out", "--json", "--debug"):
            assert option in text, (verb, option)


def test_a_slim_decoder_comes_as_a_whole_model_with_the_same_tokens(trained, photos):
    out, model = trained / "slim", trained / "with-presets"
    teacher = Pipeline.from_pretrained(trained / "model")
    teacher.presets = {"fast": replace(teacher.sampling, guidance=1.5)}
    teacher.save_pretrained(model)
    found = run(
        "slim-decoder",
        model,
        photos,
        "--base",
        4,
        "--maps",
        8,
        "--steps",
        2,
        "--batch",
        4,
        "--sharpen",
        "--out",
        out,
    )
    assert found["share_of_teacher"] < 0.5 and "sharpened_by" in found
    assert Pipeline.from_pretrained(out).presets == teacher.presets != {}
    both = [Pipeline.from_pretrained(x) for x in (trained / "model", out)]
    noise = torch.Generator().manual_seed(0)
    wide, slim = (p("disc", generator=noise, output_type="pt") for p in both)
    assert all(map(torch.equal, wide.tokens, slim.tokens))
    assert not torch.equal(wide.images, slim.images)


def test_training_and_sampling_on_my_own_photos(trained, tmp_path):
    made = run("sample", trained / "model", "--count", 2, "--out", tmp_path / "g.png")
    assert made["images"] == 6 and Image.open(tmp_path / "g.png").size[0] > 30
    one = run(
        "sample",
        trained / "model",
        "--classes",
        "square",
        "--count",
        1,
        "--out",
        tmp_path / "s.png",
        "--separate",
        tmp_path / "each",
    )
    assert one["images"] == 1 and len(list((tmp_path / "each").iterdir())) == 1
    free = run(
        "sample",
        trained / "model",
        "--classes",
        "none",
        "--count",
        3,
        "--out",
        tmp_path / "n.png",
    )
    assert free["images"] == 3


def test_the_same_seed_draws_the_same_picture_in_any_batch(trained, tmp_path):
    for batch in (1, 4):
        run(
            "sample",
            trained / "model",
            "--seed",
            7,
            "--batch",
            batch,
            "--count",
            2,
            "--out",
            tmp_path / f"{batch}.png",
        )
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "4.png").read_bytes()


def test_reconstruct_reports_decibels(trained, photos, tmp_path):
    made = run("reconstruct", trained / "tok", photos, "--out", tmp_path / "r.png")
    assert made["psnr_worst_db"] <= made["psnr_db"]


def test_tokens_can_be_cached(trained, photos, tmp_path):
    path = tmp_path / "tokens.safetensors"
    made = run("tokenize", photos, "--tokenizer", trained / "tok", "--out", path)
    assert made["images"] == 36 and path.exists()
    run(
        "train",
        photos,
        "--tokenizer",
        trained / "tok",
        "--tokens",
        path,
        "--out",
        tmp_path / "model",
        "--steps",
        2,
        "--batch",
        6,
        "--depth",
        1,
        "--width",
        16,
        "--heads",
        2,
    )


def test_training_continues_where_it_stopped(trained, photos, tmp_path):
    words = (
        "train",
        photos,
        "--tokenizer",
        trained / "tok",
        "--batch",
        6,
        "--depth",
        1,
        "--width",
        16,
        "--heads",
        2,
        "--save-every",
        2,
    )
    run(*words, "--out", tmp_path / "a", "--steps", 4)
    log = tmp_path / "a-training" / "log.jsonl"
    before = log.read_text()
    run(*words, "--out", tmp_path / "a", "--steps", 4)
    assert log.read_text() == before, "a finished run has nothing left to do"


def test_a_trained_model_can_be_tuned_on_other_images(trained, photos, tmp_path):
    made = run(
        "train",
        photos,
        "--tokenizer",
        trained / "tok",
        "--init",
        trained / "model",
        "--out",
        tmp_path / "tuned",
        "--steps",
        1,
        "--batch",
        6,
    )
    assert made["steps"] == 1
    run(
        "train-tokenizer",
        photos,
        "--init",
        trained / "tok",
        "--out",
        tmp_path / "tok",
        "--steps",
        1,
        "--batch",
        6,
    )


def test_info_counts_what_is_there(trained):
    facts = run("info", trained / "model")
    assert facts["tokens_per_image"] == sum(s * s for s in facts["sides"])
    assert facts["cache_bytes_per_image"] == 0
    assert facts["image_shape"] == [3, 16, 16]


class Thumbnail:
    """A feature network without weights: the image at 4 x 4 pixels."""

    name, width, foreign = "thumbnail", 48, True

    def __init__(self, device="cpu"):
        self.device = device

    def __call__(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)

    def stages(self, images):
        return [images]


@pytest.fixture
def many(tmp_path, monkeypatch) -> Path:
    """Sixty photos in the three classes of `trained`, and a quick network."""
    monkeypatch.setitem(NETS, "efficientnet", Thumbnail)
    noise = torch.Generator().manual_seed(0)
    for i in range(60):
        folder = tmp_path / "many" / ("disc", "square", "stripe")[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (20, 24, 3), generator=noise, dtype=torch.uint8)
        pixels[..., i % 3] //= 4
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    return tmp_path / "many"


def test_my_model_is_measured_on_my_own_images(trained, photos, many, capsys):
    words = ("eval", trained / "model", "--data", many)
    found = run(*words)
    assert found["features"] == "thumbnail"
    sets = found["sets"]
    alike = "samples, as many as a half"
    columns = ["samples", "reconstructed", "real halves", alike, "blurred", "noise"]
    assert list(sets) == columns
    assert sets[alike]["images"] == 30 and "rel-FD" not in sets[alike]
    assert set(sets[alike]) == set(sets["real halves"])
    assert sets["samples"]["images"] == 60 and sets["real halves"]["images"] == 30
    assert sets["blurred"]["rel-FD"] == pytest.approx(1)
    assert "rel-FD" not in sets["real halves"]  # 30 images, 48 features
    assert sets["noise"]["KID x 1000 (thumbnail)"] > 0
    assert 0 <= sets["samples"]["accuracy, 5 nearest"] <= 1
    assert sets["real halves"]["accuracy, 5 nearest"] > 0.9
    for key in ("PSNR (dB)", "SSIM", "perceptual (thumbnail)"):
        assert key in sets["reconstructed"]
    assert "FD (thumbnail)" in sets["samples"] and "FID" not in str(sets)
    assert any("halves" in note and "No FD" in note for note in found["notes"])
    near = run(*words, "--train", photos)
    assert near["sets"]["samples"]["neighbour"] > 0
    assert 0 <= near["sets"]["samples"]["copies"] <= 1
    assert main([str(word) for word in words]) == 0
    text = capsys.readouterr().out
    assert "real halves" in text and "note: " in text and "{" not in text


class Distance:
    """Stands for LPIPS, whose weights are not here."""

    name, least = "LPIPS", 16

    def __init__(self, device):
        pass

    def __call__(self, fake, real):
        return (fake - real).abs().flatten(1).mean(1)


def test_lpips_is_a_column_only_where_its_weights_are(
    trained, many, tmp_path, monkeypatch, capsys
):
    words = ("eval", trained / "model", "--data", many)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # an empty cache
    without = run(*words)
    assert not any("LPIPS" in row for row in without["sets"].values())
    assert any(note.startswith("No LPIPS: ") for note in without["notes"])
    monkeypatch.setattr("srdd.evaluation.LPIPS", Distance)
    found = run(*words)
    rows = [name for name, row in found["sets"].items() if "LPIPS" in row]
    assert rows == ["reconstructed"] and found["sets"]["reconstructed"]["LPIPS"] > 0
    assert not any("LPIPS" in note for note in found["notes"])
    monkeypatch.setattr(Distance, "name", "LPIPS, other weights")
    other = run(*words)
    assert "LPIPS" not in other["sets"]["reconstructed"]
    assert any("not the published ones" in note for note in other["notes"])

    def damaged(self, device):
        raise CheckpointError("vgg16.pth is damaged")

    monkeypatch.setattr(Distance, "__init__", damaged)
    assert main([str(word) for word in words]) == 2
    assert "vgg16.pth is damaged" in capsys.readouterr().err


class Published(Thumbnail):
    """Says it is the network of FID."""

    name = "inception"

    def classify(self, features):
        return features[:, :3]


def test_an_fid_of_my_own_protocol_says_its_numbers(trained, many, monkeypatch):
    monkeypatch.setitem(NETS, "inception", Published)
    words = ("eval", trained / "model", "--data", many, "--features", "inception")
    found = run(*words, "--count", 50)
    assert "FID (50 to 60 images)" in found["sets"]["samples"]
    assert "FID (60 to 60 images)" in found["sets"]["reconstructed"]
    assert "FID-50k" not in str(found) and "IS" in found["sets"]["samples"]
    assert any("no paper has a number" in note for note in found["notes"])


@pytest.fixture
def protocol(many, tmp_path, monkeypatch) -> Path:
    """The ImageNet protocol shrunk to `trained`, and a file of statistics."""
    monkeypatch.setitem(NETS, "inception", Published)
    small = {"IMAGES": 60, "CLASSES": 3, "SIDES": (16,)}
    for module in ("features", "evaluation"):
        for key, value in small.items():
            monkeypatch.setattr(f"srdd.{module}.PUBLISHED_{key}", value)
    real = moments_of(Published(), open_images(many, side=16))
    arrays = {"mu": real.mean.numpy(), "sigma": real.covariance.numpy()}
    np.savez(tmp_path / "statistics.npz", **arrays)
    return tmp_path / "statistics.npz"


def test_the_published_protocol_is_one_option(trained, protocol):
    found = run("eval", trained / "model", "--statistics", protocol)
    row = found["sets"]["samples"]
    assert list(found["sets"]) == ["samples"] and row["images"] == 60
    assert row["FID-50k"] > 0 and row["IS"] >= 1
    assert any("20 samples of each class" in note for note in found["notes"])
    assert run("eval", trained / "model", "--statistics", protocol) == found


@pytest.mark.parametrize(
    "other",
    [
        ("--count", "10000"),
        ("--features", "efficientnet"),
        ("--data", "photos"),
        ("--train", "photos"),
    ],
)
def test_the_published_protocol_has_no_choices(trained, protocol, other, capsys):
    words = ["eval", str(trained / "model"), "--statistics", str(protocol), *other]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "the published protocol, which has no " + " ".join(other) in said


def test_the_published_protocol_is_for_models_of_imagenet(trained, tmp_path, capsys):
    words = ["eval", str(trained / "model"), "--statistics", str(tmp_path / "no.npz")]
    assert main(words) == 2
    assert "1,000 classes" in capsys.readouterr().err


def test_images_without_classes_are_measured_without_accuracy(trained, many):
    flat = many / "square"
    for path in (many / "disc").iterdir():
        path.rename(flat / f"disc{path.name}")
    found = run("eval", trained / "model", "--data", flat)
    assert not any("accuracy" in name for name in found["sets"]["samples"])
    assert any("no classes" in note for note in found["notes"])


def test_images_that_are_left_out_are_named(trained, many, tmp_path):
    broken_file(many)
    asked = ("eval", trained / "model", "--data", many, "--on-error", "skip")
    found = run(*asked, "--out", tmp_path / "found.json")
    assert "1 unreadable images were left out." in found["notes"]
    assert json.loads((tmp_path / "found.json").read_text())["sets"] == found["sets"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("eval m", "what is measured is made in float32"),
        ("experiment theorem", "what is measured is made in float32"),
        ("tokenize photos --tokenizer t", "tokens are made in float32"),
        ("bench --suite none", "a suite says itself"),
        ("report --out none.md", "pages are written from records"),
        ("convert m --to-var", "--to-var writes the model as it is"),
    ],
)
def test_a_number_format_that_would_do_nothing_is_refused(words, said, capsys):
    assert main([*words.split(), "--dtype", "float16"]) == 2
    text = capsys.readouterr().err
    assert f"--dtype float16: {said}" in text and "leave --dtype out" in text


def cow_for_disc(many):
    (many / "disc").rename(many / "cow")


def broken_file(many):
    (many / "disc" / "0.png").write_bytes(b"no image")


def small_file(many):
    Image.new("RGB", (12, 12)).save(many / "disc" / "0.png")


@pytest.mark.parametrize(
    ("damage", "options", "words"),
    [
        (cow_for_disc, (), ("(unknown: cow; missing: disc)", "folder without classes")),
        (
            lambda many: shutil.rmtree(many / "disc"),
            (),
            (
                "data has 2 classes, want the 3",
                "(missing: disc)",
                "add what is missing",
            ),
        ),
        (
            lambda many: [shutil.rmtree(many / n) for n in ("disc", "square")],
            (),
            ("data has 20 real images, count is 20", "at least 40 of each: give more"),
        ),
        (lambda many: None, ("--count", "0"), ("count is 0 samples", "at least 40")),
        (lambda many: None, ("--count", "39"), ("count is 39 samples", "at least 40")),
        (broken_file, (), ("0.png cannot be read", "skip")),
        (small_file, (), ("0.png is 12x12, want at least 16", "upsample")),
    ],
)
def test_evaluation_refuses_with_a_sentence(
    trained, many, damage, options, words, capsys
):
    damage(many)
    assert main(["eval", str(trained / "model"), "--data", str(many), *options]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("damage", "option", "images"),
    [(broken_file, ("--on-error", "skip"), 59), (small_file, ("--upsample",), 60)],
)
def test_evaluation_has_the_options_that_its_errors_name(
    trained, many, damage, option, images
):
    damage(many)
    found = run("eval", trained / "model", "--data", many, *option)
    assert found["sets"]["reconstructed"]["images"] == images


@pytest.mark.parametrize(
    ("real", "count", "with_fd"),
    [(60, 44, {"reconstructed", "blurred", "noise"}), (45, 60, set())],
)
def test_evaluation_drops_fd_where_images_are_few(trained, many, real, count, with_fd):
    for path in sorted(many.glob("*/*.png"))[real:]:
        path.unlink()
    found = run("eval", trained / "model", "--data", many, "--count", count)
    assert found["sets"]["samples"]["images"] == count
    rows = {name for name, row in found["sets"].items() if "rel-FD" in row}
    assert rows == with_fd
    few = "real images" if real < count else f"of the samples: {count}"
    assert any(note.startswith("No FD") and few in note for note in found["notes"])


def test_samples_stand_beside_the_floor_of_their_number(trained, many, monkeypatch):
    class Small(Thumbnail):
        """Twelve features, fewer than images in a half."""

        width = 12

        def __call__(self, images):
            return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)

    monkeypatch.setitem(NETS, "efficientnet", Small)
    (many / "disc" / "0.png").unlink()
    words = ("eval", trained / "model", "--data", many, "--count")
    sets = run(*words, 59)["sets"]
    alike, floor = sets["samples, as many as a half"], sets["real halves"]
    assert alike["images"] == floor["images"] == 30
    fd = "FD (thumbnail)"
    assert alike.get(fd, 0) > floor.get(fd, math.inf), (alike, floor)


@pytest.mark.parametrize(
    ("meaning", "sides", "groups"),
    [
        ("retokenise", (1, 3, 4), None),
        ("merge", (1, 2, 3, 4), (1, 2, 1)),
        ("student", (1, 3, 4), None),
    ],
)
def test_a_short_schedule_is_trained_in_each_meaning(
    trained, photos, tmp_path, meaning, sides, groups
):
    short = ("--tokenizer", trained / "tok", "--schedule", "1-3-4", "--distil", meaning)
    out = tmp_path / "short"
    size = ("--depth", 1, "--width", 16, "--heads", 2, "--steps", 2, "--batch", 4)
    run("train", photos, *short, *size, "--out", out)
    config = ScaleTransformer.from_pretrained(out).config
    assert (config.schedule.sides, config.groups) == (sides, groups)
    made = run("sample", out, "--count", 1, "--out", tmp_path / "x.png")
    assert made["images"] == 3
    kept = run("tokenize", photos, *short, "--out", tmp_path / "t.safetensors")
    assert kept["tokens_per_image"] == sum(s * s for s in sides)
    again = ("--init", trained / "model", "--tokens", tmp_path / "t.safetensors")
    run("train", photos, *short, *again, "--steps", 1, "--out", tmp_path / "tuned")
    tuned = ScaleTransformer.from_pretrained(tmp_path / "tuned").config
    assert (tuned.schedule.sides, tuned.groups) == (sides, groups)


def test_a_mask_head_is_trained_and_used_by_commands(trained, photos, tmp_path):
    """A head on a frozen network, then passes with it; and passes without one."""
    common = ("train", photos, "--tokenizer", trained / "tok", "--steps", 2)
    common += ("--batch", 4, "--mask-blocks", 1)
    head = tmp_path / "head"
    run(*common, "--init", trained / "model", "--frozen", "--out", head)
    before, after = (
        ScaleTransformer.from_pretrained(m).state_dict()
        for m in (trained / "model", head)
    )
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    run(*common, "--depth", 1, "--width", 16, "--heads", 2, "--out", tmp_path / "both")
    passes = ("--count", 1, "--passes", 2, "--out", tmp_path / "x.png")
    for model, law in ((head, "head"), (tmp_path / "both", "head"), (head, "map")):
        made = run("sample", model, *passes, "--law", law, "--rule", "halton")
        assert made["sampling"]["resampling"]["law"] == law
    made = run("sample", head, "--count", 1, "--back-to", 2, "--out", passes[-1])
    assert made["sampling"]["back_to"] == 2 and made["sampling"]["resampling"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sample", "{model}", "--passes", "2"), "law 'head' needs a mask head"),
        (
            ("train", "{photos}", "--tokenizer", "{tok}", "--frozen"),
            "--frozen keeps a trained network: say --init",
        ),
        (
            (
                "train",
                "{photos}",
                "--tokenizer",
                "{tok}",
                "--frozen",
                "--init",
                "{model}",
            ),
            "--frozen trains a mask head alone: say --mask-blocks",
        ),
        (
            ("train", "{photos}", "--tokenizer", "{tok}", "--schedule", "1,3"),
            "sides must end with 4",
        ),
        (
            ("train", "{photos}", "--tokenizer", "{tok}", "--schedule", "1,5,4")
            + ("--distil", "merge"),
            "passes must end at growing sides",
        ),
        (("sample", "no-such-model"), "no-such-model"),
        (("sample", "{model}", "--classes", "9"), "--classes has '9'"),
        (("sample", "{model}", "--count", "2147483647"), "images at once do not fit"),
        (("sample", "{model}", "--classes", "cow"), "cow"),
        (("sample", "{model}", "--top-p", "1.5"), "top_p"),
        (("sample", "{model}", "--guidance", "nan"), "guidance"),
        (("sample", "{model}", "--guidance", "1,2"), "guidance has 2 numbers"),
        (("sample", "{model}", "--interval", "0.5"), "interval must be two numbers"),
        (
            ("sample", "{model}", "--interval", "0.1,0.5"),
            "say --guidance-rule interval",
        ),
        (("sample", "{model}", "--top-k", "5.0"), "top_k must be an integer >= 0"),
        (("sample", "{model}", "--device", "foo"), "--device foo cannot be used, want"),
        (
            ("train", "{photos}", "--tokenizer", "{tok}", "--distil", "merge"),
            "--distil merge shortens a schedule: say --schedule",
        ),
        (
            ("slim-decoder", "{model}", "{photos}", "--base", "0"),
            "base and blocks must",
        ),
        (("sample", "{model}", "--back-to", "9"), "back_to must be one of [0, 1, 2"),
        (("sample", "{model}", "--preset", "best"), "preset must be one of"),
        (("sample", "{model}", "--top-k", "999"), "top_k"),
        (("train", "nowhere", "--tokenizer", "{tok}"), "nowhere"),
        (("train-tokenizer", "{photos}", "--size", "30"), "--size"),
        (("train-tokenizer", "{photos}", "--config", "nowhere.json"), "nowhere.json"),
        (("train", "{photos}", "--tokenizer", "{tok}", "--lr", "-1"), "lr"),
        (("slim-decoder", "{model}", "{photos}", "--maps", "0"), "--maps must be"),
        (("train-tokenizer", "{photos}", "--size", "4"), "multiple of 4, from 8 on"),
        (
            ("train-tokenizer", "{photos}", "--init", "{tok}", "--vocab", "9"),
            "has vocab 16, got --vocab 9: leave that out",
        ),
        (
            ("train", "{photos}", "--tokenizer", "{tok}", "--init", "{model}")
            + ("--depth", "9"),
            "has depth 1, got --depth 9: leave that out",
        ),
        (("sample", "{model}", "--device", "meta"), "--device meta cannot be used"),
        (("bench", "--suite", "nothing"), "suite"),
        (("bench", "--suite", "var", "--repeats", "0"), "repeats must be at least 1"),
        (("bench", "--suite", "var-gpu", "--repeats", "-1"), "repeats must be at"),
        (("convert", "a.pth", "b.pth"), "no file b.pth"),
        (("info", "d17"), "got 'd17'"),
        (("info", "d16", "--batch", "0"), "--batch must be at least 1"),
        (("info", "d16", "--top-k", "5000"), "top_k must be at most the vocabulary"),
        (("convert", "a.pth"), "convert wants two files"),
        (("convert", "a", "b", "--to-var"), "--to-var wants one model folder"),
        (("convert", "{model}", "--to-var"), "norm_groups"),
        (("convert", "a", "b", "--schedule", "4,2"), "growing"),
        (("convert", "a", "b", "--schedule", "1-x"), " --schedule must be growing"),
        (("convert", "a", "b", "--depth", "0"), " --depth must be a whole number"),
        (
            ("convert", "{model}", "--to-var", "--mask", "markov"),
            "--mask is for reading a public checkpoint",
        ),
        (("convert", "{model}", "--to-var", "--heads", "2"), "leave --heads out"),
        (("convert", "{model}", "--to-var", "--schedule", "1"), "leave --schedule out"),
        (("convert", "{model}", "--to-var", "--phi-convs", "4"), "--phi-convs is for"),
        (("convert", "{model}", "--to-var", "--lenient"), "leave --lenient out"),
        (("sample", "{model}", "--preset", "var-demo"), "say --top-k too, at most"),
        (("experiment", "nothing"), "nothing"),
    ],
)
def test_mistakes_end_with_two_and_one_line(
    trained, photos, words, said, capsys, tmp_path
):
    places = {"model": trained / "model", "tok": trained / "tok", "photos": photos}
    argv = [word.format(**places) for word in words]
    ends = {"sample": ".png", "reconstruct": ".png", "tokenize": ".safetensors"}
    suffix = ends.get(argv[0], ".json" if argv[0] in ("eval", "info", "bench") else "")
    assert main([*argv, "--out", str(tmp_path / f"out{suffix}")]) == 2
    text = capsys.readouterr().err.strip()
    assert said in text and text.startswith(f"srdd {argv[0]}: error: ")
    assert "\n" not in text and "Traceback" not in text
    with pytest.raises((ValueError, FileNotFoundError)):
        main([*argv, "--out", str(tmp_path / "out"), "--debug"])


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("x.xyz", "ends with '.xyz', want one of .png"),
        ("x", "has no suffix, want one of .png"),
        (".", "is a folder, want a file"),
        ("file/x.png", "file is a file, want a folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_the_work(
    tmp_path, monkeypatch, capsys, out, said
):
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Pipeline, "from_pretrained", lambda *a, **k: 1 / 0)
    for words in (["sample", "m"], ["edit", "m", "x.png", "--outpaint"]):
        assert main([*words, "--out", out]) == 2
        assert f"--out {out}" in (text := capsys.readouterr().err) and said in text
    others = {"tokenize x --tokenizer t": ".safetensors", "bench": ".json"}
    for words, suffix in (others | {"eval m": ".json", "info m": ".json"}).items():
        if out in (".", "file/x.png"):
            place = out.replace(".png", suffix)
            assert main([*words.split(), "--out", place]) == 2
            assert said in capsys.readouterr().err, words
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_photographs_beside_a_manifest_are_not_replaced(trained, photos, capsys):
    before = sorted(photos.rglob("*"))
    (photos / "manifest.json").write_text('{"name": "my photos"}')
    verbs = (
        ["train", photos, "--tokenizer", trained / "tok"],
        ["slim-decoder", trained / "model", photos],
        ["convert", "a.pth", "b.pth"],
    )
    for words in verbs:
        assert main([*map(str, words), "--out", str(photos)]) == 2
        assert "would be replaced as a whole" in capsys.readouterr().err
    (photos / "manifest.json").unlink()
    assert sorted(photos.rglob("*")) == before
    words = ["train-tokenizer", str(photos), "--out", str(trained / "model")]
    assert main(words) == 2
    assert "holds a whole model" in capsys.readouterr().err


def test_a_finished_run_is_not_taken_for_one_of_other_images(
    trained, photos, tmp_path, capsys
):
    few = tmp_path / "few"
    shutil.copytree(photos / "disc", few / "disc")
    shutil.copytree(photos / "square", few / "square")
    small = ("--steps", 1, "--batch", 4, "--out", tmp_path / "m")
    words = ("--tokenizer", trained / "tok", "--depth", 1, "--width", 16, "--heads", 2)
    run("train", photos, *words, *small)
    for other in (
        ("train", few, *words, *small),
        ("train", photos, *words, *small, "--mask", "causal"),
        ("train", photos, *words, *small, "--flips"),
        ("train", photos, *words, *small, "--init", trained / "model"),
    ):
        assert main([*map(str, other)]) == 2, other
        assert "learned from" in capsys.readouterr().err
    assert Pipeline.from_pretrained(tmp_path / "m").classes[2] == "stripe"
    out = ("--steps", 1, "--batch", 4, "--size", 16, "--out", tmp_path / "t")
    run("train-tokenizer", photos, *out)
    assert main([*map(str, ("train-tokenizer", few, *out))]) == 2
    assert "learned from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "has [], want objects named tokenizer, transformer, train"),
        ('{"train": []}', "train is [], want an object"),
        ('{"train": {"lr": "0.1"}}', "lr must be from"),
        ('{"train": {"augment": true}}', "add mirror images with --flips"),
        ('{"transformer": {"depth": "x"}}', "wants int as depth, got 'x'"),
        ('{"transformer": {"vocab": 3}}', "which the tokenizer and the data decide"),
        ('{"transformer": {"classes": 20}}', "(3 classes): leave them out"),
    ],
)
def test_a_file_of_settings_that_says_nonsense_is_refused(
    trained, photos, tmp_path, capsys, text, said
):
    (tmp_path / "c.json").write_text(text)
    words = ["train", photos, "--tokenizer", trained / "tok", "--config"]
    words += [tmp_path / "c.json", "--out", tmp_path / "m", "--steps", 1]
    assert main([*map(str, words)]) == 2
    assert said in capsys.readouterr().err


def test_augmenting_flips_and_tokens_have_no_such_option(photos, tmp_path, monkeypatch):
    seen = []

    def open_images(*args, **options):
        seen.append(options["flip"])
        raise ValueError("enough")

    monkeypatch.setattr("srdd.data.open_images", open_images)
    words = ["train-tokenizer", str(photos), "--out", str(tmp_path / "t")]
    assert main(words) == main([*words, "--augment"]) == 2
    assert seen == [False, True]
    for verb in ("train", "slim-decoder"):
        for option in ("--augment", "--workers"):
            with pytest.raises(SystemExit):
                build_parser().parse_args([verb, "x", "y", option])


def test_whoever_leaves_the_pipe_is_let_go(tmp_path):
    words = [sys.executable, "-m", "srdd", "experiment", "list"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        run.stdout.close()  # before anything is written
        said = run.stderr.read()
    assert run.returncode == 1 and b"Traceback" not in said and b"Broken" not in said


def test_info_is_written_where_it_is_asked_for(tmp_path):
    found = run("info", "d16", "--out", tmp_path / "d16.json")
    assert json.loads((tmp_path / "d16.json").read_text())["model"] == found["model"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["paint"], "paint"),
        (["sample", "m", "--zoom", "100000"], ">= 1 <= 64"),
        (["edit", "m", "x.png"], "--mask --box --outpaint --super-resolve --keep"),
        (["edit", "m", "x.png", "--box", "1,2,3,4", "--outpaint"], "not allowed with"),
        (
            ["edit", "m", "x.png", "--box", "0.25,0.25,0.75,0.75"],
            "whole pixels, as 8,8",
        ),
        (["edit", "m", "x.png", "--box", "1,2,3"], "want TOP,LEFT,BOTTOM,RIGHT"),
        (["edit", "m", "x.png", "--outpaint", "--at", "middle"], "want ROW,COLUMN"),
        (["edit", "m", "x.png", "--keep-scales", "0"], "whole number >= 1"),
        (["edit", "m", "--outpaint"], "required: images"),
        (["sample", "m", "--seed", "-1"], "whole number >= 0"),
        (["sample", "m", "--seed", "9" * 20], "whole number >= 0"),
        (["train-tokenizer", "x", "--channels", "2"], "choose from"),
        (["train-tokenizer", "x", "--vocab", "0"], "whole number >= 1"),
        (["tokenize", "x", "--tokenizer", "t", "--schedule", "1,x"], "--schedule"),
        (["tokenize", "x", "--tokenizer", "t", "--distil", "cut"], "retokenise"),
        *(
            (["sample", "m", option, "x"], name)
            for option, names in CHOICES.items()
            for name in names
        ),
    ],
)
def test_usage_mistakes_end_with_two(words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2 and said in capsys.readouterr().err


WORDY = ("tench, Tinca tinca", "cat", "dog", "Cat,dog,owl", "0,1", "x,")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0, Bag ,Ankle boot,-1", ["0", "Bag", "Ankle boot", "-1"]),
        ("tench, Tinca tinca", ["tench, Tinca tinca"]),
        ("cat,Tench, tinca TINCA ,dog", ["cat", "Tench, tinca TINCA", "dog"]),
        ("dog,cat", ["dog", "cat"]),
        ("cat,dog", ["cat", "dog"]),
        ("cat,dog,owl,cat", ["cat,dog,owl", "cat"]),
        ("1,0,1,x,", ["1", "0,1", "x,"]),
        (",", []),
    ],
)
def test_a_list_of_classes_keeps_names_with_commas_whole(text, found):
    assert names(text, WORDY) == found


def test_a_list_that_may_mean_one_class_or_several_is_refused():
    with pytest.raises(ValueError, match="'Cat,dog', which is one class and also 2"):
        names("owl,Cat,dog", (*WORDY, "cat,dog"))


def test_a_class_with_commas_in_its_name_is_drawn(trained, tmp_path):
    pipe = Pipeline.from_pretrained(trained / "model")
    pipe.classes = ("tench, Tinca tinca", "cat", "dog")
    pipe.save_pretrained(tmp_path / "m")
    words = ("--count", 1, "--separate", tmp_path / "each", "--out", tmp_path / "g.png")
    made = run("sample", tmp_path / "m", "--classes", "dog,tench, Tinca tinca", *words)
    found = [Path(file).name for file in made["files"][1:]]
    assert found == ["00000-class2.png", "00001-class0.png"]


@pytest.mark.parametrize(
    ("side", "sides"),
    [
        (8, (1, 2, 3, 4, 6, 8)),
        (4, (1, 2, 3, 4)),
        (16, (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)),
    ],
)
def test_schedules_end_at_the_map(side, sides):
    assert schedule_for(side).sides == sides


def test_the_module_runs_as_a_command():
    out = subprocess.run(
        [sys.executable, "-m", "srdd", "--version"],
        capture_output=True,
        text=True,
        env=os.environ,
        check=True,
    )
    assert out.stdout.strip()


def test_the_shipped_model_draws_a_grid(tmp_path):
    from srdd.files import shipped_names

    if "fashion" not in shipped_names():
        pytest.skip("this checkout has no weights/fashion")
    torch.manual_seed(0)
    made = run("sample", "fashion", "--count", 1, "--out", tmp_path / "grid.png")
    assert made["images"] == 10


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Grey files: two of the shipped model's size, a photo, a detail, a tiny one."""
    root = tmp_path_factory.mktemp("pictures")
    both, _ = fashion_slice().batch([805, 905])
    for name, image in zip(("bag", "boot"), both, strict=True):
        to_pil(image).save(root / f"{name}.png")
    bag, hole = Image.open(root / "bag.png"), Image.new("L", (32, 32))
    ImageDraw.Draw(hole).ellipse((9, 7, 22, 24), fill=255)
    hole.save(root / "hole.png")
    bag.resize((90, 64)).convert("RGB").save(root / "photo.jpg")
    hole.resize((90, 64)).save(root / "wide-hole.png")
    bag.resize((8, 8), Image.Resampling.BOX).save(root / "tiny.png")
    bag.crop((6, 8, 26, 22)).save(root / "detail.png")
    for name, colour in (("black", 0), ("white", 255)):
        Image.new("L", (32, 32), colour).save(root / f"{name}.png")
    (root / "broken.png").write_bytes(b"no image")
    return root


def edited(out: Path, *words: object) -> list[np.ndarray]:
    """What ``srdd edit fashion`` makes, pixels from its separate files."""
    words = (*words, "--out", out / "grid.png", "--separate", out / "each")
    made = run("edit", "fashion", *words)
    assert made["files"][0] == str(out / "grid.png") and Path(made["files"][0]).exists()
    assert made["seed"] == 0 and made["sampling"]["guidance"] == 3.0
    assert made["images"] == len(made["seeds"]) == len(made["files"]) - 1
    return [np.array(Image.open(path)) for path in made["files"][1:]]


def white(path: Path) -> np.ndarray:
    return np.array(Image.open(path)) > 127


def test_a_hole_in_an_image_is_filled_and_the_rest_keeps_its_bytes(pictures, tmp_path):
    given = [pictures / "bag.png", pictures / "boot.png"]
    made = edited(tmp_path, *given, "--mask", pictures / "hole.png", "--count", 2)
    hole = white(pictures / "hole.png")
    for n, image in enumerate(made):
        known = np.array(Image.open(given[n // 2]))
        assert image.dtype == np.uint8 and (image[~hole] == known[~hole]).all()
        assert (image[hole] != known[hole]).any()
    assert (made[0] != made[1]).any()
    grid = Image.open(tmp_path / "grid.png")
    assert grid.size == (3 * 66 + 2, 2 * 66 + 2)
    assert grid.getpixel((2 + 2 * 16, 2 + 2 * 16)) == 128  # the hole, grey


def test_an_edit_is_the_same_in_any_batch_and_that_of_the_pipeline(pictures, tmp_path):
    words = [pictures / "bag.png", "--box", "8,10,20,24", "--classes", "Bag,Shirt"]
    words += ["--count", 2, "--rounds", 2]
    one, four = (edited(tmp_path / str(n), *words, "--batch", n) for n in (1, 4))
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[8:20, 10:24] = True
    want = Pipeline.from_pretrained("fashion").inpaint(
        Image.open(pictures / "bag.png"),
        mask,
        ["Bag", "Shirt"],
        rounds=2,
        num_images_per_image=2,
        generator=torch.Generator().manual_seed(0),
    )
    for a, b, image in zip(one, four, want.images, strict=True):
        assert (a == b).all() and (a == np.array(image)).all()
    names = sorted(path.name for path in (tmp_path / "1" / "each").iterdir())
    assert names[0] == "00000-class8.png" and names[3] == "00003-class6.png"


@pytest.mark.parametrize("mask", ["hole.png", "wide-hole.png"])
def test_a_mask_fits_the_photo_or_what_the_model_sees_of_it(pictures, tmp_path, mask):
    photo = pictures / "photo.jpg"
    (made,) = edited(tmp_path, photo, "--mask", pictures / mask, "--count", 1)
    known = centre(read_image(photo, 32, 1), 32)[0].numpy()
    same = made == known
    hole = white(pictures / "hole.png")
    if mask == "hole.png":
        assert same[~hole].all()
    else:  # drawn out with the photo, whose middle is seen
        assert same[:7].all() and same[26:].all() and same[:, :5].all()
    assert not same[12:20, 12:20].all()


def test_images_of_several_sizes_get_surroundings(pictures, tmp_path):
    small = pictures / "detail.png", pictures / "tiny.png"
    made = edited(tmp_path, *small, "--outpaint", "--count", 1)
    corners = ((9, 6), (12, 12))
    for image, path, (top, left) in zip(made, small, corners, strict=True):
        part = np.array(Image.open(path))
        high, wide = part.shape
        assert (image[top : top + high, left : left + wide] == part).all()
    (moved,) = edited(tmp_path, small[1], "--outpaint", "--at", "0,24", "--count", 1)
    assert (moved[:8, 24:] == np.array(Image.open(small[1]))).all()


def test_super_resolution_and_class_edits_are_those_of_the_pipeline(pictures, tmp_path):
    pipe, tiny = Pipeline.from_pretrained("fashion"), pictures / "tiny.png"
    for n, (path, words, method, call) in enumerate(
        (
            (tiny, ("--super-resolve", "--rounds", 2), "super_resolve", {"rounds": 2}),
            (pictures / "boot.png", ("--keep-scales", 3), "edit", {"scales": 3}),
        )
    ):
        words = (*words, "--classes", "Dress,Coat", "--count", 1)
        made = edited(tmp_path / str(n), path, *words)
        noise = torch.Generator().manual_seed(0)
        image = Image.open(path)
        want = getattr(pipe, method)(image, ["Dress", "Coat"], generator=noise, **call)
        for found, other in zip(made, want.images, strict=True):
            assert (found == np.array(other)).all()
    grid = Image.open(tmp_path / "0" / "grid.png")
    shown = grid.crop((grid.width - 2 * 66, 2, grid.width - 2 * 66 + 64, 66))
    large = Image.open(tiny).resize((64, 64), Image.Resampling.NEAREST)
    assert shown.tobytes() == large.tobytes()  # the given image, with large pixels


BOX = ("--box", "8,8,24,24")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("none.png", *BOX), "none.png is not there"),
        ((".", *BOX), " is a folder, want an image file"),
        (("broken.png", *BOX), "broken.png cannot be read as an image"),
        (("detail.png", *BOX), "20x14, want at least 32 pixels per side: --upsample"),
        (("bag.png", "--box", "8,8,24,33"), "RIGHT, all from 0 to 32"),
        (("bag.png", "--box", "8,8,8,24"), "want TOP < BOTTOM"),
        (("bag.png", "--box", "0,0,32,32"), "--box paints the whole picture"),
        (("bag.png", "--mask", "none.png"), "--mask {}/none.png is not there"),
        (("bag.png", "--mask", "broken.png"), "--mask {}/broken.png cannot be read"),
        (("bag.png", "--mask", "black.png"), "black.png paints nothing: white is"),
        (("bag.png", "--mask", "white.png"), "white.png paints the whole picture"),
        (
            ("bag.png", "--mask", "wide-hole.png"),
            "wide-hole.png is 90x64, {}/bag.png is 32x32: give a mask of that size",
        ),
        (("bag.png", "--outpaint"), "32x32, --outpaint wants less than 32x32"),
        (
            ("tiny.png", "--outpaint", "--at", "0,25"),
            "(8x8) over the edge of 32x32: want at most 24,24",
        ),
        (("bag.png", *BOX, "--at", "0,0"), "--at is the place for --outpaint"),
        (("detail.png", "--super-resolve"), "20x14, --super-resolve wants a square"),
        (("bag.png", "--super-resolve"), "is one of 1, 2, 4, 8, 16: crop or resize"),
        (("tiny.png", "dot.png", "--super-resolve"), "give images of one size"),
        (("tiny.png", "--outpaint", "--upsample"), "nothing with --outpaint: leave"),
        (("tiny.png", "--super-resolve", "--upsample"), "nothing with --super-resolve"),
        (("bag.png", "--keep-scales", "3"), "say --classes too"),
        (
            ("bag.png", "--keep-scales", "6", "--classes", "Bag"),
            "--keep-scales is 6, want 1 to 5: this model has 6 scales",
        ),
        (
            ("bag.png", "--keep-scales", "3", "--classes", "8", "--rounds", "2"),
            "--rounds does nothing with --keep-scales",
        ),
        (("bag.png", *BOX, "--classes", "cow"), "--classes has 'cow', want an id"),
        (("bag.png", *BOX, "--classes", ","), "--classes is empty"),
        (
            ("bag.png", "boot.png", *BOX, "--classes", "0,1,2"),
            "--classes has 3 classes for 2 images",
        ),
        (("bag.png", "boot.png", *BOX, "--classes", "all"), "all is for one image"),
        (("bag.png", *BOX, "--top-p", "2"), "top_p"),
        (("bag.png", *BOX, "--count", "2147483647"), "do not fit in the memory"),
        (("bag.png", *BOX, "--out", "bag.png"), "bag.png is an image that is given"),
        (("bag.png", *BOX, "--separate", "."), "holds bag.png, which is given"),
        (("bag.png", *BOX, "--separate", "bag.png"), "--separate {}/bag.png"),
        (("bag.png", *BOX, "--out", "x"), "--out {}/x has no suffix"),
    ],
)
def test_an_edit_that_cannot_be_is_refused_and_nothing_is_written(
    pictures, tmp_path, capsys, words, said
):
    root = tmp_path / "pictures"
    shutil.copytree(pictures, root)
    Image.new("L", (4, 4), 200).save(root / "dot.png")
    before = {path: path.read_bytes() for path in sorted(root.iterdir())}
    is_file = re.compile(r"[\w-]+\.(png|jpg)|\.|x")
    argv = [str(root / word) if is_file.fullmatch(word) else word for word in words]
    out = [] if "--out" in words else ["--out", str(tmp_path / "out.png")]
    assert main(["edit", "fashion", *argv, *out]) == 2
    text = capsys.readouterr().err.strip()
    assert said.format(root) in text and text.startswith("srdd edit: error: ")
    assert "\n" not in text
    assert {path: path.read_bytes() for path in sorted(root.iterdir())} == before
    assert list(tmp_path.iterdir()) == [root]


def test_help_comes_without_torch():
    code = (
        "import sys, srdd.cli as c; c.build_parser(); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ, check=True)


def public_states(**changes):
    """State dicts in the public layout, in small."""
    from srdd.checkpoints import to_var
    from srdd.scales import ScaleSchedule
    from srdd.tokenizer import Tokenizer, TokenizerConfig
    from srdd.transformer import ScaleTransformer, TransformerConfig

    torch.manual_seed(0)
    sides = ScaleSchedule((1, 2, 4))
    codes = Tokenizer(TokenizerConfig(3, 32, (1, 2), 1, (1,), 32, 8, 40, 4, sides))
    changes = {"mask": "causal"} | changes
    config = TransformerConfig(2, 64, 2, sides, 40, 8, 5, **changes)
    return to_var(codes, ScaleTransformer(config))


def saved(folder, states):
    """Files of state dicts."""
    files = [folder / "vae.pth", folder / "var.pth"]
    for path, state in zip(files, states, strict=True):
        torch.save(state, path)
    return files


def test_questions_about_a_public_checkpoint_are_in_words_of_the_shell(
    tmp_path, capsys
):
    codes, weights = public_states(qk_norm=False)
    del weights["lvl_1L"]
    files = [str(path) for path in saved(tmp_path, (codes, weights))]
    out = ["--out", str(tmp_path / "model")]

    def told(*words):
        assert main(["convert", *files, *out, *words]) == 2
        return capsys.readouterr().err

    text = told()
    assert "pass --schedule" in text and "pass --heads" in text and "=" not in text
    text = told("--heads", "2", "--schedule", "1-2-3")
    assert "14 positions in 3 scales, the file 21" in text and "--schedule" in text
    text = told("--heads", "2", "--schedule", "1-2-4", "--classes", "6")
    assert "--classes is 6, the file has 5" in text
    given = ("--schedule", "1-2-4", "--heads", "2", "--classes", "5")
    assert run("convert", *files, *out, *given)["sides"] == [1, 2, 4]
    extra = torch.zeros(1)
    saved(tmp_path, (codes | {"more": extra}, weights | {"surplus": extra}))
    text = told(*given)
    assert "(more); --lenient drops them" in text and "(surplus)" in text
    assert run("convert", *files, *out, *given, "--lenient")["heads"] == 2
    del weights["head.bias"]
    saved(tmp_path, (codes, weights | {"surplus": extra}))
    text = told(*given, "--lenient")
    assert "1 missing (head.bias)" in text and "--lenient drops" not in text
    lost = [k for k in codes if "qresi_ls.3" in k]
    saved(tmp_path, ({k: v for k, v in codes.items() if k not in lost}, weights))
    assert "pass --phi-convs 3" in told(*given)
    plain = {k: v for k, v in codes.items() if ".attn." not in k}
    saved(tmp_path, (plain, weights | {"head.bias": torch.ones(40)}))
    assert "pass --attention-levels 0" in told(*given)
    assert run("convert", *files, *out, *given, "--attention-levels", 0)["heads"] == 2
    assert "--attention-levels is 2, the file has 0" in told(
        *given, "--attention-levels", "2"
    )


def test_a_published_schedule_is_offered_to_paste(tmp_path, capsys, monkeypatch):
    import srdd.checkpoints as checkpoints
    from srdd.files import CheckpointError

    said = "pass schedule=; the published (1, 2, 3, 16) would fit; got (3, 4)"

    def refuse(*_, **__):
        raise CheckpointError(said)

    monkeypatch.setattr(checkpoints, "from_var", refuse)
    assert main(["convert", "a", "b"]) == 2
    text = capsys.readouterr().err
    assert "pass --schedule; the published 1-2-3-16 would fit; got (3, 4)" in text


def test_a_preset_that_keeps_more_codes_than_there_are(tmp_path, capsys):
    files = saved(tmp_path, public_states())
    run("convert", *files, "--out", tmp_path / "model")
    words = ["sample", str(tmp_path / "model"), "--preset", "var-demo", "--count", "1"]
    words += ["--classes", "0", "--out", str(tmp_path / "g.png")]
    assert main(words) == 2
    text = capsys.readouterr().err
    assert "--preset var-demo keeps the 900 likeliest codes" in text
    assert "vocabulary has 40: say --top-k too, at most 40; 0 is all" in text
    for kept in (40, 0):
        made = run(*words, "--top-k", kept)
        assert made["sampling"]["top_k"] == kept and made["sampling"]["top_p"] == 0.95


def test_a_public_checkpoint_becomes_a_folder_and_goes_back(tmp_path):
    from srdd import Pipeline

    states = public_states()
    files = saved(tmp_path, states)
    made = run("convert", *files, "--mask", "causal", "--out", tmp_path / "model")
    assert made["mask"] == "causal" and made["sides"] == [1, 2, 4]
    pipe = Pipeline.from_pretrained(tmp_path / "model")
    assert pipe.classes == ("0", "1", "2", "3", "4")
    assert (pipe.sampling.guidance, pipe.sampling.top_k, pipe.sampling.top_p) == (
        2.5,
        40,
        0.96,
    )
    words = ("--classes", "3", "--count", "1", "--out", tmp_path / "g.png")
    assert run("sample", tmp_path / "model", *words)["images"] == 1
    run("convert", *files, "--out", tmp_path / "causal")
    back = run("convert", tmp_path / "causal", "--to-var", "--out", tmp_path / "var")
    assert back["entries"] == [len(states[0]), len(states[1])]
    for path, state in zip(back["files"], states, strict=True):
        found = torch.load(path, weights_only=True)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[k], state[k]) for k in state)


@pytest.mark.parametrize("name", ["vae.pth", "var.pth"])
def test_public_weights_that_lie_there_are_not_replaced(
    tmp_path, capsys, monkeypatch, name
):
    (tmp_path / name).write_bytes(b"weights of somebody")
    monkeypatch.setattr(Pipeline, "from_pretrained", lambda *a, **k: 1 / 0)
    assert main(["convert", "m", "--to-var", "--out", str(tmp_path)]) == 2
    text = capsys.readouterr().err
    assert f"--out {tmp_path} holds {name}" in text and "name another folder" in text
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"weights of somebody"


def test_a_markovian_model_stays_markovian_there_and_back(tmp_path):
    files = saved(tmp_path, public_states(mask="markov"))
    assert run("convert", *files, "--out", tmp_path / "one")["mask"] == "markov"
    back = run("convert", tmp_path / "one", "--to-var", "--out", tmp_path / "var")
    made = run("convert", *back["files"], "--out", tmp_path / "two")
    assert made["mask"] == "markov"
    for one, two in zip(files, back["files"], strict=True):
        first, again = (torch.load(path, weights_only=True) for path in (one, two))
        assert first.keys() == again.keys()
        assert all(torch.equal(first[k], again[k]) for k in first)
    other = run("convert", *files, "--mask", "causal", "--out", tmp_path / "three")
    assert other["mask"] == "causal"


def test_info_of_a_preset_needs_no_weights():
    made = run("info", "d16", "--mask", "markov", "--batch", 8)
    assert made["transformer_parameters"] == 310_283_520
    assert made["tokenizer_parameters"] == 108_948_355
    flops = made["flops_per_image"]
    assert flops["decoder"] == pytest.approx(393.7e9, rel=1e-3)
    assert flops["transformer_guided"] == 2 * flops["transformer_not_guided"]
    causal = run("info", "d16", "--batch", 8)
    assert made["cache_bytes_per_image"] == 0 < causal["cache_bytes_per_image"]
    small, large = (m["memory_bytes"]["sampling"] for m in (made, causal))
    weights = 4 * (310_283_520 + 108_948_355)
    assert small["weights"] == large["weights"] == weights
    kept = large["kept"] - small["kept"]
    assert kept == 8 * causal["cache_bytes_per_image"]
    assert causal["cache_bytes_per_image"] == 2 * 2 * 4 * 16 * 1024 * 680  # two laws
    half = run("info", "d16", "--dtype", "bfloat16", "--batch", 8)
    assert half["cache_bytes_per_image"] == causal["cache_bytes_per_image"] // 2
    alone = run("info", "d16", "--guidance", 1, "--batch", 8)
    assert alone["cache_bytes_per_image"] == causal["cache_bytes_per_image"] // 2
    half = half["memory_bytes"]
    assert half["sampling"]["weights"] == weights // 2
    assert (
        half["training_step"]["total"]
        < causal["memory_bytes"]["training_step"]["total"]
    )


def test_info_counts_the_memory_of_the_settings_that_were_asked_for():
    def memory(*words):
        found = run("info", *words, "--mask", "markov", "--batch", 64)
        return found["sampling"], found["memory_bytes"]["sampling"]["total"]

    how, published = memory("d16")
    assert how == {"guidance": 2.5, "guidance_rule": "linear", "guidance_off": 0,
                   "interval": [0.0, 1.0], "temperature": 1.0, "top_k": 900,
                   "top_p": 0.96, "resampling": None, "back_to": None}  # fmt: skip
    how, everything = memory("d16", "--top-k", 0)
    assert how["top_k"] == 0 and how["top_p"] == 0.96
    assert everything > published  # all codes are sorted
    own, mine = memory("fashion")
    assert own["guidance"] == 3.0 and own["top_k"] == 0
    plain, less = memory("fashion", "--guidance", 1)
    assert plain["guidance"] == 1 and less < mine
    fast, slim = memory("fashion", "--preset", "fast")
    assert fast["guidance"] == 4.0 and slim < mine


def test_info_counts_the_operations_of_the_settings_that_were_asked_for():
    fast, own, best = (
        run("info", "fashion", "--preset", name)
        for name in ("fast", "balanced", "best")
    )
    costs = [
        m["flops_per_image"]["sampling, passes and decoder"] for m in (fast, own, best)
    ]
    assert costs[0] < costs[1] < costs[2] / 2
    assert best["sampling"]["resampling"]["passes"] == 2
    assert own["sampling"]["resampling"] is None
    flops = own["flops_per_image"]
    assert costs[1] > flops["transformer_not_guided"] + flops["decoder"]


def test_info_shows_what_the_presets_of_a_shipped_model_cost(capsys):
    found = run("info", "fashion")["presets"]
    assert list(found) == ["fast", "balanced", "best"]
    assert {"rel_fd", "accuracy", "flops"} <= found["fast"].keys()
    assert main(["info", "fashion"]) == 0
    said = capsys.readouterr().out
    assert found["fast"]["rel_fd"] in said and "default_preset: balanced" in said
