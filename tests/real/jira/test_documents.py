"""Texts of tickets against Atlassian's own schema of documents, by which Jira Cloud refuses what it does not know."""

import json
from pathlib import Path

import hypothesis
import jsonschema_rs
import pytest
from hypothesis import strategies as st

from integrations.jira.markup import to_document
from integrations.ticket_ports import Bullets, Paragraph, Preformatted, TicketText

pytestmark = pytest.mark.real("node")
SCHEMA = Path(__file__).parent / "node_modules/@atlaskit/adf-schema/dist/json-schema/v1/full.json"
WORDS = st.text(max_size=20)
BLOCKS = st.one_of(
    st.builds(Paragraph, WORDS, st.sampled_from(["", "https://ci.acme.com/builds/7"])),
    st.builds(Bullets, st.lists(WORDS, min_size=1, max_size=4)),
    st.builds(Preformatted, WORDS),
)


@pytest.fixture(name="schema", scope="module")
def _schema() -> jsonschema_rs.Draft4Validator:
    return jsonschema_rs.Draft4Validator(json.loads(SCHEMA.read_text()))


@hypothesis.given(text=st.lists(BLOCKS, min_size=1, max_size=5))
def test_every_text_is_a_document(schema: jsonschema_rs.Draft4Validator, text: TicketText) -> None:
    schema.validate(to_document(text))


def test_the_schema_refuses_an_unknown_block(schema: jsonschema_rs.Draft4Validator) -> None:
    document = to_document([Paragraph("a")])
    assert not schema.is_valid(document | {"content": [{"type": "para", "content": []}]})
