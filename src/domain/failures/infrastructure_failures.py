"""Kinds of failures that come from the machine, the network or another service, with the words by which messages and
logs name them.

All patterns take linear time: repeats are bounded and not nested.
"""

import re

import msgspec

from domain.triage import Classification

ASSERTION = re.compile(r"\bassert|\bexpected\b|\bComparisonFailure\b", re.IGNORECASE)
"""Matches words of a message that says what a test expected."""
MAX_LENGTH = 4096
"""Number of characters at the beginning of a message that are searched."""
MAX_TRACE = 2000
"""Number of characters at the end of a trace that are searched."""


class FailureKind(msgspec.Struct, frozen=True):
    name: str
    classification: Classification
    title: str
    """Root cause, as a sentence without a full stop."""
    fix: str
    """Suggested fix, as a sentence without a full stop."""
    pattern: re.Pattern[str]
    confidence: float = 0.7
    is_machine: bool = False
    """Whether the machine or the network is the cause, whatever the test checks. Such a kind counts even if the test is
    known as flaky.
    """


def make_kind(
    name: str,
    classification: Classification,
    title: str,
    fix: str,
    pattern: str,
    confidence: float = 0.7,
    *,
    is_machine: bool = False,
) -> FailureKind:
    compiled = re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    return FailureKind(name, classification, title, fix, compiled, confidence, is_machine)


INFRASTRUCTURE: tuple[FailureKind, ...] = (
    make_kind(
        "disk_full",
        "infra",
        "The disk of the machine is full",
        "Free space on the machine, or clean its workspaces and caches more often",
        r"\bno space left\b|\bENOSPC\b|\bdisk (?:is )?(?:full|quota exceeded)\b"
        r"|\bnot enough (?:free )?(?:disk )?space\b"
        r"|\bdatabase or disk is full\b|\binsufficient disk space\b",
        0.92,
        is_machine=True,
    ),
    make_kind(
        "out_of_memory",
        "infra",
        "A process ran out of memory (OOM)",
        "Give the process or the machine more memory, or run fewer tests in parallel",
        r"\bout of memory\b|\bOutOfMemory|\bcannot allocate memory\b|\bENOMEM\b|\bheap limit\b|\boom[-_ ]?kill"
        r"|^\s{0,8}MemoryError\b|\bGC overhead limit\b|\bstd::bad_alloc\b",
        0.88,
        is_machine=True,
    ),
    make_kind(
        "killed",
        "infra",
        "A process was killed (SIGKILL), perhaps since the machine ran out of memory",
        "Look into the system log of the machine for what killed the process, such as a lack of memory (OOM)",
        r"\bexit(?:ed)?(?: with)?(?: (?:code|status):?)? 137\b|\bKilled$|\bKilled process\b|\bsignal: killed\b"
        r"|\breturncode -9\b|\bwas killed by signal (?:9|SIGKILL)\b",
        0.6,
        is_machine=True,
    ),
    make_kind(
        "dns",
        "infra",
        "The name of a host could not be resolved (DNS)",
        "Check the name server and the network of the machine, then run the build again",
        r"\bcould ?n(?:o|')t resolve host\b|\bcould not resolve (?:proxy|hostname)\b|\bname or service not known\b"
        r"|\btemporary failure (?:in name resolution|resolving)\b|\bENOTFOUND\b|\bEAI_AGAIN\b"
        r"|\bgetaddrinfo\b.{0,40}\bfail"
        r"|\bUnknownHostException\b|\bNameResolutionError\b|\bdial tcp: lookup\b|\bnodename nor servname\b"
        r"|\bfailed to resolve '",
        0.88,
        is_machine=True,
    ),
    make_kind(
        "docker_unavailable",
        "infra",
        "Docker does not answer, or does not give the image",
        "Check the Docker daemon, the registry and its limits, then run the build again",
        r"\bcannot connect to the docker daemon\b|\btoomanyrequests\b|\bImagePullBackOff\b|\bErrImagePull\b"
        r"|\bmanifest (?:for \S{1,200} )?(?:not found|unknown)\b|\bno such image\b|\bpull access denied\b"
        r"|\bpull rate limit\b|\berror during connect: .{0,200}docker",
        0.85,
        is_machine=True,
    ),
    make_kind(
        "certificate",
        "infra",
        "A certificate could not be verified",
        "Renew the certificate, or install its authority on the machine",
        r"\bcertificate[ _]verify[ _]failed\b|\bcertificate (?:has expired|signed by unknown authority)\b|\bx509: "
        r"|\bSSLHandshakeException\b|\bPKIX path\b|\bunable to get local issuer certificate\b"
        r"|\bself[- ]signed certificate\b|\bCERT_HAS_EXPIRED\b",
        0.85,
        is_machine=True,
    ),
    make_kind(
        "credentials",
        "infra",
        "A server refused the credentials",
        "Renew the token or password that the build uses, or give it access",
        r"\bauthentication (?:failed|required)\b|\bcould not read (?:username|password)\b"
        r"|\bPermission denied \(publickey"
        r"|\bHost key verification failed\b|\binvalid credentials\b|\b401 Unauthorized\b|\b403 Forbidden\b|\bE40[13]\b"
        r"|\breturned error: 40[13]\b|\bUnable to locate credentials\b|\bExpiredToken\b|\btoken (?:has|is) expired\b"
        r"|\bnot authorized to perform\b",
        0.8,
    ),
    make_kind(
        "connection_refused",
        "infra",
        "A connection was refused: the service that is called does not run or is not ready",
        "Check that the service is started and ready before the tests begin",
        r"\bconnection (?:was )?refused\b|\bECONNREFUSED\b|\bConnectionRefused|\bactively refused\b"
        r"|\bcould not connect to server\b|\bCommunicationsException: Communications link failure\b"
        r"|\bHost is (?:unreachable|down)\b|\bno route to host\b|\bnetwork is unreachable\b|\bENETUNREACH\b"
        r"|\bEHOSTUNREACH\b",
        0.82,
        is_machine=True,
    ),
    make_kind(
        "service_unavailable",
        "infra",
        "Another service was unavailable",
        "Check the service that is called, and run the build again when it answers",
        r"\b50[234] (?:bad gateway|service (?:temporarily )?unavailable|gateway time-?out)\b"
        r"|\breturned error: 50[0-4]\b|\b429 Too Many Requests\b|\brate limit exceeded\b|\b(?:unable"
        r"|failed) to (?:connect|reach)\b|\b(?:could not|cannot) (?:connect to|reach)\b|\bservice unavailable\b"
        r"|\btoo many (?:clients|connections)\b|\bremaining connection slots\b"
        r"|\bconnection pool (?:is )?(?:exhausted|timeout)"
        r"|\bHikariPool\b.{0,120}\bnot available\b|\bHTTP(?:/\d(?:\.\d)?)? 50[234]\b|\bserver is shutting down\b"
        r"|\bstatus(?: code)?:? 50[234]\b",
        0.75,
    ),
    make_kind(
        "network_timeout",
        "infra",
        "The network or another service did not answer in time (timeout)",
        "Check the network and the service that is called, and run the build again",
        r"\bconnect(?:ion)? ?timed? ?out\b|\bE(?:SOCKET)?TIMEDOUT\b|\bread timed out\b|\b(?:Read"
        r"|Connect)Timeout(?:Error)?\b"
        r"|\bi/o timeout\b|\bTLS handshake timeout\b|\bSocketTimeoutException\b|\bcontext deadline exceeded\b"
        r"|\bnetwork timeout\b|\brequest timed out\b|\bhandshake timed out\b|\bdial tcp .{0,80}timeout\b"
        r"|\bconnection to .{1,80} timed out\b|\bconnection timeout\b|\btimeout (?:expired )?connecting\b",
        0.75,
    ),
    make_kind(
        "connection_lost",
        "infra",
        "A connection was lost",
        "Check the network and the service that is called, and run the build again",
        r"\bconnection (?:was )?(?:reset|aborted|closed (?:unexpectedly|by (?:the )?(?:remote|peer|server)))\b"
        r"|\bECONNRESET\b|\bConnectionReset"
        r"|\bBroken ?pipe\b"
        r"|\bEPIPE\b|\bRPC failed\b|\bhung up unexpectedly\b|\bsocket hang up\b|\bearly EOF\b|\bunexpected disconnect\b"
        r"|\bRemote end closed connection\b|\bIncompleteRead\b|\bserver closed the connection unexpectedly\b",
        0.75,
    ),
    make_kind(
        "resource_limit",
        "infra",
        "The machine reached a limit of the operating system",
        "Raise the limit on the machine, or look for the process that uses it up",
        r"\bquota\b.{0,60}\bexceeded\b|\bquotaExceeded\b|\btoo many open files\b|\bEMFILE\b"
        r"|\bread-only file system\b|\bEROFS\b|\bdevice or resource busy\b"
        r"|\bResource temporarily unavailable\b|\bStale file handle\b|\binput/output error\b"
        r"|\bunable to create (?:new )?native thread\b|\bcan't start new thread\b|\binotify\b.{0,80}\blimit\b",
        0.82,
        is_machine=True,
    ),
    make_kind(
        "port_in_use",
        "infra",
        "A network port is already in use on the machine",
        "End what uses the port, or let the tests choose a free port",
        r"\baddress already in use\b|\bEADDRINUSE\b|\bport \d{2,5} is already (?:in use|allocated)\b|\bBindException\b",
        0.75,
        is_machine=True,
    ),
    make_kind(
        "helper_lost",
        "infra",
        "A program on the machine that the build depends on ended unexpectedly",
        "Check the memory of the machine and its system log, then run the build again",
        r"\bdaemon (?:has )?disappeared\b|\bdaemon .{0,40}\b(?:stopped|crashed|terminated) unexpectedly\b"
        r"|\blost (?:communication|connection) (?:with|to) (?:the )?(?:server|agent|node|runner|worker|daemon)\b"
        r"|\breceived a shutdown signal\b|\bworker .{0,40}\bcrashed\b|\bnode was low on resource\b",
        0.7,
        is_machine=True,
    ),
    make_kind(
        "browser",
        "infra",
        "The browser of the tests did not start or crashed",
        "Check the browser and its driver on the machine",
        r"\bsession not created\b|\bchrome not reachable\b|\bcannot open display\b|\bDevToolsActivePort\b"
        r"|\bBrowser(?:Type)?\.? ?(?:launch|closed unexpectedly)|\bFailed to launch (?:the )?browser\b|\btab crashed\b"
        r"|\bExecutable doesn't exist at\b",
        0.75,
        is_machine=True,
    ),
    make_kind(
        "missing_program",
        "infra",
        "A program that the build calls is not installed on the machine",
        "Install the program on the machine, or choose a pool whose machines have it",
        r": command not found\b|\bis not recognized as an internal or external command\b|: not found$"
        r"|\bexecutable file not found\b|\bNo such file or directory: '(?:[a-z][\w+-]{0,40})'|\bspawn \S{1,80} ENOENT\b"
        r"|\bexec format error\b|\bJAVA_HOME\b.{0,60}\bnot\b|\benv: .{1,60}: No such file or directory\b"
        r"|\bcannot execute\b.{0,30}\b(?:binary file|required file)",
        0.75,
    ),
    make_kind(
        "build_timeout",
        "infra",
        "The build or a step of it exceeded its time limit (timeout)",
        "Look for the step that hangs, or raise the time limit of the job",
        r"\bNo output has been received\b|\b(?:job|build|step) (?:has )?timed out\b"
        r"|\bexceeded the maximum (?:execution )?time"
        r"|\bexecution time limit\b|\bexceeded the (?:time|timeout|run ?time) limit\b|\bno activity for \d",
        0.6,
    ),
    make_kind(
        "checkout",
        "infra",
        "The source code could not be checked out",
        "Check the repository's address, the credentials and the commit",
        r"\bfatal: (?:unable to access|could not read from remote|couldn't find remote ref|repository .{0,200}not found"
        r"|reference is not a tree|remote error|the remote end|not a git repository"
        r"|.{0,100} does not appear to be a git)"
        r"|\bCould not read from remote repository\b",
        0.82,
    ),
    make_kind(
        "no_permission",
        "infra",
        "The build has no permission for a file or an operation",
        "Check the owner and the permissions of the file, and the account that builds run as",
        r"\bpermission denied\b|\bEACCES\b|\bEPERM\b|\boperation not permitted\b|\baccess is denied\b",
        0.65,
    ),
)


def is_infrastructure(message: str, trace: str) -> bool:
    """Returns whether a message says that the network, the machine or another system failed. For a failure without a
    message, the trace is searched. A failed assertion is a failure of the test, whatever it compares.
    """
    text = (message or trace[-MAX_TRACE:])[:MAX_LENGTH]
    return not ASSERTION.search(text) and any(kind.pattern.search(text) for kind in INFRASTRUCTURE)
