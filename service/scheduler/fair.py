"""Accounts of start-time fair queueing, for everything that shares threads between lanes.

Both stages of the service, the workers that run networks and the threads that decode, keep their accounts here: a copy
that did not advance the virtual time on one of its paths once starved a task for minutes.
"""

from dataclasses import dataclass

_COST_SMOOTHING = 0.2  # weight of the newest run in the moving average of a lane's cost


@dataclass(slots=True, eq=False, kw_only=True)
class Share:
    """What a lane has had of the threads, and what its items cost.

    Attributes:
        served_s: virtual time of start-time fair queueing; the lane with the least is next.
        cost_s: moving average of the seconds that an item takes. It starts as a guess.
        runs: number of runs in that average.
    """

    served_s: float = 0.0
    cost_s: float
    runs: int = 0

    def measured_cost_s(self, guess_s: float) -> float | None:
        """The average without the remaining weight of its first value, the guess; None before the first run."""
        if not self.runs:
            return None
        guessed = (1 - _COST_SMOOTHING) ** self.runs
        return (self.cost_s - guessed * guess_s) / (1 - guessed)


class FairClock:
    """The virtual time of several lanes. Not thread-safe: its owner calls it with a lock held."""

    __slots__ = ("_virtual_s",)

    def __init__(self) -> None:
        self._virtual_s = 0.0

    def join(self, share: Share) -> None:
        """Lets a lane in that had nothing to do: its idle time earns no credit."""
        share.served_s = max(share.served_s, self._virtual_s)

    def start(self, share: Share, items: int = 1) -> float:
        """Accounts for a run of a lane that is about to start, whether it waited or found a thread free.

        The estimated cost is charged in advance, so that several threads do not all pick this lane; `end` corrects it.

        Returns:
            The seconds charged.
        """
        self._virtual_s = max(self._virtual_s, share.served_s)
        charged_s = share.cost_s * items
        share.served_s += charged_s
        return charged_s

    def end(self, share: Share, seconds: float, charged_s: float, items: int = 1) -> None:
        """Replaces the charge of `start` by the measured time of a run that has ended."""
        share.served_s += seconds - charged_s
        share.cost_s += _COST_SMOOTHING * (seconds / items - share.cost_s)
        share.runs += 1
