"""The FUSE adapter: requests of the kernel become calls of a volume.

Above: pyfuse3, which runs each request as a task. Below: `volume.Volume`.
Invariant: no state of its own but what a kernel knows: every inode named in a reply counts as one use until the kernel
forgets it. The only place where an error becomes an errno.

This mount is the only writer, so entries, attributes and cached pages stay valid for as long as the kernel likes, and
names that do not exist are cached, too. With the write-back cache the kernel owns size and times of the regular files
it has cached, and sends them.
"""

import errno
import logging
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from functools import partial, wraps
from time import perf_counter
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, FlagT, FUSEError, InodeT, ModeT

from infinitfs.errors import DamagedObject, InfinitfsError, NameTooLong
from infinitfs.mount.metrics import Timing
from infinitfs.mount.request import MountRequest
from infinitfs.mount.turn import Turn
from infinitfs.mount.vigil import Vigil
from infinitfs.volume import acl
from infinitfs.volume.inodes import Attributes, Inode
from infinitfs.volume.namespace import NAME_MAX
from infinitfs.volume.volume import Volume

_log = logging.getLogger(__name__)

VALID = 3600.0  # seconds that the kernel may keep entries and attributes without asking
_BLOCK = 4096
_TIMES = range(-(2**63) + 1, 2**63)  # nanoseconds that can be kept: the years 1677 to 2262
_XATTRS = (b"user.", b"trusted.", b"security.")
_CAPABILITY = b"security.capability"  # what the program in a file may do: goes when the file changes
_FORGOTTEN = 1000  # inodes, without letting another task run: the kernel names up to 65,000 at a time
_SMALL = 16 * 1024  # bytes: who asks for more at a time reads or writes on
_DOT, _DOT_DOT = 1, 2  # their places in a listing
_UNLIMITED = 2**50  # what `df` shows of a storage without a capacity

P = ParamSpec("P")
R = TypeVar("R")


def _answers(
    handler: Callable[Concatenate["Operations", P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate["Operations", P], Coroutine[Any, Any, R]]:
    """Errors of the tree become their errno; anything else is a defect, and EIO. What EIO hides is logged. All are
    counted and timed."""
    name = handler.__name__

    @wraps(handler)
    async def answer(self: "Operations", /, *args: P.args, **kwargs: P.kwargs) -> R:
        began = perf_counter()
        try:
            return await self.turn.answer(handler(self, *args, **kwargs))
        except InfinitfsError as error:
            if error.errno == errno.EIO:
                self.timings[name].failures += 1
                if not isinstance(error, DamagedObject):  # that was logged where it was met
                    _log.error("%s", error)
            raise FUSEError(error.errno) from None
        except FUSEError:
            raise
        except Exception:
            self.timings[name].failures += 1
            _log.exception("Unexpected failure in %s.", name)
            raise FUSEError(errno.EIO) from None
        finally:
            ended = perf_counter()
            self.timings[name].add(ended - began)
            self.vigil.answered(began, ended)

    return answer


class Operations(pyfuse3.Operations):
    supports_dot_lookup = True
    enable_writeback_cache = True
    enable_acl = True

    def __init__(self, volume: Volume, request: MountRequest) -> None:
        super().__init__()
        self.enable_writeback_cache = not request.read_only
        self.timings: defaultdict[str, Timing] = defaultdict(Timing)
        self.turn = Turn()
        self.vigil = Vigil()
        self._volume = volume
        self._uid = request.uid
        self._gid = request.gid
        self._mask = ~((request.umask or 0) & 0o777)
        self._reply = _blank()
        self._kind: tuple[int, ...] = ()

    def _entry(self, attributes: Attributes) -> EntryAttributes:
        """What the kernel is told of an inode. Always the same object: pyfuse3 copies it before it lets another task
        run. To set an attribute costs more than to see that it is as in the reply before, as most are."""
        ino, mode, uid, gid, nlink, size, allocated, rdev, atime, mtime, ctime = attributes
        entry = self._reply
        kind = mode, uid, gid, nlink, rdev
        if kind != self._kind:
            entry.st_mode = mode & self._mask
            entry.st_uid = uid if self._uid is None else self._uid
            entry.st_gid = gid if self._gid is None else self._gid
            entry.st_nlink = nlink
            entry.st_rdev = rdev
            self._kind = kind
        entry.st_ino = ino
        entry.st_size = size
        entry.st_blocks = (allocated + 511) // 512
        entry.st_atime_ns = atime
        entry.st_mtime_ns = mtime
        entry.st_ctime_ns = ctime
        return entry

    def _known(self, inode: Inode) -> EntryAttributes:
        """The reply that makes an inode known to the kernel."""
        self._volume.use(inode.ino)
        return self._entry(inode.attributes)

    # --- names ---

    @_answers
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        inode = self._volume.lookup(parent_inode, name)
        if inode is not None:
            return self._known(inode)
        absent = EntryAttributes()
        absent.st_ino = 0
        absent.entry_timeout = VALID
        return absent

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for done, (ino, count) in enumerate(inode_list):
            try:
                self._volume.release_use(ino, count)
            except InfinitfsError as error:
                _log.error("%s", error)
            if done % _FORGOTTEN == _FORGOTTEN - 1:
                self.turn.pass_on()
                await trio.lowlevel.checkpoint()

    @_answers
    async def readlink(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileNameT:
        target = self._volume.attributes(inode).target
        if target is None:
            raise FUSEError(errno.EINVAL)
        return target

    @_answers
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: pyfuse3.RequestContext
    ) -> EntryAttributes:
        return await self._create(parent_inode, name, mode & ~ctx.umask, ctx, rdev=rdev)

    @_answers
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: pyfuse3.RequestContext
    ) -> EntryAttributes:
        return await self._create(parent_inode, name, stat.S_IFDIR | (mode & 0o7777 & ~ctx.umask), ctx)

    @_answers
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: pyfuse3.RequestContext
    ) -> EntryAttributes:
        if len(target) > 4095:
            raise NameTooLong(path="the target")
        return await self._create(parent_inode, name, stat.S_IFLNK | 0o777, ctx, target=target)

    async def _create(
        self,
        parent: int,
        name: bytes,
        mode: int,
        ctx: pyfuse3.RequestContext,
        *,
        rdev: int = 0,
        target: bytes | None = None,
    ) -> EntryAttributes:
        inode = await self._volume.create(parent, name, mode, ctx.uid, ctx.gid, rdev=rdev, target=target)
        return self._known(inode)

    @_answers
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: pyfuse3.RequestContext
    ) -> EntryAttributes:
        return self._known(await self._volume.link(inode, new_parent_inode, new_name))

    @_answers
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext) -> None:
        await self._volume.unlink(parent_inode, name)

    @_answers
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext) -> None:
        await self._volume.rmdir(parent_inode, name)

    @_answers
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        await self._volume.rename(
            parent_inode_old, name_old, parent_inode_new, name_new, flags, uid=ctx.uid, gid=ctx.gid
        )

    # --- attributes ---

    @_answers
    async def getattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        return self._entry(self._volume.attributes(inode).attributes)

    @_answers
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> EntryAttributes:
        changes: dict[str, int] = {}
        if fields.update_mode:
            changes["mode"] = attr.st_mode
        if fields.update_uid:
            changes["uid"] = attr.st_uid
        if fields.update_gid:
            changes["gid"] = attr.st_gid
        if fields.update_atime:
            changes["atime"] = _kept_time(attr.st_atime_ns)
        if fields.update_mtime:
            changes["mtime"] = _kept_time(attr.st_mtime_ns)
        if fields.update_ctime:
            changes["ctime"] = _kept_time(attr.st_ctime_ns)
        size = attr.st_size if fields.update_size else None
        return self._entry((await self._volume.set_attributes(inode, size=size, **changes)).attributes)

    @_answers
    async def setxattr(self, inode: InodeT, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        _check_xattr(name)
        if name == acl.ACCESS:
            await self._drop_foreign_group(inode, ctx)
        await self._volume.set_xattr(inode, name, value)

    async def _drop_foreign_group(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> None:
        """Who is not in a file's group loses its set-group-ID bit with an ACL, as with chmod: here the kernel leaves
        that to us."""
        found = self._volume.attributes(inode)
        if found.mode & stat.S_ISGID and not await self._is_in_group(found.gid, ctx):
            await self._volume.set_attributes(inode, mode=found.mode & ~stat.S_ISGID)

    async def _is_in_group(self, gid: int, ctx: pyfuse3.RequestContext) -> bool:
        """Whether who asks is root or in this group."""
        if ctx.uid == 0 or gid == ctx.gid:
            return True
        return gid in await trio.to_thread.run_sync(pyfuse3.get_sup_groups, ctx.pid)

    @_answers
    async def getxattr(self, inode: InodeT, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        _check_xattr(name)
        value = self._volume.get_xattr(inode, name)
        if name == acl.ACCESS:
            return acl.shown(value, self._volume.attributes(inode).mode & self._mask)
        return value

    @_answers
    async def listxattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        names = self._volume.list_xattrs(inode)
        return names if ctx.uid == 0 else [name for name in names if not name.startswith(b"trusted.")]

    @_answers
    async def removexattr(self, inode: InodeT, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        _check_xattr(name)
        await self._volume.remove_xattr(inode, name)

    @_answers
    async def access(self, inode: InodeT, mode: ModeT, ctx: pyfuse3.RequestContext) -> bool:
        # The mount option `default_permissions` has the kernel decide; this is asked on behalf of nobody.
        return True

    @_answers
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        space = self._volume.space()
        capacity = max(space.capacity or _UNLIMITED, space.stored)
        reply = pyfuse3.StatvfsData()
        reply.f_bsize = reply.f_frsize = _BLOCK
        reply.f_blocks = capacity // _BLOCK
        reply.f_bfree = (capacity - space.stored) // _BLOCK
        reply.f_bavail = space.left // _BLOCK if space.capacity else reply.f_bfree
        reply.f_files = 2**32
        reply.f_ffree = reply.f_favail = 2**32 - space.inodes
        reply.f_namemax = NAME_MAX
        return reply

    # --- content ---

    @_answers
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: pyfuse3.RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        mode = stat.S_IFREG | (mode & 0o7777 & ~ctx.umask)
        inode = await self._volume.create(parent_inode, name, mode, ctx.uid, ctx.gid)
        self._volume.open(inode.ino)
        return self._handle(inode.ino), self._known(inode)

    @_answers
    async def open(self, inode: InodeT, flags: FlagT, ctx: pyfuse3.RequestContext) -> FileInfo:
        if flags & os.O_TRUNC:  # libfuse asks for FUSE_ATOMIC_O_TRUNC: no setattr follows
            await self._empty(inode, ctx)
        self._volume.open(inode)
        return self._handle(inode)

    async def _empty(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> None:
        """Truncate to nothing. Capabilities go and, for a user who is not root, set-id bits; here the kernel leaves
        that to us."""
        if _CAPABILITY in self._volume.list_xattrs(inode):
            await self._volume.remove_xattr(inode, _CAPABILITY)
        found = self._volume.attributes(inode)
        mode = found.mode & ~stat.S_ISUID
        if mode & stat.S_ISGID and (mode & stat.S_IXGRP or not await self._is_in_group(found.gid, ctx)):
            mode &= ~stat.S_ISGID
        if ctx.uid == 0 or mode == found.mode:
            await self._volume.set_attributes(inode, size=0)
            return
        await self._volume.set_attributes(inode, size=0, mode=mode)
        # The kernel goes on showing the mode that it knows; it may be told from a thread only.
        await trio.to_thread.run_sync(partial(pyfuse3.invalidate_inode, inode, attr_only=True))

    def _handle(self, ino: int) -> FileInfo:
        """A file's handle is its inode: all that an open file needs is kept there."""
        return FileInfo(fh=ino, keep_cache=True)

    @_answers
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        if size > _SMALL:
            self.turn.rest()
        return cast(bytes, await self._volume.read(fh, off, size))

    @_answers
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        if len(buf) > _SMALL:
            self.turn.rest()
        return await self._volume.write(fh, off, buf)

    # No `flush`: a close has the kernel write what it keeps of the file, and has nothing else to wait for. Once it was
    # told that there is no such call it makes no more of them: one request less of the seven of a small file.

    @_answers
    async def release(self, fh: FileHandleT) -> None:
        self._volume.close(fh)

    @_answers
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        self._volume.check_error(fh)
        await self._volume.fsync(fh)

    # --- directories ---

    @_answers
    async def opendir(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileHandleT:
        self._volume.use(inode)
        return inode

    @_answers
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        # The place behind an entry is its position + 1; 1 and 2 are those behind "." and "..", whose inodes the kernel
        # knows: these two it does not count as uses.
        if start_id < _DOT and not self._list_dot(fh, b".", _DOT, token):
            return
        if start_id < _DOT_DOT and not self._list_dot(fh, b"..", _DOT_DOT, token):
            return
        self.turn.rest()
        answer, use = self._entry, self._volume.use
        for row in self._volume.entries(fh, start_id - 1):
            if not pyfuse3.readdir_reply(token, row[1], answer(row[2:]), row[0] + 1):
                break
            use(row[2])

    def _list_dot(self, folder: int, name: bytes, place: int, token: pyfuse3.ReaddirToken) -> bool:
        inode = self._volume.lookup(folder, name)
        return inode is None or pyfuse3.readdir_reply(token, FileNameT(name), self._entry(inode.attributes), place)

    @_answers
    async def releasedir(self, fh: FileHandleT) -> None:
        self._volume.release_use(fh)

    @_answers
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        await self._volume.sync()

    def stacktrace(self) -> None:
        """Asked for by a special attribute of the root; an operator's tool of pyfuse3 that is not offered."""


def _blank() -> EntryAttributes:
    entry = EntryAttributes()
    entry.generation = 0
    entry.entry_timeout = entry.attr_timeout = VALID
    entry.st_blksize = _BLOCK
    return entry


def _kept_time(nanoseconds: int) -> int:
    """The nearest time that can be kept, as a local disk does it with what it has no bits for."""
    return nanoseconds if nanoseconds in _TIMES else min(max(nanoseconds, _TIMES.start), _TIMES[-1])


def _check_xattr(name: bytes) -> None:
    """Refuse attributes of a kind that is not kept. (The kernel checks who may have which.)"""
    if name in (acl.ACCESS, acl.DEFAULT):
        return
    if not name.startswith(_XATTRS):
        raise FUSEError(errno.ENOTSUP)
    if name in _XATTRS:
        raise FUSEError(errno.EINVAL)


def mount_options(request: MountRequest, name: str) -> set[str]:
    """The options that the kernel's mount gets."""
    options = set(pyfuse3.default_options)
    options |= {f"fsname=infinitfs:{name}", "subtype=infinitfs", "default_permissions", "noatime", *request.flags}
    if request.allow_other:
        options.add("allow_other")
    if request.read_only:
        options.add("ro")
    return options
