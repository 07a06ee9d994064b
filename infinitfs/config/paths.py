"""The folders of this machine: configuration, state, cache and runtime.

Above: `config/store.py`, `mount/`, `cli/`. Below: `disk`.
Specification: XDG Base Directory 0.8; a relative path in a variable of it is ignored, as it demands. The
variables come from a mapping, not from the process, so that two configurations can live in one process.
Invariant: no directory made here is open to others, whatever the umask (0700).
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from infinitfs.config.disk import failing, sync_folder
from infinitfs.errors import UsageError

_APPLICATION = "infinitfs"
_VOLUME = re.compile(r"[0-9a-f]{32}")


def check_text(value: str) -> str:
    """`value`, of a command line or the environment, where a record can hold it. Raises UsageError where its bytes are
    no text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(value).decode(errors="backslashreplace")
        raise UsageError(problem=f'"{shown}" is not text in UTF-8: use another name or text.') from None
    return value


def make_private(directory: Path) -> Path:
    """`directory`, made with mode 0700 where it is missing, as are its parents; it survives a power cut.

    Raises LocalFileFailed.
    """
    with failing(directory, "made"):
        if not directory.is_dir():
            make_private(directory.parent)
            directory.mkdir(mode=0o700, exist_ok=True)
            sync_folder(directory.parent)
    return directory


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the records (`config`), databases and staged packs (`state`), sealed cache (`cache`), and sockets
    and pid files (`runtime`) are. Not made yet: `make_private` makes one."""

    config: Path
    state: Path
    cache: Path
    runtime: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """`INFINITFS_HOME` moves all four under one folder; else they are XDG's, but for the runtime folder, which is
        in the state folder: XDG's is another one for a service and for a login of the same user, and goes with the
        last login, while a mount stays. Raises UsageError where there is no home, or one whose name is no text."""
        if home := environ.get("INFINITFS_HOME"):
            root = Path(check_text(str(Path(home).absolute())))
            return cls(root / "config", root / "state", root / "cache", root / "run")
        state = _xdg(environ, "XDG_STATE_HOME", ".local/state")
        return cls(
            config=_xdg(environ, "XDG_CONFIG_HOME", ".config"),
            state=state,
            cache=_xdg(environ, "XDG_CACHE_HOME", ".cache"),
            runtime=state / "run",
        )

    def volume_state(self, volume: str) -> Path:
        """The state folder of the volume with the id `volume` (32 hex digits), made where it is missing."""
        return make_private(self.state / _checked(volume))

    def volume_cache(self, volume: str) -> Path:
        """The cache folder of the volume with the id `volume` (32 hex digits), made where it is missing."""
        return make_private(self.cache / _checked(volume))


def _xdg(environ: Mapping[str, str], variable: str, default: str) -> Path:
    value = Path(environ.get(variable, ""))
    if not value.is_absolute():
        home = Path(environ.get("HOME", ""))
        if not home.is_absolute():
            raise UsageError(problem=f"There is no home folder: set HOME, {variable} or INFINITFS_HOME.")
        value = home / default
    return Path(check_text(str(value))) / _APPLICATION


def _checked(volume: str) -> str:
    if not _VOLUME.fullmatch(volume):
        raise ValueError(f"a volume id has 32 hex digits: {volume!r}")
    return volume
