"""How far away a storage may be: emulated regions, and what a program waits for in each."""
