"""Which runs a person means, and how many that are."""

from dataclasses import dataclass

from node_timeout.domain.errors import InvalidInputError
from node_timeout.domain.run import MAX_VERSION_LENGTH, RunState, id_problem
from node_timeout.operations.pages import pages
from node_timeout.ports.directory import Directory, RunFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Runs of a node, of exactly one version of it, of a root pipeline, or all.

    Raises `InvalidInputError` if it chooses nothing, or means nothing.
    """

    node_id: str | None = None
    version: str | None = None
    root_pipeline_id: str | None = None
    everything: bool = False

    def __post_init__(self) -> None:
        is_named = self.node_id is not None or self.root_pipeline_id is not None
        if self.everything and is_named:
            raise InvalidInputError("everything leaves nothing to be chosen beside it")
        if not self.everything and not is_named:
            raise InvalidInputError("choose a node, a root pipeline or both")
        require_node_of(self.version, self.node_id)
        ids = {"node id": self.node_id, "root pipeline id": self.root_pipeline_id}
        problems = [id_problem(what, value) for what, value in ids.items() if value is not None]
        if self.version is not None:
            problems.append(id_problem("version", self.version, MAX_VERSION_LENGTH))
        if any(problems):
            raise InvalidInputError(*filter(None, problems))

    def of(self, state: RunState) -> RunFilter:
        """The chosen runs of this state."""
        return RunFilter(
            state=state,
            root_pipeline_id=self.root_pipeline_id,
            node_id=self.node_id,
            version=self.version,
        )


def require_node_of(version: str | None, node_id: str | None) -> None:
    """Raises `InvalidInputError`."""
    if version is not None and node_id is None:
        raise InvalidInputError("a version is one of a node: name the node as well")


async def count(directory: Directory, wanted: RunFilter) -> int:
    """How many these are now: what a dry run tells. Costs what it counts."""
    return sum([len(rows) async for rows in pages(directory, wanted)])
