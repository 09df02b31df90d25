"""What every flavor must do; iterates the table, so that its line enrolls a new flavor here."""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recipes import FLAVOR_RECIPES, TASKS, encoded, encoder, table

from raymill.config import Spec, parse
from raymill.errors import Corrupt, SpecError
from raymill.flavors import FLAVORS, Flavor

NAMES = list(FLAVORS)


def test_every_flavor_has_a_recipe_here_and_every_recipe_a_flavor():
    assert set(FLAVOR_RECIPES) == set(NAMES), "add a recipe to recipes.py with the line in FLAVORS"


class Case:
    """A trained model, saved once and loaded once."""

    def __init__(self, name: str, task: Any, directory: Path) -> None:
        self.flavor: Flavor = FLAVORS.load(name)()
        train, self._scores = FLAVOR_RECIPES[name]
        self.encoder, self.features, labels_N = encoded(task)
        self.model = train(self.encoder, self.features, labels_N)
        self.directory = directory
        self.framework_scores = self._scores(self.model, self.features)
        self.flavor.save(self.model, directory)
        self.predictor = self.flavor.load(directory, self.encoder)


@pytest.fixture(scope="module", params=[(name, task) for name in NAMES for task in TASKS], ids="-".join)
def case(request, tmp_path_factory) -> Case:
    name, task = request.param
    if name not in FLAVOR_RECIPES:
        pytest.fail(f"flavor {name!r} has no recipe in recipes.py")
    return Case(name, task, tmp_path_factory.mktemp(f"{name}-{task}"))


def shape(case: Case, rows: int) -> tuple[int, ...]:
    return (rows, len(case.encoder.classes)) if case.encoder.task == "multiclass" else (rows,)


def test_a_loaded_model_predicts_as_the_framework_does_in_memory(case):
    scores = case.predictor.predict(case.features)
    assert (scores.shape, scores.dtype) == (shape(case, len(case.features)), np.float32)
    np.testing.assert_allclose(scores, case.framework_scores, rtol=0, atol=case.flavor.tolerance)


def test_the_model_learned_something(case):
    """Constant scores would pass every other test."""
    assert case.predictor.predict(case.features).std(axis=0).max() > 1e-3


def test_numbers_and_categories_both_count(case):
    """The targets follow `x` and `word`; a model that lost one of them would agree with itself."""
    scores = case.predictor.predict(case.features)
    for changed in ("x", "word"):
        rows = table().select(case.encoder.names).to_pydict()
        rows[changed] = rows[changed][::-1]
        other = case.predictor.predict(case.encoder.encode_columns(rows))
        assert np.abs(other - scores).max() > 1e-3, changed


def test_rows_do_not_depend_on_their_company(case):
    scores = case.predictor.predict(case.features)
    for row in (0, 7, len(scores) - 1):
        alone = case.predictor.predict(case.features.take(slice(row, row + 1)))
        np.testing.assert_allclose(alone[0], scores[row], rtol=0, atol=case.flavor.tolerance)
    backwards = case.predictor.predict(case.features.take(np.arange(len(scores))[::-1]))
    np.testing.assert_allclose(backwards[::-1], scores, rtol=0, atol=case.flavor.tolerance)


def test_no_rows_give_no_scores(case):
    scores = case.predictor.predict(case.encoder.empty(0))
    assert (scores.shape, scores.dtype) == (shape(case, 0), np.float32)


def test_nulls_and_unknown_categories_give_finite_scores(case):
    worst = {"x": [None, 1e30], "z": [-50, 49], "flag": [None, True], "word": [None, "ü"], "code": [99, None]}
    assert np.isfinite(case.predictor.predict(case.encoder.encode_columns(worst))).all()


def test_plain_columns_and_tables_score_alike(case):
    rows = table().select(case.encoder.names)
    plain = case.predictor.predict(case.encoder.encode_columns(rows.to_pydict()))
    np.testing.assert_array_equal(plain, case.predictor.predict(case.features))


def test_chances_are_chances(case):
    scores = case.predictor.predict(case.features)
    if case.encoder.task == "regression":
        return
    assert ((scores >= 0) & (scores <= 1)).all()
    if case.encoder.task == "multiclass":
        np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-5)


def test_predicting_changes_nothing(case):
    before = case.features.numeric_NF.copy(), case.features.codes_NC.copy()
    first = case.predictor.predict(case.features)
    np.testing.assert_array_equal(first, case.predictor.predict(case.features))
    np.testing.assert_array_equal(before[0], case.features.numeric_NF)
    np.testing.assert_array_equal(before[1], case.features.codes_NC)


def test_a_second_load_predicts_the_same(case):
    again = case.flavor.load(case.directory, case.encoder)
    np.testing.assert_array_equal(again.predict(case.features), case.predictor.predict(case.features))


def test_saving_twice_loads_alike(case, tmp_path):
    case.flavor.save(case.model, tmp_path)
    np.testing.assert_array_equal(
        case.flavor.load(tmp_path, case.encoder).predict(case.features), case.predictor.predict(case.features)
    )


def payloads(file: Path) -> Iterator[tuple[str, bytes]]:
    yield file.name, file.read_bytes()
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            yield from ((f"{file.name}:{name}", archive.read(name)) for name in archive.namelist())


def is_pickle(data: bytes) -> bool:
    """Whether `data` begins with a whole pickle, of any protocol, that builds something."""
    try:
        return len(list(pickletools.genops(data))) > 2
    except Exception:  # the many ways in which bytes are no pickle
        return False


def test_the_scan_for_pickles_finds_one():
    import io
    import pickle

    import torch

    assert is_pickle(pickle.dumps({"a": 1}))
    assert is_pickle(pickle.dumps([1], protocol=0))
    assert not is_pickle(b'{"a": 1}')
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, stream)
    with zipfile.ZipFile(stream) as archive:
        assert any(is_pickle(archive.read(name)) for name in archive.namelist())


def test_no_file_holds_a_pickle(case):
    files = [file for file in case.directory.rglob("*") if file.is_file()]
    assert files
    assert [name for file in files for name, data in payloads(file) if is_pickle(data)] == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "pickle", "absent", "another format"])
def test_what_is_no_model_is_corrupt(name, damage, tmp_path):
    """Every file of a saved model in turn, damaged."""
    import pickle

    flavor, (train, _) = FLAVORS.load(name)(), FLAVOR_RECIPES[name]
    fitted, features, labels_N = encoded("binary")
    flavor.save(train(fitted, features, labels_N), tmp_path)
    for file in sorted(file for file in tmp_path.rglob("*") if file.is_file()):
        whole = file.read_bytes()
        damaged = {
            "empty": b"", "garbage": bytes(range(256)) * 9, "truncated": whole[: len(whole) // 2],
            "pickle": pickle.dumps({"model": 1}), "another format": b'{"a": [1, 2]}',
        }.get(damage)  # fmt: skip
        file.unlink() if damaged is None else file.write_bytes(damaged)
        with pytest.raises(Corrupt, match=file.name):
            flavor.load(tmp_path, fitted)
        file.write_bytes(whole)
    flavor.load(tmp_path, fitted)


@pytest.mark.parametrize("name", NAMES)
def test_hyper_parameters_are_a_spec_with_defaults(name):
    config = FLAVORS.load(name).Config
    assert issubclass(config, Spec)
    config()
    with pytest.raises(SpecError, match="unknown key 'no_such_parameter'"):
        parse(config, {"no_such_parameter": 1})


@pytest.mark.parametrize("name", NAMES)
def test_the_lineage_s_packages_are_installed(name):
    from raymill.code_identity import package_versions

    assert set(FLAVORS.load(name).packages) <= set(package_versions(FLAVORS.load(name).packages))


@pytest.mark.parametrize("name", NAMES)
def test_an_encoder_of_numbers_only_or_categories_only_works(name, tmp_path):
    flavor, (train, _) = FLAVORS.load(name)(), FLAVOR_RECIPES[name]
    whole = encoder("binary")
    for kept in (whole.numeric, whole.categorical):
        fitted = whole.model_copy(update={"columns": kept})
        fitted = type(whole).model_validate(fitted.model_dump())
        rows = table()
        features, labels_N = fitted.encode_table(rows), fitted.encode_labels(rows.column("binary"))
        model = train(fitted, features, labels_N)
        flavor.save(model, tmp_path)
        scores = flavor.load(tmp_path, fitted).predict(features)
        np.testing.assert_allclose(
            scores, FLAVOR_RECIPES[name][1](model, features), rtol=0, atol=flavor.tolerance
        )
