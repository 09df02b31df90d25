"""Spec files: overrides, immutability, and one clear line for each rule a document breaks."""

from __future__ import annotations

from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from raymill import config
from raymill.config import Spec
from raymill.errors import SpecError


class Leaf(Spec):
    rate: float = 0.1
    kind: Literal["auto", "fixed"] = "auto"
    rule: Literal["keep"] | float = "keep"


class Branch(Spec):
    leaf: Leaf = Leaf()
    by_name: dict[str, Leaf] = {}
    many: tuple[Leaf, ...] = ()
    perhaps: Leaf | None = None


class Tree(Spec):
    model: str
    workers: int = Field(default=1, ge=1)
    branch: Branch = Branch()


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes):
        path = tmp_path / "spec.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def refusal(document) -> str:
    with pytest.raises(SpecError) as caught:
        config.parse(Tree, document)
    return str(caught.value)


def test_loads_a_file_with_defaults(write):
    spec = config.load(Tree, write("model: flights\nbranch: {leaf: {rate: 0.5}}\n"))
    assert spec == Tree(model="flights", branch=Branch(leaf=Leaf(rate=0.5)))


def test_overrides_apply_in_order_as_yaml_and_reach_inside(write):
    path = write("model: flights\nbranch: {leaf: {rate: 0.5}}\n")
    overrides = [
        "workers=2",
        "workers=4",
        "branch.leaf.rate=1e-3",
        "branch.by_name.x.kind=fixed",
        "model=a=b",
    ]
    spec = config.load(Tree, path, overrides)
    assert (spec.workers, spec.branch.leaf.rate, spec.model) == (4, 0.001, "a=b")
    assert spec.branch.by_name == {"x": Leaf(kind="fixed")}


def test_an_override_creates_the_section_that_the_file_leaves_empty(write):
    spec = config.load(Tree, write("model: m\nbranch:\n"), ["branch.leaf.kind=fixed"])
    assert spec.branch.leaf.kind == "fixed"


scalars = st.one_of(st.integers(1, 10**9), st.floats(1e-3, 1e6).map(lambda x: round(x, 3)), st.booleans())


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), scalars, min_size=1, max_size=5))
def test_overriding_is_the_same_as_writing_the_file_that_way(values):
    document: dict = {}
    for key, value in values.items():
        config._apply(document, f"section.{key}={yaml.safe_dump(value).splitlines()[0]}")
    assert document == {"section": values}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("workers", "--set takes key=value, got 'workers'; example: --set workers=4"),
        ("=4", "--set takes key=value, got '=4'; example: --set workers=4"),
        ("model.sub=1", "--set model.sub: 'model' is a value, not a section"),
        ("branch.leaf.rate.x=1", "--set branch.leaf.rate.x: 'branch.leaf.rate' is a value, not a section"),
        ("workers=[1", "--set workers: '[1' is not a YAML value"),
    ],
)
def test_a_wrong_override_says_why(write, override, message):
    with pytest.raises(SpecError) as caught:
        config.load(Tree, write("model: m\nbranch: {leaf: {rate: 0.5}}\n"), [override])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("document", "wrong", "right"),
    [
        ({"modle": "m"}, "modle", "model"),
        ({"branch": {"laef": {}}}, "branch.laef", "leaf"),
        ({"branch": {"leaf": {"raet": 1}}}, "branch.leaf.raet", "rate"),
        ({"branch": {"by_name": {"x": {"kidn": 1}}}}, "branch.by_name.x.kidn", "kind"),
        ({"branch": {"by_name": {"kind": {"kidn": 1}}}}, "branch.by_name.kind.kidn", "kind"),
        ({"branch": {"by_name": {"rate": {"kidn": 1}}}}, "branch.by_name.rate.kidn", "kind"),
        ({"branch": {"many": [{}, {"rats": 1}]}}, "branch.many.1.rats", "rate"),
        ({"branch": {"perhaps": {"rats": 1}}}, "branch.perhaps.rats", "rate"),
    ],
)
def test_an_unknown_key_names_the_nearest_at_any_depth(document, wrong, right):
    message = refusal({"model": "m"} | document)
    assert f"unknown key {wrong!r}; have: " in message
    assert f"Did you mean {right!r}?" in message


def test_every_broken_rule_is_told_at_once():
    message = refusal({"workers": 0, "branch": {"leaf": {"rate": "fast"}}})
    assert message.startswith("spec: ")
    assert "key 'model' is required" in message
    assert "workers: input should be greater than or equal to 1, got 0" in message
    assert "branch.leaf.rate: input should be a valid number" in message
    assert "got 'fast'" in message


@pytest.mark.parametrize("rate", ["nan", ".inf"])
def test_no_number_that_is_none(write, rate):
    with pytest.raises(SpecError, match=r"branch\.leaf\.rate: input should be"):
        config.load(Tree, write(f"model: m\nbranch: {{leaf: {{rate: {rate}}}}}\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "must be a mapping of keys, got list"),
        ("", "must be a mapping of keys, got NoneType"),
        ("a: [1\n", "is not valid YAML"),
        (b"model: \xff\xfe\n", "is not text in UTF-8"),
        ("model: !!python/object/apply:os.getpid []\n", "is not valid YAML"),
        ("model: m\non: [a]\n", "key True is not text; YAML reads a bare on"),
    ],
)
def test_a_file_that_is_no_spec_is_refused(write, text, message):
    with pytest.raises(SpecError) as caught:
        config.load(Tree, write(text))
    assert message in str(caught.value)
    assert "spec.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"absent\.yaml' cannot be read: No such file"):
        config.load(Tree, tmp_path / "absent.yaml")


def test_specs_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        Tree(model="m").model = "other"


def test_field_texts_reach_the_schema():
    class Told(Spec):
        rows: int = 1
        """Rows of a batch."""

    assert Told.model_json_schema()["properties"]["rows"]["description"] == "Rows of a batch."
