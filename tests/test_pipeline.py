"""The pipeline: names and seeds in, pictures out; folders round trip."""

import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from srdd import _inputs
from srdd.cli import main
from srdd.data import fashion_slice
from srdd.distillation import slimmed
from srdd.figures import to_pil
from srdd.files import CheckpointError, read_json, verify_manifest, write_json
from srdd.pipeline import (
    NEAR,
    Pipeline,
    load_decoder,
    save_decoder,
    seeds_of,
    steps_apart,
)
from srdd.sampling import SAMPLING_PRESETS, ResamplingPlan, SampleConfig, sample
from srdd.scales import ScaleSchedule, area_down
from srdd.tokenizer import Tokenizer, TokenizerConfig
from srdd.transformer import ScaleTransformer, TransformerConfig

BF16 = torch.bfloat16
SCHEDULE = ScaleSchedule((1, 2, 4))
NAMES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    torch.manual_seed(0)
    shape = TokenizerConfig(3, 8, (1, 2), 1, (), 4, 4, 16, 2, SCHEDULE)
    config = TransformerConfig(2, 16, 2, SCHEDULE, 16, 4, 3)
    model = ScaleTransformer(config)
    torch.nn.init.normal_(model.head.weight)
    return Pipeline(Tokenizer(shape), model, classes=NAMES)


def seed(value: int) -> torch.Generator:
    return torch.Generator().manual_seed(value)


@pytest.mark.parametrize("mask", ["markov", "causal"])
def test_the_same_generator_gives_the_same_images_in_any_batch(pipe, mask):
    config = TransformerConfig(2, 16, 2, SCHEDULE, 16, 4, 3, mask=mask)
    model = ScaleTransformer(config)
    model.load_state_dict(pipe.transformer.state_dict())
    other = Pipeline(pipe.tokenizer, model, classes=NAMES)
    labels = [0, 1, 2, 0, 1, 2, 0]
    whole = other(labels, 3.0, generator=seed(5), output_type="pt")
    for size in (1, 3):
        again = other(labels, 3.0, generator=seed(5), output_type="pt", batch_size=size)
        for a, b in zip(whole.tokens, again.tokens, strict=True):
            assert torch.equal(a, b)
        torch.testing.assert_close(whole.images, again.images, rtol=0, atol=1e-5)


def test_a_list_of_generators_is_one_per_image(pipe):
    many = pipe([0, 1], generator=[seed(1), seed(2)], output_type="pt")
    one = pipe([1], generator=seed(2), output_type="pt")
    assert torch.equal(many.tokens[-1][1], one.tokens[-1][0])
    with pytest.raises(ValueError, match="generator has 2 entries for 3 images"):
        pipe([0, 1, 2], generator=[seed(1), seed(2)])


def test_reading_a_generator_does_not_move_it(pipe):
    generator = seed(3)
    before = generator.get_state()
    pipe([0], generator=generator)
    assert torch.equal(before, generator.get_state())
    assert seeds_of(generator, 4)[:2] == seeds_of(generator, 2)


def test_names_ids_and_tensors_mean_the_same_classes(pipe):
    whole = (np.int64(1), np.array(1), np.uint8([1]), torch.tensor(1), "1")
    for labels in ("dog", 1, ["dog"], [1], torch.tensor([1]), ["DOG"], *whole):
        assert pipe.class_ids(labels) == [1]
    assert pipe.class_ids(np.array(["owl", "cat"])) == [2, 0]


@pytest.mark.parametrize(
    ("names", "label", "index"),
    [
        (("1", "10", "2"), "1", 0),
        (("1", "10", "2"), "10", 1),
        (("1", "10", "2"), "2", 2),
        (("1", "10", "2"), 2, 2),  # a number is an id
        (("1", "10", "2"), "0", 0),  # no such name: an id
        (("Cat", "cat", "owl"), "cat", 1),
        (("Cat", "cat", "owl"), "Cat", 0),
        (("Cat", "cat", "owl"), "OWL", 2),
        (("0", "a", "A"), "2", 2),
    ],
)
def test_a_text_is_a_name_before_it_is_an_id(pipe, names, label, index):
    named = Pipeline(pipe.tokenizer, pipe.transformer, classes=names)
    assert named.class_ids(label) == named.class_ids([label]) == [index]


def test_a_text_that_may_be_several_names_is_refused(pipe):
    named = Pipeline(pipe.tokenizer, pipe.transformer, classes=("Cat", "cat", "a"))
    words = r"class_labels has 'CAT', want 'Cat' \(id 0\) or 'cat' \(id 1\)"
    with pytest.raises(ValueError, match=words):
        named(["a", "CAT"])
    twins = Pipeline(pipe.tokenizer, pipe.transformer, classes=("a", "b", "b"))
    with pytest.raises(ValueError, match=r"'b' \(id 1\) or 'b' \(id 2\)"):
        twins("b")
    assert twins.class_ids([1, "2"]) == [1, 2]


def test_output_types_agree(pipe):
    made = {t: pipe([0], generator=seed(0), output_type=t).images for t in ("pt", "np")}
    picture = pipe([0], generator=seed(0)).images[0]
    assert isinstance(picture, Image.Image) and picture.size == (8, 8)
    assert made["np"].shape == (1, 8, 8, 3) and 0 <= made["np"].min()
    whole = (made["pt"][0].permute(1, 2, 0).numpy() + 1) / 2
    np.testing.assert_allclose(made["np"][0], whole, atol=1e-6)
    np.testing.assert_allclose(np.asarray(picture) / 255, whole, atol=1 / 255)


def test_no_class_is_unconditional(pipe):
    out = pipe(None, num_images_per_label=3, generator=seed(0), output_type="pt")
    assert out.labels is None and len(out.images) == 3


def test_callback_sees_every_scale_and_only_what_it_asked_for(pipe):
    seen = []

    def look(owner, k, left, tensors):
        assert owner is pipe
        seen.append((k, left, tuple(tensors), tuple(tensors["tokens"].shape)))

    pipe(
        [0, 1],
        generator=seed(0),
        callback_on_step_end=look,
        callback_on_step_end_tensor_inputs=("tokens",),
    )
    assert seen == [
        (k, 2 - k, ("tokens",), (2, s * s)) for k, s in enumerate((1, 2, 4))
    ]


def test_an_interrupted_call_leaves_nothing_behind(pipe):
    def stop(*_):
        raise KeyboardInterrupt

    want = pipe([0], generator=seed(0), output_type="pt").images
    with pytest.raises(KeyboardInterrupt):
        pipe([0], generator=seed(0), callback_on_step_end=stop)
    got = pipe([0], generator=seed(0), output_type="pt").images
    assert torch.equal(want, got)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"class_labels": 99}, r"class_labels has 99, want an id in 0\.\.2"),
        ({"class_labels": -1}, "class_labels has -1"),
        ({"class_labels": 3}, "class_labels has 3"),
        ({"class_labels": "cow"}, "class_labels has 'cow'.*cat, dog, owl"),
        ({"class_labels": 0, "guidance_scale": float("nan")}, "guidance"),
        ({"class_labels": 0, "top_p": 1.5}, "top_p"),
        ({"class_labels": 0, "top_p": -1}, "top_p"),
        ({"class_labels": 0, "top_k": 17}, "top_k .* 16"),
        ({"class_labels": 0, "temperature": 0.0}, "temperature"),
        ({"class_labels": 0, "output_type": "jpeg"}, "output_type"),
        ({"class_labels": 0, "batch_size": 0}, "batch_size"),
        ({"batch_size": 1.5}, "batch_size .* whole number, got 1.5; give 64"),
        ({"batch_size": True}, "batch_size .* got True"),
        ({"num_images_per_label": "2"}, "num_images_per_label .* got '2'; give 1"),
        (
            {"generator": 42},
            r"generator has 42, want .*Generator\(\).manual_seed\(42\)",
        ),
        ({"generator": np.int64(7)}, r"generator has .*want .*manual_seed\(7\)"),
        ({"class_labels": [0], "generator": [42]}, r"has 42, want .*seed\(42\)"),
        ({"generator": "a seed"}, "generator has 'a', want torch.Generator"),
        ({"generator": []}, "generator has 0 entries for 1 images"),
        ({"preset": ["fast"]}, r"preset must be one of plain.* got \['fast'\]"),
        ({"callback_on_step_end": 5}, "callback_on_step_end must be a function, got 5"),
        ({"guidance_scale": "3"}, "guidance must be a finite number.* got '3'"),
        ({"guidance_scale": np.array([3.0])}, "guidance must be a finite number"),
        ({"top_k": np.float32(3)}, "top_k must be an integer"),
        ({"class_labels": 0, "steps": 5}, "steps.*sampling takes"),
        ({"class_labels": 0, "callback_on_step_end_tensor_inputs": ("x",)}, "'x'"),
    ],
)
def test_bad_input_is_named_and_the_pipeline_works_afterwards(pipe, arguments, words):
    want = pipe([2], generator=seed(0), output_type="pt").images
    with pytest.raises(ValueError, match=words):
        pipe(**arguments)
    got = pipe([2], generator=seed(0), output_type="pt").images
    assert torch.equal(want, got)


@pytest.mark.parametrize("labels", [None, 0, ["cat", "owl"]])
def test_more_images_than_memory_holds_are_refused_at_once(pipe, labels):
    asked = r"1,000,000,000,000 images|2,000,000,000,000 images"
    with pytest.raises(ValueError, match=rf"({asked}) at once .* with another seed"):
        pipe(labels, num_images_per_label=10**12)


def test_the_bound_of_a_call_is_what_its_images_take(pipe, monkeypatch):
    each = 4 * 3 * 8 * 8  # float32
    monkeypatch.setattr(_inputs, "machine_memory", lambda: 5 * each)
    assert _inputs.check_count(5, pipe.tokenizer.image_shape) == 5
    with pytest.raises(ValueError, match="6 images at once .* which holds 5:"):
        pipe.repeated([0, 1, 2], 2)


def test_a_batch_size_beyond_the_images_is_their_number(pipe):
    want = pipe([0, 2], generator=seed(1), output_type="pt", batch_size=2).images
    huge = pipe([0, 2], generator=seed(1), output_type="pt", batch_size=10**12).images
    assert torch.equal(want, huge)


def test_a_batch_beyond_the_memory_is_refused_and_the_named_one_fits(pipe, monkeypatch):
    monkeypatch.setattr(_inputs, "machine_memory", lambda: 10**6)
    with pytest.raises(ValueError, match="batch of 200 .* has 0.001 GB.* size") as stop:
        pipe(num_images_per_label=200, batch_size=10**12)
    fits = int(str(stop.value).split()[-1])
    monkeypatch.setattr(_inputs, "check_count", lambda count, shape: count)
    assert 1 < fits < 200
    made = pipe(num_images_per_label=fits + 1, batch_size=fits, output_type="pt")
    assert len(made.images) == fits + 1


def test_numbers_of_numpy_are_numbers(pipe):
    numpy = pipe(
        np.int64(1),
        np.float32(3),
        top_k=np.int64(5),
        temperature=(np.float64(0.5), 1, np.float16(2)),
        num_images_per_label=np.int32(2),
        batch_size=np.uint8(1),
        generator=(seed(1), seed(2)),
    )
    plain = pipe(
        1,
        3.0,
        top_k=5,
        temperature=(0.5, 1, 2.0),
        num_images_per_label=2,
        generator=[seed(1), seed(2)],
    )
    assert numpy.labels == plain.labels == [1, 1]
    assert all(map(torch.equal, numpy.tokens, plain.tokens))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_type_of_numbers_has_a_name(pipe, tmp_path, dtype):
    folder = pipe.save_pretrained(tmp_path / "model")
    for given in (dtype, getattr(torch, dtype)):
        made = Pipeline.from_pretrained(folder, dtype=given)
        assert {w.dtype for w in made.transformer.parameters()} == {
            getattr(torch, dtype)
        }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dtype": "half"}, "dtype must be one of float32, .*, got 'half'"),
        ({"dtype": "int64"}, "got 'int64'"),
        ({"dtype": torch.int64}, "got torch.int64"),
        ({"dtype": 16}, "got 16"),
        ({"dtype": None}, "got None"),
        ({"tokenizer_dtype": "half"}, "tokenizer_dtype must be one of .*, got 'half'"),
        ({"device": "foo"}, "device must be cpu.*, got 'foo'"),
        ({"device": 1.5}, "device must be cpu.*, got 1.5"),
        ({"device": "cuda:99"}, "device must be cpu.*, got 'cuda:99'"),
    ],
)
def test_another_type_or_device_is_refused(pipe, given, words):
    with pytest.raises(ValueError, match=words):
        Pipeline.from_pretrained("fashion", **given)
    if "device" in given:
        with pytest.raises(ValueError, match=words):
            pipe.to(**given)


def test_networks_that_do_not_fit_are_refused(pipe):
    config = TransformerConfig(1, 8, 1, ScaleSchedule((1, 4)), 16, 4, 3)
    with pytest.raises(ValueError, match="differ in schedule"):
        Pipeline(pipe.tokenizer, ScaleTransformer(config))
    with pytest.raises(CheckpointError, match="2 names, want 3: .* or leave the names"):
        Pipeline(pipe.tokenizer, pipe.transformer, classes=("a", "b"))


def test_a_saved_folder_is_the_same_pipeline(pipe, tmp_path):
    plan = ResamplingPlan(scales=(1,), passes=(0, 2, 1), share=(0.5, 0.25), law="map")
    pipe.sampling = SampleConfig(
        (2.0, 1.0, 1.5), "interval", top_k=5, resampling=plan, back_to=1
    )
    folder = pipe.save_pretrained(tmp_path / "model", data="toy")
    other = Pipeline.from_pretrained(folder)
    assert other.classes == NAMES and other.sampling == pipe.sampling
    for name in ("tokenizer", "transformer"):
        mine = getattr(pipe, name).state_dict()
        theirs = getattr(other, name).state_dict()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[k], theirs[k]) for k in mine)
    pipe.sampling = SampleConfig()


def test_a_plan_is_carried_out_for_each_image_by_its_seed(pipe):
    plan = ResamplingPlan(passes=2, law="map")
    steps = []
    runs = [
        pipe(
            [0, 1, 2],
            generator=seed(3),
            output_type="pt",
            batch_size=size,
            resampling=plan,
            callback_on_step_end=lambda _, k, left, tensors: steps.append(k),
        )
        for size in (3, 1)
    ]
    assert all(map(torch.equal, runs[0].tokens, runs[1].tokens))
    assert steps[:9] == [0, 0, 0, 1, 1, 1, 2, 2, 2]  # a draw and two passes each
    plain = pipe([0, 1, 2], generator=seed(3), output_type="pt")
    assert not all(map(torch.equal, plain.tokens, runs[0].tokens))
    back = pipe([0, 1, 2], generator=seed(3), output_type="pt", back_to=1)
    assert not all(map(torch.equal, plain.tokens, back.tokens))


def test_saving_again_replaces_the_whole_folder(pipe, tmp_path):
    folder = pipe.save_pretrained(tmp_path / "model")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(
        ValueError, match="holds .'notes.txt'., which belong to no saved"
    ):
        pipe.save_pretrained(folder)
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "notes.txt").unlink()
    pipe.save_pretrained(folder)
    with pytest.raises(ValueError, match="facts has .'classes', 'files'."):
        pipe.save_pretrained(folder, classes=["a"], files="x")
    assert {p.name for p in tmp_path.iterdir()} == {"model"}
    Pipeline.from_pretrained(folder)


def test_a_damaged_or_missing_folder_is_named(pipe, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Pipeline.from_pretrained(tmp_path / "nowhere")
    folder = pipe.save_pretrained(tmp_path / "model")
    weights = folder / "transformer" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="model.safetensors"):
        Pipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda facts: [], "AttributeError"),
        (lambda facts: "model", "AttributeError"),
        (lambda facts: facts | {"sampling": {"cfg": 1}}, "unknown fields .'cfg'"),
        (lambda facts: facts | {"sampling": None}, "TypeError"),
        (lambda facts: facts | {"sampling": {"top_p": 2}}, "top_p must be in"),
        (lambda facts: facts | {"sampling": {"resampling": {"x": 1}}}, "fields .'x'"),
        (
            lambda facts: facts | {"sampling": {"resampling": 3}},
            "wants an object, got 3",
        ),
        (lambda facts: facts | {"presets": {"fast": {}}}, "KeyError: 'sampling'"),
        (lambda facts: facts | {"presets": {"fast": 3}}, "TypeError"),
        (lambda facts: facts | {"presets": ["fast"]}, "AttributeError"),
        (lambda facts: facts | {"classes": "abc"}, "classes is 'abc', want a list"),
        (lambda facts: facts | {"classes": [1, 2, 3]}, "want a list of names"),
        (lambda facts: facts | {"decoder": 3}, "has the decoder 3"),
        (lambda facts: facts | {"decoder": []}, r"has the decoder \[\]"),
    ],
)
def test_a_manifest_that_says_something_else_is_named(pipe, tmp_path, change, words):
    folder = pipe.save_pretrained(tmp_path / "model")
    path = folder / "manifest.json"
    write_json(path, change(read_json(path)))
    with pytest.raises(CheckpointError, match=rf"manifest\.json.*{words}"):
        Pipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    "labels",
    [
        *([], 1.5, None.__class__, [0, "tiger"], True, [0, False], np.array([True])),
        *(torch.tensor([True]), np.array([1.0]), np.float32(1), [None], [[0]], b"1"),
        *("-1", "3", "1.0", ""),
    ],
)
def test_labels_that_name_no_class_are_refused(pipe, labels):
    with pytest.raises(ValueError, match="class_labels"):
        pipe(labels)


def test_a_call_can_name_a_preset_and_change_it(pipe):
    named = pipe.config_with(None, {"top_k": 3}, "var-fid")
    assert (named.guidance, named.top_k, named.top_p) == (2.5, 3, 0.96)
    assert len(pipe(preset="plain", output_type="pt").images) == 1
    with pytest.raises(ValueError, match="preset must be one of"):
        pipe(preset="finest")
    with pytest.raises(ValueError, match="top_k must be at most the vocabulary"):
        pipe(preset="var-fid")


def test_a_model_has_presets_of_its_own_and_keeps_them(pipe, tmp_path):
    mine = SampleConfig(1.5, temperature=(0.9,) * len(pipe.transformer.config.schedule))
    made = Pipeline(pipe.tokenizer, pipe.transformer, presets={"plain": mine})
    again = Pipeline.from_pretrained(made.save_pretrained(tmp_path / "m"))
    assert again.presets == {"plain": mine}
    assert again.preset("plain") == mine  # before the one of that name for all models
    assert again.preset("var-fid") == SAMPLING_PRESETS["var-fid"]
    assert pipe.presets == {}


@pytest.fixture
def slim(pipe) -> Pipeline:
    """The same model, painted by another decoder."""
    painter = slimmed(pipe.tokenizer, 4, blocks=1, middle=False)
    known = {"presets": {"quick": SampleConfig(2.0)}, "painter": painter}
    return Pipeline(pipe.tokenizer, pipe.transformer, classes=NAMES, **known)


def test_another_decoder_paints_what_is_drawn(pipe, slim):
    call = {"generator": seed(4), "output_type": "pt"}
    usual = pipe([0, 1], 2.0, **call)
    for made in (slim([0, 1], preset="quick", **call), slim([0, 1], 2.0, **call)):
        for a, b in zip(made.tokens, usual.tokens, strict=True):
            assert torch.equal(a, b)  # the codes are drawn alike
        with torch.no_grad():
            wanted = slim.painter.decode(made.tokens)
        torch.testing.assert_close(made.images, wanted, rtol=0, atol=1e-5)
        assert not torch.allclose(made.images, usual.images, atol=0.01)
    assert slim.to("cpu") is slim and pipe.painter is pipe.tokenizer


def test_a_decoder_alone_is_kept_with_the_model(pipe, slim, tmp_path):
    saved = slim.save_pretrained(tmp_path / "m")
    assert verify_manifest(saved)["decoder"] == "decoder"
    assert "decoder/model.safetensors" in verify_manifest(saved)["files"]
    assert "decoder" not in verify_manifest(pipe.save_pretrained(tmp_path / "plain"))
    again = Pipeline.from_pretrained(saved)
    first, second = (
        p([0, 2], generator=seed(1), output_type="pt") for p in (slim, again)
    )
    assert torch.equal(first.images, second.images)
    assert again.painter.encoder is again.tokenizer.encoder  # nothing is held twice
    assert again.painter.quantize is again.tokenizer.quantize
    half = Pipeline.from_pretrained(saved, dtype="float16", tokenizer_dtype="float16")
    assert {w.dtype for w in half.painter.parameters()} == {torch.float16}
    assert half.painter.encoder is half.tokenizer.encoder


def test_the_command_line_paints_with_the_decoder_of_the_model(pipe, slim, tmp_path):
    pictures = []
    for made, name in ((pipe, "own"), (slim, "slim")):
        saved, out = made.save_pretrained(tmp_path / name), tmp_path / f"{name}.png"
        assert main(["sample", str(saved), "--count", "1", "--out", str(out)]) == 0
        pictures.append(np.asarray(Image.open(out), dtype=float))
    assert np.abs(pictures[0] - pictures[1]).max() > 1


def test_a_decoder_that_is_damaged_or_misfits_is_refused(slim, pipe, tmp_path):
    other = replace(pipe.tokenizer.config, schedule=ScaleSchedule((1, 2, 8)))
    with pytest.raises(ValueError, match="schedule"):
        Pipeline(pipe.tokenizer, pipe.transformer, painter=Tokenizer(other))
    folder = save_decoder(slim.painter, tmp_path / "d", dtype=torch.float16, data="toy")
    assert read_json(folder / "manifest.json")["data"] == "toy"
    other = TokenizerConfig(3, 8, (1, 2), 1, (), 4, 8, 16, 2, SCHEDULE)
    with pytest.raises(CheckpointError, match="of another shape"):
        load_decoder(Tokenizer(other), folder)
    write_json(folder / "config.json", {"decoder_base": 4})
    with pytest.raises(CheckpointError, match="damaged or was edited"):
        load_decoder(pipe.tokenizer, folder)
    with pytest.raises(FileNotFoundError):
        load_decoder(pipe.tokenizer, tmp_path / "none")
    saved = slim.save_pretrained(tmp_path / "m")
    facts = read_json(saved / "manifest.json")
    facts["decoder"] = "../d"
    write_json(saved / "manifest.json", facts)
    with pytest.raises(CheckpointError, match="has the decoder '../d'"):
        Pipeline.from_pretrained(saved)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_makes_nearly_the_same_images(dtype):
    exact = Pipeline.from_pretrained("fashion")
    half = Pipeline.from_pretrained("fashion", dtype=dtype)
    first, second = (
        p([1, 8], generator=seed(0), output_type="pt", top_k=16) for p in (exact, half)
    )
    for k in range(3):  # later scales follow from earlier ones, and drift
        assert torch.equal(first.tokens[k], second.tokens[k])
    near = half.painter.decode(first.tokens).float() - first.images
    assert near.abs().max() < 2 / 255  # of the same map: within a step of 1/255
    assert weight_types(half) == {dtype, torch.float32 if dtype == BF16 else dtype}


def weight_types(made: Pipeline) -> set[torch.dtype]:
    """Of all networks."""
    nets = made.transformer, made.tokenizer, made.painter
    return {w.dtype for net in nets for w in net.parameters()}


@pytest.mark.parametrize("name", ["fashion", "fashion-causal"])
def test_the_shipped_decoders_are_proved_in_float16_and_refuted_in_bfloat16(name):
    made = Pipeline.from_pretrained(name)
    shown = made(
        range(10), num_images_per_label=10, generator=seed(5), output_type="pt"
    )
    for painter in (made.tokenizer, made.painter):
        assert 0.1 < steps_apart(painter, torch.float16) <= NEAR
        assert steps_apart(painter, torch.float16, count=200) < 1  # of many: twice
        assert steps_apart(painter, BF16) > 2
        half = deepcopy(painter).half()
        with torch.no_grad():
            apart = half.decode(shown.tokens).float() - painter.decode(shown.tokens)
        assert apart.abs().max() * 127.5 < 1


def test_a_decoder_that_half_precision_changes_stays_in_float32(pipe, tmp_path):
    sharp = deepcopy(pipe)  # a decoder whose numbers are too large for float16
    with torch.no_grad():
        sharp.painter.decoder.conv_in.weight.mul_(1e6)
    assert math.isnan(steps_apart(sharp.painter, torch.float16))
    folder, call = sharp.save_pretrained(tmp_path / "sharp"), {"output_type": "pt"}
    kept = Pipeline.from_pretrained(folder, dtype="float16")
    assert weight_types(kept) == {torch.float16, torch.float32}
    assert {w.dtype for w in kept.tokenizer.parameters()} == {torch.float32}
    assert kept([0, 1], generator=seed(0), **call).images.isfinite().all()
    forced = Pipeline.from_pretrained(
        folder, dtype="float16", tokenizer_dtype="float16"
    )
    assert weight_types(forced) == {torch.float16}
    assert forced([0, 1], generator=seed(0), **call).images.isnan().any()
    wide = Pipeline.from_pretrained(folder, tokenizer_dtype=torch.float64)
    assert weight_types(wide) == {torch.float32, torch.float64}


def test_graphs_want_a_gpu_and_say_so(pipe, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match='device is cpu, CUDA graphs need "cuda"'):
        pipe.enable_cuda_graphs(fused=True)
    assert pipe.graphs is None
    assert main(["sample", "fashion", "--cuda-graphs", "fused"]) == 2
    assert "CUDA graphs need" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("fused", [False, True])
def test_graphs_give_the_images_of_the_calls(fused):
    made = Pipeline.from_pretrained("fashion", device="cuda")
    calls = made([1, 2, 3], generator=seed(1), output_type="pt")
    made.enable_cuda_graphs(fused)
    for _ in range(2):
        again = made([1, 2, 3], generator=seed(1), output_type="pt")
        assert torch.allclose(again.images, calls.images, atol=1e-3)
    other = made([3, 2, 1], generator=seed(2), output_type="pt")
    assert not torch.allclose(other.images, calls.images, atol=0.1)


def test_a_recorded_graph_paints_with_the_other_decoder(slim, monkeypatch):
    """What a graph would record, called instead: one record for each setting."""
    seen = []

    def replayed(model, tokenizer, batch, config):
        seen.append((tokenizer, batch, config))

        def call(labels, seeds):
            return sample(model, tokenizer, labels, config=config, seeds=seeds)

        return call

    call = {"generator": seed(4), "output_type": "pt"}
    names = (None, "quick")
    wanted = {name: slim([0, 1], preset=name, **call).images for name in names}
    monkeypatch.setattr("srdd.pipeline.replayed", replayed)
    monkeypatch.setattr(slim, "graphs", {})
    for _ in range(2):  # the second time from the records
        for name, images in wanted.items():
            found = slim([0, 1], preset=name, **call).images
            torch.testing.assert_close(found, images, rtol=0, atol=1e-6)
    assert seen == [
        (slim.painter, 2, slim.sampling),
        (slim.painter, 2, slim.presets["quick"]),
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_graphs_of_a_preset_give_the_images_of_the_calls():
    made = Pipeline.from_pretrained("fashion", device="cuda")
    call = {"generator": seed(1), "output_type": "pt", "preset": "fast"}
    calls = made([1, 2, 3], **call)
    again = made.enable_cuda_graphs()([1, 2, 3], **call)
    assert torch.allclose(again.images, calls.images, atol=1e-3)


# Editing


@pytest.fixture(scope="module")
def photographs():
    """Four grey images of the shipped slice, their classes, as tensor and as PIL."""
    images, labels = fashion_slice().batch((0, 150, 500, 800))
    return images, labels.tolist(), [to_pil(image) for image in images]


def middle(side: int = 32) -> torch.Tensor:
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = True
    return mask


@pytest.fixture(scope="module")
def shipped() -> Pipeline:
    return Pipeline.from_pretrained("fashion")


def test_inpainting_takes_pictures_tensors_and_masks_of_any_kind(shipped, photographs):
    images, labels, pictures = photographs
    mask, dice = middle(), seed(0)
    white = to_pil(mask[None] * 2.0 - 1)
    known = ~mask.numpy()
    made = shipped.inpaint(pictures, white, labels, generator=dice)
    for new, old in zip(made.images, pictures, strict=True):
        assert (np.array(new)[known] == np.array(old)[known]).all()
    every = mask.expand(4, -1, -1)
    colour = [picture.convert("RGB") for picture in pictures]
    for given, hole in (
        (images, mask),
        (images, every.numpy()),
        (colour, every[:, None]),
    ):
        again = shipped.inpaint(given, hole, labels, generator=dice, batch_size=3)
        for a, b in zip(again.images, made.images, strict=True):
            assert (np.array(a) == np.array(b)).all()
    assert made.labels == labels and not made.tokens[0].is_floating_point()


def test_one_image_may_be_filled_often_and_as_several_classes(shipped, photographs):
    _, labels, pictures = photographs
    call = {"generator": seed(1), "output_type": "pt", "rounds": 1}
    several = shipped.inpaint(pictures[0], middle(), ["Bag", 1], **call)
    assert several.labels == [8, 1] and len(several.images) == 2
    often = shipped.inpaint(
        pictures[:2], middle(), labels[:2], num_images_per_image=3, **call
    )
    assert often.labels == [labels[0]] * 3 + [labels[1]] * 3
    known = ~middle()
    for i, image in enumerate(often.images):
        assert torch.equal(image[0][known], photographs[0][i // 3][0][known])
    assert len({image.numpy().tobytes() for image in often.images}) == 6
    free = shipped.inpaint(pictures, middle(), **call)
    assert free.labels is None and len(free.images) == 4


def test_the_other_edits_keep_what_they_promise(shipped, photographs):
    images, labels, pictures = photographs
    call = {"generator": seed(2), "output_type": "pt"}
    inner = images[..., 4:20, 6:30]
    around = shipped.outpaint(inner, labels, at=(4, 6), **call).images
    assert torch.equal(around[..., 4:20, 6:30], inner)
    low = area_down(images, 8)
    detail = shipped.super_resolve(low, labels, **call).images
    assert (area_down(detail, 8) - low).abs().max() < 0.01
    coarse = shipped.edit(images, labels, scales=3, **call).tokens
    with torch.no_grad():
        coded = shipped.tokenizer.encode(images)
    assert all(map(torch.equal, coarse[:3], coded[:3]))
    assert not torch.equal(coarse[5], coded[5])
    assert all(map(torch.equal, shipped.edit(images, labels, scales=6).tokens, coded))


def test_edits_report_and_follow_the_settings_of_a_call(shipped, photographs):
    _, labels, pictures = photographs
    seen = []

    def look(pipe, k, left, tensors):
        seen.append((k, left, tensors["tokens"].shape))

    shipped.inpaint(
        pictures, middle(), labels, preset="best", rounds=2, callback_on_step_end=look
    )
    assert len(seen) == 2 * (6 + 5 * 2) and seen[0][:2] == (0, 5)
    call = {"generator": seed(3), "rounds": 1, "output_type": "np"}
    weak, strong = (
        shipped.inpaint(pictures, middle(), labels, w, **call) for w in (1.0, 5.0)
    )
    assert weak.images.shape == (4, 32, 32, 1)
    assert not np.array_equal(weak.images, strong.images)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": "photo.png"}, "images must be PIL images or a tensor"),
        ({"images": []}, "images must be PIL images or a tensor"),
        ({"images": [1]}, "images has 1, want PIL images"),
        ({"images": Image.new("L", (20, 32))}, r"want \(b, 1, 32, 32\)"),
        ({"images": [Image.new("L", (32, 32)), Image.new("L", (8, 8))]}, "one size"),
        ({"images": torch.zeros(2, 3, 32, 32)}, r"want \(b, 1, 32, 32\)"),
        ({"images": torch.full((1, 1, 32, 32), 255.0)}, "images has values"),
        ({"mask": None}, "mask is NoneType"),
        ({"mask": torch.zeros(32, 32)}, "use mask > 0.5"),
        ({"mask": torch.zeros(2, 32, 32, dtype=torch.bool)}, "mask has shape"),
        ({"mask": torch.zeros(16, 16, dtype=torch.bool)}, "mask has shape"),
        ({"class_labels": ["Hat"]}, "Hat"),
        ({"rounds": 0}, "rounds must be"),
        ({"num_images_per_image": 0}, "num_images_per_image"),
        ({"paste": True}, "unknown arguments"),
        ({"output_type": "gif"}, "output_type must be one of"),
    ],
)
def test_bad_input_of_an_edit_is_named(shipped, change, words):
    given = {"images": torch.zeros(1, 1, 32, 32), "mask": middle()} | change
    with pytest.raises(ValueError, match=words):
        shipped.inpaint(**given)


def test_bad_input_of_other_edits_is_named(shipped, photographs):
    images, labels, pictures = photographs
    with pytest.raises(ValueError, match="3 classes for 4 images"):
        shipped.edit(images, [1, 2, 3])
    with pytest.raises(ValueError, match=r"scales must be in 0\.\.6"):
        shipped.edit(images, labels, scales=7)
    with pytest.raises(ValueError, match="do not fit on a canvas"):
        shipped.outpaint(images[..., :20, :20], labels, at=(20, 0))
    with pytest.raises(ValueError, match="want a side that divides 32"):
        shipped.super_resolve(pictures, labels)


def test_half_precision_edits_too(photographs):
    images, labels, _ = photographs
    half = Pipeline.from_pretrained("fashion", dtype="bfloat16")
    made = half.inpaint(images, middle(), labels, output_type="pt")
    assert torch.equal(made.images[..., ~middle()], images[..., ~middle()])
    assert made.images.isfinite().all()


def test_an_edit_beyond_the_memory_is_refused_as_a_call_is(shipped, monkeypatch):
    monkeypatch.setattr("srdd._inputs.machine_memory", lambda: 30_000_000)
    images, hole = torch.zeros(200, 1, 32, 32), middle()
    with pytest.raises(ValueError, match="a batch of 200 images needs about"):
        shipped.inpaint(images, hole, batch_size=200)
    with pytest.raises(ValueError, match="a batch of 200 images needs about"):
        shipped(num_images_per_label=200, batch_size=200)
