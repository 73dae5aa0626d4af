"""The only door to `amplifier_core`, and where its quirks live. Everything here is about version 2.0.2.

- `AmplifierSession` ignores its `loader=` argument: the loader is set on the coordinator (`session.py`).
- A provider, tool or hook that fails to load is only a warning of the kernel: the loader notes every failure
  itself (`loader.py`), and the opening is refused.
- The kernel keeps the mapping it is given: every session gets its own deep copy of the plan (`session.py`).
- Every exception of a turn comes out as `RuntimeError("Execution failed: …")`: what a provider really raised is
  seen by the proxy that its `complete` goes through (`proxies.py`).
- Cancelling the task that awaits `execute()` does not stop the loop: the task that runs the loop is noted by the
  orchestrator's proxy and cancelled itself (`proxies.py`, `session.py`).
- The cancellation token stays set after a turn: it is reset before each one (`session.py`).
- A finished session is not collectable until its references through the engine are cut (`dispose.py`).
- The engine refuses a text with half a surrogate pair, and the turn with it: the loop's answer is made whole
  (`proxies.py`).
- Validating a module reads its type marker only where Python finds the package by name, which it does not for a
  folder that is the package itself: the package is imported first (`loader.py`).
- `hooks.emit` costs hundreds of microseconds: stream events that nobody but the host listens to do not go
  through it (`proxies.py`).
"""
