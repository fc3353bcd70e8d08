"""A wall clock that can be moved, for one worker: libfaketime. Monotonic time goes on as it does."""

from pathlib import Path

from benchmarks.chaos.commands import CannotRunError
from benchmarks.compare.installed import debian


class FakeClock:
    """Set `offset_seconds`, and within a second the worker's clock has moved."""

    def __init__(self, folder: Path) -> None:
        debian("faketime", "faketime")
        libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        if not libraries:
            raise CannotRunError("the package libfaketime brought no libfaketimeMT.so.1")
        self._library, self._file = libraries[0], folder / "clock"
        self.move(0)

    def move(self, offset_seconds: int) -> None:
        """Move it, from what it really is."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset_seconds:+d}\n")
        new.replace(self._file)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to live by it."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
