"""What all protocols over HTTP share: gzip, CORS, request ids, NDJSON."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy
from asgi import LIMIT, ask, send
from test_protocols import DIALECTS

from raymill.repo import Repository
from raymill.serving import PROTOCOLS
from raymill.serving.http import HttpApp, Observe
from raymill.serving.plane import Plane
from raymill.serving.spec import HttpSpec, ModelSpec

PREDICT = "/v1/models/toy:predict"
ROW = {"instances": [{"x": 1.0, "w": "a"}]}


def made(tmp_path: Path, observe: Observe | None = None, remote: Any = None, **spec: Any) -> HttpApp:
    repository = Repository(str(tmp_path / "models"))
    toy.publish_kinds(repository, tmp_path / "staged")
    plane = Plane(repository, {"toy": ModelSpec()}, remote=remote)
    plane.load()
    protocols = [PROTOCOLS.load(name)(plane) for name in PROTOCOLS]
    return HttpApp(plane, protocols, LIMIT, HttpSpec(**spec), observe=observe)


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes), ("Identity", bytes),
        ("", bytes), ("identity, GZip", gzip.compress), ("x-gzip ,", gzip.compress),
    ],
)  # fmt: skip
def test_packed_requests(app: HttpApp, encoding: str, pack: Any) -> None:
    packed = pack(json.dumps(ROW).encode())
    headers = {"content-encoding": encoding}
    assert ask(app, PREDICT, packed, headers=headers, parts=3) == (200, {"predictions": [3.0]})
    lines = pack(written([ROW["instances"][0]]))
    assert send(app, PREDICT, lines, headers=headers | NDJSON, parts=3)[2] == b"3.0\n"


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "gzip, br", "deflate, identity, gzip", "gzip;q=1"])
def test_packings_that_are_not_read_are_refused(app: HttpApp, encoding: str) -> None:
    for kind in ({}, NDJSON):
        status, answer = ask(app, PREDICT, ROW, headers=kind | {"content-encoding": encoding})
        assert (status, "content encoding" in answer["error"]) == (415, True)


@pytest.mark.parametrize("body", [b"{}", gzip.compress(b"{}")[:-9], b""], ids=["plain", "cut", "empty"])
def test_what_is_not_packed_is_refused(app: HttpApp, body: bytes) -> None:
    assert ask(app, PREDICT, body, headers={"content-encoding": "gzip"})[0] == 400


@pytest.mark.parametrize(
    ("accepted", "rows", "packed"),
    [
        ("gzip, deflate", 200, True), ("br;q=1, gzip;q=0.5", 200, True), ("gzip", 1, False),
        ("gzip;q=0", 200, False), ("gzip; q=0.0", 200, False), ("identity", 200, False), (None, 200, False),
        ("GZIP", 200, True), ("gzip;Q=0", 200, False), ("gzip;\tq=0", 200, False),
        ("br, GZip;Q=1", 200, True),
    ],
)  # fmt: skip
def test_large_answers_are_packed_for_who_takes_it(
    tmp_path: Path, accepted: str | None, rows: int, packed: bool
) -> None:
    app = made(tmp_path, gzip_min_bytes=500)
    body = {"inputs": {"x": [0.5] * rows, "w": ["a"] * rows}}
    headers = {"accept-encoding": accepted} if accepted else {}
    status, answered, data = send(app, PREDICT, body, headers=headers)
    assert (status, answered.get("content-encoding") == "gzip") == (200, packed)
    assert answered.get("vary") == ("accept-encoding" if rows == 200 else None)  # whether packed or not
    assert json.loads(gzip.decompress(data) if packed else data) == {"outputs": [2.0] * rows}


def test_request_ids_are_echoed_or_made(app: HttpApp) -> None:
    _, answered, _ = send(app, PREDICT, ROW, headers={"x-request-id": "mine-1"})
    assert answered["x-request-id"] == "mine-1"
    made = {
        send(app, path, ROW, headers={"x-request-id": given} if given else {})[1]["x-request-id"]
        for path in (PREDICT, "/nothing", "/v1/models/none:predict")
        for given in ("", "two words", "x" * 200)
    }
    assert len(made) == 9
    assert all(0 < len(one) < 64 and one.isascii() for one in made)


def test_cors_is_off_until_origins_are_named(app: HttpApp, tmp_path: Path) -> None:
    mine, other = {"origin": "https://mine.example"}, {"origin": "https://other.example"}
    assert not [name for name in send(app, PREDICT, ROW, headers=mine)[1] if "access-control" in name]
    open_to_one = made(tmp_path / "one", cors_origins=["https://mine.example"])
    answered = send(open_to_one, PREDICT, ROW, headers=mine)[1]
    assert answered["access-control-allow-origin"] == "https://mine.example"
    assert answered["vary"] == "origin"
    for origin in (other, {}):  # to whom a cache must not give what it has of another
        answered = send(open_to_one, PREDICT, ROW, headers=origin)[1]
        assert (answered["vary"], "access-control-allow-origin" in answered) == ("origin", False)
    assert send(open_to_one, "/nothing", ROW)[1]["vary"] == "origin"
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    status, answered, _ = send(open_to_one, PREDICT, method="OPTIONS", headers=mine | asks)
    assert status == 204
    assert "POST" in answered["access-control-allow-methods"]
    assert answered["access-control-allow-headers"] == "content-type"
    refused = send(open_to_one, PREDICT, method="OPTIONS", headers=other | asks)[1]
    assert "access-control-allow-origin" not in refused
    to_all = made(tmp_path / "all", cors_origins=["*"])
    answered = send(to_all, PREDICT, ROW, headers=other)[1]
    assert (answered["access-control-allow-origin"], "vary" in answered) == ("*", False)


def test_a_preflight_is_answered_without_body_length_or_packing(tmp_path: Path) -> None:
    app = made(tmp_path, cors_origins=["https://mine.example"], gzip_min_bytes=0)
    asks = {"origin": "https://mine.example", "access-control-request-method": "POST"}
    headers = asks | {"accept-encoding": "gzip"}
    status, answered, body = send(app, PREDICT, method="OPTIONS", headers=headers)
    assert (status, body, answered["vary"]) == (204, b"", "origin")
    assert not answered.keys() & {"content-length", "content-encoding", "content-type"}
    packed = send(app, PREDICT, ROW, headers=headers)[1]
    assert (packed["vary"], packed["content-encoding"]) == ("origin, accept-encoding", "gzip")


def test_heads_are_those_of_what_they_stand_for(app: HttpApp) -> None:
    for path in ("/", "/healthz", "/openapi.json", "/docs", "/ping", "/v2", "/v1/models/toy"):
        (status, head, body), (_, whole, _) = (send(app, path, method=method) for method in ("HEAD", "GET"))
        ours = [{**found, "x-request-id": ""} for found in (head, whole)]
        assert (status, body) == (200, b""), path
        assert ours[0] == ours[1], path


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PREDICT, ROW), ("/v1/models/toy", None), ("/v1/models/toy/metadata", None),
        ("/v2/models/toy/infer", DIALECTS["oip_rest"].body({"x": [1.0], "w": ["a"]})),
        ("/v2/models/toy/ready", None), ("/v2/models/toy", None), ("/v2/repository/models/toy/load", b""),
        ("/predictions/toy", ROW["instances"][0]), ("/models/toy/invoke", ROW["instances"][0]),
        ("/models/toy", None),
    ],
)  # fmt: skip
def test_a_line_break_is_part_of_a_path(app: HttpApp, path: str, body: Any) -> None:
    method = "GET" if body is None else "POST"
    assert ask(app, path, body or b"", method)[0] == 200
    assert ask(app, path + "\n", body or b"", method)[0] in (400, 404, 405)


async def times_out(number: int, features: Any, timeout_s: float | None) -> Any:
    raise TimeoutError("somewhere in the network")


async def takes_long(number: int, features: Any, timeout_s: float | None) -> Any:
    await asyncio.sleep(30)


@pytest.mark.parametrize("seconds", [None, "20", "0.05"])
def test_only_the_deadline_itself_is_a_504(tmp_path: Path, seconds: str | None) -> None:
    headers = {"x-request-timeout-seconds": seconds} if seconds else {}
    app = made(tmp_path, remote={"toy": times_out})
    status, answer = ask(app, PREDICT, ROW, headers=headers)
    assert (status, answer) == (500, {"error": "internal error; the server's log has it"})
    assert send(app, PREDICT, written(ROW["instances"]), headers=headers | NDJSON)[2].startswith(b'{"error"')
    if seconds == "0.05":
        app = made(tmp_path / "slow", remote={"toy": takes_long})
        status, answer = ask(app, PREDICT, ROW, headers=headers)
        assert (status, answer) == (504, {"error": "no answer within 0.05 s"})


@pytest.mark.parametrize(
    ("kind", "status"),
    [("application/json", 200), ("message/rfc822", 415), ("multipart/mixed; boundary=C", 415)],
)
def test_a_form_whose_part_is_made_of_parts_is_refused(app: HttpApp, kind: str, status: int) -> None:
    part = b'{"x": 1.0, "w": "a"}' if status == 200 else b'--C\r\n\r\n{"x": 1.0, "w": "a"}\r\n--C--'
    lines = [b"--B", b'Content-Disposition: form-data; name="data"', b"Content-Type: " + kind.encode(), b""]
    body = b"\r\n".join([*lines, part, b"--B--", b""])
    headers = {"content-type": "multipart/form-data; boundary=B"}
    assert ask(app, "/predictions/toy", body, headers=headers)[0] == status


@pytest.mark.parametrize("name", DIALECTS)
def test_every_request_to_a_protocol_is_observed(tmp_path: Path, name: str) -> None:
    seen: list[Any] = []
    app = made(tmp_path, lambda *one: seen.append(one))
    dialect, row = DIALECTS[name], {"x": [1.0], "w": ["a"]}
    ask(app, dialect.path("toy", "stable"), dialect.body(row))
    ask(app, dialect.path("toy", ""), dialect.body({"x": [1.0]}))
    ask(app, dialect.path("no-such-model", ""), dialect.body(row))  # whose name must not become a label
    send(app, dialect.path("toy", ""), b"", headers={"content-type": "application/x-ndjson"})
    assert {one[0] for one in seen} == {name}
    expected = [("toy", "1", "200"), ("toy", "1", "400"), ("", "", "404"), ("toy", "1", "200")]
    assert [one[1:-1] for one in seen] == expected
    assert all(0 < seconds < 5 for *_, seconds in seen)


NDJSON = {"content-type": "application/x-ndjson"}


def lines(app: HttpApp, path: str, body: bytes, parts: int = 1, **headers: str) -> list[Any]:
    status, answered, data = send(app, path, body, parts=parts, headers=NDJSON | headers)
    assert (status, answered["content-type"]) == (200, "application/x-ndjson")
    assert data.endswith(b"\n") or not data
    return [json.loads(line) for line in data.splitlines()]


def written(values: list[Any]) -> bytes:
    return b"\n".join(json.dumps(value).encode() for value in values)


@pytest.mark.parametrize("path", [PREDICT, "/predictions/toy", "/predictions/toy/stable"])
@pytest.mark.parametrize("parts", [1, 7, 300])
def test_lines_answer_lines_in_order(app: HttpApp, path: str, parts: int) -> None:
    asked = [{"x": float(i), "w": "a"} for i in range(700)]
    assert lines(app, path, written(asked), parts) == [2.0 * i + 1 for i in range(700)]
    assert lines(app, path, written(asked) + b"\n\n  \n", parts)[-1] == 1399.0


def test_lines_are_whole_requests_in_the_open_inference_protocol(app: HttpApp) -> None:
    dialect = DIALECTS["oip_rest"]
    good, bad = dialect.body({"x": [1.0], "w": ["a"]}), dialect.body({"x": ["1"], "w": ["a"]})
    answers = lines(app, "/v2/models/toy/infer", written([good, bad, good]))
    assert [answer.get("error") is None for answer in answers] == [True, False, True]
    assert dialect.scores(answers[2]) == [3.0]
    asks = ({"parameters": {"binary_data_output": True}},
            {"outputs": [{"name": "prediction", "parameters": {"binary_data": True}}]})  # fmt: skip
    answers = lines(app, "/v2/models/toy/infer", written([good, *(good | more for more in asks), good]))
    assert ["binary outputs do not fit in a line" in answer.get("error", "") for answer in answers] == [
        False, True, True, False,
    ]  # fmt: skip


def test_a_bad_line_is_answered_by_its_error_alone(app: HttpApp) -> None:
    asked = [json.dumps({"x": float(i), "w": "a"}).encode() for i in range(300)]
    asked[17], asked[200], asked[299] = b'{"x": 1.0', b'{"x": true, "w": "a"}', b"[]"
    answers = lines(app, PREDICT, b"\n".join(asked), 5)
    assert [i for i, answer in enumerate(answers) if isinstance(answer, dict)] == [17, 200, 299]
    assert "Parse" in answers[17]["error"]
    assert "expected float32" in answers[200]["error"]
    assert answers[298] == 597.0


def test_streams_that_cannot_begin_are_refused_as_any_request(app: HttpApp) -> None:
    for path, status, headers in (
        ("/v1/models/tyo:predict", 404, {}), ("/v1/models/toy:classify", 400, {}),
        ("/v2/models/toy/ready", 404, {}), ("/predictions/toy/9", 404, {}),
        (PREDICT, 415, {"content-encoding": "br"}),
    ):  # fmt: skip
        assert ask(app, path, b"{}\n", headers=NDJSON | headers)[0] == status, path


def test_streams_end_with_what_broke_them(app: HttpApp) -> None:
    long = written([{"x": 1.0, "w": "a"}]) + b"\n" + b"x" * (LIMIT + 1)
    answers = lines(app, PREDICT, long, 3)
    assert answers[0] == 3.0
    assert "longer than 4,096 bytes" in answers[-1]["error"]
    broken = gzip.compress(written([{"x": 1.0, "w": "a"}] * 9))[:-12] + b"garbage here"
    answers = lines(app, PREDICT, broken, **{"content-encoding": "gzip"})
    assert "is not what its content encoding says" in answers[-1]["error"]
    whole = gzip.compress(written([{"x": 1.0, "w": "a"}] * 900))
    assert lines(app, PREDICT, whole, 4, **{"content-encoding": "gzip"}) == [3.0] * 900


def test_a_stream_of_any_length_takes_bounded_memory_and_answers_while_it_is_read(app: HttpApp) -> None:
    """A hundred megabytes through the server; answers must come before the body has ended."""
    part = written([{"x": 1.0, "w": "a" * 2000}] * 32) + b"\n"
    count, answered, first_answer = 1600, 0, None

    def bodies() -> Iterator[dict[str, Any]]:
        for i in range(count):
            yield {"type": "http.request", "body": part, "more_body": i < count - 1}

    asked, sent_parts = bodies(), 0

    async def receive() -> dict[str, Any]:
        nonlocal sent_parts
        sent_parts += 1
        return next(asked)

    async def take(message: Any) -> None:
        nonlocal answered, first_answer
        answered += message.get("body", b"").count(b"\n")
        if answered and first_answer is None:
            first_answer = sent_parts

    scope = {
        "type": "http", "method": "POST", "path": PREDICT,
        "headers": [(b"content-type", b"application/x-ndjson")],
    }  # fmt: skip
    tracemalloc.start()
    asyncio.run(app(scope, receive, take))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answered == 32 * count
    assert first_answer == 1
    assert peak < 4 << 20
