"""One worker process: the pipeline under supervision, housekeeping, signals."""
