"""The private socket of a mount: what other commands ask of it.

One JSON object a line: the request `{"command": ...}` with its arguments, then answers, the last of which has
`"done": true`, or `"error"` and `"fields"` of an error of the tree.

Above: `cli/` (asking), `serving` (answering). Below: unix sockets in the runtime folder, 0600 in a 0700 folder.
Invariant: a mount is listed for as long as its process lives and no longer: a record whose socket nobody answers is
that of a killed mount.
"""

import itertools
import json
import logging
import os
import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from infinitfs.config.paths import Paths, make_private
from infinitfs.errors import InfinitfsError, LocalFileFailed, MountSilent, NotFound, from_wire

_log = logging.getLogger(__name__)

_LONGEST = 1 << 16  # bytes of a request

Answer = Callable[[dict[str, Any]], AsyncGenerator[dict[str, Any], None]]


class MountRecord(msgspec.Struct, frozen=True):
    """A mount on this machine, in `<runtime>/<volume id>.json` beside its socket."""

    volume: str
    volume_id: str
    mountpoint: str
    pid: int


# --- asking ---


def find_mount(paths: Paths, directory: Path) -> str:
    """The volume id of what is mounted at `directory`, by whatever path that is reached. Raises NotFound."""
    records = _records(paths)
    for place in _places(directory):
        for record in records:
            if place in itertools.islice(_places(Path(record.mountpoint)), 2):
                return record.volume_id
    raise NotFound(what=f"A mount at {directory}", remedy="`infinitfs status` lists those there are")


def mounted(paths: Paths) -> list[str]:
    """The volume ids of the mounts that live on this machine."""
    return [record.volume_id for record in _records(paths)]


def ask(
    paths: Paths, volume_id: str, command: str, *, patience: float | None = None, **arguments: int | dict[str, str]
) -> Iterator[dict[str, Any]]:
    """The answers of a mount to a command, as they come.

    Raises what the mount raised, NotFound without one, MountSilent where it ends meanwhile or says nothing for
    `patience` seconds.
    """
    connection = _connect(paths, volume_id, patience)
    if connection is None:
        raise NotFound(what="The mount", remedy="`infinitfs status` lists those there are")
    try:
        with connection, connection.makefile("rwb") as lines:
            lines.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
            lines.flush()
            for line in lines:
                answer = json.loads(line)
                if "error" in answer:
                    raise from_wire(answer["error"], answer["fields"])
                if answer.pop("done", False):
                    return
                yield answer
    except TimeoutError:
        raise MountSilent(reason=f"nothing came in {patience:.0f} s") from None
    except ConnectionError:
        pass
    raise MountSilent(reason="it ended meanwhile")


def _records(paths: Paths) -> list[MountRecord]:
    found = []
    for path in sorted(paths.runtime.glob("*.json")) if paths.runtime.is_dir() else ():
        try:
            record = msgspec.json.decode(path.read_bytes(), type=MountRecord)
        except (FileNotFoundError, msgspec.MsgspecError):
            continue  # it ended meanwhile, or its machine did while it wrote
        with suppress(MountSilent):  # one that hangs lives
            connection = _connect(paths, record.volume_id, patience=0)
            if connection is None:
                continue
            connection.close()
        found.append(record)
    return found


def _places(directory: Path) -> Iterator[Path]:
    """The paths by which a folder is known. The last one looks at the folder itself, which takes long where a mount
    hangs."""
    yield directory
    yield Path(os.path.realpath(directory.parent), directory.name)
    yield Path(os.path.realpath(directory))


def _connect(paths: Paths, volume_id: str, patience: float | None = None) -> socket.socket | None:
    """None where nobody listens: there is no mount, or it was killed. Raises LocalFileFailed; MountSilent where, with
    `patience`, so many wait for an answer already that it takes no more."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(patience)
    try:
        with _Folder(paths.runtime) as folder:
            connection.connect(folder.name(volume_id))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except BlockingIOError:
        connection.close()
        raise MountSilent(reason="others wait for an answer already") from None
    except OSError as error:
        connection.close()
        path = paths.runtime / f"{volume_id}.sock"
        raise LocalFileFailed(path=str(path), action="opened", reason=error.strerror or str(error)) from None
    return connection


class _Folder:
    """Short names for sockets in a folder whose path may be longer than a socket's address (108 bytes)."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> "_Folder":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def name(self, volume_id: str) -> str:
        return f"/proc/self/fd/{self._descriptor}/{volume_id}.sock"


# --- answering ---


async def serve(paths: Paths, record: MountRecord, answer: Answer, *, task_status: trio.TaskStatus[None]) -> None:
    """Answer on the mount's socket until cancelled; started once it listens."""
    runtime = make_private(paths.runtime)
    socket_path = runtime / f"{record.volume_id}.sock"
    record_path = runtime / f"{record.volume_id}.json"
    socket_path.unlink(missing_ok=True)
    listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    with _Folder(runtime) as folder:
        await listening.bind(folder.name(record.volume_id))
    socket_path.chmod(0o600)
    listening.listen(16)
    _write(record_path, msgspec.json.encode(record))
    task_status.started()
    try:
        await trio.serve_listeners(partial(_converse, answer), [trio.SocketListener(listening)])
    finally:
        listening.close()
        socket_path.unlink(missing_ok=True)
        record_path.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    """A private file, there with all of `data` or not at all."""
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_bytes(data)
    fresh.replace(path)


async def _converse(answer: Answer, stream: trio.SocketStream) -> None:
    """One command and its answers. Whatever is asked, and however it goes wrong, the mount goes on."""
    try:
        request = await _read_request(stream)
        if request is None:
            return
        try:
            async with aclosing(answer(request)) as replies:
                async for reply in replies:
                    await _send(stream, reply)
            await _send(stream, {"done": True})
        except InfinitfsError as error:
            await _send(stream, {"error": type(error).__name__, "fields": error.fields})
    except trio.BrokenResourceError:
        _log.debug("A command went away before it was answered.")
    except Exception:
        _log.exception("A command could not be answered.")


async def _read_request(stream: trio.SocketStream) -> dict[str, Any] | None:
    data = bytearray()
    while b"\n" not in data and len(data) < _LONGEST:
        part = await stream.receive_some(4096)
        if not part:
            return None
        data += part
    try:
        request = json.loads(data)
    except ValueError:
        return None
    return request if isinstance(request, dict) and "command" in request else None


async def _send(stream: trio.SocketStream, reply: dict[str, Any]) -> None:
    await stream.send_all(json.dumps(reply).encode() + b"\n")
