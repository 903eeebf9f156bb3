"""The public API: typed, documented, light to import."""

import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

PACKAGE = Path(__file__).parents[1] / "srdd"
MODULES = sorted(p.stem for p in PACKAGE.glob("*.py") if not p.stem.startswith("_"))
HEAVY = ["matplotlib", "torchvision", "IPython", "ipywidgets", "anywidget", "scipy"]
HEAVY += ["huggingface_hub", "torch_fidelity"]
by_module = pytest.mark.parametrize("name", MODULES)


def load(name: str) -> ModuleType:
    return importlib.import_module(f"srdd.{name}")


def public_names(module: ModuleType) -> list[str]:
    """``__all__``, or what a hand-written module defines without an underscore."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    own = inspect.getmembers(module, lambda x: inspect.isclass(x) or is_function(x))
    mine = [n for n, x in own if x.__module__ == module.__name__]
    return [name for name in mine if not name.startswith("_")]


def is_function(thing: object) -> bool:
    return isinstance(inspect.unwrap(thing) if callable(thing) else thing, FunctionType)


def methods(cls: type) -> Iterator[tuple[str, FunctionType]]:
    """The public methods and properties that a class of ours writes itself."""
    for name, thing in vars(cls).items():
        if isinstance(thing, staticmethod | classmethod):
            thing = thing.__func__
        if isinstance(thing, property):
            thing = thing.fget
        if not is_function(thing) or name.startswith("_"):
            continue
        thing = inspect.unwrap(thing)
        if thing.__module__ == cls.__module__:
            yield f"{cls.__name__}.{name}", thing


def public_things(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The public functions and classes of a module, and the methods of the latter."""
    for name in public_names(module):
        thing = getattr(module, name)
        if inspect.isclass(thing):
            yield name, thing
            yield from methods(thing)
        elif is_function(thing):
            yield name, inspect.unwrap(thing)


def missing_annotations(function: FunctionType) -> list[str]:
    signature = inspect.signature(function)
    names = list(signature.parameters)
    bound = {"self", "cls"} & set(names[:1])
    given = set(inspect.get_annotations(function)) | bound
    return [name for name in [*names, "return"] if name not in given]


def documented(name: str, thing: Any) -> bool:
    """Whether there is a docstring; the class may speak for its `forward`."""
    text = (thing.__doc__ or "").strip()
    if name.endswith(".forward"):
        return True
    # a dataclass without a docstring gets its signature as one: that is none
    return bool(text) and not text.startswith(f"{name}(")


def run(code: str) -> Any:
    """What a fresh interpreter prints as JSON."""
    command = [sys.executable, "-c", code]
    return json.loads(subprocess.check_output(command, text=True).splitlines()[-1])


@by_module
def test_module_says_what_it_is(name):
    assert (load(name).__doc__ or "").strip()


@by_module
def test_all_names_exist_once_and_none_is_private(name):
    module = load(name)
    if not hasattr(module, "__all__"):
        pytest.skip("written by hand, without __all__")
    names = module.__all__
    assert len(set(names)) == len(names)
    assert all(hasattr(module, each) for each in names)
    assert not [each for each in names if each.startswith("_")]


@by_module
def test_every_public_name_is_documented(name):
    silent = [n for n, thing in public_things(load(name)) if not documented(n, thing)]
    assert not silent


@by_module
def test_every_public_function_is_fully_annotated(name):
    things = [(n, x) for n, x in public_things(load(name)) if not inspect.isclass(x)]
    bare = {label: missing_annotations(function) for label, function in things}
    assert not {label: names for label, names in bare.items() if names}


def test_the_package_lists_what_it_offers():
    srdd = importlib.import_module("srdd")
    assert srdd.__doc__
    assert len(set(srdd.__all__)) == len(srdd.__all__)
    assert all(getattr(srdd, name) is not None for name in srdd.__all__)


def test_importing_srdd_is_light():
    seconds, loaded = run(
        "import json, sys, time, torch\n"
        "start = time.process_time()\n"  # CPU time: other programs do not count
        "import srdd\n"
        "took = time.process_time() - start\n"
        "[getattr(srdd, name) for name in srdd.__all__]\n"
        f"print(json.dumps([took, sorted(set({HEAVY}) & set(sys.modules))]))"
    )
    assert seconds < 0.5
    assert not loaded


def test_importing_every_module_loads_nothing_heavy():
    lines = ["import json, sys", *(f"import srdd.{name}" for name in MODULES)]
    lines.append(f"print(json.dumps(sorted(set({HEAVY}) & set(sys.modules))))")
    assert run("\n".join(lines)) == []
