"""Presets: chosen by the screen alone, and written where the pipeline reads them."""

import json

import pytest

from srdd.files import read_json, write_json
from srdd.pipeline import Pipeline, sampling_from
from srdd.presets import (
    BASE,
    GRID,
    MODELS,
    PASSES,
    WIDE,
    chosen,
    manifest_entry,
    write_presets,
)
from srdd.records import read_record, results_dir, single, spread, write_record


def screened(**changes):
    """A record in which every row costs 100 and is worse than the one before."""
    values = {}
    for i, name in enumerate(GRID):
        row = {"rel_fd": 1.0 + i, "flops": 100.0} | changes.get(name, {})
        values |= {f"screen, {name}/{key}": single(x) for key, x in row.items()}
    return values


NAMES = list(GRID)


def test_balanced_is_the_default_best_the_lowest_fast_the_best_of_the_cheap():
    found = chosen(
        screened(
            **{
                NAMES[3]: {"rel_fd": 0.5},
                NAMES[5]: {"flops": 80.0, "rel_fd": 4.0},
                NAMES[6]: {"flops": 70.0, "rel_fd": 3.0},
                NAMES[7]: {"flops": 90.0, "rel_fd": 0.9},  # not cheap enough
            }
        )
    )
    assert found == {"fast": NAMES[6], "balanced": NAMES[0], "best": NAMES[3]}


def test_passes_are_chosen_only_where_they_were_screened():
    (name,) = PASSES
    values = screened(**{NAMES[6]: {"flops": 70.0}})
    assert name not in chosen(values).values()
    row = {"rel_fd": 0.1, "flops": 200.0}
    values |= {f"screen, {name}/{key}": single(x) for key, x in row.items()}
    assert chosen(values)["best"] == name and chosen(values)["balanced"] == NAMES[0]


def test_the_manifest_says_what_the_record_says(tmp_path):
    values = screened(**{NAMES[6]: {"flops": 70.0}})
    values |= {"fast/rel_fd": spread([1.0, 2.0, 3.0]), "best/rel_fd": single(0.5)}
    facts = {"name": "fashion-presets", "claim": "c", "tier": "toy", "seeds": [0]}
    record = write_record(tmp_path, values=values, **facts)
    write_json(tmp_path / "manifest.json", {"files": {}})
    entry = read_json(write_presets(record, tmp_path))["presets"]
    assert entry == read_json(tmp_path / "manifest.json")["presets"]
    assert entry["fast"]["measured"] == {"rel_fd": "2 ± 1"}
    assert sampling_from(entry["best"]["sampling"]) == GRID[NAMES[0]] == BASE


@pytest.mark.parametrize("model", MODELS)
def test_the_shipped_manifest_is_that_of_the_record(model):
    path = results_dir(__file__) / f"{model}-presets.json"
    if not path.is_file():
        pytest.skip("not measured yet: no presets are shipped")
    manifest = read_json(path.parents[1] / f"srdd/weights/{model}/manifest.json")
    entry = manifest_entry(read_record(path.stem, path.parent))
    assert manifest["presets"] == json.loads(json.dumps(entry))


def test_why_balanced_is_the_default_is_what_the_record_says():
    record = read_record("fashion-presets")
    costs, losses = (
        {n: record.values[f"{n}/{key}"]["mean"] for n in ("fast", "balanced", "best")}
        for key in ("flops", "rel_fd")
    )
    assert costs["fast"] < costs["balanced"] < costs["best"] / 2.7
    assert losses["fast"] > losses["balanced"] > losses["best"]
    for name in costs:  # who paints is the better decoder, and the cheaper one
        own = f"{name}, {WIDE}"
        assert costs[name] < record.values[f"{own}/flops"]["mean"]
        gap = record.values[f"{own}/rel_fd"]["mean"] - losses[name]
        spreads = (record.values[f"{n}/rel_fd"]["sd"] for n in (name, own))
        assert gap > max(spreads)
    once = {n: record.values[f"screen, {n}/rel_fd"]["mean"] for n in GRID}
    assert min(once, key=once.get) == chosen(record)["balanced"]


@pytest.mark.parametrize("model", MODELS)
def test_every_shipped_model_draws_with_its_presets(model):
    pipe = Pipeline.from_pretrained(model)
    if not pipe.presets:
        pytest.skip("not measured yet: no presets are shipped")
    assert set(pipe.presets) == {"fast", "balanced", "best"}
    assert pipe.presets["balanced"] == pipe.sampling == BASE
    for preset in pipe.presets:
        (image,) = pipe(["Bag"], preset=preset).images
        assert image.size == (32, 32)
