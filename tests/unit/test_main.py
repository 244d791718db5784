"""How the command line ends when something is raised: a line for what is known, all for a bug."""

import logging
from collections.abc import Callable, Iterator

import click
import pytest

from node_timeout.cli import main as cli
from node_timeout.domain.errors import (
    InvalidInputError,
    LedgerUnavailableError,
    QueueMismatchError,
    SettingsError,
)

End = Callable[[Exception], int]


@pytest.fixture
def end(monkeypatch: pytest.MonkeyPatch) -> End:
    """Let a command raise, and return the exit code."""

    def end(error: Exception) -> int:
        def command(**_options: object) -> None:
            raise error

        monkeypatch.setattr(cli.cli, "main", command)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code

    return end


def broken(text: str) -> Exception:
    """A bug, with the traceback of this line."""
    try:
        raise KeyError(text)  # noqa: TRY301
    except KeyError as error:
        return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError("a is odd"), 2),
        (QueueMismatchError("a is odd"), 1),
        (ExceptionGroup("g", [InvalidInputError("a is odd")]), 2),
        (ExceptionGroup("g", [ExceptionGroup("h", [QueueMismatchError("a is\nodd")])]), 1),
        (ExceptionGroup("g", [QueueMismatchError("a is odd")] * 3), 1),
        (ExceptionGroup("g", [SettingsError("a is odd"), QueueMismatchError("a is odd")]), 1),
    ],
)
def test_what_is_known_is_one_line(
    end: End,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    code: int,
) -> None:
    assert end(error) == code
    assert capsys.readouterr().err == "node-timeout: a is odd\n"
    assert caplog.records == []


@pytest.mark.parametrize(
    "error",
    [
        broken("nothing there"),
        ExceptionGroup("g", [broken("nothing there")]),
        ExceptionGroup("g", [SettingsError("a"), ExceptionGroup("h", [broken("nothing there")])]),
        ExceptionGroup("g", [LedgerUnavailableError("a"), broken("x"), broken("nothing there")]),
    ],
)
def test_a_bug_shows_its_traceback(
    end: End,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    with caplog.at_level(logging.CRITICAL):
        assert end(error) == 1
    assert "in broken" in caplog.text
    assert "KeyError: 'nothing there'" in caplog.text
    assert "SettingsError" not in caplog.text
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("node-timeout: ")] == (
        ["node-timeout: a"] if len(getattr(error, "exceptions", ())) > 1 else []
    )


def commands_of(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from commands_of(command)
        else:
            yield command


def test_choices_are_written_as_the_values_that_the_documents_name() -> None:
    """Of an enum itself, click 8.2 and later would take the names."""
    choices = [
        (command.name, list(option.type.choices))
        for command in commands_of(cli.cli)
        for option in command.params
        if isinstance(option.type, click.Choice)
    ]
    assert ("create", ["read", "events", "operate", "admin"]) in choices
    assert [each for each in choices if any(type(text) is not str for text in each[1])] == []
