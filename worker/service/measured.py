"""Everything that a worker shows of itself, in one place: who shows it reads, and changes nothing."""

from worker.pipeline.pipeline import Pipeline
from worker.pipeline.tally import Histogram, Tally
from worker.service.health import Health
from worker.service.housekeeping import HouseCounts
from worker.service.loop_lag import BOUNDS
from worker.service.sampler import Sampler
from worker.service.top_endpoints import TopEndpoints


class Measured:
    """Where the numbers are kept. `endpoints` is None unless so many have metrics of their own."""

    def __init__(  # noqa: PLR0913, PLR0917 - each is a part of the worker that keeps numbers
        self,
        pipeline: Pipeline,
        tally: Tally,
        house: HouseCounts,
        sampler: Sampler,
        health: Health,
        endpoints_named: int = 0,
    ) -> None:
        self.pipeline, self.tally, self.house = pipeline, tally, house
        self.sampler, self.health = sampler, health
        self.loop_lag = Histogram(BOUNDS)
        self.endpoints = TopEndpoints(endpoints_named) if endpoints_named else None
        if self.endpoints is not None:
            tally.each = self.endpoints.add
