"""`amplifier-api plan FILE`: what a session of a bundle would run, without a server."""

from pathlib import Path
from typing import Annotated

import typer

File = Annotated[str, typer.Argument(metavar="FILE", help="A bundle: YAML, or markdown with front matter; - for stdin")]
Roots = Annotated[
    list[Path] | None,
    typer.Option("--root", metavar="DIR", help="A folder that sources may be read from; may be given several times"),
]
Variables = Annotated[
    list[str] | None,
    typer.Option("--var", metavar="NAME=VALUE", help="A variable as a session would be given it; several times"),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON as the HTTP API answers it")]


def plan(file: File, root: Roots = None, var: Variables = None, as_json: AsJson = False) -> None:
    """Show what a session of a bundle would run. Ends with 0 when it can run, 1 with problems, 2 without a bundle."""
    # Here, so that the other commands do not wait for the kernel.
    from amplifier_app_api.cli.documents import open_bundle
    from amplifier_app_api.cli.plan_pages import show_plan

    bundle = open_bundle(file, root or [], var or [])
    found = bundle.plan()
    if as_json:
        typer.echo(found.model_dump_json(by_alias=True, indent=2))
    else:
        show_plan(found, bundle.label)
    raise typer.Exit(0 if found.runnable else 1)
