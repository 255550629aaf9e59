"""Puts `ppsolo serve` under load: answers must be right, refusals proper, memory constant, hostile clients harmless."""

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import signal
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from ppsolo.config import load_config

SIZES = ((480, 640), (640, 480), (427, 640), (300, 300), (120, 160), (768, 1024))  # sizes of the pictures, two of each
MAX_BYTES = 4_000_000  # limit of the tested service, as is:
TIMEOUT = 20.0  # seconds
PATIENCE = 4 * TIMEOUT  # patience of a client; a correct service needs at most three times its timeout
SCORE_TOLERANCE = 1e-4  # another batch size may use other kernels: float32 rounding
PIXEL_TOLERANCE = 20  # for the same reason
GROWTH = 1.02  # largest growth of memory, from the second fifth (a minute of five) to the last


@dataclass
class Picture:
    """A picture file, its type, and the predictor's result for it, as entries of /predict."""

    data: bytes
    kind: str
    expected: list[dict[str, Any]]


@dataclass
class Tally:
    """What the clients saw. disorder: a line for each fault of the service."""

    statuses: Counter[int] = field(default_factory=Counter)
    hostile: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    instances: int = 0
    disorder: list[str] = field(default_factory=list)


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes


def main() -> int:
    options = _options()
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))
    pictures = _pictures(options)
    service, port = _start(options)
    try:
        report = asyncio.run(_load(pictures, service.pid, port, options))
        service.send_signal(signal.SIGTERM)
        if service.wait(60) != 0:
            report["disorder"].append(f"the service ended with exit code {service.returncode}")
    finally:
        service.kill()
    if options.record:
        from reliability import record

        record("load_test.py", [f"- {key.replace('_', ' ')}: {value}" for key, value in report.items()])
    sys.stdout.write(json.dumps({"stood": not report["disorder"], **report}, indent=1) + "\n")
    return 1 if report["disorder"] else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-c", "--config", required=True, metavar="FILE")
    parser.add_argument("-o", "--override", nargs="+", required=True, metavar="KEY=VALUE", help="e.g. weights=FILE")
    parser.add_argument("--clients", type=int, default=200, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--hostile", type=int, default=20, metavar="N", help="number of hostile clients, default: %(default)s"
    )
    parser.add_argument("--seconds", type=float, default=300.0, metavar="S", help="default: %(default)s")
    parser.add_argument(
        "--batch_size", type=int, default=4, metavar="N", help="batch size of the service, default: %(default)s"
    )
    parser.add_argument("--queue", type=int, default=32, metavar="N", help="queue of the service, default: %(default)s")
    parser.add_argument(
        "--health_ms", type=float, default=100.0, metavar="MS", help="limit for /health, 99th percentile"
    )
    parser.add_argument(
        "--slack_mb", type=float, default=0.0, metavar="MB", help="allowed growth of memory in addition to 2 %%"
    )
    parser.add_argument("--record", action="store_true", help="write the figures to tests/RELIABILITY.md")
    return parser.parse_args()


def _pictures(options: argparse.Namespace) -> list[Picture]:
    """Drawn scenes, as PNG and as JPEG."""
    from ppsolo.data.decode import decode_image
    from ppsolo.data.synthetic import draw_scene
    from ppsolo.predictor import Predictor

    predictor = Predictor(load_config(options.config, options.override))
    pictures = []
    for seed, size in enumerate(SIZES * 2):
        scene = cv2.cvtColor(draw_scene(np.random.default_rng(seed), size).image, cv2.COLOR_RGB2BGR)
        suffix = "png" if seed < len(SIZES) else "jpeg"
        data = cv2.imencode(f".{suffix}", scene)[1].tobytes()
        instances = predictor(decode_image(data, max_pixels=2**25))
        entries = zip(instances.to_coco(0), instances.names, strict=True)
        expected = [{**entry, "category_name": name} for entry, name in entries]
        pictures.append(Picture(data, f"image/{suffix}", expected))
    return pictures


def _start(options: argparse.Namespace) -> tuple["subprocess.Popen[str]", int]:
    """Return the service and its port, once it is ready."""
    command = [sys.executable, str(Path(__file__).with_name("serve.py")), "-c", options.config, "-o", *options.override]
    command += ["--port", "0", "--max_bytes", str(MAX_BYTES), "--timeout", str(TIMEOUT)]
    command += ["--batch_size", str(options.batch_size), "--queue", str(options.queue)]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    said = next((line for line in service.stdout if "answers on" in line), None)
    if said is None:
        raise SystemExit(f"the service did not start: exit code {service.wait()}")
    port = int(said.strip().rstrip("/").rpartition(":")[2])
    for _ in range(600):
        with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
            return service, port
        time.sleep(0.1)
    service.kill()
    raise SystemExit("the service did not become ready within a minute")


async def _load(pictures: Sequence[Picture], pid: int, port: int, options: argparse.Namespace) -> dict[str, Any]:
    tally, memory = Tally(), []
    started = time.monotonic()
    until = started + options.seconds
    watch = asyncio.create_task(_watch_memory(pid, memory))
    health: list[float] = []
    watch_health = asyncio.create_task(_watch_health(port, health))
    await asyncio.gather(
        *(
            (_hostile_client if number < options.hostile else _client)(
                pictures, port, until, tally, random.Random(number)
            )
            for number in range(options.clients)
        )
    )
    watch.cancel()
    watch_health.cancel()
    health_ms = 1000 * float(np.percentile(health or [math.inf], 99))
    if health_ms > options.health_ms:
        tally.disorder.append(f"/health took {health_ms:.0f} ms at the 99th percentile")
    seconds = time.monotonic() - started
    fifth = len(memory) // 5
    early, late = (float(np.median(part)) for part in (memory[fifth : 2 * fifth + 1], memory[-fifth - 1 :]))
    if late > GROWTH * early + options.slack_mb:
        tally.disorder.append(f"the memory grew from {early:.0f} to {late:.0f} MB")
    if not tally.statuses[200]:
        tally.disorder.append("nothing was answered")
    return {
        "disorder": tally.disorder,
        "clients": options.clients,
        "hostile_clients": options.hostile,
        "seconds": round(seconds, 1),
        "statuses": dict(sorted(tally.statuses.items())),
        "answers_per_second": round(tally.statuses[200] / seconds, 1),
        "instances_compared": tally.instances,
        "answer_ms": {f"p{p}": round(1000 * float(np.percentile(tally.seconds or [0], p))) for p in (50, 90, 99, 100)},
        "health_ms_p99": round(health_ms, 1),
        "hostile": dict(sorted(tally.hostile.items())),
        "memory_mb": {
            "first": round(memory[0]),
            "early": round(early),
            "late": round(late),
            "most": round(max(memory)),
        },
    }


async def _watch_memory(pid: int, memory: list[float]) -> None:
    """Record the resident megabytes of the process twice per second."""
    while True:
        status = Path(f"/proc/{pid}/status").read_text()
        memory.append(int(status.partition("VmRSS:")[2].split()[0]) / 1024)
        await asyncio.sleep(0.5)


async def _watch_health(port: int, seconds: list[float]) -> None:
    """Record the time of /health ten times per second, each over a new connection."""
    while True:
        started = time.monotonic()
        reader, writer = await _connect(port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        await reader.read()
        writer.close()
        seconds.append(time.monotonic() - started)
        await asyncio.sleep(0.1)


async def _client(pictures: Sequence[Picture], port: int, until: float, tally: Tally, chance: random.Random) -> None:
    """Send requests over one connection while it lasts; wait as told."""
    connection = None
    while time.monotonic() < until:
        picture = chance.choice(pictures)
        try:
            if connection is None:
                connection = await _connect(port)
            started = time.monotonic()
            connection[1].write(_request(picture.data, picture.kind, as_form=chance.random() < 0.5))
            response = await asyncio.wait_for(_response(connection[0]), PATIENCE)
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            tally.disorder.append(f"a client got no answer: {error!r}")
            connection = await _close(connection)
            continue
        tally.statuses[response.status] += 1
        if response.status == 200:
            tally.seconds.append(time.monotonic() - started)
            tally.instances += len(picture.expected)
            if not _same(json.loads(response.body)["instances"], picture.expected):
                tally.disorder.append("an answer differs from the predictor's")
        elif response.status == 503 and response.headers.get("retry-after", "").isdigit():
            await asyncio.sleep(chance.uniform(0.5, 1.0) * min(int(response.headers["retry-after"]), 4))
        else:
            tally.disorder.append(f"status {response.status}: {response.body[:200]!r}")
        if response.headers.get("connection") == "close":
            connection = await _close(connection)
    await _close(connection)


def _same(answer: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """Whether the answer has exactly the expected instances."""
    if answer == expected:
        return True
    left = list(answer)
    for entry in expected:
        found = next((other for other in left if _alike(entry, other)), None)
        if found is None:
            return False
        left.remove(found)
    return not left


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if any(one[key] != other[key] for key in ("image_id", "category_id", "category_name")):
        return False
    masks: list[Any] = [coco_mask.decode(entry["segmentation"]) for entry in (one, other)]
    differ = int(np.count_nonzero(masks[0] != masks[1]))
    return abs(one["score"] - other["score"]) <= SCORE_TOLERANCE and differ <= PIXEL_TOLERANCE


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _connect(port: int) -> Connection:
    return await asyncio.open_connection("127.0.0.1", port)


async def _close(connection: Connection | None) -> None:
    if connection is not None:
        connection[1].close()
        with contextlib.suppress(OSError):
            await connection[1].wait_closed()


def _request(data: bytes, kind: str, *, as_form: bool = False, query: str = "") -> bytes:
    if as_form:
        disposition = b'Content-Disposition: form-data; name="file"; filename="picture"'
        data = b"--limit\r\n" + disposition + b"\r\n\r\n" + data + b"\r\n--limit--\r\n"
        kind = "multipart/form-data; boundary=limit"
    return _head(kind, f"Content-Length: {len(data)}", query=query) + data


def _head(kind: str, framing: str, *, query: str = "") -> bytes:
    return f"POST /predict{query} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{framing}\r\n\r\n".encode()


async def _response(reader: asyncio.StreamReader) -> Response:
    """Read a response; raise EOFError if the connection ends first."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return Response(int(lines[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"])))


async def _hostile_client(
    pictures: Sequence[Picture], port: int, until: float, tally: Tally, chance: random.Random
) -> None:
    """Do one kind of harm after another, each over its own connection."""
    while time.monotonic() < until:
        harm, expected = chance.choice(HARMS)
        reader, writer = await _connect(port)
        try:
            status = await asyncio.wait_for(harm(reader, writer, chance.choice(pictures)), PATIENCE)
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            status = type(error).__name__
        tally.hostile[f"{harm.__name__.strip('_')}: {status}"] += 1
        if status not in expected:
            tally.disorder.append(f"{harm.__name__.strip('_')}: got {status}, not one of {expected}")
        await _close((reader, writer))
        await asyncio.sleep(chance.uniform(0.05, 0.2))


async def _send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *parts: bytes) -> int:
    for part in parts:
        writer.write(part)
    return (await _response(reader)).status


async def _no_picture(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, picture: Picture) -> int:
    return await _send(reader, writer, _request(b"GIF89a" + picture.data, picture.kind))


async def _cut_short(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, picture: Picture) -> int:
    return await _send(reader, writer, _request(picture.data[: len(picture.data) // 2], picture.kind))


async def _too_many_pixels(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, picture: Picture) -> int:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return await _send(reader, writer, _request(data, "image/png"))


async def _malformed_form(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, picture: Picture) -> int:
    return await _send(reader, writer, _request(picture.data, "multipart/form-data; boundary=limit"))


async def _repeated_boundaries(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, picture: Picture) -> int:
    body = b"--limit\r\n" * (MAX_BYTES // 10)
    return await _send(reader, writer, _request(body, "multipart/form-data; boundary=limit"))


async def _foreign_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, picture: Picture) -> int:
    head = _head(picture.kind, f"Origin: http://evil.example\r\nContent-Length: {len(picture.data)}")
    return await _send(reader, writer, head, picture.data)


async def _huge_as_stated(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, picture: Picture) -> int:
    return await _send(reader, writer, _head(picture.kind, f"Content-Length: {10**11}"))


async def _huge_in_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, picture: Picture) -> int:
    writer.write(_head(picture.kind, "Transfer-Encoding: chunked"))
    for _ in range(2 * MAX_BYTES // 0x10000):
        writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        await writer.drain()
    return (await _response(reader)).status


async def _no_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, picture: Picture) -> str:
    writer.write(picture.data[:1000] + b"\r\n\r\n")
    return (await reader.readline()).decode("latin-1").split()[1]


async def _trickled_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, picture: Picture) -> str:
    return await _trickle(writer, _request(picture.data, picture.kind))


async def _trickled_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, picture: Picture) -> str:
    request = _request(picture.data, picture.kind)
    writer.write(request[:500])
    return await _trickle(writer, request[500:])


async def _trickle(writer: asyncio.StreamWriter, data: bytes) -> str:
    """Send a byte every tenth of a second for five seconds, then disconnect."""
    for at in range(50):
        writer.write(data[at : at + 1])
        await writer.drain()
        await asyncio.sleep(0.1)
    return "left"


async def _leaves_before_the_answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, picture: Picture
) -> str:
    writer.write(_request(picture.data, picture.kind))
    await writer.drain()
    await asyncio.sleep(0.05)
    return "left"


async def _takes_no_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, picture: Picture) -> str:
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(_request(picture.data, picture.kind, query="?format=png"))
    await writer.drain()
    await asyncio.sleep(3.0)
    return "left"


Harm = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Picture], Awaitable[int | str]]

# Expected results. 503 is always proper; a connection may break if the client sends more after a refusal.
HARMS: tuple[tuple[Harm, tuple[int | str, ...]], ...] = (
    (_no_picture, (422, 503)),
    (_cut_short, (422, 503)),
    (_too_many_pixels, (422, 503)),
    (_malformed_form, (400, 503)),
    (_repeated_boundaries, (400, 503, "ConnectionResetError", "BrokenPipeError")),
    (_foreign_page, (403,)),
    (_huge_as_stated, (413, 503)),
    (_huge_in_chunks, (413, 503, "ConnectionResetError", "BrokenPipeError")),
    (_no_http, ("400",)),
    (_trickled_head, ("left",)),
    (_trickled_body, ("left",)),
    (_leaves_before_the_answer, ("left",)),
    (_takes_no_answer, ("left",)),
)

if __name__ == "__main__":
    sys.exit(main())
