"""Unit templates and the mount helper, as package data, and what is filled into them.

Above: `cli/systemd.py`, which writes them. Below: systemd.unit(5), systemd.service(5), systemd.syntax(7), mount(8).
Invariant: a value that is filled in means itself, whatever is in it: blanks, quotes, percent and dollar signs.
"""

import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

TEMPLATE = "infinitfs@.service"
HELPER = "mount.fuse.infinitfs"


def unit_name(volume: str) -> str:
    """The unit of one volume; a volume's name has no character that a unit's may not have."""
    return f"infinitfs@{volume}.service"


def template(program: Sequence[str], *, user: bool) -> str:
    """The template unit that runs `program` (its first word an absolute path)."""
    text = (files(__name__) / ("user.service" if user else "system.service")).read_text()
    return text.replace("@PROGRAM@", " ".join(quoted(word).replace("$", "$$") for word in program))


def helper(program: Sequence[str]) -> str:
    """The helper of mount(8) that runs `program`."""
    return (files(__name__) / HELPER).read_text().replace("@PROGRAM@", shlex.join(program))


def drop_in(
    folder: Path,
    options: str,
    *,
    environ: Mapping[str, str],
    credential: Path | None = None,
    encrypted: bool = False,
) -> str:
    """What one volume adds to the template: its folder, its mount options (as fstab writes them), variables, and the
    file of its passphrase, which systemd decrypts where it is `encrypted`."""
    variables = {"MOUNTPOINT": str(folder), "OPTIONS": options or "defaults", **environ}
    lines = ["[Unit]", f"RequiresMountsFor={quoted(str(folder.parent))}", "", "[Service]"]
    lines += [f"Environment={quoted(f'{name}={value}')}" for name, value in variables.items()]
    if credential is not None:
        setting = "LoadCredentialEncrypted" if encrypted else "LoadCredential"
        lines.append(f"{setting}=passphrase:{str(credential).replace('%', '%%')}")
    return "\n".join([*lines, ""])


def quoted(word: str) -> str:
    """A word of a setting, with quotes where it needs them, and without the meaning of % (systemd.syntax(7))."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("%", "%%")
    return f'"{escaped}"' if escaped != word or not word or any(mark in word for mark in " \t';") else word
