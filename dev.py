#!/usr/bin/env python3
"""Everything a developer does, in one command each, from a fresh checkout.

    python3 dev.py serve [arguments of `amplifier-api serve`]
    python3 dev.py test [arguments of pytest]
    python3 dev.py check                  style, types, import contracts, tests: stops at the first failure
    python3 dev.py format                 put the code in our form
    python3 dev.py lock [--upgrade]       write both requirements files anew from pyproject.toml

The environment is `.venv` beside this file, made from `requirements.txt` (`serve`) or from
`requirements-dev.txt` (everything else), which holds the same pins and the tools. A stamp in it says what
it was made from: while that still holds, a command costs a few milliseconds. What this script needs and
does not find, it says in one sentence, and ends with 2.

Only the standard library, and only syntax that an old Python 3 can read, so that the sentence about the
version is what its user sees.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
STAMP = VENV / "amplifier-api-setup.json"

# Inside an environment its own Python may be the one about to be removed: then the one it was made from.
PYTHON = sys.executable if sys.prefix == sys.base_prefix else os.path.realpath(sys.executable)

OLDEST, TOO_NEW = (3, 11), (3, 14)

# The second holds every pin of the first, so an environment made for tests also serves.
REQUIREMENTS = {"serve": ROOT / "requirements.txt", "dev": ROOT / "requirements-dev.txt"}

CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("basedpyright",),
    ("lint-imports",),
    ("pytest",),
)

# How pip and uv say that nobody answered.
UNREACHABLE = (
    "Failed to establish a new connection",
    "NewConnectionError",
    "Temporary failure in name resolution",
    "Name or service not known",
    "Connection refused",
    "ConnectTimeoutError",
    "dns error",
    "tcp connect error",
    "error sending request",
)


class Missing(Exception):
    """Something this machine lacks, as one sentence."""


def main(*arguments: str) -> int:
    if os.name != "posix":
        raise Missing("dev.py needs Linux or macOS (on Windows: the Linux subsystem)")
    if not OLDEST <= sys.version_info[:2] < TOO_NEW:
        raise Missing(f"Python 3.11, 3.12 or 3.13 is needed, and this is {python_version()}: try `python3.11 dev.py …`")
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", ())
    if command == "serve":
        ensure("serve")
        become("amplifier-api", "serve", *rest)
    if command == "test":
        ensure("dev")
        os.chdir(ROOT)
        become("pytest", *rest)
    if command == "lock":
        return lock(*rest)
    if command in ("check", "format") and not rest:
        ensure("dev")
        return check() if command == "check" else format_code()
    print(__doc__)
    return 0 if command in ("-h", "--help", "help") else 2


def check() -> int:
    for step in CHECKS:
        code = show(*step)
        if code:
            return code
    return 0


def format_code() -> int:
    return show("ruff", "check", "--fix", ".") or show("ruff", "format", ".")


def lock(*options: str) -> int:
    """Resolve again for every supported Python and system; pins that still fit stay unless told `--upgrade`."""
    ensure("dev")
    compile_pins = (
        *("uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header", "--no-emit-index-url"),
        *("--python-version", "3.11", "--all-extras", "--group", "build", *options, "pyproject.toml"),
    )
    return show(*compile_pins, "--output-file", "requirements.txt") or show(
        *compile_pins, "--group", "dev", "--output-file", "requirements-dev.txt"
    )


def show(*command: str) -> int:
    """Run one of the environment's commands in the project's folder, for everyone to see."""
    print("==> " + " ".join(command), flush=True)
    output = subprocess.DEVNULL if command[:3] == ("uv", "pip", "compile") else None  # it repeats the file it wrote
    return subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, stdout=output, check=False).returncode


def become(command: str, *arguments: str) -> NoReturn:
    """Replace this process, so that signals reach the command itself."""
    os.execv(BIN / command, [command, *arguments])


def ensure(kind: str) -> None:
    """See to it that `.venv` holds what `kind` needs; when it does already, that is all."""
    if is_made(wanted(kind)):
        return
    import fcntl  # not everywhere, and `main` has yet to say so when it is loaded

    with Path(__file__).open() as turn:  # one set-up at a time: this file is the lock
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not is_made(wanted(kind)):
            make(wanted(kind))


def wanted(kind: str) -> dict:
    """What the stamp of a finished environment says."""
    if stamp().get("kind") == "dev":
        kind = "dev"  # serving never takes a developer's tools away
    inputs = hashlib.sha256()
    for file in (REQUIREMENTS[kind], ROOT / "pyproject.toml"):
        inputs.update(file.read_bytes())
    return {"python": python_version(), "root": str(ROOT), "kind": kind, "inputs": inputs.hexdigest()}


def stamp() -> dict:
    try:
        written = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return written if isinstance(written, dict) else {}


def is_made(what: dict) -> bool:
    return stamp() == what and (BIN / "python").exists()  # a link to a Python that was removed does not exist


def make(what: dict) -> None:
    unfinished = {**what, "inputs": None}
    if {**stamp(), "inputs": None, "kind": what["kind"]} != unfinished or not runs():
        create()
    STAMP.write_text(json.dumps(unfinished))
    requirements = REQUIREMENTS[what["kind"]]
    if not (BIN / "uv").exists():
        install_uv(requirements)
    say(f"installing what {requirements.name} names")
    into = ("--quiet", "--python", str(BIN / "python"))
    quietly(BIN / "uv", "pip", "sync", *into, "--require-hashes", requirements)
    quietly(BIN / "uv", "pip", "install", *into, "--no-deps", "--no-build-isolation", "--editable", ROOT)
    STAMP.write_text(json.dumps(what))


def runs() -> bool:
    """Whether the environment's Python starts at all."""
    try:
        return subprocess.run([BIN / "python", "-c", ""], stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False


def create() -> None:
    """A new `.venv`: what stands there was moved, is broken, unfinished, another Python's or not ours."""
    if not can_import("venv"):
        raise Missing("Python's venv module is missing: install it (Debian and Ubuntu: apt-get install python3-venv)")
    if not can_import("ensurepip") and not can_import("pip"):
        raise Missing("Python has neither ensurepip nor pip (Debian and Ubuntu: apt-get install python3-venv)")
    say(f"making {VENV} with Python {python_version()}")
    if VENV.exists():
        shutil.rmtree(VENV)
    quietly(PYTHON, "-m", "venv", *([] if can_import("ensurepip") else ["--without-pip"]), VENV)


def can_import(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def install_uv(requirements: Path) -> None:
    """uv, at the pin and with the hashes of the requirements file; from then on uv keeps itself at its pin."""
    lines = requirements.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("uv=="))
    end = next(number for number in range(start, len(lines)) if not lines[number].endswith("\\"))
    pin = VENV / "uv-requirement.txt"
    pin.write_text("\n".join(lines[start : end + 1]) + "\n")
    own_pip = [BIN / "python", "-m", "pip"]
    pip = own_pip if (BIN / "pip").exists() else [PYTHON, "-m", "pip", "--python", BIN / "python"]
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--require-hashes")
    quietly(*pip, "install", *options, "--requirement", pin)


def quietly(*command: object) -> None:
    """Run a command whose output matters only when it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode == 0:
        return
    if any(words_of_it in done.stdout for words_of_it in UNREACHABLE):
        raise Missing("the package index cannot be reached: setting up needs a network connection, once")
    sys.stderr.write(done.stdout)
    raise Missing(f"`{' '.join(words)}` failed, its output stands above")


def python_version() -> str:
    return ".".join(str(part) for part in sys.version_info[:3])


def say(text: str) -> None:
    print(f"dev.py: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except Missing as missing:
        say(f"{missing}.")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
