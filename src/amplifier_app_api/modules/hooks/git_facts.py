"""What can be said about the repository in a folder that somebody else may write to.

A repository's own configuration names programs that `git` runs: filters, monitors, signature checkers. It is
therefore never read. Git is given a folder of ours for its own, with nothing in it but the commit that the
repository is on, and takes only the index and the objects from the repository; there is no network, no lock, no
hook, no submodule, and a limit on time and output. A repository that is not a plain one (a work tree of another, links
where files should be, objects from elsewhere) is not looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from amplifier_app_api.modules.tools.sandbox import FileRefused, Sandbox, printable

_HEAD_BYTES = 4_096
_PACKED_REFS_BYTES = 4 * 2**20
_OUTPUT_BYTES = 64 * 1024
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", re.ASCII)
_BRANCH = re.compile(r"ref: refs/heads/([A-Za-z0-9._/@+-]{1,200})\n?", re.ASCII)
_OFF = (
    *("core.fsmonitor=false", "core.hooksPath=/dev/null", "core.untrackedCache=false", "core.pager=cat"),
    *(
        "core.attributesFile=/dev/null",
        "core.excludesFile=/dev/null",
        "protocol.allow=never",
        "log.showSignature=false",
    ),
    *("submodule.recurse=false", "status.submoduleSummary=false", "gc.auto=0"),
)


@dataclass(frozen=True, slots=True)
class GitFacts:
    """`branch` is None on a detached commit, `changes` when they could not be found out in time."""

    branch: str | None
    commit: str | None
    changes: list[str] | None
    commits: list[str]


@dataclass(frozen=True, slots=True)
class _Head:
    branch: str | None
    commit: str | None


async def git_facts(folder: Path, *, changes: int, commits: int, seconds: float) -> GitFacts | None:
    """The facts, with as many changed files and latest commits at most; None where there is no plain repository."""
    head = await asyncio.to_thread(_head_of, folder)
    if head is None:
        return None
    program = shutil.which("git")
    if program is None or head.commit is None:
        return GitFacts(head.branch, None, None, [])
    own = await asyncio.to_thread(_make_own_folder, head.commit)
    try:
        environment = _environment(folder, own)
        status = ["status", "--porcelain", "--no-renames", "--ignore-submodules=all", "--untracked-files=normal"]
        log = ["log", f"--max-count={commits}", "--no-show-signature", "--no-decorate", "--format=%h %s", "HEAD"]
        changed, told = await asyncio.gather(
            _lines(program, status, environment, seconds), _lines(program, log, environment, seconds)
        )
    finally:
        await asyncio.to_thread(shutil.rmtree, own, ignore_errors=True)
    if changed is not None and len(changed) > changes:
        changed = [*changed[:changes], f"… and {len(changed) - changes} more"]
    return GitFacts(head.branch, head.commit[:12], changed, (told or [])[:commits])


def _head_of(folder: Path) -> _Head | None:
    git = folder / ".git"
    try:
        if not all(stat.S_ISDIR(os.lstat(path).st_mode) for path in (git, git / "objects", git / "objects" / "info")):
            return None
        if any(os.path.lexists(git / "objects" / "info" / name) for name in ("alternates", "http-alternates")):
            return None
        if os.path.lexists(git / "index") and not stat.S_ISREG(os.lstat(git / "index").st_mode):
            return None
        inside = Sandbox([git])
        head = _read(inside, "HEAD", _HEAD_BYTES)
    except (OSError, FileRefused):
        return None
    if _COMMIT.fullmatch(head.strip()):
        return _Head(None, head.strip())
    named = _BRANCH.fullmatch(head)
    if named is None or ".." in named.group(1):
        return None
    return _Head(named.group(1), _commit_of(inside, f"refs/heads/{named.group(1)}"))


def _commit_of(inside: Sandbox, reference: str) -> str | None:
    with contextlib.suppress(FileRefused):
        commit = _read(inside, reference, _HEAD_BYTES).strip()
        return commit if _COMMIT.fullmatch(commit) else None
    with contextlib.suppress(FileRefused):
        for line in _read(inside, "packed-refs", _PACKED_REFS_BYTES).splitlines():
            commit, _, name = line.partition(" ")
            if name == reference and _COMMIT.fullmatch(commit):
                return commit
    return None


def _read(inside: Sandbox, path: str, limit: int) -> str:
    return inside.read(inside.locate(path), limit).decode("utf-8", "replace")


def _make_own_folder(commit: str) -> Path:
    own = Path(tempfile.mkdtemp(prefix="amplifier-git-"))
    for name in ("refs", "objects"):
        (own / name).mkdir()
    (own / "HEAD").write_text(f"{commit}\n")
    long = len(commit) > 40
    extensions = "[extensions]\n\tobjectformat = sha256\n" if long else ""
    (own / "config").write_text(f"[core]\n\trepositoryformatversion = {int(long)}\n\tbare = false\n{extensions}")
    return own


def _environment(folder: Path, own: Path) -> Mapping[str, str]:
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(own),
        "LC_ALL": "C.UTF-8",
        "GIT_DIR": str(own),
        "GIT_WORK_TREE": str(folder),
        "GIT_INDEX_FILE": str(folder / ".git" / "index"),
        "GIT_OBJECT_DIRECTORY": str(folder / ".git" / "objects"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_NO_LAZY_FETCH": "1",
    }


async def _lines(
    program: str, arguments: list[str], environment: Mapping[str, str], seconds: float
) -> list[str] | None:
    settings = [part for option in _OFF for part in ("-c", option)]
    process = await asyncio.create_subprocess_exec(
        program,
        *settings,
        *arguments,
        env=environment,
        cwd=environment["GIT_WORK_TREE"],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    said, whole = b"", False
    try:
        async with asyncio.timeout(seconds):
            while len(said) < _OUTPUT_BYTES:
                piece = await process.stdout.read(_OUTPUT_BYTES - len(said)) if process.stdout else b""
                if not piece:
                    whole = await process.wait() == 0
                    break
                said += piece
            else:
                whole = True
                said = said[: said.rfind(b"\n") + 1]
    except TimeoutError:
        whole = False
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if not whole:
        return None
    return [printable(line) for line in said.decode("utf-8", "surrogateescape").splitlines() if line.strip()]
