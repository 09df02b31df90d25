"""Write the JSON Schema of every spec file to docs/schemas, for editors that complete and check YAML.

python scripts/schemas.py            write
python scripts/schemas.py --check    exit 1 where a file is not current
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "platform"))

from raymill.config import Spec  # noqa: E402
from raymill.data import ORDERS  # noqa: E402
from raymill.flavors import FLAVORS  # noqa: E402
from raymill.registry import Registry, import_target  # noqa: E402
from raymill.search import SEARCHERS  # noqa: E402
from raymill.search.schedulers import SCHEDULERS  # noqa: E402
from raymill.serving import PROTOCOLS  # noqa: E402
from raymill.train import STRATEGIES  # noqa: E402

FOLDER = ROOT / "docs" / "schemas"

SPECS = {
    "prepare": "raymill.prepare.spec:PrepareSpec",
    "train": "raymill.train.spec:TrainSpec",
    "evaluate": "raymill.train.evaluate:EvaluateSpec",
    "serve": "raymill.serving.spec:ServeSpec",
    "tune": "raymill.tune.spec:TuneSpec",
}
"""Spec's name, which is also its schema's and its examples', to its class."""

TABLES: dict[tuple[str, str], Registry[Any]] = {
    ("TrainSpec", "flavor"): FLAVORS,
    ("TrainSpec", "strategy"): STRATEGIES,
    ("ReadSpec", "order"): ORDERS,
    ("ServeSpec", "protocols"): PROTOCOLS,
    ("Stage", "searcher"): SEARCHERS,
    ("SchedulerSpec", "name"): SCHEDULERS,
}
"""Keys that take a name (or a list of names) out of a table, or a "module:attribute" of one's own."""

EMPTY_MEANS_DEFAULTS = (("DataSpec", "features"), ("ServeSpec", "models"))
"""Tables in which `name:` may stand alone."""


def schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of the spec `name`."""
    spec: type[Spec] = import_target(SPECS[name])
    document = spec.model_json_schema()
    definitions = document.setdefault("$defs", {})
    properties = {owner: found["properties"] for owner, found in definitions.items() if "properties" in found}
    properties[spec.__name__] = document["properties"]
    for (owner, key), table in TABLES.items():
        if owner in properties:
            of_names = properties[owner][key]
            of_names = of_names.get("items", of_names)
            of_names["anyOf"] = [{"enum": list(table)}, {"pattern": "^[^:]+:[^:]+$"}]
    for owner, key in EMPTY_MEANS_DEFAULTS:
        if owner in properties:
            values = properties[owner][key]["additionalProperties"]
            properties[owner][key]["additionalProperties"] = {"anyOf": [values, {"type": "null"}]}
    if name == "train":
        _add_flavor_sections(document["properties"]["flavors"], definitions)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | document


def _add_flavor_sections(section: dict[str, Any], definitions: dict[str, Any]) -> None:
    """Describe each flavor's hyper-parameters under the flavor's name."""
    section["properties"] = {}
    for flavor in FLAVORS:
        config = FLAVORS.load(flavor).Config
        found = config.model_json_schema()
        definitions |= found.pop("$defs", {})
        definitions[config.__name__] = found
        section["properties"][flavor] = {"$ref": f"#/$defs/{config.__name__}"}


def text(name: str) -> str:
    """Return the schema as it is written: keys sorted, so that a diff shows what changed and no more."""
    return json.dumps(schema(name), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> int:
    check = "--check" in sys.argv[1:]
    FOLDER.mkdir(parents=True, exist_ok=True)
    stale = []
    for name in SPECS:
        file, wanted = FOLDER / f"{name}.json", text(name)
        if file.exists() and file.read_text(encoding="utf-8") == wanted:
            continue
        stale.append(file.name)
        if not check:
            file.write_text(wanted, encoding="utf-8")
    for name in stale:
        print(f"{name}: {'not current; run python scripts/schemas.py' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
