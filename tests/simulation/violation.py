"""A promise that was broken."""

from typing import NamedTuple


class Violation(NamedTuple):
    """Which promise, and how."""

    promise: str
    text: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.text}"


class BrokenError(Exception):
    """Raised within the checker for the first violation."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(str(violation))
        self.violation = violation


def demand(holds: bool, promise: str, text: str) -> None:
    """Raise BrokenError unless it holds."""
    if not holds:
        raise BrokenError(Violation(promise, text))
