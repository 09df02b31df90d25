"""Boosters of an unfinished run: whole or absent, few, and what was measured with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost

from raymill.errors import Corrupt
from raymill.storage import Location, locate
from raymill.train.xgboost_resume import FOLDER, Keeper, newest


def boosted(rounds: int) -> Any:
    rng = np.random.default_rng(1)
    rows_NF = rng.normal(size=(200, 3))
    data = xgboost.DMatrix(rows_NF, rows_NF.sum(axis=1))
    return xgboost.train({"max_depth": 2, "nthread": 1}, data, rounds)


@pytest.fixture
def run(tmp_path: Path) -> Location:
    return locate(tmp_path / "runs") / "night"


def fill(run: Location, *rounds: int, keep: int = 2) -> None:
    keeper = Keeper(run, keep)
    for count in rounds:
        keeper.take(boosted(count), [{"round": float(n)} for n in range(1, count + 1)])
    keeper.close()


def names(run: Location) -> list[str]:
    return [child.name for child in (run / FOLDER).children()]


def test_the_newest_few_are_kept_and_the_newest_is_found(run: Location) -> None:
    assert newest(run) is None
    fill(run, 3, 6, 10)
    assert names(run) == ["00000006", "00000010"]
    found = newest(run)
    assert found is not None
    assert found.history[-1] == {"round": 10.0}
    assert found.model == bytes(boosted(10).save_raw("ubj"))
    assert found.booster().num_boosted_rounds() == 10


def test_no_later_than_asked_for(run: Location) -> None:
    fill(run, 3, 6)
    found = newest(run, most=5)
    assert found is not None
    assert found.booster().num_boosted_rounds() == 3
    assert newest(run, most=2) is None


def test_what_a_killed_writer_left_is_no_booster_and_goes(run: Location) -> None:
    fill(run, 3)
    (run / FOLDER / "00000006.4711.tmp").write_bytes(b"half")
    found = newest(run)
    assert found is not None
    assert found.booster().num_boosted_rounds() == 3
    fill(run)
    assert names(run) == ["00000003"]


def test_a_model_is_stored_as_it_was(run: Location) -> None:
    """Boosting goes on while it is written."""
    keeper, model = Keeper(run, 1), boosted(2)
    keeper.take(model, [])
    model.set_param({"max_depth": 9})
    model.update(xgboost.DMatrix(np.zeros((2, 3)), np.arange(2.0)), 2)
    keeper.close()
    found = newest(run)
    assert found is not None
    assert found.booster().num_boosted_rounds() == 2


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"x" + data, lambda data: b""])
def test_a_damaged_file_is_named(run: Location, damage: Any) -> None:
    fill(run, 3)
    file = run / FOLDER / "00000003"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(Corrupt, match=r"boosting/00000003 is damaged: .*remove it"):
        newest(run)


def test_an_object_store_holds_it_too() -> None:
    run = locate("memory://runs/boosted")
    fill(run, 2, 4, 6)
    assert names(run) == ["00000004", "00000006"]
