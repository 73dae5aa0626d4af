"""What a tenant has used."""

import copy
from datetime import date, timedelta
from typing import Self

from amplifier_app_api.core.fields import InvalidFields
from amplifier_app_api.models.principal import LOCAL, Principal
from amplifier_app_api.models.usage import DayOfUsage
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.usage import usage_of_days

DEFAULT_DAYS = 30
MAX_DAYS = 366


class UsageReports:
    """Reports within one tenant."""

    def __init__(self, db: Database, *, principal: Principal = LOCAL) -> None:
        self._db = db
        self._principal = principal

    def scoped(self, principal: Principal) -> Self:
        """The same, acting for somebody."""
        scoped = copy.copy(self)
        scoped._principal = principal
        return scoped

    async def days(self, first: date | None = None, last: date | None = None) -> list[DayOfUsage]:
        """The days on which a turn ended, in UTC, oldest first; without a span the last 30 until today."""
        last = last or utc_now().date()
        if first is None:
            first = last - min(timedelta(days=DEFAULT_DAYS - 1), last - date.min)
        if first > last:
            raise InvalidFields.of("from", "must not be after to")
        if (last - first).days >= MAX_DAYS:
            raise InvalidFields.of("from", f"must be less than {MAX_DAYS} days before to")
        return await self._db.read(usage_of_days, first, last, within=self._principal.tenant_id)
