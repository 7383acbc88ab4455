"""Certificates and kubeconfigs of a test cluster: one authority, one certificate a component."""

import subprocess
from pathlib import Path

import yaml

DAYS = "30"


class Authority:
    """A certificate authority whose files lie in one folder; `issue` adds a certificate and its key."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        if not self.certificate.exists():
            uses = "keyUsage=critical,keyCertSign,cRLSign"
            self._make("ca", "/CN=antiphon-test-cluster", "basicConstraints=critical,CA:TRUE", uses)

    @property
    def certificate(self) -> Path:
        return self.folder / "ca.crt"

    def issue(self, name: str, subject: str, *alternative_names: str) -> tuple[Path, Path]:
        """Certificate and key: a server's where it has alternative names (`IP:…`, `DNS:…`), else a client's."""
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        if not certificate.exists():
            extensions = ["extendedKeyUsage=" + ("serverAuth" if alternative_names else "clientAuth")]
            if alternative_names:
                extensions.append("subjectAltName=" + ",".join(alternative_names))
            signed_by = ["-CA", str(self.certificate), "-CAkey", str(self.folder / "ca.key")]
            self._make(name, subject, "basicConstraints=critical,CA:FALSE", *extensions, options=signed_by)
        return certificate, key

    def signing_key(self) -> tuple[Path, Path]:
        """The private and the public key of service account tokens."""
        private, public = self.folder / "service-accounts.key", self.folder / "service-accounts.pub"
        if not public.exists():
            openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(private))
            openssl("ec", "-in", str(private), "-pubout", "-out", str(public))
        return private, public

    def _make(self, name: str, subject: str, *extensions: str, options: list[str] | None = None) -> None:
        added = [argument for extension in extensions for argument in ("-addext", extension)]
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        files = ["-keyout", str(self.folder / f"{name}.key"), "-out", str(self.folder / f"{name}.crt")]
        openssl("req", "-x509", "-days", DAYS, "-subj", subject, *key, *files, *(options or []), *added)


def openssl(*arguments: str) -> None:
    # The system's defaults would add extensions of their own beside those asked for.
    subprocess.run(
        ["openssl", *arguments],
        check=True,
        capture_output=True,
        env={"OPENSSL_CONF": "/dev/null", "PATH": "/usr/bin:/bin"},
    )


def write_kubeconfig(path: Path, server: str, authority: Path, user: dict[str, str], context: str) -> Path:
    """A kubeconfig with one cluster, one user and one context, which is the current one."""
    told = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": {"server": server, "certificate-authority": str(authority)}}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": "user"}}],
        "current-context": context,
    }
    path.write_text(yaml.safe_dump(told))
    path.chmod(0o600)
    return path
