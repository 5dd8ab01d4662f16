"""Whether GPUs may be measured on now: what the driver holds against them, and who or what else is on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autoresearch_ray.monitors import _driver, _tree
from autoresearch_ray.monitors._driver import Device, Reading, UnreadableError, Xids
from autoresearch_ray.ports import Trouble

# Xids after which a GPU is not to be trusted, from NVIDIA's catalog (docs.nvidia.com/deploy/xid-errors): its action is
# to reset the GPU or to restart the machine, or (94) to reset it when convenient, as its memory was at fault.
# Left out are those that a candidate can bring about and that leave the GPU in order (13, 31, 43, 45, 68, 69), hung
# kernels that may be its doing, too (46, 109), and what was corrected (63, 92): a GPU that is broken without a word of
# the driver fails three times in a row, and then on the base.
_SICK = {
    48: "uncorrectable memory error",
    62: "its micro-controller halted",
    64: "a bad row of memory could not be remapped",
    79: "fallen off the bus",
    94: "contained memory error",
    95: "uncontained memory error",
    110: "security fault",
    119: "its system processor (GSP) does not answer",
    120: "its system processor (GSP) failed",
    140: "memory error that was not recovered",
    143: "could not be initialised",
    156: "a part of it was taken out of use",
    158: "fatal timeout",
}
# Of links to other GPUs: one that dies takes down the links of all its neighbours, which work on their own as before.
_SICK_LINK = {74: "NVLink failed", 136: "link training failed"}

_SLACK_MB = 512.0  # above the idle level, what a driver itself takes more or less of
_SERVERS = ("nvidia-cuda-mps",)  # the user's own arrangement for sharing GPUs; it computes nothing


class Diagnosis:
    """Of one worker's devices, from one look to the next. What is sick stays sick.

    The idle level of the memory is the lowest that was seen: what a stranger held from before the first look on is told
    only if NVML shows his process. A desktop, processes that only draw, is no trouble, and where there is one the
    memory is not looked at: it comes and goes. Memory that a stranger whom NVML does not show took while an experiment
    ran is not told from what that left behind.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        self.ours: set[int] = set()  # processes on the device that an experiment of ours started
        self._devices = devices
        self._xids = [Xids(each) for each in devices]
        self._uncorrected: dict[str, int] = {}  # ECC errors at the first look
        self._sick = ""
        self._idle_mb: float | None = None
        self._given_back = True  # the memory, since an experiment of ours began

    def begin(self) -> None:
        """An experiment begins: memory that is in use from now on may be its."""
        self._given_back = False

    def look(self, alone: bool) -> Trouble | None:
        """What speaks against measuring now. `alone`: the devices are this worker's, and nobody else belongs there."""
        try:
            for device, xids in zip(self._devices, self._xids, strict=True):
                self._sick = self._sick or self._examine(device, xids)
            now = None if self._sick else _driver.together([_driver.read(each) for each in self._devices])
        except UnreadableError as error:
            if not error.gone:
                return Trouble("unsettled", str(error))
            self._sick, now = str(error), None
        if now is None:
            return Trouble("sick", self._sick)
        return self._occupied(now) if alone else None

    def _examine(self, device: Device, xids: Xids) -> str:
        """What makes the device sick, or ""."""
        fatal = _SICK | _SICK_LINK if len(self._devices) > 1 else _SICK
        for xid in xids.new():
            if xid in fatal:
                return f"GPU {device.id}: Xid {xid}: {fatal[xid]}"
        faults = _driver.faults(device)
        if faults.uncorrected is not None:
            before = self._uncorrected.setdefault(device.id, faults.uncorrected)
            if faults.uncorrected > before:
                return f"GPU {device.id}: {faults.uncorrected - before} uncorrectable ECC errors"
        if faults.pages_pending:
            return f"GPU {device.id}: bad pages of memory are in use until it is reset"
        return f"GPU {device.id}: a bad row of memory could not be remapped" if faults.rows_failed else ""

    def _occupied(self, now: Reading) -> Trouble | None:
        """Who is there. A process, or memory, that is left of an experiment of ours should be gone soon."""
        where = f"GPU {', '.join(each.id for each in self._devices)}"
        there = {
            pid: mb
            for pid, mb in now.processes.items()
            if pid not in now.desktop and not _tree.name(pid).startswith(_SERVERS)
        }
        strangers = {pid: mb for pid, mb in there.items() if pid not in self.ours}
        if strangers:
            return Trouble("busy", f"{_named(strangers)} on {where}")
        excess_mb = self._excess_mb(now)
        if there:
            return Trouble("unsettled", f"{_named(there)}, left of an experiment, on {where}")
        if excess_mb <= _SLACK_MB or now.desktop:
            self._given_back = True
            self.ours.clear()
            return None
        if self._given_back:
            return Trouble("busy", f"{excess_mb:,.0f} MB in use on {where}, by nobody that is shown here")
        return Trouble("unsettled", f"{excess_mb:,.0f} MB that were not given back on {where}")

    def _excess_mb(self, now: Reading) -> float:
        if now.used_mb is None:
            return 0.0
        self._idle_mb = now.used_mb if self._idle_mb is None else min(self._idle_mb, now.used_mb)
        return now.used_mb - self._idle_mb


def _named(processes: Mapping[int, float | None]) -> str:
    """The largest of them, such as "process 4242 (python, 8,192 MB) and 2 more"."""
    pid = max(processes, key=lambda each: processes[each] or 0.0)
    mb = processes[pid]
    known = [_tree.name(pid) or "not of this container", *([] if mb is None else [f"{mb:,.0f} MB"])]
    more = f" and {len(processes) - 1} more" if len(processes) > 1 else ""
    return f"process {pid} ({', '.join(known)}){more}"
