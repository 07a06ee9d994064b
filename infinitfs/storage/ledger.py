"""What was asked of a storage, summed up by kind, and what that costs.

Above: `transfer/`, which carries sums from the process that makes requests to the one that shows them. Below: `trace`.
Invariant: every request that left is counted once, whatever came of it; what was made again is counted again.

The prices are those that AWS published for S3 Standard in us-east-1 (https://aws.amazon.com/s3/pricing/, 2025), in US
dollars: PUT, COPY, POST and LIST 0.005 for a thousand, GET, HEAD and all others 0.0004 for a thousand, DELETE nothing;
bytes in nothing, bytes out to the internet 0.09 a GB. So what `cost` says is an estimate: other classes, regions and
services have other prices, the first 100 GB out each month and traffic within a region are free, and what lies there
costs by the month.
"""

import msgspec

from infinitfs.storage.trace import Trace

KINDS = {"put": "put", "get": "get", "size": "get", "list": "list", "delete": "delete"}
"""The kind that a request of each operation of a storage is billed as."""

PRICES = {"put": 0.005 / 1000, "get": 0.0004 / 1000, "list": 0.005 / 1000, "delete": 0.0}
PRICE_OUT = 0.09 / 10**9  # a byte of a GET's body

_ANSWERS = frozenset({"", "ObjectNotFound", "ObjectExists"})


class Usage(msgspec.Struct):
    """Requests of one kind: how many, the bytes of objects that they moved, and how many got no answer of use."""

    count: int = 0
    bytes: int = 0
    failed: int = 0


class Ledger:
    """`requests` by kind. `billed`: whether anybody asks money for them."""

    def __init__(self, *, billed: bool = True) -> None:
        self._billed = billed
        self.requests = {kind: Usage() for kind in PRICES}

    def note(self, trace: Trace) -> None:
        """A call of a `TraceStorage`."""
        usage = self.requests[KINDS[trace.operation]]
        usage.count += trace.requests
        usage.bytes += trace.bytes
        usage.failed += trace.outcome not in _ANSWERS

    def add(self, requests: dict[str, Usage]) -> None:
        """What another ledger held."""
        for kind, more in requests.items():
            usage = self.requests[kind]
            usage.count += more.count
            usage.bytes += more.bytes
            usage.failed += more.failed

    def take(self) -> dict[str, Usage]:
        """What was noted since the last call, for `add` elsewhere."""
        taken = {kind: usage for kind, usage in self.requests.items() if usage.count}
        for kind in taken:
            self.requests[kind] = Usage()
        return taken

    @property
    def cost(self) -> float | None:
        """An estimate, in US dollars; None where nothing is billed."""
        if not self._billed:
            return None
        requests = sum(PRICES[kind] * usage.count for kind, usage in self.requests.items())
        return requests + PRICE_OUT * self.requests["get"].bytes
