"""A profile of the filesystem process, for whoever wants to know where its time goes.

Above: `daemon`, around its loop. Below: cProfile.
Invariant: only the thread of the loop is measured: what threads do (sealing, compressing, disk) shows as nothing.
"""

import cProfile
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infinitfs.errors import LocalFileFailed


@contextmanager
def profiled(path: str) -> Iterator[None]:
    """Write what ran meanwhile to the file `path`, for `python -m pstats`; nothing is measured where it is empty.

    Raises LocalFileFailed where the file cannot be made.
    """
    if not path:
        yield
        return
    try:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))  # now, so that who may not write there is told
    except OSError as error:
        raise LocalFileFailed(path=path, action="written", reason=error.strerror or str(error)) from None
    profile = cProfile.Profile()
    try:
        with profile:
            yield
    finally:
        profile.dump_stats(Path(path))
