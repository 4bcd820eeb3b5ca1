"""What PyPI shows: the README with absolute links, and the project's addresses, both from one setting."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# In Markdown or HTML: what a link's or a picture's target follows, and a target within the repository.
_RELATIVE = re.compile(
    r"""(?P<before>!\[[^\]]*\]\(|\]\(|(?:src|href)=")(?![a-z]+:|#|/)(?P<target>[^)"\s]+)"""
)


class CustomMetadataHook(MetadataHookInterface):
    """Fills in the description and ``[project.urls]``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Derive both from ``address``, where the repository is public. If empty, links stay as they are."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        if address := self.config["address"].rstrip("/"):
            text = absolute(text, address, f"v{metadata['version']}")
            metadata["urls"] = {
                "Source": address,
                "Documentation": f"{address}/tree/v{metadata['version']}/docs",
                "Changelog": f"{address}/blob/v{metadata['version']}/CHANGELOG.md",
                "Issues": f"{address}/issues",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def absolute(text: str, address: str, tag: str) -> str:
    """The text with each link into the repository leading to its public address, at a tag."""

    def link(found: re.Match[str]) -> str:
        is_picture = found["before"].startswith(("!", "src"))
        return f"{found['before']}{address}/{'raw' if is_picture else 'blob'}/{tag}/{found['target']}"

    return _RELATIVE.sub(link, text)
