"""Benchmarks: `python -m benchmarks NAME [--quick] [--json]`. Each names a target, and exits 0 only if it holds."""
