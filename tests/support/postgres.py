"""A PostgreSQL server of a test's own: its data where the test says, no port, its socket and log in a folder.

Above: tests/mount. Below: the programs of PostgreSQL, which run as the user OWNER: root will not do for them.
Invariant: no server and no client outlives its `with`, whatever became of its data.
"""

import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.mounted import PATIENCE, wait_until

OWNER = "postgres"
BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
"""Where the programs are, None without them."""

_DATABASE = "bench"


class Postgres:
    """`data` is made by `create`, `folder` is one that everybody may enter."""

    def __init__(self, data: Path, folder: Path) -> None:
        owner = pwd.getpwnam(OWNER)
        self._uid, self._gid = owner.pw_uid, owner.pw_gid
        self._data = data
        self._folder = folder / OWNER
        self._folder.mkdir()
        os.chown(self._folder, self._uid, self._gid)

    def create(self) -> None:
        """A new cluster, with checksums on its pages."""
        self._data.mkdir(mode=0o700)
        os.chown(self._data, self._uid, self._gid)
        self.run("initdb", "-D", str(self._data), "--data-checksums", "--no-locale", "-E", "UTF8", "-A", "trust")

    def fill(self) -> None:
        """The tables of pgbench's bank."""
        self.run("createdb", _DATABASE)
        self.run("pgbench", "-q", "-i", "-s", "2", _DATABASE)

    def check(self) -> None:
        """Every page, every row and every index entry. Fails with what is damaged."""
        self.run("pg_amcheck", "-d", _DATABASE, "--install-missing", "--heapallindexed")

    def transactions(self) -> int:
        """How many transactions of pgbench are to be seen: each adds one row to its history."""
        return int(self._ask("SELECT count(*) FROM pgbench_history"))

    @property
    def is_balanced(self) -> bool:
        """Whether accounts, tellers, branches and the history agree: each transaction adds its amount to all four."""
        columns = {"accounts": "abalance", "tellers": "tbalance", "branches": "bbalance", "history": "delta"}
        sums = {self._ask(f"SELECT sum({column}) FROM pgbench_{table}") for table, column in columns.items()}
        return len(sums) == 1

    def _ask(self, query: str) -> str:
        return self.run("psql", "-XAtc", query, _DATABASE).strip()

    @contextmanager
    def running(self, end: signal.Signals = signal.SIGINT) -> Iterator[None]:
        """The server, ready. SIGINT ends it in good order, SIGQUIT at once, as a crash does."""
        options = ["-D", str(self._data), "-k", str(self._folder), "-c", "listen_addresses="]
        with self._background("postgres", *options, end=end) as server:
            wait_until(lambda: self._is_ready(server), "the server's start")
            yield

    def _is_ready(self, server: "subprocess.Popen[bytes]") -> bool:
        assert server.poll() is None, (self._folder / "log").read_text()[-5000:]
        return self._start("pg_isready", "-q").wait(PATIENCE) == 0

    @contextmanager
    def benchmark(self) -> Iterator[None]:
        """Four clients move money, for as long as the server answers."""
        with self._background("pgbench", "-n", "-c", "4", "-T", "3600", _DATABASE, end=signal.SIGTERM):
            yield

    @contextmanager
    def _background(self, program: str, *arguments: str, end: signal.Signals) -> Iterator["subprocess.Popen[bytes]"]:
        process = self._start(program, *arguments)
        try:
            yield process
            process.send_signal(end)
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait(PATIENCE)

    def run(self, program: str, *arguments: str) -> str:
        """The output of a program that succeeds."""
        process = self._start(program, *arguments, output=subprocess.PIPE)
        output, _ = process.communicate(timeout=10 * PATIENCE)
        assert process.returncode == 0, f"{program} {arguments}: {output.decode()}"
        return output.decode()

    def _start(self, program: str, *arguments: str, output: int | None = None) -> "subprocess.Popen[bytes]":
        assert BINARIES is not None
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [str(BINARIES / program), *arguments],
                user=self._uid,
                group=self._gid,
                extra_groups=[],
                cwd=self._folder,
                env={"PATH": os.environ["PATH"], "PGHOST": str(self._folder), "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=output or log,
                stderr=subprocess.STDOUT if output else log,
            )
