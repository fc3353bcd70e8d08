"""Names: looked up once for all who wait, kept for a moment, judged each time; the slow wait among themselves."""

import threading

import anyio
import pytest
from peer import LOOPBACK, no_files

from worker.core.address import AddressRules, parse_networks
from worker.http import resolver as module
from worker.http.connection import WireError
from worker.http.resolver import Resolver


class Names:
    """A resolver of names that answers when it is let."""

    def __init__(self, **answers: list[str] | Exception) -> None:
        self.answers = {name.replace("_", "."): answer for name, answer in answers.items()}
        self.asked: list[str] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        if host.startswith("hangs"):
            assert self.may_answer.wait(10)
        answer = self.answers.get(host, ["8.8.8.8"])
        if isinstance(answer, Exception):
            raise answer
        return answer


async def reason(resolver: Resolver, host: str) -> str:
    """Say why a name may not be dialled."""
    with pytest.raises(WireError) as failed:
        await resolver.resolve(host, 443)
    return f"{failed.value.reason}: {failed.value}"


async def test_once_for_all_who_wait_and_for_a_moment() -> None:
    """A hundred connections to a name are one look-up, and so are the next ones."""
    names = Names(a_example=["8.8.8.8", "2001:4860:4860::8888", "8.8.8.8"])
    resolver = Resolver(None, names)
    found: list[list[str]] = []

    async def ask() -> None:
        found.append(await resolver.resolve("a.example", 443))

    for _ in range(2):
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(ask)
    assert [["8.8.8.8", "2001:4860:4860::8888"]] * 200 == found
    assert ["a.example"] == names.asked


@pytest.mark.fault(59)
async def test_want_of_files_is_no_fault_of_a_name() -> None:
    """The system's own answer then blames the name; ours does not."""
    resolver = Resolver(LOOPBACK)
    with no_files():
        assert (await reason(resolver, "localhost")).startswith("no_files: localhost does not resolve")


async def test_kept_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is asked again: a receiver that moves is followed."""
    names = Names()
    resolver = Resolver(None, names)
    monkeypatch.setattr(module, "KEPT_SECONDS", 0.0)
    await resolver.resolve("a.example", 443)
    names.answers["a.example"] = ["9.9.9.9"]
    assert ["9.9.9.9"] == await resolver.resolve("a.example", 443)


async def test_addresses_are_not_looked_up() -> None:
    """They are judged as they are."""
    names = Names()
    resolver = Resolver(AddressRules(allow=parse_networks("10.0.0.0/8")), names)
    assert ["10.1.2.3"] == await resolver.resolve("10.1.2.3", 443)
    assert "blocked_address: 127.0.0.1 is 127.0.0.1, which is denied (127.0.0.0/8)" == await reason(resolver, "127.0.0.1")
    assert [] == names.asked


@pytest.mark.fault(13)
@pytest.mark.fault(14)
async def test_every_answer_is_judged() -> None:
    """One bad answer spoils them all, whatever its place, and what was judged is what is returned."""
    names = Names(mixed_example=["8.8.8.8", "10.0.0.1"])
    resolver = Resolver(None, names)
    assert "blocked_address: mixed.example is 10.0.0.1, which is denied (10.0.0.0/8)" == await reason(resolver, "mixed.example")


@pytest.mark.fault(15)
async def test_failures_are_kept_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that fails is not asked for again at once, and soon is."""
    names = Names(
        bad_example=OSError("unknown"), odd_example=UnicodeError("label"), none_example=[], many_example=["8.8.8.8"] * 3
    )
    names.answers["many.example"] = [f"8.8.8.{n}" for n in range(17)]
    resolver = Resolver(None, names)
    for _ in range(2):
        assert "dns: bad.example does not resolve: unknown" == await reason(resolver, "bad.example")
        assert "dns: odd.example does not resolve: label" == await reason(resolver, "odd.example")
        assert "dns: none.example has no address" == await reason(resolver, "none.example")
        assert "dns: many.example has 17 addresses; at most 16 are accepted" == await reason(resolver, "many.example")
    assert 4 == len(names.asked)
    monkeypatch.setattr(module, "FAILURE_KEPT_SECONDS", 0.0)
    later = Resolver(None, names)
    await reason(later, "bad.example")
    names.answers["bad.example"] = ["8.8.8.8"]
    assert ["8.8.8.8"] == await later.resolve("bad.example", 443)


@pytest.mark.fault(15)
async def test_names_that_hang_starve_only_their_like() -> None:
    """However many there are, a name that is known to answer is looked up at once; and nobody waits beyond a deadline."""
    names = Names()
    resolver = Resolver(None, names)
    await resolver.resolve("good.example", 443)
    resolver._names["good.example"].kept_until = 0.0
    names.may_answer.clear()
    try:
        async with anyio.create_task_group() as group:
            for n in range(100):
                group.start_soon(resolver.resolve, f"hangs{n}.example", 443)
            await anyio.wait_all_tasks_blocked()
            with anyio.move_on_after(0.01) as waited:
                await resolver.resolve("hangs0.example", 443)
            assert waited.cancelled_caught
            with anyio.fail_after(5):
                assert ["8.8.8.8"] == await resolver.resolve("good.example", 443)
            group.cancel_scope.cancel()
        await resolver.aclose()
    finally:
        names.may_answer.set()


async def test_one_who_gives_up_takes_nothing_from_the_others() -> None:
    """A look-up goes on when the one who began it is at its deadline."""
    names = Names()
    names.may_answer.clear()
    resolver = Resolver(None, names)
    found: list[str] = []

    async def patient() -> None:
        found.extend(await resolver.resolve("hangs.example", 443))

    try:
        async with anyio.create_task_group() as group:
            with anyio.move_on_after(0.01):
                await resolver.resolve("hangs.example", 443)
            group.start_soon(patient)
            await anyio.wait_all_tasks_blocked()
            names.may_answer.set()
    finally:
        names.may_answer.set()
    assert (["8.8.8.8"], ["hangs.example"]) == (found, names.asked)


async def test_names_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: the one that was met first goes."""
    monkeypatch.setattr(module, "KEPT_MAX", 2)
    names = Names()
    resolver = Resolver(None, names)
    for host in ("a.example", "b.example", "c.example", "c.example", "a.example"):
        await resolver.resolve(host, 443)
    assert ["a.example", "b.example", "c.example", "a.example"] == names.asked
