"""AWS's regions, as far as botocore's own data knows them.

Above: `probe_s3`, and `benchmark/` for its table. Below: botocore's `endpoints.json`.
Invariant: no network, and nothing that is configured; a region younger than the installed botocore is unknown here.
"""

import difflib
import re
from typing import Any

from botocore.loaders import create_loader

from infinitfs.errors import UsageError

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def regions() -> dict[str, str]:
    """Every region of every partition: `eu-central-1` to `Europe (Frankfurt)` and so on. Takes some 20 ms."""
    partitions: list[dict[str, Any]] = create_loader().load_data("endpoints")["partitions"]
    return {name: about["description"] for part in partitions for name, about in part["regions"].items()}


def services(*, every_partition: bool = False) -> dict[str, str]:
    """The host of S3 in each region of the partition `aws`, or of every partition."""
    partitions: list[dict[str, Any]] = create_loader().load_data("endpoints")["partitions"]
    return {
        name: about.get("hostname", f"s3.{name}.{part['dnsSuffix']}")
        for part in partitions
        if every_partition or part["partition"] == "aws"
        for name, about in part["services"]["s3"]["endpoints"].items()
        if name in part["regions"]
    }


def check_region(region: str, *, custom: bool) -> None:
    """Raise UsageError where `region` names none. A service with an endpoint of its own (`custom`) names its
    regions as it likes, but a place's name where an identifier belongs is a mistake there too."""
    known = regions()
    named = _named(region, known)
    if named:
        raise UsageError(problem=f'"{region}" is not a region\'s identifier: did you mean {named}?')
    if not _IDENTIFIER.fullmatch(region):
        raise UsageError(problem=f'"{region}" is not a region\'s identifier: use one like eu-central-1.')
    if custom or region in known:
        return
    near = difflib.get_close_matches(region, known, 1)
    hint = f"did you mean {near[0]}?" if near else "use one like eu-central-1 (or --no-check)."
    raise UsageError(problem=f'There is no region "{region}" of AWS: {hint}')


def _named(text: str, known: dict[str, str]) -> str:
    """The region of `known` at the place `text` (`Frankfurt`, `N. Virginia`, `Europe (Ireland)`), if any."""
    wanted = _plain(text)
    for name, description in known.items():
        place = re.sub(r".*\((.*)\)", r"\1", description)
        places = (description, place, place.removeprefix("N. "))
        if text != name and wanted in map(_plain, places):
            return name
    return ""


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
