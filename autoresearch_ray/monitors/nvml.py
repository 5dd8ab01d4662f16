"""The monitor of NVIDIA GPUs: what the driver says of the device while an evaluation runs on it, through NVML.

Every field degrades by itself: what a device, a driver or a permission does not show is None, and the rest survives.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pynvml

from autoresearch_ray.errors import GpuError
from autoresearch_ray.model import Resources
from autoresearch_ray.monitors import _tree
from autoresearch_ray.monitors._sampling import PATIENCE_SECONDS, Sampler, Series

_MB = 1 << 20

# Entry points, the newest first: drivers lack the new ones, and CUDA 14 drops the old.
_COMPUTE = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2")
_GRAPHICS = ("nvmlDeviceGetGraphicsRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v2")
_TEMPERATURE = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")
_REASONS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")

# The bits of nvml.h. An idle GPU (0x1) and clocks that the user fixed (0x2) are no throttling.
_THROTTLE = {
    0x004: "power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal",
    0x040: "hw_thermal",
    0x080: "power_brake",
    0x100: "display",
    0x200: "board_limit",
    0x400: "reliability",
}

# What to do when NVML does not open, by the error numbers of nvml.h.
_HINTS = {
    4: "this user may not open /dev/nvidiactl",
    9: "the driver is installed, but not loaded: `modprobe nvidia`, or reboot",
    12: "install the NVIDIA driver, or start the container with its GPUs (`--gpus all`); "
    "a machine without GPUs runs with `--gpus-per-worker 0`",
    18: "the driver was updated under the running kernel: reboot",
}


class Nvml:
    """Watches the GPUs of one worker, every half second from just before the evaluation to just after it.

    Power and utilisation are means, the temperature is the highest. Several GPUs count as one: memory, power and energy
    are summed, utilisation is their mean, and the name is the first one's.

    `gpus` are indices in PCI order, as Ray grants them, or UUIDs ("GPU-...", "MIG-..."). Raises `GpuError` where NVML
    or one of them cannot be read.

    Memory is that of the whole device above its level when the watch began, because NVML in a container may show the
    host's process ids, or none. For the same reason a process on the device is a stranger, and the measurement
    `contended`, only if it is not the experiment's and either
    - exists in our /proc: another user's training, a desktop, what an earlier experiment left stuck in the driver; or
    - does not, but held memory on the device both when the watch began and later: it was there before the experiment.
    A stranger from outside our container that comes after the experiment began is not told from the experiment.
    """

    def __init__(self, gpus: tuple[str, ...]) -> None:
        if not gpus:
            raise GpuError("NVML has nothing to watch: this worker was granted no GPU", "choose `monitor: cpu`")
        _initialise()
        self._devices = tuple(_find(each) for each in gpus)
        uuids = [each.uuid for each in self._devices if each.uuid]
        self._known = Resources(
            device=self._devices[0].name or "NVIDIA GPU",
            uuid=",".join(uuids) if len(uuids) == len(gpus) else None,
            driver=_ask(("nvmlSystemGetDriverVersion",)),
        )

    @staticmethod
    def ids() -> tuple[str, ...]:
        """The GPUs of this machine, in PCI order. Raises `GpuError` where NVML cannot be read."""
        _initialise()
        return tuple(str(each) for each in range(_ask(("nvmlDeviceGetCount",)) or 0))

    @property
    def device(self) -> str:
        return self._known.device

    @property
    def device_class(self) -> str:
        """Such as "NVIDIA H200, 141 GB, driver 550" or "2 x NVIDIA H200, ..."; what is not shown is left out."""
        kinds = Counter(_kind(each) for each in self._devices)
        parts = [each if count == 1 else f"{count} x {each}" for each, count in kinds.items()]
        if self._known.driver:
            parts.append(f"driver {self._known.driver.partition('.')[0]}")
        return ", ".join(parts)

    def watch(self) -> _Watch:
        return _Watch(self._devices, self._known)


@dataclass(frozen=True, slots=True)
class _Device:
    id: str
    handle: Any
    name: str | None
    uuid: str | None


@dataclass(frozen=True, slots=True)
class _Reading:
    """One device, or all of a worker's together, at one moment. None is not shown."""

    at: float
    used_mb: float | None
    energy_joules: float | None  # since the driver was loaded
    power_watts: float | None
    utilisation_percent: float | None
    temperature_c: float | None
    throttle: int
    processes: Mapping[int, float | None] = field(default_factory=dict)  # MB by pid


class _Watch:
    """`lost` follows the newest reading, so that one refused answer in between is forgiven; a lost GPU stays lost."""

    def __init__(self, devices: tuple[_Device, ...], known: Resources) -> None:
        self._devices = devices
        self._known = known
        self._sampler = Sampler(self._sample)
        self._tree = _tree.Tree()
        self._stuck = ""
        self._lost = ""
        self._over = False
        self._first: _Reading | None = None
        self._last: _Reading | None = None
        self._memory, self._process_memory = Series(), Series()
        self._power, self._utilisation, self._temperature = Series(), Series(), Series()
        self._integral_joules: float | None = 0.0  # of power; None once a reading is missing
        self._throttle = 0
        self._contended = False
        self._hidden: set[int] = set()  # on the device before the experiment, but not in our /proc

    def __enter__(self) -> _Watch:
        if not self._sampler.start():
            self._stuck = f"NVML did not answer for {PATIENCE_SECONDS:g} s"
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._sampler.stop():
            self._stuck = f"NVML did not answer for {PATIENCE_SECONDS:g} s"

    def follow(self, pid: int) -> None:
        self._tree.follow(pid)

    @property
    def lost(self) -> str:
        return self._stuck or self._lost

    @property
    def resources(self) -> Resources:
        return replace(
            self._known,
            peak_mb=self._memory.peak,
            mean_mb=self._memory.mean,
            process_peak_mb=self._process_memory.peak,
            energy_joules=self._energy_joules(),
            utilisation_percent=self._utilisation.mean,
            power_watts=self._power.mean,
            temperature_c=self._temperature.peak,
            throttle=tuple(word for bit, word in _THROTTLE.items() if self._throttle & bit),
            contended=self._contended,
        )

    # --- On the sampler's thread -------------------------------------------------------------------------------------

    def _sample(self) -> None:
        if self._over:
            return
        readings = []
        for device in self._devices:
            try:
                readings.append(_read(device.handle))
            except pynvml.NVMLError as error:
                self._lost = f"GPU {device.id} cannot be read: {error}"
                # Without a first reading there is no idle level that later ones could be compared with.
                self._over = self._first is None or _gone(error)
                return
        self._lost = ""
        self._take(_together(readings))

    def _take(self, now: _Reading) -> None:
        first, last, self._last = self._first, self._last, now
        self._look_at(now.processes, opening=first is None)
        if first is None or last is None:
            self._first = now  # the idle level; the rest of it is not the experiment's
            return
        if now.used_mb is not None and first.used_mb is not None:
            self._memory.add(max(0.0, now.used_mb - first.used_mb))
        self._power.add(now.power_watts)
        self._utilisation.add(now.utilisation_percent)
        self._temperature.add(now.temperature_c)
        self._throttle |= now.throttle
        if self._integral_joules is None or last.power_watts is None or now.power_watts is None:
            self._integral_joules = None
        else:
            self._integral_joules += (last.power_watts + now.power_watts) / 2 * (now.at - last.at)

    def _look_at(self, processes: Mapping[int, float | None], *, opening: bool) -> None:
        ours = {pid for pid in processes if pid in self._tree}
        self._process_memory.add(_sum([processes[pid] for pid in ours]))
        strangers = processes.keys() - ours
        visible = {pid for pid in strangers if _tree.exists(pid)}
        hidden = {pid for pid in strangers - visible if processes[pid]}
        if opening:
            self._hidden = hidden
        self._contended |= bool(visible) or (not opening and bool(hidden & self._hidden))

    def _energy_joules(self) -> float | None:
        """From the device's counter if it has one (it misses nothing between samples), else from the power samples."""
        first, last = self._first, self._last
        if first is None or last is None or last is first:
            return None
        if first.energy_joules is not None and last.energy_joules is not None:
            return last.energy_joules - first.energy_joules
        return self._integral_joules


# --- Speaking to NVML ------------------------------------------------------------------------------------------------


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


def _find(gpu: str) -> _Device:
    by_index, by_uuid = pynvml.nvmlDeviceGetHandleByIndex, pynvml.nvmlDeviceGetHandleByUUID
    try:
        handle = by_index(int(gpu)) if gpu.isdecimal() else by_uuid(gpu)
        return _Device(gpu, handle, _ask(("nvmlDeviceGetName",), handle), _ask(("nvmlDeviceGetUUID",), handle))
    except pynvml.NVMLError as error:
        here = ", ".join(Nvml.ids()) or "none"
        raise GpuError(
            f"GPU {gpu} cannot be read: {error} (here: {here})", "see `nvidia-smi -L`; a UUID is given in full"
        ) from error


def _kind(device: _Device) -> str:
    """The model and its memory in whole GB (2**30), as it is sold: 140.4 are 141."""
    try:
        memory = _ask(("nvmlDeviceGetMemoryInfo",), device.handle)
    except pynvml.NVMLError:  # a GPU that is lost: the first watch says so
        memory = None
    name = device.name or "NVIDIA GPU"
    return name if memory is None else f"{name}, {math.ceil(memory.total / _MB / 1024)} GB"


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


def _read(handle: Any) -> _Reading:
    """Raises `NVMLError` when the device is lost, of which failing to say its memory is a sign too."""
    try:
        # Version 1 counts what the driver reserves as used, version 2 does not: above the idle level they are the same.
        used_mb = pynvml.nvmlDeviceGetMemoryInfo(handle).used / _MB
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_NoPermission, pynvml.NVMLError_FunctionNotFound):
        used_mb = None  # such as a GPU that shares the memory of the CPU
    energy = _ask(("nvmlDeviceGetTotalEnergyConsumption",), handle)
    power = _ask(("nvmlDeviceGetPowerUsage",), handle)
    utilisation = _ask(("nvmlDeviceGetUtilizationRates",), handle)
    return _Reading(
        at=time.monotonic(),
        used_mb=used_mb,
        energy_joules=None if energy is None else energy / 1000,
        power_watts=None if power is None else power / 1000,
        utilisation_percent=None if utilisation is None else float(utilisation.gpu),
        temperature_c=_ask(_TEMPERATURE, handle, pynvml.NVML_TEMPERATURE_GPU),
        throttle=_ask(_REASONS, handle) or 0,
        processes=_processes(handle),
    )


def _processes(handle: Any) -> dict[int, float | None]:
    """MB by pid. A process that computes and draws is in both lists, each time with all of its memory."""
    found: dict[int, float | None] = {}
    for names in (_COMPUTE, _GRAPHICS):
        for each in _ask(names, handle) or ():
            mb = None if each.usedGpuMemory is None else each.usedGpuMemory / _MB
            found[each.pid] = max((x for x in (mb, found.get(each.pid)) if x is not None), default=None)
    return found


def _together(readings: list[_Reading]) -> _Reading:
    processes: dict[int, float | None] = {}
    for pid in {pid for each in readings for pid in each.processes}:
        processes[pid] = _sum([each.processes[pid] for each in readings if pid in each.processes])
    utilisation = _all([each.utilisation_percent for each in readings])
    throttle = 0
    for each in readings:
        throttle |= each.throttle
    return _Reading(
        at=readings[-1].at,
        used_mb=_sum([each.used_mb for each in readings]),
        energy_joules=_sum([each.energy_joules for each in readings]),
        power_watts=_sum([each.power_watts for each in readings]),
        utilisation_percent=sum(utilisation) / len(utilisation) if utilisation else None,
        temperature_c=max(_all([each.temperature_c for each in readings]), default=None),
        throttle=throttle,
        processes=processes,
    )


def _all(values: list[float | None]) -> list[float]:
    """The values if each of them is known, else none of them: a part of a sum is not the sum."""
    known = [each for each in values if each is not None]
    return known if len(known) == len(values) else []


def _sum(values: list[float | None]) -> float | None:
    known = _all(values)
    return sum(known) if known else None
