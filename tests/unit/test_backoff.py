"""Durations and retry schedules."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.backoff import DEFAULT_SCHEDULE, DELAY_SECONDS_MAX, parse_duration, parse_schedule, retry_delay

fuzz = settings(deadline=None, max_examples=40)
chances = st.floats(0, 1, exclude_max=True)
schedules = st.lists(st.floats(0, DELAY_SECONDS_MAX), max_size=20)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5.0),
        ("250ms", 0.25),
        ("1.5h", 5400.0),
        ("2d12h", 216_000.0),
        ("1w", 604_800.0),
        ("0s", 0.0),
        ("1m1s", 61.0),
        ("365d", DELAY_SECONDS_MAX),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    """Numbers with units add up."""
    assert seconds == parse_duration(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "5",
        "s",
        "-5s",
        "+5s",
        "5 s",
        "5S",
        "5s ",
        "5sx",
        "1e3s",
        "٣s",
        "5\u0455",
        ".5s",
        "5.s",
        "366d",
        "999999999w",
        "9" * 400 + "s",
        "nan",
        "infs",
    ],
)
def test_bad_duration(text: str) -> None:
    """What is no duration of up to a year is refused."""
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


def test_default_schedule() -> None:
    """The default spans about three days."""
    assert (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0) == parse_schedule(DEFAULT_SCHEDULE)


@pytest.mark.parametrize(
    ("text", "schedule"), [("", ()), (" , ", ()), ("1s,2s 3s", (1.0, 2.0, 3.0)), (" 1s ,, 1m ", (1.0, 60.0))]
)
def test_schedule(text: str, schedule: tuple[float, ...]) -> None:
    """Delays are separated by spaces or commas; none means no retries."""
    assert schedule == parse_schedule(text)


@fuzz
@given(st.lists(st.integers(0, 999_999), max_size=10))
def test_schedule_round_trip(milliseconds: list[int]) -> None:
    """A schedule that is written out in milliseconds is read back the same."""
    text = " ".join(f"{value}ms" for value in milliseconds)
    assert [pytest.approx(value / 1000) for value in milliseconds] == list(parse_schedule(text))


@fuzz
@given(st.text(max_size=12) | st.from_regex(r"([0-9.]{1,10}(ms|s|m|h|d|w)){1,3}", fullmatch=True))
def test_duration_in_bounds(text: str) -> None:
    """Any text is a duration of at most a year, or a ValueError."""
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 <= seconds <= DELAY_SECONDS_MAX


@fuzz
@given(schedules.filter(bool), st.data(), chances)
def test_jitter(schedule: list[float], data: st.DataObject, chance: float) -> None:
    """The delay is within 10 % of the schedule's, and never more than a year."""
    attempts = data.draw(st.integers(1, len(schedule)))
    delay, planned = retry_delay(schedule, attempts, chance), schedule[attempts - 1]
    assert delay is not None
    assert min(planned * 0.9, DELAY_SECONDS_MAX) - 1e-6 <= delay <= min(planned * 1.1 + 1e-6, DELAY_SECONDS_MAX)


def test_jitter_edges() -> None:
    """No chance takes 10 % off, half a chance nothing, and the clamp holds."""
    assert [90.0, 100.0] == [pytest.approx(retry_delay([100.0], 1, chance)) for chance in (0.0, 0.5)]
    assert DELAY_SECONDS_MAX == retry_delay([DELAY_SECONDS_MAX], 1, 0.999)


@pytest.mark.fault(57)
@fuzz
@given(schedules, st.integers(-2, 2**63), chances)
def test_used_up(schedule: list[float], attempts: int, chance: float) -> None:
    """After the last delay there is none, however many attempts were made; nothing overflows."""
    assert (max(attempts, 1) > len(schedule)) == (retry_delay(schedule, attempts, chance) is None)


@pytest.mark.fault(57)
def test_attempt_1030() -> None:
    """A schedule of a thousand delays is a table like any other."""
    assert 5.0 == pytest.approx(retry_delay([5.0] * 2000, 1030, 0.5))
