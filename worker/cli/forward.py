"""`run` and `demo` in the list of commands. They parse their own arguments: `run` must start without typer."""

import typer

_ANY_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True}


def register_run(app: typer.Typer) -> None:
    """Add `run`."""

    @app.command(context_settings=_ANY_ARGUMENTS, add_help_option=False, epilog="Example: webhook-worker run --concurrency 128")
    def run(context: typer.Context) -> None:
        """Deliver until SIGTERM (see `run --help`)."""
        from worker.cli.run import main

        raise typer.Exit(main(context.args))


def register_demo(app: typer.Typer) -> None:
    """Add `demo`."""

    @app.command(context_settings=_ANY_ARGUMENTS, add_help_option=False, epilog="Example: webhook-worker demo")
    def demo(context: typer.Context) -> None:
        """Show the whole thing on an embedded Postgres, and check its promises (see `demo --help`)."""
        from worker.demo import main

        raise typer.Exit(main(context.args))
