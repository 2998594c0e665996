"""`pointsman doctor` on certificates, keys and tokens, in a configuration and on the way to a server."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from server.cli import main

CONFIG = """
[security]
certificate = "{certificate}"
key = "{key}"
tokens = true
tokens_file = "{tokens}"
[router]
policy = "uniform"
baseline_arm = "a"
[[arms]]
id = "a"
input_usd_per_million = 1.0
figures = [{{ success_rate = 0.5 }}]
[[arms]]
id = "b"
input_usd_per_million = 2.0
figures = [{{ success_rate = 0.6 }}]
"""


class Guarded:
    """A configuration with TLS and a token, in a folder."""

    def __init__(self, folder: Path, certificate: Path, capsys) -> None:
        self.folder = folder
        self.certificate = Path(shutil.copy(certificate, folder / "server.crt"))
        self.key = Path(shutil.copy(certificate.with_suffix(".key"), folder / "server.key"))
        self.tokens = folder / "data" / "tokens.json"
        self._capsys = capsys

    def config(self) -> str:
        path = self.folder / "pointsman.toml"
        path.write_text(CONFIG.format(certificate=self.certificate, key=self.key, tokens=self.tokens))
        return str(path)

    def found(self, *arguments: str) -> dict[str, str]:
        """What was found, by the codes."""
        self._capsys.readouterr()
        main(["doctor", *(arguments or ("--config", self.config())), "--json", "-"])
        return {one["code"]: one["found"] for one in json.loads(self._capsys.readouterr().out)["findings"]}


def made(folder: Path, days: int, *more: str) -> Path:
    """A certificate that its own key has signed."""
    key, request, certificate = (folder / f"{days}.{end}" for end in ("key", "csr", "crt"))
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=s"]
    asking = ["req", *curve, "-keyout", str(key), "-out", str(request)]
    signing = ["x509", "-req", "-in", str(request), "-signkey", str(key), "-days", str(days), "-out", str(certificate)]
    for command in (asking, [*signing, *more]):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return certificate


@pytest.fixture
def guarded(certificates, tmp_path, tokens_of, capsys) -> Guarded:
    tokens_of(tmp_path / "data").create("route")
    return Guarded(tmp_path, made(tmp_path, 90), capsys)


def test_a_guarded_service_has_no_finding(guarded):
    assert guarded.found() == {}


def test_a_certificate_of_an_authority_has_no_finding_but_that_it_ends(guarded, certificates):
    guarded.certificate = certificates.server()
    guarded.key = guarded.certificate.with_suffix(".key")
    found = guarded.found()
    assert list(found) == ["certificate-ends-soon"] and "in 2.0 days" in found["certificate-ends-soon"]


def test_an_expired_certificate(guarded, certificates):
    guarded.certificate = made(guarded.folder, -1)
    guarded.key = guarded.certificate.with_suffix(".key")
    assert list(guarded.found()) == ["certificate-expired"]


def test_a_certificate_that_is_not_for_servers(guarded, certificates):
    uses = guarded.folder / "uses"
    uses.write_text("extendedKeyUsage = clientAuth\n")
    guarded.certificate = made(guarded.folder, 91, "-extfile", str(uses))
    guarded.key = guarded.certificate.with_suffix(".key")
    assert list(guarded.found()) == ["certificate-refused"]


def test_files_that_are_not_there_not_readable_or_not_of_each_other(guarded, certificates):
    guarded.key = certificates.authority.with_suffix(".key")
    assert "is not that of the certificate" in guarded.found()["tls-unusable"]
    guarded.key = guarded.folder / "none"
    assert "none cannot be read" in guarded.found()["tls-unusable"]
    guarded.key.mkdir()
    assert "cannot be read" in guarded.found()["tls-unusable"]
    guarded.certificate, guarded.key = guarded.folder / "pointsman.toml", guarded.folder / "server.key"
    assert "holds no certificate in PEM" in guarded.found()["tls-unusable"]


def test_a_key_and_tokens_that_others_can_read(guarded):
    guarded.key.chmod(0o644)
    guarded.tokens.chmod(0o640)
    assert set(guarded.found()) == {"key-open", "tokens-open"}
    guarded.key.chmod(0o640)
    guarded.tokens.chmod(0o600)
    assert guarded.found() == {}


def test_tokens_that_cannot_be_used(guarded):
    guarded.tokens.chmod(0o666)
    assert "written by others" in guarded.found()["tokens-unusable"]
    guarded.tokens.chmod(0o600)
    guarded.tokens.write_text("[]")
    assert "no file of tokens" in guarded.found()["tokens-unusable"]


def test_a_server_with_tls_is_asked_by_tls(guarded, certificates, serving):
    guarded.certificate = certificates.server()
    guarded.key = guarded.certificate.with_suffix(".key")
    flags = ("--tls-cert", str(guarded.certificate), "--tls-key", str(guarded.key))
    config = guarded.config()
    server = serving(guarded.folder / "served", Path(config).read_text().replace("tokens = true", ""), *flags)
    at = ("--server", server.grpc, "--timeout", "2")
    assert guarded.found(*at, "--tls-ca", str(certificates.authority)) == {}
    assert "tried plaintext" in guarded.found(*at)["out-of-reach"]
    assert "tried TLS" in guarded.found(*at, "--tls")["out-of-reach"]
