"""What a service provider must refuse. Each bad response differs from a good one in one point."""

import base64
import copy
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from lxml import etree

from domain.core.errors import Unavailable
from integrations import saml
from integrations.ports import Assertion, AssertionRefused, MetadataRefused, TrustedProvider
from integrations.saml import SamlService
from tests.support.saml_idp import (
    DS,
    ENTITY_ID,
    SAML,
    SSO_URL,
    Response,
    encode,
    find,
    sign,
    signed,
    signing_key,
    xmlsec,
)

SERVICE = SamlService("https://ci.example.com")
GOOD = Response(SERVICE.acs_url, SERVICE.entity_id, destination=SERVICE.acs_url, in_response_to="_q1")
URLS = (SERVICE.acs_url, "https://ci.example.com/api/v3/sso")


@cache
def provider() -> TrustedProvider:
    certificates = [SERVICE.read_certificate(signing_key(name).certificate.decode()) for name in ("older", "idp")]
    return TrustedProvider(4, ENTITY_ID, SSO_URL, certificates)


async def verify(response: str, recipients: tuple[str, ...] = URLS) -> Assertion:
    return await SERVICE.verify(response, [provider()], recipients, datetime.now(UTC))


async def test_a_good_response() -> None:
    response = replace(GOOD, attributes={"mail": ["a@example.com"], "groups": ["dev", "ops"]})
    found = await verify(signed(response))
    attributes = {"mail": ["a@example.com"], "groups": ["dev", "ops"]}
    assert found == Assertion(4, response.assertion_id, "u-1", "_q1", attributes)
    assert (await verify(signed(response, key=signing_key("older")))).name_id == "u-1"
    assert (await verify(signed(response), (SERVICE.acs_url,))).request_id == "_q1"
    unasked = replace(GOOD, in_response_to=None, destination=None, recipient=URLS[1])
    assert (await verify(signed(unasked))).request_id is None
    with pytest.raises(AssertionRefused, match="SubjectConfirmation"):
        await verify(signed(unasked), (SERVICE.acs_url,))


BAD: dict[str, tuple[Response, str]] = {
    "expired": (replace(GOOD, age=timedelta(minutes=4), valid=timedelta(minutes=1)), "SubjectConfirmation"),
    "old, and still valid": (replace(GOOD, age=timedelta(minutes=6), valid=timedelta(hours=1)), "younger"),
    "from the future": (replace(GOOD, age=timedelta(minutes=-2)), "younger"),
    "without an end": (replace(GOOD, valid=None), "not any more"),
    "another audience": (replace(GOOD, audience="https://other.example.com"), "audience"),
    "no audience": (replace(GOOD, audience=None), "audience"),
    "another recipient": (replace(GOOD, recipient="https://other.example.com/acs"), "SubjectConfirmation"),
    "a longer recipient": (replace(GOOD, recipient=f"{SERVICE.acs_url}.evil"), "not meant"),
    "a recipient that contains ours": (replace(GOOD, recipient=f"https://x.example.com/?{URLS[0]}"), "not meant"),
    "no recipient": (replace(GOOD, recipient=None), "not meant"),
    "another destination": (replace(GOOD, destination="https://other.example.com/acs"), "received at"),
    "a longer destination": (replace(GOOD, destination=f"{SERVICE.acs_url}.evil"), "Destination"),
    "another issuer": (replace(GOOD, issuer="https://evil.example.com"), "no active identity provider"),
    "another request in the signed part": (replace(GOOD, confirmed_request="_q2"), "SubjectConfirmation"),
    "no request in the signed part": (replace(GOOD, confirmed_request=""), "another request"),
    "a failure": (replace(GOOD, status="urn:oasis:names:tc:SAML:2.0:status:Responder"), "Responder"),
    "a name for one session": (replace(GOOD, name_id_format=saml.TRANSIENT), "transient"),
    "no name": (replace(GOOD, name_id=""), "NameID"),
}


@pytest.mark.parametrize("name", BAD)
async def test_wrong_contents(name: str) -> None:
    response, why = BAD[name]
    with pytest.raises(AssertionRefused, match=why):
        await verify(signed(response))


def _text(path: str, text: str) -> Callable[[etree._Element], None]:
    def change(document: etree._Element) -> None:
        find(document, path).text = text

    return change


def _set(path: str, **attributes: str) -> Callable[[etree._Element], None]:
    def change(document: etree._Element) -> None:
        for name, value in attributes.items():
            find(document, path).set(name, value)

    return change


def _remove_signature(document: etree._Element) -> None:
    signature = find(document, "//ds:Signature")
    parent = signature.getparent()
    assert parent is not None
    parent.remove(signature)


def _repeat_id(document: etree._Element) -> None:
    document.set("ID", str(find(document, "saml:Assertion").get("ID")))


def _another_provider_around(document: etree._Element) -> None:
    find(document, "saml:Issuer").text = "https://evil.example.com"


CHANGES: dict[str, Callable[[etree._Element], None]] = {
    "another name": _text("//saml:NameID", "u-2"),
    "another audience": _text("//saml:Audience", "https://other.example.com"),
    "another digest": _text("//ds:DigestValue", "AAAA"),
    "another signature": _text("//ds:SignatureValue", "AAAA"),
    "no signature": _remove_signature,
    "another end": _set("//saml:SubjectConfirmationData", NotOnOrAfter="2999-01-01T00:00:00Z"),
    "another request": _set("//saml:SubjectConfirmationData", InResponseTo="_q9"),
    "another request around": _set("/samlp:Response", InResponseTo="_q9"),
    "a reference to all": _set("//ds:Reference", URI=""),
    "a reference to a file": _set("//ds:Reference", URI="file:///etc/passwd"),
    "an id twice": _repeat_id,
    "another issuer around": _another_provider_around,
    "another version": _set("/samlp:Response", Version="1.1"),
    "a transform that is a program": _set("//ds:Transform", Algorithm="http://www.w3.org/TR/1999/REC-xslt-19991116"),
    "a transform that selects": _set("//ds:Transform", Algorithm="http://www.w3.org/TR/1999/REC-xpath-19991116"),
    "a signature by a shared secret": _set(
        "//ds:SignatureMethod", Algorithm="http://www.w3.org/2001/04/xmldsig-more#hmac-sha256"
    ),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_document_that_was_changed(name: str) -> None:
    with pytest.raises(AssertionRefused):
        await verify(signed(GOOD, CHANGES[name]))


async def test_other_keys_and_algorithms() -> None:
    cases: tuple[dict[str, Any], ...] = (
        {"key": signing_key("stranger")},
        {"method": xmlsec.Transform.RSA_SHA1},
        {"digest": xmlsec.Transform.SHA1},
        {"transforms": (xmlsec.Transform.ENVELOPED, xmlsec.Transform.C14N)},
    )
    for how in cases:
        with pytest.raises(AssertionRefused):
            await verify(signed(GOOD, **how))


async def test_only_the_response_is_signed() -> None:
    document = GOOD.unsigned()
    sign(document)
    with pytest.raises(AssertionRefused, match="the assertion is not signed"):
        await verify(encode(document))


def evil(assertion: etree._Element, *, signature: bool) -> etree._Element:
    """A copy of an assertion about somebody else, under another id."""
    forged = copy.deepcopy(assertion)
    forged.set("ID", "_evil")
    find(forged, ".//saml:NameID").text = "admin"
    for element in [] if signature else forged.findall(f"{{{DS}}}Signature"):
        forged.remove(element)
    return forged


def wrap(number: int, document: etree._Element) -> etree._Element:
    """Signature wrapping, in the nine forms of the literature: the signed part is moved, the forged one is where it was
    (Somorovsky et al., "On Breaking SAML", and the later form inside of Extensions).
    """
    original = find(document, "saml:Assertion")
    signature = find(document, "//ds:Signature")
    if number in (1, 2):  # of a signed response
        whole = copy.deepcopy(document)
        forged = evil(original, signature=False)
        document.replace(original, forged)
        document.set("ID", "_evil_response")
        mine = find(document, "ds:Signature")
        if number == 1:
            mine.append(whole)
        else:
            document.remove(mine)
            document.append(whole)
            document.append(mine)
        return document
    if number == 3:
        original.addprevious(evil(original, signature=False))
    elif number == 4:
        forged = evil(original, signature=False)
        document.replace(original, forged)
        forged.append(original)
    elif number in (5, 6):
        forged = evil(original, signature=True)
        document.replace(original, forged)
        bare = copy.deepcopy(original)
        bare.remove(find(bare, "ds:Signature"))
        if number == 5:
            document.append(bare)
        else:
            find(forged, "ds:Signature").append(bare)
    elif number in (7, 9):
        name = "Extensions" if number == 7 else "Status"
        forged = evil(original, signature=number == 9)
        document.replace(original, forged)
        holder = etree.SubElement(document, f"{{{document.nsmap['samlp']}}}{name}")
        holder.append(original)
        forged.addprevious(holder)
    else:
        forged = evil(original, signature=False)
        original.remove(signature)
        document.replace(original, forged)
        find(forged, "saml:Issuer").addnext(signature)
        etree.SubElement(signature, "{http://www.w3.org/2000/09/xmldsig#}Object").append(original)
    return document


@pytest.mark.parametrize("number", range(1, 10))
async def test_signature_wrapping(number: int) -> None:
    document = GOOD.unsigned()
    sign(document if number in (1, 2) else find(document, "saml:Assertion"))
    with pytest.raises(AssertionRefused):
        await verify(encode(wrap(number, document)))


@pytest.mark.parametrize("number", range(1, 10))
async def test_signature_wrapping_where_several_assertions_are_allowed(number: int) -> None:
    """No forged assertion passes for a signed one, though nobody counts assertions."""
    document = GOOD.unsigned()
    sign(document if number in (1, 2) else find(document, "saml:Assertion"))
    wrapped = saml._parse(base64.b64decode(encode(wrap(number, document))))
    assertions = saml._query(wrapped, "//saml:Assertion")
    forged = [one for one in assertions if saml._text(one, "saml:Subject/saml:NameID") == "admin"]
    assert (len(assertions), len(forged)) == (2, 1)
    with pytest.raises(AssertionRefused, match="sign"):
        saml._check_signatures(wrapped, forged[0])


async def test_a_comment_does_not_shorten_a_name() -> None:
    response = replace(GOOD, name_id="admin@example.com.evil.test")

    def comment(document: etree._Element) -> None:
        name = find(document, "//saml:NameID")
        name.text = "admin@example.com"
        inserted = etree.Comment("")
        inserted.tail = ".evil.test"
        name.append(inserted)

    assert (await verify(signed(response, comment))).name_id == "admin@example.com.evil.test"


async def test_an_instruction_does_not_shorten_a_name() -> None:
    """The provider signs it, with all that is in it: the name must not end where the instruction begins."""
    document = GOOD.unsigned()
    name = find(document, "//saml:NameID")
    name.text = "admin@example.com"
    inserted = etree.ProcessingInstruction("x", "y")
    inserted.tail = ".evil.test"
    name.append(inserted)
    sign(find(document, "saml:Assertion"))
    with pytest.raises(AssertionRefused, match="Signature"):
        await verify(encode(document))


async def test_no_other_element_has_the_id_that_is_signed() -> None:
    """By `xml:id` as well, which the parser knows without being told."""

    def decoy(document: etree._Element) -> None:
        name = "{http://www.w3.org/XML/1998/namespace}id"
        document.insert(0, etree.Element("decoy", {name: GOOD.assertion_id}))

    with pytest.raises(AssertionRefused, match="the same ID"):
        await verify(signed(GOOD, decoy))


DTD = b'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
GARBAGE = {
    "nothing": "",
    "no base64": "$$$",
    "no XML": encode(b"no XML"),
    "half a document": encode(b"<samlp:Response"),
    "another document": encode(b"<html/>"),
    "a DTD": encode(DTD + base64.b64decode(encode(GOOD.unsigned()))),
    "only entities": encode(b'<!DOCTYPE r [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><r>&b;</r>'),
    "very deep": encode(b"<a>" * 5_000 + b"</a>" * 5_000),
    "very long": encode(b"<a>" + b"x" * 400_000 + b"</a>"),
    "an encrypted assertion": encode(
        f'<s:Response xmlns:s="{saml.SAMLP}" xmlns:a="{SAML}"><a:EncryptedAssertion/></s:Response>'.encode()
    ),
    "UTF-16": encode('<?xml version="1.0" encoding="utf-16"?><r/>'.encode("utf-16")),
    "zeros": encode(bytes(1_000)),
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage(name: str) -> None:
    with pytest.raises(AssertionRefused):
        await verify(GARBAGE[name])


async def test_so_many_at_once_are_refused() -> None:
    service = SamlService("https://ci.example.com")
    service._waiting = saml.MAX_WAITING
    with pytest.raises(Unavailable):
        await service.verify("", [], URLS, datetime.now(UTC))


METADATA = """<md:EntityDescriptor xmlns:md="urn:oasis:names:tc:SAML:2.0:metadata" entityID="{entity}">
<md:IDPSSODescriptor protocolSupportEnumeration="urn:oasis:names:tc:SAML:2.0:protocol">
<md:KeyDescriptor use="signing"><ds:KeyInfo xmlns:ds="http://www.w3.org/2000/09/xmldsig#"><ds:X509Data>
<ds:X509Certificate>{certificate}</ds:X509Certificate></ds:X509Data></ds:KeyInfo></md:KeyDescriptor>
<md:SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-{binding}" Location="{url}"/>
</md:IDPSSODescriptor></md:EntityDescriptor>"""


async def test_an_encrypted_assertion_says_what_to_turn_off() -> None:
    encrypted = f'<s:Response xmlns:s="{saml.SAMLP}" xmlns:a="{SAML}"><a:EncryptedAssertion/></s:Response>'
    with pytest.raises(AssertionRefused, match="turn the encryption of assertions off"):
        await SERVICE.verify(encode(encrypted.encode()), [provider()], URLS, datetime.now(UTC))


async def test_metadata() -> None:
    certificate = provider().certificates[1]
    text = METADATA.format(entity=ENTITY_ID, certificate=certificate, binding="Redirect", url=SSO_URL)
    found = await SERVICE.read_metadata(text)
    assert (found.entity_id, found.sso_url, found.certificates) == (ENTITY_ID, SSO_URL, [certificate])
    weak = base64.b64encode(b"no certificate").decode()
    for other in (
        "<a/>",
        "no XML",
        DTD.decode() + text,
        text.replace("Redirect", "POST"),
        text.replace(certificate, weak),
        text.replace("IDPSSODescriptor", "SPSSODescriptor"),
        f"<x>{text}{text}</x>",
    ):
        with pytest.raises(MetadataRefused):
            await SERVICE.read_metadata(other)
    with pytest.raises(MetadataRefused, match="2048"):
        SERVICE.read_certificate(signing_key("weak", 1024).certificate.decode())
