"""Records: strict, complete, and without a trace of the machine."""

import json

import pytest

from srdd.files import CheckpointError
from srdd.records import (
    Record,
    command_line,
    environment,
    fill_markers,
    markdown_table,
    processor,
    read_record,
    render,
    results_dir,
    single,
    spread,
    write_record,
)

FACTS = {
    "name": "x",
    "claim": "c",
    "tier": "toy",
    "seeds": [0],
    "values": {"a": single(0.123456), "b": spread([1.0, 2.0, 3.0])},
}


def test_a_record_round_trips_and_says_where_it_comes_from(tmp_path):
    made = write_record(tmp_path, **FACTS)
    assert read_record("x", tmp_path) == made
    stored = json.loads((tmp_path / "x.json").read_text())
    for key in ("command", "commit", "date", "device", "versions", "wall_seconds"):
        assert stored[key] not in (None, "")


def test_values_are_written_as_on_the_page(tmp_path):
    made = write_record(tmp_path, **FACTS)
    assert made.text("a") == "0.123" and made.text("b") == "2 ± 1"
    with pytest.raises(ValueError, match="has no 'c'"):
        made.text("c")


def test_spread_is_the_sample_deviation():
    assert spread([1.0, 3.0]) == {"mean": 2.0, "sd": 2**0.5, "n": 2}
    assert spread([4.0]) == {"mean": 4.0, "sd": None, "n": 1}


@pytest.mark.parametrize("change", [{"tier": "huge"}, {"values": {"a": {"mean": 1.0}}}])
def test_incomplete_records_are_refused(tmp_path, change):
    with pytest.raises(ValueError, match="tier|mean, sd"):
        write_record(tmp_path, **(FACTS | change))
    assert not list(tmp_path.iterdir())


def test_a_strange_file_is_no_record(tmp_path):
    (tmp_path / "x.json").write_text('{"surprise": 1}')
    with pytest.raises(CheckpointError, match="no record"):
        read_record("x", tmp_path)
    with pytest.raises(FileNotFoundError):
        read_record("y", tmp_path)


def test_commands_name_no_folder_of_the_machine():
    words = [
        "/usr/bin/srdd",
        "train",
        "/somewhere/photos",
        "--root",
        "/d",
        "--steps",
        "5",
    ]
    assert command_line(words) == "srdd train photos --root $SRDD_DATA --steps 5"
    assert command_line(["/x/__main__.py", "info", "fashion"]) == "srdd info fashion"
    words = ["srdd", "experiment", "a", "--work", "/scratch/me/x-3"]
    assert command_line(words) == "srdd experiment a --work runs"
    words = ["srdd", "experiment", "a", "--work=/scratch/me", "--root=/me", "--seed=1"]
    said = "srdd experiment a --work runs --root $SRDD_DATA --seed 1"
    assert command_line(words) == said


def test_results_are_found_from_any_folder_of_the_checkout(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "nbs" / "deep").mkdir(parents=True)
    assert results_dir(tmp_path / "nbs" / "deep") == (tmp_path / "results").resolve()
    assert set(environment()) >= {"command", "commit", "device", "versions"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model name\t: A B\nflags\t: avx avx2\n", "CPU (A B, avx2)"),
        ("flags\t: avx2 avx512f\n", "CPU (avx512f)"),
        (None, "CPU"),
    ],
)
def test_a_record_names_the_processor_where_it_is_known(monkeypatch, text, said):
    def read(*args, **kwargs):
        if text is None:
            raise FileNotFoundError
        return text

    monkeypatch.setattr("pathlib.Path.read_text", read)
    assert processor().endswith(said)


def test_markers_are_filled_with_the_record(tmp_path):
    write_record(tmp_path, **FACTS)
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- results:x -->\nold\n<!-- /results -->\nb\n")
    assert fill_markers(page, tmp_path) == ["x"]
    text = page.read_text()
    assert render("x", tmp_path) in text and "old" not in text
    assert text.startswith("a\n") and text.endswith("b\n")
    with pytest.raises(FileNotFoundError):
        fill_markers(tmp_path / "none.md")


def test_the_quality_table_has_a_row_for_each_set(tmp_path):
    values = {
        f"{row}/{key}": single(1.5)
        for row in ("Markovian", "noise")
        for key in ("rel_fd", "fd")
    }
    write_record(tmp_path, **(FACTS | {"name": "fashion-quality", "values": values}))
    lines = render("fashion-quality", tmp_path).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:4]] == ["Markovian", "noise"]


def test_tables_are_markdown():
    assert markdown_table([["a", "b"], ["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"


def test_a_tier_is_checked_on_reading_too():
    with pytest.raises(ValueError, match="tier"):
        Record(
            **(
                FACTS
                | {
                    "tier": "",
                    "command": "",
                    "commit": "",
                    "date": "",
                    "device": "",
                    "versions": {},
                    "wall_seconds": 0.0,
                }
            )
        )
