"""What must hold before a deploy reaches Serve, which ends replicas before their successors work.

Asked twice: by the job before it sends anything, and by Serve's builder, which `serve deploy` reaches
without a job. There too, what is served stays as it is where this fails.
"""

from __future__ import annotations

from collections.abc import Mapping

from raymill import cluster
from raymill.errors import Corrupt, Unavailable
from raymill.repo import Repository, verify
from raymill.serving.spec import ModelSpec, ServeSpec

Resources = dict[str, float]
KEYS = {"CPU": "num_cpus", "GPU": "num_gpus"}


def check(spec: ServeSpec) -> dict[str, dict[str, int]]:
    """Return, by model, the version behind everything that is to be served; all of it is read, none loaded.

    Raises:
        NotFound: a model, version or label that is not in the repository.
        Corrupt: a version whose files are not those that were published.
    """
    repository = Repository(spec.repository)
    return {name: _check_model(repository, name, model) for name, model in spec.models.items()}


def _check_model(repository: Repository, name: str, model: ModelSpec) -> dict[str, int]:
    found = {wanted: repository.resolve_all(name, wanted) for wanted in model.serve}
    for number in dict.fromkeys(number for numbers in found.values() for number in numbers):
        try:
            verify(repository.version(name, number))
        except Corrupt as error:
            asked = ", ".join(str(wanted) for wanted, numbers in found.items() if number in numbers)
            raise Corrupt(
                f"model {name!r}, version {number} (`serve: [{asked}]`): {error}, or serve another version"
            ) from error
    return {str(wanted): numbers[0] for wanted, numbers in found.items()}


def check_placement(spec: ServeSpec) -> None:
    """Refuse replicas that this cluster can never place.

    Raises:
        Unavailable: names the key, what it asks for, what there can be, and the way out.
    """
    nodes = cluster.nodes()
    check_replicas(spec, nodes, cluster.ceiling() if cluster.may_grow() else None)
    replicas_by_node(spec, len(nodes))


def check_replicas(spec: ServeSpec, nodes: list[Resources], ceiling: Resources | None) -> None:
    """Refuse a replica that no node holds; where an autoscaler may add nodes, beyond the cluster's ceiling.

    Raises as `check_placement` does.
    """
    hosts = nodes if ceiling is None else [ceiling]
    for key, wants in _wanted(spec).items():
        for resource, amount in wants.items():
            most = max((node.get(resource, 0.0) for node in hosts), default=0.0)
            if amount > most:
                where = "no node of this cluster has" if ceiling is None else "this cluster can never have"
                lower = f"set it to {most:g} or lower" if most else f"ask for no {resource}"
                raise Unavailable(
                    f"`{key}.{KEYS[resource]}` asks for {amount:g} {resource} in one replica, and {where} "
                    f"more than {most:g}; {lower}, or add larger nodes"
                )
        if wants and not cluster.room(wants, hosts):
            both = " and ".join(f"{amount:g} {resource}" for resource, amount in wants.items())
            raise Unavailable(
                f"`{key}` asks for {both} in one replica, and no node of this cluster has both; "
                "lower one of them, or add a node that has"
            )


def _wanted(spec: ServeSpec) -> Mapping[str, Resources]:
    """Return by key of the spec what one replica of each deployment needs, without what it does not."""
    needs = {"replica": {"CPU": spec.replica.num_cpus}} | {
        f"models.{name}.own": {"CPU": model.own.num_cpus, "GPU": model.own.num_gpus}
        for name, model in spec.models.items()
        if model.placement == "own"
    }
    return {key: {what: each for what, each in wants.items() if each} for key, wants in needs.items()}


def replicas_by_node(spec: ServeSpec, nodes: int) -> int | None:
    """Return how many replicas a shape has that puts each on a node of its own; None for other shapes.

    Raises:
        Unavailable: the cluster has fewer nodes.
    """
    if spec.shape in ("autoscaled", "single"):
        return None
    count = spec.replicas or (nodes if spec.shape == "multi_primary" else 2)
    if count > nodes:
        raise Unavailable(
            f"shape {spec.shape} with {count} replicas needs as many nodes, the cluster has {nodes}; "
            "add nodes, or set `replicas` lower"
        )
    return count
