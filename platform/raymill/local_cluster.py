"""`raymill up` and `raymill down`: one Ray head on this machine, set up as a cluster's nodes are.

Ray's own `ray stop` ends every Ray on the machine. This starts `ray start --block` as a child of its
own, remembers it, and ends only that.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from raymill.errors import Conflict, InvalidInput, Unavailable
from raymill.serving.deploy import ingress_environment
from raymill.storage import STORAGE_VARIABLE

HOME_VARIABLE = "RAYMILL_HOME"
START_S, HEAD_STOP_S, REST_STOP_S = 60.0, 8.0, 4.0
LOG_TAIL_LINES = 20
REPLICA_PORTS = 20_000
RAY_WORKER_PORTS = range(10_002, 20_000)


@dataclass(frozen=True)
class LocalCluster:
    """A running local head: what `raymill down` needs to end it, and a client to reach it."""

    pid: int
    dashboard_port: int
    agent_port: int
    """The node's agent, which starts submitted jobs."""
    temp_dir: str
    log: str
    storage: str

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def exports(self) -> dict[str, str]:
        """Return what `ray job submit` and `serve` need in their environment."""
        return {
            "RAY_ADDRESS": self.dashboard,
            "RAY_DASHBOARD_ADDRESS": self.dashboard,
            "RAY_AUTH_MODE": "token",
        }


def home() -> Path:
    """Return the folder for the local cluster's state and storage: $RAYMILL_HOME or ./.raymill."""
    return Path(os.environ.get(HOME_VARIABLE, ".raymill")).absolute()


def running() -> LocalCluster | None:
    """Return the local cluster of this home, or None where none is alive."""
    file = home() / "cluster.json"
    if not file.exists():
        return None
    cluster = LocalCluster(**json.loads(file.read_text()))
    return cluster if _alive(cluster.pid) else None


def up(
    *, dashboard_port: int = 8265, ray_port: int = 6379, cpus: int | None = None, storage: str | None = None
) -> LocalCluster:
    """Start the local cluster and wait until its dashboard answers; one that runs is returned as it is.

    Args:
        cpus: Logical CPUs; default one more than the machine has, so that served replicas and a
            training that asks for every core fit side by side.
        storage: $RAYMILL_STORAGE of the cluster; default the variable itself, else `storage` in the home.

    Raises:
        InvalidInput: a port is one of Ray's workers'.
        Conflict: a port is taken.
        Unavailable: Ray did not come up; the end of its log is in the message.
    """
    existing = running()
    if existing:
        return existing
    for port, flag in ((dashboard_port, "--dashboard-port"), (ray_port, "--ray-port")):
        _check_free(port, flag)
    folder = home()
    folder.mkdir(parents=True, exist_ok=True)
    storage = storage or os.environ.get(STORAGE_VARIABLE) or str(folder / "storage")
    temp_dir = tempfile.mkdtemp(prefix="raymill-")
    log = folder / "ray.log"
    agent_port, client_port = _free_ports(2)
    command = [
        _ray(), "start", "--head", "--block", "--disable-usage-stats",
        f"--port={ray_port}", f"--dashboard-port={dashboard_port}", "--dashboard-host=127.0.0.1",
        f"--dashboard-agent-listen-port={agent_port}", f"--ray-client-server-port={client_port}",
        "--node-ip-address=127.0.0.1",
        f"--temp-dir={temp_dir}",
        f"--num-cpus={cpus or (os.cpu_count() or 1) + 1}",
    ]  # fmt: skip
    environment = node_environment(temp_dir, storage) | _own_ports(dashboard_port)
    _ensure_token(environment)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    cluster = LocalCluster(process.pid, dashboard_port, agent_port, temp_dir, str(log), storage)
    (folder / "cluster.json").write_text(json.dumps(asdict(cluster)), encoding="utf-8")
    _wait_until_up(cluster, process)
    return cluster


def down() -> LocalCluster | None:
    """End the local cluster and everything it started; returns it, or None where none ran.

    Raises:
        Unavailable: some of its processes do not end.
    """
    cluster = running()
    if cluster is None:
        return None
    known = _processes(cluster)
    os.kill(cluster.pid, signal.SIGTERM)
    _wait_for_end([cluster.pid], HEAD_STOP_S)
    # What outlives the head: HAProxy, which Serve restarts under a new pid while it shuts down.
    for number in (signal.SIGTERM, signal.SIGKILL):
        known |= _processes(cluster)
        _signal_all(known, number)
        _wait_for_end(known, REST_STOP_S)
    left = {pid for pid in known | _processes(cluster) if _alive(pid)}
    if left:
        raise Unavailable(f"processes {sorted(left)} of the local cluster do not end; its log: {cluster.log}")
    (home() / "cluster.json").unlink(missing_ok=True)
    return cluster


def use_storage(cluster: LocalCluster) -> None:
    """Have this process take relative paths where the cluster's jobs take them."""
    os.environ.setdefault(STORAGE_VARIABLE, cluster.storage)


def node_environment(temp_dir: str, storage: str) -> dict[str, str]:
    """Return the environment of the head: what every node of a Raymill cluster has, and local paths."""
    root = str(Path.cwd())
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    proxy = f"{temp_dir}/haproxy"
    return {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        **ingress_environment(),
        "RAY_AUTH_MODE": "token",
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{proxy}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{proxy}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": proxy,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{proxy}/server-state",
        STORAGE_VARIABLE: storage,
        "PYTHONPATH": path,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }


def _ensure_token(environment: dict[str, str]) -> None:
    """Make the token that guards dashboard and jobs, where Ray looks for it and none is yet.

    By hand: `ray get-auth-token --generate` refuses a $RAY_AUTH_TOKEN_PATH that does not exist.
    """
    if environment.get("RAY_AUTH_TOKEN"):
        return
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32), encoding="utf-8")


def _own_ports(dashboard_port: int) -> dict[str, str]:
    """Return ports for Serve's helpers that another cluster on this machine does not use."""
    names = (
        "RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
    )  # fmt: skip
    ports = dict(zip(names, map(str, _free_ports(len(names))), strict=True))
    first = REPLICA_PORTS + dashboard_port % 60 * 100  # below Linux's ephemeral range, 100 a cluster
    for protocol, offset in (("HTTP", 0), ("GRPC", 6000)):
        ports[f"RAY_SERVE_DIRECT_INGRESS_MIN_{protocol}_PORT"] = str(first + offset)
        ports[f"RAY_SERVE_DIRECT_INGRESS_MAX_{protocol}_PORT"] = str(first + offset + 99)
    return ports


def _free_ports(count: int) -> list[int]:
    """Return different ports that are free now."""
    with ExitStack() as stack:  # held together, so that they differ
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _ray() -> str:
    return str(Path(sys.executable).parent / "ray")


def _wait_until_up(cluster: LocalCluster, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if _answers(cluster.dashboard) and not _is_free(cluster.agent_port):
            return
        time.sleep(0.2)
    if process.poll() is None:
        down()
    tail = "\n".join(Path(cluster.log).read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
    raise Unavailable(f"Ray did not come up within {START_S:.0f} s; the end of {cluster.log}:\n{tail}")


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/api/version", timeout=2).close()
    except urllib.error.HTTPError:
        return True  # it answers; without the token it refuses, which is right
    except OSError:
        return False
    return True


def _check_free(port: int, flag: str) -> None:
    if port in RAY_WORKER_PORTS:
        raise InvalidInput(
            f"port {port} is one of those that Ray gives to its workers, {RAY_WORKER_PORTS.start} to "
            f"{RAY_WORKER_PORTS.stop - 1}; choose one outside with {flag}"
        )
    if not _is_free(port):
        raise Conflict(f"port {port} is taken; stop what listens there, or choose another with {flag}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _processes(cluster: LocalCluster) -> set[int]:
    """Return the head, its descendants, and whatever else carries the cluster's own temp dir."""
    import psutil

    found = set()
    for process in psutil.process_iter():
        try:
            ours = cluster.temp_dir in " ".join(process.cmdline()) or cluster.pid in (
                process.pid, *(parent.pid for parent in process.parents()),
            )  # fmt: skip
        except psutil.Error:
            continue  # ended while we looked
        if ours and process.pid != os.getpid():
            found.add(process.pid)
    return found


def _alive(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal_all(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # ended while we looked
            os.kill(pid, number)


def _wait_for_end(pids: Iterable[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
