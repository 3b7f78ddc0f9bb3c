"""TLS for lab hosts: a small certificate authority, and a certificate of RSA for each host, by openssl.

They lie below /etc/libvirt, which each lab host has for itself.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lab.hosts import Host
from lab.process import run

QEMU_DIRECTORY = "/etc/libvirt/pki-qemu"
"""Where QEMU of a host finds its certificates."""


class Authority:
    """A certificate authority in a directory."""

    def __init__(self, directory: Path) -> None:
        """Made when it is not there yet."""
        self.directory = directory
        self.key, self.certificate = directory / "ca-key.pem", directory / "ca-cert.pem"
        if not self.certificate.exists():
            directory.mkdir(parents=True, exist_ok=True)
            run(
                ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=lab-ca",
                 "-keyout", self.key, "-out", self.certificate]
            )  # fmt: skip

    def issue(self, name: str, *, days: int = 30) -> tuple[Path, Path]:
        """(certificate, key) for a host of this name; a negative number of days: it has expired."""
        place = self.directory / f"{name}-{days}"
        request, key, certificate = (place.with_suffix(f".{part}") for part in ("csr", "key", "pem"))
        run(
            ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
             "-addext", f"subjectAltName=DNS:{name}", "-keyout", key, "-out", request]
        )  # fmt: skip
        run(
            ["openssl", "x509", "-req", "-in", request, "-copy_extensions", "copy", "-CA", self.certificate,
             "-CAkey", self.key, "-days", str(days), "-out", certificate]
        )  # fmt: skip
        return certificate, key

    def equip(self, host: Host, *, days: int = 30) -> None:
        """Give a host what its QEMU needs as source and as destination of a migration with TLS; libvirtd is started
        anew with it."""
        certificate, key = self.issue(host.name, days=days)
        etc = host.directory / "etc-libvirt"
        place = etc / Path(QEMU_DIRECTORY).name
        place.mkdir(exist_ok=True)
        shutil.copy(self.certificate, place / "ca-cert.pem")
        for side in ("server", "client"):
            shutil.copy(certificate, place / f"{side}-cert.pem")
            shutil.copy(key, place / f"{side}-key.pem")
        host.qemu_owner.own(place)
        for file in place.iterdir():
            host.qemu_owner.own(file)
            os.chmod(file, 0o600 if "key" in file.name else 0o644)
        line = f'migrate_tls_x509_cert_dir = "{QEMU_DIRECTORY}"\n'
        conf = etc / "qemu.conf"
        if line not in conf.read_text():
            conf.write_text(conf.read_text() + line)
            host.restart_libvirtd()
