"""Where limits come from, and what is said when they are wrong."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from worker.cli.limits import LimitSettings
from worker.settings import ConfigurationError


def settings(file: Path | None, **flags: Any) -> LimitSettings:
    given = {"concurrency": None, "slow_share": None, "drain_timeout": None, "limits": file and str(file), **flags}
    return LimitSettings.of(argparse.Namespace(**given))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "limits.toml"
    path.write_text('concurrency = 8\ndrain_timeout = "2m"\n')
    return path


def test_defaults() -> None:
    """Without a flag and a file the defaults hold."""
    limits = settings(None).read()
    assert (64, 0.5, 20.0) == (limits.concurrency, limits.slow_share, limits.drain_seconds)


def test_a_flag_wins_over_the_file(file: Path) -> None:
    """What a flag says holds, whatever the file says; what neither says has its default."""
    limits = settings(file, concurrency=3).read()
    assert (3, 0.5, 120.0) == (limits.concurrency, limits.slow_share, limits.drain_seconds)


def test_the_file_is_read_again(file: Path) -> None:
    """Each time it is asked for, what the file says then."""
    subject = settings(file)
    assert 8 == subject.read().concurrency
    file.write_text("concurrency = 9\nslow_share = 1\ndrain_timeout = 5")
    limits = subject.read()
    assert (9, 1.0, 5.0) == (limits.concurrency, limits.slow_share, limits.drain_seconds)


def test_the_file_of_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names the file where no flag does."""
    monkeypatch.setenv("WEBHOOK_WORKER_LIMITS", str(file))
    assert 8 == settings(None).read().concurrency


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("concurrency = 0", "concurrency: '0' is not a number from 1 to 10000"),
        ("concurrency = true", "concurrency: 'True' is not"),
        ("slow_share = 2.0", "slow_share: '2.0' is not a share"),
        ('drain_timeout = "soon"', "drain_timeout: "),
        ("lanes = 3", "lanes is no limit; there are concurrency, slow_share, drain_timeout"),
        ("concurrency =", "is not TOML"),
        ("concurrency = 3 # \xff", "is not TOML"),
    ],
)
def test_a_wrong_file(file: Path, text: str, said: str) -> None:
    """A file that cannot be used is named, with what is wrong in it."""
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError) as raised:
        settings(file).read()
    assert str(raised.value).startswith(f"the limits file {file}")
    assert said in str(raised.value)


def test_no_file(tmp_path: Path) -> None:
    """A file that was named has to be there."""
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        settings(tmp_path / "none.toml").read()
