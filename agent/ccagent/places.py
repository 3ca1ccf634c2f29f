"""Where the agent keeps its files.

Asked by commands that must answer at once, so it imports the standard library only.
"""

import hashlib
import os
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_CONFIG_FILE = Path("/etc/cc-agent/config.toml")
DEFAULT_STATE_DIR = Path("/var/lib/cc-agent")

# sun_path holds 108 bytes with the closing zero (unix(7)).
MAX_SOCKET_PATH = 107


class BadConfigError(Exception):
    """The configuration cannot be used; the message names the file, the line or key, and the next step."""


@dataclass(frozen=True)
class Places:
    """The agent's files; all are below `state_dir`, but a socket whose path would be too long to bind."""

    state_dir: Path

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.state_dir / "agent.db"

    @property
    def lock(self) -> Path:
        """The file whose lock says that an agent runs."""
        return self.state_dir / "agent.lock"

    @property
    def identity(self) -> Path:
        """Who this appliance is: ids, server name, pinned keys."""
        return self.state_dir / "identity.json"

    @property
    def device_key(self) -> Path:
        """The private key of the current epoch."""
        return self.state_dir / "device.key"

    @property
    def next_device_key(self) -> Path:
        """The private key of the next epoch, while the server does not know it yet."""
        return self.state_dir / "device.key.next"

    @property
    def earlier_device_keys(self) -> Path:
        """The private keys of before, for a server that is put back to when it knew one of them."""
        return self.state_dir / "device.key.earlier"

    @property
    def scrub_key(self) -> Path:
        """The key of the tokens that stand for personal data; it never leaves the appliance."""
        return self.state_dir / "scrub.key"

    @property
    def policy(self) -> Path:
        """The policy in force, as it was signed."""
        return self.state_dir / "policy.json"

    @property
    def support_bundle(self) -> Path:
        """The support bundle that an order asked for."""
        return self.state_dir / "support-bundle.tar.gz"

    @property
    def head_mark(self) -> Path:
        """The newest head, outside the database that it bears witness to."""
        return self.state_dir / "head.mark"

    @property
    def ballast(self) -> Path:
        """A mebibyte that is given up when the disk is full."""
        return self.state_dir / "ballast"

    @property
    def quarantine(self) -> Path:
        """Where damaged databases are kept, a directory each, named by when they were found."""
        return self.state_dir / "quarantine"

    @property
    def salvaging(self) -> Path:
        """Names the directory in quarantine that is being salvaged; it is there only meanwhile."""
        return self.state_dir / "salvaging"

    @property
    def socket(self) -> Path:
        """The local socket, at most 107 bytes.

        When the state directory's path is too long: in /tmp under its owner's uid and a hash of that path, so that
        the agent and whoever asks it find the same name, whatever their own uid and environment.
        """
        wanted = self.state_dir / "control.sock"
        if len(os.fsencode(wanted)) <= MAX_SOCKET_PATH:
            return wanted
        digest = hashlib.sha256(os.fsencode(self.state_dir)).hexdigest()[:16]
        return Path("/", "tmp", f"cc-agent-{_owner(self.state_dir)}-{digest}", "control.sock")

    def make_socket_dir(self) -> Path:
        """Make the socket's directory (0700) where it is missing and return it.

        BadConfigError when somebody else's directory or a link stands there: in /tmp anybody may have been first.
        """
        directory = self.socket.parent
        directory.mkdir(mode=0o700, parents=directory == self.state_dir, exist_ok=True)
        if directory != self.state_dir:
            about = directory.lstat()
            private = stat.S_ISDIR(about.st_mode) and not about.st_mode & 0o077
            if not private or about.st_uid != os.geteuid():
                raise BadConfigError(
                    f"{directory} is not a private directory of this user: remove it, or choose a shorter state_dir"
                )
        return directory


def find(config_file: Path | None, state_dir: Path | None) -> Places:
    """Return the places: those of `state_dir` if given, else as the configuration says, else the default.

    Only `[agent] state_dir` is looked at, so that a mistake elsewhere in the file does not hide the agent's state.
    BadConfigError when the file was named and is missing, or cannot be read.
    """
    if state_dir is None:
        state_dir = _state_dir_of(config_file)
    return Places(Path(os.path.realpath(state_dir)))


def read_toml(config_file: Path | None) -> dict[str, Any]:
    """Return the configuration file's tables; {} when the default file is missing (None means the default file).

    BadConfigError when a file that was named is missing, or the file cannot be read or is not TOML.
    """
    path = config_file or DEFAULT_CONFIG_FILE
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError as error:
        if path == DEFAULT_CONFIG_FILE:
            return {}
        raise BadConfigError(f"{path} is not there: make it, or name another file") from error
    except OSError as error:
        raise BadConfigError(
            f"{path} cannot be read ({error.strerror}): give this user the right to read it"
        ) from error
    except UnicodeDecodeError as error:
        raise BadConfigError(f"{path} is not UTF-8 at byte {error.start}: save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise BadConfigError(f"{path} is not TOML: {error}: mend that line") from error


def _state_dir_of(config_file: Path | None) -> Path:
    agent = read_toml(config_file).get("agent", {})
    named = agent.get("state_dir", str(DEFAULT_STATE_DIR)) if isinstance(agent, dict) else None
    if not isinstance(named, str) or not named.startswith("/"):
        raise BadConfigError(
            f"{config_file or DEFAULT_CONFIG_FILE}: agent.state_dir is not an absolute path: "
            f'write state_dir = "{DEFAULT_STATE_DIR}"'
        )
    return Path(named)


def _owner(directory: Path) -> int:
    try:
        return directory.stat().st_uid
    except OSError:
        return os.geteuid()
