"""How much a worker takes on: what a flag says, else the limits file, else the default. The file can be read again."""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.core.backoff import parse_duration
from worker.pipeline.limits import Limits
from worker.settings import ConfigurationError

CONCURRENCY_MAX = 10_000
DEFAULTS = {"concurrency": 64, "slow_share": 0.5, "drain_timeout": 20.0}


def lanes(text: str) -> int:
    """Read a number of lanes. Raises ArgumentTypeError, as all three do: they are also the types of flags."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= CONCURRENCY_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {CONCURRENCY_MAX}")
    return int(text)


def share(text: str) -> float:
    """Read a share of the lanes."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share of the lanes: write a number above 0, up to 1, such as 0.5")
    return value


def seconds(text: str) -> float:
    """Read a duration, in seconds if it has no unit."""
    try:
        return parse_duration(text if text[-1:].isalpha() else f"{text}s")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


PARSERS: dict[str, Callable[[str], Any]] = {"concurrency": lanes, "slow_share": share, "drain_timeout": seconds}


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """The flags that were given, by the names that the file has, too; and the file."""

    flags: dict[str, Any]
    file: Path | None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "LimitSettings":
        """Take them from parsed arguments; the file's name also from the environment."""
        flags = {name: value for name in DEFAULTS if (value := getattr(arguments, name)) is not None}
        file = arguments.limits or os.environ.get("WEBHOOK_WORKER_LIMITS")
        return cls(flags, Path(file) if file else None)

    def read(self) -> Limits:
        """Read the file, now, and return what holds. Raises ConfigurationError."""
        values = DEFAULTS | ({} if self.file is None else _read(self.file)) | self.flags
        return Limits.for_lanes(values["concurrency"], values["drain_timeout"], values["slow_share"])


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"the limits file {path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # neither UTF-8 nor TOML
        raise ConfigurationError(f"the limits file {path} is not TOML: {error}") from None
    if unknown := found.keys() - PARSERS.keys():
        raise ConfigurationError(f"the limits file {path}: {min(unknown)} is no limit; there are {', '.join(PARSERS)}")
    values = {}
    for name, value in found.items():
        try:
            values[name] = PARSERS[name](str(value))
        except argparse.ArgumentTypeError as error:
            raise ConfigurationError(f"the limits file {path}: {name}: {error}") from None
    return values
