"""TLS for QEMU's own NBD server and client (qemu-nbd, qemu-img): the options that name the certificates.

https://www.qemu.org/docs/master/system/tls.html. The directory holds ca-cert.pem, and server-cert.pem and
server-key.pem, or client-cert.pem and client-key.pem.
"""

from __future__ import annotations

from dataclasses import dataclass

from blockferry.hosts import exports

_ID = "tls0"


@dataclass(frozen=True, slots=True)
class TlsClient:
    """`directory`: of the client's certificates. `hostname`: in the server's certificate; "": as it is addressed."""

    directory: str
    hostname: str = ""

    def options(self) -> list[str]:
        """Of qemu-img."""
        return ["--object", f"tls-creds-x509,id={_ID},dir={_quoted(self.directory)},endpoint=client,verify-peer=yes"]

    def image(self, uri: str) -> str:
        """The image option for an NBD export (`nbd://HOST:PORT/NAME`). Raises ValueError."""
        export = exports.parse(uri)
        if export.protocol != exports.NBD:
            raise ValueError(f"{uri} is no NBD export")
        words = {
            "driver": "raw",
            "file.driver": "nbd",
            "file.server.type": "inet",
            "file.server.host": export.host,
            "file.server.port": str(export.port),
            "file.export": export.name,
            "file.tls-creds": _ID,
        }
        if self.hostname:
            words["file.tls-hostname"] = self.hostname
        return ",".join(f"{name}={_quoted(value)}" for name, value in words.items())


def server_options(directory: str) -> list[str]:
    """Of qemu-nbd: no client gets in that has no certificate of the same authority."""
    return ["--object", f"tls-creds-x509,id={_ID},dir={_quoted(directory)},endpoint=server,verify-peer=yes",
            "--tls-creds", _ID]  # fmt: skip


def _quoted(text: str) -> str:
    return text.replace(",", ",,")
