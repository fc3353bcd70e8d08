"""Completion in a real bash: the printed script is sourced, and what Tab would offer is asked for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fleet import ROOT

from worker.cli.app import main
from worker.cli.completion import SHELLS

OFFER = """
source <("$DIRECTORY/webhook-worker" completion bash)
COMP_WORDS=(webhook-worker $WORDS "$LAST") COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_webhook_worker_completion webhook-worker
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.sql
@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "last", "offered"),
    [
        ("", "endp", {"endpoints"}),
        ("endpoints", "di", {"disable"}),
        ("attempts", "", {"list", "tail"}),
        ("workers drain", "--dry", {"--dry-run"}),
    ],
)
def test_bash_completes(tmp_path: Path, words: str, last: str, offered: set[str]) -> None:
    command = tmp_path / "webhook-worker"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m worker "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(
        ["bash", "--norc", "-c", OFFER],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={
            **os.environ, "DIRECTORY": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "WORDS": words, "LAST": last,
        },
    )  # fmt: skip
    assert ("", 0) == (done.stderr, done.returncode)
    assert offered == set(done.stdout.split())


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["completion", shell])
    assert "_WEBHOOK_WORKER_COMPLETE" in capsys.readouterr().out
