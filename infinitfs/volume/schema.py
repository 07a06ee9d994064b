"""The tables of a volume's database.

Above: `database` creates them, `namespace` and `blocks` fill them. Invariant: the tables in JOURNALED are the volume:
they change only inside a session, so every change reaches the journal. The tables in LOCAL belong to this machine
and are never sent. No triggers: a change set is applied elsewhere without side effects. The number of a block or a pack
is never used twice (AUTOINCREMENT): a change set in which two rows swapped their ids could be applied in no order.

Times are nanoseconds since the epoch; `birth`, `death`, `condemned` and `position` (but of a dirent, where it is its
place in the listing) are journal positions, `condemned` also `leftovers.FOUND`; names and attribute names are bytes.
"""

JOURNALED = ("inodes", "dirents", "extents", "xattrs", "blocks", "packs", "numbers")

PAGE_SIZE = 4096

SCHEMA = """
CREATE TABLE inodes (
    ino INTEGER PRIMARY KEY, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,
    nlink INTEGER NOT NULL, size INTEGER NOT NULL, allocated INTEGER NOT NULL, rdev INTEGER NOT NULL,
    atime INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, created INTEGER NOT NULL,
    parent INTEGER NOT NULL, target BLOB
);
CREATE INDEX inodes_unlinked ON inodes (ino) WHERE nlink = 0;

CREATE TABLE dirents (
    parent INTEGER NOT NULL, name BLOB NOT NULL, position INTEGER NOT NULL, ino INTEGER NOT NULL,
    PRIMARY KEY (parent, name)
) WITHOUT ROWID;
CREATE UNIQUE INDEX dirents_in_order ON dirents (parent, position);

CREATE TABLE extents (
    ino INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, block INTEGER NOT NULL,
    skip INTEGER NOT NULL, PRIMARY KEY (ino, offset)
) WITHOUT ROWID;

CREATE TABLE xattrs (
    ino INTEGER NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (ino, name)
) WITHOUT ROWID;

CREATE TABLE blocks (
    block INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL, pack INTEGER NOT NULL, offset INTEGER NOT NULL,
    length INTEGER NOT NULL, size INTEGER NOT NULL, refs INTEGER NOT NULL, birth INTEGER NOT NULL, death INTEGER
);
CREATE UNIQUE INDEX blocks_by_id ON blocks (id);
CREATE INDEX blocks_by_pack ON blocks (pack, offset);

CREATE TABLE packs (
    pack INTEGER PRIMARY KEY AUTOINCREMENT, name BLOB NOT NULL, size INTEGER NOT NULL, live INTEGER NOT NULL,
    birth INTEGER NOT NULL, condemned INTEGER
);
CREATE INDEX packs_by_name ON packs (name);
CREATE INDEX packs_dead ON packs (pack) WHERE live = 0;

CREATE TABLE numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE outbox (id INTEGER PRIMARY KEY, position INTEGER NOT NULL, changeset BLOB NOT NULL);
CREATE TABLE records (
    position INTEGER PRIMARY KEY, kind TEXT NOT NULL, hash BLOB NOT NULL, object BLOB NOT NULL
);
CREATE TABLE staged (
    pack BLOB PRIMARY KEY, size INTEGER NOT NULL, position INTEGER NOT NULL, uploaded INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE local (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""

ADDED = """
CREATE TABLE IF NOT EXISTS intents (
    intent INTEGER PRIMARY KEY, ino INTEGER NOT NULL, file INTEGER NOT NULL, offset INTEGER NOT NULL,
    length INTEGER NOT NULL, clip INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS intents_by_ino ON intents (ino);
"""
"""What databases and checkpoints of earlier versions do not have."""

LOCAL = ("outbox", "records", "staged", "local", "intents")
