"""Which of a runbook's variants fits this machine."""

from pathlib import Path

_OS_RELEASE = Path("/etc/os-release")
_KINDS = {
    "debian": {"debian", "ubuntu"},
    "rhel": {"rhel", "fedora", "centos", "rocky", "almalinux", "ol", "amzn"},
    "nixos": {"nixos"},
}


def platform(os_release: Path = _OS_RELEASE) -> str:
    """Return debian, rhel, nixos or any, as the machine says of itself (os-release(5): ID, then ID_LIKE)."""
    try:
        lines = os_release.read_text("utf-8", "replace").splitlines()
    except OSError:
        return "any"
    said = dict(line.split("=", 1) for line in lines if "=" in line)
    words = f"{said.get('ID', '')} {said.get('ID_LIKE', '')}".replace('"', "").replace("'", "").lower().split()
    return next((kind for word in words for kind, names in _KINDS.items() if word in names), "any")
