"""Letting go of a finished session.

On 2.0.2 a session that was cleaned up stays in memory: its objects hold each other through references inside the
engine, which Python's collector cannot see. Cutting them brings what a session leaves behind to nothing.
"""

from typing import Any

_SINGLE_MOUNTS = ("orchestrator", "context", "module-source-resolver")


def dispose(session: Any) -> None:
    """Cut what holds a session together. The session cannot be used afterwards."""
    coordinator = session.coordinator
    coordinator._set_session(None)
    coordinator.loader = None
    coordinator.approval_system = None
    coordinator.display_system = None
    mounts: dict[str, Any] = coordinator.mount_points
    for point in ("tools", "providers"):
        mounts.get(point, {}).clear()
    for point in _SINGLE_MOUNTS:
        mounts[point] = None
    coordinator._cleanup_fns.clear()
    coordinator.channels.clear()
    coordinator.session_state.clear()
    for names in coordinator.hooks.list_handlers().values():
        for name in names:
            coordinator.hooks.unregister(name)
