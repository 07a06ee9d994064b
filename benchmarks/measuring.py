"""What one step took: time, CPU and memory of who serves it.

Above: `scenes`, `limits`. Below: `workloads`, `/proc`.
Invariant: a step begins when its subject is idle, and what the subject does after it, because of it, counts as CPU.
"""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import workloads
from benchmarks.subjects import Subject
from benchmarks.workloads import Result

BYTES = "MB/s"
"""The unit of steps that count bytes; others count what their unit names."""

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_IDLE = 0.25  # seconds without a tick of CPU
_BUSY = 120.0  # seconds after which a subject that never gets idle is taken as it is


@dataclass(frozen=True)
class Sample:
    """One step of one run: the `figure` in `unit`.

    `count` bytes, files or requests took `seconds`. `cpu`, in seconds, and `memory`, the peak in bytes, are sums over
    the subject's processes. What was not measured is None.
    """

    step: str
    subject: str
    delay: int
    run: int
    figure: float
    unit: str
    seconds: float | None = None
    count: int | None = None
    cpu: float | None = None
    memory: int | None = None

    @property
    def is_rate(self) -> bool:
        """More is better, and ratios have a meaning."""
        return self.unit.endswith("/s")


class Meter:
    """Takes the samples of one run of one subject, with a storage `delay` milliseconds away."""

    def __init__(self, subject: Subject, run: int, delay: int, samples: list[Sample]) -> None:
        self._subject = subject
        self._run = run
        self._delay = delay
        self._samples = samples

    def of(self, subject: Subject) -> "Meter":
        """Of another one that plays in the same run."""
        return Meter(subject, self._run, self._delay, self._samples)

    def measure(
        self, step: str, unit: str, workload: Callable[..., Result], *arguments: Any, forgotten: bool = False
    ) -> Result:
        """Run a workload in the subject's folder, with `forgotten` names, and let the subject settle."""
        if forgotten:
            self.forget_names()
        else:
            self.quiet()
        before = cpu_seconds(self._subject.processes())
        forget_peaks(self._subject.processes())
        result = workloads.run(workload, self._subject.folder, *arguments)
        self.quiet()
        processes = self._subject.processes()
        if processes:
            self.rate(step, unit, result, cpu_seconds(processes) - before, peak_memory(processes))
        else:
            self.rate(step, unit, result)
        return result

    def rate(self, step: str, unit: str, result: Result, cpu: float | None = None, memory: int | None = None) -> None:
        """A step that was timed elsewhere: `unit` is BYTES, or what was counted, a second."""
        seconds, count = result
        figure = count / seconds / (1e6 if unit == BYTES else 1)
        self._add(step, figure, unit, seconds, count, cpu, memory)

    def figure(self, step: str, figure: float, unit: str) -> None:
        """What is no rate."""
        self._add(step, figure, unit)

    def _add(self, step: str, figure: float, unit: str, *others: Any) -> None:
        self._samples.append(Sample(step, self._subject.name, self._delay, self._run, figure, unit, *others))

    def quiet(self) -> None:
        """Return once the subject has nothing left to do."""
        self._subject.settle()
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + _BUSY
        used = cpu_seconds(self._subject.processes())
        while time.monotonic() < end:
            time.sleep(_IDLE)
            before, used = used, cpu_seconds(self._subject.processes())
            if used - before < _TICK:
                return

    def forget_names(self) -> None:
        """Have the kernel drop names and attributes, of every filesystem; needs root. Returns once the subject has
        taken note: s3ql's way to settle looks at every name.

        What was used lately survives the first time, and the second only clears that mark of what hangs below it.
        """
        self.quiet()
        for _ in range(4):
            Path("/proc/sys/vm/drop_caches").write_text("2")
        self._wait()


def cpu_seconds(processes: Iterable[int]) -> float:
    """User and system time of these processes until now."""
    ticks = 0
    for pid in processes:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks * _TICK


def forget_peaks(processes: Iterable[int]) -> None:
    """Have the kernel begin a new peak of resident memory, see proc_pid_clear_refs(5)."""
    for pid in processes:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_memory(processes: Iterable[int]) -> int:
    return sum(_memory(pid, "VmHWM:") for pid in processes)


def resident_memory(processes: Iterable[int]) -> int:
    return sum(_memory(pid, "VmRSS:") for pid in processes)


def read_from_disk(processes: Iterable[int]) -> int:
    """Bytes that these processes had to have from a disk until now, as the kernel did not hold them in memory."""
    return sum(_number(Path(f"/proc/{pid}/io"), "read_bytes:") for pid in processes)


def _memory(pid: int, name: str) -> int:
    return _number(Path(f"/proc/{pid}/status"), name) * 1024


def _number(file: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(name))
