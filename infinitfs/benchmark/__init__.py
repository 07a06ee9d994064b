"""What the way to a storage, a storage and a mounted folder give: measured, kept, compared and drawn.

Above: `cli/`. Below: `mount/` (the socket of a mount), `storage/`, `config/`. `benchmarks/`, which compares with other
programs, uses the arithmetic and the drawing.
"""
