"""Speaking to NVML: what the driver says of a device at one moment. The only file that imports pynvml.

Every field degrades by itself: what a device, a driver or a permission does not show is None, and the rest survives.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pynvml

from autoresearch_ray.errors import GpuError

_MB = 1 << 20

# Entry points, the newest first: drivers lack the new ones, and CUDA 14 drops the old.
_COMPUTE = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2")
_GRAPHICS = ("nvmlDeviceGetGraphicsRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v2")
_TEMPERATURE = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")
_REASONS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")

# What to do when NVML does not open, by the error numbers of nvml.h.
_HINTS = {
    4: "this user may not open /dev/nvidiactl",
    9: "the driver is installed, but not loaded: `modprobe nvidia`, or reboot",
    12: "install the NVIDIA driver, or start the container with its GPUs (`--gpus all`); "
    "a machine without GPUs runs with `--gpus-per-worker 0`",
    18: "the driver was updated under the running kernel: reboot",
}


class UnreadableError(Exception):
    """The driver does not answer for a device. It stays so if the device is `gone`: lost, or waiting for a reset."""

    def __init__(self, device: str, error: pynvml.NVMLError) -> None:
        super().__init__(f"GPU {device} cannot be read: {error}")
        self.gone = _gone(error)


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU, or a MIG slice of one, as it was granted."""

    id: str
    handle: Any
    whole: Any  # of the GPU that a MIG slice is part of, which alone has Xids and error counters; else the same
    name: str | None
    uuid: str | None


@dataclass(frozen=True, slots=True)
class Reading:
    """One device, or all of a worker's together, at one moment. None is not shown."""

    at: float
    used_mb: float | None
    energy_joules: float | None  # since the driver was loaded
    power_watts: float | None
    utilisation_percent: float | None
    temperature_c: float | None
    throttle: int
    processes: Mapping[int, float | None] = field(default_factory=dict)  # MB by pid
    desktop: frozenset[int] = frozenset()  # those of them that draw, and do not compute


@dataclass(frozen=True, slots=True)
class Faults:
    """What the driver counts against a device. None is not shown."""

    uncorrected: int | None  # ECC errors since the driver was loaded
    pages_pending: bool  # bad pages that stay in use until a reset: GPUs before Ampere
    rows_failed: bool  # a bad row could not be remapped: Ampere and later


def ids() -> tuple[str, ...]:
    """The GPUs of this machine, in PCI order. Raises `GpuError` where NVML cannot be read."""
    _initialise()
    return tuple(str(each) for each in range(_ask(("nvmlDeviceGetCount",)) or 0))


def version() -> str | None:
    """The driver's."""
    _initialise()
    found: str | None = _ask(("nvmlSystemGetDriverVersion",))
    return found


def find(gpu: str) -> Device:
    """By its index in PCI order, or its UUID. Raises `GpuError` that lists what there is."""
    _initialise()
    by_index, by_uuid = pynvml.nvmlDeviceGetHandleByIndex, pynvml.nvmlDeviceGetHandleByUUID
    try:
        handle = by_index(int(gpu)) if gpu.isdecimal() else by_uuid(gpu)
        name, uuid = _ask(("nvmlDeviceGetName",), handle), _ask(("nvmlDeviceGetUUID",), handle)
        sliced = (uuid or "").startswith("MIG-")
        whole = _ask(("nvmlDeviceGetDeviceHandleFromMigDeviceHandle",), handle) if sliced else None
        return Device(gpu, handle, whole or handle, name, uuid)
    except pynvml.NVMLError as error:
        here = ", ".join(ids()) or "none"
        raise GpuError(
            f"GPU {gpu} cannot be read: {error} (here: {here})", "see `nvidia-smi -L`; a UUID is given in full"
        ) from error


def kind(device: Device) -> str:
    """The model and its memory in whole GB (2**30), as it is sold: 140.4 are 141."""
    try:
        memory = _ask(("nvmlDeviceGetMemoryInfo",), device.handle)
    except pynvml.NVMLError:  # a GPU that is lost: the first watch says so
        memory = None
    name = device.name or "NVIDIA GPU"
    return name if memory is None else f"{name}, {math.ceil(memory.total / _MB / 1024)} GB"


def read(device: Device) -> Reading:
    """Raises `UnreadableError` when the device is lost, of which failing to say its memory is a sign too."""
    try:
        return _read(device.handle)
    except pynvml.NVMLError as error:
        raise UnreadableError(device.id, error) from error


def faults(device: Device) -> Faults:
    """Raises `UnreadableError` when the device is lost."""
    uncorrected, volatile = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
    try:
        rows = _ask(("nvmlDeviceGetRemappedRows",), device.whole)
        return Faults(
            uncorrected=_ask(("nvmlDeviceGetTotalEccErrors",), device.whole, uncorrected, volatile),
            pages_pending=bool(_ask(("nvmlDeviceGetRetiredPagesPendingStatus",), device.whole)),
            rows_failed=bool(rows and rows[3]),
        )
    except pynvml.NVMLError as error:
        raise UnreadableError(device.id, error) from error


class Xids:
    """The Xids that the driver reports of a device from now on. None where it, or a permission, reports none."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._events: Any = None
        try:
            events = pynvml.nvmlEventSetCreate()
            pynvml.nvmlDeviceRegisterEvents(device.whole, pynvml.nvmlEventTypeXidCriticalError, events)
            self._events = events
        except pynvml.NVMLError:  # not supported, not allowed or lost: the first look at the device tells which
            pass

    def new(self) -> Iterator[int]:
        """Those that came since the last look, oldest first. Raises `UnreadableError` when the device is lost."""
        while self._events is not None:
            try:
                yield int(pynvml.nvmlEventSetWait_v2(self._events, 0).eventData)
            except pynvml.NVMLError_Timeout:  # nothing more
                return
            except pynvml.NVMLError as error:
                if _gone(error):
                    raise UnreadableError(self._device.id, error) from error
                self._events = None


def together(readings: list[Reading]) -> Reading:
    """Several devices as one: sums, the mean utilisation, and the highest temperature."""
    processes: dict[int, float | None] = {}
    for pid in {pid for each in readings for pid in each.processes}:
        processes[pid] = total([each.processes[pid] for each in readings if pid in each.processes])
    utilisation = _all([each.utilisation_percent for each in readings])
    throttle = 0
    for each in readings:
        throttle |= each.throttle
    computing = {pid for each in readings for pid in each.processes.keys() - each.desktop}
    return Reading(
        at=readings[-1].at,
        used_mb=total([each.used_mb for each in readings]),
        energy_joules=total([each.energy_joules for each in readings]),
        power_watts=total([each.power_watts for each in readings]),
        utilisation_percent=sum(utilisation) / len(utilisation) if utilisation else None,
        temperature_c=max(_all([each.temperature_c for each in readings]), default=None),
        throttle=throttle,
        processes=processes,
        desktop=frozenset(processes.keys() - computing),
    )


def total(values: list[float | None]) -> float | None:
    """The sum, if each of them is known."""
    known = _all(values)
    return sum(known) if known else None


def _all(values: list[float | None]) -> list[float]:
    """The values if each of them is known, else none of them: a part of a sum is not the sum."""
    known = [each for each in values if each is not None]
    return known if len(known) == len(values) else []


@cache
def _initialise() -> None:
    """Open NVML, once per process; it is closed with the process. Raises `GpuError`, and is tried again after that."""
    if not hasattr(pynvml, _REASONS[0]):
        raise GpuError(
            f"{pynvml.__file__} is another package than nvidia-ml-py, or an old one",
            "`pip uninstall pynvml`, then `pip install --force-reinstall nvidia-ml-py`",
        )
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        hint = _HINTS.get(error.value, "see what `nvidia-smi` says")
        raise GpuError(f"NVML cannot be used: {error}", hint) from error


def _gone(error: pynvml.NVMLError) -> bool:
    return error.value in (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)


def _ask(names: tuple[str, ...], *arguments: Any) -> Any:
    """The first answer of these entry points; None if there is none. Raises `NVMLError` only for a GPU that is lost.

    "Unknown error" is an answer of laptops and of virtual GPUs for what they do not have; it does not mean a loss here.
    """
    for entry in (getattr(pynvml, name) for name in names if hasattr(pynvml, name)):
        try:
            return entry(*arguments)
        except pynvml.NVMLError as error:
            if _gone(error):
                raise
    return None


def _read(handle: Any) -> Reading:
    try:
        # Version 1 counts what the driver reserves as used, version 2 does not: above the idle level they are the same.
        used_mb = pynvml.nvmlDeviceGetMemoryInfo(handle).used / _MB
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_NoPermission, pynvml.NVMLError_FunctionNotFound):
        used_mb = None  # such as a GPU that shares the memory of the CPU
    energy = _ask(("nvmlDeviceGetTotalEnergyConsumption",), handle)
    power = _ask(("nvmlDeviceGetPowerUsage",), handle)
    utilisation = _ask(("nvmlDeviceGetUtilizationRates",), handle)
    computing, drawing = _processes(handle, _COMPUTE), _processes(handle, _GRAPHICS)
    return Reading(
        at=time.monotonic(),
        used_mb=used_mb,
        energy_joules=None if energy is None else energy / 1000,
        power_watts=None if power is None else power / 1000,
        utilisation_percent=None if utilisation is None else float(utilisation.gpu),
        temperature_c=_ask(_TEMPERATURE, handle, pynvml.NVML_TEMPERATURE_GPU),
        throttle=_ask(_REASONS, handle) or 0,
        processes={pid: _most(computing.get(pid), drawing.get(pid)) for pid in computing.keys() | drawing.keys()},
        desktop=frozenset(drawing.keys() - computing.keys()),
    )


def _processes(handle: Any, names: tuple[str, ...]) -> dict[int, float | None]:
    """MB by pid."""
    found: dict[int, float | None] = {}
    for each in _ask(names, handle) or ():
        found[each.pid] = _most(None if each.usedGpuMemory is None else each.usedGpuMemory / _MB, found.get(each.pid))
    return found


def _most(one: float | None, other: float | None) -> float | None:
    """A process that computes and draws is in both lists, each time with all of its memory."""
    return max((each for each in (one, other) if each is not None), default=None)
