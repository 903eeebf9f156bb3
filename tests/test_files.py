"""Files: whole or not at all, strict, and never a pickle."""

import json
import math
import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import nn

from srdd.files import (
    CheckpointError,
    Pretrained,
    check_replaceable,
    config_from_dict,
    config_to_dict,
    load_tensors,
    not_finite,
    read_json,
    replace_folder,
    resolve_model,
    save_tensors,
    shipped_folder,
    verify_manifest,
    write_json,
    write_manifest,
)


@dataclass(frozen=True)
class Inner:
    sides: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Config:
    width: int
    inner: Inner = field(default_factory=Inner)
    rate: float = 0.5


class Net(nn.Module, Pretrained):
    config_class = Config
    subfolder = "net"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.layer = nn.Linear(config.width, 2)
        self.register_buffer("count", torch.tensor([3]))


@pytest.fixture
def saved(tmp_path) -> Path:
    torch.manual_seed(0)
    return Net(Config(4)).save_pretrained(tmp_path / "net", data="toy")


def test_a_saved_model_comes_back_to_the_bit(tmp_path):
    net = Net(Config(4, Inner((1, 3)), 0.25))
    again = Net.from_pretrained(net.save_pretrained(tmp_path / "net"))
    assert again.config == net.config and not again.training
    mine, theirs = net.state_dict(), again.state_dict()
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_half_precision_on_disk_is_float32_in_memory(tmp_path):
    net = Net(Config(4))
    folder = net.save_pretrained(tmp_path / "net", dtype=torch.float16)
    again = Net.from_pretrained(folder)
    assert (
        again.layer.weight.dtype == torch.float32 and again.count.dtype == torch.int64
    )
    torch.testing.assert_close(again.layer.weight, net.layer.weight.half().float())


def test_facts_stand_in_the_manifest(saved):
    facts = read_json(saved / "manifest.json")
    assert facts["data"] == "toy" and set(facts["files"]) == {
        "config.json",
        "model.safetensors",
    }


@pytest.mark.parametrize("share", [i / 10 for i in range(10)])
def test_a_truncated_file_is_refused(saved, share):
    path = saved / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match="model.safetensors"):
        Net.from_pretrained(saved)
    with pytest.raises(CheckpointError, match="model.safetensors"):
        load_tensors(path)


def test_every_flipped_bit_is_seen(saved):
    path = saved / "model.safetensors"
    data = path.read_bytes()
    for place in range(0, len(data), 37):
        broken = bytearray(data)
        broken[place] ^= 16
        path.write_bytes(bytes(broken))
        with pytest.raises(CheckpointError, match="sha256"):
            verify_manifest(saved)


def test_a_pickle_is_refused_whatever_its_name(tmp_path):
    for n, write in enumerate(
        (
            lambda p: torch.save({"a": torch.ones(1)}, p),
            lambda p: p.write_bytes(pickle.dumps({"a": 1})),
        )
    ):
        path = tmp_path / f"{n}.safetensors"
        write(path)
        with pytest.raises(CheckpointError, match="pickle"):
            load_tensors(path)


def test_misfitting_tensors_are_listed(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.ones(2), "b": torch.ones(3)})
    want = {"b": torch.ones(4), "c": torch.ones(1)}
    with pytest.raises(CheckpointError) as error:
        load_tensors(path, want)
    for part in ("1 missing (c)", "1 unexpected (a)", "b: got (3,), want (4,)"):
        assert part in str(error.value)


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused_whatever_their_hash(
    tmp_path, odd, dtype
):
    net = Net(Config(4))
    net.layer.bias.data[1] = odd
    folder = net.save_pretrained(tmp_path / "net", dtype=dtype)
    verify_manifest(folder)
    said = "model.safetensors has NaN or infinite .* 1 tensors, the first is layer.bias"
    with pytest.raises(CheckpointError, match=said):
        Net.from_pretrained(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e5m2])
def test_large_numbers_are_finite_though_their_sum_is_not(tmp_path, dtype):
    large = torch.full((8, 8), torch.finfo(dtype).max).to(dtype)
    save_tensors(tmp_path / "x.safetensors", {"a": large, "n": torch.arange(3)})
    assert load_tensors(
        tmp_path / "x.safetensors", {"a": large, "n": torch.zeros(3).long()}
    )
    odd = {"a": large, "b": torch.tensor([math.inf]).to(dtype), "c": torch.empty(0)}
    assert not_finite(odd) == ["b"]


def test_a_missing_file_and_a_missing_model_are_named(saved, tmp_path):
    (saved / "config.json").unlink()
    with pytest.raises(CheckpointError, match="config.json is missing"):
        Net.from_pretrained(saved)
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        Net.from_pretrained(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="shipped models"):
        resolve_model("no-such-name")
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "none.safetensors")


def test_names_cannot_leave_the_package_or_the_folder(saved, tmp_path):
    for name in ("..", "../weights", "/", "a/b", ""):
        assert shipped_folder(name) is None
    secret = tmp_path / "secret.txt"
    secret.write_text("x")
    facts = read_json(saved / "manifest.json")
    facts["files"]["../secret.txt"] = "0"
    write_json(saved / "manifest.json", facts)
    with pytest.raises(CheckpointError, match="outside"):
        verify_manifest(saved)
    del facts["files"]["../secret.txt"]
    (saved / "link.txt").symlink_to(secret)
    write_json(saved / "manifest.json", facts | {"files": {"link.txt": "0"}})
    with pytest.raises(CheckpointError, match="outside"):
        verify_manifest(saved)


def test_a_format_of_the_future_asks_for_an_upgrade(saved):
    facts = read_json(saved / "manifest.json")
    write_json(saved / "manifest.json", facts | {"format": 99})
    with pytest.raises(CheckpointError, match="pip install --upgrade"):
        Net.from_pretrained(saved)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, r"lacks \['width'\]"),
        ({"width": 1, "depth": 2}, r"unknown fields \['depth'\]"),
    ],
)
def test_a_config_is_read_strictly(values, said):
    with pytest.raises(CheckpointError, match=said):
        config_from_dict(Config, values)


def test_a_config_survives_json():
    config = Config(3, Inner((1, 4, 9)), 0.125)
    again = config_from_dict(Config, json.loads(json.dumps(config_to_dict(config))))
    assert again == config


def test_broken_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(CheckpointError, match="x.json"):
        read_json(tmp_path / "x.json")


def test_replacing_a_folder_leaves_nothing_of_the_old(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(name)
    write_manifest(tmp_path / "old")  # what it lists is ours
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert [p.name for p in (tmp_path / "old").iterdir()] == ["new.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_a_folder_of_folders_is_hashed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    write_manifest(tmp_path)
    assert list(verify_manifest(tmp_path)["files"]) == ["a/x"]


@pytest.mark.parametrize("manifest", [None, {"name": "my app"}, [], "listed"])
def test_what_no_saved_model_lists_is_not_replaced(tmp_path, manifest):
    fresh, final = tmp_path / "fresh", tmp_path / "photos"
    for folder in (fresh, final):
        (folder / "src").mkdir(parents=True)
        (folder / "src" / "a.txt").write_text(folder.name)
    lost = "a.txt"
    if manifest == "listed":
        write_manifest(final)
        lost = "b.txt"
        (final / "b.txt").write_text("beside the model")
    elif manifest is not None:
        (final / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"photos holds .*{lost}.*no saved model"):
        replace_folder(fresh, final)
    assert (final / "src" / "a.txt").read_text() == "photos"
    if manifest == "listed":
        (final / "b.txt").unlink()
        replace_folder(fresh, final)
        assert (final / "src" / "a.txt").read_text() == "fresh"


def test_a_file_a_link_and_the_folder_one_is_in_are_not_replaced(tmp_path):
    (tmp_path / "fresh").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "fresh")
    for name in ("file", "link"):
        with pytest.raises(ValueError, match=f"{name} is a file or a link"):
            replace_folder(tmp_path / "fresh", tmp_path / name)
    for name in (".", "..", "a/.."):
        with pytest.raises(ValueError, match="names no folder of its own"):
            check_replaceable(name)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_swap_that_fails_puts_the_old_folder_back(tmp_path, monkeypatch):
    for name in ("fresh", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
        write_manifest(tmp_path / name)
    really = os.replace

    def once_full(a, b):
        if Path(a).name == "fresh":
            raise OSError("disk full")
        really(a, b)

    monkeypatch.setattr("srdd.files.os.replace", once_full)
    with pytest.raises(OSError, match="disk full"):
        replace_folder(tmp_path / "fresh", tmp_path / "final")
    assert (tmp_path / "final" / "x").read_text() == "final"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["final", "fresh"]


@pytest.mark.parametrize(
    "text", ["[]", "3", '{"files": []}', '{"files": {}, "format": "1"}']
)
def test_a_manifest_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match="lists no files of a saved model"):
        verify_manifest(tmp_path)


def test_a_part_is_not_saved_into_a_whole_model(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    for name, options in (
        ("holds a whole model .tokenizer.*name another folder", {}),
        ("dtype must be a floating type, got torch.int8", {"dtype": torch.int8}),
        ("facts has .'files'.", {"files": "x"}),
    ):
        where = tmp_path / "new" if options else tmp_path
        with pytest.raises(ValueError, match=name):
            Net(Config(4)).save_pretrained(where, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer"]


def test_weights_of_whole_numbers_are_refused(tmp_path):
    model = Net(Config(4))
    save_tensors(
        tmp_path / "x", {k: v.to(torch.int8) for k, v in model.state_dict().items()}
    )
    with pytest.raises(
        CheckpointError, match="of another type .*int8, want torch.float32"
    ):
        load_tensors(tmp_path / "x", model.state_dict())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1], "wants an object"),
        (3, "wants an object"),
        ({"width": "x"}, "wants int as width, got 'x'"),
        ({"width": True}, "wants int as width, got True"),
        ({"width": 4, "rate": None}, "wants float as rate, got None"),
        ({"width": 4, "inner": {"side": 1}}, "Inner has unknown fields"),
    ],
)
def test_a_config_of_another_kind_is_refused(values, said):
    with pytest.raises(CheckpointError, match=said):
        config_from_dict(Config, values)
