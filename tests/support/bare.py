"""A FUSE filesystem that has nothing of infinitfs in it, to tell whose a difference from a local disk is.

Above: tests/posix/test_posix_limits.py. Below: `benchmarks.nothing`, which keeps everything in dicts; pyfuse3.
Invariant: what the kernel sees in this mount is pyfuse3's and its own doing. Requests that say who asked for what are
noted, one a line, in a file beside the mount.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileNameT, InodeT, ModeT

from benchmarks.nothing import Nothing
from tests.support.mounted import PATIENCE, wait_until

_ROOT = Path(__file__).resolve().parents[2]


class Bare(Nothing):
    enable_acl = True

    def __init__(self, notes: Path) -> None:
        super().__init__()
        self._notes = notes

    def _note(self, line: str) -> None:
        with self._notes.open("a") as notes:
            notes.write(f"{line}\n")

    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: pyfuse3.RequestContext
    ) -> EntryAttributes:
        self._note(f"mkdir {mode & 0o777:o}")
        return await super().mkdir(parent_inode, name, mode, ctx)

    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: pyfuse3.RequestContext
    ) -> EntryAttributes:
        return self._add(parent_inode, name, mode, ctx).entry

    async def getattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        self._note(f"getattr {inode}")
        return await super().getattr(inode, ctx)

    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> EntryAttributes:
        if fields.update_mode:
            self._note(f"setattr {inode} mode {attr.st_mode:o}")
        return await super().setattr(inode, attr, fields, fh, ctx)

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        self._note(f"write {fh}")
        return await super().write(fh, off, buf)


@contextmanager
def bare_mount(folder: Path) -> Iterator[tuple[Path, Path]]:
    """A mount in `folder`, open to all users, with no other option; and the file in which its requests are noted."""
    directory, notes = folder / "bare", folder / "requests"
    directory.mkdir()
    notes.touch()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.bare", str(directory), str(notes)], cwd=_ROOT
    ) as server:
        try:
            wait_until(directory.is_mount, "the bare mount")
            yield directory, notes
        finally:
            subprocess.run(["fusermount3", "-u", "-z", str(directory)], check=False, timeout=PATIENCE)
            server.wait(PATIENCE)


def main(directory: str, notes: str) -> None:
    pyfuse3.init(Bare(Path(notes)), directory, {*pyfuse3.default_options, "allow_other", "fsname=bare"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
