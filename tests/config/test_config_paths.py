"""The folders: XDG, INFINITFS_HOME, and their modes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from infinitfs.config.paths import Paths, make_private
from infinitfs.errors import UsageError

VOLUME = "0123456789abcdef" * 2


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_defaults_of_the_specification() -> None:
    paths = Paths.from_environment({"HOME": "/home/alice"})
    assert paths == Paths(
        config=Path("/home/alice/.config/infinitfs"),
        state=Path("/home/alice/.local/state/infinitfs"),
        cache=Path("/home/alice/.cache/infinitfs"),
        runtime=Path("/home/alice/.local/state/infinitfs/run"),
    )


def test_variables_of_the_specification() -> None:
    environ = {
        "XDG_CONFIG_HOME": "/c",
        "XDG_STATE_HOME": "/s",
        "XDG_CACHE_HOME": "relative",
        "XDG_RUNTIME_DIR": "/run/user/1",
        "HOME": "/home/alice",
    }
    assert Paths.from_environment(environ) == Paths(
        config=Path("/c/infinitfs"),
        state=Path("/s/infinitfs"),
        cache=Path("/home/alice/.cache/infinitfs"),
        runtime=Path("/s/infinitfs/run"),  # wherever a service or a login has its own
    )


def test_one_folder_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"INFINITFS_HOME": "here", "XDG_CONFIG_HOME": "/c", "HOME": "/h"}
    monkeypatch.chdir(tmp_path)
    paths = Paths.from_environment(environ)
    assert paths == Paths(*(tmp_path / "here" / name for name in ("config", "state", "cache", "run")))


def test_no_home_is_said() -> None:
    with pytest.raises(UsageError, match="no home folder"):
        Paths.from_environment({})


@pytest.mark.usefixtures("open_umask")
def test_what_is_made_is_private(tmp_path: Path) -> None:
    paths = Paths.from_environment({"INFINITFS_HOME": str(tmp_path / "home")})
    assert paths.volume_state(VOLUME) == tmp_path / "home/state" / VOLUME
    assert paths.volume_cache(VOLUME) == tmp_path / "home/cache" / VOLUME
    made = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert len(made) == 5
    assert {path.stat().st_mode & 0o777 for path in made} == {0o700}


def test_what_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    mode = (tmp_path / "open").stat().st_mode
    assert make_private(tmp_path / "open") == tmp_path / "open"
    assert (tmp_path / "open").stat().st_mode == mode


def test_a_volume_is_never_a_path(tmp_path: Path) -> None:
    paths = Paths.from_environment({"INFINITFS_HOME": str(tmp_path)})
    for name in ("", "..", "../" + VOLUME, VOLUME.upper(), VOLUME + "0"):
        with pytest.raises(ValueError, match="32 hex digits"):
            paths.volume_state(name)
