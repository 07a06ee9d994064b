"""Trees of every kind of file, how two are compared, and what must not be found in sealed bytes.

Above: tests of real mounts. Below: rsync, coreutils.
Invariant: a tree depends on its seed alone, but for device nodes, which only root can make.
"""

import os
import random
import subprocess
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

SHORTEST_NAME = 8
PIECE = 16

_WORDS = [
    "drawing",
    "harvest",
    "lantern",
    "meadow",
    "orchard",
    "pebble",
    "quarry",
    "saddle",
    "thicket",
    "violet",
    "willow",
    "zephyr",
]


def make_tree(folder: Path, files: int, seed: int = 1) -> None:
    """`files` files of many sizes, and one of each thing that is hard to copy."""
    source = random.Random(seed)
    folder.mkdir()
    places = [folder]
    for number in range(files):
        if number % 12 == 0:
            place = source.choice(places) / f"{source.choice(_WORDS)}-{number:05d}"
            place.mkdir()
            places.append(place)
        path = places[-1] / f"{source.choice(_WORDS)}-{source.choice(_WORDS)}-{number}.txt"
        path.write_bytes(_content(source, source.choice([0, 1, 100, 4000, 5000, 20_000, 70_000])))
        path.chmod(source.choice([0o644, 0o600, 0o755, 0o440, 0o4755, 0o2711, 0o000]))
        _set_times(source, path)
    _add_oddities(folder / "oddities", source)
    for place in reversed(places):
        _set_times(source, place)


def _content(source: random.Random, size: int) -> bytes:
    if source.random() < 0.5:
        return source.randbytes(size)
    line = " ".join(source.choices(_WORDS, k=12)) + f" {source.random()}\n"
    return (line * (size // len(line) + 1)).encode()[:size]


def _set_times(source: random.Random, path: Path) -> None:
    moments = [source.randrange(10**18, 17 * 10**17) for _ in range(2)]
    os.utime(path, ns=(moments[0], moments[1]), follow_symlinks=False)


def _add_oddities(folder: Path, source: random.Random) -> None:
    folder.mkdir(mode=0o1777)
    big = folder / "a-large-file-of-random-bytes"
    big.write_bytes(source.randbytes(9 << 20))
    os.link(big, folder / "hard-link-to-it")
    (folder / "symlink-to-it").symlink_to(big.name)
    (folder / "symlink-to-nothing").symlink_to("no/such/thing" * 50)
    os.lchown(folder / "symlink-to-nothing", *_owner(1234, 5678))
    with (folder / "sparse-with-islands").open("wb") as sparse:
        for offset in (0, 3 << 20, 50 << 20):
            sparse.seek(offset)
            sparse.write(b"island" * 100)
        sparse.truncate(64 << 20)
    with (folder / "only-a-hole").open("wb") as hole:
        hole.truncate(10 << 20)
    (folder / "zeros-written").write_bytes(bytes(1 << 20))
    Path(os.fsdecode(bytes(folder) + b"/caf\xe9 \xff\xfe \n\t'\"\\ latin")).write_bytes(b"not UTF-8 by name\n" * 9)
    (folder / ("n" * 255)).write_text("the longest name there is")
    (folder / "日本語の名前 ✓").write_text("UTF-8 by name")
    owned = folder / "owned-by-others"
    owned.write_text("others")
    os.chown(owned, *_owner(1234, 5678))
    owned.chmod(0o6751)
    attributed = folder / "with-attributes"
    attributed.write_text("attributes")
    os.setxattr(attributed, "user.mood", b"\x00\xff binary")
    os.setxattr(attributed, "user.empty", b"")
    os.setxattr(attributed, "user.large", source.randbytes(3000))
    os.setxattr(folder, "user.on-a-folder", b"yes")
    os.mkfifo(folder / "a-named-pipe", 0o640)
    if os.geteuid() == 0:
        os.mknod(folder / "character-device", 0o020_600, os.makedev(1, 3))
        os.mknod(folder / "block-device", 0o060_660, os.makedev(259, 70_000))
        os.mknod(folder / "a-socket-file", 0o140_755)
    (folder / "empty-folder").mkdir(mode=0o700)
    deep = folder
    for level in range(30):
        deep = deep / f"level-{level}"
        deep.mkdir()
    for path in folder.iterdir():
        _set_times(source, path)


def _owner(uid: int, gid: int) -> tuple[int, int]:
    return (uid, gid) if os.geteuid() == 0 else (-1, -1)


def copy_tree(source: Path, target: Path) -> None:
    """`cp -a`, as a user does it."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True, timeout=600)


def sync_tree(folder: Path) -> None:
    """fsync every file."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def differences(source: Path, target: Path) -> str:
    """What rsync would still have to copy: contents, links, modes, owners, times, ACLs, attributes, what is too
    much. Empty where the trees are the same."""
    options = ["-aHAX", "--checksum", "--delete", "--dry-run", "--itemize-changes"]
    done = subprocess.run(
        ["rsync", *options, f"{source}/", f"{target}/"], capture_output=True, text=True, errors="replace", timeout=600
    )
    return done.stdout + done.stderr


# --- what nobody may read ---


def names_in(tree: Path) -> set[bytes]:
    """All names of SHORTEST_NAME bytes and more."""
    found = (os.fsencode(name) for _, folders, files in os.walk(tree) for name in folders + files)
    return {name for name in found if len(name) >= SHORTEST_NAME}


def pieces_in(tree: Path, count: int, seed: int = 1) -> set[bytes]:
    """`count` samples of PIECE bytes of the contents, each of at least 8 different bytes."""
    source = random.Random(seed)
    paths = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    paths = sorted(path for path in paths if path.stat().st_size > PIECE)
    weights = [path.stat().st_size ** 0.5 for path in paths]
    pieces: set[bytes] = set()
    while len(pieces) < count:
        path = source.choices(paths, weights)[0]
        with path.open("rb") as file:
            for _ in range(20):
                file.seek(source.randrange(path.stat().st_size - PIECE))
                piece = file.read(PIECE)
                if len(set(piece)) >= 8:
                    pieces.add(piece)
    return set(sorted(pieces)[:count])


def leaks(secrets: Iterable[bytes], data: bytes) -> Iterator[bytes]:
    """The secrets, each of 7 bytes or more, that occur in `data`.

    Fast for many secrets: one of 7 bytes or more covers an aligned word of 4 bytes wherever it lies, so only those
    that have a word in common with `data` are looked for.
    """
    words = array("I", data[: len(data) & ~3])
    by_word: dict[int, set[bytes]] = {}
    for secret in secrets:
        assert len(secret) >= 7, secret
        for start in range(4):
            by_word.setdefault(int.from_bytes(secret[start : start + 4], "little"), set()).add(secret)
    candidates = {secret for word in set(by_word).intersection(words) for secret in by_word[word]}
    for secret in candidates:
        if secret in data:
            yield secret
