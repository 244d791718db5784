"""Commands on stored data: migrate, apply, import-bamboo, forget.

Each imports its dependencies when it is called, so that ``--help`` is fast.
"""

import asyncio
import sys
from pathlib import Path

import click

from node_timeout.cli.running import FAILURE, settings_of, with_library
from node_timeout.domain.errors import InvalidInputError


@click.command()
@click.option(
    "--revision",
    default="head",
    help="Revision to migrate to, or base for no tables.  [default: head]",
)
def migrate(revision: str) -> None:
    """Migrate the database tables to the schema of this version."""
    from node_timeout.stores.sql.schema import Schema  # noqa: PLC0415
    from node_timeout.stores.tls import Tls  # noqa: PLC0415

    settings = settings_of({})
    schema = Schema(settings.database_url.get_secret_value(), tls=Tls.of(settings))

    async def go() -> str | None:
        try:
            return await schema.migrate(revision)
        finally:
            await schema.close()

    click.echo(f"the database is at revision {asyncio.run(go()) or 'none'}")


@click.command()
@click.argument("tree", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("configs", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--create", is_flag=True, help="Also store the configs; needs --root.")
@click.option("--root", help="Root pipeline id for --create.")
def apply(tree: Path, configs: Path, create: bool, root: str | None) -> None:
    """Print TREE with CONFIGS added to its nodes.

    TREE is a JSON file with a pipeline tree. CONFIGS is a JSON file that maps node ids to timeout
    configs. One of them may be -, which means standard input.
    """
    from node_timeout.app import apply_node_timeout_configs  # noqa: PLC0415
    from node_timeout.cli.reading import STANDARD_INPUT, read_json  # noqa: PLC0415
    from node_timeout.operations.forms import json_text  # noqa: PLC0415

    if create != (root is not None):
        raise click.UsageError("--create and --root go together")
    if tree == configs == STANDARD_INPUT:
        raise click.UsageError("only one of TREE and CONFIGS can be - (standard input)")
    new_tree = apply_node_timeout_configs(read_json(tree), read_json(configs))
    if create:
        result = with_library(lambda app: app.batch_create_node_timeout_config(root, new_tree))
        if not result["result"]:
            raise InvalidInputError(result["message"])
        click.echo(f"{len(result['data'])} timeout configs stored", err=True)
    click.echo(json_text(new_tree, readable=True))


@click.command("import-bamboo")
@click.option(
    "--from",
    "source",
    envvar="BAMBOO_DATABASE_URL",
    help="URL of the database that has bamboo's table.  [variable: BAMBOO_DATABASE_URL; "
    "default: the database of node-timeout]",
)
@click.option(
    "--table",
    default="node_timeout_timeoutnodeconfig",
    show_default=True,
    help="Table to read: for bk-sops taskflow3_timeoutnodeconfig, for BKFlow "
    "task_timeoutnodeconfig.",
)
def import_bamboo(source: str | None, table: str) -> int:
    """Copy the configs of bamboo's own app, bk-sops or BKFlow.

    Configs that are already stored are not changed, so the command may be repeated. The actions
    that the rows name must be installed here. Exit code 1 if a row is refused; the command prints
    each refused row.
    """
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    source = source or settings_of({}).database_url.get_secret_value()
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("timeout configs", total=None)
        report = with_library(
            lambda app: app.import_bamboo_configs(
                source,
                lambda done, total: bar.update(task, completed=done, total=total),
                table=table,
            )
        )
    for problem in report.refused:
        click.echo(f"refused: {problem}", err=True)
    there = report.read - report.imported - len(report.refused)
    click.echo(
        f"{report.read} rows read: {report.imported} imported, {there} here already, "
        f"{len(report.refused)} refused"
    )
    return FAILURE if report.refused else 0


@click.command()
@click.argument("root_pipeline_id")
@click.argument("node_ids", metavar="[NODE_ID]…", nargs=-1)
def forget(root_pipeline_id: str, node_ids: tuple[str, ...]) -> int:
    """Delete the timeout configs of the root pipeline ROOT_PIPELINE_ID, or of some of its nodes.

    Open runs are not affected. Exit code 1 if there was no config.
    """
    forgotten = with_library(lambda app: app.forget(root_pipeline_id, node_ids or None))
    click.echo(f"{forgotten} timeout configs deleted")
    return 0 if forgotten else FAILURE
