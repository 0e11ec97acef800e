"""Remote files in S3: moto's server on the loopback interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from parsl.data_provider.files import File

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import RemoteInputFailed, RemoteOutputFailed

pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")

Make = Callable[..., TaskVineExecutor]
SECONDS = 100  # far more than any test here takes, only so that none hangs


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a server with the bucket ``bucket``. Nodes find the server by fsspec's configuration."""
    server = moto.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**keys, "FSSPEC_S3_ENDPOINT_URL": address}.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=address)
    try:
        client.create_bucket(Bucket="bucket")
        yield client
    finally:
        client.close()
        server.stop()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the user an empty current directory."""
    monkeypatch.chdir(tmp_path)


def copy(inputs, outputs):  # type: ignore[no-untyped-def]
    with open(inputs[0].filepath, "rb") as source, open(outputs[0].filepath, "wb") as target:
        target.write(source.read())


def names(file):  # type: ignore[no-untyped-def]
    import os

    return sorted(os.listdir(file.filepath))


def body(s3: Any, key: str) -> bytes:
    content: bytes = s3.get_object(Bucket="bucket", Key=key)["Body"].read()
    return content


def test_objects_are_read_and_written(make_executor: Make, mode: str, s3: Any) -> None:
    data = bytes(range(256)) * 1000
    s3.put_object(Bucket="bucket", Key="set/in.bin", Body=data)
    s3.put_object(Bucket="bucket", Key="set/other.bin", Body=b"")
    executor = make_executor(function_exec_mode=mode)
    made = executor.submit(
        copy, {}, inputs=[File("s3://bucket/set/in.bin")], outputs=[File("s3://bucket/out/made.bin")]
    )
    listing = executor.submit(names, {}, File("s3://bucket/set/"))
    made.result(SECONDS)
    assert body(s3, "out/made.bin") == data
    assert listing.result(SECONDS) == ["in.bin", "other.bin"]


def test_errors_name_the_object(make_executor: Make, s3: Any) -> None:
    s3.put_object(Bucket="bucket", Key="in", Body=b"data")
    executor = make_executor()
    error = executor.submit(names, {}, File("s3://bucket/none")).exception(SECONDS)
    assert isinstance(error, RemoteInputFailed)
    assert error.url == "s3://bucket/none"
    refused = executor.submit(copy, {}, inputs=[File("s3://bucket/in")], outputs=[File("s3://none/out")])
    error = refused.exception(SECONDS)
    assert isinstance(error, RemoteOutputFailed)
    assert error.url == "s3://none/out"
