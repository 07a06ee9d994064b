"""Programs that ask a lot of a file system, on a real mount."""

import mmap
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mounted import PATIENCE, Home, needs_fuse

pytestmark = needs_fuse


@pytest.fixture
def drive(home: Home, drive: Path) -> Path:
    """A mounted folder."""
    home.mount(drive)
    return drive


def run(folder: Path, *command: str) -> str:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    identity = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for who in ("AUTHOR", "COMMITTER"):
        identity |= {f"GIT_{who}_NAME": "Somebody", f"GIT_{who}_EMAIL": "somebody@example.org"}
    done = subprocess.run(command, cwd=folder, env=environ | identity, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def again(home: Home) -> None:
    """Unmount and mount, with an empty cache in between."""
    mounted = home.mounts[-1]
    mounted.unmount()
    home.mount(mounted.directory, "--cache-dir", str(home.folder / f"cache-{len(home.mounts)}"))


def test_git(home: Home, drive: Path) -> None:
    run(drive, "git", "init", "-q", "work")
    for number in range(3):
        (drive / "work" / f"file-{number}.txt").write_text(f"line {number}\n" * 1000)
        run(drive / "work", "git", "add", ".")
        run(drive / "work", "git", "commit", "-q", "-m", f"change {number}")
    run(drive, "git", "clone", "-q", "work", "clone")
    run(drive / "clone", "git", "gc", "-q")
    again(home)
    for copy in ("work", "clone"):
        run(drive / copy, "git", "fsck", "--strict", "--no-progress")
        assert run(drive / copy, "git", "status", "--porcelain") == ""
    assert run(drive / "clone", "git", "rev-list", "--count", "HEAD") == "3\n"


def test_sqlite(home: Home, drive: Path) -> None:
    modes = ("wal", "delete")
    for mode in modes:
        fill_database(drive / f"{mode}.db", mode)
    again(home)
    for mode in modes:
        connection = sqlite3.connect(drive / f"{mode}.db")
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT sum(number), sum(length(value)) FROM things").fetchone() == (2450, 150_000)
        connection.close()


def fill_database(path: Path, mode: str) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
    connection.execute("CREATE TABLE things (number INTEGER PRIMARY KEY, value BLOB)")
    for number in range(100):
        with connection:
            connection.execute("INSERT INTO things VALUES (?, ?)", (number, bytes([number]) * 3000))
    other = sqlite3.connect(path)
    assert other.execute("SELECT count(*) FROM things").fetchone() == (100,)
    other.close()
    with connection:
        connection.execute("DELETE FROM things WHERE number % 2")
    connection.execute("VACUUM")
    connection.close()


def test_tar_and_a_compiler(home: Home, drive: Path, tmp_path: Path) -> None:
    source = Path(sys.prefix if sys.prefix == sys.base_prefix else sys.base_prefix) / "include"
    library = Path(os.__file__).parent / "json"
    run(library.parent, "tar", "cf", str(tmp_path / "archive.tar"), library.name)
    run(drive, "tar", "xf", str(tmp_path / "archive.tar"))
    run(library.parent, "tar", "df", str(tmp_path / "archive.tar"), "-C", str(drive))
    assert source.is_dir()
    (drive / "program.c").write_text('#include <stdio.h>\nint main(void) { puts("compiled here"); return 0; }\n')
    run(drive, "cc", "-O2", "-o", "program", "program.c")
    assert run(drive, "./program") == "compiled here\n"
    again(home)
    assert run(drive, "./program") == "compiled here\n"


def test_mmap_and_many_writers_of_one_file(home: Home, drive: Path) -> None:
    """What is written through a mapping arrives; with O_APPEND from several processes every line does, once."""
    size = 4 << 20
    with (drive / "mapped").open("w+b") as file:
        file.truncate(size)
        with mmap.mmap(file.fileno(), size) as mapped:
            for place in range(0, size, 100_000):
                mapped[place : place + 8] = place.to_bytes(8, "little")
            mapped.flush()
            os.fsync(file.fileno())
    script = "for i in $(seq 200); do echo $0-$i >> log; done"
    with subprocess.Popen(["sh", "-c", script, "one"], cwd=drive) as one:
        run(drive, "sh", "-c", script, "two")
        one.wait(PATIENCE)
    again(home)
    lines = (drive / "log").read_text().splitlines()
    assert sorted(lines) == sorted(f"{who}-{number}" for who in ("one", "two") for number in range(1, 201))
    with (drive / "mapped").open("rb") as kept, mmap.mmap(kept.fileno(), size, access=mmap.ACCESS_READ) as mapped:
        for place in range(0, size, 100_000):
            assert int.from_bytes(mapped[place : place + 8], "little") == place
        assert mapped[8:100_000] == bytes(99_992)
