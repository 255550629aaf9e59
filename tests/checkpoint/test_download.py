"""The downloader, against a server that misbehaves in every way a server can."""

import dataclasses
import errno
import functools
import hashlib
import http.server
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request

import pytest

from ppsolo.checkpoint import download as module
from ppsolo.checkpoint import transfer
from ppsolo.checkpoint.download import download, fetch_published, weights_directory
from ppsolo.checkpoint.zoo import ZOO
from ppsolo.errors import ConfigError, DownloadError, UnavailableError

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONTENT = b"\x80\x02" + bytes(range(256)) * 1200  # five reads long
OTHER = CONTENT[::-1]
HALF = len(CONTENT) // 2


@dataclasses.dataclass(frozen=True)
class Reply:
    """How the server answers one request."""

    body: bytes = CONTENT
    status: int = 200
    etag: str | None = '"v1"'
    headers: tuple[tuple[str, str], ...] = ()
    ranges: bool = True
    if_range: bool = True
    cut_after: int | None = None
    pause: float = 0.0
    linger: float = 0.0
    pieces: int = 2
    shift: int = 0
    length: bool = True
    chunked: bool = False


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open, as real servers do

    def do_GET(self):
        server = self.server
        with server.guard:
            server.asked.append(dict(self.headers))
            reply = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
        start, status = 0, reply.status
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and reply.ranges and (not reply.if_range or self.headers["If-Range"] == reply.etag):
            start, status = int(wanted[1]), 206 if int(wanted[1]) < len(reply.body) else 416
        body = b"" if status == 416 else reply.body[start:]
        self.send_response(status)
        if reply.etag:
            self.send_header("ETag", reply.etag)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start + reply.shift}-{len(reply.body) - 1}/{len(reply.body)}")
        if reply.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif reply.length:
            self.send_header("Content-Length", str(len(body)))
        for name, value in reply.headers:
            self.send_header(name, value)
        self.end_headers()
        self.send_body(reply, body)

    def send_body(self, reply, body):
        sent = body if reply.cut_after is None else body[: reply.cut_after]
        step = max(1, -(-len(sent) // reply.pieces))
        for start in range(0, len(sent), step):
            piece = sent[start : start + step]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if reply.chunked else piece)
            self.wfile.flush()
            self.server.released.wait(reply.pause)
        if reply.chunked and reply.cut_after is None:
            self.wfile.write(b"0\r\n\r\n")
        self.server.released.wait(reply.linger)
        self.close_connection = reply.cut_after is not None or not reply.length

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies, self.asked = [Reply()], []
        self.guard, self.released = threading.Lock(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/weights.pdparams"

    def handle_error(self, request, client_address):
        pass  # a client that hangs up is what some tests are about


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def destination(tmp_path):
    return tmp_path / "new" / "weights.pdparams"


def beside(destination, suffix):
    return destination.with_name(destination.name + suffix)


def get(server, destination, **options):
    return download(server.url, destination, **{"timeout": 5.0, "attempts": 3, "backoff": 0.01, **options})


def refusal(call, *arguments, **options):
    with pytest.raises(DownloadError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_whole(destination, content=CONTENT):
    """The file is there with its record, and nothing else."""
    assert destination.read_bytes() == content
    record = beside(destination, ".sha256")
    assert record.read_text() == f"{hashlib.sha256(content).hexdigest()}  {destination.name}\n"
    assert sorted(destination.parent.iterdir()) == [destination, record]


# --- the plain way ---


def test_a_file_is_fetched_whole_and_reported(server, destination):
    seen = []
    assert get(server, destination, progress=lambda *step: seen.append(step)) == destination
    assert_whole(destination)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(set(seen))
    assert "Range" not in server.asked[0]


def test_a_file_that_is_there_is_not_asked_for(server, destination):
    get(server, destination)
    get(server, destination, progress=lambda *step: pytest.fail("nothing is to be downloaded"))
    assert len(server.asked) == 1


def test_a_relative_destination_becomes_absolute(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert get(server, "weights.pdparams") == tmp_path / "weights.pdparams"


def test_a_redirect_is_followed(server, destination):
    server.replies = [Reply(status=302, body=b"", headers=(("Location", "/elsewhere"),)), Reply()]
    get(server, destination)
    assert_whole(destination)


@pytest.mark.parametrize("address", ["http://[::1", "http://[", "http://[x]/"])
def test_a_redirect_to_no_address_is_refused_in_one_line(server, destination, address):
    server.replies = [Reply(status=302, body=b"", headers=(("Location", address),))]
    with pytest.raises(DownloadError):
        get(server, destination)


@pytest.mark.parametrize("suffix", [".part", ".part.json", ".lock"])
def test_a_link_beside_the_destination_is_not_followed(server, destination, tmp_path, suffix):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    destination.parent.mkdir()
    beside(destination, suffix).symlink_to(victim)
    with pytest.raises(DownloadError):
        get(server, destination)
    assert victim.read_text() == "mine"


def test_a_chunked_file_has_no_known_size(server, destination):
    server.replies = [Reply(chunked=True)]
    seen = []
    get(server, destination, progress=lambda *step: seen.append(step))
    assert seen[-1] == (len(CONTENT), None)
    assert_whole(destination)


def test_a_connection_that_stays_open_holds_nobody_up(server, destination):
    server.replies = [Reply(linger=30.0)]
    started = time.monotonic()
    get(server, destination)
    assert time.monotonic() - started < 3  # the timeout is 5
    assert_whole(destination)


# --- cut transfers ---


def test_a_cut_transfer_is_resumed(server, destination):
    server.replies = [Reply(cut_after=HALF), Reply()]
    seen = []
    get(server, destination, progress=lambda *step: seen.append(step))
    assert_whole(destination)
    assert server.asked[1]["Range"] == f"bytes={HALF}-"
    assert server.asked[1]["If-Range"] == '"v1"'
    assert seen == sorted(set(seen))


def test_cuts_that_bring_new_bytes_each_time_do_not_count_as_failures_in_a_row(server, destination):
    server.replies = [Reply(cut_after=len(CONTENT) // 8)] * 9
    get(server, destination, attempts=2)
    assert_whole(destination)


def test_a_stalled_transfer_is_resumed(server, destination):
    server.replies = [Reply(pause=30.0), Reply()]
    started = time.monotonic()
    get(server, destination, timeout=0.2)
    assert_whole(destination)
    assert time.monotonic() - started < 5
    assert server.asked[1]["Range"] == f"bytes={HALF}-"


def test_a_server_that_ignores_range_starts_over(server, destination):
    server.replies = [Reply(cut_after=HALF), Reply(ranges=False)]
    get(server, destination)
    assert_whole(destination)


def test_a_changed_file_starts_over(server, destination):
    server.replies = [Reply(cut_after=HALF), Reply(body=OTHER, etag='"v2"')]
    get(server, destination)
    assert_whole(destination, OTHER)


def test_the_tail_of_a_changed_file_is_not_glued_on(server, destination):
    server.replies = [Reply(cut_after=HALF), Reply(body=OTHER, etag='"v2"', if_range=False)]
    get(server, destination)
    assert_whole(destination, OTHER)
    assert "Range" in server.asked[1]
    assert "Range" not in server.asked[2]


@pytest.mark.parametrize("tail", [Reply(body=CONTENT + b"more"), Reply(shift=1)])
def test_a_tail_of_another_size_or_place_is_not_glued_on(server, destination, tail):
    server.replies = [Reply(cut_after=HALF), tail]
    get(server, destination)
    assert_whole(destination, tail.body)
    assert "Range" not in server.asked[2]


def test_a_file_that_became_shorter_than_the_part_starts_over(server, destination):
    shorter = CONTENT[: HALF - 1]
    server.replies = [Reply(cut_after=HALF), Reply(body=shorter, if_range=False)]  # the second answers 416
    get(server, destination)
    assert_whole(destination, shorter)
    assert "Range" not in server.asked[2]


def test_without_a_validator_nothing_is_resumed(server, destination):
    server.replies = [Reply(cut_after=HALF, etag=None), Reply(etag=None)]
    get(server, destination)
    assert_whole(destination)
    assert "Range" not in server.asked[1]


def test_a_weak_etag_leaves_the_date_as_validator(server, destination):
    date = (("Last-Modified", "Mon, 02 Nov 2020 10:00:00 GMT"),)
    server.replies = [
        Reply(cut_after=HALF, etag='W/"v1"', headers=date),
        Reply(etag='W/"v1"', if_range=False),
    ]
    get(server, destination)
    assert_whole(destination)
    assert server.asked[1]["If-Range"] == date[0][1]


def test_a_cut_chunked_transfer_is_noticed_and_begun_anew(server, destination):
    server.replies = [Reply(chunked=True, cut_after=HALF), Reply()]
    get(server, destination)
    assert_whole(destination)


def test_an_interrupted_download_is_resumed_by_the_next_call(server, destination):
    def interrupt(done, total):
        if done > HALF:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(server, destination, progress=interrupt)
    size = beside(destination, ".part").stat().st_size
    assert HALF < size < len(CONTENT)
    assert not destination.exists()
    get(server, destination)
    assert_whole(destination)
    assert server.asked[1]["Range"] == f"bytes={size}-"


def test_an_error_of_the_progress_callback_stays_what_it_is(server, destination):
    def hang_up(done, total):
        raise BrokenPipeError("the terminal is gone")

    with pytest.raises(BrokenPipeError):
        get(server, destination, progress=hang_up)
    assert len(server.asked) == 1


def test_a_part_that_is_whole_needs_no_server(server, destination):
    server.replies = [Reply(cut_after=len(CONTENT) - 1)]
    refusal(get, server, destination, attempts=1)
    with open(beside(destination, ".part"), "ab") as part:
        part.write(CONTENT[-1:])
    get(server, destination)
    assert_whole(destination)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "note", ["", "[]", "{}", '{"url": 1}', '{"url": "URL", "etag": "1", "modified": "", "size": "1"}']
)
def test_a_part_with_a_broken_note_is_begun_anew(server, destination, note):
    destination.parent.mkdir()
    beside(destination, ".part").write_bytes(b"junk")
    beside(destination, ".part.json").write_text(note.replace("URL", server.url))
    get(server, destination)
    assert_whole(destination)


def test_a_part_of_another_address_is_begun_anew(server, destination):
    destination.parent.mkdir()
    beside(destination, ".part").write_bytes(b"junk")
    note = {"url": server.url + "2", "etag": '"v1"', "modified": None, "size": len(CONTENT)}
    beside(destination, ".part.json").write_text(json.dumps(note))
    get(server, destination)
    assert_whole(destination)


# --- failures that stay ---


def test_a_body_that_is_always_short_fails_and_keeps_what_came(server, destination):
    server.replies = [Reply(cut_after=HALF, ranges=False)]
    message = refusal(get, server, destination)
    assert f"broke off after {HALF} of {len(CONTENT)} bytes" in message
    assert str(destination) in message
    assert not destination.exists()
    assert beside(destination, ".part").stat().st_size == HALF
    assert len(server.asked) == 3


@pytest.mark.parametrize("chunked", [False, True])
def test_a_dripping_server_is_given_up_and_what_came_is_kept(server, destination, chunked):
    drip = Reply(body=CONTENT[:20], pieces=20, pause=0.05, chunked=chunked)
    server.replies = [drip, Reply(body=CONTENT[:20])]
    started = time.monotonic()
    message = refusal(get, server, destination, timeout=0.3)
    assert re.search(r"it sent \d+ bytes in 0 seconds; what came is kept, try again later; put the file", message)
    assert time.monotonic() - started < 3 and len(server.asked) == 1
    size = beside(destination, ".part").stat().st_size
    assert 0 < size < 20
    get(server, destination)
    assert_whole(destination, CONTENT[:20])
    assert server.asked[1].get("Range") == (None if chunked else f"bytes={size}-")


def test_a_body_without_end_is_given_up_and_removed(server, destination, monkeypatch):
    monkeypatch.setattr(transfer, "MOST_BYTES", len(CONTENT) // 4)
    server.replies = [Reply(chunked=True)]
    assert "it sends more than the limit of 0 MiB for a published file" in refusal(get, server, destination)
    server.replies = [Reply()]
    assert f"it sends {len(CONTENT)} bytes, more than" in refusal(get, server, destination)
    assert len(server.asked) == 2 and list(destination.parent.iterdir()) == []


def test_not_found_is_not_asked_twice(server, destination):
    server.replies = [Reply(status=404)]
    message = refusal(get, server, destination)
    assert message == f"cannot download {server.url}: it answered 404 Not Found; put the file by hand at {destination}"
    assert len(server.asked) == 1


def test_an_error_of_the_server_is_asked_again(server, destination):
    server.replies = [Reply(status=500), Reply(status=429), Reply()]
    get(server, destination)
    assert_whole(destination)


def test_an_error_of_the_server_that_stays_is_reported(server, destination):
    server.replies = [Reply(status=503)]
    assert "it answered 503 Service Unavailable" in refusal(get, server, destination)
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(headers=(("Content-Type", "text/html; charset=utf-8"),)), "web page"),
        (Reply(body=b" \n<!DOCTYPE HTML><title>Log in</title>"), "web page"),
        (Reply(body=b""), "empty"),
        (Reply(body=b"", chunked=True), "empty"),
        (Reply(length=False), "length"),
        (Reply(length=False, headers=(("Content-Length", "9" * 5000),)), "length"),
        (Reply(headers=(("Content-Encoding", "gzip"),)), "encoded as gzip"),
        (Reply(status=204, body=b"x"), "204"),
        (Reply(status=206), "206"),
        (Reply(status=302, headers=(("Location", "file:///etc/passwd"),)), "302"),
        (Reply(status=302, headers=(("Location", "ftp://127.0.0.1/weights"),)), "not safe"),
    ],
)
def test_what_is_not_the_file_is_refused_at_once(server, destination, reply, words):
    server.replies = [reply]
    message = refusal(get, server, destination)
    assert words in message
    assert server.url in message
    assert str(destination) in message
    assert len(server.asked) == 1
    assert list(destination.parent.iterdir()) == []


def test_a_redirect_from_https_down_to_http_is_refused():
    request = urllib.request.Request("https://example.org/a")
    with pytest.raises(transfer.Refusal, match="not safe"):
        transfer._SafeRedirects().redirect_request(request, None, 302, "Found", {}, "http://example.org/a")


def test_a_web_page_does_not_cost_the_part(server, destination):
    page = Reply(headers=(("Content-Type", "text/html"),), ranges=False)
    server.replies = [Reply(cut_after=HALF), page, Reply()]
    refusal(get, server, destination)
    get(server, destination)
    assert_whole(destination)
    assert server.asked[2]["Range"] == f"bytes={HALF}-"


def test_a_download_without_a_network_fails_with_one_short_traceback(tmp_path, monkeypatch):
    """Without the chain of errors of sockets and urllib, which has 60 lines."""
    monkeypatch.setattr(transfer.urllib.request.OpenerDirector, "open", refuse_connection)
    with pytest.raises(UnavailableError) as caught:
        download("https://example.org/a.pdparams", tmp_path / "a.pdparams", attempts=2, backoff=0)
    text = "".join(traceback.format_exception(caught.value))
    assert text.count("Traceback (most recent call last)") == 1 and len(text.splitlines()) < 20, text
    assert "put the file by hand" in str(caught.value)


def refuse_connection(*args, **kwargs):
    try:
        raise ConnectionRefusedError(111, "Connection refused")
    except OSError as error:
        raise urllib.error.URLError(error) from error


def test_what_cannot_be_fetched_is_told_from_what_is_wrong(server, destination):
    server.replies = [Reply(status=404)]
    with pytest.raises(UnavailableError):
        get(server, destination)
    server.replies = [Reply()]
    get(server, destination)
    destination.write_bytes(OTHER)
    with pytest.raises(DownloadError) as caught:
        get(server, destination)
    assert not isinstance(caught.value, UnavailableError)


def test_offline_says_what_failed_and_where_to_put_the_file(destination):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/weights.pdparams"
    message = refusal(download, url, destination, attempts=2, backoff=0.01)
    assert message.startswith(f"cannot download {url}: Connection refused; ")
    assert message.endswith(f"put the file by hand at {destination}")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "weights.pdparams",
        "file:///etc/passwd",
        "ftp://host/x",
        "http://",
        "http://host:x/",
        "https://a b/",
        "http://é/",
    ],
)
def test_only_http_addresses_are_fetched(destination, url):
    assert "only http and https" in refusal(download, url, destination)


# --- the checksum ---


def test_a_file_put_there_by_hand_is_accepted_and_then_enforced(server, destination):
    destination.parent.mkdir()
    destination.write_bytes(CONTENT)
    get(server, destination)
    assert_whole(destination)
    destination.write_bytes(OTHER)
    message = refusal(get, server, destination)
    record = beside(destination, ".sha256")
    assert message.startswith(f"{destination} is not the file seen before")
    assert f"delete both {destination} and {record.name}" in message
    assert server.asked == []
    destination.unlink()
    record.unlink()
    get(server, destination)
    assert_whole(destination)


def test_a_download_that_differs_from_the_record_is_refused(server, destination):
    get(server, destination)
    destination.unlink()
    server.replies = [Reply(body=OTHER)]
    message = refusal(get, server, destination)
    assert message.startswith(f"what {server.url} delivers is not the file seen before")
    assert [path.name for path in destination.parent.iterdir()] == ["weights.pdparams.sha256"]


def test_a_record_that_is_none_is_refused(server, destination):
    get(server, destination)
    beside(destination, ".sha256").write_text("hello\n")
    assert "holds no SHA-256: delete it" in refusal(get, server, destination)


@pytest.mark.parametrize(("content", "words"), [(b"", "is empty"), (b"<html>Not found</html>", "is a web page")])
def test_a_file_by_hand_that_cannot_be_weights_is_refused(server, destination, content, words):
    destination.parent.mkdir()
    destination.write_bytes(content)
    assert f"{destination} {words}" in refusal(get, server, destination)
    assert not beside(destination, ".sha256").exists()


def test_a_record_that_cannot_be_written_is_only_a_warning(server, destination, monkeypatch, caplog):
    destination.parent.mkdir()
    destination.write_bytes(CONTENT)

    def read_only(source, target):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", read_only)
    assert get(server, destination) == destination
    assert "is not checked: Read-only file system" in caplog.text


# --- the disk ---


def test_a_full_disk_is_one_line(server, destination, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in refusal(get, server, destination)
    assert not destination.exists()


def test_a_folder_that_cannot_be_made_is_one_line(server, tmp_path):
    (tmp_path / "file").write_text("")
    assert "Not a directory" in refusal(get, server, tmp_path / "file" / "sub" / "weights.pdparams")


def test_a_folder_in_the_place_of_the_file_is_one_line(server, destination):
    destination.mkdir(parents=True)
    assert "Is a directory" in refusal(get, server, destination)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_line(server, tmp_path):
    tmp_path.chmod(0o500)
    assert "Permission denied" in refusal(get, server, tmp_path / "weights.pdparams")


# --- several processes ---


def start(server, destination):
    """A process of its own that downloads."""
    # Where the tests run in the background, an interrupt may be ignored, and that is inherited.
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from ppsolo.checkpoint.download import download; print(download(*sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, server.url, str(destination)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # A test run in the background ignores SIGINT, and what it starts would inherit that.
    heed_interrupts = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=heed_interrupts)


def wait_for(condition):
    deadline = time.monotonic() + 20  # generous: a loaded machine may take seconds to start Python
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def test_of_several_processes_one_downloads_and_all_find_the_file(server, destination):
    server.replies = [Reply(pause=0.4)]
    processes = [start(server, destination) for _ in range(3)]
    answers = [process.communicate(timeout=30)[0].strip() for process in processes]
    assert answers == [str(destination)] * 3
    assert len(server.asked) == 1
    assert_whole(destination)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_the_download_of_an_ended_process_is_taken_over(server, destination, end):
    server.replies = [Reply(pause=30.0), Reply()]
    process = start(server, destination)
    part = beside(destination, ".part")
    wait_for(lambda: part.exists() and beside(part, ".json").exists() and part.stat().st_size > 0)
    process.send_signal(end)
    process.communicate(timeout=30)
    size = part.stat().st_size
    get(server, destination)
    assert_whole(destination)
    assert server.asked[1]["Range"] == f"bytes={size}-"


# --- published files and where they land ---


@pytest.fixture
def zoo_on_server(server, monkeypatch):
    monkeypatch.setattr(module, "zoo_entry", lambda name: dataclasses.replace(ZOO[name], url=server.url))


def test_a_published_file_lands_in_the_given_folder(zoo_on_server, tmp_path):
    path = fetch_published("solov2_r50_fpn_3x", tmp_path / "w")
    assert path == tmp_path / "w" / "solov2_r50_fpn_3x.pdparams"
    assert_whole(path)


def test_a_published_file_lands_in_the_default_folder(zoo_on_server, tmp_path, monkeypatch):
    monkeypatch.setenv("PPSOLO_WEIGHTS", str(tmp_path))
    seen = []
    path = fetch_published("solov2_r50_enhance_coco", progress=lambda *step: seen.append(step))
    assert path == tmp_path / "solov2_r50_enhance_coco.pdparams"
    assert seen


def test_an_unknown_name_is_refused_before_anything_else(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'solov2_r50_fpn_3x'"):
        fetch_published("solov2_r50_fpn_3", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PPSOLO_WEIGHTS", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert weights_directory() == tmp_path / "home" / ".cache" / "ppsolo" / "weights"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert weights_directory() == tmp_path / "home" / ".cache" / "ppsolo" / "weights"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert weights_directory() == tmp_path / "cache" / "ppsolo" / "weights"
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "README.md").write_text("")
    assert weights_directory() == tmp_path / "cache" / "ppsolo" / "weights"
    (tmp_path / "ppsolo").mkdir()
    (tmp_path / "ppsolo" / "__init__.py").write_text("")
    assert weights_directory() == tmp_path / "weights"
    monkeypatch.setenv("PPSOLO_WEIGHTS", "~/mine")
    assert weights_directory() == tmp_path / "home" / "mine"


def test_a_user_without_a_home_is_told_what_to_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PPSOLO_WEIGHTS", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "home", homeless)
    assert "set PPSOLO_WEIGHTS" in refusal(weights_directory)
