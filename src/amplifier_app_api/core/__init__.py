"""The use cases: what people do with Configs and Sessions."""

from amplifier_app_api.core.config_manager import ConfigManager
from amplifier_app_api.core.session_manager import SessionManager

__all__ = ["ConfigManager", "SessionManager"]
