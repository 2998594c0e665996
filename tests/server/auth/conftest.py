"""Certificates of a small organisation."""

import shutil
import subprocess
from pathlib import Path

import pytest


class Certificates:
    """An authority, and what it signs. Everything is a file in PEM."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = self.make("authority", "/CN=authority")

    def make(self, name: str, subject: str, names: str = "", *, signed: bool = False) -> Path:
        """A certificate NAME.crt, its key beside it as NAME.key."""
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-days", "2", "-subj", subject, "-keyout", str(key), "-out", str(certificate)]
        if signed:
            command += ["-CA", str(self.authority), "-CAkey", str(self.authority.with_suffix(".key"))]
            command += ["-addext", "basicConstraints=critical,CA:FALSE"]
        if names:
            command += ["-addext", f"subjectAltName={names}"]
        subprocess.run(command, check=True, capture_output=True)
        return certificate

    def server(self, name: str = "server") -> Path:
        """A server's, for this machine."""
        return self.make(name, f"/CN={name}", "IP:127.0.0.1,DNS:localhost", signed=True)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with")
    return Certificates(tmp_path_factory.mktemp("certificates"))
