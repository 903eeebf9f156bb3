"""The notebooks keep their form: budgets, cell contract, order of the modules."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NBS = ROOT / "nbs"
PACKAGE = ROOT / "srdd"

# Every notebook and the module it exports, in import order: exported code imports
# only from modules that stand above its own.
ORDER = {
    "appendices/a2_data": "data",
    "appendices/a4_files": "files",
    "appendices/a9_runs": "runs",
    "appendices/a3_figures": "figures",
    "00_tour": None,
    "01_diffusion": "diffusion",
    "02_scales": "scales",
    "03_quantization": "quantization",
    "04_tokenizer": "tokenizer",
    "05_attention": "attention",
    "06_transformer": "transformer",
    "07_equivalence": "likelihood",
    "08_training": "training",
    "09_sampling": "sampling",
    "appendices/a7_costs": "costs",
    "10_resampling": "resampling",
    "11_schedules": "distillation",
    "12_editing": "editing",
    "13_policy": "policy",
    "14_evaluation": "metrics",
    "15_hybrid": "hybrid",
    "16_performance": "fast",
    "17_scaling": "scaling",
    "appendices/a8_foreign": "foreign",
    "appendices/a5_checkpoints": "checkpoints",
    "appendices/a1_notation": None,
    "appendices/a6_solutions": None,
}
HAND_WRITTEN = {
    "__init__",
    "__main__",
    "claims",
    "cli",
    "decoder_study",
    "editing_study",
    "evaluation",
    "experiments",
    "features",
    "gpu_speed",
    "ledger",
    "peer_speed",
    "resampling_study",
    "schedule_study",
    "set_sampling_study",
    "set_study",
    "pipeline",
    "presets",
    "records",
    "speed",
    "studies",
    "theorem",
    "tokenizer_study",
    "_draw",
    "_inputs",
    "_kernels",
}
EXPORTS = {"export", "exports", "exporti"}

CELL_LINES, CLASS_LINES, FUNCTION_LINES = 30, 80, 40  # docstrings not counted
MODULE_LINES = range(80, 351)
CHAPTER_WORDS, CHAPTER_CELLS = range(1_800, 3_501), range(35, 81)
COLUMNS, BYTES = 88, 400_000

Cell = dict[str, Any]
notebooks = sorted(NBS.rglob("[0-9a-z]*_*.ipynb"))
by_notebook = pytest.mark.parametrize("path", notebooks, ids=lambda path: path.stem)


def name_of(path: Path) -> str:
    return path.relative_to(NBS).with_suffix("").as_posix()


def cells_of(path: Path) -> list[Cell]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell: Cell) -> str:
    return "".join(cell["source"])


def directives(cell: Cell) -> dict[str, str]:
    """The ``#| name value`` lines of a cell."""
    found = re.findall(r"^#\|\s*(\w+)[ \t]*(.*)$", source(cell), re.MULTILINE)
    return dict(found) if cell["cell_type"] == "code" else {}


def exported(path: Path) -> list[Cell]:
    return [c for c in cells_of(path) if EXPORTS & directives(c).keys()]


def docstring_rows(tree: ast.AST) -> set[int]:
    """The rows that the docstrings below `tree` take."""
    rows: set[int] = set()
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node) is not None:
            text = node.body[0]
            rows |= set(range(text.lineno, text.end_lineno + 1))
    return rows


def code_lines(text: str, tree: ast.AST) -> int:
    """Lines of code: no blank ones, no comments, no docstrings."""
    rows = enumerate(text.splitlines(), start=1)
    code = {i for i, x in rows if x.strip() and not x.lstrip().startswith("#")}
    return len(code - docstring_rows(tree))


def definitions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return (node for node in ast.walk(tree) if isinstance(node, kinds))


def imported_modules(tree: ast.AST) -> set[str]:
    """The modules of srdd that a module imports, lazily or not."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names if a.name.startswith("srdd.")}
        elif isinstance(node, ast.ImportFrom):
            module = f"srdd.{node.module or ''}" if node.level else node.module or ""
            if module.strip(".") == "srdd":
                names |= {f"srdd.{alias.name}" for alias in node.names}
            elif module.startswith("srdd."):
                names.add(module)
    return {name.split(".")[1] for name in names}


def test_there_are_notebooks():
    assert notebooks


@by_notebook
def test_notebook_is_in_the_table_and_exports_its_own_module(path):
    assert name_of(path) in ORDER, "add the notebook to ORDER, in import order"
    targets = [directives(c) for c in cells_of(path)]
    modules = [d["default_exp"] for d in targets if "default_exp" in d]
    module = ORDER[name_of(path)]
    assert modules == ([module] if module else [])
    elsewhere = [d[kind] for d in targets for kind in EXPORTS & d.keys() if d[kind]]
    assert not elsewhere, "a cell exports to another module"
    if not module:
        assert not exported(path)


@by_notebook
def test_first_cell_is_a_title_and_one_line(path):
    first, *others = cells_of(path)
    assert first["cell_type"] == "markdown"
    assert re.match(r"# \S[^\n]*\n\n> \S[^\n]*", source(first))
    if ORDER.get(name_of(path)):
        assert "default_exp" in directives(others[0])


@by_notebook
def test_notebook_is_committed_without_outputs_and_with_stable_ids(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) >= (4, 5)
    assert not set(book["metadata"]) - {"kernelspec"}
    ids = [c.get("id", "") for c in book["cells"]]
    assert all(re.fullmatch(r"[\w-]{1,64}", i) for i in ids)
    assert len(set(ids)) == len(ids), "two cells share an id"
    for cell in book["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert not set(cell["metadata"]) - {"tags", "mystnb"}
    assert path.stat().st_size <= BYTES


@by_notebook
def test_exported_cells_keep_their_budget(path):
    for cell in exported(path):
        text = source(cell)
        tree = ast.parse(text)
        is_class = any(isinstance(node, ast.ClassDef) for node in tree.body)
        assert code_lines(text, tree) <= (CLASS_LINES if is_class else CELL_LINES), (
            f"cell {cell['id']} has {code_lines(text, tree)} lines"
        )
        for node in definitions(tree):
            rows = set(range(node.lineno, node.end_lineno + 1)) - docstring_rows(node)
            assert len(rows) <= FUNCTION_LINES, f"{node.name} has {len(rows)} lines"
        wide = [x for x in text.splitlines() if len(x) > COLUMNS]
        assert not wide, f"cell {cell['id']}: lines over {COLUMNS} columns: {wide}"


@by_notebook
def test_module_keeps_its_budget(path):
    if not ORDER.get(name_of(path)):
        pytest.skip("exports no module")
    texts = [source(c) for c in exported(path)]
    total = sum(code_lines(text, ast.parse(text)) for text in texts)
    assert total in MODULE_LINES, f"{total} lines, wanted {MODULE_LINES}"


@by_notebook
def test_chapter_can_be_read_in_one_sitting(path):
    if not re.match(r"\d\d_", path.stem) or not ORDER.get(name_of(path)):
        pytest.skip("not a chapter that exports a module")
    cells = cells_of(path)
    prose = [source(c) for c in cells if c["cell_type"] == "markdown"]
    words = sum(len(text.split()) for text in prose)
    assert words in CHAPTER_WORDS, f"{words} words, wanted {CHAPTER_WORDS}"
    assert len(cells) in CHAPTER_CELLS, f"{len(cells)} cells, wanted {CHAPTER_CELLS}"


@by_notebook
def test_exported_code_keeps_the_house_rules(path):
    for cell in exported(path):
        for node in ast.walk(ast.parse(source(cell))):
            where = f"cell {cell['id']}, line {getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ImportFrom):
                assert all(a.name != "*" for a in node.names), f"{where}: import *"
                assert "fastcore" not in (node.module or ""), f"{where}: fastcore"
            assert not isinstance(node, ast.Assert), f"{where}: assert, not ValueError"
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Name):
                assert called.id != "print", f"{where}: print"
            if isinstance(called, ast.Attribute):
                assert called.attr != "cuda", f"{where}: .cuda()"


@by_notebook
def test_lesson_cells_end_with_a_value_not_a_print(path):
    for cell in cells_of(path):
        if cell["cell_type"] == "code":
            assert not re.search(r"^\s*print\(", source(cell), re.MULTILINE), cell["id"]


@by_notebook
def test_figures_have_a_caption_and_words_for_those_who_cannot_see_them(path):
    for cell in cells_of(path):
        shown = cell["metadata"].get("mystnb", {})
        if "figure" in shown:
            assert shown["figure"].get("name") and shown["figure"].get("caption")
            assert shown.get("image", {}).get("alt"), f"cell {cell['id']}: no alt text"


def test_no_two_notebooks_export_one_module():
    modules = [module for module in ORDER.values() if module]
    assert len(set(modules)) == len(modules)


def test_every_module_has_a_notebook_or_is_on_the_list_of_hand_written_ones():
    exports = {ORDER[name_of(p)] for p in notebooks if name_of(p) in ORDER}
    for path in sorted(PACKAGE.glob("*.py")):
        if path.stem == "_modidx":
            continue
        generated = "AUTOGENERATED! DO NOT EDIT!" in path.read_text(encoding="utf-8")
        assert generated == (path.stem not in HAND_WRITTEN), path.stem
        assert not generated or path.stem in exports, f"{path.stem}: stale module"


def test_exported_code_imports_only_from_modules_above_its_own():
    rank = {module: i for i, module in enumerate(filter(None, ORDER.values()))}
    for module in rank:
        path = PACKAGE / f"{module}.py"
        if not path.is_file():
            continue
        for name in imported_modules(ast.parse(path.read_text(encoding="utf-8"))):
            assert name in rank, f"{module} imports the hand-written {name}"
            assert rank[name] < rank[module], f"{module} imports {name}, below it"


@pytest.mark.parametrize(
    "text, names",
    [
        ("from .data import x", {"data"}),
        ("from srdd.files import (\n    a,\n)", {"files"}),
        ("from . import scales", {"scales"}),
        ("from srdd import scales as s", {"scales"}),
        ("import srdd.fast", {"fast"}),
        ("def f():\n    from .metrics import kid", {"metrics"}),
        ("import torch\nfrom torch import nn", set()),
    ],
)
def test_import_graph_sees_every_form_of_import(text, names):
    assert imported_modules(ast.parse(text)) == names


def test_formatter_leaves_generated_modules_alone():
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    formatter = settings.partition("[tool.ruff.format]")[2]
    excluded = re.findall(r'"srdd/(\w+)\.py"', formatter)
    assert excluded == sorted(filter(None, ORDER.values()))
