"""The book as a whole: its table of contents, its numbers, its two commands."""

import importlib.util
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from srdd.cli import main

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
REGION = re.compile(r"<!-- results:([\w-]+) -->(.*?)<!-- /results -->", re.DOTALL)
HOMES = "work|root|tmp|home|Users"
MACHINE = re.compile(rf"(?<![\w.}}$~/-])/(?:{HOMES})/[\w.-]+")
HOSTS = re.compile(r"pypi\.org|files\.pythonhosted|registry\.(?:npmjs|yarnpkg)")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def toc_pages() -> list[str]:
    toc = yaml.safe_load(read(ROOT / "_toc.yml"))
    parts = [chapter["file"] for p in toc["parts"] for chapter in p["chapters"]]
    return [toc["root"], *parts]


def source_of(page: str) -> Path | None:
    paths = [ROOT / f"{page}{suffix}" for suffix in (".ipynb", ".md")]
    return next((path for path in paths if path.is_file()), None)


def tracked() -> list[Path]:
    """The text files of the repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in done.stdout.split("\0") if name]
    return [p for p in files if p.is_file() and b"\0" not in p.read_bytes()]


def prose(path: Path) -> str:
    """The text of a page: a Markdown file, or the Markdown cells of a notebook."""
    if path.suffix == ".md":
        return read(path)
    cells = json.loads(read(path))["cells"]
    texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    return "\n\n".join(texts)


def regions() -> list[tuple[str, str, str]]:
    """(page, record, text) of each region that holds numbers of a record."""
    pages = [p for p in map(source_of, toc_pages()) if p]
    found = []
    for path in [ROOT / "README.md", *pages]:
        matches = REGION.findall(prose(path))
        found += [(path.name, name, text.strip()) for name, text in matches]
    return found


def command_of(name: str) -> str:
    """The command that README gives after ``<!-- ci:NAME -->``."""
    pattern = rf"<!-- ci:{name} -->\s*```(?:bash|sh)\n(.*?)\n```"
    (command,) = re.findall(pattern, read(ROOT / "README.md"), re.DOTALL)
    return command


def test_every_page_of_the_table_of_contents_exists_once():
    pages = toc_pages()
    assert len(set(pages)) == len(pages)
    assert not [page for page in pages if source_of(page) is None]


def test_every_notebook_and_page_is_in_the_table_of_contents():
    files = [*ROOT.glob("nbs/**/*.ipynb"), *ROOT.glob("nbs/**/*.md")]
    names = {p.relative_to(ROOT).with_suffix("").as_posix() for p in files}
    hidden = {n for n in names if "/." in n or "/assets/" in n}
    assert names - hidden == set(toc_pages())


def test_every_module_has_its_place_on_the_api_page():
    written = re.findall(r"automodule:: srdd\.(\w+)", read(ROOT / "nbs" / "api.md"))
    modules = {p.stem for p in (ROOT / "srdd").glob("*.py")}
    assert len(set(written)) == len(written)
    assert set(written) == {name for name in modules if not name.startswith("_")}


def test_numbers_on_pages_are_those_of_the_records():
    records = importlib.import_module("srdd.records")
    for page, name, text in regions():
        if not (RESULTS / f"{name}.json").is_file():
            assert not re.search(r"\d", text), f"{page}: numbers without results/{name}"
        else:
            assert text == records.render(name).strip(), f"{page}: run `srdd report`"


def test_the_claims_page_is_that_of_the_records():
    claims = importlib.import_module("srdd.claims")
    text = read(ROOT / "nbs" / "claims.md")
    (shown,) = re.findall(r"<!-- claims -->(.*?)<!-- /claims -->", text, re.DOTALL)
    assert shown.strip() == claims.claims_markdown().strip(), "run `srdd report`"


# What looks measured and stands in prose: a spread, a decimal with a unit, a measure
# with its value. Such a number has to come from a record.
UNITS = "%|ms|µs|seconds?|minutes?|hours?|[kMG]i?B|dB|bits?|nats|FLOPs?|times|fold"
NAMES = "rel-FD|FD|FID|KID|PSNR|SSIM|LPIPS|accuracy|coverage|recall|precision"
WORDS = "to|of|at|by|from|about|is|was|reaches"
BETWEEN = rf"(?: \(\w+\))?(?: x 1000)?:?(?: (?:\w+ ){{0,3}}(?:{WORDS}))?"
TYPED = re.compile(
    rf"±\s*\d|(?<![\w.])\d+\.\d+\s?(?:{UNITS}|x)(?!\w)|(?:times|factor of) \d+\.\d"
    rf"|\b(?:{NAMES}){BETWEEN} \d+(?:\.\d+| %)"
)
NOT_MEASURED = {
    "about 4.6 nats": "the value of the cell above it, rounded",
    "FD 0.6": "a question, with a number that stands for any",
    "rel-FD 0.2": "the example that explains the unit",
}
FOREIGN = (
    r"<!-- (results:[\w-]+|claims) -->.*?<!-- /(results|claims) -->",
    r"```(?!\{(?:exercise|solution)).*?```",  # code and figures
    r"\$\$.*?\$\$",
    r"\$[^$]*\$",
    r"`[^`]*`",
)


def typed_numbers(text: str) -> list[str]:
    """Numbers of a page that look measured and stand outside regions, maths, code."""
    for pattern in FOREIGN:
        text = re.sub(pattern, " ", text, flags=re.DOTALL)
    for known in NOT_MEASURED:
        text = text.replace(known, "")
    return [text[max(0, m.start() - 30) : m.end()] for m in TYPED.finditer(text)]


def test_no_measured_number_is_typed_into_a_claim():
    claims = importlib.import_module("srdd.claims")
    for claim in claims.CLAIMS:
        assert not typed_numbers(f"{claim.text} {claim.note}"), claim.label


def test_no_measured_number_is_typed_into_a_page():
    pages = [p for p in map(source_of, toc_pages()) if p]
    for path in [ROOT / "README.md", *pages]:
        found = typed_numbers(prose(path))
        assert not found, f"{path.name}: {found}: show a record, or leave it out"


NUMBER = re.compile(
    r"(?<![\w.-])\d+\.\d+(?!\.?\w)|(?<![\w.-])\d+ ?(?:%|ms\b|s\b|times\b)"
)
EXAMPLES = {  # numbers that are chosen, worked out on the page, or not about results
    "README.md": "3.10 2.0 2404.02905 2509.22636",
    "01_diffusion.ipynb": "0.1",
    "02_scales.ipynb": "0.4",
    "03_quantization.ipynb": "1.9",
    "05_attention.ipynb": "2.5",
    "04_tokenizer.ipynb": "0.875 1.21 0.55 0.45 0.21 0.5",
    "06_transformer.ipynb": "0.02",
    "08_training.ipynb": "0.1 0.3 0.01 4.6",
    "09_sampling.ipynb": "0.6 0.9 2.5 0.40 0.30 0.15 0.10 0.05 0.70 0.85 0.47 0.35 "
    "0.18 0.5772 1.1 0.7 1.5 2.0 1.0 16.7",
    "10_resampling.ipynb": "0.5 0.3 0.15 0.05 0.6",
    "11_schedules.ipynb": "0.02",
    "14_evaluation.ipynb": "0.6 0.7 0.2 1% 100% 2.8 4.3",
    "claims.md": "19times",
    "a1_notation.md": "1.5 2.5 0.2",
}
"""By page; settings of a sampler that an assert of the page holds are among them."""


def test_every_number_in_prose_is_an_example_that_is_listed():
    pages = [p for p in map(source_of, toc_pages()) if p]
    for path in [ROOT / "README.md", *pages]:
        text = prose(path)
        for pattern in FOREIGN:
            text = re.sub(pattern, " ", text, flags=re.DOTALL)
        found = {m[0].replace(" ", "") for m in NUMBER.finditer(text)}
        known = set(EXAMPLES.get(path.name, "").split())
        assert found <= known, f"{path.name}: {found - known}: show a record"
        assert found >= known, f"{path.name}: {known - found} are not there any more"


@pytest.mark.parametrize(
    "text",
    [
        "took 3.5 ms",
        "0.12 ± 0.01",
        "rel-FD 0.18 here",
        "is 1.4 times faster",
        "1.1x faster",
        "a factor of 1.35",
        "9.5 %",
        "rel-FD: 0.18",
        "rel-FD falls from 0.38 to 0.09",
        "rel-FD about 0.18",
        "KID x 1000 of 7.5",
        "FD (judge) 0.7",
        "LPIPS 0.12",
        "accuracy reaches 93 %",
        "coverage down to 0.95",
    ],
)
def test_measured_numbers_are_recognised(text):
    assert typed_numbers(text)


@pytest.mark.parametrize(
    "text",
    [
        "sigma 0.7 pixels",
        "$x = 0.5$ nats",
        "`0.5 ms`",
        "version 2.6",
        "chapter 14.",
        "<!-- results:x -->1.5 ms<!-- /results -->",
    ],
)
def test_other_numbers_are_not(text):
    assert not typed_numbers(text)


def test_records_are_complete():
    needed = {"name", "claim", "command", "commit", "date", "device", "versions"}
    needed |= {"seeds", "wall_seconds", "values", "tier"}
    for path in sorted(RESULTS.glob("*.json")):
        record = json.loads(read(path))
        assert needed <= record.keys(), path.name
        assert record["name"] == path.stem
        assert record["tier"].split()[0] in {"toy", "tiny", "full"}, path.name


def test_tables_that_cells_make_are_read_as_tables():
    config = yaml.safe_load(read(ROOT / "_config.yml"))["sphinx"]["config"]
    assert config["nb_render_markdown_format"] == "gfm"  # the default reads none


def test_readme_is_short_and_its_pictures_exist():
    text = read(ROOT / "README.md")
    assert len(text.splitlines()) < 120
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert pictures
    links = re.findall(r"(?<!!)\[[^\]]+\]\((?!https?:)([^)#]+)\)", text)
    assert not [path for path in pictures + links if not (ROOT / path).exists()]


@pytest.mark.parametrize("name", ["generate", "test"])
def test_readme_gives_each_command_as_one_line(name):
    command = command_of(name)
    assert "\n" not in command
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -e ")


def test_readme_example_runs(tmp_path, monkeypatch):
    (example,) = re.findall(r"```python\n(.*?)```", read(ROOT / "README.md"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {"__name__": "readme"})
    assert Image.open(tmp_path / "bag.png").size == (32, 32)


@pytest.fixture(scope="module")
def extension():
    path = ROOT / "_ext" / "srdd_book.py"
    spec = importlib.util.spec_from_file_location("srdd_book", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "text, shown, tags",
    [
        ("#| export\nx = 1", "x = 1", ["nb-export"]),
        ("#| hide\nx = 1", "x = 1", ["remove-cell"]),
        ("#| default_exp data", "", ["remove-cell"]),
        ("\n#| export\n#| eval: false\n\nx = 1\n#| export", None, ["nb-export"]),
        ("x = 1\n#| export", "x = 1\n#| export", []),
    ],
)
def test_pages_show_code_without_directives(extension, text, shown, tags):
    cell = {"source": text.splitlines(keepends=True), "metadata": {}}
    extension.tidy(cell)
    assert cell["source"] == ("x = 1\n#| export" if shown is None else shown)
    assert cell["metadata"].get("tags", []) == tags


@pytest.mark.parametrize(
    "page, number",
    [
        ("nbs/00_tour", "0"),
        ("nbs/14_evaluation", "14"),
        ("nbs/appendices/a2_data", "A2"),
        ("nbs/index", ""),
        ("nbs/api", ""),
    ],
)
def test_titles_carry_the_number_of_the_file(extension, page, number):
    assert extension.number(page) == number


def test_api_shows_no_words_of_other_libraries(extension):
    class Ours(torch.nn.Module):
        def forward(self, x):
            return x

        def named(self):
            """Ours."""

    lines = ["Define the computation performed at every call."]
    extension.own_words(None, "method", "forward", Ours.forward, None, lines)
    assert not lines
    lines = ["Ours."]
    extension.own_words(None, "method", "named", Ours.named, None, lines)
    assert lines == ["Ours."]


def test_no_file_names_a_machine_or_a_registry():
    for path in tracked():
        if path != Path(__file__):
            text = read(path)
            found = MACHINE.findall(text) + HOSTS.findall(text)
            assert not found, f"{path.name}: {found}"


@pytest.mark.parametrize("text", ["cd /work/here", "'/root/x'", "(/home/ann/data)"])
def test_machine_paths_are_recognised(text):
    assert MACHINE.search(text)


@pytest.mark.parametrize("text", ["nbs/work/x", "$HOME/tmp/x", "a/root/b", "../tmp/x"])
def test_other_paths_are_not(text):
    assert not MACHINE.search(text)


def test_the_picture_of_the_readme_is_what_its_command_makes(tmp_path):
    """Within rounding: on another processor a token close to a tie may change."""
    words = command_of("generate").rpartition(".venv/bin/srdd ")[2].split()
    made = tmp_path / "grid.png"
    assert words[-2] == "--out" and main([*words[:-1], str(made)]) == 0
    (name,) = re.findall(r"!\[.*\]\((.*)\)", read(ROOT / "README.md"))
    shown, fresh = (Image.open(path).convert("L") for path in (ROOT / name, made))
    assert shown.size == fresh.size
    gap = np.abs(np.asarray(shown, float) - np.asarray(fresh, float))
    assert (gap <= 2).mean() > 0.95
