"""What the pages point to is there: files, headings, presets, weights and experiments."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from emorl.presets import PRESETS, full_name
from emorl.runs import find_weights

PROJECT = Path(__file__).resolve().parents[1]
PAGES = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("experiments/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAME = r"((?:[a-z][\w-]*/)?[a-z][\w-]*)(?=[\s`)]|$)"  # what is in capitals stands for any


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"(?ms)^```.*?^```", "", text(page)), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(text(page)):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert PROJECT in target.parents, link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_what_there_is(page: Path) -> None:
    content = text(page)
    for name in re.findall(rf"emorl train {NAME}", content):
        assert full_name(name) in PRESETS, name
    for name in re.findall(
        rf"(?:emorl (?:evaluate|traverse|explore|sample|decompose)|--weights|--start-from) {NAME}", content
    ):
        if not name.startswith(("runs/", "my-")):
            find_weights(name)
    for name in re.findall(r"experiments/([\w-]+\.toml)", content):
        assert (PROJECT / "experiments" / name).is_file(), name


def test_pages_are_found_and_have_links() -> None:
    assert {"README.md", "results.md", "efficientmorl.md"} <= {page.name for page in PAGES}
    assert len(LINK.findall(text(PROJECT / "README.md"))) > 30
    assert "fig-11-in-miniature" in anchors(PROJECT / "docs" / "results.md")
