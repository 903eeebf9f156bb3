"""Data: every oddity of image files, and order that is a function of a counter."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from srdd.data import (
    FASHION_CLASSES,
    CounterSampler,
    colour_shapes,
    fashion_slice,
    hash_counter,
    loader,
    mix64,
    open_images,
    permutation,
)


def picture(size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    ramp = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0])
    return Image.fromarray(ramp.astype(np.uint8)).convert(mode)


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(3):
            picture((40 + i, 50)).save(tmp_path / name / f"{i}.png")
    return tmp_path


# ------------------------------------------------------------------ the counter
def test_the_hash_mixes_every_bit():
    bits = hash_counter(7, torch.arange(4000))
    ones = torch.stack([(bits >> i) & 1 for i in range(64)]).float().mean(1)
    assert bits.unique().numel() == 4000
    assert ((ones - 0.5).abs() < 0.05).all()


def test_the_hash_is_the_published_splitmix():
    # first outputs of SplitMix64 started at 0: 0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4
    got = [int(x) & (2**64 - 1) for x in hash_counter(0, torch.arange(2))]
    assert got == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_every_part_of_a_seed_counts():
    seen = {mix64(a, b, c) for a in range(5) for b in range(5) for c in range(5)}
    assert len(seen) == 125 and mix64(1, 2) != mix64(2, 1)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**40), st.integers(0, 1000))
def test_an_epoch_is_a_permutation(size, seed, epoch):
    order = permutation(size, seed, epoch)
    assert order.sort().values.tolist() == list(range(size))
    assert torch.equal(order, permutation(size, seed, epoch))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 17), st.integers(0, 12))
def test_the_stream_can_be_entered_at_any_step(size, batch, start):
    whole = list(CounterSampler(size, batch, 3, 0, start + 4))
    assert list(CounterSampler(size, batch, 3, start, 4)) == whole[start:]
    flat = [pair for pairs in whole for pair in pairs]
    first = [i for e, i in flat if e == 0][:size]
    assert len(set(first)) == len(first)


@pytest.mark.parametrize(("size", "batch"), [(0, 1), (1, 0)])
def test_an_empty_stream_is_refused(size, batch):
    with pytest.raises(ValueError, match=">= 1"):
        CounterSampler(size, batch, 0)


@pytest.mark.parametrize("augment", [False, True])
def test_workers_and_restarts_do_not_change_the_batches(folder, augment):
    images = open_images(folder, side=16, flip=True)
    plain = list(loader(images, 4, 5, steps=5, augment=augment))
    other = list(
        loader(images, 4, 5, start_step=2, steps=3, workers=2, augment=augment)
    )
    for (a, x), (b, y) in zip(plain[2:], other, strict=True):
        assert torch.equal(a, b) and torch.equal(x, y)


def test_augmentation_is_a_function_of_seed_epoch_and_index(folder):
    images = open_images(folder, side=16, flip=True)
    one, _ = images.batch([2], epoch=1, augment=True, seed=3)
    assert torch.equal(one, images.batch([2], epoch=1, augment=True, seed=3)[0])
    others = [images.batch([2], epoch=e, augment=True, seed=3)[0] for e in range(2, 9)]
    assert any(not torch.equal(one, other) for other in others)


# ---------------------------------------------------------------------- folders
def test_a_folder_gives_classes_sizes_and_range(folder):
    images = open_images(folder, side=16)
    assert (
        images.classes == ("cat", "dog") and images.labels.tolist() == [0] * 3 + [1] * 3
    )
    batch, labels = images.batch([0, 5])
    assert batch.shape == (2, 3, 16, 16) and labels.tolist() == [0, 1]
    assert -1 <= batch.min() < batch.max() <= 1


def test_a_flat_folder_is_one_class(tmp_path):
    picture().save(tmp_path / "a.png")
    assert open_images(tmp_path, side=8).classes == ("image",)


def test_images_beside_class_folders_are_refused_not_lost(folder):
    picture().save(folder / "loose.png")
    words = r"loose\.png beside cat.0\.png: move each image into a folder of its class"
    with pytest.raises(ValueError, match=words):
        open_images(folder, side=16)
    (folder / "loose.png").rename(folder / "loose.txt")
    assert open_images(folder, side=16).classes == ("cat", "dog")


def test_a_folder_without_images_beside_images_is_no_class(tmp_path):
    for name in ("notes", "more"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes" / "a.txt").write_text("a")
    picture().save(tmp_path / "a.png")
    images = open_images(tmp_path, side=16)
    assert images.classes == ("image",) and len(images) == 1


def test_what_is_hidden_is_no_image(folder):
    for place in (folder, folder / "cat", folder / "cat" / "deep"):
        (place / ".thumbs").mkdir(parents=True)
        picture().save(place / ".thumbs" / "0.png")
        picture().save(place / "._0.png")
    images = open_images(folder, side=16)
    assert images.classes == ("cat", "dog") and len(images) == 6
    flat = open_images(folder / "cat", side=16)
    assert flat.classes == ("image",) and len(flat) == 3
    with pytest.raises(ValueError, match="deep holds no images"):
        open_images(folder / "cat" / "deep")
    hidden = folder / ".data"  # asked for by name
    (folder / "dog").rename(hidden)
    assert len(open_images(hidden, side=16)) == 3


@pytest.mark.parametrize(
    "mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "1", "I;16", "F"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_colour_mode_is_read(tmp_path, mode, channels):
    path = tmp_path / f"x.{'tif' if mode in ('CMYK', 'F') else 'png'}"
    if mode == "I;16":
        values = np.linspace(0, 65535, 1200).reshape(30, 40).astype(np.uint16)
        Image.fromarray(values).save(path)
    elif mode == "F":
        values = np.linspace(0, 1, 1200, dtype=np.float32).reshape(30, 40)
        Image.fromarray(values).save(path)
    else:
        picture(mode=mode).save(path)
    batch, _ = open_images(tmp_path, side=16, channels=channels).batch([0])
    assert batch.shape == (1, channels, 16, 16)
    assert batch.min() < -0.2 and batch.max() > 0.2, "a ramp stays a ramp"


def test_transparent_pixels_are_white(tmp_path):
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "x.png")
    assert open_images(tmp_path, side=16).batch([0])[0].min() == 1


def test_only_the_first_frame_of_an_animation_counts(tmp_path):
    frames = [Image.new("L", (20, 20), v) for v in (0, 255)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert open_images(tmp_path, side=16).batch([0])[0].max() < 0


def test_orientation_tags_are_obeyed(tmp_path):
    image = Image.new("L", (32, 16), 0)
    image.paste(255, (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "x.png", exif=exif)
    turned = open_images(tmp_path, side=16, channels=1).image(0)[0].float()
    assert turned.mean(1).std() > turned.mean(0).std()


BROKEN = {
    "empty.jpg": lambda p: p.write_bytes(b""),
    "text.png": lambda p: p.write_text("not a picture"),
    "small.png": lambda p: picture((8, 40)).save(p),
    "cut.jpg": lambda p: (
        picture((300, 300)).save(p),
        p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_or_skipped(folder, name):
    BROKEN[name](folder / "cat" / name)
    with pytest.raises(ValueError, match=name):
        open_images(folder, side=16)
    assert len(open_images(folder, side=16, on_error="skip")) == 6
    with pytest.raises(ValueError, match="more than 0 unreadable"):
        open_images(folder, side=16, on_error="skip", max_errors=0)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_photos_are_never_half_read(tmp_path, share):
    path = tmp_path / "x.jpg"
    picture((200, 200)).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match="x.jpg"):
        open_images(tmp_path, side=16)


def test_small_files_are_enlarged_on_request(tmp_path):
    picture((8, 12)).save(tmp_path / "x.png")
    assert open_images(tmp_path, side=16, upsample=True).image(0).shape == (3, 16, 16)


def test_folders_without_images_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no images"):
        open_images(tmp_path)
    (tmp_path / "full").mkdir()
    picture().save(tmp_path / "full" / "ünï.png")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match="bare"):
        open_images(tmp_path, side=16)


# ---------------------------------------------------------------- other sources
@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (torch.full((2, 1, 4, 4), 255.0), None, "0..255|-1, 1"),
        (torch.full((2, 1, 4, 4), torch.nan), None, "nan"),
        (torch.zeros(2, 4, 4), None, "shape"),
        (torch.zeros(2, 1, 4, 5), None, "shape"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.int64), None, "int64"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(3), "labels"),
        (torch.zeros(2, 1, 4, 4), torch.tensor([0, -1]), "labels"),
    ],
)
def test_bad_tensors_are_refused(images, labels, said):
    with pytest.raises(ValueError, match=said):
        open_images((images, labels))


def test_tensors_torchvision_sets_and_rows_agree():
    pixels = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    photos = [Image.fromarray(x[0].numpy()) for x in pixels]

    class Pairs(list):
        classes = ["a", "b", "c"]

    pairs = Pairs((photo, i) for i, photo in enumerate(photos))
    rows = [{"image": photo, "label": i} for i, photo in enumerate(photos)]
    want = open_images((pixels, torch.arange(3))).batch(range(3))
    for source in (pairs, rows):
        got = open_images(source, side=8, channels=1)
        assert torch.equal(got.batch(range(3))[0], want[0])
        assert torch.equal(got.batch(range(3))[1], want[1])
    assert open_images(pairs, side=8, channels=1).classes == ("a", "b", "c")
    floats = open_images((want[0], torch.arange(3)))
    assert torch.equal(floats.source, pixels)


@pytest.mark.parametrize(
    "source", [3, None, torch.zeros(2, 1, 4, 4), np.zeros((2, 4, 4)), {"image": []}]
)
def test_other_sources_are_refused(source):
    with pytest.raises(
        ValueError, match="source is a .*pair of tensors .images, labels"
    ):
        open_images(source)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([], "source is empty"),
        ((), "source is empty"),
        ([picture()], "source.0. is Image, want a PIL image and a class id"),
        ([(picture(), 0), picture()], "source.1. is Image"),
        (
            [{"image": picture()}],
            r"source.0. is \['image'\], want .*\"label\" of a row",
        ),
        ([{"img": picture(), "label": 0}], r"source.0. is \['img', 'label'\]"),
        ([{"image": picture(), "label": None}], "want a PIL image and a class id"),
        ([(picture(), "cat")], "source.0. is tuple"),
        ([(picture(), 0.5)], "source.0. is tuple"),
        ([(picture(), 0, 0)], "source.0. is tuple"),
        ([(torch.zeros(1, 4, 4), 0)], "source.0. is tuple"),
        ([np.zeros((4, 4))], "source.0. is ndarray"),
        (["a.png", "b.png"], "source.0. is str"),
        ((torch.zeros(2, 1, 4, 4),), "source.0. is Tensor"),
        ((np.zeros((2, 1, 4, 4)), np.zeros(2)), "source.0. is ndarray"),
    ],
)
def test_rows_without_an_image_and_an_id_are_named(source, words):
    with pytest.raises(ValueError, match=words):
        open_images(source, side=8)


def test_ids_of_any_library_label_rows():
    ids = (np.int64(1), torch.tensor(0), True, 2)
    made = open_images([(picture(), i) for i in ids], side=8)
    assert made.labels.tolist() == [1, 0, 1, 2]


def test_a_wrong_policy_and_a_wrong_size_are_refused():
    with pytest.raises(ValueError, match="on_error"):
        open_images("fashion-slice", on_error="ignore")
    with pytest.raises(ValueError, match=r"\(1, 32\), want \(3, 64\)"):
        open_images("fashion-slice", side=64, channels=3)


def test_the_shipped_slice_is_padded_not_resized():
    images = fashion_slice()
    assert len(images) == 1000 and images.classes == FASHION_CLASSES
    assert images.labels.bincount().tolist() == [100] * 10
    batch, _ = images.batch(range(50))
    border = batch.clone()
    border[:, :, 2:-2, 2:-2] = -1
    assert (border == -1).all() and batch.max() == 1


def test_fashion_needs_a_place(monkeypatch, tmp_path):
    monkeypatch.delenv("SRDD_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="SRDD_DATA"):
        open_images("fashion")
    with pytest.raises(FileNotFoundError, match="train-images"):
        open_images("fashion", root=tmp_path)


def test_the_slice_is_the_first_hundred_of_each_class(shared_data):
    train, small = open_images("fashion", root=shared_data), fashion_slice()
    assert (
        len(train) == 60_000
        and len(open_images("fashion-test", root=shared_data)) == 10_000
    )
    rows = torch.cat([(train.labels == c).nonzero()[:100, 0] for c in range(10)])
    assert torch.equal(train.source[rows], small.source)


def test_shapes_are_functions_of_seed_and_index():
    a, b = colour_shapes(8, 16, 1), colour_shapes(4, 16, 1)
    assert torch.equal(a.source[:4], b.source)
    assert not torch.equal(colour_shapes(4, 16, 2).source, b.source)
    assert len({x.numpy().tobytes() for x in a.source}) == 8


# ------------------------------------------------------------------------ parts
def test_a_split_keeps_the_classes_in_proportion():
    train, held = fashion_slice().split(0.1, seed=3)
    assert (len(train), len(held)) == (900, 100)
    assert held.labels.bincount().tolist() == [10] * 10
    again = fashion_slice().split(0.1, seed=3)[1]
    assert torch.equal(again.rows, held.rows)
    assert not set(train.rows.tolist()) & set(held.rows.tolist())
    with pytest.raises(ValueError, match="fraction"):
        train.split(1.0)


@pytest.mark.parametrize(("count", "fraction"), [(8, 0.99), (4, 0.1), (0, 0.5)])
def test_a_split_with_nothing_left_to_train_on_is_refused(count, fraction):
    few = colour_shapes(8, 8, 0).subset(range(count))
    with pytest.raises(
        ValueError, match=f"fraction {fraction} of {count} images leaves"
    ):
        few.split(fraction)
    train, held = colour_shapes(8, 8, 0).split(0.5)
    assert len(train) == len(held) == 4


def test_a_subset_of_a_subset_shows_the_right_images():
    whole = fashion_slice()
    part = whole.subset(range(0, 1000, 10)).subset([3, 5])
    assert torch.equal(part.batch([0, 1])[0], whole.batch([30, 50])[0])
    assert part.fingerprint != whole.fingerprint
