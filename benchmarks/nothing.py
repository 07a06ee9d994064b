"""A filesystem that does nothing but answer: dicts in memory behind pyfuse3. The ceiling of any pyfuse3 filesystem.

Above: `subjects.Nothing`, which runs `python -m benchmarks.nothing DIR`. Below: pyfuse3.
Invariant: what the kernel is told about caching is what infinitfs tells it (write-back cache, one hour for names and
attributes, pages kept between opens), so that a ratio compares what happens behind the same requests.

It keeps extended attributes, as infinitfs does: one that answers "no such call" is never asked again before a write.
"""

import errno
import os
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, FlagT, FUSEError, InodeT, ModeT

VALID = 3600.0  # seconds, as `infinitfs.mount.operations`
OPTIONS = {"default_permissions", "noatime"}


@dataclass(slots=True)
class Node:
    """An inode: `entry` is what the kernel is told of it; `children` is a folder's, in the order of their making."""

    entry: EntryAttributes
    content: bytearray = field(default_factory=bytearray)
    children: dict[bytes, "Node"] = field(default_factory=dict)
    target: FileNameT | None = None
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class Nothing(pyfuse3.Operations):
    enable_writeback_cache = True

    def __init__(self) -> None:
        super().__init__()
        self._nodes: dict[int, Node] = {}
        self._last = pyfuse3.ROOT_INODE - 1
        self._listings: dict[int, list[tuple[bytes, Node]]] = {}
        self._new(stat.S_IFDIR | 0o755, os.getuid(), os.getgid())

    def _new(self, mode: int, uid: int, gid: int) -> Node:
        self._last = InodeT(self._last + 1)
        entry = EntryAttributes()
        entry.st_ino = self._last
        entry.generation = 0
        entry.entry_timeout = entry.attr_timeout = VALID
        entry.st_mode = ModeT(mode)
        entry.st_nlink = 1
        entry.st_uid, entry.st_gid = uid, gid
        entry.st_rdev = 0
        entry.st_size = 0
        entry.st_blksize = 4096
        entry.st_blocks = 0
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = time.time_ns()
        node = self._nodes[self._last] = Node(entry)
        return node

    def _add(self, parent: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext) -> Node:
        children = self._nodes[parent].children
        if name in children:
            raise FUSEError(errno.EEXIST)
        node = children[name] = self._new(mode & ~ctx.umask, ctx.uid, ctx.gid)
        return node

    # --- names ---

    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        node = self._nodes[parent_inode].children.get(name)
        if node is not None:
            return node.entry
        absent = EntryAttributes()
        absent.st_ino = InodeT(0)
        absent.entry_timeout = VALID
        return absent

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for ino, _ in inode_list:
            node = self._nodes.get(ino)
            if node is not None and node.entry.st_nlink == 0:
                del self._nodes[ino]

    async def readlink(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileNameT:
        target = self._nodes[inode].target
        if target is None:
            raise FUSEError(errno.EINVAL)
        return target

    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: pyfuse3.RequestContext
    ) -> EntryAttributes:
        return self._add(parent_inode, name, stat.S_IFDIR | mode, ctx).entry

    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: pyfuse3.RequestContext
    ) -> EntryAttributes:
        node = self._add(parent_inode, name, stat.S_IFLNK | 0o777, ctx)
        node.target = target
        return node.entry

    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: pyfuse3.RequestContext
    ) -> EntryAttributes:
        node = self._nodes[new_parent_inode].children[new_name] = self._nodes[inode]
        node.entry.st_nlink += 1
        return node.entry

    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext) -> None:
        self._nodes[parent_inode].children.pop(name).entry.st_nlink -= 1

    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext) -> None:
        children = self._nodes[parent_inode].children
        if children[name].children:
            raise FUSEError(errno.ENOTEMPTY)
        children.pop(name).entry.st_nlink -= 1

    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        replaced = self._nodes[parent_inode_new].children.pop(name_new, None)
        if replaced is not None:
            replaced.entry.st_nlink -= 1
        self._nodes[parent_inode_new].children[name_new] = self._nodes[parent_inode_old].children.pop(name_old)

    # --- attributes ---

    async def getattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        return self._nodes[inode].entry

    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> EntryAttributes:
        node = self._nodes[inode]
        entry = node.entry
        if fields.update_size:
            del node.content[attr.st_size :]
            node.content.extend(bytes(attr.st_size - len(node.content)))
            entry.st_size = attr.st_size
        if fields.update_mode:
            entry.st_mode = attr.st_mode
        if fields.update_uid:
            entry.st_uid = attr.st_uid
        if fields.update_gid:
            entry.st_gid = attr.st_gid
        if fields.update_atime:
            entry.st_atime_ns = attr.st_atime_ns
        if fields.update_mtime:
            entry.st_mtime_ns = attr.st_mtime_ns
        if fields.update_ctime:
            entry.st_ctime_ns = attr.st_ctime_ns
        return entry

    async def getxattr(self, inode: InodeT, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        value = self._nodes[inode].xattrs.get(name)
        if value is None:
            raise FUSEError(pyfuse3.ENOATTR)
        return value

    async def setxattr(self, inode: InodeT, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._nodes[inode].xattrs[name] = value

    async def listxattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        return list(self._nodes[inode].xattrs)

    async def removexattr(self, inode: InodeT, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        if self._nodes[inode].xattrs.pop(name, None) is None:
            raise FUSEError(pyfuse3.ENOATTR)

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        reply = pyfuse3.StatvfsData()
        reply.f_bsize = reply.f_frsize = 4096
        reply.f_blocks = reply.f_bfree = reply.f_bavail = 2**40
        reply.f_files = reply.f_ffree = reply.f_favail = 2**32
        reply.f_namemax = 255
        return reply

    # --- content ---

    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: pyfuse3.RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        node = self._add(parent_inode, name, stat.S_IFREG | mode, ctx)
        return self._handle(node.entry.st_ino), node.entry

    async def open(self, inode: InodeT, flags: FlagT, ctx: pyfuse3.RequestContext) -> FileInfo:
        node = self._nodes[inode]
        if flags & os.O_TRUNC:
            node.content.clear()
            node.entry.st_size = 0
        return self._handle(inode)

    def _handle(self, inode: int) -> FileInfo:
        return FileInfo(fh=FileHandleT(inode), keep_cache=True)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        with memoryview(self._nodes[fh].content) as view:
            return bytes(view[off : off + size])

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        node = self._nodes[fh]
        content = node.content
        if off > len(content):
            content.extend(bytes(off - len(content)))
        content[off : off + len(buf)] = buf
        node.entry.st_size = len(content)
        return len(buf)

    async def flush(self, fh: FileHandleT) -> None:
        pass

    async def release(self, fh: FileHandleT) -> None:
        pass

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        pass

    # --- directories ---

    async def opendir(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileHandleT:
        return FileHandleT(inode)

    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        if start_id == 0:
            self._listings[fh] = list(self._nodes[InodeT(fh)].children.items())
        listing = self._listings[fh]
        for position in range(start_id, len(listing)):
            name, node = listing[position]
            if not pyfuse3.readdir_reply(token, FileNameT(name), node.entry, position + 1):
                break

    async def releasedir(self, fh: FileHandleT) -> None:
        self._listings.pop(fh, None)

    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        pass

    async def access(self, inode: InodeT, mode: ModeT, ctx: pyfuse3.RequestContext) -> bool:
        return True

    def stacktrace(self) -> None:
        """Not offered."""


def main() -> None:
    pyfuse3.init(Nothing(), sys.argv[1], {*pyfuse3.default_options, *OPTIONS, "fsname=nothing"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()
