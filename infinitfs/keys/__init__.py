"""Identities, passphrases, the key ring of a volume, and the sealing and opening of frames.

A leaf: `volume/`, `block/` and `cli/` call it, it calls nothing of the project but `errors`. Only this
package knows a cipher.
"""

import secrets
from collections.abc import Callable

RandomBytes = Callable[[int], bytes]
"""Where random bytes come from: called with a count, returns as many bytes. Tests pass one of their own."""

system_random: RandomBytes = secrets.token_bytes
