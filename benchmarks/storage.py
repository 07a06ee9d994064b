"""Where the filesystems keep their data: one S3 server for all of them, near or far.

Above: `subjects`, `raw`. Below: versitygw, whose objects are files, in memory where there is room; `delay`.
Invariant: the server has its own process, listens on loopback only, is a bottleneck for nobody (written in Go, it
answers thousands of requests a second and streams what it stores), and is gone with its data when the block ends.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.workloads import ROOT
from infinitfs.config.model import S3StorageRecord
from infinitfs.storage.account import StaticKeys
from infinitfs.storage.s3 import open_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PROGRAM = "versitygw"
REGION = "us-east-1"
BUCKET = "benchmark"
CONNECTIONS = 32
"""What `infinitfs mount` uses when nothing is said."""

_MEMORY = Path("/dev/shm")
_PATIENCE = 20.0  # seconds for a server to answer


@dataclass(frozen=True)
class Service:
    """An S3 server as a client sees it. `delay` is what each answer takes longer, in milliseconds."""

    endpoint: str
    keys: StaticKeys
    delay: int

    def record(self, path: str) -> S3StorageRecord:
        """The storage that `infinitfs storage create` would describe for the folder `path`."""
        return S3StorageRecord(
            name=BUCKET,
            account=BUCKET,
            region=REGION,
            bucket=BUCKET,
            path=path,
            endpoint=self.endpoint,
            created="",
        )

    def client(self) -> "S3Client":
        """A client with the settings of infinitfs."""
        return open_client(self.record(""), self.keys, CONNECTIONS)

    def stored(self, path: str) -> dict[str, int]:
        """Key and size of every object below `path`."""
        found: dict[str, int] = {}
        for page in self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{path}/"):
            found |= {entry["Key"]: entry["Size"] for entry in page.get("Contents", ())}
        return found

    def empty(self) -> None:
        """Delete every object: the next one to be measured finds the server as the first did."""
        client = self.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            for entry in page.get("Contents", ()):
                client.delete_object(Bucket=BUCKET, Key=entry["Key"])


def missing() -> str:
    """Why there is no server, or nothing."""
    return "" if shutil.which(PROGRAM) else f"{PROGRAM} is not in PATH"


@contextmanager
def running(room: int, folder: Path, host: str = "127.0.0.1") -> Iterator[Service]:
    """A server with the bucket BUCKET; its data in memory where `room` bytes fit twice, else below `folder`."""
    place = _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > 2 * room else folder
    keys = StaticKeys(access_key_id="BENCHMARK", secret_access_key=secrets.token_hex(20))
    port = _free_port(host)
    with tempfile.TemporaryDirectory(prefix="infinitfs-benchmark-", dir=place) as data:
        process = subprocess.Popen(
            [PROGRAM, "--port", f"{host}:{port}", "--region", REGION, "--keep-alive", "--quiet", "posix", data],
            env=os.environ | {"ROOT_ACCESS_KEY": keys.access_key_id, "ROOT_SECRET_KEY": keys.secret_access_key},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _await_port(port, host)
            service = Service(f"http://{host}:{port}", keys, 0)
            service.client().create_bucket(Bucket=BUCKET)
            yield service
        finally:
            process.kill()
            process.wait()


@contextmanager
def delayed(service: Service, milliseconds: int) -> Iterator[Service]:
    """The same server, each of whose answers takes so much longer."""
    if not milliseconds:
        yield service
        return
    port = _free_port()
    arguments = [service.endpoint.rpartition(":")[2], str(port), str(milliseconds / 1000)]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.delay", *arguments], cwd=ROOT)
    try:
        _await_port(port)
        yield Service(f"http://127.0.0.1:{port}", service.keys, milliseconds)
    finally:
        process.kill()
        process.wait()


def _free_port(host: str = "127.0.0.1") -> int:
    with socket.create_server((host, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _await_port(port: int, host: str = "127.0.0.1") -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection((host, port)).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
