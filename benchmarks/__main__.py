"""Runs one benchmark: progress on stderr, a table or one JSON object on stdout."""

import argparse
import importlib
import json
import math
import sys

from benchmarks.report import Report, machine, print_table

NAMES = (
    "bulk-retry",
    "burst",
    "chaos",
    "claim-growth",
    "cold-start",
    "compare",
    "endurance",
    "enqueue-cost",
    "fairness",
    "fan-out",
    "held-snapshot",
    "idle",
    "one-endpoint",
    "origins",
    "producers",
    "rate-audit",
    "sender",
    "steps",
    "ticket-sale",
)
MODULES = {"chaos": "chaos.play", "compare": "compare.suite", "ticket-sale": "ticket_sale.play"}
"""Where the name is not the module's. A module may have `add_arguments(parser)`, for what only its `run` takes."""


def main() -> int:
    """Run the benchmark that is named; 0 if its target holds, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for CI")
    parser.add_argument("--scale", type=_factor, default=1.0, metavar="X", help="multiply the sizes by X (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    named = [word for word in sys.argv[1:] if word in NAMES][:1]
    modules = [importlib.import_module(f"benchmarks.{MODULES.get(name, name.replace('-', '_'))}") for name in named]
    for module in modules:
        if hasattr(module, "add_arguments"):
            module.add_arguments(parser)
    arguments = parser.parse_args()
    options = {name: value for name, value in vars(arguments).items() if name not in ("name", "json")}
    report: Report = modules[0].run(**options)
    if arguments.json:
        how = {"benchmark": arguments.name, **options, "machine": machine()}
        print(json.dumps({**how, **report.as_json()}))
    else:
        print_table(report)
    return 0 if report.holds else 1


def _factor(text: str) -> float:
    factor = float(text)
    if not 0 < factor < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return factor


if __name__ == "__main__":
    sys.exit(main())
