"""The command check-engine, which tests an engine. It imports its dependencies when called."""

import asyncio

import click

from node_timeout.cli.running import FAILURE, settings_of
from node_timeout.urls.redaction import redact


@click.command("check-engine")
@click.argument("url", required=False)
@click.option("--node", "node_id", help="Id of a running node that may be failed or skipped.")
@click.option("--version", "version", help="Version of that node.")
@click.option("--root", "root_pipeline_id", help="Root pipeline id of that node.")
@click.option(
    "--operation",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    help="Operation applied to the node at the end.  [default: fail]",
)
def check_engine(
    url: str | None,
    node_id: str | None,
    version: str | None,
    root_pipeline_id: str | None,
    operation: str,
) -> int:
    """Test whether the engine at URL follows the HTTP contract.

    Token and signing key come from the settings; so does URL if it is not given. Without --node,
    the test affects no existing node. Exit code 1 if the engine breaks a rule.
    """
    from node_timeout.domain.ids import check_ids  # noqa: PLC0415
    from node_timeout.testing import conformance  # noqa: PLC0415
    from node_timeout.testing.http_conformance import check_http_engine  # noqa: PLC0415
    from node_timeout.testing.words import timed_out  # noqa: PLC0415

    named = [each is not None for each in (node_id, version, root_pipeline_id)]
    if any(named) and not all(named):
        raise click.UsageError("--node, --version and --root go together")
    node = None
    if node_id is not None and version is not None and root_pipeline_id is not None:
        check_ids(node_id, version, root_pipeline_id)
        node = timed_out(node_id, version, root_pipeline_id)
    act = conformance.skip if operation == "skip" else conformance.fail
    settings = settings_of({"engine_url": url})
    findings = asyncio.run(check_http_engine(settings, node, act))
    for each in findings:
        text = f": {redact(each.text)}" if each.text else ""
        click.echo(f"{'ok  ' if each.passed else 'FAIL'}  {each.rule}{text}")
    if node is None:
        click.echo("not tried: what needs a node that runs (--node, --version, --root)")
    return 0 if all(each.passed for each in findings) else FAILURE
