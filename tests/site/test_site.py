"""What `make docs` has built: links lead somewhere, lists are lists, all is our own."""

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

SITE = Path(__file__).parents[2] / "site"
DOCS = SITE.parent / "docs"
PAGES = sorted(SITE.glob("**/index.html"))


class Page(HTMLParser):
    """The ids of a page, what it links to, and what a browser loads for it."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loaded = set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids.add(values.get("id"))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(values["href"])
        elif values.get("src"):
            self.loaded.append(values["src"])


@cache
def read(path):
    return Page(path)


def target_of(path, url):
    """The file that a URL on a page leads to."""
    linked = (path.parent / unquote(urlsplit(url).path)).resolve()
    return linked / "index.html" if linked.is_dir() else linked


def test_each_page_has_an_index():
    names = {page.relative_to(DOCS).with_suffix("") for page in DOCS.glob("**/*.md")}
    assert names <= {page.parent.relative_to(SITE) for page in PAGES}
    assert SITE / "index.html" in PAGES


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.parent.relative_to(SITE)))
def test_links_lead_somewhere(path):
    page = read(path)
    for url in page.links:
        if urlsplit(url).scheme:
            continue
        target = target_of(path, url) if urlsplit(url).path else path
        assert target.is_file(), url
        fragment = unquote(urlsplit(url).fragment)
        if fragment and target.suffix == ".html":
            assert fragment in read(target).ids, url


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.parent.relative_to(SITE)))
def test_nothing_is_loaded_from_elsewhere(path):
    for url in read(path).loaded:
        assert not urlsplit(url).netloc, url
        if not urlsplit(url).scheme:
            assert target_of(path, url).is_file(), url


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.parent.relative_to(SITE)))
def test_no_list_is_taken_for_text(path):
    """What a list item holds beside its text needs four spaces here, and two on GitHub."""
    assert not re.search(r"<p>((?!</p>).)*\n- ", path.read_text(), re.DOTALL)
