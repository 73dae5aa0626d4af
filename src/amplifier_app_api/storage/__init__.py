"""SQL, on SQLite or PostgreSQL. Stores are plain functions over one connection, run by a `Database`."""

from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.engine import DatabaseUnavailable

__all__ = ["Database", "DatabaseUnavailable"]
