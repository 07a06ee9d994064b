"""What is done to a volume that is not mounted."""

from pathlib import Path

import pytest

from infinitfs.config.model import VolumeRecord
from infinitfs.config.paths import Paths, make_private
from infinitfs.errors import DamagedRecord
from infinitfs.keys import system_random
from infinitfs.mount.admin import set_aside
from infinitfs.mount.folders import Folders, own_state

ID = "6472697665".ljust(32, "0")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.from_environment({"INFINITFS_HOME": str(tmp_path)})


@pytest.fixture
def record() -> VolumeRecord:
    return VolumeRecord(
        name="drive", volume=ID, storage="local", user="alice", descriptor="", created="2026-01-01T00:00:00Z"
    )


@pytest.fixture
def state(paths: Paths) -> Folders:
    """What a mount leaves behind that was killed."""
    folders = Folders(paths, ID, "")
    make_private(folders.state)
    make_private(folders.staging)
    (folders.staging / "pack").write_bytes(b"frames")
    (folders.intents / "1").write_bytes(b"fsynced")
    for name in ("", "-shm", "-wal"):
        folders.database.with_name(folders.database.name + name).write_bytes(b"rows")
    return folders


def test_what_is_set_aside_is_whole(paths: Paths, record: VolumeRecord, state: Folders) -> None:
    before = {path.name for path in state.state.iterdir()}
    kept = set_aside(paths, record)
    assert kept is not None and kept.parent == state.state
    moved = {path.name for path in kept.iterdir()}
    assert {state.database.name, f"{state.database.name}-wal", state.staging.name} <= moved <= before
    assert (kept / state.staging.name / "pack").read_bytes() == b"frames"
    assert (kept / state.intents.name / "1").read_bytes() == b"fsynced"
    assert set_aside(paths, record) is None, "nothing is left to be opened"


@pytest.mark.parametrize("data", [b"", b"\xff" * 32, b"0" * 31, b"0" * 32 + b"\n"])
def test_a_name_among_owners_that_is_damaged_is_refused_by_name(state: Folders, data: bytes) -> None:
    name = own_state(state, system_random)
    assert own_state(state, system_random) == name
    state.state_id.write_bytes(data)
    with pytest.raises(DamagedRecord, match=str(state.state_id)):
        own_state(state, system_random)


def test_it_is_cut_short_with_the_database_the_last_to_go(
    paths: Paths, record: VolumeRecord, state: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database without its packs or intents is refused by the next mount, which would remove these without one."""
    rename, moved = Path.rename, list[str]()

    def watched(path: Path, target: Path) -> Path:
        moved.append(path.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", watched)
    set_aside(paths, record)
    assert moved[0] == state.staging.name and moved[-1] == state.database.name
