"""What keeps the project in shape: layers, late imports, the `platform/` trap, tables that load, sizes."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from raymill.flavors import FLAVORS
from raymill.registry import Registry, import_target

ROOT = Path(__file__).resolve().parents[2]
PLATFORM = ROOT / "platform"
PACKAGE = PLATFORM / "raymill"
ENTRY_FOLDERS = ("jobs", "serve_apps", "scripts")

LEVELS = {
    0: ("errors",),
    1: (
        "registry", "config", "storage", "tensors", "metrics", "evaluation", "features", "fitting",
        "progress", "scratch", "code_identity", "columns", "kernels", "encode_arrow", "encode_plain",
    ),
    2: ("data", "flavors", "search", "monitoring"),
    3: ("repo", "cluster", "runs"),
    4: ("train", "serving", "prepare", "entry"),
    5: ("local_cluster", "tune"),
    6: ("study_cli", "runs_cli"),
    7: ("cli", *ENTRY_FOLDERS),
}  # fmt: skip
LEVEL = {area: level for level, areas in LEVELS.items() for area in areas}

RAY = ("ray", "xgboost_ray")
HEAVY = (*RAY, "torch", "tensorflow", "xgboost", "keras")
RIM = {
    "raymill.search.tune", "raymill.serving.deployment", "raymill.serving.ingress",
    "raymill.serving.ray_metrics", "raymill.serving.ray_overrides", "raymill.train.final_errors",
    "raymill.train.fresh_nodes",
    "raymill.train.signals", "raymill.train.tune_report", "raymill.train.xgboost_ddp",
    "raymill.train.xgboost_failures", "raymill.train.xgboost_measure",
}  # fmt: skip
"""Modules that import Ray when they are imported; each is reached by name only, when work starts."""
FRAMEWORK = RIM | {
    "raymill.flavors.tf_learner", "raymill.flavors.tf_networks", "raymill.flavors.tf_saved",
    "raymill.flavors.torch_learner", "raymill.flavors.torch_networks", "raymill.train.xgboost_local",
}  # fmt: skip
"""Modules that import a heavy library when they are imported."""

FILE_LINES, FUNCTION_LINES, JOB_LINES = 400, 80, 60


def module_name(file: Path) -> str:
    parts = file.relative_to(PLATFORM).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}
SCRIPTS = [file for folder in ENTRY_FOLDERS for file in sorted((ROOT / folder).glob("*.py"))]


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(node: ast.AST, package: str) -> Iterator[str]:
    """Yield the full names of modules that an import statement names, submodules included."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = package.split(".")
            base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}" in MODULES)


def imports(file: Path, nodes: Iterator[ast.AST] | None = None) -> set[str]:
    package = module_name(file) if file.is_relative_to(PLATFORM) else ""
    if file.name != "__init__.py":
        package = package.rpartition(".")[0]
    return {name for node in nodes or ast.walk(tree(file)) for name in imported(node, package)}


def run_on_import(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Yield the statements that importing the module runs: all but functions and TYPE_CHECKING blocks."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        for field in ("body", "orelse", "finalbody"):
            yield from run_on_import(getattr(node, field, []))
        for handler in getattr(node, "handlers", []):
            yield from run_on_import(handler.body)


def area(module: str) -> str:
    return module.split(".")[1] if module.startswith("raymill.") else module


# Layers


def test_every_module_has_a_level():
    areas = {area(module) for module in MODULES if module != "raymill"}
    assert areas <= LEVEL.keys(), f"put {areas - LEVEL.keys()} into LEVELS, and into the design"


def violations(mine: str, names: set[str]) -> list[str]:
    found = []
    for name in sorted(names):
        theirs = area(name)
        if not name.startswith("raymill.") or theirs == mine or theirs not in LEVEL:
            continue
        both_core = LEVEL[mine] == LEVEL[theirs] == 1
        if LEVEL[theirs] >= LEVEL[mine] and not both_core:
            found.append(f"{mine} (level {LEVEL[mine]}) imports {name} (level {LEVEL[theirs]})")
    return found


@pytest.mark.parametrize("module", [module for module in MODULES if module != "raymill"])
def test_imports_point_down(module):
    assert violations(area(module), imports(MODULES[module])) == []


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_entry_points_are_imported_by_nobody(file):
    importers = [m for m, f in MODULES.items() if file.stem in imports(f) or file.parent.name in imports(f)]
    assert importers == []


def test_the_core_has_no_cycles():
    core = {module for module in MODULES if LEVEL.get(area(module)) == 1 and module.count(".") == 1}
    left = {module: imports(MODULES[module]) & core - {module} for module in core}
    while free := [module for module, needs in left.items() if not needs & left.keys()]:
        for module in free:
            del left[module]
    assert left == {}


def test_the_layer_check_sees_what_it_must():
    assert violations("data", {"raymill.repo"}) == ["data (level 2) imports raymill.repo (level 3)"]
    assert violations("data", {"raymill.flavors.base"}) == [
        "data (level 2) imports raymill.flavors.base (level 2)"
    ]
    assert violations("errors", {"raymill.config"}) != []
    assert violations("features", {"raymill.config", "raymill.errors", "numpy"}) == []
    relative = ast.parse("from ..repo import manifest").body[0]
    assert set(imported(relative, "raymill.data")) == {"raymill.repo", "raymill.repo.manifest"}
    hidden = ast.parse("try:\n    import ray\nexcept ImportError:\n    pass\nclass A:\n    import torch")
    assert {n for node in run_on_import(hidden.body) for n in imported(node, "")} == {"ray", "torch"}


# Late imports


@pytest.mark.parametrize("module", MODULES)
def test_ray_is_imported_on_import_at_the_rim_only(module):
    names = imports(MODULES[module], run_on_import(tree(MODULES[module]).body))
    with_ray = any(name.split(".")[0] in RAY for name in names)
    assert with_ray == (module in RIM)


def loaded_by(*modules: str) -> list[str]:
    """Return which heavy libraries a fresh Python has after importing `modules`."""
    code = f"import sys, {', '.join(modules)}; print(*(n for n in {HEAVY} if n in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120,
        env={"PYTHONPATH": str(PLATFORM)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_raymill_loads_no_heavy_library():
    assert loaded_by("raymill") == []


def test_importing_every_other_module_loads_no_heavy_library_either():
    assert loaded_by(*(module for module in MODULES if module not in FRAMEWORK)) == []


def test_the_check_of_loaded_libraries_sees_one():
    assert "xgboost" in loaded_by("xgboost")


# The platform trap


def test_platform_is_a_path_root_and_never_a_package():
    """With an __init__.py it would shadow the standard library's `platform`, and nothing would start."""
    assert not (PLATFORM / "__init__.py").exists()
    assert [entry.name for entry in PLATFORM.iterdir() if entry.suffix == ".py"] == []
    done = subprocess.run(
        [sys.executable, "-c", "import platform; print(platform.__file__); import raymill"],
        capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": f"{PLATFORM}:{ROOT}"}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).name == "platform.py"


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_no_script_shadows_the_standard_library(file):
    """A script's folder comes first on its path: `jobs/queue.py` would replace `queue`."""
    assert file.stem not in sys.stdlib_module_names


# Tables


def registries() -> dict[str, Registry]:
    found = {}
    for module, file in MODULES.items():
        if re.search(r"\bRegistry\(", file.read_text(encoding="utf-8")):
            public = vars(importlib.import_module(module))
            found |= {name: value for name, value in public.items() if isinstance(value, Registry)}
    return found


REGISTRIES = registries()


def test_the_tables_are_found():
    assert {"FLAVORS", "ORDERS", "STRATEGIES"} <= REGISTRIES.keys()


@pytest.mark.parametrize(("table", "name"), [(t, name) for t in sorted(REGISTRIES) for name in REGISTRIES[t]])
def test_every_entry_of_every_table_imports(table, name):
    assert callable(REGISTRIES[table].load(name))


@pytest.mark.parametrize("name", list(FLAVORS))
def test_every_flavor_names_itself_and_a_trainer_that_imports(name):
    flavor = FLAVORS.load(name)
    assert flavor.name == name
    assert callable(import_target(flavor.collective))


# Sizes


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return a function's lines without its docstring."""
    docstring = 0
    if ast.get_docstring(function, clean=False) is not None:
        first = function.body[0]
        docstring = (first.end_lineno or 0) - first.lineno + 1
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


@pytest.mark.parametrize("file", [*MODULES.values(), *SCRIPTS], ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_stay_small(file):
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= (JOB_LINES if file.parent.name == "jobs" else FILE_LINES), f"{lines} lines"
    functions = [n for n in ast.walk(tree(file)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {
        function.name: code_lines(function) for function in functions if code_lines(function) > FUNCTION_LINES
    }
    assert long == {}


# Habits


def test_no_two_test_files_share_a_name():
    """pytest imports them by name alone: the second of two would not be collected beside the first."""
    folders = [ROOT / "tests" / kind for kind in ("unit", "conformance", "faults", "cluster")]
    names = Counter(file.name for folder in folders for file in folder.rglob("test_*.py"))
    assert len(names) > 50
    assert [name for name, files in names.items() if files > 1] == []


def test_nothing_ends_every_ray_on_the_machine():
    """`ray stop` does; ours ends the processes that it started."""
    files = [ROOT / "Makefile", *(ROOT / ".ci").glob("*"), *ROOT.glob("scripts/*"), *MODULES.values()]
    callers = [
        f"{file.name}:{number}"
        for file in files
        if file.is_file()
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"""^(?!\s*(#|\S*`)).*(\bray stop\b(?!`)|["']ray["'],\s*["']stop["'])""", line)
    ]
    assert callers == []
