"""How fast infinitfs is, beside others and alone. Nothing of this is installed with the program.

Above: `python -m benchmarks`, `python -m benchmarks.regions` and `python -m benchmarks.cut`. Below: `infinitfs`,
`tests.support`.
Invariant: a figure is compared only with figures of the same run on the same machine.
"""
