"""Where the helper keeps its own files, which only root can read."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HelperPlaces:
    """The helper's files, all below `state_dir` (0700)."""

    state_dir: Path

    @property
    def pinned(self) -> Path:
        """Whose orders are obeyed."""
        return self.state_dir / "pinned.json"

    @property
    def journal(self) -> Path:
        """What was begun, and what became of it."""
        return self.state_dir / "journal.db"

    @property
    def lock(self) -> Path:
        """The file whose lock says that a helper runs."""
        return self.state_dir / "helper.lock"

    @property
    def running(self) -> Path:
        """The file whose lock says that steps run; it ends with the process that runs them, however that ends."""
        return self.state_dir / "running.lock"
