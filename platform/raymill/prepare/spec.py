"""The prepare spec: what `jobs/prepare.py --config` reads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from raymill.config import Spec

ColumnType = Literal[
    "bool", "int8", "int16", "int32", "int64", "float32", "float64", "string", "timestamp", "date",
]  # fmt: skip


class SourceSpec(Spec):
    """Where raw rows come from."""

    path: str
    """Local path, URI or `package://name/inner/path`; a file, or a directory of files. A .zip holds
    one file."""
    format: Literal["auto", "csv", "parquet"] = "auto"
    """auto: by the file's ending."""
    types: dict[str, ColumnType] = {}
    """Types of CSV columns whose first megabytes would mislead; others are inferred."""
    nulls: tuple[str, ...] = ("", "NA", "NaN", "null", "NULL")
    """CSV texts that mean null."""


class JoinSpec(Spec):
    """A smaller table, sent to every worker, whose columns are added where the keys match."""

    source: SourceSpec
    keys: tuple[str, ...]
    """Key columns, by the same name on both sides; unique together in this table."""
    columns: dict[str, str]
    """Column of this table to its new name."""


class PrepareSpec(Spec):
    """From raw rows to a dataset in splits."""

    source: SourceSpec
    joins: tuple[JoinSpec, ...] = ()
    derive: dict[str, str] = {}
    """New column to an expression over earlier ones, in pandas' `DataFrame.eval` language."""
    require: tuple[str, ...] = ()
    """Columns that must not be null; rows without one are counted and left out."""
    columns: dict[str, ColumnType]
    """Columns kept, in order, with the types they are stored in."""
    split: dict[str, str] = {"all": "True"}
    """Split name to a condition; each row must meet one at most, rows that meet none are counted
    and left out."""
    output: str
    """Directory; each split becomes a directory below it."""
    row_group_rows: int = Field(default=8192, ge=1)
    file_rows: int = Field(default=65_536, ge=1)
    """Rows of a file; a multiple of row_group_rows keeps row groups equal."""
    replace: bool = False
    """Replace a dataset that another spec or other source files made."""

    @field_validator("columns")
    @classmethod
    def _some(cls, columns: dict[str, ColumnType]) -> dict[str, ColumnType]:
        if not columns:
            raise ValueError("at least one column must be kept")
        return columns

    @model_validator(mode="after")
    def _split_names(self) -> PrepareSpec:
        bad = [name for name in self.split if not name.isidentifier() or name.startswith("_")]
        if bad or not self.split:
            raise ValueError(f"split names become directories: letters, digits, '_', not first; got {bad}")
        return self
