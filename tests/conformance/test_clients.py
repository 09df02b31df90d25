"""Clients that nobody here wrote, over a real port; no Ray."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from environments import CLIENTS, alone, environment, run

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a process that serves the toys."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = HERE.parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root / "platform"), str(root / "tests")])}
    command = [sys.executable, str(HERE / "serve_toys.py"), str(tmp_path_factory.mktemp("toys")), str(port)]
    with subprocess.Popen(command, env=environment) as server:
        try:
            wait(f"http://127.0.0.1:{port}/healthz", server)
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()


def wait(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    pytest.fail(f"nothing answers at {url}; the server's exit status is {server.poll()}")


def test_tritonclient(address: str) -> None:
    found = run("tritonclient_http", address)
    assert {"binary_tensor_data", "model_repository", "statistics"} <= set(found["extensions"])
    assert found["scores"] == [[3.0, 4.0, 20.0]] * 3
    assert found["large"] == [2.0]
    assert (found["unloaded"], found["loaded"]) == ("UNAVAILABLE", True)
    assert found["rows_counted"] >= 5009
    statuses, messages = zip(*found["refused"], strict=True)
    assert statuses == ("404", "400", "400", "404")
    assert "Did you mean 'toy'" in messages[0]
    assert "missing inputs: w" in messages[1]
    assert "has shape [3, 2]" in messages[2]


def test_kserve_client(address: str) -> None:
    found = run("kserve_rest", f"http://{address}")
    assert found["scores"] == [[3.0, 4.0]] * 3
    assert "Did you mean 'toy'" in found["refused"]


def test_generated_client(address: str) -> None:
    """What a generator makes of our OpenAPI asks and reads the answers."""
    found = run("generated_client", f"http://{address}")
    assert found["operations"] > 100
    assert found["scores"] == [3.0, 4.0]
    [[(low, _), (high, chance)]] = found["classes"]
    assert (low, high) == ("0", "1")
    assert 0.9 < chance < 1
    assert found["ping"] == "Healthy"
    assert "row" in found["refused"]


def curl(*arguments: str) -> str:
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "20", *arguments],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout


def test_curl(address: str, tmp_path: Path) -> None:
    url = f"http://{address}"
    row = '{"x": 1.0, "w": "a"}'
    by_row = curl(f"{url}/v1/models/toy:predict", "--data", f'{{"instances": [{row}]}}')
    assert json.loads(by_row) == {"predictions": [3.0]}
    assert json.loads(curl("-X", "POST", f"{url}/predictions/toy", "-T", str(written(tmp_path, row)))) == 3.0
    form = ("-F", f"data=@{written(tmp_path, row)}")
    assert json.loads(curl(f"{url}/predictions/toy", *form)) == 3.0
    assert "form of 2 parts" in curl(f"{url}/predictions/toy", *form, *form)
    assert "not read here" in curl(f"{url}/v1/models/toy:predict", *form)
    assert curl(f"{url}/ping", "--write-out", "%{http_code}").endswith("200")
    assert json.loads(curl("-X", "OPTIONS", f"{url}/"))["openapi"]
    packed = curl("--compressed", "--include", f"{url}/openapi.json")
    assert "content-encoding: gzip" in packed
    assert '"/v1/models/toy:predict"' in packed
    lines = written(tmp_path, "\n".join([row] * 5000))
    streamed = curl(
        "-X", "POST", "-H", "content-type: application/x-ndjson", "-T", str(lines),
        f"{url}/v1/models/toy:predict",
    )  # fmt: skip
    assert streamed == "3.0\n" * 5000
    assert curl("--head", f"{url}/healthz").startswith("HTTP/1.1 200")


def written(folder: Path, text: str) -> Path:
    file = folder / "body"
    file.write_text(text)
    return file


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt-get install chromium")
def test_docs_in_a_browser(address: str, tmp_path: Path) -> None:
    """The page as a browser has made it: every model's inputs, of every protocol, and no error."""
    done = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
         "--virtual-time-budget=5000", "--dump-dom", f"http://{address}/docs"],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert 'id="about">openapi.json cannot be shown' not in done.stdout
    for path in ("/v1/models/strict:predict", "/v2/models/vector/infer", "/predictions/toy"):
        assert f"<code>{path}</code>" in done.stdout
    assert "<td>-128 to 127</td>" in done.stdout
    assert "<td>array of 3: number</td>" in done.stdout
    assert "<td>number or null</td>" in done.stdout
    assert "<td>FP32</td>" in done.stdout


JMETER = Path("/usr/share/jmeter")  # Debian's


@pytest.mark.skipif(
    not (JMETER / "lib/ext/ApacheJMeter_http.jar").exists() or shutil.which("javac") is None,
    reason="needs: apt-get install jmeter-http default-jdk-headless",
)
def test_jmeter(address: str, tmp_path: Path) -> None:
    """The plan that we ship, on another model."""
    host, port = address.split(":")
    body = written(tmp_path, '{"instances": [{"x": 1.0, "w": "a"}]}')
    results = tmp_path / "results.jtl"
    properties = {
        "host": host, "port": port, "path": "/v1/models/toy:predict", "body": str(body), "threads": "4",
        "seconds": "2", "jmeter.save.saveservice.output_format": "csv",
        "jmeter.save.saveservice.print_field_names": "true",
    }  # fmt: skip
    plan = HERE.parents[1] / "examples/flights/load.jmx"
    jars = f"{JMETER}/bin/ApacheJMeter.jar:{JMETER}/lib/*:{JMETER}/lib/ext/*:/usr/share/java/*"
    java = ["java", "-cp", jars, f"-Djmeter.home={JMETER}", str(CLIENTS / "JMeterAllowed.java")]
    command = [*java, "-n", "-t", str(plan), "-l", str(results), "-j", str(tmp_path / "jmeter.log")]
    command += [f"-J{name}={value}" for name, value in properties.items()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    with results.open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) > 20
    assert {row["responseCode"] for row in rows} == {"200"}
    assert {row["success"] for row in rows} == {"true"}


def test_schemathesis(address: str, tmp_path: Path) -> None:
    """Requests made from our OpenAPI, right ones and wrong ones, must be answered as it says."""
    command = [
        str(environment("schemathesis") / "schemathesis"),
        "--config-file", str(CLIENTS / "schemathesis.toml"), "run", f"http://{address}/openapi.json",
        # versions and labels have the same schemas once more; after an unload there is nothing to ask
        "--exclude-path-regex", "/versions/|/labels/|/unload$", "--exclude-method", "DELETE",
    ]  # fmt: skip
    variables = alone() | {"PYTHONPATH": str(CLIENTS)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
