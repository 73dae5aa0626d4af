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


class TurnNotFound(NotFound):
    """The session has no such turn."""

    code = "turn_not_found"
    title = "Turn not found"

    def __init__(self, turn_id: str) -> None:
        super().__init__(f"The session has no turn {turn_id[:200]!r}")


class TooManyTurns(TooMany):
    """This server runs as many turns as it may, holds as many sessions, or has as many that wait."""

    code = "too_many_turns"
    title = "Too many turns"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": "1"})


class ShuttingDown(Unavailable):
    """The server is about to stop."""

    code = "shutting_down"
    title = "Shutting down"
