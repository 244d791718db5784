"""The documents say what the code says."""

import re
from pathlib import Path

import pytest

from scripts import generate_tables

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_the_generated_tables_are_fresh() -> None:
    stale = [str(path) for path in generate_tables.stale_documents()]
    assert stale == [], "run: make tables"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_every_document_is_linked_from_another() -> None:
    linked = {
        (document.parent / target).resolve()
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
        if "://" not in target
    }
    assert {path for path in ROOT.glob("docs/**/*.md") if path.resolve() not in linked} == set()


def test_every_defect_of_the_original_has_a_test_of_its_number() -> None:
    document = ROOT / "docs/explanation/compared-with-the-original.md"
    told = re.findall(r"^\| (\d+) \|", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(number) for number in told] == list(range(1, 25))
    tests = "".join(
        path.read_text(encoding="utf-8") for path in ROOT.glob("tests/regressions/test_*.py")
    )
    tested = {int(number) for number in re.findall(r"def test_(\d\d)_", tests)}
    assert tested == set(range(1, 25))
