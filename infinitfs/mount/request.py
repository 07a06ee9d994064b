"""What a mount is asked to be.

Above: `cli/mount.py` fills one in. Below: `compose`, `serving` and `daemon` read it. Sizes in bytes, limits in bytes a
second, 0 for no limit.
"""

from typing import Literal

import msgspec


class MountRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one mount of the volume record `volume` at the absolute path `directory`.

    `uid`, `gid` and `umask` change what every file looks like; `backlog` bounds what waits for the storage on this
    machine's disk; `directory` is empty where a volume is opened without a mount; `profile` is the file that gets a
    profile of the filesystem process; `flags` are options of the kernel (dev, suid, noexec).
    """

    volume: str
    directory: str = ""
    read_only: bool = False
    fsync: Literal["local", "remote"] = "local"
    cache_size: int = 10 * 2**30
    cache_dir: str = ""
    memory: int = 64 * 2**20
    backlog: int = 10 * 2**30
    upload_limit: int = 0
    download_limit: int = 0
    connections: int = 32
    allow_other: bool = False
    flags: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None
    umask: int | None = None
    take_over: bool = False
    log_file: str = ""
    log_format: Literal["text", "json"] = "text"
    profile: str = ""
    debug: bool = False
