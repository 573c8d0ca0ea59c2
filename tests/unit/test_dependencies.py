"""docs/dependencies.md has a paragraph for every dependency, with the version that pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNTIME = [
    *PROJECT["dependencies"],
    *PROJECT["optional-dependencies"]["postgresql"],
]
PARAGRAPHS = (ROOT / "docs/dependencies.md").read_text().split("\n\n")


@pytest.mark.parametrize("requirement", RUNTIME)
def test_each_dependency_is_explained(requirement: str) -> None:
    name, _, version = requirement.partition(">=")
    (paragraph,) = [text for text in PARAGRAPHS if text.startswith(f"**{name}** (≥ {version},")]
    assert re.search(r"MIT|BSD|ISC|Apache|LGPL|GPL", paragraph), "its licence"
    assert "`python3-" in paragraph, "Debian's package"


@pytest.mark.parametrize("extra", ["dev", "fuzz"])
def test_each_tool_is_named(extra: str) -> None:
    text = (ROOT / "docs/dependencies.md").read_text()
    tools = [re.split(r">=|;", requirement)[0] for requirement in PROJECT["optional-dependencies"][extra]]
    assert [tool for tool in tools if not tool.startswith("types-") and f"**{tool}**" not in text] == []


def test_nothing_is_explained_that_is_not_used() -> None:
    explained = {name for text in PARAGRAPHS for name in re.findall(r"^\*\*([\w-]+)\*\* \(≥", text)}
    assert explained == {requirement.partition(">=")[0] for requirement in RUNTIME}
