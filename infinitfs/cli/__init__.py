"""The command line: `infinitfs NOUN VERB [--options]`, one noun a file.

Above: the user. Below: `mount/` for everything that opens a volume, `storage/`, `keys/` and `config/` for
the rest.
Invariant: a module here imports click and `errors` when it is loaded, everything heavier inside its commands.
"""
