"""Dtype tables and signatures."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from raymill.tensors import DTYPES, TF_DTYPES, Signature, TensorSpec, numpy_dtype


def test_every_dtype_has_a_name_in_tensorflow_and_no_two_share_one():
    assert set(TF_DTYPES) == set(DTYPES)
    assert len(set(TF_DTYPES.values())) == len(DTYPES)
    assert TF_DTYPES["float32"] == "DT_FLOAT"


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_dtypes_keep_their_name(dtype):
    assert numpy_dtype(dtype) == (np.dtype(object) if dtype == "string" else np.dtype(dtype))


def test_a_signature_survives_json():
    signature = Signature(
        inputs=(TensorSpec(name="carrier", dtype="string", nullable=True, categories=16),),
        outputs=(TensorSpec(name="probabilities", dtype="float32", shape=(-1, 3)),),
    )
    assert Signature.model_validate_json(signature.model_dump_json()) == signature


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValidationError, match="dtype"):
        TensorSpec(name="x", dtype="bfloat16")
