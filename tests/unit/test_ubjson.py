"""A model's bytes are walked through before XGBoost reads them: cut anywhere, it is refused."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st

from raymill.errors import Corrupt
from raymill.flavors.ubjson import check_whole


@pytest.fixture(scope="module", params=["binary:logistic", "multi:softprob", "reg:squarederror"])
def model(request: pytest.FixtureRequest) -> bytes:
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(200, 3)), rng.integers(0, 2, 200)
    rows[:, 2] = rng.integers(0, 5, 200)
    data = xgboost.DMatrix(rows, labels, feature_types=["q", "q", "c"], enable_categorical=True)
    classes = {"num_class": 3} if request.param == "multi:softprob" else {}
    booster = xgboost.train({"objective": request.param, **classes}, data, 4)
    return bytes(booster.save_raw("ubj"))


def test_a_whole_model_passes(model):
    check_whole(model)


def test_cut_anywhere_it_is_refused(model):
    for length in range(0, len(model), 7):
        with pytest.raises(Corrupt):
            check_whole(model[:length])
    with pytest.raises(Corrupt, match="1 bytes follow"):
        check_whole(model + b"}")


@given(st.binary(max_size=200))
def test_any_bytes_end_in_an_answer(data):
    for document in (data, b"{" + data):
        with contextlib.suppress(Corrupt):
            check_whole(document)


@pytest.mark.parametrize("document", [
    b"{}", b"{i\x01a[$d#i\x02" + bytes(8) + b"}", b"{i\x01a[TFZ]}", b"{#i\x01i\x01aU\x07",
    b"{i\x01a[#i\x02i\x01i\x02}",
    b"{$i#i\x02i\x01a\x01i\x01b\x02", b"{i\x01aSi\x02hi}",
])  # fmt: skip
def test_documents_of_the_specification(document):
    check_whole(document)


@pytest.mark.parametrize("document", [
    b"", b"{", b"[]", b"{i\x01a[$d#i\xff]}", b"{i\x01a[$d]}", b"{Sa}", b"{i\x01aQ}", b"{i\xffa}",
    b"{i\x01a" + b"[" * 100 + b"]" * 100 + b"}",
])  # fmt: skip
def test_what_is_none(document):
    with pytest.raises(Corrupt):
        check_whole(document)
