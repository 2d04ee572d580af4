"""The separate environment of the vendor's SDK: making, checking, reporting it."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import wafergpt
from wafergpt import atomic_files, files
from wafergpt.devices.probe import cache_folder
from wafergpt.errors import InputError, RunFailed
from wafergpt.locks import locked
from wafergpt.logs import say
from wafergpt.progress import working

SDK = "cerebras_pytorch==2.10.0"

PYTHON = "3.11"
"""The version that the SDK is built for."""

LIGHT = (
    "pydantic>=2.6,<3",
    "pyyaml>=6",
    "safetensors>=0.4.3",
    "tokenizers>=0.20",
)
"""What this package needs there besides the SDK's own requirements."""

BYTES = 6_000_000_000
"""Size of the whole environment: 5.7 GB as measured, and a margin."""

RECORD = "wafergpt.json"
"""Written once everything is installed and has made a training step."""


def home() -> Path:
    """Return the folder of the environment (``WAFERGPT_CEREBRAS`` names another)."""
    named = os.environ.get("WAFERGPT_CEREBRAS")
    return Path(named) if named else cache_folder() / SDK.replace("==", "-")


def state() -> dict[str, Any] | None:
    """Return what is installed (``path, sdk, torch, package``), or None."""
    try:
        record = files.read_json(home() / RECORD)
    except (InputError, OSError):
        return None
    there = isinstance(record, dict) and interpreter().exists()
    return record if there and SDK.endswith(f"=={record.get('sdk')}") else None


def python() -> Path:
    """Return the environment's Python, after updating this package in it.

    Raises:
        InputError: if it is not installed.
    """
    found = state()
    if found is None:
        raise InputError(
            "Cerebras' SDK is not installed: wafergpt doctor --install-cerebras makes an "
            f"environment of its own for it ({BYTES / 1e9:.0f} GB)"
        )
    if found.get("package") == fingerprint():
        return interpreter()
    files.require_writable(home(), "WAFERGPT_CEREBRAS")
    with locked(home() / ".wafergpt.lock"):
        if (state() or found).get("package") != fingerprint():
            _install_package()
            atomic_files.write_json(home() / RECORD, {**found, "package": fingerprint()})
    return interpreter()


def interpreter() -> Path:
    """Return the path of the environment's Python, which may not exist yet."""
    return home() / "bin" / "python"


def environment() -> dict[str, str]:
    """Return the environment variables of a process there."""
    # The SDK calls its own programs by name.
    path = f"{home() / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    kept = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME"}}
    return {**kept, "PATH": path}


def make() -> None:
    """Make the environment, or continue an interrupted attempt.

    Raises:
        InputError: if there is no Python for the SDK, or too little disk space.
        RunFailed: if a step fails.
    """
    folder = home()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    there = _has_pip()
    say(
        f"Cerebras' SDK {SDK} goes into {folder}: {BYTES / 1e9:.0f} GB, some five minutes; "
        "if interrupted, run the same command again"
    )
    if free < BYTES and not there:
        raise InputError(
            f"{free / 1e9:.1f} GB are free in {folder}, {BYTES / 1e9:.0f} are needed: make room, "
            "or name another folder in WAFERGPT_CEREBRAS"
        )
    if not there:
        _run([_base_python(), "-m", "venv", str(folder)], "making the environment")
    _pip(f"installing {SDK}", SDK)
    _pip("installing what wafergpt needs there", *LIGHT)
    _install_package()


def record(facts: dict[str, Any]) -> dict[str, Any]:
    """Record that everything is installed and has made steps; return the record."""
    found = {"path": str(home()), **facts, "package": fingerprint()}
    atomic_files.write_json(home() / RECORD, found)
    return found


def _has_pip() -> bool:
    """Return whether the environment was made completely."""
    command = [str(interpreter()), "-m", "pip", "--version"]
    return interpreter().exists() and not subprocess.run(command, capture_output=True).returncode


def _base_python() -> str:
    if sys.version_info[:2] == tuple(int(part) for part in PYTHON.split(".")):
        return sys.executable
    found = shutil.which(f"python{PYTHON}")
    if found is None:
        raise InputError(f"Cerebras' SDK needs Python {PYTHON}: install it, and put it on PATH")
    return found


def _pip(what: str, *arguments: str) -> None:
    pip = [str(interpreter()), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, *arguments], what)


def _run(command: list[str], what: str) -> None:
    with working(what):
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise RunFailed(f"{what} failed: {lines[-1]}")


# --- this package in the environment -------------------------------------------------------------


def fingerprint() -> str:
    """Return a hash of this package's own files."""
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(f"{path.relative_to(_package())}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _package() -> Path:
    return Path(wafergpt.__file__).parent


def _sources() -> list[Path]:
    return sorted(p for p in _package().rglob("*") if p.suffix in {".py", ".yaml"})


def _install_package() -> None:
    wheel = write_wheel(home())
    offline = ("--no-deps", "--no-index", "--force-reinstall")
    _pip("installing wafergpt there", *offline, str(wheel))
    wheel.unlink()


def write_wheel(folder: Path) -> Path:
    """Write a wheel of this package as it is now, and return its path.

    The package may be installed from anywhere, and there may be no network.
    """
    version = wafergpt.__version__
    info = f"wafergpt-{version}.dist-info"
    path = folder / f"wafergpt-{version}-py3-none-any.whl"
    contents = {
        f"wafergpt/{source.relative_to(_package()).as_posix()}": source.read_bytes()
        for source in _sources()
    }
    try:
        about = metadata.metadata("wafergpt")["Summary"]
    except metadata.PackageNotFoundError:
        about = ""
    contents[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: wafergpt\nVersion: {version}\nSummary: {about}\n"
    ).encode()
    contents[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: wafergpt\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = "".join(f"{name},{_hash(data)},{len(data)}\n" for name, data in contents.items())
    contents[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    with atomic_files.replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def _hash(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"
