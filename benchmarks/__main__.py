"""Runs one benchmark: progress on stderr, a table or one JSON object on stdout."""

import argparse
import importlib
import json
import sys

from benchmarks.report import Report, machine, print_table

NAMES = ("claim-growth", "cold-start", "delivery", "producers", "rate-audit")


def main() -> int:
    """Run the benchmark that is named; 0 if its target holds, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for CI")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    module = importlib.import_module(f"benchmarks.{arguments.name.replace('-', '_')}")
    report: Report = module.run(quick=arguments.quick)
    if arguments.json:
        print(json.dumps({"benchmark": arguments.name, "machine": machine(), **report.as_json()}))
    else:
        print_table(report)
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
