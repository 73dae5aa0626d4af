"""How the host ends a loop from the inside."""

import asyncio


class StopLoop(asyncio.CancelledError):
    """Raised in a loop that may not go on: it unwinds as if its task were cancelled."""
