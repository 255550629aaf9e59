"""The summary of a run of inference: numbers of images, instances and drawings, and the failures."""

from dataclasses import dataclass, field

from ppsolo.results.instances import Instances


@dataclass
class InferenceSummary:
    """The result of an inference run.

    Attributes:
        images, instances: numbers of images read and instances found. drawn: number of drawn instances.
        unreadable: how many pictures could not be read.
        failures: a line for each picture or video that could not be read or drawn.
        notes: other lines for the user.
        skipped: how many late frames of a live stream were left out.
        interruption: what ended a live stream, Ctrl-C or SIGTERM; None: it ended by itself.
    """

    images: int = 0
    instances: int = 0
    drawn: int = 0
    unreadable: int = 0
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: int = 0
    interruption: KeyboardInterrupt | None = None

    def count(self, instances: Instances) -> None:
        """Add the instances of one more image."""
        self.images += 1
        self.instances += len(instances)
