"""The transcript as rows. A turn appends; nothing here rewrites."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Connection, RowMapping, bindparam, func, insert, select, update

from amplifier_app_api.models.page import InvalidPage, Page, PageRequest, make_cursor
from amplifier_app_api.models.turn import Message
from amplifier_app_api.storage.tables import Json, messages

SEALED = "$sealed"
"""The one key of a kernel dict that holds a secret: its value is the whole dict, sealed for the session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMessage:
    """An entry on its way into the transcript; its position is taken when it is written.

    `kernel` is the kernel's message dict, whole: what a restored context gets back.
    """

    message_id: str
    turn_id: str
    role: str
    content: Any
    created_at: datetime
    kernel: dict[str, Any] | None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    context: dict[str, Any] | None = None
    interrupted: bool = False


_INSERT = insert(messages)
_HAS = select(messages.c.position).where(messages.c.message_id == bindparam("of_message"))
_BIND = (
    update(messages)
    .where(messages.c.message_id == bindparam("of_message"))
    .values(kernel=bindparam("dict", type_=Json))
)


def insert_messages(
    conn: Connection, entries: Sequence[NewMessage], *, session_id: str, first_position: int, within: str
) -> None:
    """Append entries from `first_position` on."""
    if not entries:
        return
    conn.execute(
        _INSERT,
        [
            {
                "message_id": entry.message_id,
                "tenant_id": within,
                "session_id": session_id,
                "turn_id": entry.turn_id,
                "position": first_position + index,
                "role": entry.role,
                "content": entry.content,
                "tool_calls": entry.tool_calls,
                "tool_call_id": entry.tool_call_id,
                "name": entry.name,
                "metadata": entry.metadata,
                "context": entry.context,
                "interrupted": int(entry.interrupted),
                "kernel": entry.kernel,
                "created_at": entry.created_at,
            }
            for index, entry in enumerate(entries)
        ],
    )


def bind_kernel_message(conn: Connection, message_id: str, kernel: dict[str, Any]) -> None:
    """Give the row of an accepted message the dict the loop added for it."""
    conn.execute(_BIND, {"of_message": message_id, "dict": kernel})


def list_messages(conn: Connection, session_id: str, page: PageRequest, *, within: str) -> Page[Message]:
    """One page, oldest first."""
    mine = (messages.c.tenant_id == within) & (messages.c.session_id == session_id)
    total = conn.execute(select(func.count()).select_from(messages).where(mine)).scalar_one()
    statement = select(messages).where(mine).order_by(messages.c.position).limit(page.limit + 1)
    after = page.after()
    if after is not None:
        if not after[0].isascii() or not after[0].isdigit() or len(after[0]) > 15:
            raise InvalidPage("cursor is not one that this list made")
        statement = statement.where(messages.c.position > int(after[0]))
    else:
        statement = statement.offset(page.offset)
    rows = conn.execute(statement).mappings().all()
    items = [message_from_row(row) for row in rows[: page.limit]]
    more = len(rows) > page.limit
    return Page(items, total, make_cursor(str(items[-1].position), session_id) if more else None)


def all_messages(conn: Connection, session_id: str, *, within: str) -> list[Message]:
    """The whole transcript, oldest first."""
    statement = (
        select(messages)
        .where(messages.c.tenant_id == within, messages.c.session_id == session_id)
        .order_by(messages.c.position)
    )
    return [message_from_row(row) for row in conn.execute(statement).mappings()]


def kernel_transcript(conn: Connection, session_id: str, *, within: str) -> tuple[int, list[dict[str, Any]]]:
    """Where the transcript ends, and the dicts a restored context gets, oldest first."""
    statement = (
        select(messages.c.position, messages.c.kernel)
        .where(messages.c.tenant_id == within, messages.c.session_id == session_id)
        .order_by(messages.c.position)
    )
    rows = conn.execute(statement).all()
    return (rows[-1].position if rows else 0), [row.kernel for row in rows if row.kernel is not None]


def last_message_of(conn: Connection, session_id: str) -> tuple[int, str]:
    """Position and id of a session's last message; `(0, "")` where there is none."""
    statement = (
        select(messages.c.position, messages.c.message_id)
        .where(messages.c.session_id == session_id)
        .order_by(messages.c.position.desc())
        .limit(1)
    )
    row = conn.execute(statement).first()
    return (row.position, row.message_id) if row is not None else (0, "")


def has_message(conn: Connection, message_id: str) -> bool:
    """Whether a message is a row."""
    return conn.execute(_HAS, {"of_message": message_id}).first() is not None


def open_tool_calls(conn: Connection, turn_id: str) -> list[tuple[str, str]]:
    """Calls of a turn that have no result yet: id and name of the tool, in order."""
    rows = conn.execute(
        select(messages.c.content, messages.c.tool_calls, messages.c.tool_call_id)
        .where(messages.c.turn_id == turn_id)
        .order_by(messages.c.position)
    ).all()
    calls: dict[str, str] = {}
    for row in rows:  # in order: a model may give a later call the id of one that was answered
        calls.pop(row.tool_call_id, None)
        for call in (*_calls_in(row.content), *(row.tool_calls or ())):
            calls.setdefault(str(call.get("id")), str(call.get("tool") or call.get("name") or "tool"))
    return list(calls.items())


def answered_calls(conn: Connection, turn_id: str) -> list[str]:
    """The ids of the calls that a turn has results of, in order; an id may be there more than once."""
    statement = (
        select(messages.c.tool_call_id)
        .where(messages.c.turn_id == turn_id, messages.c.tool_call_id.is_not(None))
        .order_by(messages.c.position)
    )
    return list(conn.execute(statement).scalars())


def _calls_in(content: Any) -> list[dict[str, Any]]:
    """The calls that a loop wrote as blocks of the content, as some do."""
    blocks = cast("list[Any]", content) if isinstance(content, list) else []
    return [block for block in blocks if isinstance(block, dict) and block.get("type") in ("tool_call", "tool_use")]  # pyright: ignore[reportUnknownMemberType]


def message_from_row(row: RowMapping) -> Message:
    """The message of a whole row of `messages`."""
    return Message.model_validate(
        {**{name: row[name] for name in Message.model_fields}, "interrupted": bool(row["interrupted"])}
    )
