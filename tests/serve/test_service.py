"""The service on a real socket: answers, refusals, limits, and hostile clients."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from servers import connect, picture, png, served, wait_until

from ppsolo.data.decode import decode_image
from ppsolo.data.tiles import Tiling
from ppsolo.errors import ConfigError, PredictionError
from ppsolo.results.seams import SeamJoiner
from ppsolo.serve.server import IDLE_SECONDS, listen
from ppsolo.serve.service import Limits

PNG = {"Content-Type": "image/png"}


def post(server, data: bytes, *, query: str = "", headers=PNG, client=None) -> httpx.Response:
    return (client or server.client).post(f"/predict{query}", content=data, headers=headers)


def refusal(response: httpx.Response) -> str:
    """The one line of a refusal."""
    content = response.json()
    assert list(content) == ["error"] and "\n" not in content["error"]
    return content["error"]


def raw(server, *parts: bytes) -> bytes:
    """What the server answers to these bytes until it has sent a response of stated length or closes."""
    with connect(server.port) as connection:
        for part in parts:
            connection.sendall(part)
        return received(connection)


def received(connection) -> bytes:
    answer = b""
    while True:
        head, separator, body = answer.partition(b"\r\n\r\n")
        if separator and len(body) >= int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]):
            return answer
        chunk = connection.recv(65536)
        if not chunk:
            return answer
        answer += chunk


def head(length: int | None) -> bytes:
    """Of a request that sends a PNG of a stated length, or in chunks."""
    framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    return b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n" + framing + b"\r\n\r\n"


def test_json_is_that_of_the_predictor(server, predictor):
    image = picture(0)
    expected = predictor.instances(image)
    answer = post(server, png(image), query="?image_id=42").json()
    assert answer["image"] == {"height": 40, "width": 60} and 0 < answer["seconds"] < 10
    names = [entry.pop("category_name") for entry in answer["instances"]]
    assert names == expected.names and answer["instances"] == expected.to_coco(image_id=42)
    assert [entry["category_id"] for entry in answer["instances"]] == [1, 2, 7]

    answer = post(server, png(image), query="?format=polygons&score_threshold=0.5").json()
    assert [entry["segmentation"] for entry in answer["instances"]] == expected.polygons()[:2]


def test_a_picture_is_drawn(server, predictor):
    image = picture(1)
    response = post(server, png(image), query="?format=png&score_threshold=0.3")
    assert response.headers["content-type"] == "image/png"
    drawn = decode_image(response.content, max_pixels=10**6)
    np.testing.assert_array_equal(drawn, predictor.instances(image).draw(image, score_threshold=0.3))


@pytest.mark.parametrize("found", [0, 1])
def test_a_picture_with_nothing_or_one_thing_in_it(server, predictor, monkeypatch, found):
    image = picture(1)
    some = predictor.instances(image).above([0.95, 0.9][found])
    assert len(some) == found
    monkeypatch.setattr(predictor, "instances", lambda image: some)
    for form in ("json", "polygons"):
        answer = post(server, png(image), query=f"?format={form}").json()
        assert answer["image"] == {"height": 40, "width": 60} and len(answer["instances"]) == found
    drawn = decode_image(post(server, png(image), query="?format=png").content, max_pixels=10**6)
    np.testing.assert_array_equal(drawn, some.draw(image))


@pytest.mark.parametrize(("query", "tiling"), [("tile=50&overlap=20", Tiling(50, 20)), ("tile=100", Tiling(100, 50))])
def test_a_large_picture_goes_tile_by_tile(server, predictor, query, tiling):
    image = picture(1, 130, 110)
    joiner = SeamJoiner(image.shape[:2], class_names=predictor.class_names, category_ids=(1, 2, 7))
    for top, left, bottom, right in tiling.places(image.shape[:2]):
        joiner.add(predictor.instances(image[top:bottom, left:right]), top=top, left=left)
    answer = post(server, png(image), query=f"?image_id=42&{query}").json()
    assert answer["image"] == {"height": 130, "width": 110}
    expected = [
        {**entry, "category_name": predictor.class_names[(1, 2, 7).index(entry["category_id"])]}
        for entry in joiner.instances().to_coco(42)
    ]
    assert answer["instances"] == expected and len(expected) > 3


def test_tiles_have_bounds(server, predictor, monkeypatch):
    image = png(picture(1, 130, 110))
    for query, words in (("tile=20", "at least 32"), ("tile=50&overlap=40", "0 to 37"), ("overlap=5", "no tiles")):
        response = post(server, image, query=f"?{query}")
        assert response.status_code == 422 and words in refusal(response)
    response = post(server, png(np.zeros((300, 300, 3), np.uint8)), query="?tile=32&overlap=0")
    assert response.status_code == 422 and "has 100 tiles, more than the limit of 64" in refusal(response)
    assert predictor.batches == []
    predictor.free.clear()
    with ThreadPoolExecutor() as pool:
        first = [pool.submit(post, server, image, query="?tile=50&overlap=20") for _ in range(2)]
        wait_until(lambda: server.service._tiled == 2)
        late = post(server, image, query="?tile=50&overlap=20")
        assert late.status_code == 503 and "in tiles" in refusal(late) and int(late.headers["Retry-After"]) > 0
        plain = pool.submit(post, server, image)
        predictor.free.set()
        assert [answer.result().status_code for answer in (*first, plain)] == [200] * 3


def test_a_plain_picture_comes_in_between_tiles(predictor):
    """A request with many tiles delays no other one: at most one batch of its tiles is in the queue."""
    predictor.seconds = 0.05
    with served(predictor, batch_size=1, queue=4, max_pixels=100_000) as server, ThreadPoolExecutor() as pool:
        large = pool.submit(post, server, png(picture(1, 300, 300)), query="?tile=50&overlap=0")
        wait_until(lambda: len(predictor.batches) > 5)
        assert post(server, png(picture(2))).status_code == 200
        assert not large.done() and server.service._batcher.waiting() <= 1
        assert large.result().status_code == 200


def test_tiles_of_who_went_away_or_waited_too_long_are_not_predicted(predictor):
    predictor.seconds = 0.1
    with served(predictor, batch_size=1, timeout=0.5) as server:
        before = len(predictor.batches)
        late = post(server, png(picture(1, 300, 300)), query="?tile=50&overlap=0")
        assert late.status_code == 504 and "0.5 s" in refusal(late)
        wait_until(lambda: server.service._batcher.waiting() == 0)
        assert len(predictor.batches) - before < 20  # of 36
        with connect(server.port) as connection:
            data = png(picture(1, 300, 300))
            request = head(len(data)).replace(b"/predict", b"/predict?tile=50&overlap=0")
            connection.sendall(request + data)
            wait_until(lambda: server.service._tiled == 1)
        wait_until(lambda: server.service._tiled == 0)
        assert server.service._batcher.waiting() <= 1


def test_a_form_and_a_bare_body_are_answered_alike(server):
    data = png(picture(2))
    bare = post(server, data).json()["instances"]
    form = server.client.post("/predict", files={"anything": ("a.png", data)}, data={"note": "x"})
    assert form.json()["instances"] == bare
    chunked = server.client.post("/predict", content=iter([data[:99], data[99:]]), headers=PNG)
    assert chunked.json()["instances"] == bare
    other = server.client.post("/predict", content=data, headers={"Content-Type": "application/octet-stream"})
    assert other.json()["instances"] == bare


def test_concurrent_requests_share_batches_and_get_their_own_answers(predictor):
    images = [picture(seed) for seed in range(24)]
    with served(predictor, batch_size=4, queue=32) as server, ThreadPoolExecutor(24) as pool:
        predictor.batches.clear()
        predictor.free.clear()
        predictor.seconds = 0.05  # the next pictures are decoded meanwhile, as in earnest
        answers = [pool.submit(post, server, png(image)) for image in images]
        wait_until(lambda: server.service._batcher.waiting() >= 20)
        predictor.free.set()
        for image, answer in zip(images, answers, strict=True):
            counts = [entry["segmentation"] for entry in answer.result().json()["instances"]]
            assert counts == predictor.instances(image).rle()
        # Requests that are still being decoded when a batch is due go with a later one.
        assert sum(predictor.batches) == 24 and max(predictor.batches) == 4 and len(predictor.batches) <= 12


BOUNDARY = {"Content-Type": "multipart/form-data; boundary=b"}
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n%s\r\n'


@pytest.mark.parametrize(
    ("headers", "body", "status", "words"),
    [
        (PNG, b"", 422, "empty"),
        (PNG, b"no picture", 422, "not an image"),
        (PNG, png(picture(0))[:-20], 422, "cut short"),
        ({"Content-Type": "image/jpeg"}, b"\xff\xd8\xff" + bytes(99), 422, "cut short"),
        (PNG, png(np.zeros((400, 300, 3), np.uint8)), 422, "400 x 300 pixels are too many (at most 100000)"),
        ({}, b"x", 415, "the request has no Content-Type: send the picture"),
        ({"Content-Type": "application/json"}, b"{}", 415, "has the type application/json: send the picture"),
        ({"Content-Type": "multipart/form-data"}, b"--b--\r\n", 400, "oundary"),
        (BOUNDARY, b"nonsense", 400, "cannot be read"),
        (BOUNDARY, b"", 400, "cannot be read"),
        (BOUNDARY, FILE[:40], 400, "ends within a part"),
        (BOUNDARY, FILE % b"x", 400, "does not end"),
        (BOUNDARY, b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n', 400, "no file"),
        (BOUNDARY, b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", 400, '"name"'),
        (BOUNDARY, FILE % b"x" + FILE % b"y" + b"--b--\r\n", 400, "more than one file"),
        (BOUNDARY, b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 99, 400, "more than 17 parts"),
        (BOUNDARY, b"--b\r\nX: " + b"y" * 50_000 + b"\r\n\r\n", 400, "cannot be read"),
        (BOUNDARY, FILE % b"" + b"--b--\r\n", 422, "empty"),
        (BOUNDARY, FILE % b"no picture" + b"--b--\r\n", 422, "not an image"),
        (PNG, bytes(100_001), 413, "more than 100000 bytes"),
    ],
)
def test_what_is_malformed_is_refused_in_one_line(server, headers, body, status, words):
    response = server.client.post("/predict", content=body, headers=headers)
    assert response.status_code == status and words in refusal(response)
    assert post(server, png(picture(0))).status_code == 200


@pytest.mark.parametrize("query", ["score_threshold=2", "score_threshold=nan", "format=gif", "image_id=x"])
def test_a_wrong_parameter_is_named(server, query):
    response = post(server, png(picture(0)), query=f"?{query}")
    assert response.status_code == 422 and refusal(response).startswith(query.partition("=")[0])


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("score_treshold=0.5", "score_treshold: no such parameter; did you mean score_threshold?"),
        ("x=1", "x: no such parameter; there are score_threshold, format, "),
    ],
)
def test_an_unknown_parameter_is_refused(server, query, words):
    response = post(server, png(picture(0)), query=f"?{query}")
    assert response.status_code == 422 and refusal(response).startswith(words)


def test_other_addresses_and_methods_are_refused_alike(server):
    assert refusal(server.client.get("/nowhere")).startswith("/nowhere: no such address; there are /, /predict,")
    method = server.client.get("/predict")
    assert method.status_code == 405
    assert refusal(method).startswith("/predict does not take GET, but POST: curl -F file=@photo.jpg")
    assert server.client.get("/docs").status_code == 404  # it would load scripts from elsewhere


def test_too_many_bytes_are_refused_as_soon_as_they_are_stated_or_met(server):
    assert raw(server, head(10**12)).startswith(b"HTTP/1.1 413")  # nothing of the body was sent
    chunk = b"8000\r\n" + bytes(0x8000) + b"\r\n"
    assert raw(server, head(None), *[chunk] * 4).startswith(b"HTTP/1.1 413")  # the body does not end
    assert server.service._bytes.held == 0
    connection = connect(server.port)
    connection.sendall(head(150_000) + bytes(150_000))  # drained: the connection lives
    assert received(connection).startswith(b"HTTP/1.1 413")
    data = png(picture(0))
    connection.sendall(head(len(data)) + data)
    assert received(connection).startswith(b"HTTP/1.1 200")


def test_bytes_held_together_are_bounded(server, monkeypatch):
    monkeypatch.setattr(server.service._bytes, "total", 150_000)
    slow = [connect(server.port) for _ in range(2)]
    for connection in slow:
        connection.sendall(head(99_000) + bytes(70_000))
    wait_until(lambda: server.service._bytes.held == 140_000)
    response = post(server, bytes(20_000))
    assert response.status_code == 503 and response.headers["retry-after"] == "1" and "bytes" in refusal(response)
    assert post(server, png(picture(0, 10, 10))).status_code == 200
    for connection in slow:
        connection.close()
    wait_until(lambda: server.service._bytes.held == 0)


def test_slow_clients_are_let_go_and_harm_nobody(predictor):
    with served(predictor, timeout=0.4) as server:
        data = png(picture(0))
        slow_body, slow_head, silent = (connect(server.port) for _ in range(3))
        slow_body.sendall(head(len(data)) + data[:10])
        slow_head.sendall(head(len(data))[:20])
        deaf = connect(server.port)  # sends on and on, after it was refused
        deaf.sendall(head(None) + b"1\r\nx\r\n")
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            assert post(server, data).status_code == 200
            for connection, byte in ((slow_body, data[10:11]), (slow_head, b"x"), (deaf, b"1\r\nx\r\n")):
                try:
                    connection.sendall(byte)
                except OSError:
                    assert connection is not deaf or time.monotonic() > until - 0.2
            time.sleep(0.05)
        assert received(slow_body).startswith(b"HTTP/1.1 408")
        assert received(slow_head).startswith(b"HTTP/1.1 408")
        assert received(silent).startswith(b"HTTP/1.1 408")
        late = received(deaf)
        assert late.startswith(b"HTTP/1.1 408") and b"did not" not in late


def test_one_that_goes_on_after_its_refusal_is_cut_off(predictor):
    with served(predictor, timeout=0.3, max_bytes=10) as server:
        connection = connect(server.port)
        connection.sendall(head(None) + b"ff\r\n" + bytes(255) + b"\r\n")
        assert received(connection).startswith(b"HTTP/1.1 413")
        with pytest.raises(OSError):
            for _ in range(100):
                connection.sendall(b"1\r\nx\r\n")
                time.sleep(0.02)


def test_one_that_stops_in_its_body_is_cut_off_after_its_refusal(predictor):
    with served(predictor, timeout=0.3, max_bytes=10) as server:
        connection = connect(server.port)
        connection.sendall(head(99))
        assert received(connection).startswith(b"HTTP/1.1 413")
        started = time.monotonic()
        assert connection.recv(1) == b"" and time.monotonic() - started < 3


def test_an_idle_connection_is_kept_longer_than_clients_keep_it(predictor, monkeypatch):
    assert IDLE_SECONDS > 115
    monkeypatch.setattr("ppsolo.serve.server.IDLE_SECONDS", 1)
    with served(predictor, timeout=0.2, max_bytes=5000) as server:
        connection = connect(server.port)
        data = png(picture(0, 10, 10))
        for body, status in ((bytes(9000), b"413"), (data, b"200"), (data, b"200")):
            connection.sendall(head(len(body)))
            time.sleep(0.05)  # a refusal comes before the body has
            connection.sendall(body)
            assert received(connection).startswith(b"HTTP/1.1 " + status)
            time.sleep(0.4)
        started = time.monotonic()
        connection.sendall(head(9000))
        assert received(connection).startswith(b"HTTP/1.1 413")
        connection.sendall(bytes(9000))
        assert connection.recv(1) == b"" and time.monotonic() - started > 0.9


def test_one_that_does_not_take_its_answer_is_cut_off(predictor, monkeypatch):
    size = 12_000_000  # more than the buffers of both sockets
    monkeypatch.setattr("ppsolo.serve.service.picture_answer", lambda *arguments, **options: bytes(size))
    with served(predictor, timeout=0.5) as server:
        data = png(picture(0))
        connection = connect(server.port)
        connection.sendall(head(len(data)).replace(b"/predict", b"/predict?format=png") + data)
        wait_until(lambda: server.service._bytes.held == 0 and len(predictor.batches) == 2)
        assert post(server, data).status_code == 200
        time.sleep(0.7)
        taken = 0
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(1 << 20):
                taken += len(chunk)
        assert taken < size


def test_a_full_queue_is_503_with_retry_after(server, predictor):
    predictor.free.clear()
    with ThreadPoolExecutor(20) as pool:
        waiting = [pool.submit(post, server, png(picture(seed))) for seed in range(20)]
        wait_until(lambda: sum(future.done() for future in waiting) >= 10)  # 1 or 2 in the batch, 4 prepared, 4 waiting
        predictor.free.set()
        responses = [future.result() for future in waiting]
    statuses = [response.status_code for response in responses]
    assert sorted(set(statuses)) == [200, 503] and statuses.count(200) in (9, 10)
    refused = responses[statuses.index(503)]
    assert int(refused.headers["retry-after"]) >= 1 and "waiting" in refusal(refused)


def test_who_would_wait_too_long_is_refused_at_once(server, predictor, monkeypatch):
    predictor.free.clear()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(post, server, png(picture(0)))]
        wait_until(lambda: predictor.batches)
        waiting += [pool.submit(post, server, png(picture(seed))) for seed in (1, 2, 3)]
        wait_until(lambda: server.service._batcher.waiting() == 3)
        data = png(picture(9))
        on_its_way = connect(server.port)
        on_its_way.sendall(head(len(data)) + data[:9])
        wait_until(lambda: server.service._bytes.held > sum(len(png(picture(seed))) for seed in range(4)))
        monkeypatch.setattr(server.service._batcher, "_seconds_each", 9.0)
        response = post(server, data)
        assert response.status_code == 503 and 4 * 9 < int(response.headers["retry-after"]) <= 5 * 9
        assert "a new request would wait" in refusal(response)
        on_its_way.sendall(data[9:])
        assert received(on_its_way).startswith(b"HTTP/1.1 503")
        predictor.free.set()
        assert all(future.result().status_code == 200 for future in waiting)


def test_what_is_not_answered_in_time_is_refused_and_not_predicted(predictor):
    with served(predictor, batch_size=1, timeout=0.3) as server:
        predictor.batches.clear()
        predictor.free.clear()
        with ThreadPoolExecutor(3) as pool:
            responses = list(pool.map(lambda seed: post(server, png(picture(seed))), range(3)))
        begun, *others = sorted(responses, key=lambda response: -response.status_code)
        assert begun.status_code == 504 and "took more than 0.3 s" in refusal(begun)
        for response in others:  # these never left the queue
            assert response.status_code == 503 and "waited 0.3 s for others" in refusal(response)
            assert "retry-after" in response.headers
        predictor.free.set()
        wait_until(lambda: not server.service._batcher._answering)
        assert post(server, png(picture(0))).status_code == 200
        assert predictor.batches == [1, 1]  # the one that had begun, and the last


def test_a_prediction_has_its_time_whatever_its_request_waited(predictor, monkeypatch):
    with served(predictor, batch_size=1, timeout=0.9) as server, ThreadPoolExecutor(2) as pool:
        quickly = predictor.instances
        monkeypatch.setattr(predictor, "instances", lambda image: time.sleep(0.6) or quickly(image))
        responses = pool.map(lambda seed: post(server, png(picture(seed))), range(2))
        assert [response.status_code for response in responses] == [200, 200]


def test_the_work_of_clients_that_went_away_is_dropped(server, predictor):
    gone = server.service.metrics.requests.labels("499")
    before = gone._value.get()
    predictor.free.clear()
    data = png(picture(0))
    connections = [connect(server.port) for _ in range(5)]
    for number, connection in enumerate(connections):
        connection.sendall(head(len(data)) + data)
        wait_until(lambda number=number: predictor.batches and server.service._batcher.waiting() == number)
    for connection in connections[1:]:
        connection.close()
    wait_until(lambda: server.service._batcher.waiting() == 0)
    predictor.free.set()
    assert received(connections[0]).startswith(b"HTTP/1.1 200")
    assert predictor.batches == [1]
    wait_until(lambda: gone._value.get() == before + 4)


def test_a_failing_prediction_is_500_and_the_service_goes_on(server, predictor, caplog):
    poisoned = picture(0)
    for error, words in (
        (PredictionError("the network's output is not finite"), "not finite"),
        (ZeroDivisionError("a secret"), "the log of the service says why"),
    ):
        predictor.failures = {tuple(poisoned[0, 0].tolist()): error}
        predictor.free.clear()
        with ThreadPoolExecutor(5) as pool:
            good = [pool.submit(post, server, png(picture(seed))) for seed in (1, 2, 3)]
            bad = pool.submit(post, server, png(poisoned))
            wait_until(lambda: server.service._batcher.waiting() >= 2)
            predictor.free.set()
            assert bad.result().status_code == 500 and words in refusal(bad.result())
            assert all(future.result().status_code == 200 for future in good)
    assert "a secret" in caplog.text and "a secret" not in bad.result().text


def test_health_tells_starting_ready_and_failed(predictor, monkeypatch):
    predictor.free.clear()
    with served(predictor, ready=False) as server:
        starting = server.client.get("/health")
        assert (starting.status_code, starting.json()) == (503, {"status": "starting"})
        assert server.client.get("/health/live").status_code == 200
        predictor.free.set()
        wait_until(lambda: server.client.get("/health").status_code == 200)
    monkeypatch.setattr(predictor, "instances", lambda image: 1 / 0)
    with served(predictor, ready=False) as server:
        wait_until(lambda: "failed" in server.client.get("/health").text)
        assert server.client.get("/health").status_code == 503
        assert server.client.get("/health/live").status_code == 200


def test_metrics(predictor):
    with served(predictor) as server:
        post(server, png(picture(0)))
        post(server, b"no picture")
        wait_until(lambda: b'ppsolo_requests_total{status="422"} 1.0' in server.service.metrics.text())
        text = server.client.get("/metrics").text
    for line in (
        'ppsolo_requests_total{status="200"} 1.0',
        "ppsolo_request_seconds_count 2.0",
        'ppsolo_batch_size_bucket{le="1.0"} 2.0',  # the first is the service's own
        "ppsolo_queue_length 0.0",
        "ppsolo_instances_total 3.0",
        "process_resident_memory_bytes ",
    ):
        assert line in text


def test_info_tells_the_model_its_classes_and_the_limits(server):
    info = server.client.get("/info").json()
    assert info["model"] == "a model" and info["classes"] == ["red", "green", "blue"]
    assert info["limits"]["max_bytes"] == 100_000 and info["versions"]["ppsolo"]


def test_the_interface_is_described(server):
    operation = server.client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    assert set(operation["requestBody"]["content"]) == {"image/*", "multipart/form-data"}
    assert {"200", "400", "408", "413", "415", "422", "500", "503", "504"} <= set(operation["responses"])
    assert {parameter["name"] for parameter in operation["parameters"]} == {
        "score_threshold",
        "format",
        "image_id",
        "image_name",
        "pixel_size",
        "tile",
        "overlap",
    }


def test_the_page_needs_nothing_from_elsewhere(server):
    response = server.client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "http" not in response.text.replace("http-equiv", "")


def test_told_to_stop_it_answers_what_waits(predictor):
    with served(predictor, batch_size=1, queue=8) as server, ThreadPoolExecutor(5) as pool:
        predictor.free.clear()
        waiting = [pool.submit(post, server, png(picture(seed))) for seed in range(4)]
        wait_until(lambda: server.service._batcher.waiting() == 3)
        late = connect(server.port)
        data = png(picture(0))
        late.sendall(head(len(data)) + data[:9])  # its picture arrives after the end was asked for
        time.sleep(0.05)
        server.stop()
        wait_until(lambda: server.service.state == "stopping")
        late.sendall(data[9:])
        assert received(late).startswith(b"HTTP/1.1 503")
        predictor.free.set()
        assert [future.result().status_code for future in waiting] == [200] * 4
        server.thread.join(5)
        assert not server.thread.is_alive()


def test_what_it_does_not_come_to_before_it_stops_is_503(predictor):
    with served(predictor, batch_size=1, queue=8, stop_seconds=0.3) as server, ThreadPoolExecutor(5) as pool:
        predictor.free.clear()
        waiting = [pool.submit(post, server, png(picture(seed))) for seed in range(4)]
        wait_until(lambda: server.service._batcher.waiting() == 3)
        slow = connect(server.port)
        slow.sendall(head(99) + b"x")
        server.stop()
        responses = [future.result() for future in waiting]
        assert [response.status_code for response in responses] == [503] * 4
        assert "stopped" in refusal(responses[3]) and "retry-after" in responses[3].headers
        assert received(slow).startswith(b"HTTP/1.1 503")
        predictor.free.set()


def test_limits_and_sockets_that_cannot_be_are_refused():
    for name, value in (("queue", 0), ("timeout", float("nan")), ("max_bytes", -1), ("timeout", float("inf"))):
        with pytest.raises(ConfigError, match=f"--{name} is {value}"):
            Limits(**{name: value})
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: cannot listen there"):
            listen("127.0.0.1", port)
    for host, port in (("no.such.host.invalid", 80), ("127.0.0.1", 99999), ("127.0.0.1", -1)):
        with pytest.raises(ConfigError, match="choose another"):
            listen(host, port)
