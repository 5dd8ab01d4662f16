"""Where one lane stands: a part of the board."""

from __future__ import annotations

from dataclasses import dataclass

from autoresearch_ray.model import Order, Seat, Stop, Wait


@dataclass(slots=True)
class Lane:
    """Changed by `Board.apply` alone."""

    seat: Seat
    sitting: int
    head: str
    own: tuple[str, ...] = ()  # kept commits that the leader may lack, oldest first
    order: Order | None = None
    ordered_at: float = 0.0
    interruptions: int = 0  # of its latest order, by the death of whoever carried it out
    number: int = 0  # of its latest order
    pending: int | None = None  # number of the experiment it still owes a verdict
    hand_ins: int = 0  # verdicts since it last moved onto the best
    discards_in_a_row: int = 0
    agent_failures_in_a_row: int = 0
    backs_off_until: float = 0.0  # because of these
    has_begun: bool = False  # to ask its agent, or to wait for that, since it sat down
    remeasure_failures_in_a_row: int = 0
    calibrated: bool = False  # has measured the base itself
    present: bool = True  # false from the moment a run is taken up again until somebody sits here
    paused: bool = False  # its slot waits for its device
    held: bool = False  # somebody wants it to wait
    proposals: int = 0  # that its agent was asked for
    reserved_usd: float = 0.0  # set aside for the proposal that it is making

    @property
    def ordered(self) -> bool:
        """Whether somebody is there to carry out its order, now or when its slot is no longer paused."""
        return self.present and self.order is not None and not isinstance(self.order, Stop)

    def fork(self) -> Lane:
        """A copy of its own; `replace` takes three times as long."""
        fork = Lane.__new__(Lane)
        for name in Lane.__slots__:
            setattr(fork, name, getattr(self, name))
        return fork

    @property
    def active(self) -> bool:
        """Whether somebody is carrying out its order."""
        return self.ordered and not self.paused and not (self.held and isinstance(self.order, Wait))
