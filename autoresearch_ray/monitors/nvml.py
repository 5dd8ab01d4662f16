"""The monitor of NVIDIA GPUs: what the driver says of the device before and while an evaluation runs on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from autoresearch_ray.errors import GpuError
from autoresearch_ray.model import Resources
from autoresearch_ray.monitors import _driver, _tree
from autoresearch_ray.monitors._diagnosis import Diagnosis
from autoresearch_ray.monitors._driver import Device, Reading, UnreadableError
from autoresearch_ray.monitors._sampling import PATIENCE_SECONDS, Asker, Sampler, Series
from autoresearch_ray.ports import Trouble

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
        self._devices = tuple(_driver.find(each) for each in gpus)
        uuids = [each.uuid for each in self._devices if each.uuid]
        self._known = Resources(
            device=self._devices[0].name or "NVIDIA GPU",
            uuid=",".join(uuids) if len(uuids) == len(gpus) else None,
            driver=_driver.version(),
        )
        self._diagnosis = Diagnosis(self._devices)
        self._asker = Asker(self._diagnosis.look)

    @staticmethod
    def ids() -> tuple[str, ...]:
        """The GPUs of this machine, in PCI order. Raises `GpuError` where NVML cannot be read."""
        return _driver.ids()

    @property
    def device(self) -> str:
        return self._known.device

    @property
    def device_class(self) -> str:
        """Such as "NVIDIA H200, 141 GB, driver 550" or "2 x NVIDIA H200, ..."; what is not shown is left out."""
        kinds = Counter(_driver.kind(each) for each in self._devices)
        parts = [each if count == 1 else f"{count} x {each}" for each, count in kinds.items()]
        if self._known.driver:
            parts.append(f"driver {self._known.driver.partition('.')[0]}")
        return ", ".join(parts)

    def watch(self) -> _Watch:
        self._diagnosis.begin()
        return _Watch(self._devices, self._known, self._diagnosis.ours)

    def trouble(self, alone: bool) -> Trouble | None:
        """As `ports.Monitor` has it. A driver that does not answer is unsettled, and is not asked again meanwhile."""
        try:
            return self._asker.ask(alone)
        except TimeoutError:
            return Trouble("unsettled", f"NVML did not answer for {PATIENCE_SECONDS:g} s")


class _Watch:
    """`lost` follows the newest reading, so that one refused answer in between is forgiven; a lost GPU stays lost."""

    def __init__(self, devices: tuple[Device, ...], known: Resources, ours: set[int]) -> None:
        """`ours` is told the experiment's processes on the devices, also when they are seen under another pid."""
        self._devices = devices
        self._known = known
        self._ours = ours
        self._sampler = Sampler(self._sample)
        self._tree = _tree.Tree()
        self._stuck = ""
        self._lost = ""
        self._over = False
        self._first: Reading | None = None
        self._last: Reading | None = None
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
                readings.append(_driver.read(device))
            except UnreadableError as error:
                self._lost = str(error)
                # Without a first reading there is no idle level that later ones could be compared with.
                self._over = self._first is None or error.gone
                return
        self._lost = ""
        self._take(_driver.together(readings))

    def _take(self, now: Reading) -> None:
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
        self._process_memory.add(_driver.total([processes[pid] for pid in ours]))
        strangers = processes.keys() - ours
        visible = {pid for pid in strangers if _tree.exists(pid)}
        hidden = {pid for pid in strangers - visible if processes[pid]}
        if opening:
            self._hidden = hidden
        self._ours |= ours | (hidden - self._hidden)
        self._contended |= bool(visible) or (not opening and bool(hidden & self._hidden))

    def _energy_joules(self) -> float | None:
        """From the device's counter if it has one (it misses nothing between samples), else from the power samples."""
        first, last = self._first, self._last
        if first is None or last is None or last is first:
            return None
        if first.energy_joules is not None and last.energy_joules is not None:
            return last.energy_joules - first.energy_joules
        return self._integral_joules
