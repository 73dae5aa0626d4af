"""Who is calling."""

from dataclasses import dataclass

DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller: the tenant whose rows it may see, and the name it acts under."""

    tenant_id: str = DEFAULT_TENANT
    subject: str = "anonymous"


LOCAL = Principal()
"""Who a manager made without a principal acts for."""
