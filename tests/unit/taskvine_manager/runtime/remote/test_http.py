"""Files of an HTTP server: what is asked of it, and which answers are refused."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from taskvine_manager.runtime.remote import http
from taskvine_manager.runtime.remote.problems import Problem, Version
from tests.file_server import Answer, FileServer, serve

DATA = bytes(range(256)) * 10


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve() as served:
        yield served


@pytest.fixture
def get(server: FileServer, tmp_path: Path) -> Callable[[Answer], Version]:
    def fetch(answer: Answer) -> Version:
        server.files["a"] = answer
        return http.get(server.of("a"), str(tmp_path / "a"))

    return fetch


def test_a_file_takes_one_request(get: Callable[[Answer], Version], server: FileServer, tmp_path: Path) -> None:
    assert get(Answer(DATA, headers={"ETag": '"v1"'})) == Version(len(DATA), '"v1"')
    assert (tmp_path / "a").read_bytes() == DATA
    assert server.requests == {"a": 1}
    assert server.headers[0]["Accept-Encoding"] == "identity"


def test_an_encoded_file_is_decoded(get: Callable[[Answer], Version], tmp_path: Path) -> None:
    packer = zlib.compressobj(wbits=31)
    body = packer.compress(DATA) + packer.flush()
    wrong = base64.b64encode(hashlib.md5(DATA + b"x").digest()).decode()  # of the encoded form, with most servers
    get(Answer(body, headers={"Content-Encoding": "gzip", "Content-MD5": wrong}))
    assert (tmp_path / "a").read_bytes() == DATA


@pytest.mark.parametrize(("status", "may_pass"), [(404, False), (403, False), (204, False), (500, True), (429, True)])
def test_other_statuses_are_problems(get: Callable[[Answer], Version], status: int, may_pass: bool) -> None:
    with pytest.raises(Problem) as caught:
        get(Answer(b"", status, {"Retry-After": "7"}))
    assert (caught.value.status, caught.value.may_pass, caught.value.wait) == (status, may_pass, 7.0)
    assert str(caught.value) == HTTPStatus(status).phrase


def test_a_file_that_is_cut_off_is_a_problem(get: Callable[[Answer], Version]) -> None:
    with pytest.raises(Problem) as caught:
        get(Answer(DATA, cut=100))
    assert caught.value.may_pass


def digest(name: str, data: bytes) -> str:
    return base64.b64encode(hashlib.new(name, data).digest()).decode()


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Content-MD5", "{md5}"),
        ("x-goog-hash", "crc32c=AAAAAA==,md5={md5}"),
        ("Digest", "sha-256={sha256}"),
        ("Repr-Digest", "sha-256=:{sha256}:"),
        ("x-amz-checksum-sha256", "{sha256}"),
    ],
)
def test_checksums_of_the_server_are_checked(get: Callable[[Answer], Version], header: str, value: str) -> None:
    for data in (DATA, DATA[::-1]):
        stated = value.format(md5=digest("md5", data), sha256=digest("sha256", data))
        if data == DATA:
            get(Answer(DATA, headers={header: stated}))
        else:
            with pytest.raises(Problem, match=r"its (md5|sha256) is .*, and the server states"):
                get(Answer(DATA, headers={header: stated}))


def test_what_is_no_checksum_of_the_whole_file_is_not_checked(get: Callable[[Answer], Version]) -> None:
    get(Answer(DATA, headers={"x-amz-checksum-sha256": "abc=-3", "Digest": "unixsum=1", "Content-MD5": "no"}))


def test_a_server_that_does_not_answer_is_a_problem_without_the_url(tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught:
        http.get("http://127.0.0.1:1/a?token=secret", str(tmp_path / "a"))
    assert caught.value.may_pass
    assert "Connection refused" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_invalid_url_is_no_problem_that_passes(tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught:
        http.get("http:///a", str(tmp_path / "a"))
    assert not caught.value.may_pass


@pytest.mark.parametrize("data", [DATA, b""])
def test_a_file_is_put(server: FileServer, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "made").write_bytes(data)
    http.put(str(tmp_path / "made"), server.of("made"))
    assert server.files["made"] == data
    server.files["refused/made"] = Answer(status=403)
    with pytest.raises(Problem, match="Forbidden"):
        http.put(str(tmp_path / "made"), server.of("made"))


def test_headers_of_fsspecs_configuration_are_sent(
    get: Callable[[Answer], Version], server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pytest.importorskip("fsspec.config")
    settings = {"client_kwargs": {"headers": {"Authorization": "Bearer abc"}}, "headers": {"X-Own": "1"}}
    monkeypatch.setitem(config.conf, "http", settings)
    get(Answer(DATA))
    assert (server.headers[0]["Authorization"], server.headers[0]["X-Own"]) == ("Bearer abc", "1")
