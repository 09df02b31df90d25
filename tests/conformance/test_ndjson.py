"""NDJSON: fair to other requests, however its bytes come; whole or ended by a line that says why."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from asgi import ask, send
from test_http import NDJSON, PREDICT, lines, made, written

from raymill.errors import InvalidInput
from raymill.serving import PROTOCOLS, ndjson
from raymill.serving.http import HttpApp
from raymill.serving.http_body import MAX_MEMBERS
from raymill.serving.plane import Plane

GZIP = {"content-encoding": "gzip"}
ROW = {"x": 1.0, "w": "a"}
INFER = "/v2/models/toy/infer"


@pytest.fixture(scope="module")
def wide(plane: Plane) -> HttpApp:
    """The application with a limit that no line here comes near."""
    return HttpApp(plane, [PROTOCOLS.load(name)(plane) for name in PROTOCOLS], 64 << 20)


def turns(app: HttpApp, path: str, body: bytes, **headers: str) -> int:
    """Return how often others had their turn while a body that came at once was answered."""
    scope = {
        "type": "http", "method": "POST", "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in (NDJSON | headers).items()],
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def drop(message: Any) -> None:
        pass

    async def main() -> int:
        stream, count = asyncio.ensure_future(app(scope, receive, drop)), 0
        while not stream.done():
            await asyncio.sleep(0)
            count += 1
        await stream
        return count

    return asyncio.run(main())


@pytest.mark.parametrize("path", [PREDICT, INFER, "/predictions/toy"])
@pytest.mark.parametrize(
    ("line", "count", "least"),
    [(b"\n", 3 << 20, 48), (b"x\n", 1000, 4), (b"1\n", 2560, 10)],
    ids=["empty", "no JSON", "no row"],
)
def test_others_have_their_turn_whatever_the_lines_are(
    wide: HttpApp, path: str, line: bytes, count: int, least: int
) -> None:
    assert turns(wide, path, gzip.compress(line * count), **{"content-encoding": "gzip"}) >= least
    assert turns(wide, path, line * count) >= least


def test_a_bad_row_is_tried_three_times_at_most() -> None:
    tried: Counter[int] = Counter()
    calls = 0

    async def predict(rows: list[int]) -> list[int]:
        nonlocal calls
        calls += 1
        tried.update(rows)
        if any(row in bad for row in rows):
            raise InvalidInput("bad")
        return rows

    asked = [b"%d" % row for row in range(ndjson.BATCH_LINES)]
    for bad in ({7}, set(range(0, 256, 2)), set(range(256))):
        tried.clear()
        calls = 0
        answered = asyncio.run(ndjson.by_row(predict)(asked))  # type: ignore[arg-type]
        assert [json.loads(one) for one in answered] == [
            {"error": "bad"} if row in bad else row for row in range(256)
        ]
        assert max(tried.values()) == 3
        assert calls <= (33 if len(bad) == 1 else 273)


def test_what_is_no_ndjson_ends_early_and_bad_lines_among_good_ones_do_not(wide: HttpApp) -> None:
    bomb = gzip.compress(b"x\n" * (1 << 20))
    answers = lines(wide, PREDICT, bomb, **GZIP)
    assert ndjson.MAX_ASTRAY_LINES < len(answers) <= ndjson.MAX_ASTRAY_LINES + ndjson.BATCH_LINES + 1
    assert "are no JSON" in answers[-1]["error"]
    some = ([b"x"] * 700 + [written([ROW])]) * 4
    assert [answer == 3.0 for answer in lines(wide, PREDICT, b"\n".join(some))] == (
        [False] * 700 + [True]
    ) * 4
    answers = lines(wide, PREDICT, gzip.compress(b"\n" * (100 << 20)), **GZIP)
    assert len(answers) == 1
    assert "are empty lines" in answers[0]["error"]
    rows_of_another = b"1\n" * 5000  # JSON: each is answered by its error, however many
    assert len(lines(wide, PREDICT, rows_of_another)) == 5000


@pytest.mark.parametrize("parts", [1, 2, 9, 1000])
def test_gzip_of_several_members_is_read_whole(wide: HttpApp, parts: int) -> None:
    asked = [written([{"x": float(i), "w": "a"}]) + b"\n" for i in range(600)]
    members = [*asked[:300], b"", b"".join(asked[300:])]
    body = b"".join(map(gzip.compress, members))
    assert lines(wide, PREDICT, body, parts, **GZIP) == [2.0 * i + 1 for i in range(600)]
    document = json.dumps({"instances": [ROW]}).encode()
    body = b"".join(gzip.compress(document[i : i + 5]) for i in range(0, len(document), 5))
    assert ask(wide, PREDICT, body, parts=parts, headers=GZIP) == (200, {"predictions": [3.0]})


def test_gzip_of_members_without_end_costs_little(wide: HttpApp) -> None:
    body = gzip.compress(json.dumps({"instances": [ROW]}).encode()) + gzip.compress(b"") * (MAX_MEMBERS + 1)
    status, answer = ask(wide, PREDICT, body, headers=GZIP)
    assert status == 400
    assert "members" in answer["error"]
    assert turns(wide, PREDICT, body, **GZIP) > MAX_MEMBERS


def test_gzip_that_is_cut_or_goes_on_otherwise_is_never_a_success(wide: HttpApp, tmp_path: Path) -> None:
    seen: list[Any] = []
    app = made(tmp_path, lambda *one: seen.append(one[3]))
    packer, line = zlib.compressobj(6, zlib.DEFLATED, 31), written([ROW]) + b"\n"
    head = packer.compress(line * 5) + packer.flush(zlib.Z_FULL_FLUSH)  # which ends with a line
    whole = head + packer.compress(line * 5) + packer.flush()
    broken = [head, whole[:-1], whole[:-9], whole[:4], b"", whole + b"garbage", whole + whole[:20]]
    for body in broken:
        answers = lines(app, PREDICT, body, **GZIP)
        assert "gzip" in answers[-1]["error"] or "content encoding" in answers[-1]["error"], body
        assert answers[:-1] == [3.0] * (len(answers) - 1)
    assert seen == ["400"] * len(broken)
    document = gzip.compress(json.dumps({"instances": [ROW]}).encode())
    for body in (document[:-1], document + b"garbage", document + document[:-1]):
        assert ask(wide, PREDICT, body, headers=GZIP)[0] == 400


def test_a_stream_keeps_to_its_deadline(tmp_path: Path) -> None:
    seen: list[Any] = []
    app = made(tmp_path, lambda *one: seen.append(one[3]))
    for given in ("soon", "0", "-1", "nan"):
        assert ask(app, PREDICT, b"", headers=NDJSON | {"x-request-timeout-seconds": given})[0] == 400
    assert lines(app, PREDICT, written([ROW]), **{"x-request-timeout-seconds": "20"}) == [3.0]
    bodies = [written([ROW]) + b"\n"]
    sent: list[bytes] = []

    async def receive() -> dict[str, Any]:
        if not bodies:
            await asyncio.sleep(30)
        return {"type": "http.request", "body": bodies.pop(), "more_body": True}

    async def take(message: Any) -> None:
        sent.append(message.get("body", b""))

    headers = [(b"content-type", b"application/x-ndjson"), (b"x-request-timeout-seconds", b"0.2")]
    scope = {"type": "http", "method": "POST", "path": PREDICT, "headers": headers}
    asyncio.run(asyncio.wait_for(app(scope, receive, take), 10))
    answers = b"".join(sent).splitlines()
    assert answers[0] == b"3.0"
    assert json.loads(answers[1]) == {"error": "no answer within 0.2 s"}
    assert seen == ["400"] * 4 + ["200", "504"]


def test_a_stream_whose_client_goes_is_no_success(tmp_path: Path) -> None:
    seen: list[Any] = []
    app = made(tmp_path, lambda *one: seen.append(one[3]))
    messages = [
        {"type": "http.request", "body": written([ROW]), "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def take(message: Any) -> None:
        sent.append(message.get("body", b""))

    headers = [(b"content-type", b"application/x-ndjson")]
    asyncio.run(app({"type": "http", "method": "POST", "path": PREDICT, "headers": headers}, receive, take))
    assert seen == ["400"]
    assert b"3.0" not in b"".join(sent)  # the line may have been a longer one


def test_a_stream_says_what_it_depends_on(tmp_path: Path) -> None:
    app = made(tmp_path, cors_origins=["https://mine.example"])
    assert send(app, PREDICT, written([ROW]), headers=NDJSON)[1]["vary"] == "origin"
