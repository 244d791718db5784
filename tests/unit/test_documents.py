"""The documents say what the code says."""

import re
from pathlib import Path

import pytest

from node_timeout.urls.parameters import PARAMETERS
from scripts import generate_tables

ROOT = Path(__file__).parents[2]
CHINESE = sorted([ROOT / "README.zh-CN.md", *ROOT.glob("docs/zh-CN/**/*.md")])
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_the_generated_tables_are_fresh() -> None:
    stale = [str(path) for path in generate_tables.stale_documents()]
    assert stale == [], "run: make tables"


def english_of(chinese: Path) -> Path:
    """The document that a Chinese one translates."""
    elsewhere = {"README.zh-CN.md": "README.md", "docs/zh-CN/security.md": "SECURITY.md"}
    name = str(chinese.relative_to(ROOT))
    return ROOT / elsewhere.get(name, name.replace("docs/zh-CN/", "docs/"))


def test_every_parameter_of_a_url_is_documented() -> None:
    document = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    for family, parameters in PARAMETERS.items():
        assert [name for name in parameters if f"`{name}`" not in document] == [], family


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("chinese", CHINESE, ids=lambda path: path.name)
def test_a_translation_has_every_heading_table_row_and_example(chinese: Path) -> None:
    def parts(document: Path) -> list[int]:
        text = document.read_text(encoding="utf-8")
        return [len(re.findall(mark, text, re.MULTILINE)) for mark in (r"^#+ ", r"^\|", r"^ *```")]

    assert parts(chinese) == parts(english_of(chinese))


@pytest.mark.parametrize("chinese", CHINESE, ids=lambda path: path.name)
def test_translations_have_one_word_for_one_thing(chinese: Path) -> None:
    text = chinese.read_text(encoding="utf-8")
    assert re.findall("扫描器|工作进程|接手|(?<!节点)(?<!` )池[中里]", text) == []


def test_every_document_and_picture_is_linked_from_another() -> None:
    linked = {
        (document.parent / target).resolve()
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
        if "://" not in target
    }
    there = {*ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/**/*.png")}
    assert {path for path in there if path.resolve() not in linked} == set()


def test_every_defect_of_the_original_has_a_test_of_its_number() -> None:
    document = ROOT / "docs/explanation/compared-with-the-original.md"
    told = re.findall(r"^\| (\d+) \|", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(number) for number in told] == list(range(1, 25))
    tests = "".join(
        path.read_text(encoding="utf-8") for path in ROOT.glob("tests/regressions/test_*.py")
    )
    tested = {int(number) for number in re.findall(r"def test_(\d\d)_", tests)}
    assert tested == set(range(1, 25))


def test_the_picture_of_the_house_names_what_is_there() -> None:
    """Files, folders, and names inside files: ``Name` in `file.py``."""
    document = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
    source = ROOT / "src/node_timeout"
    named = re.findall(r"`([a-z_/]+(?:\.py|\.lua|/))`", document)
    drawn = re.findall(r"^ ((?:[a-z_]+(?:/|\.py) +)+)", document, re.MULTILINE)
    files = {*named, *(word for line in drawn for word in line.split())} - {"migrations/"}
    assert len(files) > 30
    assert sorted(name for name in files if not (source / name).exists()) == []
    inside = re.findall(r"`(\w+)` in `([a-z_/]+\.py)`", document)
    assert len(inside) > 8
    lacking = [
        (name, file)
        for name, file in inside
        if not re.search(rf"\b(class|def) {name}\b", (source / file).read_text(encoding="utf-8"))
    ]
    assert lacking == []
    folders = {path.name for path in source.iterdir() if (path / "__init__.py").exists()}
    assert sorted(name for name in folders if f" {name}/" not in document) == []
