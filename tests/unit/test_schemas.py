"""The schemas in docs are current, accept the examples, and refuse what the specs refuse."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from raymill import config
from raymill.errors import SpecError
from raymill.registry import import_target

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "schemas.py"


def load_script() -> Any:
    found = importlib.util.spec_from_file_location("raymill_schemas_script", SCRIPT)
    assert found
    assert found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


schemas = load_script()
NAMES = list(schemas.SPECS)
EXAMPLES = [file for name in NAMES for file in sorted((ROOT / "examples").glob(f"*/{name}*.yaml"))]


def validator(name: str) -> jsonschema.Draft202012Validator:
    document = json.loads((schemas.FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


@pytest.mark.parametrize("name", NAMES)
def test_the_schema_is_current(name):
    written = (schemas.FOLDER / f"{name}.json").read_text(encoding="utf-8")
    assert written == schemas.text(name), "run python scripts/schemas.py"


def test_no_schema_is_left_over():
    assert sorted(file.stem for file in schemas.FOLDER.iterdir()) == sorted(NAMES)


def test_every_spec_has_an_example_and_every_example_a_spec():
    assert {file.stem.partition("-")[0] for file in EXAMPLES} == set(NAMES)
    assert set((ROOT / "examples").glob("*/*.yaml")) == set(EXAMPLES)


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_the_examples_are_valid_by_schema_and_by_spec(file):
    name = file.stem.partition("-")[0]
    problems = [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(read(file))]
    assert problems == []
    config.load(import_target(schemas.SPECS[name]), file)


TRAIN = ROOT / "examples" / "flights" / "train.yaml"


def changed(path: str, value: Any) -> Any:
    document = read(TRAIN)
    node = document
    *parents, leaf = path.split(".")
    for parent in parents:
        node = node.setdefault(parent, {})
    node[leaf] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("wrokers", 2),
        ("workers", 0),
        ("workers", "two"),
        ("task", "ranking"),
        ("flavor", "troch"),
        ("strategy", "dpp"),
        ("read.order", "ful"),
        ("read.batch_rows", 0),
        ("data.features.distance", {"nuls": "mean"}),
        ("data.features.distance", {"nulls": "median"}),
        ("flavors.torch.hiden", [4]),
        ("flavors.xgboost.rounds", 0),
        ("publish.lable", "stable"),
    ],
)
def test_the_schema_refuses_what_the_spec_refuses(path, value):
    document = changed(path, value)
    assert not validator("train").is_valid(document)
    with pytest.raises(SpecError):
        config.parse(import_target(schemas.SPECS["train"]), document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.features.distance", None),
        ("data.features.distance", {"nulls": 0.0}),
        ("flavors", {"torch": {"hidden": [8]}}),
        ("flavors", {"mine": {"anything": 1}}),
        ("flavor", "my_package.flavor:Mine"),
        ("publish.label", None),
    ],
)
def test_the_schema_accepts_what_the_spec_accepts(path, value):
    assert validator("train").is_valid(changed(path, value))


def test_editors_can_show_what_a_key_means():
    document = schemas.schema("train")
    assert document["properties"]["max_failures"]["description"].startswith("Times a run is resumed")
    assert "learning_rate" in document["$defs"]["TorchConfig"]["properties"]
    assert document["properties"]["flavors"]["properties"]["xgboost"]["$ref"] == "#/$defs/XGBoostConfig"


def test_the_command_checks_and_writes():
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
