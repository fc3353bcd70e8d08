"""`python -m worker` and `webhook-worker`."""

import sys


def main() -> None:
    """Run the command line. `run` is kept light: it imports neither typer nor rich, so that a worker starts at once."""
    if sys.argv[1:2] == ["run"]:
        from worker.cli.run import main as run

        sys.exit(run(sys.argv[2:]))
    from worker.cli.app import main as app

    sys.exit(app())


if __name__ == "__main__":
    main()
