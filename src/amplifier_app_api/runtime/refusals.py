"""Why a session takes no message now."""

from amplifier_app_api.errors import Conflict, NotFound, TooMany, Unavailable


class SessionNotFound(NotFound):
    """The tenant has no such session."""

    code = "session_not_found"
    title = "Session not found"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"Session not found: {session_id}")


class SessionClosed(Conflict):
    """The session takes no messages until it is resumed."""

    code = "session_closed"
    title = "The session is closed"


class TooManyTurns(TooMany):
    """This server runs as many turns, or holds as many sessions, as it may."""

    code = "too_many_turns"
    title = "Too many turns"


class ShuttingDown(Unavailable):
    """The server is about to stop."""

    code = "shutting_down"
    title = "Shutting down"
