"""An identity provider for tests, which makes SAML responses and signs them with xmlsec."""

import base64
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import xmlsec as typed_xmlsec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from lxml import etree

SAML = "urn:oasis:names:tc:SAML:2.0:assertion"
SAMLP = "urn:oasis:names:tc:SAML:2.0:protocol"
DS = "http://www.w3.org/2000/09/xmldsig#"
NAMES = {"saml": SAML, "samlp": SAMLP, "ds": DS}
ENTITY_ID = "https://idp.example.com/metadata"
DER = serialization.Encoding.DER
SSO_URL = "http://127.0.0.1:9/sso"

xmlsec: Any = typed_xmlsec
"""The stubs lack the names that the C part of the library defines."""
Change = Callable[[etree._Element], object]


@dataclass(frozen=True)
class SigningKey:
    key: bytes
    certificate: bytes
    """The key's certificate. Both are PEM."""


@functools.cache
def signing_key(name: str, bits: int = 2048) -> SigningKey:
    """Returns a key and its certificate. Equal names give equal keys."""
    key = rsa.generate_private_key(65537, bits)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form, no_password = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return SigningKey(key.private_bytes(pem, form, no_password), certificate.public_bytes(pem))


@dataclass(frozen=True)
class Response:
    """Contents of a SAML response. A field that is None is left out of the document."""

    recipient: str | None
    audience: str | None
    name_id: str = "u-1"
    name_id_format: str = "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent"
    issuer: str = ENTITY_ID
    destination: str | None = None
    in_response_to: str | None = None
    confirmed_request: str | None = None
    """Request that the signed confirmation answers; None for `in_response_to`."""
    age: timedelta = timedelta(seconds=2)
    valid: timedelta | None = timedelta(minutes=2)
    status: str = "urn:oasis:names:tc:SAML:2.0:status:Success"
    attributes: Mapping[str, list[str]] = field(default_factory=dict)
    assertion_id: str = field(default_factory=lambda: f"_a{uuid4().hex}")

    def unsigned(self) -> etree._Element:
        issued = datetime.now(UTC) - self.age
        stamp = f"{issued:%Y-%m-%dT%H:%M:%SZ}"
        ends = None if self.valid is None else f"{issued + self.valid:%Y-%m-%dT%H:%M:%SZ}"
        response = _element(
            f"{{{SAMLP}}}Response",
            ID=f"_r{uuid4().hex}",
            Version="2.0",
            IssueInstant=stamp,
            Destination=self.destination,
            InResponseTo=self.in_response_to,
        )
        _add(response, "saml:Issuer", self.issuer)
        _add(_add(response, "samlp:Status"), "samlp:StatusCode", Value=self.status)
        assertion = _add(response, "saml:Assertion", ID=self.assertion_id, Version="2.0", IssueInstant=stamp)
        _add(assertion, "saml:Issuer", self.issuer)
        subject = _add(assertion, "saml:Subject")
        _add(subject, "saml:NameID", self.name_id, Format=self.name_id_format)
        confirmation = _add(subject, "saml:SubjectConfirmation", Method="urn:oasis:names:tc:SAML:2.0:cm:bearer")
        _add(
            confirmation,
            "saml:SubjectConfirmationData",
            Recipient=self.recipient,
            NotOnOrAfter=ends,
            InResponseTo=self.in_response_to if self.confirmed_request is None else self.confirmed_request or None,
        )
        conditions = _add(assertion, "saml:Conditions", NotBefore=stamp, NotOnOrAfter=ends)
        if self.audience is not None:
            _add(_add(conditions, "saml:AudienceRestriction"), "saml:Audience", self.audience)
        authn = _add(assertion, "saml:AuthnStatement", AuthnInstant=stamp)
        context = "urn:oasis:names:tc:SAML:2.0:ac:classes:Password"
        _add(_add(authn, "saml:AuthnContext"), "saml:AuthnContextClassRef", context)
        if self.attributes:
            statement = _add(assertion, "saml:AttributeStatement")
            for name, values in self.attributes.items():
                attribute = _add(statement, "saml:Attribute", Name=name)
                for value in values:
                    _add(attribute, "saml:AttributeValue", value)
        return etree.fromstring(etree.tostring(response))


def metadata(entity_id: str, *certificates: SigningKey, sso_url: str = SSO_URL) -> bytes:
    """Returns the provider's metadata, with the certificates of these keys."""
    keys = "".join(
        f'<md:KeyDescriptor use="signing"><ds:KeyInfo xmlns:ds="{DS}"><ds:X509Data><ds:X509Certificate>'
        f"{base64.b64encode(x509.load_pem_x509_certificate(key.certificate).public_bytes(DER)).decode()}"
        "</ds:X509Certificate></ds:X509Data></ds:KeyInfo></md:KeyDescriptor>"
        for key in certificates
    )
    return (
        f'<md:EntityDescriptor xmlns:md="urn:oasis:names:tc:SAML:2.0:metadata" entityID="{entity_id}">'
        f'<md:IDPSSODescriptor protocolSupportEnumeration="{SAMLP}">{keys}<md:SingleSignOnService'
        f' Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect" Location="{sso_url}"/>'
        "</md:IDPSSODescriptor></md:EntityDescriptor>"
    ).encode()


def _element(tag: str, **attributes: str | None) -> etree._Element:
    given = {name: value for name, value in attributes.items() if value is not None}
    return etree.Element(tag, given, nsmap=NAMES)


def _add(parent: etree._Element, name: str, text: str | None = None, **attributes: str | None) -> etree._Element:
    prefix, _, local = name.partition(":")
    child = _element(f"{{{NAMES[prefix]}}}{local}", **attributes)
    child.text = text
    parent.append(child)
    return child


def find(element: etree._Element, path: str) -> etree._Element:
    found: Any = element.xpath(path, namespaces=NAMES)
    first: etree._Element = found[0]
    return first


def sign(
    element: etree._Element,
    key: SigningKey | None = None,
    method: Any = xmlsec.Transform.RSA_SHA256,
    digest: Any = xmlsec.Transform.SHA256,
    transforms: tuple[Any, ...] = (xmlsec.Transform.ENVELOPED, xmlsec.Transform.EXCL_C14N),
) -> None:
    """Signs an element. The signature goes into the element, behind its Issuer."""
    key = key or signing_key("idp")
    signature = xmlsec.template.create(element, xmlsec.Transform.EXCL_C14N, method, ns="ds")
    find(element, "saml:Issuer").addnext(signature)
    reference = xmlsec.template.add_reference(signature, digest, uri=f"#{element.get('ID')}")
    for transform in transforms:
        xmlsec.template.add_transform(reference, transform)
    xmlsec.template.add_x509_data(xmlsec.template.ensure_key_info(signature))
    context = xmlsec.SignatureContext()
    context.key = xmlsec.Key.from_memory(key.key, xmlsec.KeyFormat.PEM)
    context.key.load_cert_from_memory(key.certificate, xmlsec.KeyFormat.PEM)
    xmlsec.tree.add_ids(element, ["ID"])
    context.sign(signature)


def encode(response: etree._Element | bytes) -> str:
    """Returns the response in the form in which browsers deliver it."""
    xml = response if isinstance(response, bytes) else etree.tostring(response)
    return base64.b64encode(xml).decode()


def signed(response: Response, change: Change = lambda _: None, **how: Any) -> str:
    """Returns the encoded response, with a signed assertion. `change` may alter the document after the assertion is
    signed.
    """
    document = response.unsigned()
    sign(find(document, "saml:Assertion"), **how)
    change(document)
    return encode(document)
