"""The folder a session works in."""

import asyncio
import errno
import shutil
from pathlib import Path

from amplifier_app_api.bundles.folders import make_private
from amplifier_app_api.errors import ErrorItem, Unprocessable

NO_PLACE = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST, errno.ELOOP}
"""What a path itself is to blame for, when a folder cannot be made there."""


class InvalidWorkingDir(Unprocessable):
    """`working_dir` does not lie below the tenant's workspaces, or no folder can be there."""

    @classmethod
    def because(cls, sentence: str) -> "InvalidWorkingDir":
        """A refusal that names the field."""
        item = ErrorItem(code="invalid_value", detail=sentence, pointer="/working_dir")
        return cls("working_dir must be a path below the workspaces of this server", items=[item])


def log_folder(data_dir: Path, tenant: str) -> Path:
    """Where modules keep the logs of a tenant's sessions. Whoever writes one makes the folder."""
    return data_dir / "logs" / tenant


class Workspaces:
    """`<data folder>/workspaces/<tenant>/…`: each session has its own folder there unless it names another."""

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir / "workspaces"

    def choose(self, tenant: str, session_id: str, wanted: str | None) -> str:
        """The folder of a new session, as it is stored: relative to the tenant's workspaces."""
        if wanted is None:
            return session_id
        home = (self._root / tenant).resolve()
        chosen = (home / wanted).resolve()
        if chosen == home or not chosen.is_relative_to(home):
            raise InvalidWorkingDir.because("must lie below the workspaces")
        return str(chosen.relative_to(home))

    async def make(self, tenant: str, stored: str) -> str:
        """The absolute path of a stored folder, which then exists."""
        home = self._root / tenant
        folder = home / stored

        def made() -> str:
            try:
                make_private(folder)
            except OSError as error:
                if error.errno in NO_PLACE:
                    raise InvalidWorkingDir.because(f"cannot be a folder: {error.strerror}") from None
                raise
            if not folder.is_dir():
                raise InvalidWorkingDir.because("is a file")
            resolved = folder.resolve()
            # A link made since must not lead the session somewhere else.
            if not resolved.is_relative_to(home.resolve()):
                raise InvalidWorkingDir("the working directory does not lie below the workspaces of this server")
            return str(resolved)

        return await asyncio.to_thread(made)

    def folder_of(self, tenant: str, session_id: str) -> Path:
        """Where a session's own folder is, or would be."""
        return self._root / tenant / session_id

    async def remove(self, tenant: str, session_id: str) -> None:
        """Remove the folder that a session had for itself."""
        await asyncio.to_thread(shutil.rmtree, self._root / tenant / session_id, ignore_errors=True)
