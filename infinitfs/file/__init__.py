"""One open file: its extents, the bytes not yet flushed, when they are flushed and what is read ahead.

Above: `volume/`, which keeps a `File` for every inode that is open or dirty and commits what a flush returns. Below:
`block/`, which turns runs of bytes into blocks. The cores here do no I/O and know neither trio nor a clock.
"""
