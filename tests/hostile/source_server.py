"""A server of sources on loopback: https with an authority of its own, repositories, and answers that do harm.

`sources.test` is the name it is asked by; `resolver` knows it, and what else a test adds.
"""

import datetime
import ipaddress
import os
import ssl
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from amplifier_app_api.bundles.sources import FetchLimits, SourceFetcher, SourcePolicy

HOST = "sources.test"
LONGEST_WAIT = 30.0

Answer = Callable[[BaseHTTPRequestHandler], None]


class SourceServer(ThreadingHTTPServer):
    """Serves `answers` by path, and the repositories below `repositories` under `/git/`."""

    daemon_threads = True

    def __init__(self, folder: Path, tls: ssl.SSLContext | None, ca_file: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tls = tls
        self.ca_file = ca_file
        self.repositories = folder / "repositories"
        self.repositories.mkdir(parents=True)
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.packs = 0  # how often objects of a repository were fetched
        self.closing = threading.Event()
        self.addresses: dict[str, list[str]] = {HOST: ["127.0.0.1"]}

    @property
    def authority(self) -> str:
        return f"{HOST}:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}"

    def resolver(self, host: str, port: int) -> list[str]:
        if host not in self.addresses:
            raise OSError("no such host")
        return self.addresses[host]

    def fetcher(self, cache: Path, limits: FetchLimits | None = None, **policy: Any) -> SourceFetcher:
        """A fetcher that may fetch everything from here, unless told otherwise."""
        everything = [f"{kind}{self.url}/*" for kind in ("git+", "zip+", "")]
        given = {"allow": everything, "private_addresses": True} | policy
        return SourceFetcher(
            cache, SourcePolicy.of(**given), limits or FetchLimits(), ca_file=self.ca_file, resolver=self.resolver
        )

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        if self.tls:
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients here leave early on purpose."""


class _Handler(BaseHTTPRequestHandler):
    server: SourceServer
    protocol_version = "HTTP/1.0"
    timeout = LONGEST_WAIT

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path = self.path.partition("?")[0]
        if path.startswith("/git/"):
            self._git()
        elif path in self.server.answers:
            self.server.answers[path](self)
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        self.do_GET()

    def _git(self) -> None:
        path, _, query = self.path.removeprefix("/git").partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.packs += b"command=fetch" in body
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.server.repositories),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
        }
        said = subprocess.run(
            ["git", "http-backend"], env=environment, input=body, capture_output=True, check=True, timeout=LONGEST_WAIT
        ).stdout
        head, _, content = said.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name is the library's
        """What was asked is in `asked`."""


@contextmanager
def source_server(folder: Path, *, encrypted: bool = True) -> Iterator[SourceServer]:
    """A running server; its threads end with it."""
    folder.mkdir(parents=True, exist_ok=True)
    ca_file, chain = certificates(folder)
    tls = None
    if encrypted:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(chain)
    server = SourceServer(folder, tls, ca_file)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def content(body: bytes, *, etag: str = "", headers: Mapping[str, str] | None = None) -> Answer:
    """An answer that behaves, and knows what has not changed when it has an `etag`."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if etag and handler.headers.get("If-None-Match") == etag:
            handler.send_response(304)
            handler.end_headers()
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in {**({"ETag": etag} if etag else {}), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def redirect(location: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", location)
        handler.end_headers()

    return answer


def zip_of(files: Mapping[str, bytes]) -> bytes:
    """An archive of these files."""
    written = BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return written.getvalue()


class Repository:
    """A repository that a test commits to; `folder` is its working copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str) -> str:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "GIT_CONFIG_NOSYSTEM": "1"}
        identity = ("-c", "user.name=Test", "-c", "user.email=test@sources.test")
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=self.folder, env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self, files: Mapping[str, bytes | str]) -> str:
        """Write these files and commit everything; the commit."""
        for name, body in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body.encode() if isinstance(body, str) else body)
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--allow-empty", "--message", "A change")
        return self.git("rev-parse", "HEAD")


def certificates(folder: Path) -> tuple[Path, Path]:
    """The file of an authority, and that of a server's certificate with its key."""
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Authority of the tests")])
    ca = _certificate(ca_name, ca_name, ca_key, ca_key).add_extension(x509.BasicConstraints(True, 0), critical=True)
    ca = ca.add_extension(_usage(sign_certificates=True), critical=True)
    names = [x509.DNSName(HOST), x509.DNSName("other.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    own = _certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)]), ca_name, key, ca_key)
    own = own.add_extension(x509.SubjectAlternativeName(names), critical=False)
    own = own.add_extension(_usage(sign_certificates=False), critical=True)
    ca_file, chain = folder / "authority.pem", folder / "server.pem"
    ca_file.write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(own.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + private)
    return ca_file, chain


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, ca_key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
        now + datetime.timedelta(days=1)
    )
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )
