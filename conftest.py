"""Settings and fixtures of every test; the kernels of the notebooks inherit them."""

import json
import os
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent
OFFLINE = ROOT / "tests" / "offline"

os.environ["IN_TEST"] = "1"  # nbdev_export() inside a notebook does nothing
os.environ.setdefault("SRDD_FAST", "1")  # notebooks choose their small settings
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two busy cores: one thread is faster
os.environ["PYTHONPATH"] = os.pathsep.join(  # kernels and commands start offline
    [str(OFFLINE), *filter(None, [os.environ.get("PYTHONPATH")])]
)
runpy.run_path(str(OFFLINE / "sitecustomize.py"))  # and so does this process


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Give cleaned cells a count: nbdev_clean blanks it, nbval wants one."""
    for item in items:
        cell = getattr(item, "cell", None)
        if cell is None or not cell.get("outputs"):
            continue
        if cell.get("execution_count") is None:
            cell["execution_count"] = 1


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that ask for `device` on every device of this machine."""
    if "device" in metafunc.fixturenames:
        import torch

        names = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
        metafunc.parametrize("device", names)


def find_notebook(name: str) -> Path:
    """The notebook called `name`, a chapter or an appendix."""
    for folder in (ROOT / "nbs", ROOT / "nbs" / "appendices"):
        if (path := folder / f"{name}.ipynb").is_file():
            return path
    raise FileNotFoundError(f"no notebook {name}.ipynb below {ROOT / 'nbs'}")


def reference_source(path: Path) -> str:
    """The cells of `path` tagged `imports` or `reference`, without magics."""
    chunks = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        tags = cell["metadata"].get("tags", [])
        if cell["cell_type"] != "code" or not {"imports", "reference"} & set(tags):
            continue
        lines = "".join(cell["source"]).splitlines()
        chunks += [x for x in lines if not x.lstrip().startswith(("%", "!"))] + [""]
    return "\n".join(chunks)


@pytest.fixture(scope="session")
def reference() -> Callable[[str], dict[str, Any]]:
    """``reference("05_attention")["attend_reference"]``: a chapter's own code."""
    cache: dict[str, dict[str, Any]] = {}

    def load(name: str) -> dict[str, Any]:
        if name not in cache:
            path = find_notebook(name)
            space: dict[str, Any] = {"__name__": f"reference_{name}"}
            exec(compile(reference_source(path), str(path), "exec"), space)
            cache[name] = space
        return dict(cache[name])

    return load


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data sets named by ``$SRDD_DATA``; without it the test skips."""
    folder = os.environ.get("SRDD_DATA", "")
    if not folder:
        pytest.skip("SRDD_DATA is not set: it names a folder holding FashionMNIST/raw")
    if not (Path(folder) / "FashionMNIST" / "raw").is_dir():
        pytest.skip(f"SRDD_DATA={folder} holds no FashionMNIST/raw")
    return Path(folder)


@pytest.fixture(scope="session")
def shape_files() -> Callable[[Path, int, int], Path]:
    """Writes so many coloured shapes of a side as files; the first 200 to train on."""
    from srdd.data import colour_shapes
    from srdd.figures import to_pil

    def write(root: Path, count: int, side: int) -> Path:
        images = colour_shapes(count, side, 0)
        for i in range(count):
            part = "train" if i < 200 else "test"
            folder = root / "Shapes" / part / images.classes[images.labels[i]]
            folder.mkdir(parents=True, exist_ok=True)
            to_pil(images.image(i).float() / 127.5 - 1).save(folder / f"{i:03d}.png")
        return root

    return write
