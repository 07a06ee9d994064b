"""What may listen at an endpoint in S3's place, or on the way to it.

Above: tests of storages on S3 and of accounts. Below: threads and sockets on loopback; certificates of our own making.
Invariant: each listens on 127.0.0.1 only, until its context ends.
"""

import contextlib
import http.client
import http.server
import ipaddress
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infinitfs.storage.account import StaticKeys


@contextlib.contextmanager
def web_server(status: int) -> Iterator[str]:
    """The URL of a web server that answers every GET with a page of HTML and `status`, and knows little else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = b"<html><title>Welcome</title></html>"
            self.send_response(status)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(page)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Tests print nothing."""

    with _serving(Handler) as url:
        yield url


@contextlib.contextmanager
def banner(line: bytes) -> Iterator[str]:
    """The URL of a service of another protocol, which greets everybody with `line` and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    connection.sendall(line)
                    connection.recv(1 << 16)

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def make_certificate(folder: Path, addresses: Sequence[str] = ("127.0.0.1",)) -> tuple[Path, Path]:
    """Files with a certificate for `addresses` that nobody but its own key has signed, and with that key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a service of our own")])
    now = datetime.now(UTC)
    names = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return files


@contextlib.contextmanager
def forwarding_proxy(server: str) -> Iterator[tuple[str, list[str]]]:
    """The URL of an HTTP proxy that asks `server` (a URL), whatever host it is told, and the hosts it was told."""
    told: list[str] = []
    place = urlsplit(server).netloc

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            told.append(asked.netloc)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            connection = http.client.HTTPConnection(place)
            path = f"{asked.path}?{asked.query}" if asked.query else asked.path
            connection.request(self.command, path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(content)
            connection.close()

        do_PUT = do_HEAD = do_DELETE = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Tests print nothing."""

    with _serving(Handler) as url:
        yield url, told


@contextlib.contextmanager
def instance_metadata(keys: StaticKeys, expiration: datetime) -> Iterator[str]:
    """The URL of what a virtual machine of EC2 asks for the keys of its role, once it has fetched a token."""
    answers = {
        "/latest/api/token": "token",
        "/latest/meta-data/iam/security-credentials/": "role",
        "/latest/meta-data/iam/security-credentials/role": json.dumps(
            {
                "AccessKeyId": keys.access_key_id,
                "SecretAccessKey": keys.secret_access_key,
                "Token": keys.session_token,
                "Expiration": expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        ),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.command == "PUT" or self.headers.get("X-aws-ec2-metadata-token") == "token"
            text = answers[self.path].encode() if allowed else b""
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_PUT = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Tests print nothing."""

    with _serving(Handler) as url:
        yield url


@contextlib.contextmanager
def _serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
