"""Hooks of MkDocs: pages from the root of the repository, and links that leave docs/."""

import posixpath
from pathlib import Path
from typing import Any

from address import address
from links import with_links
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Pages that are read in the repository, too, and what they are called on the site.
FROM_ROOT = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/README.md": "examples.md",
}
_IN_ROOT = {ours: path for path, ours in FROM_ROOT.items()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Names the repository, if it has an address."""
    if address():
        config.repo_url = address()
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from the root."""
    for path, ours in FROM_ROOT.items():
        content = (ROOT / path).read_text()
        files.append(File.generated(config, ours, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Leads links to pages of the site, and others to the repository."""
    path = _IN_ROOT.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    here = posixpath.dirname(page.file.src_uri)

    def resolve(target: str) -> str | None:
        target, sign, anchor = target.partition("#")
        anchor = sign + anchor
        linked = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        ours = FROM_ROOT.get(linked, linked.removeprefix("docs/"))
        if files.get_file_from_path(ours):
            return posixpath.relpath(ours, here or ".") + anchor
        if not (ROOT / linked).exists():
            # MkDocs warns of it.
            return target + anchor
        return f"{address()}/blob/main/{linked}{anchor}" if address() else None

    return with_links(markdown, resolve)
