"""Microsoft Amplifier agents behind an HTTP API."""

from importlib.metadata import version

__version__ = version("amplifier-app-api")
