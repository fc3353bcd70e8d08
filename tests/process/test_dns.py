"""Names whose answers are hostile, slow or none, by a real name server in a network namespace of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NAMESPACES = ["unshare", "--net", "--mount"]


def _may() -> bool:
    return all(map(shutil.which, ("unshare", "ip"))) and not subprocess.run([*NAMESPACES, "true"], check=False).returncode


pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not _may(), reason="needs iproute2, and the rights (root's) to make a network of its own"),
]


@pytest.fixture(scope="module")
def world() -> dict[str, Any]:
    """Play it all once."""
    command = [*NAMESPACES, sys.executable, str(Path(__file__).with_name("dns_world.py"))]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.fault(11)
@pytest.mark.parametrize(("host", "rule"), [("private", "10.0.0.0/8"), ("metadata", "169.254.0.0/16"), ("own", "127.0.0.0/8")])
def test_a_name_of_a_denied_address_is_blocked(world: dict[str, Any], host: str, rule: str) -> None:
    """Whatever name it has."""
    outcome, error = world[f"{host}.test"]
    assert ("blocked_address", True) == (outcome, rule in error)


@pytest.mark.fault(13)
@pytest.mark.parametrize("host", ["mixed", "sixes"])
def test_one_bad_answer_spoils_them_all(world: dict[str, Any], host: str) -> None:
    """A name with a good address and a bad one, mapped or not, is refused whole."""
    outcome, error = world[f"{host}.test"]
    assert ("blocked_address", True) == (outcome, "10.0.0.1" in error)


@pytest.mark.fault(11)
@pytest.mark.fault(13)
def test_not_one_packet_leaves_for_them(world: dict[str, Any]) -> None:
    """The ear on the only way out has heard nothing, until something is allowed: then it hears that."""
    assert [] == world["heard before"]
    assert ["9.9.9.9"] == world["heard"]


@pytest.mark.fault(14)
@pytest.mark.fault(18)
def test_a_name_that_turns_to_ourselves_is_blocked(world: dict[str, Any]) -> None:
    """The second connection judges its own answer; and who listens on loopback was never called."""
    (first, _), (second, error) = world["rebind.test"]
    assert ("connect", "blocked_address", True) == (first, second, "127.0.0.1" in error)
    assert [] == world["calls"]
    assert 2 == world["asked"]["rebind.test"]  # one look-up a connection


@pytest.mark.fault(15)
def test_names_without_a_usable_answer_are_failures_of_dns(world: dict[str, Any]) -> None:
    """No such name, a broken zone, a thousand answers: retried, and said which."""
    assert ["dns"] * 3 == [world[f"{host}.test"][0] for host in ("none", "broken", "many")]
    assert "1000 addresses; at most 16" in world["many.test"][1]


@pytest.mark.fault(15)
def test_a_slow_zone_keeps_to_the_deadline_and_delays_nobody(world: dict[str, Any]) -> None:
    """Seventy names that hang end at their own deadlines; one that answers, beside them, does not wait for any."""
    (outcome, _), seconds, (quick,) = world["slow"]
    assert ("dns", True, True) == (outcome, seconds < 5.0, quick < 1.0)


def test_registration_tells_the_same(world: dict[str, Any]) -> None:
    """Denied now is refused; not resolving now is a warning; anything else is fine."""
    (mixed, _), (none, warning), other = world["explained"]
    assert (True, None, True, [None, None]) == ("10.0.0.0/8" in mixed, none, "does not resolve now" in warning, other)
