"""Certificates for the tests, by openssl: good ones, and one for each way to be wrong."""
import os
import subprocess

HOST = "containers.tinyscale.net"
CONFIG = """
[ca]
default_ca = here
[here]
dir = {dir}
new_certs_dir = {dir}/issued
database = {dir}/index.txt
serial = {dir}/serial
default_md = sha256
policy = any
unique_subject = no
copy_extensions = copy
[any]
commonName = supplied
[req]
distinguished_name = dn
[dn]
"""


def openssl(*args, **kw):
    subprocess.run(["openssl", *args], check=True, capture_output=True, **kw)


class Pki:
    def __init__(self, dir):
        self.dir = dir
        os.makedirs(dir + "/issued")
        open(dir + "/index.txt", "w").close()
        with open(dir + "/serial", "w") as f:
            f.write("1000\n")
        with open(dir + "/ca.cnf", "w") as f:
            f.write(CONFIG.format(dir=dir))
        self._ca("ca", "TinyscaleCA")
        self._ca("other-ca", "SomeoneElse")
        san = f"DNS:{HOST},DNS:*.{HOST},IP:10.77.0.2"
        self.issue("server", HOST, san)
        self.issue("server-expired", HOST, san, start="20200101000000Z", end="20210101000000Z")
        self.issue("server-future", HOST, san, start="20480101000000Z", end="20490101000000Z")
        self.issue("server-other-ca", HOST, san, ca="other-ca")
        self.issue("server2", HOST, san)
        self.issue("client", "client")
        self.issue("client2", "other-client")
        self.issue("client-spiffe", "workload", "URI:spiffe://tinyscale.net/ns/dev/sa/alice")
        self.issue("client-expired", "client", start="20200101000000Z", end="20210101000000Z")
        self.issue("client-other-ca", "client", ca="other-ca")

    def crt(self, name):
        return f"{self.dir}/{name}.crt"

    def key(self, name):
        return f"{self.dir}/{name}.key"

    def _key(self, name):
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.key(name))
        os.chmod(self.key(name), 0o600)

    def _ca(self, name, cn):
        self._key(name)
        openssl("req", "-x509", "-new", "-key", self.key(name), "-out", self.crt(name), "-days", "365",
                "-subj", f"/CN={cn}")

    def issue(self, name, cn, san=None, ca="ca", start=None, end=None):
        self._key(name)
        csr = f"{self.dir}/{name}.csr"
        openssl("req", "-new", "-key", self.key(name), "-out", csr, "-subj", f"/CN={cn}",
                "-config", self.dir + "/ca.cnf", *(["-addext", f"subjectAltName={san}"] if san else []))
        when = ["-startdate", start, "-enddate", end] if start else ["-days", "365"]
        openssl("ca", "-batch", "-notext", "-config", self.dir + "/ca.cnf", "-cert", self.crt(ca),
                "-keyfile", self.key(ca), "-in", csr, "-out", self.crt(name), *when)
