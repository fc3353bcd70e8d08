"""`webhook-worker endpoints explain`: what becomes of a URL, step by step, with the rule that decided each."""

from typing import Annotated

import anyio
import typer

from worker.cli.options import Guards, OutputFormat
from worker.cli.output import Format, Record, emit_list, say
from worker.endpoints.urls import Explanation, URLJudge
from worker.settings import ExitCode, read_allow_http

COLUMNS = ("step", "value", "verdict", "rule")


def explain(
    url: Annotated[str, typer.Argument(metavar="URL")],
    guards: Guards,
    format_: OutputFormat = Format.table,
) -> None:
    """Say whether a worker with these settings would deliver to a URL: exit 0 if so, 1 if not. Needs no database."""
    judge = URLJudge(guards.rules(), allow_http=read_allow_http(guards.allow_http))
    explanation = anyio.run(judge.explain_many, [url])[0]
    emit_list(_steps(url, explanation), format_, COLUMNS)
    if trouble := explanation.denied or explanation.warning:
        say(trouble)
        raise typer.Exit(ExitCode.FAILED)


def _steps(url: str, explanation: Explanation) -> list[Record]:
    target = explanation.target
    if target is None:
        return [_step("url", url, "refused", explanation.error)]
    steps = [
        _step("url", f"{target.scheme}://{target.authority}{target.path}", "ok", None),
        _step("port", str(target.port), "denied" if explanation.port_rule else "ok", explanation.port_rule),
    ]
    if not explanation.port_rule and not explanation.addresses:
        steps.append(_step("dns", target.host, "no address", None))
    steps += [_step("address", address, "denied" if rule else "ok", rule) for address, rule in explanation.addresses]
    return steps


def _step(step: str, value: str, verdict: str, rule: str | None) -> Record:
    return {"step": step, "value": value, "verdict": verdict, "rule": rule}
