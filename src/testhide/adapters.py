"""Chooses, by the settings, among several adapters for the same outside system, such as a file system and an object
store for artifacts.

Each function imports its adapter itself, so that a process loads only the adapters that it uses.
"""

from typing import TYPE_CHECKING

import structlog

from store.crypto.secrets import Secrets
from testhide.operator_errors import Fault
from testhide.setting_checks import split, variable
from testhide.settings import Settings

if TYPE_CHECKING:
    from domain.docker_agents import DockerPolicy
    from domain.language_model import ModelPolicy
    from integrations.container_ports import ContainerLogs
    from integrations.docker.hosts import ConfiguredDockerHosts, DockerSetup
    from integrations.embedding_ports import Embeddings
    from integrations.llm_ports import LanguageModel
    from integrations.outgoing import HttpOutgoing
    from integrations.ports import Blobs, Mailer, Outgoing
    from integrations.source_ports import SourceHosts
    from integrations.ticket_ports import TicketHosts
    from integrations.vcenter_ports import Vcenters


log = structlog.get_logger()


def blob_store(settings: Settings) -> "Blobs":
    """Return the store of artifacts' contents. Raises ValueError if the URL in the settings is not that of a store."""
    from integrations.blobs import open_blobs

    return open_blobs(settings.blobs)


def mailer(settings: Settings) -> "Mailer | None":
    """Return the adapter that sends mails. Without a mail server, `testhide up` gets an adapter that prints the links
    in mails, and other processes get None.
    """
    from integrations.mail import PrintedLinks, SmtpMailer, parse_smtp_url

    if settings.smtp_url:
        return SmtpMailer(parse_smtp_url(settings.smtp_url), settings.mail_from)
    return PrintedLinks() if settings.prints_links else None


def make_outgoing(settings: Settings) -> "HttpOutgoing":
    from integrations.addresses import parse_networks
    from integrations.outgoing import HttpOutgoing

    allowed, for_admins = map(parse_networks, (settings.outgoing_allow, settings.opened_for_admins))
    return HttpOutgoing(allowed, for_admins=for_admins)


def source_hosts(settings: Settings, outgoing: "Outgoing", secrets: Secrets) -> "SourceHosts":
    from integrations.scm.hosts import ScmHosts

    return ScmHosts(outgoing, secrets.unseal, settings.repository_folders)


def ticket_hosts(outgoing: "Outgoing", secrets: Secrets) -> "TicketHosts":
    from integrations.jira.hosts import JiraHosts

    return JiraHosts(outgoing, secrets.unseal)


def docker_policy(settings: Settings) -> "DockerPolicy":
    """Return which Docker hosts and images may be used."""
    from domain.docker_agents import DockerPolicy

    return DockerPolicy(frozenset(_docker_setup(settings, "").hosts), split(settings.docker_images))


def docker_hosts(settings: Settings, secrets: Secrets) -> "ConfiguredDockerHosts":
    from integrations.docker.hosts import ConfiguredDockerHosts

    if settings.docker_problem:
        log.warning("Docker agents cannot register", detail=settings.docker_problem)
    return ConfiguredDockerHosts(_docker_setup(settings, installation_of(secrets)))


def container_logs(settings: Settings, secrets: Secrets) -> "ContainerLogs":
    from integrations.docker.logs import DockerLogs

    return DockerLogs(_docker_setup(settings, installation_of(secrets)))


def installation_of(secrets: Secrets) -> str:
    """Return the id of this installation, by which the server recognizes its containers. All processes of the
    installation have the same id, and a rotation of the secret key does not change it.
    """
    return secrets.claim("installation", "docker")


def _docker_setup(settings: Settings, installation: str) -> "DockerSetup":
    from integrations.docker.hosts import DEFAULT_NETWORK, DockerSetup, parse_hosts

    return DockerSetup(
        parse_hosts(settings.docker_hosts, settings.docker_certificates),
        installation,
        settings.url_for_containers,
        settings.docker_certificates,
        settings.docker_network or DEFAULT_NETWORK,
    )


def vcenters(settings: Settings, outgoing: "Outgoing", secrets: Secrets) -> "Vcenters":
    from integrations.vcenter.hosts import VcenterHosts

    return VcenterHosts(outgoing, secrets.unseal, settings.vcenter_ca)


def model_policy(settings: Settings) -> "ModelPolicy":
    """Return which language models may be asked, and how many tokens they may use in a month."""
    from domain.language_model import BUILTIN, ModelPolicy

    if settings.ai_provider == "builtin":
        return ModelPolicy("builtin", BUILTIN, (), settings.ai_monthly_tokens)
    return ModelPolicy(settings.ai_provider, settings.ai_model, split(settings.ai_models), settings.ai_monthly_tokens)


def language_model(settings: Settings) -> "LanguageModel | None":
    """Return the language model of the settings; None if rules and statistics answer. Raises Fault if the library that
    calls the model is not installed.
    """
    if settings.ai_provider == "builtin":
        return None
    from integrations.llm.openai import OpenAiModel, is_installed

    if not is_installed():
        raise Fault(
            f"{variable('ai_provider')}=openai needs the library openai: install the extra `ai` of testhide-server.", 2
        )
    return OpenAiModel(settings.ai_url, settings.ai_key, settings.ai_timeout)


def embeddings(settings: Settings) -> "Embeddings | None":
    """Return the model for semantic search; None if no model is installed or semantic search is switched off."""
    from integrations.embeddings.wordllama import WordLlamaEmbeddings, is_installed

    return WordLlamaEmbeddings() if settings.semantic_search and is_installed() else None
