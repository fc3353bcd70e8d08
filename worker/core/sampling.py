"""Which of many like happenings to tell of: a storm of them must not become a storm of lines."""

from collections.abc import Hashable


class Sampler:
    """The first of a kind at once, then one every `seconds`, with how many were left out in between.

    Up to `kinds_max` kinds are told apart. Beyond, a happening counts as one of its wider kind; of those there have to be few.
    """

    def __init__(self, seconds: float = 60.0, kinds_max: int = 100) -> None:
        self._seconds, self._kinds_max = seconds, kinds_max
        self._kinds: dict[Hashable, tuple[float, int]] = {}
        """When it was told of, and how many were left out since."""
        self._looked = float("-inf")

    def admit(self, kind: Hashable, wider: Hashable, now: float) -> int | None:
        """Return None if this one is to be left out; else how many of its kind were, before it."""
        if kind not in self._kinds and len(self._kinds) >= self._kinds_max:
            self._forget(now)
            if len(self._kinds) >= self._kinds_max:
                kind = wider
        told, left_out = self._kinds.get(kind, (float("-inf"), 0))
        if now < told + self._seconds:
            self._kinds[kind] = told, left_out + 1
            return None
        self._kinds[kind] = now, 0
        return left_out

    def settle(self, now: float, *, all_of_them: bool = False) -> list[tuple[Hashable, int]]:
        """Return kinds of which some were left out and none was told of since, and how many: after a while, or at the end."""
        over = [
            (kind, left_out)
            for kind, (told, left_out) in self._kinds.items()
            if left_out and (all_of_them or now >= told + self._seconds)
        ]
        for kind, _ in over:
            self._kinds[kind] = now, 0
        return over

    def _forget(self, now: float) -> None:
        """Make room. Once a second: with very many kinds, each would look through all of them."""
        if now >= self._looked + 1:
            self._looked = now
            self._kinds = {
                kind: (told, left_out)
                for kind, (told, left_out) in self._kinds.items()
                if left_out or now < told + self._seconds
            }
