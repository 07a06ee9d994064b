"""What a mount asks of the kernel: found without asking the mount, and without consequence where it is refused."""

import os
from pathlib import Path

import pytest

from infinitfs.mount.kernel import DIRTY, READ_AHEAD, allow_more
from infinitfs.mount.mountinfo import on_top
from tests.support.mounted import Home, needs_fuse

MOUNTINFO = """\
24 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 24 0:41 / /home/margarethe/my\\040drive rw,nosuid - fuse.infinitfs infinitfs:old rw
32 24 0:42 / /home/margarethe/my\\040drive rw,nosuid - fuse.infinitfs infinitfs:new rw
"""


def test_what_may_not_be_set_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "class" / "bdi" / "0:42"
    folder.mkdir(parents=True)
    (folder / "read_ahead_kb").write_text("128")
    (folder / "max_ratio").mkdir()  # as unwritable as a file that is not ours
    (tmp_path / "mountinfo").write_text(MOUNTINFO)
    allow_more("/home/margarethe/my drive", sys=tmp_path, mountinfo=tmp_path / "mountinfo")
    assert (folder / "read_ahead_kb").read_text() == str(READ_AHEAD)
    allow_more("/nowhere", sys=tmp_path, mountinfo=tmp_path / "mountinfo")


@pytest.mark.fuse
@needs_fuse[1]
def test_a_mount_reads_further_ahead_where_it_may(home: Home, drive: Path) -> None:
    mounted = home.mount(drive)
    mount = on_top(str(drive))
    assert mount is not None
    setting = Path("/sys/class/bdi") / mount.device
    if not (setting / "read_ahead_kb").is_file():
        pytest.skip("this kernel shows no /sys/class/bdi here")
    try:
        with (setting / "read_ahead_kb").open("r+"):
            pass
    except OSError as error:
        pytest.skip(f"only root may set it: {error}")
    assert (setting / "read_ahead_kb").read_text().strip() == str(READ_AHEAD)
    for name in ("min_bytes", "max_bytes"):
        if (setting / name).is_file() and _machine_has_room():
            assert int((setting / name).read_text()) == pytest.approx(DIRTY, rel=0.01), "kept as a share of a million"
    mounted.unmount()


def _machine_has_room() -> bool:
    """Whether it may have so many dirty pages at all."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") > 32 * DIRTY
