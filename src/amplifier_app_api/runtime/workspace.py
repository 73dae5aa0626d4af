"""The folder a session works in."""

import asyncio
import shutil
from pathlib import Path

from amplifier_app_api.bundles.folders import make_private
from amplifier_app_api.errors import ErrorItem, Unprocessable


class InvalidWorkingDir(Unprocessable):
    """`working_dir` does not lie below the tenant's workspaces."""


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
            item = ErrorItem(code="invalid_value", detail="must lie below the workspaces", pointer="/working_dir")
            raise InvalidWorkingDir("working_dir must be a path below the workspaces of this server", items=[item])
        return str(chosen.relative_to(home))

    async def make(self, tenant: str, stored: str) -> str:
        """The absolute path of a stored folder, which then exists."""
        home = self._root / tenant
        folder = home / stored

        def made() -> str:
            make_private(folder)
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
