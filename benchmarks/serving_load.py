"""Load: `wrk` for HTTP, `h2load` for gRPC, both sending bytes that were made beforehand."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import tempfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = """
local file = io.open("{body}", "rb")
wrk.method, wrk.body = "POST", file:read("*a")
{headers}
function done(summary, latency, requests)
    local e = summary.errors
    io.write(string.format('\\n{{"requests": %d, "us": %d, "p50": %d, "p99": %d, "errors": %d}}\\n',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Form:
    """One request: where it goes, and its bytes."""

    url: str
    body: bytes
    headers: Mapping[str, str]

    def ask(self) -> bytes:
        """Send it once and return the answer's body."""
        request = urllib.request.Request(self.url, self.body, dict(self.headers))
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bytes(answer.read())


@dataclass(frozen=True)
class Load:
    """What came of a run of requests."""

    per_s: float
    p50_us: float
    p99_us: float


def tools() -> None:
    """Refuse to start without the load generators."""
    missing = [name for name in ("wrk", "h2load") if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"{' and '.join(missing)} missing; `apt-get install wrk nghttp2-client`")


def http(form: Form, connections: int, seconds: int) -> Load:
    """Return what `connections` clients, each one request at a time, got in `seconds`."""
    with tempfile.TemporaryDirectory() as folder:
        body, script = Path(folder) / "body", Path(folder) / "post.lua"
        body.write_bytes(form.body)
        headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in form.headers.items())
        script.write_text(_SCRIPT.format(body=body, headers=headers))
        done = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), form.url],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    found = json.loads(done.stdout.strip().splitlines()[-1])
    if found["errors"]:
        raise RuntimeError(f"{found['errors']} errors from {form.url}: {done.stdout}")
    return Load(found["requests"] / found["us"] * 1e6, found["p50"], found["p99"])


def grpc(form: Form, connections: int, seconds: int) -> Load:
    """Return the same of unary calls; `form.body` is a serialised message.

    Without h2load's own warm-up, with which it writes no times of requests.
    """
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(b"\0" + len(form.body).to_bytes(4, "big") + form.body)
        headers = [f"-H{name}: {value}" for name, value in form.headers.items()]
        done = subprocess.run(
            ["h2load", "-t1", f"-c{connections}", "-m1", f"-D{seconds}", f"-d{body}",
             f"--log-file={log}", "-Hcontent-type: application/grpc", "-Hte: trailers", *headers, form.url],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        taken = sorted(int(line.split()[2]) for line in log.read_text().splitlines())
    counts = re.search(r"requests: (\d+) total.* (\d+) failed, (\d+) errored, (\d+) timeout", done.stdout)
    if counts is None or any(map(int, counts.groups()[1:])) or not taken:
        raise RuntimeError(f"errors from {form.url}: {done.stdout}")
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", done.stdout)
    assert rate is not None, done.stdout
    return Load(float(rate[1]), statistics.median(taken), taken[int(len(taken) * 0.99)])
