"""The command `amplifier-api`."""

import typer

from amplifier_app_api.cli.doctor import doctor
from amplifier_app_api.cli.migrate_legacy import migrate_legacy
from amplifier_app_api.cli.plan import plan
from amplifier_app_api.cli.serve import serve
from amplifier_app_api.cli.validate import validate
from amplifier_app_api.cli.version import version

__all__ = ["main"]

# Pretty tracebacks show local variables, and those hold keys.
app = typer.Typer(
    name="amplifier-api",
    help="Amplifier agents behind an HTTP API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(serve)
app.command()(version)
app.command()(doctor)
app.command()(migrate_legacy)
app.command()(plan)
app.command()(validate)


def main() -> None:
    """Run the command."""
    app()
