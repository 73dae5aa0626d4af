"""A session moves to another revision of its Config, in one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from amplifier_app_api.models.event import Event, SessionResumed, SessionUpgraded
from amplifier_app_api.models.session import Session, SessionStatus
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.events import StoredEvent, insert_events
from amplifier_app_api.storage.ownership import claim
from amplifier_app_api.storage.sessions import advance, change_session, get_session
from amplifier_app_api.storage.turns import open_turn_of


class MovedOn(Exception):
    """Rolls back: something was written to the session since its new revision was opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """What a session runs from now on, and what was found when it was opened from that.

    `expected_position` is where the transcript ended then.
    """

    revision: int
    degraded: Sequence[dict[str, Any]]
    sources: dict[str, str]
    expected_position: int
    node_id: str


def upgrade_session(
    conn: Connection, session_id: str, upgrade: Upgrade, *, within: str
) -> tuple[Session | None, list[StoredEvent]]:
    """Set the revision of a session, which is ours from now on, and tell it in its log. None: it is gone.

    `MovedOn` when a turn began, or had begun elsewhere.
    """
    before = get_session(conn, session_id, within=within, to_change=True)
    if before is None:
        return None, []
    claimed = claim(conn, session_id, upgrade.node_id, within=within)
    if claimed is None or claimed.last_position != upgrade.expected_position or open_turn_of(conn, session_id):
        raise MovedOn
    news: list[Event] = []
    if before.session.revision != upgrade.revision:
        news.append(SessionUpgraded(from_=before.session.revision, to=upgrade.revision))
    if before.session.status is not SessionStatus.ACTIVE:
        news.append(SessionResumed())
    values = {
        "revision": upgrade.revision,
        "degraded": list(upgrade.degraded),
        "sources": upgrade.sources or None,
        "status": SessionStatus.ACTIVE.value,
        "error": None,
    }
    counters = advance(conn, session_id, epoch=claimed.epoch, events=len(news))
    if counters is None:
        raise MovedOn
    stored = insert_events(
        conn,
        news,
        session_id=session_id,
        turn_id=None,
        first_seq=counters.last_seq - len(news) + 1,
        at=utc_now(),
        within=within,
    )
    after = change_session(conn, session_id, values, within=within)
    return (None if after is None else after.session), stored
