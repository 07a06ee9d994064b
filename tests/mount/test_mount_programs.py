"""Programs that ask a lot of a file system, on a real mount, as a user would run them.

By default those that take a second or two; with MOUNT_TESTS=long all of them, about ten minutes. Sources and packages
come from where their own tools fetch them, onto the local disk first: a test whose source cannot be had is skipped,
and what fails on the mount is the mount's.
"""

import mmap
import os
import shutil
import sqlite3
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.support.mounted import PATIENCE, Home, needs_fuse
from tests.support.postgres import BINARIES, Postgres
from tests.support.references import public_folder
from tests.support.trees import differences, make_tree
from tests.support.users import IS_ROOT

pytestmark = needs_fuse

_ROOT = Path(__file__).resolve().parents[2]
_DEBIAN = "deb-src http://deb.debian.org/debian bookworm main"
_MANY = 50_000


@pytest.fixture
def drive(home: Home, drive: Path) -> Path:
    """A mounted folder."""
    home.mount(drive)
    return drive


@pytest.fixture
def only_long(long: bool) -> None:
    if not long:
        pytest.skip("takes a minute or more: MOUNT_TESTS=long")


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"there is no {' and no '.join(missing)} here")


def run(folder: Path, *command: str, patience: float = PATIENCE, **extra: str) -> str:
    """The output of a program that succeeds."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    identity = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for who in ("AUTHOR", "COMMITTER"):
        identity |= {f"GIT_{who}_NAME": "Somebody", f"GIT_{who}_EMAIL": "somebody@example.org"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environ | identity | extra,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=patience,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def fetch(folder: Path, *command: str) -> None:
    """Run what needs a network, in a new folder on the local disk."""
    folder.mkdir()
    try:
        run(folder, *command, patience=10 * PATIENCE)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"this cannot be fetched here: {error}")


def again(home: Home, *options: str) -> None:
    """Unmount and mount, with an empty cache in between."""
    mounted = home.mounts[-1]
    mounted.unmount()
    home.mount(mounted.directory, "--cache-dir", str(home.folder / f"cache-{len(home.mounts)}"), *options)


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


@needs("vim")
def test_vim(drive: Path) -> None:
    """It keeps a swap file, writes a new file and renames the old one away."""
    text = drive / "text"
    text.write_text("".join(f"line {number}\n" for number in range(1000)))
    text.chmod(0o640)
    keep = ["-c", "set backup backupcopy=no backupskip= fsync"]
    run(drive, "vim", "-Nu", "NONE", "-es", *keep, "-c", "%s/line 5/LINE 5/ | wq", "text", TERM="dumb")
    assert text.read_text().count("LINE 5") == 111 and text.stat().st_mode & 0o777 == 0o640
    assert (drive / "text~").read_text().count("line 5") == 111
    assert sorted(path.name for path in drive.iterdir()) == ["text", "text~"]


@needs("rsync")
def test_sed_and_rsync(drive: Path, tmp_path: Path) -> None:
    """sed renames a new file over the old one; a second rsync has nothing to do."""
    text = drive / "text"
    text.write_text("".join(f"line {number}\n" for number in range(1000)))
    text.chmod(0o640)
    run(drive, "sed", "-i.bak", "s/line 7/Line 7/", "text")
    assert text.read_text().count("Line 7") == 111 and text.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in drive.iterdir()) == ["text", "text.bak"]
    make_tree(tmp_path / "tree", files=30)
    copy = ["rsync", "-aHAX", "--itemize-changes", f"{tmp_path}/tree/", f"{drive}/tree/"]
    assert run(tmp_path, *copy) and not run(tmp_path, *copy)
    assert not differences(tmp_path / "tree", drive / "tree")


# --- the long ones ---


@pytest.mark.usefixtures("only_long")
def test_git_with_a_real_repository(home: Home, drive: Path) -> None:
    """This project's own."""
    if not (_ROOT / ".git").exists():
        pytest.skip("this is not a clone of the project's repository")
    run(drive, "git", "clone", "-q", f"file://{_ROOT}", "clone", patience=600)
    clone = drive / "clone"
    commits = run(clone, "git", "rev-list", "HEAD").split()
    for commit in (*commits[:: max(len(commits) // 5, 1)], "HEAD@{1}", commits[0]):
        run(clone, "git", "checkout", "-q", commit)
        assert run(clone, "git", "status", "--porcelain") == ""
    run(clone, "git", "repack", "-adfq", "--depth=20")
    run(clone, "git", "gc", "-q", "--prune=now", patience=600)
    run(drive, "git", "clone", "-q", "clone", "twin")
    again(home)
    for copy in (clone, drive / "twin"):
        run(copy, "git", "fsck", "--strict", "--full", "--no-progress", patience=600)
        assert run(copy, "git", "rev-list", "HEAD").split() == commits
        assert run(copy, "git", "status", "--porcelain") == ""
    assert run(clone, "git", "grep", "-c", "import", "HEAD") == run(
        drive / "twin", "git", "grep", "-c", "import", "HEAD"
    )


def debian_source(folder: Path, package: str) -> Path:
    """The upstream archive of a Debian package, by apt-get with lists of its own."""
    folder.mkdir()
    for place in ("lists/partial", "cache/archives/partial"):
        (folder / place).mkdir(parents=True)
    (folder / "sources.list").write_text(_DEBIAN)
    places = {"Etc::SourceList": "sources.list", "Etc::SourceParts": "none", "State::Lists": "lists", "Cache": "cache"}
    options = [word for name, place in places.items() for word in ("-o", f"Dir::{name}={folder / place}")]
    options += ["-o", "APT::Sandbox::User=root"]
    fetch(folder / "update", "apt-get", *options, "update")
    fetch(folder / "source", "apt-get", *options, "source", "--download-only", "--tar-only", package)
    (archive,) = [path for path in (folder / "source").glob("*.orig.tar.*") if path.suffix != ".asc"]
    return archive


@pytest.mark.usefixtures("only_long")
@needs("apt-get", "make", "cc")
def test_a_c_project_is_configured_built_and_tested(home: Home, drive: Path, tmp_path: Path) -> None:
    """GNU hello: autoconf, make, and its own tests; what was built is up to date after a remount."""
    archive = debian_source(tmp_path / "apt", "hello")
    (drive / "hello").mkdir()
    run(drive / "hello", "tar", "xf", str(archive), "--strip-components=1")
    run(drive / "hello", "./configure", "--disable-dependency-tracking", patience=900)
    for target in ("all", "check"):
        run(drive / "hello", "make", "-j2", target, patience=900)
    run(drive / "hello", "make", "install", f"prefix={drive / 'installed'}", patience=900)
    again(home)
    assert run(drive, "installed/bin/hello") == "Hello, world!\n"
    run(drive / "hello", "make", "-q", "hello")


@pytest.mark.usefixtures("only_long")
@needs("apt-get", "make", "cc", "tclsh")
def test_sqlites_speed_test(home: Home, drive: Path, tmp_path: Path) -> None:
    """Built here from SQLite's source, run with a rollback journal and with a log."""
    archive = debian_source(tmp_path / "apt", "sqlite3")
    (drive / "sqlite").mkdir()
    run(drive / "sqlite", "tar", "xf", str(archive), "--strip-components=1")
    run(drive / "sqlite", "./configure", patience=900)
    run(drive / "sqlite", "make", "speedtest1", patience=1800)
    for journal in ("delete", "wal"):
        run(drive, "sqlite/speedtest1", "--journal", journal, "--size", "20", f"{journal}.db", patience=900)
    again(home)
    for journal in ("delete", "wal"):
        connection = sqlite3.connect(drive / f"{journal}.db")
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() > (10,)
        connection.close()


@pytest.mark.usefixtures("only_long")
def test_a_virtual_environment(home: Home, drive: Path, tmp_path: Path) -> None:
    fetch(tmp_path / "wheels", sys.executable, "-m", "pip", "download", "-q", "rich")
    venv.create(drive / "env", with_pip=True)
    python = str(drive / "env" / "bin" / "python")
    wheels = ["--no-index", "--find-links", str(tmp_path / "wheels")]
    run(drive, python, "-m", "pip", "install", "-q", *wheels, "rich", patience=600)
    again(home)
    run(drive, python, "-m", "pip", "check", patience=600)
    assert "infinity" in run(drive, python, "-c", "import rich; rich.print('to infinity')")
    run(drive, python, "-m", "pip", "uninstall", "-q", "-y", "rich", patience=600)
    assert not list((drive / "env").glob("lib/python*/site-packages/rich*"))


@pytest.mark.usefixtures("only_long")
@needs("npm", "node")
def test_npm(home: Home, drive: Path, tmp_path: Path) -> None:
    """Fetched into npm's cache by an install on the local disk."""
    cache = f"--cache={tmp_path / 'cache'}"
    quiet = ["--no-audit", "--no-fund", "--no-update-notifier", cache]
    fetch(tmp_path / "local", "npm", "install", *quiet, "express")
    (drive / "site").mkdir()
    run(drive / "site", "npm", "install", "--offline", *quiet, "express", patience=600)
    again(home)
    run(drive / "site", "npm", "ls", "--all", cache)
    assert run(drive / "site", "node", "-p", "typeof require('express')()") == "function\n"
    run(drive, "diff", "-r", str(tmp_path / "local/node_modules/express"), "site/node_modules/express")
    run(drive / "site", "npm", "uninstall", *quiet, "express", patience=600)
    assert not (drive / "site" / "node_modules" / "express").exists()


@pytest.mark.usefixtures("only_long")
@pytest.mark.skipif(not IS_ROOT, reason="only root can start PostgreSQL as its own user")
@pytest.mark.skipif(BINARIES is None, reason="there is no PostgreSQL here")
def test_postgresql(home: Home) -> None:
    with public_folder() as folder:
        home.mount(folder / "drive", "--allow-other")
        server = Postgres(folder / "drive" / "data", folder)
        server.create()
        with server.running():
            server.fill()
            server.run("pgbench", "-n", "-c", "4", "-t", "500", "bench")
        again(home, "--allow-other")
        with server.running():
            server.check()
            assert server.transactions() == 2000 and server.is_balanced
        home.mounts[-1].unmount()


@pytest.mark.usefixtures("only_long")
def test_many_files_are_found_counted_and_removed(home: Home, drive: Path) -> None:
    for folder in range(_MANY // 1000):
        (drive / "many" / str(folder)).mkdir(parents=True)
        for number in range(1000):
            (drive / "many" / str(folder) / f"file-{number}").write_bytes(b"content\n" * (number % 5))
    again(home)
    assert run(drive, "find", "many", "-type", "f", patience=600).count("\n") == _MANY
    assert run(drive, "find", "many", "-size", "0", "-type", "f", patience=600).count("\n") == _MANY // 5
    content = int(run(drive, "du", "-sb", "many", patience=600).split()[0])
    assert content >= _MANY * 16
    run(drive, "rm", "-rf", "many", patience=600)
    assert not list(drive.iterdir())
    again(home)
    assert not list(drive.iterdir())
