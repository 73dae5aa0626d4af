"""Options that several commands take. What is not given comes from the environment."""

from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from amplifier_app_api.settings import InvalidSettings, Settings, load_settings

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Folder of all that a server writes (AMPLIFIER_DATA_DIR)"),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option("--database-url", metavar="URL", help="sqlite:///path or postgresql://… (AMPLIFIER_DATABASE_URL)"),
]


def settings_from(**given: Any) -> Settings:
    """The settings of this process; options that were not given are left to the environment."""
    try:
        return load_settings(**{name: value for name, value in given.items() if value is not None})
    except InvalidSettings as problem:
        refuse(problem.detail)


def refuse(sentence: str) -> NoReturn:
    """Say in one sentence why this cannot be done, and end with 1."""
    typer.echo(f"amplifier-api: {sentence}", err=True)
    raise typer.Exit(1)
