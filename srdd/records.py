"""Results files: every number on a page is read from one of these.

A record is ``results/<name>.json``. It says what was claimed and measured, and with
which command, commit, device and versions.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from itertools import chain
from pathlib import Path
from typing import Any

from .files import CheckpointError, read_json, write_json

TIERS = ("toy", "tiny model", "full scale")
BEGAN = time.monotonic()


@dataclass(frozen=True)
class Record:
    """One experiment's result.

    Args:
        name: of the file.
        claim: the sentence that the values speak about.
        tier: "toy", "tiny model" or "full scale": what the result may support.
        values: name to ``{"mean", "sd", "n"}``; sd is None for a single run.
        command, commit, date, device, versions: of the run that wrote it.
        seeds: of the runs behind the values.
        wall_seconds: the time of that run, and of the parts that it found kept.
        flops: counted operations of all of it, if they were: not where something
            compiled is timed, nor where a part was kept without its cost.
        curves: lists that figures draw.
        kept: parts from earlier runs, by commit and device: their number, seconds and
            operations. Of commit "unknown" are those that were kept without a cost,
            whose seconds are in no sum.
    Raises:
        ValueError: an unknown tier, or a value without mean, sd and n.
    """

    name: str
    claim: str
    tier: str
    values: dict[str, dict[str, float | int | None]]
    command: str
    commit: str
    date: str
    device: str
    versions: dict[str, str]
    seeds: list[int]
    wall_seconds: float
    flops: float | None = None
    curves: dict[str, list[float]] = field(default_factory=dict)
    kept: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.tier not in TIERS:
            raise ValueError(f"tier must be one of {TIERS}, got {self.tier!r}")
        for key, value in self.values.items():
            if set(value) != {"mean", "sd", "n"}:
                raise ValueError(f"{self.name}: {key} needs mean, sd, n; got {value}")

    def text(self, key: str, digits: int = 3) -> str:
        """A value as it stands on a page: ``0.123 ± 0.004`` or ``0.123``."""
        if key not in self.values:
            raise ValueError(f"{self.name} has no {key!r}, only {list(self.values)}")
        mean, sd = self.values[key]["mean"], self.values[key]["sd"]
        shown = plain(mean, digits)
        return shown if sd is None else f"{shown} ± {plain(sd, 2)}"


def plain(value: float, digits: int) -> str:
    """A number with some digits, without powers of ten; tiny ones are 0."""
    if abs(value) < 1e-4:
        return "0"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def single(value: float) -> dict[str, float | int | None]:
    """A value that was measured once."""
    return {"mean": float(value), "sd": None, "n": 1}


def spread(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean and standard deviation of repeated measurements."""
    n, mean = len(values), sum(values) / len(values)
    if n == 1:
        return single(mean)
    sd = (sum((v - mean) ** 2 for v in values) / (n - 1)) ** 0.5
    return {"mean": mean, "sd": sd, "n": n}


def results_dir(start: str | Path = ".") -> Path:
    """The `results` folder of the checkout that `start` lies in.

    Raises:
        FileNotFoundError: no folder above has one.
    """
    here = Path(start).resolve()
    for folder in (here, *here.parents):
        if (folder / "results").is_dir():
            return folder / "results"
    raise FileNotFoundError(
        f"no results/ folder in {here} or above it; go to a checkout of the project, or "
        "give an experiment a folder of its own with --out"
    )


FOLDERS = {"--root": "$SRDD_DATA", "--work": "runs"}
"""Options that name a folder of a machine, and what a record says instead."""


def command_line(argv: Sequence[str] | None = None) -> str:
    """The command that is running, without the folders of this machine."""
    words = list(sys.argv if argv is None else argv)
    kept = []
    split = (w.split("=", 1) if w.startswith("--") else [w] for w in words[1:])
    for word in chain.from_iterable(split):
        long = "/" in word and word.startswith(("/", "~", ".."))
        kept.append(Path(word).name if long else word)
        if len(kept) > 1 and kept[-2] in FOLDERS:
            kept[-1] = FOLDERS[kept[-2]]
    program = Path(words[0]).name
    return " ".join(["srdd" if program == "__main__.py" else program, *kept])


def commit_id() -> str:
    """The commit of the checkout, with "+" if files were changed since."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        )
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "--", "."], capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def processor() -> str:
    """Kind of CPU, its model and its widest vectors where Linux tells them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    kinds = [k for k in ("avx512f", "avx2") if re.search(rf"\b{k}\b", text)]
    about = [*([found[1].strip()] if found else []), *kinds[:1]]
    return f"{platform.machine()} CPU" + (f" ({', '.join(about)})" if about else "")


def device_name() -> str:
    """The GPU if torch sees one, else the CPU and its threads."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{processor()}, {torch.get_num_threads()} thread(s)"


def environment() -> dict[str, Any]:
    """Command, commit, date, device and versions of this run."""
    import torch

    return {
        "command": command_line(),
        "commit": commit_id(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "device": device_name(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__.split("+")[0],
        },
        "wall_seconds": round(time.monotonic() - BEGAN, 1),
    }


def write_record(folder: str | Path | None = None, **facts: Any) -> Record:
    """Complete a record with this run's environment and write it.

    Args:
        folder: where records lie; by default the checkout's `results`.
        facts: fields of `Record`, at least name, claim, tier, values, seeds.
    """
    record = Record(**(environment() | facts))
    target = results_dir() if folder is None else Path(folder)
    write_json(target / f"{record.name}.json", asdict(record))
    return record


def read_record(name: str, folder: str | Path | None = None) -> Record:
    """Read a record, strictly.

    Raises:
        FileNotFoundError: no such record.
        CheckpointError: other fields than a record has.
    """
    target = results_dir() if folder is None else Path(folder)
    facts = read_json(target / f"{name}.json")
    known = {f.name for f in fields(Record)}
    if not isinstance(facts, Mapping) or set(facts) - known:
        raise CheckpointError(f"{target / name}.json is no record")
    return Record(**facts)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts as a Markdown table, the first row being the head."""
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def quality_table(record: Record) -> str:
    """The README's table of the release models, from their record."""
    columns = {
        "rel-FD": "rel_fd",
        "FD (judge)": "fd",
        "KID x 1000 (judge)": "kid_1000",
        "accuracy": "accuracy",
        "coverage": "coverage",
        "neighbour": "neighbour",
    }
    names = {
        "reconstructions": "reconstructions by the tokenizer",
        "test": "the test images themselves",
        "train": "training images",
        "blur": "test images, blurred by 0.7 pixels",
    }
    groups = list(dict.fromkeys(key.split("/")[0] for key in record.values))
    rows = [["10,000 images against the 10,000 test images", *columns]]
    for group in groups:
        cells = [f"{group}/{key}" for key in columns.values()]
        itself = ["test/kid_1000"]  # pairs an image with itself: no estimate
        shown = (
            record.text(c) if c in record.values and c not in itself else ""
            for c in cells
        )
        rows.append([names.get(group, group), *shown])
    return "\n".join(
        [
            markdown_table(rows),
            "",
            "rel-FD is FD in units of that of the blurred images. Neighbour: distance "
            "to the nearest training image, 1 being that of real test images. Samples "
            "are painted by the slim decoder of chapter 11. One training run; "
            f"± is the spread over {len(record.seeds)} sampling seeds.",
            "",
            f"Tier: {record.tier}. `{record.command}`, {record.device}, "
            f"torch {record.versions['torch']}, {record.date}.",
        ]
    )


TABLES: dict[str, Callable[[Record], str]] = {"fashion-quality": quality_table}
REGION = re.compile(r"(<!-- results:([\w-]+) -->).*?(<!-- /results -->)", re.DOTALL)


def render(name: str, folder: str | Path | None = None) -> str:
    """A record as the Markdown that pages show between its markers."""
    record = read_record(name, folder)
    if name in TABLES:
        return TABLES[name](record)
    rows = [["value", record.claim]]
    return markdown_table(rows + [[key, record.text(key)] for key in record.values])


def fill_markers(path: str | Path, folder: str | Path | None = None) -> list[str]:
    """Rewrite what stands between ``<!-- results:NAME -->`` and its end.

    Returns:
        The names of the tables that were written.
    Raises:
        FileNotFoundError: no file, or no record of that name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    done = []

    def fill(match: re.Match[str]) -> str:
        done.append(match[2])
        return f"{match[1]}\n{render(match[2], folder)}\n{match[3]}"

    path.write_text(
        REGION.sub(fill, path.read_text(encoding="utf-8")), encoding="utf-8"
    )
    return done
