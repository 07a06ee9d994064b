"""Object stores behind one small interface.

Above: `transfer/`, whose worker process is the only user of a storage at run time, and `cli/`, which checks
one before it is configured. Below: the operating system and boto3. A storage sees sealed bytes only.

`base` is the interface; `filesystem`, `s3` and `memory` implement it; `retry`, `limit` and `trace` are
decorators that wrap any of them.
"""
