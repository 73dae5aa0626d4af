"""Who writes a session's turns.

`sessions.owner` is a node, `sessions.epoch` the number that its writes carry. The epoch grows whenever the owner
changes hands, so that whoever had the session before fails at its next write. Accepting a message claims its
session in the statement that takes the message's numbers (`sessions.accept_message`); the rules stand here.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Text,
    and_,
    bindparam,
    case,
    exists,
    not_,
    or_,
    select,
    update,
)

from amplifier_app_api.storage.nodes import SeenNode, seen_nodes
from amplifier_app_api.storage.tables import sessions, turns
from amplifier_app_api.storage.turns import OPEN

NODE: BindParameter[str] = bindparam("of_node", type_=Text())
OWNED_BY_ANOTHER = and_(sessions.c.owner.is_not(None), sessions.c.owner != NODE)
"""A condition on a session's row before it is claimed, for the node bound as `of_node`."""

CLAIMED_EPOCH = case((OWNED_BY_ANOTHER, sessions.c.epoch + 1), else_=sessions.c.epoch)
"""The epoch a claim leaves: a new one when the session changes hands."""

_CLAIM = (
    update(sessions)
    .where(
        sessions.c.session_id == bindparam("of_session"),
        sessions.c.tenant_id == bindparam("of_tenant"),
        or_(
            not_(OWNED_BY_ANOTHER),
            not_(exists().where(turns.c.session_id == sessions.c.session_id, OPEN)),
        ),
    )
    .values(owner=NODE, epoch=CLAIMED_EPOCH)
    .returning(sessions.c.epoch, sessions.c.last_seq, sessions.c.last_position)
)
RELEASED_AT_ONCE = 10_000
_RELEASE = (
    update(sessions)
    .where(
        sessions.c.session_id.in_(select(sessions.c.session_id).where(sessions.c.owner == NODE).limit(RELEASED_AT_ONCE))
    )
    .values(owner=None)
)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A session that is ours: the epoch to write with, and where its log and its transcript end."""

    epoch: int
    last_seq: int
    last_position: int


def claim(conn: Connection, session_id: str, node_id: str, *, within: str) -> Claimed | None:
    """Become the owner of a session, and hold its row until the commit.

    A session of nobody or of ours keeps its epoch; one of another node gets a new one. None: the tenant has no such
    session, or another node runs a turn in it.
    """
    row = conn.execute(_CLAIM, {"of_session": session_id, "of_tenant": within, "of_node": node_id}).first()
    return None if row is None else Claimed(row.epoch, row.last_seq, row.last_position)


def release_all(conn: Connection, node_id: str) -> None:
    """Give up the sessions of a node that stops. What they run must have ended.

    Of very many some are left to it: a node without a row is nobody, and claiming from nobody costs an epoch only.
    """
    conn.execute(_RELEASE, {"of_node": node_id})


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """A turn that runs or waits, as its rows show it.

    `epoch` is the session's; a turn that was begun under another one is written by nobody. `cancel` is what somebody
    asks of its owner.
    """

    turn_id: str
    session_id: str
    tenant_id: str
    owner: str | None
    epoch: int
    attempt: int
    cancel: str | None


_OPEN_TURNS = (
    select(
        turns.c.turn_id,
        turns.c.session_id,
        turns.c.tenant_id,
        sessions.c.owner,
        sessions.c.epoch,
        turns.c.attempt,
        turns.c.cancel,
    )
    .join(sessions, sessions.c.session_id == turns.c.session_id)
    .where(OPEN)
    .order_by(turns.c.created_at, turns.c.turn_id)
)


def open_turns_of(conn: Connection, node_id: str, *, alive: Collection[str]) -> list[OpenTurn]:
    """The open turns of a node, and those whose owner is not among the nodes `alive`; the oldest first."""
    others = [node for node in alive if node != node_id]
    statement = _OPEN_TURNS.where(or_(sessions.c.owner.is_(None), sessions.c.owner.not_in(others)))
    return [OpenTurn(*row) for row in conn.execute(statement)]


@dataclass(frozen=True, slots=True)
class Survey:
    """What a node has to look after, as one snapshot has it: its own open turns, and those of nodes that are gone."""

    turns: list[OpenTurn]
    gone: list[SeenNode]


def survey(conn: Connection, node_id: str, *, lives: Callable[[SeenNode], bool]) -> Survey:
    """Look around. `lives` tells of a node whether it is there still."""
    seen = seen_nodes(conn)
    alive = {node.identity.node_id for node in seen if lives(node)}
    gone = [node for node in seen if node.identity.node_id not in alive]
    return Survey(open_turns_of(conn, node_id, alive=alive), gone)


def epochs_of(conn: Connection, session_ids: Collection[str]) -> dict[str, int]:
    """The epochs of sessions, by id."""
    statement = select(sessions.c.session_id, sessions.c.epoch).where(sessions.c.session_id.in_(session_ids))
    return {row.session_id: row.epoch for row in conn.execute(statement)}


@dataclass(frozen=True, slots=True)
class TakenOver:
    """A turn that is ours now. `epoch` is what to write it with, `attempt` counts from 1."""

    turn_id: str
    session_id: str
    tenant_id: str
    epoch: int
    attempt: int
    last_seq: int
    last_position: int


def take_over(conn: Connection, found: OpenTurn, node_id: str, *, counted: bool = True) -> TakenOver | None:
    """Take a turn from whom it was found with: a new epoch, we own its session, one attempt more if it is `counted`.

    None: it has ended, or somebody else was first.
    """
    held = conn.execute(
        select(sessions.c.epoch)
        .where(sessions.c.session_id == found.session_id, sessions.c.epoch == found.epoch, _is(found.owner))
        .with_for_update(skip_locked=True)
    ).first()
    if held is None:
        return None
    attempt = conn.execute(
        update(turns)
        .where(turns.c.turn_id == found.turn_id, OPEN)
        .values(epoch=found.epoch + 1, attempt=turns.c.attempt + int(counted))
        .returning(turns.c.attempt)
    ).scalar_one_or_none()
    if attempt is None:
        return None
    row = conn.execute(
        update(sessions)
        .where(sessions.c.session_id == found.session_id)
        .values(owner=node_id, epoch=sessions.c.epoch + 1)
        .returning(sessions.c.epoch, sessions.c.last_seq, sessions.c.last_position)
    ).one()
    return TakenOver(
        found.turn_id, found.session_id, found.tenant_id, row.epoch, attempt, row.last_seq, row.last_position
    )


def _is(owner: str | None) -> ColumnElement[bool]:
    return sessions.c.owner.is_(None) if owner is None else sessions.c.owner == owner
