"""Data of the predecessor, carried over: its SQLite file read, its rows converted, what could not be carried told.

`LegacyDatabase` reads, `migrate` carries one row after the other into a `Target`, and a `Report` says what became of
each. A row is carried whole, in part, or not at all; each of the last two has its reasons.
"""

from amplifier_app_api.core.legacy.migration import migrate
from amplifier_app_api.core.legacy.report import Entry, Report, Verdict
from amplifier_app_api.core.legacy.source import LegacyDatabase, NotLegacy
from amplifier_app_api.core.legacy.target import Target

__all__ = ["Entry", "LegacyDatabase", "NotLegacy", "Report", "Target", "Verdict", "migrate"]
