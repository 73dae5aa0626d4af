"""What happened in a session: kept, numbered, followed.

Durable events are rows (`storage/events.py`), numbered per session without a gap, and reach followers after
their commit. Deltas are pieces of an answer that is being made: they have a place instead of a number and
live only in memory. `EventHub` carries both to whoever follows in this process; a follower that joins late
reads the rows first and then goes on live, without a gap or a repeat.
"""
