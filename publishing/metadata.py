"""Hook of Hatchling: the package's page on PyPI, whose links have to be absolute."""

import sys
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

sys.path.insert(0, str(Path(__file__).parent))

from links import with_links


class PublishedMetadata(MetadataHookInterface):
    """Sets the readme, and the addresses that PyPI shows beside it."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Adds what depends on the address of the repository."""
        address = self.config["address"].rstrip("/")
        readme = (Path(self.root) / "README.md").read_text()

        def resolve(target: str) -> str | None:
            if not address:
                return None
            kind = "raw" if target.endswith(".png") else "blob"
            return f"{address}/{kind}/v{metadata['version']}/{target}"

        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": with_links(readme, resolve),
        }
        if address:
            metadata["urls"] = {
                "Repository": address,
                "Changelog": f"{address}/blob/main/CHANGELOG.md",
            }
