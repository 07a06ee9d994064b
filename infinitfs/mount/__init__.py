"""Volumes in use: the session that composes one, FUSE on top of it, the daemon around it.

Above: `cli/`. Below: everything else. The only package that knows pyfuse3, and the only one that turns errors into
errnos. `session` opens a volume with or without FUSE; `operations` is the FUSE adapter; `daemon` mounts, in the
background or not; `control` is the private socket of a mount; `admin` is what commands do without a mount.
"""
