"""A process that keeps what it knows in its memory.

Above: the two processes of a mount, and every command. Below: prctl(2), setrlimit(2), core(5).
Invariant: once `keep_secrets` has returned, nothing that this process holds is written to a core file, and no process
of the same user, save root's, can read its memory. A child started by exec(2) keeps the limit, not the rest.
"""

import resource

_PR_SET_DUMPABLE = 4


def no_core() -> None:
    """No core file, here and in all that this process starts."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def keep_secrets() -> None:
    """No core, also where the system pipes cores into a program, which asks for no limit; and no debugger."""
    import ctypes  # 10 ms that a command without a secret does not spend

    no_core()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")
