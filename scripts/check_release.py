"""Say whether what lies in ``dist`` can be released, and what is missing: ``make release-check``."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What PyPI sorts packages by and shows beside them.
REQUIRED = (
    "Author",
    "Classifier",
    "Keywords",
    "License-Expression",
    "Provides-Extra",
    "Requires-Python",
    "Summary",
)
_TARGET = re.compile(r"""\]\(([^)\s]+)|(?:src|href)="([^"]+)""")


def missing(metadata: Message, changelog: str, tags: list[str]) -> Iterator[str]:
    """What stands between a wheel and its release, each with its remedy.

    :param metadata: The wheel's.
    :param tags: Those of the commit that it was built from.
    """
    version = str(metadata["Version"])
    yield from (
        f"The metadata has no {name}: add it to pyproject.toml." for name in REQUIRED if name not in metadata
    )
    tags = [tag for tag in tags if tag.startswith("v")]
    if tags and f"v{version}" not in tags:
        yield f"The tag is {', '.join(tags)}, the wheel's version {version}: tag the commit v{version}."
    heading = next(re.finditer(r"^## (.*)$", changelog, re.MULTILINE))[1]
    if tags and not re.fullmatch(re.escape(version) + r" \(\d{4}-\d\d-\d\d\)", heading):
        yield f"CHANGELOG.md begins with {heading!r}: name it '{version} (YYYY-MM-DD)', with today's date."
    if not tags and not re.match(r"\d+\.\d+\.\d+ ", heading):
        yield f"CHANGELOG.md begins with {heading!r}: name it after the version that is next."
    if relative := relative_targets(str(metadata.get_payload())):
        yield (
            f"The project has no public address: {len(relative)} links of its description are dead on PyPI, "
            "and it names neither source nor issues. Set `address` under "
            "[tool.hatch.metadata.hooks.custom] in pyproject.toml."
        )


def relative_targets(description: str) -> list[str]:
    """The targets of links that lead nowhere on PyPI."""
    targets = [first or second for first, second in _TARGET.findall(description)]
    return [target for target in targets if not re.match(r"https?:|mailto:|#", target)]


def main() -> int:
    """Print what is missing; 1 if anything is."""
    [wheel] = (ROOT / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = message_from_bytes(archive.read(name))
    command = ["git", "tag", "--points-at", "HEAD"]
    tags = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    found = list(missing(metadata, (ROOT / "CHANGELOG.md").read_text(), tags))
    state = (
        f"Missing for the release of {metadata['Name']} {metadata['Version']}:"
        if found
        else "Ready to publish:"
    )
    print(state, *(found or [wheel.name]), sep="\n- ")
    if not tags:
        print("The commit has no tag. The tag decides the version: `git tag -s v0.1.0` makes it 0.1.0.")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
