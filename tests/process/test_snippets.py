"""Each block of code in the documentation is run, or looked at by who knows its language. One that nobody looks at is an error.

README.md and the tutorial are run word by word by test_docs.py. In all other pages

- ```sh is run in a bash where `webhook-worker` is the real one, on a database with a few endpoints, deliveries and jobs.
  NOT_RUN has the commands that are not, and who runs them instead. /etc is a directory of the test's;
- ```sql is run on a migrated database;
- ```json, ```toml, ```yaml and ```ini are parsed, and by Prometheus or systemd where it is theirs;
- a block with the name of a file, or in another language, is an excerpt of a file in examples/ or benchmarks/, which has tests
  of its own; or it is named in RUN_ELSEWHERE;
- ```text is for whatever is only to be read.
"""

import configparser
import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from command_server import Commands
from fleet import ROOT
from test_docs import TEXTS, documents

from worker.store.database import Database, connect

pytestmark = pytest.mark.sql  # nothing here depends on the runtime

NOT_RUN = {
    "systemctl": "test_systemd.py boots a systemd", "journalctl": "the same", "sudo": "the same",
    "psql": "test_roles.py applies roles.sql", "make": "test_docs.py looks up each target", ".ci/run": "runs this",
    ".venv/bin/python": "the same", ".venv-pypy/bin/python": "the same", "pip": "it would download",
    "generate": "stands for a program of the reader's",
}  # fmt: skip

RUN_ELSEWHERE = {
    ("docs/receivers.md", "python"): "test_receivers_verify in test_docs.py",
}

BASH = shutil.which("bash") or "bash"
EXAMPLES = ("examples", "benchmarks")

BY_LANGUAGE = ("sh", "sql", "json", "toml", "yaml", "ini")
BY_TEXT = ("console", "python")
SECONDS_MAX = 60

FINE = {"endpoints test": 1}  # nobody listens there
NOTHING_MATCHED = 3

_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\s`]*) ?(?P<word>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)

SEED = """
create table orders (id bigint, total int);
select webhook.create_endpoint('https://example.com/' || n, 'other') from generate_series(1, 6) as n;
select webhook.create_endpoint('https://receiver.test/hook', 'acme', '{"retry_seconds": [3600]}');
select setval('webhook.event_id', 4710), setval('webhook.delivery_id', 48212);
select webhook.enqueue('order.created', '{}', 'acme') from generate_series(1, 3);
select webhook.claim('w', 100, 1000000);
select webhook.record('w', (
    select json_agg(json_build_array(claim_id, id, case id when 48215 then 'dead' else 'retry' end,
                                     'http_status', 503, 0.1, 0.1, 'sorry', 'no', 3600, null, null))::text
    from webhook.inflight));
select webhook.create_job('retry', '{"state": "dead", "tenant": "other"}') from generate_series(1, 3);
select webhook.report_worker('web-1:4711:9f3a2c', '{"host": "web-1", "pid": 4711, "runtime": "r", "version": "0", "lanes": 64,
    "attempted": 1, "delivered": 1, "in_hand": 0, "draining": false}');
"""
"""Endpoint 7 with the events 4711 to 4713; deliveries 48213 and 48214, which wait for a retry, and 48215, which is dead."""


@dataclass(frozen=True)
class Block:
    """One block of code, and where it is."""

    page: str
    line: int
    language: str
    word: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> Iterator[Block]:
    for path in documents():
        page = path.read_text()
        for found in _BLOCK.finditer(page):
            line = page.count("\n", 0, found.start()) + 1
            text = re.sub(f"^{found['indent']}", "", found["text"], flags=re.MULTILINE)
            yield Block(str(path.relative_to(ROOT)), line, found["language"], found["word"], text)


BLOCKS = list(blocks())


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language and not block.word]


def pages(language: str) -> list[str]:
    return sorted({block.page for block in of(language)})


def test_every_block_is_looked_at() -> None:
    """By one of the tests below, or by test_docs.py."""
    unknown = [
        f"{block}: ```{block.language} {block.word}".strip() for block in BLOCKS
        if not (block.page in TEXTS and block.language in BY_TEXT)
        and (block.word or block.language not in (*BY_LANGUAGE, "text"))
        and (block.page, block.language) not in RUN_ELSEWHERE
        and not is_excerpt(block)
    ]  # fmt: skip

    assert [] == unknown, "write ```text if it is only to be read; else see the top of this file"


def is_excerpt(block: Block) -> bool:
    """Whether its lines are, in this order and together, in a file that somebody runs; or it stands for the whole of one."""
    if whole := re.fullmatch(r'--8<-- "(.+)"\n', block.text):
        return whole[1].startswith(EXAMPLES) and (ROOT / whole[1]).exists()
    files = [ROOT / name for name in subprocess.check_output(["git", "ls-files", *EXAMPLES], cwd=ROOT, text=True).splitlines()]
    lines = _lines(block.text)
    return "\n" in lines and any(lines in _lines(path.read_text(errors="replace")) for path in files)


def _lines(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with Commands(tmp_path_factory.mktemp("commands")) as started:
        yield started


@pytest.mark.parametrize("page", pages("sh"))
def test_shell(page: str, dsn: str, commands: Commands, tmp_path: Path) -> None:
    """Every command of the page ends well, in order."""
    anyio.run(script, dsn, SEED)
    for directory in ("bash_completion.d", "credstore", "webhook-worker"):
        (tmp_path / "etc" / directory).mkdir(parents=True)
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "order.json").write_text("{}")
    (tmp_path / "endpoints.jsonl").write_text('{"url": "https://example.com/imported"}\n')
    key = tmp_path / "key"
    key.write_text(f"first:{'A' * 43}=\n")
    key.chmod(0o600)
    environment = {
        **commands.environment, "PATH": str(commands.bin), "HOME": str(tmp_path), "LC_ALL": "C.UTF-8",
        "DATABASE_URL": dsn, "WEBHOOK_WORKER_KEY_FILE": str(key),
    }  # fmt: skip
    stubs = "\n".join(f"{name}() {{ [ {name} != generate ] || echo '{{}}'; }}" for name in NOT_RUN)
    for block in of("sh"):
        if block.page == page:
            text = block.text.replace("/etc/", f"{tmp_path}/etc/")
            done = run(BASH, "--norc", "--noprofile", "-c", f"{stubs}\n{text}", cwd=tmp_path, env=environment)
            failed = [(arguments, code) for arguments, code in commands.ran() if not is_fine(arguments, code)]
            assert [] == failed, f"{block}: {done.stdout}{done.stderr}"
            said = [line for line in done.stderr.splitlines() if line.startswith(f"{BASH}:")]
            assert [] == said, f"{block}: what is not to be run here is to be named in NOT_RUN"


def run(*arguments: str | Path, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=SECONDS_MAX
    )


def is_fine(arguments: list[str], code: int) -> bool:
    """Nothing may match a filter; what is named by its number is there."""
    is_named = any(word.isdigit() for word in arguments[:3])
    return code == FINE.get(" ".join(arguments[:2]), 0) or (code == NOTHING_MATCHED and not is_named)


@pytest.mark.parametrize("page", pages("sql"))
async def test_sql(page: str, dsn: str, database: Database) -> None:
    """Every statement of the page runs."""
    await database.script([SEED])
    for block in of("sql"):
        if block.page == page:
            await database.script([block.text])


async def script(dsn: str, text: str) -> None:
    database = connect(dsn)
    await database.script([text])
    await database.close()


@pytest.mark.parametrize("block", of("json"), ids=str)
def test_json(block: Block) -> None:
    """One value, or one a line."""
    try:
        json.loads(block.text)
    except ValueError:
        assert all(isinstance(json.loads(line), dict) for line in block.text.splitlines())


@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_toml(block: Block) -> None:
    assert tomllib.loads(block.text)


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_yaml(block: Block, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(block.text)
    if "scrape_configs:" in block.text and shutil.which("promtool"):
        (tmp_path / "prometheus.yml").write_text(block.text)
        shutil.copy(ROOT / "deploy/prometheus/webhook-worker.rules.yml", tmp_path)
        done = subprocess.run(
            ["promtool", "check", "config", "prometheus.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("block", of("ini"), ids=str)
def test_ini(block: Block, tmp_path: Path) -> None:
    """Sections and settings; if they are a unit's, those that systemd knows."""
    parser = configparser.ConfigParser(strict=False)
    parser.read_string(block.text)
    assert parser.sections()
    if "[Service]" in block.text and shutil.which("systemd-analyze"):
        unit = tmp_path / "documented.service"
        unit.write_text(f"[Service]\nExecStart=/bin/true\n{block.text}")
        done = run("systemd-analyze", "verify", "--man=no", unit, cwd=tmp_path, env={**os.environ, "LC_ALL": "C"})
        assert [] == [line for line in done.stderr.splitlines() if "documented.service" in line]
