"""infinitfs: a private drive on storage nobody has to trust.

The way of the data is the order of the packages: cli, mount, volume, file, block, transfer, storage; config, keys
and errors are leaves. Imports run one way only.
"""

__version__ = "0.1.0"
