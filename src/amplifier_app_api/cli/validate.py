"""`amplifier-api validate FILE`: what is wrong with a bundle, without a server."""

import typer

from amplifier_app_api.cli.plan import AsJson, File, Roots, Variables


def validate(file: File, root: Roots = None, var: Variables = None, as_json: AsJson = False) -> None:
    """Say what is wrong with a bundle. Ends with 0 when nothing is, 1 with problems, 2 without a bundle."""
    # Here, so that the other commands do not wait for the kernel.
    from amplifier_app_api.cli.documents import open_bundle
    from amplifier_app_api.cli.plan_pages import show_validation

    bundle = open_bundle(file, root or [], var or [])
    found = bundle.validate()
    if as_json:
        typer.echo(found.model_dump_json(by_alias=True, indent=2))
    else:
        show_validation(found, bundle.label)
    raise typer.Exit(1 if found.problems else 0)
