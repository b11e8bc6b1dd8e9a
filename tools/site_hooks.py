"""What building the documentation needs beside mkdocs: files of the checkout, and no foreign ones.

Pages link to files outside docs/ (examples, licences) by relative paths, which work in a checkout.
In the site these files are copied below ``repository/`` and the links follow.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
COPIED = "repository"

_LINK = re.compile(r"(?<=\]\()((?:\.\./)+[^)#\s]+)")
_REMOTE = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=["']?(?:https?:)?//""")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files outside docs/ that pages link to."""
    linked = {
        outside
        for page in files.documentation_pages()
        for target in _LINK.findall(page.content_string)
        if (outside := _outside(page.src_uri, target))
    }
    for name in sorted(linked):
        source = str(ROOT / name)
        files.append(File.generated(config, f"{COPIED}/{name}", abs_src_path=source))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Sends links that leave docs/ to the copies."""

    def followed(match: re.Match[str]) -> str:
        outside = _outside(page.file.src_uri, match[1])
        if not outside:
            return match[1]
        return posixpath.relpath(f"{COPIED}/{outside}", posixpath.dirname(page.file.src_uri) or ".")

    return _LINK.sub(followed, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuses a page that would load something from another machine."""
    if found := _REMOTE.search(output):
        raise PluginError(f"{page.file.src_uri} loads a remote file: {found[0]}")
    return output


def _outside(page: str, target: str) -> str:
    """The path in the checkout that a page's link leads to, if that is a file outside docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    inside = path.startswith(("docs/", "../"))
    return path if not inside and (ROOT / path).is_file() else ""
