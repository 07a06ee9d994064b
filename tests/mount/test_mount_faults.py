"""A volume over an S3 that fails as told: nothing wrong is read, nothing is lost, and what ends is forgiven.

Three forms. Without a kernel, in this process and on a real socket: each fault once for every request. One real mount
with all of them mixed. With MOUNT_TESTS=long, a real mount for each fault, under load, warm and cold, and each fault
for longer than patience lasts: 26 minutes, most of it waiting, so 5 with `-n 8 --dist worksteal` on two processors.
"""

import errno
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import trio

from infinitfs.errors import InfinitfsError
from infinitfs.mount.session import DEADLINE
from infinitfs.transfer.files import Threads
from infinitfs.volume.namespace import ROOT
from tests.support.mounted import USER, VOLUME, Home, needs_fuse, wait_until
from tests.support.s3_faults import FAULTS, Service, faulty_service
from tests.support.s3_stub import BUCKET, Fault, Plan, Request, S3Stub, always, at_first, healthy
from tests.support.volumes import content, opened_volume, put

MIB = 1 << 20


def contents(seed: int, count: int, size: int) -> dict[bytes, bytes]:
    source = random.Random(seed)
    return {b"file%d" % number: source.randbytes(size) for number in range(count)}


# --- without a kernel ---


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with faulty_service() as service:
        yield service


@pytest.mark.parametrize("name", FAULTS)
async def test_every_request_meets_the_fault_once_and_nobody_notices(
    name: str, service: Service, tmp_path: Path
) -> None:
    fault, of = FAULTS[name]
    stub = service.stub
    stub.start(at_first(fault, of=of))
    files = contents(1, 4, 60_000)
    with trio.fail_after(60):
        near = opened_volume(service.patient(), tmp_path / "near", offload=Threads(4), fsync="remote")
        async with near as session:
            async with trio.open_nursery() as nursery:
                for number, (file, data) in enumerate(files.items()):
                    nursery.start_soon(partial(put, session.volume, file, data, durable=number == 3))
            for file, data in files.items():
                found = session.volume.lookup(ROOT, file)
                assert found is not None
                assert await content(session.volume, found.ino) == data
            await session.drain()
        async with opened_volume(service.patient(), tmp_path / "far", offload=Threads(4)) as session:
            for file, data in files.items():
                found = session.volume.lookup(ROOT, file)
                assert found is not None
                assert await content(session.volume, found.ino) == data
            assert session.status().requests["get"]["count"] > 0
    assert stub.met() >= 1


async def test_what_lasts_is_an_error_of_that_read_alone(service: Service, tmp_path: Path) -> None:
    """Every file is in a pack of its own, and the way to each pack has a trouble of its own."""
    stub = service.stub
    stub.start(healthy)
    files = contents(2, len(FAULTS), 70_000)
    async with opened_volume(service.patient(), tmp_path / "near", offload=Threads(4)) as session:
        for file, data in files.items():
            await put(session.volume, file, data)
            await session.drain()
    lasting = {name: (fault, of) for name, (fault, of) in FAULTS.items() if name not in _ONLY_WRITES}
    async with opened_volume(service.patient(2.5), tmp_path / "far", offload=Threads(4)) as session:
        volume = session.volume
        known = b"known"
        ino = await put(volume, known, b"known here")
        met: dict[str, str] = {}

        def plan(request: Request) -> Fault | None:
            if request.method != "GET" or "/packs/" not in request.key:
                return None
            name = met.setdefault(request.key, list(lasting)[len(met) % len(lasting)])
            return lasting[name][0]

        async def read(file: bytes) -> None:
            found = volume.lookup(ROOT, file)
            assert found is not None
            try:
                assert await content(volume, found.ino) == files[file]
            except InfinitfsError as error:
                failures.append(error)

        failures: list[InfinitfsError] = []
        stub.plan = plan
        with trio.fail_after(15):
            async with trio.open_nursery() as nursery:
                for file in files:
                    nursery.start_soon(read, file)
                assert await content(volume, ino) == b"known here"
        assert len(failures) == len(files)
        assert {failure.errno for failure in failures} == {errno.EIO}
        stub.plan = healthy
        failures.clear()
        async with trio.open_nursery() as nursery:
            for file in files:
                nursery.start_soon(read, file)
        assert not failures


_ONLY_WRITES = ("flipped on the way up", "lost answer", "conditional conflict")


# --- real mounts ---


def fuse(test: Callable[..., None]) -> Callable[..., None]:
    for mark in needs_fuse:
        test = mark(test)
    return test


@pytest.fixture
def far_home(new_home: Callable[[str], Home]) -> Iterator[tuple[Home, S3Stub]]:
    """A home whose volume is in a stub of its own."""
    with S3Stub() as stub:
        home = new_home("machine")
        home.environ["PYTHONPATH"] = os.pathsep.join([str(_resolver(home.folder)), home.environ["PYTHONPATH"]])
        home.run("user", "create", USER)
        home.run("credentials", "add", "--aws", "--name", "keys", input="AKIASTUB\nnot-looked-at\n")
        home.run(
            *("storage", "create", "--s3", "--name", "far", "--account", "keys", "--region", "us-east-1"),
            *("--bucket", BUCKET, "--path", "blocks", "--endpoint", f"http://stub.test:{stub.port}"),
        )
        home.run("volume", "create", VOLUME, "--storage", "far")
        yield home, stub


def _resolver(folder: Path) -> Path:
    """A folder for PYTHONPATH: the name stub.test is this machine, unless a file `away` is there."""
    place = folder / "resolver"
    place.mkdir()
    (place / "sitecustomize.py").write_text(
        "import os, socket\n"
        "_resolve = socket.getaddrinfo\n"
        "def _named(host, *arguments, **options):\n"
        "    if host == 'stub.test':\n"
        f"        if os.path.exists({str(place / 'away')!r}):\n"
        "            raise socket.gaierror(socket.EAI_AGAIN, 'Temporary failure in name resolution')\n"
        "        host = '127.0.0.1'\n"
        "    return _resolve(host, *arguments, **options)\n"
        "socket.getaddrinfo = _named\n"
    )
    return place


class Load:
    """Programs on a mounted folder: one writes and syncs, one reads what was written, one reads what is far away.
    Whatever differs or fails ends in `wrong`."""

    def __init__(self, drive: Path, far: dict[str, bytes], seed: int) -> None:
        self.drive = drive
        self.far = far
        self.near: dict[str, bytes] = {}
        self.wrong: list[str] = []
        self.reads = 0
        self._seed = seed
        self._over = threading.Event()
        jobs = (self._write, self._read_near, self._read_far)
        self._threads = [threading.Thread(target=self._guard, args=(job,), daemon=True) for job in jobs]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), "a program hangs"

    def _guard(self, job: Callable[[random.Random], None]) -> None:
        source = random.Random(f"{self._seed} {job.__name__}")
        while not self._over.is_set():
            try:
                job(source)
            except OSError as error:
                self.wrong.append(f"{job.__name__}: {error}")
            self._over.wait(0.02)

    def _write(self, source: random.Random) -> None:
        name, data = f"{self._seed}-{len(self.near)}", source.randbytes(source.randrange(1, 300_000))
        with (self.drive / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.near[name] = data

    def _read_near(self, source: random.Random) -> None:
        if self.near:
            self._compare(source.choice(list(self.near)), self.near)

    def _read_far(self, source: random.Random) -> None:
        self._compare(source.choice(list(self.far)), self.far)
        self.reads += 1

    def _compare(self, name: str, expected: dict[str, bytes]) -> None:
        if (self.drive / name).read_bytes() != expected[name]:
            self.wrong.append(f"{name} has other bytes")


def fill(home: Home, drive: Path, count: int, size: int) -> dict[str, bytes]:
    """Files that are in the storage and nowhere on this machine."""
    files = {name.decode(): data for name, data in contents(3, count, size).items()}
    mounted = home.mount(drive)
    for name, data in files.items():
        (drive / name).write_bytes(data)
    mounted.unmount()
    shutil.rmtree(home.root / "cache")
    return files


def far_number(name: str) -> int:
    return int(name.removeprefix("file"))


def elsewhere(home: Home, new_home: Callable[[str], Home], drive: Path, expected: dict[str, bytes]) -> None:
    """What another machine sees is what was written."""
    other = new_home("other")
    other.environ["PYTHONPATH"] = home.environ["PYTHONPATH"]
    shutil.copytree(home.root / "config", other.root / "config")
    mounted = other.mount(drive)
    for name, data in expected.items():
        assert (drive / name).read_bytes() == data, name
    mounted.unmount()


def peak(pid: int | None) -> int:
    """The most memory a process has had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def mixed(seed: int, share: float) -> Plan:
    """A share of the requests meets a fault that suits it, whatever came before; a hang is the one that takes time."""
    lock, source = threading.Lock(), random.Random(seed)

    def plan(request: Request) -> Fault | None:
        with lock:
            if source.random() >= share:
                return None
            return source.choice([fault for name, (fault, of) in FAULTS.items() if of(request) and name not in _RARE])

    return plan


_RARE = ("hang", "flipped on the way down")  # 15 s each; twice the same pack is damage


@fuse
def test_all_faults_mixed_under_a_mount(
    far_home: tuple[Home, S3Stub], drive: Path, new_home: Callable[[str], Home], tmp_path: Path
) -> None:
    home, stub = far_home
    home.expect(".")
    far = fill(home, drive, 10, 100_000)
    mounted = home.mount(drive, "--fsync", "remote")
    stub.plan = mixed(4, 0.5)
    with Load(drive, far, 5) as load:
        wait_until(lambda: load.reads > 20 and stub.met() > 10 and len(load.near) > 5, "the load")
    assert load.wrong == []
    stub.plan = healthy
    mounted.stored()
    mounted.unmount()
    elsewhere(home, new_home, tmp_path / "elsewhere", far | load.near)


@fuse
@pytest.mark.skipif(os.environ.get("MOUNT_TESTS") != "long", reason="takes minutes: MOUNT_TESTS=long")
@pytest.mark.parametrize("name", [*FAULTS, "names do not resolve"])
def test_each_fault_under_a_mount(
    name: str,
    far_home: tuple[Home, S3Stub],
    drive: Path,
    new_home: Callable[[str], Home],
    tmp_path: Path,
) -> None:
    """First every request meets it once, under load; then all meet it, for longer than patience lasts."""
    home, stub = far_home
    home.expect(".")
    far = fill(home, drive, 30, 300_000)
    mounted = home.mount(drive, "--memory", "1MiB")
    away = home.folder / "resolver" / "away"
    fault, of = FAULTS.get(name, (None, None))

    # It passes.
    if fault is not None and of is not None:
        stub.plan = at_first(fault, of=of)
    with Load(drive, far, 6) as load:
        for _ in range(6):
            if fault is None:
                away.touch()
                stub.hang_up()
            time.sleep(1)
            away.unlink(missing_ok=True)
            time.sleep(2)
    assert load.wrong == []
    assert load.reads > 0
    assert fault is None or stub.met() > 0

    # It lasts. What nobody has read yet is an error in the end; all else goes on.
    stub.plan = healthy
    mounted.stored()
    mounted.unmount()
    shutil.rmtree(home.root / "cache")
    mounted = home.mount(drive, "--memory", "1MiB")
    warm, cold = min(far, key=far_number), max(far, key=far_number)
    names = list(load.near)[:3]
    for known in (warm, *names):
        assert (drive / known).read_bytes() == (far | load.near)[known]
    if fault is None:
        away.touch()
        stub.hang_up()
    else:
        stub.plan = always(fault, of or (lambda request: True))
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(_read, drive / cold)
        with Load(drive, {warm: far[warm]}, 7) as during:
            time.sleep(10)
        met, lasted = reading.result()
    assert during.wrong == []
    assert len(during.near) > 20
    if name in _ONLY_WRITES:
        assert met == far[cold]
    elif name == "flipped on the way down":
        assert met in (errno.EIO, far[cold])  # a bit of what comes with it may be the one
    else:
        # The kernel asks again for the page that its read-ahead did not get.
        assert met == errno.EIO
        assert DEADLINE - 6 < lasted < 2 * (DEADLINE + 2 * 15) + 10

    # It ends.
    stub.plan = healthy
    away.unlink(missing_ok=True)
    assert (drive / cold).read_bytes() == far[cold]
    mounted.stored()
    memory = [peak(mounted.pid), peak(mounted.transfer())]
    print(f"{name}: EIO after {lasted:.0f} s; {load.reads} cold reads, {len(load.near)} fsyncs while it passed,")
    print(f"  {len(during.near)} while it lasted; at most {memory[0] >> 20} and {memory[1] >> 20} MiB")
    assert max(memory) < 256 * MIB
    mounted.unmount()
    elsewhere(home, new_home, tmp_path / "elsewhere", far | load.near | during.near)


def _read(path: Path) -> tuple[bytes | int | None, float]:
    """The bytes or the errno, and after how many seconds."""
    began = time.monotonic()
    met: bytes | int | None
    try:
        met = path.read_bytes()
    except OSError as error:
        met = error.errno
    return met, time.monotonic() - began
