"""A storage that goes away and comes back, and two machines that want one volume: real mounts, S3 behind a proxy."""

import contextlib
import json
import os
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounted import USER, VOLUME, Home, needs_fuse, wait_until
from tests.support.proxy import Mode, Proxy
from tests.support.s3_server import S3Server

pytestmark = needs_fuse

_AWAY = r"cannot be reached|failed to"
_OUTAGE = float(os.environ.get("OUTAGE_SECONDS", "8"))


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[Proxy]:
    with Proxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    return s3_server.create_bucket()


@pytest.fixture
def far_home(new_home: Callable[[str], Home], s3_server: S3Server, proxy: Proxy, bucket: str) -> Home:
    """A home whose volume is on S3, behind the proxy."""
    home = new_home("machine")
    home.run("user", "create", USER)
    keys = f"{s3_server.access_key_id}\n{s3_server.secret_access_key}\n"
    home.run("credentials", "add", "--aws", "--name", "keys", input=keys)
    home.run(
        *("storage", "create", "--s3", "--name", "far", "--account", "keys", "--region", "us-east-1"),
        *("--bucket", bucket, "--path", "blocks", "--endpoint", proxy.endpoint),
    )
    home.run("volume", "create", VOLUME, "--storage", "far")
    return home


def stored_bytes(server: S3Server, bucket: str) -> int:
    pages = server.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return sum(found["Size"] for page in pages for found in page.get("Contents", ()))


def same_configuration(home: Home, new_home: Callable[[str], Home]) -> Home:
    other = new_home("other")
    shutil.copytree(home.root / "config", other.root / "config")
    return other


def write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def test_an_outage_stops_nobody_and_loses_nothing(
    far_home: Home, drive: Path, proxy: Proxy, s3_server: S3Server, bucket: str
) -> None:
    far_home.expect(_AWAY)
    mounted = far_home.mount(drive)
    write_durably(drive / "before", b"before")
    mounted.stored()
    proxy.set_mode(Mode.REFUSE)
    end = time.monotonic() + _OUTAGE
    written: dict[str, bytes] = {}
    while time.monotonic() < end:
        name, data = f"file{len(written)}", os.urandom(20_000)
        write_durably(drive / name, data)
        written[name] = data
        time.sleep(0.02)
    wait_until(lambda: mounted.status()["state"] == "offline", "noticing the outage")
    assert mounted.status()["backlog_bytes"] > 20_000 * len(written)
    assert (drive / "before").read_bytes() == b"before"
    proxy.set_mode(Mode.OPEN)
    mounted.stored()
    assert mounted.status()["state"] == "ready"
    stored = stored_bytes(s3_server, bucket)
    assert stored > 20_000 * len(written)
    assert mounted.status()["uploaded_bytes"] < 1.01 * stored, "nothing is sent twice"
    for name, data in written.items():
        assert (drive / name).read_bytes() == data
    mounted.unmount()


def test_unmounting_while_the_storage_is_away_keeps_everything(
    far_home: Home, drive: Path, proxy: Proxy, new_home: Callable[[str], Home], tmp_path: Path
) -> None:
    far_home.expect(_AWAY + "|not in the storage yet|storage is away")
    mounted = far_home.mount(drive)
    mounted.stored()
    proxy.set_mode(Mode.REFUSE)
    write_durably(drive / "kept", b"kept on this machine")
    sentence = far_home.refused(13, "unmount", str(drive))
    assert "not in the storage yet" in sentence
    mounted.wait()
    # It may even be mounted again meanwhile: the volume is this machine's.
    again = far_home.mount(drive)
    assert (drive / "kept").read_bytes() == b"kept on this machine"
    proxy.set_mode(Mode.OPEN)
    again.stored()
    again.unmount()
    other = same_configuration(far_home, new_home)
    second = other.mount(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "kept").read_bytes() == b"kept on this machine"
    second.unmount()


def test_the_backlog_has_a_limit(far_home: Home, drive: Path, proxy: Proxy) -> None:
    far_home.expect(_AWAY)
    mounted = far_home.mount(drive, "--backlog", "4MiB")
    mounted.stored()
    proxy.set_mode(Mode.REFUSE)
    written = []
    with pytest.raises(OSError, match="No space left on device"):
        for number in range(100):
            write_durably(drive / f"file{number}", os.urandom(200_000))
            written.append(number)
    assert 10 < len(written) < 25
    proxy.set_mode(Mode.OPEN)
    mounted.stored()
    write_durably(drive / "afterwards", b"there is room again")
    mounted.unmount()


def test_a_thousand_hanging_reads_do_not_hold_up_the_rest(
    far_home: Home, drive: Path, proxy: Proxy, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))  # 1,000 files and their connections
    far_home.expect(_AWAY)
    mounted = far_home.mount(drive)
    for number in range(1000):
        (drive / f"file{number}").write_bytes(os.urandom(1000))
    mounted.unmount()
    shutil.rmtree(far_home.root / "cache")
    mounted = far_home.mount(drive)
    names = sorted(drive.iterdir())
    proxy.set_mode(Mode.HANG)
    readers = [threading.Thread(target=_try_to_read, args=(name,), daemon=True) for name in names]
    for reader in readers:
        reader.start()
    time.sleep(1)
    slowest = 0.0
    for number in range(200):
        started = time.perf_counter()
        names[number].stat()
        slowest = max(slowest, time.perf_counter() - started)
    started = time.perf_counter()
    write_durably(drive / "new", b"new")
    fsynced = time.perf_counter() - started
    alive = sum(reader.is_alive() for reader in readers)
    proxy.set_mode(Mode.OPEN)
    for reader in readers:
        reader.join(60)
    print(
        f"{alive} reads hung; slowest of 200 stats {slowest * 1000:.1f} ms, a create with fsync {fsynced * 1000:.0f} ms"
    )
    assert alive > 900
    assert slowest < 1, "a stat waits for no read"
    assert not any(reader.is_alive() for reader in readers)
    mounted.unmount()


def _try_to_read(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.read_bytes()


def test_the_loser_of_two_mounts_turns_read_only(
    far_home: Home, drive: Path, proxy: Proxy, new_home: Callable[[str], Home], tmp_path: Path
) -> None:
    far_home.expect(_AWAY + "|was taken over")
    other = same_configuration(far_home, new_home)
    other.expect("is mounted by")
    second_drive = tmp_path / "elsewhere"
    mounted = far_home.mount(drive, "--fsync", "remote")
    write_durably(drive / "both", b"seen by both")
    sentence = other.refused(11, "mount", VOLUME, str(second_drive))
    assert USER in sentence and str(drive) in sentence and "--take-over" in sentence

    second = other.mount(second_drive, "--take-over")
    assert (second_drive / "both").read_bytes() == b"seen by both"
    write_durably(second_drive / "second", b"by the second")
    # The first one finds out before it acknowledges another fsync.
    with pytest.raises(OSError, match="Read-only file system"):
        write_durably(drive / "first", b"by the first")
    wait_until(lambda: mounted.status()["state"] == "read-only", "being fenced")
    assert (drive / "both").read_bytes() == b"seen by both"
    with pytest.raises(OSError, match="Read-only file system"):
        (drive / "more").touch()
    sentence = far_home.refused(11, "unmount", str(drive))
    assert "set-aside" in sentence and str(far_home.root) in sentence
    mounted.wait()
    second.unmount()
    # What the loser had is kept; set aside, the volume mounts with the winner's history.
    assert far_home.refused(11, "mount", VOLUME, str(drive))
    kept = json.loads(far_home.run("volume", "set-aside", VOLUME, "--json"))["kept"]
    assert (Path(kept) / "volume.db").exists()
    mounted = far_home.mount(drive)
    assert sorted(path.name for path in drive.iterdir()) == ["both", "second"]
    mounted.unmount()
