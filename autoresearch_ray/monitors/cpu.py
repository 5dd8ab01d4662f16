"""The monitor of evaluations without a GPU: the resident memory of the process tree, through psutil."""

from __future__ import annotations

import platform
from contextlib import suppress
from pathlib import Path

import psutil

from autoresearch_ray.model import Resources
from autoresearch_ray.monitors._sampling import Sampler, Series

_MB = 1 << 20


class Cpu:
    """Peak and mean resident memory of the evaluation's processes, sampled every half second.

    Resident sizes are summed, so pages that processes share count once for each: the proportional size would be exact,
    but costs a hundred times as much. CPU seconds are not read here: the guardian has them to the tick from the kernel.
    """

    def __init__(self, gpus: tuple[str, ...]) -> None:
        pass  # whatever was granted, this monitor looks at processes

    @property
    def device(self) -> str:
        return "cpu"

    @property
    def device_class(self) -> str:
        return f"cpu, {_processor()}"

    def watch(self) -> _Watch:
        return _Watch()

    def trouble(self, alone: bool) -> None:
        """There is nothing to be asked."""


class _Watch:
    lost = ""  # a CPU that is gone takes this process with it

    def __init__(self) -> None:
        self._sampler = Sampler(self._sample)
        self._root: psutil.Process | None = None
        self._alive: set[psutil.Process] = set()
        self._memory = Series()

    def __enter__(self) -> _Watch:
        self._sampler.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._sampler.stop()

    def follow(self, pid: int) -> None:
        try:
            self._root = psutil.Process(pid)
        except psutil.NoSuchProcess:  # over before it could be watched: its memory is not known
            self._root = None

    @property
    def resources(self) -> Resources:
        return Resources(device="cpu", peak_mb=self._memory.peak, mean_mb=self._memory.mean)

    def _sample(self) -> None:
        if self._root is None:
            return
        self._alive.add(self._root)
        with suppress(psutil.NoSuchProcess):  # what it left behind is still in `_alive`
            self._alive.update(self._root.children(recursive=True))
        sizes = {each: _resident_mb(each) for each in self._alive}
        self._alive = {each for each, size in sizes.items() if size}
        if self._alive:
            self._memory.add(sum(sizes.values()))


def _processor() -> str:
    """The processor's name as the kernel tells it, or its architecture where, as on ARM, it tells none."""
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return " ".join(value.split())
    return platform.machine()


def _resident_mb(process: psutil.Process) -> float:
    """Zero for a process that is over (a zombie holds no memory) or that is hidden from us."""
    try:
        return float(process.memory_info().rss) / _MB
    except psutil.Error:
        return 0.0
