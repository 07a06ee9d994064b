"""Volumes in use: composed of their parts, with FUSE on top, and the process around that.

Above: `cli/`. Below: everything else. The only package that knows pyfuse3, and the only one that turns errors into
errnos. `compose` opens a volume with or without FUSE, and a `session` is what comes of it; `operations` is the FUSE
adapter; `serving` mounts, and `daemon` does that in the background or not; `control` is the private socket of a mount;
`admin` is what commands do without a mount.
"""
