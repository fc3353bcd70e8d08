"""`webhook-worker version`."""

import platform
import sys

from worker import __version__
from worker.cli.options import OutputFormat
from worker.cli.output import Format, emit_one


def version(format_: OutputFormat = Format.table) -> None:
    """Show this release and the Python that it runs on."""
    runtime = f"{platform.python_implementation()} {platform.python_version()}"
    if implementation := getattr(sys, "pypy_version_info", None):
        runtime += f" (PyPy {implementation.major}.{implementation.minor}.{implementation.micro})"
    emit_one({"version": __version__, "runtime": runtime}, format_)
