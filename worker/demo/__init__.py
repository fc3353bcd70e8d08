"""`webhook-worker demo`: the whole thing on an embedded Postgres, with every promise it makes checked at the end."""

from worker.demo.play import main

__all__ = ["main"]
