"""Links: those within the repository lead somewhere, those out of it have the right form.

Whether the latter answer is for `make links`, which needs a network. MkDocs checks the links and
anchors between pages of the site.
"""

import re
from collections import defaultdict
from datetime import date
from urllib.parse import urldefrag, urlsplit

import pytest

from links import ARXIV, ROOT, TEXTS, external

PAGES = [path for path in TEXTS if path.suffix == ".md"]
CODE = re.compile(r"^( *)```.*?^\1```|`[^`\n]*`", re.DOTALL | re.MULTILINE)
WITHIN = re.compile(r"\]\((?![a-z]+:)([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def anchors(page):
    """Those of the headings of a page, as GitHub and MkDocs make them."""
    headings = HEADING.findall(page.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(page):
    for link in WITHIN.findall(CODE.sub("", page.read_text("utf-8"))):
        path, anchor = urldefrag(link)
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_links_out_are_well_formed():
    for url, path in external():
        parts = urlsplit(url)
        assert parts.scheme == "https", f"{path}: {url}"
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), f"{path}: {url}"
        assert re.fullmatch(r"[\w./#%&=+~:@-]*", parts.path + parts.query + parts.fragment), url
        if parts.netloc == "kexue.fm":
            assert re.fullmatch(r"(/archives/\d{4,5})?", parts.path), f"{path}: {url}"


def test_a_page_is_linked_in_one_form():
    forms = defaultdict(set)
    for url, _ in external():
        bare = urldefrag(url).url.removeprefix("https://").removeprefix("www.").rstrip("/")
        forms[bare.lower()].add(url)
    several = [urls for urls in forms.values() if len(urls) > 1]
    assert not several


def test_numbers_of_arxiv_have_its_form():
    for path in TEXTS:
        for folder, number in ARXIV.findall(path.read_text("utf-8")):
            found = re.fullmatch(r"(\d\d)(\d\d)\.(\d+)", number)
            assert found, f"{path}: {number}"
            assert folder in ("", "abs"), f"{path}: {number}"  # not the PDF
            year, month = 2000 + int(found[1]), int(found[2])
            assert date(2007, 4, 1) <= date(year, month, 1) <= date.today(), f"{path}: {number}"
            assert len(found[3]) == (5 if year >= 2015 else 4), f"{path}: {number}"
