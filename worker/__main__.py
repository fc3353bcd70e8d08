"""`python -m worker` and `webhook-worker`."""

import os
import sys

GC = {"PYPY_GC_NURSERY": "32M", "PYPY_GC_MIN": "80M"}
"""Where PyPy makes new objects: in its own 4 MB, what is in hand outlives most collections, and is copied by each. And from
which size on it looks for old garbage: its own choice is eight nurseries (docs/adr/0016-room-for-pypys-nursery.md)."""


def main() -> None:
    """Run the command line. `run` is kept light: it imports neither typer nor rich, so that a worker starts at once."""
    if sys.argv[1:2] == ["run"]:
        _make_room()
        from worker.cli.run import main as run

        sys.exit(run(sys.argv[2:]))
    from worker.cli.app import main as app

    sys.exit(app())


def _make_room() -> None:
    """On PyPy, start again with a larger nursery, which it can only be told from outside; unless somebody has told it one."""
    if sys.implementation.name == "pypy" and "PYPY_GC_NURSERY" not in os.environ:
        os.environ.update({**GC, **os.environ})
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves


if __name__ == "__main__":
    main()
