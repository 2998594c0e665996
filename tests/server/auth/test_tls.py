"""TLS and certificates on a real server, and what it refuses to start with."""

import http.client
import shutil
import ssl
import stat
import subprocess
import time
import urllib.request

import grpc
import pytest

from pointsman import AsyncClient, Client
from pointsman.v1 import admin_pb2
from server.auth.setup import keep_private
from server.cli import main

ARM = '[[arms]]\nid = "a"\n'
UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
GET = admin_pb2.GetRouterRequest()


def flags(certificate) -> tuple[str, ...]:
    return "--tls-cert", str(certificate), "--tls-key", str(certificate.with_suffix(".key"))


def code_of(call) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def healthz(server, context: ssl.SSLContext) -> str:
    with urllib.request.urlopen(f"https://{server.http}/healthz", context=context, timeout=10) as answer:
        return answer.read().decode().strip()


def test_tls_and_tokens_on_an_address_that_others_reach(serving, tmp_path, certificates, tokens_of, capsys):
    tokens, server_certificate = tokens_of(tmp_path / "data"), certificates.server()
    token = tokens.create("read", "route", routers=("default",))
    server = serving(
        tmp_path / "data", ARM, "--listen", "0.0.0.0:0", "--http", "0.0.0.0:0", "--tokens", *flags(server_certificate)
    )
    server.grpc, server.http = (address.replace("0.0.0.0", "127.0.0.1") for address in (server.grpc, server.http))
    authority = certificates.authority.read_bytes()
    with Client(server.grpc, token=token, root_certificates=authority) as client:
        assert client.select({"category": "bugfix"}).arm == "a"
        assert code_of(lambda: client.put_arm(admin_pb2.Arm(id="b"))) is DENIED
    with Client(server.grpc, root_certificates=authority) as client:
        assert code_of(client.list_arms) is UNAUTHENTICATED
    other = certificates.make("stranger", "/CN=stranger").read_bytes()
    for wrong in ({"root_certificates": other}, {"credentials": None}):
        with Client(server.grpc, timeout_seconds=2.0, **wrong) as client:
            assert code_of(client.list_arms) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    status = ["status", "--server", server.grpc, "--router", "default", "--token", token]
    assert main([*status, "--tls-ca", str(certificates.authority)]) == 0
    assert main([*status, "--tls-ca", str(tmp_path / "nothing")]) == 2
    assert "--tls-ca: " in capsys.readouterr().err
    assert healthz(server, ssl.create_default_context(cafile=certificates.authority)) == "serving"
    assert server.stop() == 0


def test_a_token_is_not_sent_in_plaintext_to_others():
    for target in ("example.org:50051", "dns:///10.0.0.1:1", "192.168.1.1:50051", "[::2]:1", "localhost.example:1", ""):
        for client in (Client, AsyncClient):
            with pytest.raises(ValueError, match="plaintext"):
                client(target, token="secret")
    for target in ("127.0.0.1:1", "localhost:1", "[::1]:1", "dns:///localhost:1", "unix:/tmp/x", "ipv4:127.0.0.1:1"):
        Client(target, token="secret").close()
    Client("example.org:50051", token="secret", root_certificates=b"").close()


def test_certificates_say_who_calls(serving, tmp_path, certificates, tokens_of):
    tokens = tokens_of(tmp_path / "data")
    token = tokens.create("admin", "read")
    agent = certificates.make("agent", "/CN=Fleet", "DNS:agents.example.org", signed=True)
    boss = certificates.make("boss", "/CN=boss", signed=True)
    nobody = certificates.make("nobody", "/CN=Boss", "DNS:boss.example.org", signed=True)
    config = f"""
        [security]
        certificate = "{certificates.server()}"
        key = "{certificates.server().with_suffix(".key")}"
        client_ca = "{certificates.authority}"
        tokens = true
        [[security.clients]]
        name = "agents.example.org"
        scopes = ["route"]
        [[security.clients]]
        name = "boss"
        scopes = ["read"]
        routers = ["default"]
    """
    server = serving(tmp_path / "data", config + ARM)

    def client(certificate, token="") -> Client:
        files = (certificates.authority, *((certificate.with_suffix(".key"), certificate) if certificate else ()))
        credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
        return Client(server.grpc, token=token, credentials=credentials, timeout_seconds=3.0)

    with client(agent) as one:
        assert one.select().arm == "a"
        assert code_of(one.list_arms) is DENIED
    with client(boss) as one:
        assert code_of(one.list_arms) is grpc.StatusCode.OK
        assert code_of(one.select) is DENIED
        assert code_of(lambda: one.call(one.admin.ListRouters, admin_pb2.ListRoutersRequest())) is DENIED
    with client(nobody) as one:
        assert code_of(one.list_arms) is UNAUTHENTICATED
    with client(nobody, token) as one:
        assert code_of(one.list_arms) is grpc.StatusCode.OK
        assert code_of(one.select) is DENIED
    with client(agent, token="pointsman_x_y") as one:
        assert code_of(one.select) is UNAUTHENTICATED, "no certificate stands in for a wrong token"
    stranger = certificates.make("imposter", "/CN=boss")
    for unknown in (None, stranger):
        with client(unknown, token) as one:
            assert code_of(one.list_arms) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert healthz(server, ssl.create_default_context(cafile=certificates.authority)) == "serving"

    def dashboard(certificate, *headers: tuple[str, str]) -> int:
        """The status of a page's JSON, asked for with a certificate or without."""
        context = ssl.create_default_context(cafile=certificates.authority)
        if certificate is not None:
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        connection = http.client.HTTPSConnection(server.http, context=context, timeout=10)
        connection.putrequest("GET", "/api/router?router=default")
        for header in headers:
            connection.putheader(*header)
        connection.endheaders()
        try:
            return connection.getresponse().status
        finally:
            connection.close()

    good, bad = ("Authorization", f"Bearer {token}"), ("Authorization", "Bearer pointsman_x_y")
    assert [dashboard(one) for one in (boss, agent, nobody, None)] == [200, 403, 401, 401]
    assert [dashboard(None, good), dashboard(None, good, good), dashboard(None, good, bad)] == [200, 401, 401]
    assert [dashboard(boss, bad), dashboard(agent, good)] == [401, 200]
    with pytest.raises(OSError):
        dashboard(stranger)


def test_a_certificate_that_is_renewed_holds_for_new_connections(serving, tmp_path, certificates):
    def shown() -> set[str]:
        """The certificates that the two ports show."""
        addresses = (address.rpartition(":") for address in (server.grpc, server.http))
        authority = str(certificates.authority)
        return {ssl.get_server_certificate((host, int(port)), ca_certs=authority) for host, _, port in addresses}

    served, first, second = tmp_path / "served.crt", certificates.server("first"), certificates.server("second")
    shutil.copy(first, served)
    shutil.copy(first.with_suffix(".key"), served.with_suffix(".key"))
    server = serving(tmp_path / "data", ARM, *flags(served))
    assert shown() == {first.read_text()}
    shutil.copy(second, served)
    time.sleep(1.5)
    assert shown() == {first.read_text()}, "a certificate whose key is not there yet is not taken"
    shutil.copy(second.with_suffix(".key"), served.with_suffix(".key"))
    deadline = time.monotonic() + 20
    while shown() != {second.read_text()}:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ((), "TLS (certificate and key) and callers who are known (tokens, or client_ca)"),
        (("--tokens",), "TLS (certificate and key)"),
        (("tls",), "callers who are known (tokens, or client_ca)"),
    ],
)
@pytest.mark.parametrize("port", ["--listen", "--http"])
def test_an_address_that_others_reach_needs_both(tmp_path, certificates, capsys, given, missing, port):
    given = flags(certificates.server()) if given == ("tls",) else given
    assert main(["serve", "--data-dir", str(tmp_path / "data"), port, "10.0.0.1:0", *given]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1] == (
        f"pointsman serve: {port}: 10.0.0.1 is not loopback and needs {missing} in [security], or else --insecure"
    )


def test_what_cannot_be_used_is_named_with_its_line(tmp_path, certificates, capsys):
    good, other = certificates.server(), certificates.make("other", "/CN=other")
    encrypted = tmp_path / "encrypted.key"
    command = ["openssl", "pkey", "-in", str(good.with_suffix(".key")), "-aes256", "-passout", "pass:x"]
    subprocess.run([*command, "-out", str(encrypted)], check=True, capture_output=True)
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\xff\x00 no PEM")
    key = good.with_suffix(".key")
    for lines, complaint in {
        f'certificate = "{good}"': "2: security.key: required: TLS needs both",
        f'key = "{key}"': "2: security.certificate: required: TLS needs both",
        'client_ca = "x"': "3: security.client_ca: without a certificate",
        f'certificate = "{tmp_path}/nothing"\nkey = "{key}"': "3: security.certificate: ",
        f'certificate = "{garbage}"\nkey = "{key}"': "3: security.certificate: ",
        f'certificate = "{good}"\nkey = "{garbage}"': "4: security.key: ",
        f'certificate = "{good}"\nkey = "{encrypted}"': "4: security.key: ",
        f'certificate = "{good}"\nkey = "{other.with_suffix(".key")}"': "is not that of the certificate",
        f'certificate = "{good}"\nkey = "{key}"\nclient_ca = "{garbage}"\ntokens = true': "5: security.client_ca: ",
        f'certificate = "{good}"\nkey = "{key}"\nclient_ca = "{good}"': "5: security.client_ca: nobody could call",
        '[[security.clients]]\nname = "x"\nscopes = ["read"]': "security.clients: are known by certificates",
        '[[security.clients]]\nname = "x"\nscopes = ["everything"]': "5: security.clients[0].scopes[0]: ",
        '[[security.clients]]\nname = "x"\nscopes = []': "5: security.clients[0].scopes: ",
        "tokens = 1": "3: security.tokens: ",
        "token = true": "3: security.token: unknown key",
    }.items():
        config = tmp_path / "pointsman.toml"
        config.write_text(f"\n[security]\n{lines}\n{ARM}")
        assert main(["serve", "--config", str(config), "--data-dir", str(tmp_path / "data")]) == 2, lines
        error = capsys.readouterr().err.strip()
        assert complaint in error and len(error.splitlines()) == 1, (lines, error)
        assert "BEGIN" not in error
    assert main(["serve", "--tls-cert", str(good), "--tls-key", str(garbage), "--data-dir", str(tmp_path / "d")]) == 2
    assert "pointsman serve: --tls-key: " in capsys.readouterr().err


def test_the_data_directory_is_for_its_owner(tmp_path, caplog):
    keep_private(tmp_path / "new")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert not caplog.records
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o750)
    keep_private(tmp_path / "open")
    assert "can be read by others (mode 750)" in caplog.text
