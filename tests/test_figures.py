"""Figures: exact pixels, and a player that needs no kernel."""

import base64
import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from srdd.figures import (
    band,
    bars,
    choices_player,
    frames_player,
    image_grid,
    png_text,
    scale_strip,
    to_pil,
    use_style,
)


def test_the_ends_of_the_range_are_black_and_white():
    image = to_pil(torch.tensor([[[-1.0, 1.0], [0.0, 5.0]]]))
    assert np.asarray(image).tolist() == [[0, 255], [128, 255]]
    assert to_pil(torch.zeros(3, 2, 4)).size == (4, 2)


@pytest.mark.parametrize("shape", [(2, 4, 4), (4, 4), (1, 1, 4, 4)])
def test_other_shapes_are_no_images(shape):
    with pytest.raises(ValueError, match="want"):
        to_pil(torch.zeros(shape))


def test_a_grid_puts_every_pixel_in_its_place():
    images = torch.linspace(-1, 1, 6).view(6, 1, 1, 1).expand(6, 1, 3, 3)
    sheet = np.asarray(image_grid(images, columns=3, pad=1, scale=2))
    assert sheet.shape == (1 + 2 * 7, 1 + 3 * 7)
    for n in range(6):
        y, x = 1 + 7 * (n // 3), 1 + 7 * (n % 3)
        want = round((images[n, 0, 0, 0].item() + 1) * 127.5)
        assert (sheet[y : y + 6, x : x + 6] == want).all()


def test_a_short_last_row_stays_white():
    sheet = np.asarray(image_grid(-torch.ones(3, 1, 2, 2), columns=2, pad=1))
    assert (sheet[4:6, 4:6] == 255).all() and (sheet[4:6, 1:3] == 0).all()


def test_labels_make_room_on_the_left():
    images = torch.zeros(4, 3, 8, 8)
    plain = image_grid(images, 2)
    named = image_grid(images, 2, labels=["cat", "", "dog", ""])
    assert named.width > plain.width and named.height == plain.height


@pytest.mark.parametrize(
    ("images", "columns", "labels"),
    [
        (torch.zeros(0, 1, 2, 2), 1, None),
        (torch.zeros(1, 1, 2, 2), 0, None),
        (torch.zeros(1, 2, 2), 1, None),
        (torch.zeros(2, 1, 2, 2), 1, ["a"]),
    ],
)
def test_bad_grids_are_refused(images, columns, labels):
    with pytest.raises(ValueError, match="want|labels"):
        image_grid(images, columns, labels)


def test_a_strip_has_a_row_per_image_and_a_column_per_scale():
    partials = torch.zeros(3, 2, 1, 4, 4)
    assert scale_strip(partials, scale=1).size == (2 + 3 * 6, 2 + 2 * 6)


def test_png_text_is_the_picture():
    image = Image.new("L", (3, 2), 7)
    again = Image.open(io.BytesIO(base64.b64decode(png_text(image))))
    assert np.array_equal(np.asarray(again), np.asarray(image))


def test_the_player_holds_its_frames():
    frames = [Image.new("L", (4, 4), v) for v in (0, 255)]
    player = frames_player(frames, ["a", "b"], title="two")
    assert player.labels == ["a", "b"] and len(player.frames) == 2
    assert "render" in str(player._esm)
    with pytest.raises(ValueError, match="as many"):
        frames_player(frames, ["a"])


KNOBS = {"w": ["1", "2"], "passes": ["0", "1", "2"]}


def test_choices_hold_a_picture_for_each_combination():
    frames = [Image.new("L", (4, 4), 10 * v) for v in range(6)]
    player = choices_player(frames, KNOBS, [str(i) for i in range(6)], title="t")
    assert player.knobs == [["w", ["1", "2"]], ["passes", ["0", "1", "2"]]]
    assert len(player.frames) == 6 and "render" in str(player._esm)
    with pytest.raises(ValueError, match="6 combinations"):
        choices_player(frames[:5], KNOBS, ["x"] * 5)


def test_colab_gets_choices_as_one_slider(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", object())
    made = choices_player([Image.new("L", (4, 4))] * 6, KNOBS, ["x"] * 6)
    assert made.children[1].options[1][0] == "1, 1: x"


def test_colab_gets_core_widgets(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", object())
    player = frames_player([Image.new("L", (4, 4))] * 2, ["a", "b"])
    assert type(player).__name__ == "VBox"


def test_bars_and_bands_draw_their_spread():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    use_style()
    fig, ax = plt.subplots()
    bars(ax, [1.0, 2.0], [0.1, 0.2])
    band(ax, [0, 1], [[0.0, 1.0], [1.0, 2.0]], label="x")
    assert len(ax.patches) == 2 and len(ax.collections) >= 2
    plt.close(fig)
