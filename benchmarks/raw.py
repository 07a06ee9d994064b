"""boto3 and nothing else, moving the same bytes: what the storage and Python can do.

Above: `scenes`. Below: boto3 with the settings and the number of connections of infinitfs, in threads.
Invariant: nothing is cut, sealed or looked up; objects of 8 MiB for a large file (the size of a pack), one object a
small file. It has no folder: instead of the scenes of a filesystem it has its own steps, of the same names.

`python -m benchmarks.raw SERVICE STEP ARGUMENT...` prints `[seconds, count]`, as `workloads` does.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from benchmarks.storage import BUCKET, CONNECTIONS, Service
from benchmarks.workloads import LIMIT, MIB, PAGE, ROOT, Result, content, until_late

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PACK = 8 * MIB


def put_large(client: "S3Client", path: str, size: int) -> Result:
    data = memoryview(content(size))
    return _together(lambda start: _put(client, f"{path}/{start}", data[start : start + PACK]), range(0, size, PACK))


def get_large(client: "S3Client", path: str, size: int) -> Result:
    return _together(lambda start: _get(client, f"{path}/{start}"), range(0, size, PACK))


def put_files(client: "S3Client", path: str, count: int) -> Result:
    data = memoryview(content(count * PAGE))

    def put(number: int) -> int:
        _put(client, f"{path}/{number}", data[number * PAGE : (number + 1) * PAGE])
        return 1

    return _together(put, range(count))


def get_files(client: "S3Client", path: str, count: int) -> Result:
    """One after the other, as a program reads that opens one file after the other."""
    begin = time.perf_counter()
    done = sum(1 for number in until_late(range(count)) if _get(client, f"{path}/{number}"))
    return time.perf_counter() - begin, done


def _put(client: "S3Client", key: str, data: memoryview) -> int:
    client.put_object(Bucket=BUCKET, Key=key, Body=bytes(data))
    return len(data)


def _get(client: "S3Client", key: str) -> int:
    return len(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())


def _together(move: Callable[[int], int], items: range) -> Result:
    end = time.monotonic() + LIMIT

    def in_time(item: int) -> int:
        return move(item) if time.monotonic() < end else 0

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        begin = time.perf_counter()
        done = sum(threads.map(in_time, items))
        return time.perf_counter() - begin, done


STEPS: dict[str, Callable[["S3Client", str, int], Result]] = {
    function.__name__: function for function in (put_large, get_large, put_files, get_files)
}


def run(step: Callable[["S3Client", str, int], Result], service: Service, path: str, amount: int) -> Result:
    """One of STEPS, in a process of its own. Raises CalledProcessError."""
    arguments = [msgspec.json.encode(service).decode(), step.__name__, path, str(amount)]
    command = [sys.executable, "-m", "benchmarks.raw", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    seconds, count = json.loads(done.stdout)
    return seconds, count


if __name__ == "__main__":
    _, known, step_name, folder, number = sys.argv
    client = msgspec.json.decode(known, type=Service).client()
    client.list_objects_v2(Bucket=BUCKET, MaxKeys=1)  # what is loaded with the first request is not timed
    print(json.dumps(STEPS[step_name](client, folder, int(number))))
