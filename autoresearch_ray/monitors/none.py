"""The monitor that watches nothing, for devices that have no monitor."""

from __future__ import annotations

from autoresearch_ray.model import Resources


class NoMonitor:
    """Everything is unknown."""

    def __init__(self, gpus: tuple[str, ...]) -> None:
        self._device = "unknown" if gpus else "cpu"

    @property
    def device(self) -> str:
        return self._device

    @property
    def device_class(self) -> str:
        return self._device

    def watch(self) -> _Watch:
        return _Watch(Resources(device=self._device))

    def trouble(self, alone: bool) -> None:
        """There is nothing to be asked."""


class _Watch:
    lost = ""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def follow(self, pid: int) -> None:
        pass
