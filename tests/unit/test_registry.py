"""Registries: late imports, names from elsewhere, and messages for each way a name can be wrong."""

from __future__ import annotations

import collections
import sys

import pytest

from raymill.errors import SpecError
from raymill.registry import Registry, import_target

TABLE: Registry = Registry(
    "searcher", {"random": "collections:OrderedDict", "annealing": "raymill_absent_module:Annealing"}
)


def test_iterates_sorted_and_knows_its_names():
    assert list(TABLE) == ["annealing", "random"]
    assert "random" in TABLE
    assert "genetic" not in TABLE


def test_loads_an_entry_and_a_target_that_is_not_in_the_table():
    assert TABLE.load("random") is collections.OrderedDict
    assert TABLE.load("collections:Counter") is collections.Counter


def test_building_a_table_imports_nothing():
    sys.modules.pop("this", None)
    Registry("poem", {"zen": "this:s"})
    assert "this" not in sys.modules


def test_an_unknown_name_lists_all_and_names_the_nearest():
    with pytest.raises(SpecError) as caught:
        TABLE.load("randm")
    assert str(caught.value) == (
        "searcher 'randm' is unknown; have: annealing, random. Did you mean 'random'?"
    )


@pytest.mark.parametrize("target", ["collections:", ":Counter", ":"])
def test_a_malformed_target_says_the_form(target):
    with pytest.raises(SpecError, match="must have the form 'module:attribute'"):
        import_target(target, "flavor")


@pytest.mark.parametrize("target", ["raymill_absent_module:X", "collections.absent:X"])
def test_a_missing_module_is_named(target):
    with pytest.raises(SpecError, match=f"no module '{target.partition(':')[0]}' on the path"):
        import_target(target)


def test_a_missing_attribute_names_the_nearest():
    with pytest.raises(SpecError, match=r"has no 'Countr'\. Did you mean 'Counter'\?"):
        import_target("collections:Countr")


def test_what_is_missing_inside_a_module_is_not_blamed_on_the_name(tmp_path, monkeypatch):
    (tmp_path / "raymill_outer_module.py").write_text("import raymill_inner_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="raymill_inner_module"):
        import_target("raymill_outer_module:X")
