"""SAML 2.0 with python3-saml, and the checks that this library leaves out.

python3-saml has three gaps: it accepts a missing audience, recipient or time limit, it compares only the beginnings of
URLs, and it does not check that the signed confirmation belongs to the request. This module checks all of this on the
signed assertion. The library takes 15 MB of memory and 0.3 s to import, so it is imported with the first response.
"""

import asyncio
import base64
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit
from xml.sax.saxutils import escape, quoteattr

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from domain.core.errors import Unavailable
from integrations.ports import Assertion, AssertionRefused, MetadataRefused, ProviderMetadata, TrustedProvider

T = TypeVar("T")

MAX_AGE = timedelta(minutes=5)
"""Largest age of an assertion."""
MAX_SKEW = timedelta(minutes=1)
"""Largest time by which the provider's clock may be ahead of ours."""
MAX_WAITING = 32
"""Largest number of responses that are checked or wait for their check in a process. A check takes about 10 ms."""
MIN_RSA_BITS = 2048

SAML = "urn:oasis:names:tc:SAML:2.0:assertion"
SAMLP = "urn:oasis:names:tc:SAML:2.0:protocol"
DS = "http://www.w3.org/2000/09/xmldsig#"
BEARER = "urn:oasis:names:tc:SAML:2.0:cm:bearer"
TRANSIENT = "urn:oasis:names:tc:SAML:2.0:nameid-format:transient"
POST = "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST"

_MORE = "http://www.w3.org/2001/04/xmldsig-more#"
SIGNATURES = {f"{_MORE}{key}-sha{bits}" for key in ("rsa", "ecdsa") for bits in (256, 384, 512)}
DIGESTS = {f"http://www.w3.org/2001/04/xmlenc#sha{bits}" for bits in (256, 512)} | {f"{_MORE}sha384"}
_CANONICAL = "http://www.w3.org/2001/10/xml-exc-c14n#"
TRANSFORMS = {f"{DS}enveloped-signature", _CANONICAL, f"{_CANONICAL}WithComments"}


class SamlService:
    """This server as a service provider. `base_url` is its public address."""

    def __init__(self, base_url: str) -> None:
        self._address = urlsplit(base_url)
        self.entity_id = f"{base_url}/api/v3/sso/metadata"
        self.acs_url = f"{base_url}/api/v3/sso/acs"
        self._waiting = 0

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=1, thread_name_prefix="saml")

    def describe_service(self) -> str:
        return (
            '<md:EntityDescriptor xmlns:md="urn:oasis:names:tc:SAML:2.0:metadata"'
            f" entityID={quoteattr(self.entity_id)}>"
            f'<md:SPSSODescriptor AuthnRequestsSigned="false" WantAssertionsSigned="true"'
            f' protocolSupportEnumeration="{SAMLP}">'
            "<md:NameIDFormat>urn:oasis:names:tc:SAML:2.0:nameid-format:persistent</md:NameIDFormat>"
            f'<md:AssertionConsumerService Binding="{POST}" Location={quoteattr(self.acs_url)} index="0"/>'
            "</md:SPSSODescriptor></md:EntityDescriptor>"
        )

    def sign_in_url(self, provider: TrustedProvider, request_id: str, relay_state: str, now: datetime) -> str:
        request = (
            f'<samlp:AuthnRequest xmlns:samlp="{SAMLP}" xmlns:saml="{SAML}" ID={quoteattr(request_id)} Version="2.0"'
            f' IssueInstant="{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" Destination={quoteattr(provider.sso_url)}'
            f' ProtocolBinding="{POST}" AssertionConsumerServiceURL={quoteattr(self.acs_url)}>'
            f"<saml:Issuer>{escape(self.entity_id)}</saml:Issuer></samlp:AuthnRequest>"
        )
        deflated = zlib.compress(request.encode(), wbits=-15)
        query = urlencode({"SAMLRequest": base64.b64encode(deflated), "RelayState": relay_state})
        return f"{provider.sso_url}{'&' if '?' in provider.sso_url else '?'}{query}"

    async def verify(
        self, response: str, providers: Collection[TrustedProvider], recipients: Sequence[str], now: datetime
    ) -> Assertion:
        return await self._run(self._verify, response, providers, recipients, now)

    async def read_metadata(self, xml: str) -> ProviderMetadata:
        return await self._run(self._read_metadata, xml)

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Runs the work on a thread. Raises Unavailable if MAX_WAITING calls are running or waiting already."""
        if self._waiting >= MAX_WAITING:
            raise Unavailable("Too many people are signing in at once; try again in a second.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        finally:
            self._waiting -= 1

    def _verify(
        self, response: str, providers: Collection[TrustedProvider], recipients: Sequence[str], now: datetime
    ) -> Assertion:
        from onelogin.saml2.response import OneLogin_Saml2_Response  # type: ignore[import-untyped]
        from onelogin.saml2.settings import OneLogin_Saml2_Settings  # type: ignore[import-untyped]

        try:
            xml = base64.b64decode("".join(response.split()), validate=True)
            root = _parse(xml)
            element = _find_assertion(root)
            _check_signatures(root, element)
        except ValueError:
            raise AssertionRefused("it is not base64 of XML") from None
        issuer = _text(element, "saml:Issuer")
        provider = next((one for one in providers if one.entity_id == issuer), None)
        if provider is None:
            raise AssertionRefused(f"no active identity provider here is called {issuer!r}")
        try:
            settings = OneLogin_Saml2_Settings(self._settings(provider))
            found = OneLogin_Saml2_Response(settings, base64.b64encode(xml).decode())
            # The library compares beginnings of URLs, and the shorter recipient is the beginning of the other one.
            found.is_valid(self._request_data(min(recipients, key=len)), raise_exceptions=True)
            name_id = found.get_nameid_data()
            attributes = _texts(found.get_attributes()) | _texts(found.get_friendlyname_attributes())
        except Exception as error:  # the library and xmlsec raise whatever they meet in garbage
            raise AssertionRefused(_shorten(str(error) or type(error).__name__)) from None
        if name_id.get("Format") == TRANSIENT:
            raise AssertionRefused("its NameID is transient: set the identity provider up to send a persistent one")
        _check_audience(element, self.entity_id)
        _check_times(element, now)
        request_id = _check_confirmation(element, recipients, now)
        response_element = element.getparent()
        if response_element.get("Destination") not in (None, *recipients):
            raise AssertionRefused("its Destination is another address")
        if response_element.get("InResponseTo") != request_id:
            raise AssertionRefused("its response answers another request than its assertion")
        return Assertion(provider.provider_id, element.get("ID"), name_id["Value"], request_id, attributes)

    def _settings(self, provider: TrustedProvider) -> dict[str, Any]:
        return {
            "strict": True,
            "sp": {"entityId": self.entity_id, "assertionConsumerService": {"url": self.acs_url, "binding": POST}},
            "idp": {
                "entityId": provider.entity_id,
                "singleSignOnService": {"url": provider.sso_url},
                "x509certMulti": {"signing": list(provider.certificates)},
            },
            "security": {
                "wantAssertionsSigned": True,
                "wantAttributeStatement": False,
                "rejectDeprecatedAlgorithm": True,
                "allowRepeatAttributeName": True,
                "allowSingleLabelDomains": True,
            },
        }

    def _request_data(self, recipient: str) -> dict[str, Any]:
        address = urlsplit(recipient)
        return {
            "https": "on" if address.scheme == "https" else "off",
            "http_host": address.netloc,
            "script_name": address.path,
        }

    def _read_metadata(self, xml: str) -> ProviderMetadata:
        from onelogin.saml2 import idp_metadata_parser  # type: ignore[import-untyped]

        try:
            root = _parse(xml.encode())
            descriptors = root.xpath("//*[local-name() = 'IDPSSODescriptor']")
            found = idp_metadata_parser.OneLogin_Saml2_IdPMetadataParser.parse(xml.encode()).get("idp", {})
        except Exception as error:
            raise MetadataRefused(f"is no SAML metadata: {_shorten(str(error))}") from None
        if len(descriptors) != 1:
            raise MetadataRefused(f"must describe one identity provider, not {len(descriptors)}")
        sso_url = found.get("singleSignOnService", {}).get("url")
        certificates = found.get("x509certMulti", {}).get("signing") or [found.get("x509cert", "")]
        if not found.get("entityId") or not sso_url:
            raise MetadataRefused("must have an entityID, and a SingleSignOnService with the HTTP-Redirect binding")
        read = {self.read_certificate(one) for one in certificates}
        return ProviderMetadata(found["entityId"], sso_url, sorted(read))  # the order of certificates means nothing

    def read_certificate(self, text: str) -> str:
        try:
            if "-----BEGIN" in text:
                certificate = x509.load_pem_x509_certificate(text.encode())
            else:
                certificate = x509.load_der_x509_certificate(base64.b64decode("".join(text.split()), validate=True))
            key = certificate.public_key()
        except ValueError:
            raise MetadataRefused("must be X.509 certificates, as PEM or as base64 of DER") from None
        if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
            raise MetadataRefused(f"must have RSA keys of {MIN_RSA_BITS} bits or more")
        if not isinstance(key, RSAPublicKey | EllipticCurvePublicKey):
            raise MetadataRefused("must have RSA or elliptic-curve keys")
        return base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()


def _parse(xml: bytes) -> Any:
    """Returns the root element of a document. Raises ValueError if the document is no XML or has a DTD."""
    from onelogin.saml2.xml_utils import OneLogin_Saml2_XML  # type: ignore[import-untyped]

    try:
        return OneLogin_Saml2_XML.to_etree(xml)
    except SyntaxError as error:
        raise ValueError(str(error)) from None


def _query(element: Any, path: str) -> list[Any]:
    found: list[Any] = element.xpath(path, namespaces={"saml": SAML, "samlp": SAMLP, "ds": DS})
    return found


def _find_assertion(root: Any) -> Any:
    """Returns the assertion of a response. Raises AssertionRefused if the response has no assertion, if the document
    has a second one anywhere, or if an assertion is encrypted.
    """
    assertions = _query(root, "/samlp:Response/saml:Assertion")
    if _query(root, "//saml:EncryptedAssertion"):
        raise AssertionRefused(
            "its assertion is encrypted, which this server cannot read: turn the encryption of assertions off at the"
            " identity provider"
        )
    if len(assertions) != 1 or len(_query(root, "//saml:Assertion")) != 1:
        raise AssertionRefused("a response must contain one assertion")
    return assertions[0]


def _check_signatures(root: Any, assertion: Any) -> None:
    """Raises AssertionRefused if the assertion itself is not signed, or not with allowed algorithms.

    Call this before any signature is verified: verifying a signature runs its transforms, which the sender of the
    document chooses.
    """
    ids = _query(root, "//@ID | //@Id | //@id | //@xml:id")
    if len(ids) != len(set(ids)):
        raise AssertionRefused("two of its elements have the same ID")
    if len(_query(assertion, "ds:Signature")) != 1:
        raise AssertionRefused("the assertion is not signed")
    for signature in _query(root, "//ds:Signature"):
        references = _query(signature, ".//ds:Reference")
        if len(references) != 1 or references[0].get("URI") != f"#{signature.getparent().get('ID')}":
            raise AssertionRefused("a signature does not sign the element that it is in")
        for path, allowed in (
            (".//ds:SignatureMethod", SIGNATURES),
            (".//ds:DigestMethod", DIGESTS),
            (".//ds:Transform", TRANSFORMS),
            (".//ds:CanonicalizationMethod", TRANSFORMS),
        ):
            for method in _query(signature, path):
                if method.get("Algorithm") not in allowed:
                    raise AssertionRefused(f"a signature uses {method.get('Algorithm')}, which is not allowed")


def _check_audience(assertion: Any, entity_id: str) -> None:
    restrictions = _query(assertion, "saml:Conditions/saml:AudienceRestriction")
    if not restrictions or any(entity_id not in map(_content, _query(one, "saml:Audience")) for one in restrictions):
        raise AssertionRefused(f"its audience is not {entity_id}")


def _check_times(assertion: Any, now: datetime) -> None:
    issued = _time(assertion.get("IssueInstant"))
    if not now - MAX_AGE < issued < now + MAX_SKEW:
        raise AssertionRefused(f"it was issued at {issued:%Y-%m-%d %H:%M:%S} UTC, and must be younger than 5 minutes")


def _check_confirmation(assertion: Any, recipients: Sequence[str], now: datetime) -> str | None:
    """Returns the id of the request that the assertion answers; None if it answers no request. Raises AssertionRefused
    if no bearer confirmation in the assertion is for one of the recipients and still valid.
    """
    for data in _query(
        assertion, f"saml:Subject/saml:SubjectConfirmation[@Method='{BEARER}']/saml:SubjectConfirmationData"
    ):
        ends = data.get("NotOnOrAfter")
        if data.get("Recipient") in recipients and ends is not None and _time(ends) > now:
            request_id: str | None = data.get("InResponseTo")
            return request_id
    raise AssertionRefused("it is not meant for this address, or not any more")


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise AssertionRefused(f"{_shorten(text)} is not a time") from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _content(element: Any) -> str:
    """Returns the whole text of an element, including text after a comment."""
    return "".join(element.itertext()).strip()


def _text(element: Any, path: str) -> str:
    return "".join(map(_content, _query(element, path)[:1]))


def _texts(attributes: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    """Returns the attributes of a person. Leaves out values that are not text."""
    return {name: [value for value in values if isinstance(value, str)] for name, values in attributes.items()}


def _shorten(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]}…"
