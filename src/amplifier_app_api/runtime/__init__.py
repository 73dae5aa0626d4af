"""How a turn runs.

`SessionRuntime` (`pool.py`) opens sessions, gives them messages and stops them. Those in memory are entries of
`live_sessions.py`: opened once, shared by everyone who asks, closed when idle; `restoring.py` fills an entry, from
nothing or from rows. Opening prepares the bundle (`prepared_cache.py`), expands its variables and mounts it on the
kernel (`kernel/`). A message is accepted in one transaction: turn, message and first events (`accept.py`).
From then on the turn belongs to the process: `turn.py` runs the kernel in a task of its own, `recorder.py`
writes what happens as rows and events, in order, and `relay.py` turns the stream events of modules into deltas.
A turn ends in exactly one transaction, whoever ends it first: the loop, a cancel, a time limit, the shutdown.

Rows are the truth, the kernel's memory is a copy: a session whose turn did not end in its own way is closed and
opened again from its rows.
"""
