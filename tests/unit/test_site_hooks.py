"""docs/hooks.py: pages that are written for a Git host, as MkDocs needs them."""

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

pytest.importorskip("mkdocs", reason="the site is built on CPython")


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", Path(__file__).parents[2] / "docs/hooks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("uri", "written", "shown"),
    [
        ("cli.md", "[logs](logs.md#what-is-said)", "[logs](logs.md#what-is-said)"),
        ("cli.md", "[below](#run), [there](https://example.com/)", "[below](#run), [there](https://example.com/)"),
        ("cli.md", "[why](../README.md#status)", "[why](project/readme.md#status)"),
        ("adr/README.md", "[safe](../../SECURITY.md)", "[safe](../project/security.md)"),
        (
            "project/readme.md",
            "[try it](docs/tutorial.md), [safe](SECURITY.md)",
            "[try it](../tutorial.md), [safe](security.md)",
        ),
        ("project/readme.md", "[MIT](LICENSE)", "MIT (`LICENSE`)"),
        ("cli.md", "[`deploy/install.sh`](../deploy/install.sh)", "`deploy/install.sh`"),
        ("cli.md", "```python receiver.py\nx = y[0](z)\n```", '```python title="receiver.py"\nx = y[0](z)\n```'),
        ("cli.md", "```sh\ntrue\n```", "```sh\ntrue\n```"),
    ],
)
def test_what_is_rewritten(hooks: ModuleType, uri: str, written: str, shown: str) -> None:
    """Links by where the file is in the repository; the name of a file in front of its code."""
    assert shown == hooks.rewrite(written, uri)


def test_a_link_to_nothing_is_a_warning(hooks: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    """MkDocs does not see it any more, so the hook has to."""
    hooks.rewrite("[gone](../deploy/gone.sh)", "cli.md")

    assert ["docs/cli.md links to deploy/gone.sh, which does not exist"] == caplog.messages


def test_what_a_browser_would_fetch_is_a_warning(hooks: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    """A link to elsewhere is none: nobody follows it unasked."""
    page = SimpleNamespace(file=SimpleNamespace(src_uri="cli.md"))
    hooks.on_post_page('<a href="https://example.com/">x</a><script src="own.js"></script>', page=page, config=None)
    hooks.on_post_page('<link rel="stylesheet" href="https://fonts.example.com/x.css">', page=page, config=None)

    assert 1 == len(caplog.messages)
