"""What MkDocs is told of this repository. The pages are written for a Git host, where each link works as it stands.

- README.md and its like stay at the root, where a Git host looks for them; on the site they are pages, too.
- A link to a file that is no page (`deploy/install.sh`) becomes its path in words: a built site does not have it, and where
  this repository is published is not known here. A file that does not exist is a warning, as any broken link.
- ```python receiver.py gets `receiver.py` as its title.
- Nothing may be fetched from elsewhere by who reads a page: that is a warning, too.
"""

import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ROOT_PAGES = {
    "README.md": "project/readme.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
}

_FENCE_OR_LINK = re.compile(
    r"^(?P<fence> *```)(?P<language>\w*) ?(?P<title>[\w.-]*)\n(?P<block>.*?^ *```)$"
    r"|\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)",
    re.MULTILINE | re.DOTALL,
)
_FETCHED = re.compile(r'<(?:script|link|img|iframe|source|video|audio)\b[^>]*\b(?:src|href)="(?:https?:)?//[^"]*"')

log = logging.getLogger("mkdocs.hooks.webhook_worker")  # below "mkdocs", whose warnings --strict counts


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root."""
    for name, uri in ROOT_PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - by MkDocs' names
    """Rewrite links and the first lines of blocks."""
    return rewrite(markdown, page.file.src_uri)


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:  # noqa: ARG001
    """Look for what a reader's browser would fetch from elsewhere."""
    for found in _FETCHED.findall(output):
        log.warning("%s fetches something from elsewhere: %s", page.file.src_uri, found)
    return output


def rewrite(markdown: str, uri: str) -> str:
    """Return what MkDocs is given in place of the text of the page `uri`."""
    source = next((name for name, root_uri in ROOT_PAGES.items() if root_uri == uri), f"docs/{uri}")

    def replaced(match: re.Match[str]) -> str:
        if match["fence"] is None:
            return _link(match["text"], match["target"], source, uri)
        title = f' title="{match["title"]}"' if match["title"] else ""
        return f"{match['fence']}{match['language']}{title}\n{match['block']}"

    return _FENCE_OR_LINK.sub(replaced, markdown)


def _link(text: str, target: str, source: str, uri: str) -> str:
    """Return a link of the file `source` as one of the page `uri`."""
    path, mark, anchor = target.partition("#")
    if "://" in target or target.startswith("mailto:") or not path:
        return f"[{text}]({target})"
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    page = ROOT_PAGES.get(place, place.removeprefix("docs/"))
    if place in ROOT_PAGES or place.startswith("docs/"):
        return f"[{text}]({posixpath.relpath(page, posixpath.dirname(uri) or '.')}{mark}{anchor})"
    if not (ROOT / place).exists():
        log.warning("%s links to %s, which does not exist", source, place)
    return f"`{place}`" if text.strip("`") == place else f"{text} (`{place}`)"
