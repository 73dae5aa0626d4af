"""Where the rows go: a database, or only a note that they would have gone there."""

from sqlalchemy.exc import IntegrityError

from amplifier_app_api.bundles import BUILTIN_BUNDLES
from amplifier_app_api.core.legacy.row import CannotCarry
from amplifier_app_api.models.principal import LOCAL, Principal
from amplifier_app_api.storage import bundle_names
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.imports import (
    ImportedConfig,
    ImportedSession,
    config_exists,
    import_config,
    import_session,
    session_exists,
)

BY = "migrate-legacy"


class Target:
    """The rows of one tenant. Without `apply` nothing is written; without a database nothing is there yet."""

    def __init__(self, db: Database | None, *, apply: bool = False, principal: Principal = LOCAL) -> None:
        if apply and db is None:
            raise ValueError("there is no database to write to")
        self._db = db
        self._writes = db if apply else None
        self._tenant = principal.tenant_id
        self._planned: set[str] = set()

    async def has_config(self, config_id: str) -> bool:
        """Whether the Config is there, or would be by now."""
        if self._db is None or config_id in self._planned:
            return config_id in self._planned
        return await self._db.read(config_exists, config_id, within=self._tenant)

    async def has_session(self, session_id: str) -> bool:
        """Whether the session is there."""
        return self._db is not None and await self._db.read(session_exists, session_id, within=self._tenant)

    async def has_bundle(self, name: str) -> bool:
        """Whether the name stands for a bundle."""
        if name in BUILTIN_BUNDLES or self._db is None:
            return name in BUILTIN_BUNDLES
        return await self._db.read(bundle_names.get_bundle, name, within=self._tenant) is not None

    async def add_config(self, config: ImportedConfig) -> None:
        """Store a Config."""
        self._planned.add(config.config_id)
        if self._writes is None:
            return
        try:
            await self._writes.write(import_config, config, by=BY, within=self._tenant)
        except IntegrityError:
            self._planned.discard(config.config_id)
            raise CannotCarry("its id is taken by somebody else's") from None

    async def add_session(self, session: ImportedSession) -> None:
        """Store a session with its transcript."""
        if self._writes is None:
            return
        try:
            await self._writes.write(import_session, session, within=self._tenant)
        except IntegrityError:
            raise CannotCarry("its id is taken by somebody else's") from None

    async def add_bundle(self, name: str, uri: str) -> None:
        """Register a name."""
        if self._writes is not None:
            await self._writes.write(bundle_names.insert_bundle, name, uri=uri, description=None, within=self._tenant)
