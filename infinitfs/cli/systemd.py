"""`infinitfs systemd`: units that mount a volume at every start, and the helper of mount(8).

Above: `main.py`. Below: `infinitfs/systemd/`, which knows what is in the files, and systemctl.
Invariant: installing again replaces what was installed; removing the last volume leaves nothing behind. A unit is not
installed where it is known already that it could not start, and finds the records that its installation found.
"""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from infinitfs.cli.base import Group, pass_invocation
from infinitfs.cli.invocation import Invocation
from infinitfs.cli.mount import absolute
from infinitfs.cli.mount import mount as mount_command
from infinitfs.errors import NotFound, ServiceFailed, UsageError

SYSTEM_UNITS = Path("/etc/systemd/system")
SYSTEM_HELPERS = Path("/sbin")  # where mount(8) looks
RUNNING = Path("/run/systemd/system")  # is there where systemd runs (sd_booted(3)); units may be installed before

# What decides where an installation's records and data are (see `config/paths.py`).
_PLACES = ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")


@dataclass(frozen=True)
class Manager:
    """The service manager of the machine or, with `user`, of one user."""

    user: bool
    units: Path

    def folder(self, volume: str) -> Path:
        """Where the settings of one volume's unit are."""
        from infinitfs.systemd import unit_name

        return self.units / f"{unit_name(volume)}.d"

    def command(self, *arguments: str) -> str:
        """A command line for systemctl."""
        return " ".join(["systemctl", *(["--user"] if self.user else []), *arguments])

    def call(self, action: str, *arguments: str) -> None:
        """Run systemctl. Raises ServiceFailed."""
        words = self.command(action, *arguments).split()
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        if done.returncode != 0:
            reason = " ".join(done.stderr.split()).rstrip(".") or f"exit status {done.returncode}"
            raise ServiceFailed(action=" ".join([action, *arguments]), reason=reason)


@click.group("systemd", cls=Group)
def systemd() -> None:
    """Units that mount a volume at every start."""


_user_option = click.option("--user", is_flag=True, help="For you alone, from your login on; no root needed.")


@systemd.command(
    example="infinitfs systemd install --user drive --at ~/drive --now\n"
    "infinitfs systemd install drive --at /srv/drive -o allow-other,cache-size=50GB --credential /root/passphrase"
)
@click.argument("volume", metavar="VOLUME")
@click.option("--at", "directory", metavar="DIR", required=True, help="The folder to mount at.")
@click.option("-o", "options", metavar="OPTIONS", default="", help="Options of `infinitfs mount`, as in fstab.")
@click.option("--credential", metavar="FILE", help="The file of the passphrase of the key.")
@click.option("--encrypted-credential", metavar="FILE", help="The same, encrypted by `systemd-creds encrypt`.")
@click.option("--now", is_flag=True, help="Mount at once, too.")
@_user_option
@pass_invocation
def install(
    invocation: Invocation,
    volume: str,
    directory: str,
    options: str,
    credential: str | None,
    encrypted_credential: str | None,
    now: bool,
    user: bool,
) -> None:
    """Install a unit that mounts VOLUME at DIR; for the machine also the helper for `mount` and fstab."""
    from infinitfs import systemd as files
    from infinitfs.config.paths import check_text

    if credential is not None and encrypted_credential is not None:
        raise UsageError(problem="Two passphrase sources: use either --credential or --encrypted-credential.")
    secret = credential or encrypted_credential
    if secret is not None and not os.access(absolute(secret), os.F_OK):
        raise UsageError(problem=f'There is no file "{secret}": put the passphrase there first.')
    if secret is not None:
        check_text(str(absolute(secret)))
    where = absolute(directory)
    _check(invocation, volume, where, options, has_passphrase=secret is not None)
    manager = _manager(invocation, user=user)
    text = files.drop_in(
        where,
        options,
        environ=_places(invocation.environ, user=user),
        credential=absolute(secret) if secret is not None else None,
        encrypted=encrypted_credential is not None,
    )
    written = [manager.units / files.TEMPLATE, manager.folder(volume) / "mount.conf"]
    _write(written[0], files.template(_program(), user=user))
    _write(written[1], text)
    if not user:
        written.append(SYSTEM_HELPERS / files.HELPER)
        _write(written[-1], files.helper(_program()), mode=0o755)
    unit = files.unit_name(volume)
    manager.call("enable", *(["--now"] if now else []), unit)
    start = "" if now else f"\nMount it now: {manager.command('start', unit)}"
    invocation.answer(
        {"unit": unit, "mountpoint": str(where), "files": list(map(str, written))},
        f'Installed {unit}: it mounts "{volume}" at {where} at every {"login" if user else "start"}.{start}',
    )
    if user:
        invocation.note("To have it mounted before you log in, and after: loginctl enable-linger")


@systemd.command(example="infinitfs systemd remove drive\ninfinitfs systemd remove --user drive")
@click.argument("volume", metavar="VOLUME")
@_user_option
@pass_invocation
def remove(invocation: Invocation, volume: str, user: bool) -> None:
    """Stop the unit of VOLUME, which waits until everything is stored, and remove it. The volume stays."""
    from infinitfs import systemd as files

    manager = _manager(invocation, user=user)
    unit = files.unit_name(volume)
    settings = manager.folder(volume) / "mount.conf"
    if not settings.exists():
        raise NotFound(what=f"The unit {unit}", remedy=f"`{manager.command('list-unit-files')}` lists those there are")
    manager.call("disable", *(["--now"] if RUNNING.exists() else []), unit)
    _delete(settings)
    try:
        settings.parent.rmdir()
    except OSError:  # `systemctl edit` puts its file there, too
        invocation.note(f"{settings.parent} stays, for what else is in it.")
    if not list(manager.units.glob("infinitfs@*.service.d/mount.conf")):
        _delete(manager.units / files.TEMPLATE)
        if not user:
            _delete(SYSTEM_HELPERS / files.HELPER)
    if RUNNING.exists():
        manager.call("daemon-reload")
    invocation.answer({"removed": unit}, f"Removed {unit}.")


def _check(invocation: Invocation, volume: str, directory: Path, options: str, *, has_passphrase: bool) -> None:
    """Refuse what would fail at every start: no such volume, options that make no sense, a passphrase that nobody is
    there to type. Raises RecordNotFound, UsageError."""
    from infinitfs.keys.identity import is_protected

    record = invocation.store.volumes.get(volume)
    started = Invocation(environ=invocation.environ)
    with mount_command.make_context("mount", ["-o", options, volume, str(directory)], obj=started):
        pass
    private = invocation.store.users.get(record.user).private
    if private is None or not is_protected(private) or has_passphrase:
        return
    if started.passphrase_file is None and started.passphrase_command is None:
        raise UsageError(
            problem=f'The key of user "{record.user}" has a passphrase, which nobody types at a start: put it into a '
            "file that only you can read and name that with --credential."
        )


def _manager(invocation: Invocation, *, user: bool) -> Manager:
    """Raises NotFound where systemd is not installed."""
    environ = invocation.environ
    if shutil.which("systemctl") is None:
        raise NotFound(what="systemctl", remedy="these units are for systemd; without it, use fstab")
    if not user:
        return Manager(user, SYSTEM_UNITS)
    configuration = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME', '')}/.config"
    return Manager(user, Path(configuration) / "systemd" / "user")


def _places(environ: Mapping[str, str], *, user: bool) -> dict[str, str]:
    """The variables with which the service finds what is found here; not a HOME that it has by itself."""
    # What is relative is ignored here and there alike (see `config/paths.py`), but for INFINITFS_HOME.
    places = {name: environ[name] for name in _PLACES if Path(environ.get(name, "")).is_absolute()}
    try:
        own = pwd.getpwuid(os.getuid() if user else 0).pw_dir
    except KeyError:  # a container's bare user id
        own = ""
    if places.get("HOME") == own:
        del places["HOME"]
    if home := environ.get("INFINITFS_HOME"):
        places["INFINITFS_HOME"] = str(Path(home).absolute())
    return places


def _program() -> list[str]:
    """This program's own command line: the script beside the interpreter, or the module where there is none."""
    script = Path(sys.executable).with_name("infinitfs")
    return [str(script)] if os.access(script, os.X_OK) else [sys.executable, "-P", "-m", "infinitfs.cli.main"]


def _write(path: Path, text: str, *, mode: int = 0o644) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    except OSError as error:
        raise _refused(path, error) from None


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _refused(path, error) from None


def _refused(path: Path, error: OSError) -> UsageError:
    return UsageError(problem=f"{path} cannot be changed ({error.strerror}): be root for it, or use --user.")
