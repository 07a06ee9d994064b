"""Blocks: cut -> id -> compress -> seal -> pack, and back.

Above: `file/` and `volume/`. Below: `transfer/`, which moves packs, and `keys/`, which seals frames. A block is an
immutable piece of content with a keyed id; sealed it is a frame; frames lie together in packs. `index.BlockIndex`
is what this package needs to know about blocks; `volume/` implements it.
"""
