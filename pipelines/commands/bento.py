"""bento: one version of the model, with all that it serves with, for another machine."""

from __future__ import annotations

import click

from pipelines.commands.options import example, task_argument


@click.command(epilog=example("perennial bento flights"))
@task_argument
@click.option("--version", help="Of the registered model; else the champion's.")
@click.option("--tag", help="The bento's version; else one that says what is in it.")
def bento(task: str, version: str | None, tag: str | None) -> None:
    """Build a bento: one model version that serves with no registry in reach."""
    from pipelines import provenance
    from pipelines.adapters.registry import CHAMPION, Registry
    from pipelines.errors import RegistryError
    from pipelines.project import open_project
    from pipelines.service.delivery import stage as delivery
    from pipelines.service.verify import verified

    p = open_project(task)
    registry = Registry(p.at)
    version = version or registry.alias(CHAMPION)
    if version is None:
        raise RegistryError(
            f"{p.at.registered_name} has no champion yet. Make one with: perennial tick {task}, "
            "or name a version with: --version"
        )
    folder = registry.fetch(version)
    made = verified(folder, registry.tags(version).get("artifact", ""), p.contract)
    by = provenance.here(delivery.CODE.parent)
    staged = delivery.stage(p, version, made, by)
    if by.git_dirty or not by.git_commit:
        click.echo("warning: the code is not all in a commit; label git_dirty says so", err=True)
    made_it = delivery.build(staged, tag)
    name = made_it.name
    click.echo(
        f"{name}: model version {version}, {'built before' if made_it.before else 'built'}\n"
        f"  serve it:   bentoml serve {name}\n"
        f"  its log:    in $PERENNIAL_STATE, else in {{BENTOML_HOME, ~/bentoml}}/perennial/{task}\n"
        f"  take it:    bentoml export {name} .\n"
        f"  an image:   docker build -t {name} -f {made_it.path}/env/docker/Dockerfile {made_it.path}\n"
        f"  by hand:    cd {staged.folder} && bentoml build"
    )
