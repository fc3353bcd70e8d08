"""docs/reference/python.md: what may be imported, from signatures, docstrings, and comments beside fields."""

import inspect
import re
from collections.abc import Iterator
from textwrap import dedent, fill
from types import ModuleType
from typing import Any, is_typeddict

from reference.markdown import code, page, prose, table
from worker import endpoints, producer, settings
from worker.core import address, signing
from worker.http import transport
from worker.store import database

INTRODUCTION = """
What an application may import. It has types (`py.typed`), for mypy and its like. Everything else in `worker` may change in any
release. [Registering endpoints](../how-to.md#register-endpoints-from-your-application) and
[enqueuing](../producers.md#the-helper) have examples that the tests run.
"""

LINE_MAX = 100

PARTS: tuple[tuple[ModuleType, tuple[str, ...]], ...] = (
    (endpoints, ("Endpoints", *(name for name in endpoints.__all__ if name != "Endpoints"))),
    (address, ("AddressRules", "parse_networks")),
    (signing, ("Scheme",)),
    (settings, ("read_key_ring", "ConfigurationError")),
    (database, ("DatabaseUnavailableError", "DatabaseError")),
    (producer, ("enqueue", "enqueue_many", "Event", "Statement")),
    (transport, ("HttpTransport",)),
)
"""Modules with what is public in them: all of a package's `__all__`, and what that takes and raises."""

OF = {
    address: "What `Endpoints` takes as `rules`: which addresses and ports an endpoint may have.",
    signing: "How requests are signed: `v1` is HMAC-SHA256 with a shared secret, `v1a` Ed25519 with a pair of keys.",
    settings: "What `Endpoints` takes as `key_ring`.",
    database: "What any method of `Endpoints` may raise.",
    transport: "What sends webhooks, for other requests of an application. The parts are in `worker.http.client`, `dial` and "
    "`resolver`: `httpx.AsyncClient(transport=HttpTransport(Client(Dialer(Resolver()))))`.",
}
"""In place of the module's own words, which are for those who change it."""


def text() -> str:
    """Return the page."""
    return page("Python", INTRODUCTION, *_parts())


def _parts() -> Iterator[str]:
    for module, names in PARTS:
        yield f"## {module.__name__}"
        yield OF.get(module) or _words(module)
        for name in names:
            yield f"### {name}"
            yield from _described(name, getattr(module, name))


def _described(name: str, thing: Any) -> Iterator[str]:
    if inspect.isclass(thing):
        yield from _class(thing)
    elif inspect.isfunction(thing):
        yield _block(_signature(thing))
        yield _words(thing)
    else:
        yield _block(f"{name} = {str(thing).removeprefix('typing.')}")


def _class(kind: type) -> Iterator[str]:
    fields = _fields(kind)
    (head,) = re.findall(r"^(class .+):$", inspect.getsource(kind), re.MULTILINE)
    if not fields and not issubclass(kind, Exception):
        made = _signature(kind.__init__)
        yield _block(f"class {kind.__name__}{made.removeprefix('def __init__').removesuffix(' -> None')}")
    elif "(" in head:
        yield _block(head)
    yield _words(kind)
    if fields:
        yield table(("field", "type", "default", ""), fields)
    for name, method in vars(kind).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            yield f"#### {kind.__name__}.{name}"
            yield _block(_signature(method))
            yield _words(method)


def _signature(function: Any) -> str:
    """Return the head of a function as it is written, on one line and without `self`."""
    head = re.search(r"^ *((?:async )?def \w+\(.*?\) -> [^\n]+):$", inspect.getsource(function), re.DOTALL | re.MULTILINE)
    assert head
    line = re.sub(r",? \)", ")", " ".join(head[1].split()))
    return re.sub(r"\( ?(self(, )?)?", "(", line, count=1)


def _fields(kind: type) -> list[tuple[str, str, str, str]]:
    """Return the fields of a dataclass, a NamedTuple or a TypedDict, with the comments beside them."""
    if not (is_typeddict(kind) or hasattr(kind, "_fields") or hasattr(kind, "__dataclass_fields__")):
        return []
    defaults = {} if is_typeddict(kind) else inspect.signature(kind).parameters
    written = re.findall(r"^    (\w+): (.+?)(?: = .+?)?(?:  # (.+))?$", inspect.getsource(kind), re.MULTILINE)
    return [(code(name), code(of), _default(defaults.get(name)), prose(comment)) for name, of, comment in written]


def _default(parameter: inspect.Parameter | None) -> str:
    if parameter is None or parameter.default is parameter.empty:
        return ""
    return "empty" if str(parameter.default) == "<factory>" else code(repr(parameter.default))


def _block(signature: str) -> str:
    """Break lines after commas only: `~` is a space that none is broken at."""
    kept = signature.replace(" ", "~").replace(",~", ", ")
    return "```text\n" + fill(kept, LINE_MAX, subsequent_indent="    ", break_long_words=False).replace("~", " ") + "\n```"


def _words(thing: Any) -> str:
    """Return a docstring: paragraphs, indented code, and what is raised."""
    words = inspect.getdoc(thing)
    assert words, f"{thing} has no docstring"
    return "\n\n".join(map(_paragraph, words.split("\n\n")))


def _paragraph(words: str) -> str:
    title, _, rest = words.partition("\n")
    if title == "Raises:":
        return "Raises:\n\n" + "\n".join(f"- {prose(line)}" for line in rest.splitlines())
    return f"```text\n{dedent(words)}\n```" if words.startswith("    ") else prose(words)
