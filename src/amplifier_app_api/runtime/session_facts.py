"""What modules may ask of their session's row, and tell it: what it has used, and its title."""

from functools import partial
from typing import Any

from amplifier_app_api.models.fields import made_storable
from amplifier_app_api.runtime.live_session import LiveSession
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.sessions import get_session, give_title

MAX_TITLE = 200


class SessionFacts:
    """For the sessions that the node `node_id` has open."""

    def __init__(self, db: Database, node_id: str) -> None:
        self._db = db
        self._node_id = node_id

    def capabilities(self, live: LiveSession) -> dict[str, Any]:
        """What modules of a session find at their coordinator."""
        return {
            "host.session_usage": partial(self._usage_of, live),
            "session.set_title": partial(self._set_title, live),
        }

    async def _usage_of(self, live: LiveSession) -> dict[str, Any]:
        """What the turns of the session have used that have ended; the cost is None where none is known."""
        record = await self._db.read(get_session, live.session_id, within=live.tenant_id)
        return {} if record is None else record.session.usage.model_dump()

    async def _set_title(self, live: LiveSession, title: Any, description: Any = "") -> bool:
        """Give the session a title. False: a person has given it one, or it is not open here any more."""
        opened = live.opened
        if opened is None or live.gone:
            return False
        shown = made_storable(opened.mask.text(" ".join(str(title).split())))[:MAX_TITLE]
        if not shown:
            return False
        return await self._db.write(give_title, live.session_id, shown, node_id=self._node_id, within=live.tenant_id)
