"""What is configured on this machine: folders, and records of users, credentials, storages and volumes.

A leaf: `cli/` writes records, `mount/` and `storage/` read them.
"""
