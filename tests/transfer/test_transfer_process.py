"""The transfer process itself, over a storage in a folder."""

import fcntl
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from infinitfs.config.model import FilesystemStorageRecord, S3StorageRecord
from infinitfs.errors import ObjectNotFound, UsageError
from infinitfs.storage.filesystem import prepare
from infinitfs.transfer.client import TransferClient, open_transfer
from infinitfs.transfer.protocol import Open


@pytest.fixture
def opening(tmp_path: Path) -> Open:
    folder = tmp_path / "storage"
    prepare(folder)
    return Open(record=FilesystemStorageRecord(name="local", path=str(folder), created=""))


def children(parent: int) -> list[int]:
    """The processes that `parent` started and that have not ended."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, of = status.read_text().rsplit(")", 1)[1].split()[:2]
        except OSError:
            continue
        if int(of) == parent and state != "Z":
            found.append(int(status.parent.name))
    return found


def transfers() -> list[int]:
    return [child for child in children(os.getpid()) if b"transfer.worker" in of_process(child, "cmdline")]


def of_process(process: int, name: str) -> bytes:
    return Path(f"/proc/{process}/{name}").read_bytes()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # another process makes it true, and tells nobody
        await trio.sleep(0.005)


async def test_requests_are_answered_and_the_process_ends_with_the_context(tmp_path: Path, opening: Open) -> None:
    (tmp_path / "staged").write_bytes(b"sealed" * 1000)
    with trio.fail_after(20):
        async with open_transfer(opening) as client:
            assert len(transfers()) == 1
            await client.upload("packs/aa/a", tmp_path / "staged")
            await client.put("journal/1", b"record", create=True)
            await client.download("packs/aa/a", 6, 12, tmp_path / "down")
            assert await client.get("journal/1") == b"record"
            assert [info.key for info in await client.list("")] == ["journal/1", "packs/aa/a"]
            with pytest.raises(ObjectNotFound):
                await client.size("journal/2")
    assert (tmp_path / "down").read_bytes() == b"sealedsealed"
    assert (tmp_path / "storage" / "packs" / "aa" / "a").read_bytes() == b"sealed" * 1000
    assert transfers() == []


def restarted(client: TransferClient, times: int) -> bool:
    return client.stats.restarts == times and transfers() != []


async def test_kill_9_in_the_middle_of_requests_loses_none(tmp_path: Path, opening: Open) -> None:
    slow = Open(record=opening.record, upload_limit=4e6, connections=8)
    packs = {f"packs/{number}": bytes([number]) * 100_000 for number in range(24)}
    for key, data in packs.items():
        (tmp_path / key.replace("/", "-")).write_bytes(data)
    with trio.fail_after(60):
        async with open_transfer(slow) as client:
            async with trio.open_nursery() as nursery:
                for key in packs:
                    nursery.start_soon(client.upload, key, tmp_path / key.replace("/", "-"))
                for kills in (1, 2):
                    await until(lambda: any((tmp_path / "storage").glob("packs/*")))
                    (victim,) = transfers()
                    assert client.stats.in_flight > 0
                    os.kill(victim, signal.SIGKILL)
                    await until(partial(restarted, client, kills))
            assert client.stats.restarts == 2
            for key, data in packs.items():
                assert await client.get(key) == data


async def test_signals_of_a_terminal_or_of_systemd_do_not_end_it(opening: Open) -> None:
    with trio.fail_after(20):
        async with open_transfer(opening) as client:
            (process,) = transfers()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(process, number)
            await client.put("a", b"1")
            assert transfers() == [process]
            assert client.stats.restarts == 0


async def test_it_knows_no_passphrase_and_leaves_no_core(opening: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFINITFS_PASSPHRASE", "open sesame")
    with trio.fail_after(20):
        async with open_transfer(opening):
            (process,) = transfers()
            limits = of_process(process, "limits").decode().splitlines()
            assert next(line.split()[4:6] for line in limits if line.startswith("Max core")) == ["0", "0"]
            try:
                environment = of_process(process, "environ")
            except PermissionError:  # not dumpable: nobody but root may look
                return
            assert b"open sesame" not in environment


async def test_it_holds_the_lock_of_its_parent_for_as_long_as_it_lives(tmp_path: Path, opening: Open) -> None:
    def locked() -> bool:
        descriptor = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    ours = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(ours, fcntl.LOCK_EX)
    with trio.fail_after(20):
        async with open_transfer(opening, inherit=[ours]):
            os.close(ours)
            assert locked()
    assert not locked()


async def test_what_keeps_the_storage_from_being_opened_is_raised() -> None:
    record = S3StorageRecord(name="s", account="a", region="eu-west-1", bucket="b", path="p", created="")
    with trio.fail_after(20), pytest.raises(UsageError, match="credentials"):
        async with open_transfer(Open(record=record)):
            raise AssertionError("it opened")
    assert transfers() == []


_PARENT = """
import sys, trio
from infinitfs.config.model import FilesystemStorageRecord
from infinitfs.transfer.client import TransferClient, open_transfer
from infinitfs.transfer.protocol import Open

async def run():
    record = FilesystemStorageRecord(name="local", path=sys.argv[1], created="")
    async with open_transfer(Open(record=record)):
        print("up", flush=True)
        await trio.sleep_forever()

trio.run(run)
"""


def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        (child,) = children(parent.pid)
        ended = os.pidfd_open(child)
        parent.kill()
    try:
        assert select.select([ended], [], [], 20)[0] == [ended]
    finally:
        os.close(ended)
