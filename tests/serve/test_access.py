"""Who may use the service: foreign names, web pages elsewhere, tokens; on a real socket."""

import json

import pytest
from servers import connect, picture, png, served, wait_until

from ppsolo.errors import ConfigError
from ppsolo.serve.access import AccessRules, read_token


def ask(server, *headers: str, path: str = "/info", method: str = "GET") -> tuple[int, dict, bytes]:
    """Status, headers and body of the answer to a request with these header lines, and no others."""
    lines = [f"{method} {path} HTTP/1.0", *headers, "", ""]
    with connect(server.port) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1"))
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *found = head.decode("latin-1").split("\r\n")
    return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in found), body


@pytest.fixture(scope="module")
def locked(shared):
    rules = AccessRules(
        hosts=["solo.example", "*.inner.example", "10.1.2.3"],
        origins=["https://App.example"],
        token="0123456789abcdef",
    )
    with served(shared[0], access=rules) as running:
        yield running


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST.:80", 200),
        ("127.0.0.1:9", 200),
        ("[::1]:8000", 200),
        ("127.0.0.2", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("10.1.2.3", 403),
        ("user@localhost", 403),
        ("localhost:99999", 403),
        ("localhost/..", 403),
        ("", 403),
        ("[::1", 403),
        ("\xe9vil", 403),
    ],
)
def test_foreign_names_are_refused(server, host, status):
    answer = ask(server, f"Host: {host}")
    assert answer[0] == status
    if status == 403:
        assert list(json.loads(answer[2])) == ["error"] and "--allow_host" in json.loads(answer[2])["error"]


def test_a_request_without_host_is_no_browser(server):
    assert ask(server)[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Origin: http://localhost:8000"], 200),
        (["Origin: https://localhost:8000"], 200),  # a proxy may have ended the encryption
        (["Origin: http://localhost:9000"], 403),
        (["Origin: http://evil.example"], 403),
        (["Origin: null"], 403),
        (["Origin: "], 403),
        (["Origin: http://localhost:8000", "Origin: http://evil.example"], 403),
        (["Sec-Fetch-Site: same-origin"], 200),
        (["Sec-Fetch-Site: none"], 200),
        (["Sec-Fetch-Site: cross-site"], 403),
        (["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"], 403),
    ],
)
def test_pages_of_other_sites_are_refused(server, headers, status):
    assert ask(server, "Host: localhost:8000", *headers)[0] == status


def test_a_link_to_the_page_may_be_followed(server):
    link = ["Host: localhost", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"]
    assert ask(server, *link, path="/")[0] == 200
    assert ask(server, *link, path="/", method="POST")[0] == 403
    assert ask(server, *link[:2], path="/")[0] == 403


def test_a_refusal_comes_before_anything_is_predicted_and_is_counted(server, predictor):
    refused = server.service.metrics.requests.labels("403")._value
    before = refused.get()
    headers = {"Content-Type": "image/png", "Origin": "http://evil.example"}
    assert server.client.post("/predict", content=png(picture(0)), headers=headers).status_code == 403
    wait_until(lambda: refused.get() == before + 1)  # the answer may come first
    assert predictor.batches == []


def test_what_is_allowed_by_name_is_answered(locked):
    token = "Authorization: bearer 0123456789abcdef"
    for host, status in (("SOLO.example", 200), ("a.inner.example:1", 200), ("10.1.2.3", 200), ("inner.example", 403)):
        assert ask(locked, f"Host: {host}", token)[0] == status
    page = ["Host: localhost", "Origin: https://app.example", "Sec-Fetch-Site: cross-site"]
    status, headers, _ = ask(locked, *page, token)
    assert status == 200 and headers["access-control-allow-origin"] in ("https://app.example", "*")
    asked = ["Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization"]
    assert ask(locked, *page, *asked, path="/predict", method="OPTIONS")[0] == 200
    assert ask(locked, "Host: localhost", "Origin: https://app.example.evil", token)[0] == 403


def test_with_a_token_only_its_holders_are_answered(locked):
    for headers in (
        [],
        ["Authorization: Bearer wrong"],
        ["Authorization: 0123456789abcdef"],
        ["Authorization: Basic 0123456789abcdef"],
        ["Authorization: Bearer 0123456789abcdef", "Authorization: Bearer 0123456789abcdef"],
    ):
        for path in ("/info", "/metrics", "/openapi.json", "/predict", "/nowhere"):
            status, found, body = ask(locked, "Host: localhost", *headers, path=path)
            assert status == 401 and found["www-authenticate"] == "bearer" and b"token" in body
    for path in ("/", "/health", "/health/live"):
        assert ask(locked, "Host: localhost", path=path)[0] == 200


def test_stars_allow_everybody(predictor):
    with served(predictor, access=AccessRules(hosts=["*"], origins=["*"])) as server:
        assert ask(server, "Host: any.example", "Origin: null")[0] == 200


def test_nothing_redirects(server):
    for path in ("/health/", "/predict/", "//health", "/info/"):
        status, headers, _ = ask(server, "Host: localhost", path=path)
        assert status == 404 and "location" not in headers


@pytest.mark.parametrize("host", ["a b", "http://x", "x:80", "*x", "x/y", ""])
def test_a_host_that_cannot_be_is_refused(host):
    with pytest.raises(ConfigError, match="--allow_host"):
        AccessRules(hosts=[host])


@pytest.mark.parametrize("origin", ["app.example", "https://", "https://x/", "https://x?y", "null", "https://a b"])
def test_an_origin_that_cannot_be_is_refused(origin):
    with pytest.raises(ConfigError, match="--allow_origin"):
        AccessRules(origins=[origin])


def test_a_token_is_the_only_line_of_its_file(tmp_path):
    file = tmp_path / "token"
    for content, words in (
        (b"", "16 to 1024"),
        (b"short\n", "16 to 1024"),
        (b"x" * 1100, "16 to 1024"),
        (b"0123456789abcdef\nmore\n", "no space"),
        (b"0123456789 abcdef\n", "no space"),
        ("0123456789abcd\u00e9f".encode(), "ascii"),
    ):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=words):
            read_token(file)
    file.write_bytes(b"0123456789abcdef\r\n")
    assert read_token(file) == "0123456789abcdef"
    for path, words in ((tmp_path / "none", "No such file"), (tmp_path, "regular file"), ("a\0b", "null")):
        with pytest.raises(ConfigError, match=words) as caught:
            read_token(path)
        assert str(caught.value).count("--token_file") == 1
