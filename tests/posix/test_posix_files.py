"""Content: opening, appending, truncating, holes, maps, direct and positioned input and output, copies."""

import errno
import mmap
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.mounted import PATIENCE, needs_fuse
from tests.support.references import Drive
from tests.support.syscalls import refused

pytestmark = needs_fuse

LARGEST = 2**63 - 1


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_open_flags(folder: Path) -> None:
    path = folder / "file"
    with refused(errno.ENOENT):
        os.open(path, os.O_RDWR)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    with refused(errno.EEXIST):
        os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    (folder / "dangling").symlink_to("nowhere")
    with refused(errno.EEXIST):
        os.open(folder / "dangling", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.close(os.open(folder / "dangling", os.O_RDWR | os.O_CREAT))
    assert (folder / "nowhere").exists()
    path.write_bytes(b"content")
    os.close(os.open(path, os.O_RDWR | os.O_CREAT))
    assert path.read_bytes() == b"content"
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    assert path.stat().st_size == 0
    reader = os.open(path, os.O_RDONLY)
    with refused(errno.EBADF):
        os.write(reader, b"x")
    os.close(reader)
    writer = os.open(path, os.O_WRONLY)
    with refused(errno.EBADF):
        os.read(writer, 1)
    os.close(writer)
    with refused(errno.ENOTDIR):
        os.open(path / "below", os.O_RDONLY)
    with refused(errno.EISDIR):
        os.open(f"{folder}/new/", os.O_WRONLY | os.O_CREAT)


def test_two_descriptors_see_each_others_writes(folder: Path) -> None:
    one = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
    two = os.open(folder / "file", os.O_RDWR)
    os.pwrite(one, b"written by one", 100)
    assert os.pread(two, 14, 100) == b"written by one" and os.fstat(two).st_size == 114
    os.ftruncate(two, 110)
    assert os.pread(one, 100, 100) == b"written by"
    os.close(one)
    os.close(two)


def test_appends_of_several_processes_do_not_mix(folder: Path) -> None:
    path = folder / "log"
    path.touch()
    writers = []
    for letter in b"abcd":
        pid = os.fork()
        if pid == 0:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
            for _ in range(100):
                os.write(descriptor, bytes([letter]) * 99 + b"\n")
            os._exit(0)
        writers.append(pid)
    for pid in writers:
        assert os.waitpid(pid, 0)[1] == 0
    lines = path.read_bytes().split(b"\n")
    assert sorted(lines) == [b"", *sorted(bytes([letter]) * 99 for letter in b"abcd" * 100)]


def test_append_ignores_the_offset(folder: Path) -> None:
    descriptor = os.open(folder / "file", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, b"one")
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, b"two")
    assert os.pread(descriptor, 100, 0) == b"onetwo"
    os.close(descriptor)


def test_truncating_shows_zeros_afterwards(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"x" * 10_000)
    os.truncate(path, 5_000)
    os.truncate(path, 10_000)
    assert path.read_bytes() == b"x" * 5_000 + bytes(5_000)
    with refused(errno.EINVAL):
        os.truncate(path, -1)
    with refused(errno.EISDIR):
        os.truncate(folder, 0)
    with refused(errno.ENOENT):
        os.truncate(folder / "none", 0)
    reader = os.open(path, os.O_RDONLY)
    with refused(errno.EINVAL, errno.EBADF):
        os.ftruncate(reader, 0)
    os.close(reader)


def test_reading_at_and_behind_the_end(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"content")
    descriptor = os.open(path, os.O_RDWR)
    assert os.pread(descriptor, 100, 4) == b"ent" and os.pread(descriptor, 100, 7) == b""
    assert os.pread(descriptor, 100, 10**12) == b""
    assert os.lseek(descriptor, 10**12, os.SEEK_SET) == 10**12 and os.fstat(descriptor).st_size == 7
    assert os.lseek(descriptor, -2, os.SEEK_END) == 5 and os.read(descriptor, 9) == b"nt"
    with refused(errno.EINVAL):
        os.lseek(descriptor, -1, os.SEEK_SET)
    os.close(descriptor)


@pytest.mark.parametrize("offset", [2**31 - 2, 2**32 - 2, 2**40 + 3, 2**43 - 9])
def test_offsets_of_64_bits(folder: Path, offset: int) -> None:
    path = folder / "file"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, b"island", offset)
    assert os.fstat(descriptor).st_size == offset + 6
    assert os.pread(descriptor, 20, offset - 3) == b"\0\0\0island"
    os.close(descriptor)
    assert allocated(path) <= 16_384
    path.unlink()


def test_the_largest_file(drive: Drive) -> None:
    """Larger than a local disk has them."""
    path = drive.folder / "largest"
    path.touch()
    os.truncate(path, LARGEST)
    assert path.stat().st_size == LARGEST and allocated(path) == 0
    with path.open("r+b", buffering=0) as file:
        assert os.pread(file.fileno(), 10, LARGEST - 10) == bytes(10)
        os.pwrite(file.fileno(), b"the end", LARGEST - 7)
        with refused(errno.EFBIG, errno.EINVAL):
            os.pwrite(file.fileno(), b"x", LARGEST)
        os.fsync(file.fileno())
    drive.remount()
    with path.open("rb") as file:
        assert os.pread(file.fileno(), 10, LARGEST - 10) == b"\0\0\0the end"
    assert allocated(path) <= 4096
    os.truncate(path, 1)
    path.unlink()


def test_blocks_are_those_of_the_data(folder: Path) -> None:
    path = folder / "file"
    path.touch()
    assert allocated(path) == 0
    path.write_bytes(os.urandom(100_000))
    assert 100_000 <= allocated(path) <= 100_000 + 65536
    os.truncate(path, 10**12)
    assert allocated(path) <= 100_000 + 65536
    os.truncate(path, 0)
    assert allocated(path) == 0


def test_holes_cost_nothing(drive: Drive) -> None:
    path = drive.folder / "sparse"
    drive.remount()
    before = drive.stored_bytes
    with path.open("wb") as file:
        for gigabyte in range(0, 900 * 1024, 100 * 1024):
            file.seek(gigabyte << 30)
            file.write(b"island")
    drive.remount()
    assert path.stat().st_size > 800 << 30 and allocated(path) < 1 << 20
    assert 0 < drive.stored_bytes - before < 1 << 20
    path.unlink()


def test_shared_maps(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"." * 10_000)
    descriptor = os.open(path, os.O_RDWR)
    with mmap.mmap(descriptor, 0) as one, mmap.mmap(descriptor, 0) as two:
        one[5000:5006] = b"mapped"
        assert two[4998:5008] == b"..mapped.." and os.pread(descriptor, 6, 5000) == b"mapped"
        os.pwrite(descriptor, b"written", 100)
        assert one[100:107] == b"written"
        one.flush()
    os.close(descriptor)
    assert path.read_bytes()[5000:5006] == b"mapped"


def test_private_maps(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"." * 10_000)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as private:
        private[0:7] = b"private"
    assert path.read_bytes()[:7] == b"......."


def test_a_map_outlives_its_descriptor_and_its_name(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"content" * 1000)
    descriptor = os.open(path, os.O_RDWR)
    mapped = mmap.mmap(descriptor, 0)
    os.close(descriptor)
    path.unlink()
    mapped[0:3] = b"CON"
    assert mapped[0:7] == b"CONtent" and mapped[-7:] == b"content"
    mapped.close()


def test_touching_a_map_behind_the_end_is_a_signal(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(bytes(10_000))
    script = (
        "import mmap, os, sys\n"
        "file = os.open(sys.argv[1], os.O_RDWR); mapped = mmap.mmap(file, 0)\n"
        "os.ftruncate(file, 100); assert mapped[99] == 0; print(mapped[9000])"
    )
    python = "/usr/bin/python3"  # the one of the tests may lie where this user may not look
    done = subprocess.run([python, "-c", script, str(path)], timeout=PATIENCE, capture_output=True)
    assert done.returncode == -signal.SIGBUS


def test_what_a_map_writes_behind_the_end_is_not_kept(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"x" * 100)
    descriptor = os.open(path, os.O_RDWR)
    with mmap.mmap(descriptor, 100) as mapped:
        mapped[99:100] = b"y"
    os.ftruncate(descriptor, 50)
    os.ftruncate(descriptor, 4096)
    assert os.pread(descriptor, 4096, 0) == b"x" * 50 + bytes(4046)
    os.close(descriptor)


def test_direct_input_and_output(folder: Path) -> None:
    path = folder / "file"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    with mmap.mmap(-1, 65536) as buffer:
        buffer[:] = os.urandom(65536)
        assert os.pwritev(descriptor, [buffer], 4096) == 65536
        cached = os.open(path, os.O_RDWR)
        assert os.pread(cached, 65536, 4096) == buffer[:]
        os.pwrite(cached, b"through the cache", 8192)
        with mmap.mmap(-1, 4096) as page:
            assert os.preadv(descriptor, [page], 8192) == 4096
            assert page[:17] == b"through the cache" and page[17:] == buffer[4096 + 17 : 8192]
    os.close(descriptor)
    os.close(cached)


def test_copy_file_range(folder: Path) -> None:
    (folder / "source").write_bytes(bytes(range(256)) * 400)
    source = os.open(folder / "source", os.O_RDONLY)
    target = os.open(folder / "target", os.O_RDWR | os.O_CREAT)
    copied = 0
    while part := os.copy_file_range(source, target, 100_000, copied, 10 + copied):
        copied += part
    assert copied == 102_400 and os.pread(target, 200_000, 0) == bytes(10) + bytes(range(256)) * 400
    with refused(errno.EINVAL):
        os.copy_file_range(target, target, 100, 0, 50)
    with refused(errno.EBADF):
        os.copy_file_range(target, source, 100)
    os.close(source)
    os.close(target)


@pytest.mark.parametrize("options", [["--reflink=auto"], ["--sparse=always"], ["--preserve=all"]])
def test_cp(folder: Path, options: list[str]) -> None:
    content = os.urandom(70_000) + bytes(1 << 20) + os.urandom(10)
    (folder / "source").write_bytes(content)
    subprocess.run(["cp", *options, "source", "target"], cwd=folder, check=True, timeout=PATIENCE)
    assert (folder / "target").read_bytes() == content


def test_tar_finds_data_that_was_not_flushed_yet(folder: Path) -> None:
    """A file without blocks would be taken for a hole."""
    (folder / "file").write_bytes(b"content" * 1000)
    subprocess.run(["tar", "--sparse", "-cf", "a.tar", "file"], cwd=folder, check=True, timeout=PATIENCE)
    (folder / "file").unlink()
    subprocess.run(["tar", "-xf", "a.tar"], cwd=folder, check=True, timeout=PATIENCE)
    assert (folder / "file").read_bytes() == b"content" * 1000


def test_advice_and_room_in_advance(folder: Path) -> None:
    descriptor = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(descriptor, 0, 50_000)
    assert os.fstat(descriptor).st_size == 50_000
    os.pwrite(descriptor, b"content", 0)
    advices = ("NORMAL", "SEQUENTIAL", "RANDOM", "WILLNEED", "NOREUSE", "DONTNEED")
    for advice in advices:
        os.posix_fadvise(descriptor, 0, 0, getattr(os, f"POSIX_FADV_{advice}"))
    assert os.pread(descriptor, 7, 0) == b"content"
    os.close(descriptor)


def test_vectors(folder: Path) -> None:
    descriptor = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
    assert os.pwritev(descriptor, [b"one", b"", b"two" * 2000, b"three"], 5) == 6008
    parts = [bytearray(3), bytearray(6000), bytearray(100)]
    assert os.preadv(descriptor, parts, 5) == 6008 and parts[2][:6] == b"three\0"
    os.close(descriptor)


def test_seeking_data_and_holes(folder: Path) -> None:
    """Whatever a filesystem knows of its holes: data is never taken for one."""
    descriptor = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, b"content", 100_000)
    hole = os.lseek(descriptor, 100_000, os.SEEK_HOLE)
    assert hole >= 100_007 and os.lseek(descriptor, 100_001, os.SEEK_DATA) == 100_001
    with refused(errno.ENXIO):
        os.lseek(descriptor, 100_007, os.SEEK_DATA)
    os.close(descriptor)


def test_running_a_program(folder: Path) -> None:
    program = folder / "program"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    assert subprocess.run([program], timeout=PATIENCE).returncode == 0
