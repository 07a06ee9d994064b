"""The namespace of a volume and its history in the storage.

Above: `mount/`. Below: `file/` (one open file), `block/` (content), `transfer/` (objects). `volume.Volume` is the
door: everything a mounted folder does is a method of it.
"""
