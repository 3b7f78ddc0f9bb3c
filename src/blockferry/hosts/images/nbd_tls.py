"""TLS for QEMU's own NBD server and client (qemu-nbd, qemu-img): the options that name the certificates.

https://www.qemu.org/docs/master/system/tls.html. The directory holds ca-cert.pem, and server-cert.pem and
server-key.pem, or client-cert.pem and client-key.pem.
"""

from __future__ import annotations

from collections.abc import Mapping
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
        options = {f"file.{name}": value for name, value in blockdev(uri, self).items()}
        return image_options({"driver": "raw", **options})


def blockdev(uri: str, tls: TlsClient | None) -> dict[str, str]:
    """An NBD export (`nbd://HOST:PORT/NAME`) as QEMU's options of a block node. Raises ValueError."""
    export = exports.parse(uri)
    if export.protocol != exports.NBD:
        raise ValueError(f"{uri} is no NBD export")
    found = {
        "driver": "nbd",
        "server.type": "inet",
        "server.host": export.host,
        "server.port": str(export.port),
        "export": export.name,
    }
    if tls is not None:
        found["tls-creds"] = _ID
        found |= {"tls-hostname": tls.hostname} if tls.hostname else {}
    return found


def image_options(options: Mapping[str, str]) -> str:
    """As qemu-img takes them with --image-opts."""
    return ",".join(f"{name}={_quoted(value)}" for name, value in options.items())


def server_options(directory: str) -> list[str]:
    """Of qemu-nbd: no client gets in that has no certificate of the same authority."""
    return ["--object", f"tls-creds-x509,id={_ID},dir={_quoted(directory)},endpoint=server,verify-peer=yes",
            "--tls-creds", _ID]  # fmt: skip


def _quoted(text: str) -> str:
    return text.replace(",", ",,")
