"""The filesystems of others, as far as they are found in PATH; each but s3fs encrypts what it stores.

Above: `scenes`, through `subjects.Subject`. Below: their own programs.
Invariant: all use the same server and bucket, without compression, and the options that their own documentation
recommends for a folder that programs work in; passwords are constant, since nothing that is stored lives on.
"""

import json
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from benchmarks.storage import BUCKET, REGION, Service
from benchmarks.subjects import Daemon, wait_until

SECRET = "correct horse battery staple"  # noqa: S105


class Peer(Daemon):
    programs: ClassVar[tuple[str, ...]]
    needs_server = True

    @classmethod
    def missing(cls) -> str:
        absent = [program for program in cls.programs if shutil.which(program) is None]
        return f"{', '.join(absent)}: not in PATH" if absent else ""

    @property
    def server(self) -> Service:
        assert self.service is not None
        return self.service

    @property
    def address(self) -> str:
        """Host and port of the server."""
        return self.server.endpoint.removeprefix("http://")

    @property
    def path(self) -> str:
        """The folder in the bucket."""
        return f"{type(self).__name__.lower()}/{self.place.name}"

    @property
    def cache(self) -> Path:
        return self.place / "cache"

    def forget(self) -> None:
        shutil.rmtree(self.cache, ignore_errors=True)

    def private_file(self, name: str, content: str) -> Path:
        path = self.place / name
        path.touch(0o600)
        path.write_text(content)
        return path


class S3ql(Peer):
    """Without compression, as the others; fsync does not make its data durable."""

    name = "s3ql"
    programs = ("mkfs.s3ql", "mount.s3ql", "s3qlctrl")

    @property
    def _url(self) -> str:
        return f"s3c4://{self.address}/{BUCKET}/{self.path}/"

    @property
    def _options(self) -> list[str]:
        options = f"no-ssl,disable-expect100,sig-region={REGION}"
        return ["--authfile", str(self.place / "auth"), "--cachedir", str(self.cache), "--backend-options", options]

    def prepare(self) -> None:
        keys = self.server.keys
        lines = [f"storage-url: {self._url}", f"backend-login: {keys.access_key_id}"]
        lines += [f"backend-password: {keys.secret_access_key}", f"fs-passphrase: {SECRET}"]
        self.private_file("auth", "\n".join(["[benchmark]", *lines, ""]))
        self.cache.mkdir()
        self.execute("mkfs.s3ql", *self._options, self._url, answer=f"{SECRET}\n{SECRET}\n")

    def command(self) -> list[str]:
        keep = ["--keep-cache", "--compress", "none", "--fg", "--log", "none"]
        return ["mount.s3ql", *self._options, *keep, self._url, str(self.folder)]

    def settle(self) -> None:
        self.execute("s3qlctrl", "flushcache", str(self.folder))

    def forget(self) -> None:
        """The content, not the database."""
        for blocks in self.cache.glob("*-cache"):
            shutil.rmtree(blocks)


class Rclone(Peer):
    """`rclone mount` of a crypt remote, with its full cache."""

    name = "rclone crypt"
    programs = ("rclone",)
    port = 0

    def prepare(self) -> None:
        keys = self.server.keys
        password = subprocess.run(["rclone", "obscure", SECRET], check=True, capture_output=True, text=True).stdout
        remote = ["[s3]", "type = s3", "provider = Other", f"endpoint = {self.server.endpoint}", f"region = {REGION}"]
        remote += [f"access_key_id = {keys.access_key_id}", f"secret_access_key = {keys.secret_access_key}"]
        sealed = ["[sealed]", "type = crypt", f"remote = s3:{BUCKET}/{self.path}", f"password = {password}"]
        self.private_file("config", "\n".join([*remote, *sealed, ""]))

    def command(self) -> list[str]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        config = ["--config", str(self.place / "config"), "--cache-dir", str(self.cache)]
        control = ["--rc", "--rc-no-auth", "--rc-addr", f"127.0.0.1:{self.port}"]
        cache = ["--vfs-cache-mode", "full", "--transfers", "32", "--links"]
        return ["rclone", "mount", "sealed:", str(self.folder), *config, *control, *cache]

    def settle(self) -> None:
        wait_until(lambda: self._waiting() == 0, "everything uploaded", every=0.1)

    def _waiting(self) -> int:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/vfs/stats", method="POST")
        with urllib.request.urlopen(request) as answer:
            cache = json.load(answer)["diskCache"]
        return int(cache["uploadsInProgress"] + cache["uploadsQueued"])

    def drain(self) -> None:
        self.settle()
        super().drain()


class S3fs(Peer):
    """s3fs: one object a file, in the clear."""

    name = "s3fs, in the clear"
    programs = ("s3fs",)

    def prepare(self) -> None:
        keys = self.server.keys
        self.private_file("password", f"{keys.access_key_id}:{keys.secret_access_key}")
        self.server.client().put_object(Bucket=BUCKET, Key=f"{self.path}/", Body=b"")

    def command(self) -> list[str]:
        options = [f"url={self.server.endpoint}", "use_path_request_style", f"endpoint={REGION}"]
        options += [f"passwd_file={self.place / 'password'}", f"use_cache={self.cache}", "parallel_count=32"]
        return ["s3fs", f"{BUCKET}:/{self.path}", str(self.folder), "-f", *(f"-o{option}" for option in options)]


class Gocryptfs(Peer):
    """gocryptfs on a folder of s3fs."""

    name = "gocryptfs on s3fs"
    programs = ("gocryptfs", "s3fs")

    def __init__(self, place: Path, service: Service | None) -> None:
        super().__init__(place, service)
        self._below = S3fs(place / "below", service)

    def prepare(self) -> None:
        self._below.folder.mkdir(parents=True)
        self._below.start()
        self.private_file("password", SECRET)
        self.execute("gocryptfs", "-init", "-passfile", str(self.place / "password"), str(self._below.folder))

    def command(self) -> list[str]:
        password = str(self.place / "password")
        return ["gocryptfs", "-fg", "-passfile", password, str(self._below.folder), str(self.folder)]

    def drain(self) -> None:
        super().drain()
        self._below.drain()

    def resume(self, *, cold: bool) -> None:
        self._below.resume(cold=cold)
        super().resume(cold=cold)

    def stop(self) -> None:
        super().stop()
        self._below.stop()

    def processes(self) -> list[int]:
        return super().processes() + self._below.processes()


class Juicefs(Peer):
    """JuiceFS with its metadata in SQLite on this machine; data is stored when fsync or close returns."""

    name = "JuiceFS"
    programs = ("juicefs",)

    @property
    def _metadata(self) -> str:
        return f"sqlite3://{self.place / 'metadata.db'}"

    def environment(self) -> Mapping[str, str]:
        return {"JFS_RSA_PASSPHRASE": SECRET}

    def prepare(self) -> None:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.BestAvailableEncryption(SECRET.encode()),
        )
        keys = self.server.keys
        where = ["--storage", "s3", "--bucket", f"{self.server.endpoint}/{BUCKET}"]
        access = ["--access-key", keys.access_key_id, "--secret-key", keys.secret_access_key]
        sealed = ["--encrypt-rsa-key", str(self.private_file("key.pem", key.decode())), "--trash-days", "0"]
        self.execute("juicefs", "format", *where, *access, *sealed, self._metadata, self.place.name.replace("_", "-"))

    def command(self) -> list[str]:
        options = ["--cache-dir", str(self.cache), "--max-uploads", "32", "--no-usage-report", "--no-bgjob"]
        return ["juicefs", "mount", *options, self._metadata, str(self.folder)]


PEERS: tuple[type[Peer], ...] = (S3ql, Rclone, S3fs, Gocryptfs, Juicefs)
