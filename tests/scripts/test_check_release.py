"""What a wheel's metadata, the changelog and the tags lack for a release is named, with its remedy."""

from __future__ import annotations

from email.message import Message

import pytest

from hatch_build import absolute
from scripts.check_release import REQUIRED, missing, relative_targets

ADDRESS = "https://example.org/owner/name"
DESCRIPTION = """
![The page](docs/images/page.png) [Sync](docs/sync.md#retries), [here](#here) and [Talkable](https://www.talkable.com)
[![A badge](docs/badge.svg)](LICENSE) <img src="docs/images/two.png"> <a href="SECURITY.md">Security</a>
"""


def metadata(version: str = "0.1.0", description: str = "") -> Message:
    found = Message()
    for name in REQUIRED:
        found[name] = "something"
    found["Version"] = version
    found.set_payload(description)
    return found


@pytest.mark.parametrize(
    ("found", "changelog", "tags", "said"),
    [
        (metadata(), "0.1.0 (2026-11-26)", ["v0.1.0"], None),
        (metadata("0.0.1.dev3"), "0.1.0 (unreleased)", [], None),
        (metadata("0.0.1.dev3"), "Unreleased", [], "name it after the version that is next"),
        (metadata(), "0.1.0 (unreleased)", ["v0.1.0"], "name it '0.1.0 (YYYY-MM-DD)'"),
        (metadata("0.1.0"), "0.1.0 (2026-11-26)", ["v0.2.0"], "The tag is v0.2.0, the wheel's version 0.1.0"),
        (metadata(description="[a](docs/a.md)"), "0.1.0 (2026-11-26)", ["v0.1.0"], "Set `address` under"),
    ],
    ids=["ready", "untagged", "unnamed", "undated", "another tag", "no address"],
)
def test_what_is_missing_is_named(found: Message, changelog: str, tags: list[str], said: str | None) -> None:
    problems = list(missing(found, f"# Changelog\n\n## {changelog}\n\n## 0.0.1 (2026-01-01)\n", tags))
    assert len(problems) == (said is not None)
    assert all(said in problem for problem in problems if said)


@pytest.mark.parametrize("name", REQUIRED)
def test_what_pypi_shows_is_required(name: str) -> None:
    found = metadata()
    del found[name]
    [problem] = missing(found, "## 0.1.0 (2026-11-26)", ["v0.1.0"])
    assert f"no {name}" in problem


def test_links_become_absolute() -> None:
    assert len(relative_targets(DESCRIPTION)) == 6
    text = absolute(DESCRIPTION, ADDRESS, "v0.1.0")
    assert relative_targets(text) == []
    assert f"![The page]({ADDRESS}/raw/v0.1.0/docs/images/page.png)" in text
    assert f"[Sync]({ADDRESS}/blob/v0.1.0/docs/sync.md#retries), [here](#here)" in text
    assert f"[![A badge]({ADDRESS}/raw/v0.1.0/docs/badge.svg)]({ADDRESS}/blob/v0.1.0/LICENSE)" in text
    assert f'<img src="{ADDRESS}/raw/v0.1.0/docs/images/two.png">' in text
    assert f'<a href="{ADDRESS}/blob/v0.1.0/SECURITY.md">' in text
