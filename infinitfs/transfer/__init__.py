"""Moving sealed bytes between this machine and the storage, in a process of its own.

Above: `block/` reads packs through the cache, `volume/` sends packs and journal records through the client.
Below: `storage/`, which only the worker process opens.

`base` is what upper layers see, `client` the half in the filesystem process, `worker` the child process,
`protocol` and `channel` what they say to each other, `files` their local files, `cache` the sealed disk
cache of packs and `runs` its files, `background` a nursery for what serves a context manager.
"""
