"""`infinitfs copy`: the copy is what the original was, costs nothing, and lives on its own."""

# System calls are made by their own names.
# ruff: noqa: PTH208

import os
import stat
from pathlib import Path

import pytest

from tests.support.mounted import needs_fuse
from tests.support.references import Drive

pytestmark = needs_fuse

SIZE = 5 << 20


@pytest.fixture
def folder(drive: Drive, request: pytest.FixtureRequest) -> Path:
    made = drive.folder / str(request.node.name)
    made.mkdir()
    return made


def copy(drive: Drive, *arguments: str | Path) -> str:
    return drive.home.run("copy", *map(str, arguments))


def test_no_data_moves_and_the_two_live_apart(drive: Drive, folder: Path) -> None:
    content = os.urandom(SIZE)
    (folder / "one").write_bytes(content)
    drive.remount()
    before = drive.stored_bytes
    for number in range(3):
        assert "Copied" in copy(drive, folder / "one", folder / f"copy-{number}")
    drive.remount()
    assert drive.stored_bytes - before < 100_000
    with (folder / "copy-0").open("r+b") as file:
        file.seek(1000)
        file.write(b"changed")
    (folder / "one").unlink()
    drive.home.run("gc", drive.mounted.volume)
    assert (folder / "copy-1").read_bytes() == content
    assert (folder / "copy-0").read_bytes() == content[:1000] + b"changed" + content[1007:]
    drive.remount()
    assert (folder / "copy-2").read_bytes() == content
    assert (folder / "copy-2").stat().st_blocks * 512 >= SIZE


def test_what_was_not_flushed_is_copied_too(drive: Drive, folder: Path) -> None:
    with (folder / "one").open("wb", buffering=0) as file:
        file.write(b"written just now" * 1000)
        file.seek(10 << 20)
        file.write(b"behind a hole")
        copy(drive, folder / "one", folder / "two")
        file.write(b", and more")
    assert (folder / "two").read_bytes() == b"written just now" * 1000 + bytes((10 << 20) - 16_000) + b"behind a hole"
    assert (folder / "two").stat().st_blocks * 512 < 1 << 20


def test_a_file_that_is_open_shows_the_copy(drive: Drive, folder: Path) -> None:
    (folder / "one").write_bytes(b"new" * 10_000)
    (folder / "two").write_bytes(b"old" * 90_000)
    with (folder / "two").open("rb") as file:
        assert file.read(3) == b"old"
        copy(drive, folder / "one", folder / "two")
        assert os.pread(file.fileno(), 50_000, 0) == b"new" * 10_000
    assert (folder / "two").read_bytes() == b"new" * 10_000
    with (folder / "two").open("ab") as file:
        file.write(b"appended")
    drive.remount()
    assert (folder / "two").read_bytes() == b"new" * 10_000 + b"appended"
    assert (folder / "one").read_bytes() == b"new" * 10_000


def test_into_a_folder_with_and_without_what_cp_preserves(drive: Drive, folder: Path) -> None:
    path = folder / "one"
    path.touch()
    path.chmod(0o751)
    os.setxattr(path, "user.a", b"value")
    os.utime(path, ns=(1, 2))
    (folder / "below").mkdir()
    copy(drive, "-p", path, folder / "below")
    copy(drive, path, folder / "plain")
    kept, plain = (folder / "below" / "one").stat(), (folder / "plain").stat()
    assert (kept.st_atime_ns, kept.st_mtime_ns, stat.S_IMODE(kept.st_mode)) == (1, 2, 0o751)
    assert os.getxattr(folder / "below" / "one", "user.a") == b"value"
    assert plain.st_mtime_ns > 2 and os.listxattr(folder / "plain") == []


def test_a_folder(drive: Drive, folder: Path) -> None:
    tree = folder / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "file").write_bytes(b"content")
    (tree / "link").symlink_to("a/file")
    os.mkfifo(tree / "a" / "pipe")
    (tree / "a" / "b").chmod(0o500)
    os.utime(tree / "a", ns=(3, 4))
    sentence = drive.home.refused(2, "copy", str(tree), str(folder / "other"))
    assert "-r" in sentence and not (folder / "other").exists()
    assert "itself" in drive.home.refused(2, "copy", "-r", str(tree), str(tree / "a" / "new"))
    copy(drive, "-rp", tree, folder / "other")
    found = sorted(str(path.relative_to(folder / "other")) for path in (folder / "other").rglob("*"))
    assert found == ["a", "a/b", "a/file", "a/pipe", "link"]
    assert (folder / "other" / "link").readlink() == Path("a/file")
    assert (folder / "other" / "a" / "file").read_bytes() == b"content"
    assert (folder / "other" / "a" / "b").stat().st_mode == (tree / "a" / "b").stat().st_mode
    assert (folder / "other" / "a").stat().st_mtime_ns == 4


def test_what_cannot_be_copied(drive: Drive, folder: Path, tmp_path: Path) -> None:
    (folder / "one").write_bytes(b"content")
    (tmp_path / "outside").touch()
    refused = drive.home.refused
    assert "use cp" in refused(2, "copy", str(folder / "one"), str(tmp_path / "two"))
    assert "same file" in refused(2, "copy", str(folder / "one"), str(folder / "one"))
    assert "A mount at" in refused(10, "copy", str(tmp_path / "outside"), str(tmp_path / "two"))
    assert "none" in refused(1, "copy", str(folder / "none"), str(folder / "two"))
    assert (folder / "one").read_bytes() == b"content" and sorted(os.listdir(folder)) == ["one"]
