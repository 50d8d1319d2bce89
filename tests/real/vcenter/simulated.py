"""Builds and runs govmomi's simulator of a vCenter, which others wrote (Debian: golang-github-vmware-govmomi-dev), over
TLS. Its certificate is of a CA that only the tests have.
"""

import datetime
import os
import subprocess
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.server import free_port

USER, PASSWORD = "svc-testhide", "s3cr3t-of-vcenter"
SOURCE = Path(__file__).parent / "simulator"


@dataclass
class Simulator:
    host: str
    ca: Path
    process: "subprocess.Popen[bytes]"

    def ask(self, what: str, **parameters: str) -> str:
        answer = requests.post(f"https://{self.host}/test/{what}", params=parameters, verify=str(self.ca), timeout=10)
        answer.raise_for_status()
        return answer.text

    def lose_answer(self, method: str) -> None:
        """Makes the simulator carry out the next call of a method without an answer."""
        self.ask("lose", method=method)

    def count_calls(self, method: str) -> int:
        return int(self.ask("count", method=method))

    def list_names(self) -> list[str]:
        """Returns the names of all virtual machines."""
        return self.ask("names").splitlines()

    def read_guestinfo(self, name: str) -> dict[str, str]:
        """Returns what VMware Tools in the virtual machine of this name would read."""
        lines = (line.partition("=") for line in self.ask("guestinfo", name=name).splitlines())
        return {key: value for key, _, value in lines}

    def stop(self) -> None:
        with self.process:  # closes its pipes, too
            self.process.kill()


def build_simulator(folder: Path) -> Path:
    """Returns the path of the program."""
    built = folder / "simulator"
    environ = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode"}
    subprocess.run(["go", "build", "-o", built, "."], cwd=SOURCE, env=environ, check=True, timeout=300)
    return built


def start_simulator(program: Path, certificates: Path) -> Simulator:
    host = f"127.0.0.1:{free_port()}"
    files = [str(certificates / "cert.pem"), str(certificates / "key.pem")]
    command = [str(program), host, USER, PASSWORD, *files]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    simulator = Simulator(host, certificates / "ca.pem", process)
    if process.stdout.readline() != b"ready\n":
        simulator.stop()
        raise AssertionError("the simulator does not start")
    return simulator


def make_certificates(folder: Path) -> None:
    """Makes the certificate of a CA (`ca.pem`), and one for 127.0.0.1 with its key (`cert.pem`, `key.pem`)."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "CA of a test")])
    ca = _certificate(ca_name, ca_name, ca_key.public_key(), ca_key, is_ca=True)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    issued = _certificate(name, ca_name, key.public_key(), ca_key, is_ca=False)
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    (folder / "cert.pem").write_bytes(issued.public_bytes(serialization.Encoding.PEM))
    text = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(*text))


def _certificate(
    name: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    is_ca: bool,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(not is_ca, False, False, False, False, is_ca, is_ca, False, False)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=7))
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(signer, hashes.SHA256())
    )
