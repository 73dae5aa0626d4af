"""Sources of other people: what may be fetched, fetching it, and keeping it.

text of a source --SourcePolicy--> Remote --resolve, download, unpack--> cache entry --> Fetched
"""

from .fetcher import SourceFetcher
from .holds import Hold
from .limits import FetchLimits
from .policy import AllowPattern, SourcePolicy

__all__ = ["AllowPattern", "FetchLimits", "Hold", "SourceFetcher", "SourcePolicy"]
