"""Who is compared: each peer relays 127.0.0.1:port to 127.0.0.1:target, in one hop (plain) or in two
with mutual TLS 1.3 between them (tls). One thread each, where they can; all on one core."""
import os
import subprocess

from rig import BIN, TOOLS, WORK, BenchError, Program, ports, wait_port

CIPHER = "TLS_AES_128_GCM_SHA256"
MAX = 9700  # connections that a relay of two descriptors each can have here


class Running:
    """A peer that runs."""
    def __init__(self, port, target, near, far=()):
        self.port, self.target = port, target
        self.near, self.far = list(near), list(far)
        self.programs = self.near + self.far
        self.pids = [p.pid for p in self.programs]

    def by_half(self, values):
        n = len(self.near)
        return [sum(values[:n]), sum(values[n:])] if self.far else [sum(values)]

    def stop(self):
        for p in self.programs:
            p.stop()


class Peer:
    """start(port, tunnel_port, target) gives (near programs, far programs)."""
    def __init__(self, name, kind, hops, start, what):
        self.name, self.kind, self.hops, self._start, self.what = name, kind, hops, start, what

    def start(self):
        port, between, target, _ = ports()
        before = list(Program.running)
        try:
            near, far = self._start(port, between, target)
            running = Running(port if near else target, target, near, far)
            if near:
                wait_port(port, running.programs)
            return running
        except BaseException:
            for p in list(Program.running):
                if p not in before:
                    p.stop()
            raise


def write(name, text):
    path = f"{WORK}/{name}"
    with open(path, "w") as f:
        f.write(text)
    return path


# -- certificates and keys, made once ------------------------------------------------------------------

class Pki:
    dir = WORK + "/certs"
    ca, server, server_key = dir + "/ca.crt", dir + "/server.crt", dir + "/server.key"
    client, client_key = dir + "/client.crt", dir + "/client.key"
    server_pem, client_pem = dir + "/server.pem", dir + "/client.pem"


def make_keys():
    subprocess.run([BIN + "/tsctl", "certs", "--dir", Pki.dir], check=True, stdout=subprocess.DEVNULL)
    for crt, key, pem in ((Pki.server, Pki.server_key, Pki.server_pem), (Pki.client, Pki.client_key, Pki.client_pem)):
        with open(pem, "w") as out:
            for path in (crt, key):
                with open(path) as f:
                    out.write(f.read())
        os.chmod(pem, 0o600)


# -- plain, one hop ----------------------------------------------------------------------------------

def direct(_port, _between, _target):
    return [], []


def own(mode):
    def start(port, _between, target):
        return [Program("relay", [TOOLS + "/relay", mode, port, target])], []
    return start


def socat(port, _between, target):
    return [Program("socat", ["socat", "-b", "65536", f"TCP4-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,backlog=4096,nodelay",
                              f"TCP4:127.0.0.1:{target},nodelay"])], []


def haproxy_conf(port, bind, server, more="", conns=MAX):
    return f"""
global
    nbthread 1
    maxconn {conns}
    maxpipes 100
    {more}
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen relay
    bind 127.0.0.1:{port} {bind}
    {server}
"""


def haproxy_run(name, conf):
    return Program(name, ["haproxy", "-db", "-f", write(name + ".cfg", conf)])


def haproxy(splice):
    def start(port, _between, target):
        server = f"server s 127.0.0.1:{target}"
        if splice:
            server = "option splice-request\n    option splice-response\n    " + server
        return [haproxy_run("haproxy", haproxy_conf(port, "", server))], []
    return start


def nginx_run(name, server):
    conf = write(name + ".conf", f"""
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {WORK}/{name}.pid;
events {{ worker_connections {2 * MAX + 100}; }}
stream {{
    access_log off;
    proxy_timeout 1h;
    server {{ {server} }}
}}
""")
    return Program(name, ["nginx", "-e", f"{WORK}/{name}.err", "-c", conf])


NGINX = "backlog=4096; proxy_half_close on; tcp_nodelay on; proxy_socket_keepalive off;"


def nginx(port, _between, target):
    return [nginx_run("nginx", f"listen 127.0.0.1:{port} {NGINX} proxy_pass 127.0.0.1:{target};")], []


def ours_raw(port, _between, target):
    return [Program("pump", [TOOLS + "/pump", f"127.0.0.1:{port}", f"127.0.0.1:{target}"])], []


def ours_plain(port, between, target):
    return ours(port, between, target, [], "")


# -- TLS, two hops -----------------------------------------------------------------------------------

def haproxy_pair(buffers=""):
    def start(port, between, target):
        tls = f"ca-file {Pki.ca} ciphersuites {CIPHER} ssl-min-ver TLSv1.3"
        far = haproxy_conf(between, f"ssl crt {Pki.server_pem} verify required {tls}",
                           f"server s 127.0.0.1:{target}", buffers)
        near = haproxy_conf(port, "", f"server s 127.0.0.1:{between} ssl crt {Pki.client_pem} verify required "
                            f"verifyhost localhost {tls}", buffers)
        far = haproxy_run("haproxy-far", far)
        wait_port(between, [far])
        return [haproxy_run("haproxy-near", near)], [far]
    return start


def nginx_pair(buffers=""):
    def start(port, between, target):
        far = nginx_run("nginx-far", f"""
        listen 127.0.0.1:{between} ssl {NGINX} {buffers}
        ssl_certificate {Pki.server}; ssl_certificate_key {Pki.server_key};
        ssl_client_certificate {Pki.ca}; ssl_verify_client on;
        ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites {CIPHER};
        proxy_pass 127.0.0.1:{target};""")
        wait_port(between, [far])
        near = nginx_run("nginx-near", f"""
        listen 127.0.0.1:{port} {NGINX} {buffers}
        proxy_ssl on; proxy_ssl_certificate {Pki.client}; proxy_ssl_certificate_key {Pki.client_key};
        proxy_ssl_trusted_certificate {Pki.ca}; proxy_ssl_verify on; proxy_ssl_name localhost;
        proxy_ssl_protocols TLSv1.3; proxy_ssl_conf_command Ciphersuites {CIPHER};
        proxy_pass 127.0.0.1:{between};""")
        return [near], [far]
    return start


def stunnel_pair(port, between, target):
    common = f"""
foreground = yes
pid =
syslog = no
debug = err
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
sslVersionMin = TLSv1.3
ciphersuites = {CIPHER}
CAfile = {Pki.ca}
verifyChain = yes
"""
    far = Program("stunnel-far", ["stunnel4", write("stunnel-far.conf", common + f"""
[far]
accept = 127.0.0.1:{between}
connect = 127.0.0.1:{target}
cert = {Pki.server}
key = {Pki.server_key}
""")])
    wait_port(between, [far])
    near = Program("stunnel-near", ["stunnel4", write("stunnel-near.conf", common + f"""
[near]
client = yes
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{between}
cert = {Pki.client}
key = {Pki.client_key}
checkHost = localhost
""")])
    return [near], [far]


def ssh_keys():
    d = WORK + "/ssh"
    if not os.path.isdir(d):
        os.makedirs(d, 0o700)
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{d}/{name}"], check=True)
    with open(d + "/host.pub") as f:
        return d, f.read()


def ssh_far(between):
    d, _ = ssh_keys()
    conf = write("sshd_config", f"""
ListenAddress 127.0.0.1:{between}
HostKey {d}/host
AuthorizedKeysFile {d}/user.pub
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
Ciphers aes128-gcm@openssh.com
LogLevel ERROR
""")
    far = Program("sshd", ["/usr/sbin/sshd", "-D", "-e", "-f", conf])
    wait_port(between, [far])
    return far


def ssh_near(between, forwards):
    d, host = ssh_keys()
    known = write("known_hosts", f"[127.0.0.1]:{between} {host}")
    conf = write("ssh_config", "".join(f"LocalForward 127.0.0.1:{a} 127.0.0.1:{b}\n" for a, b in forwards) + f"""
IdentityFile {d}/user
UserKnownHostsFile {known}
ExitOnForwardFailure yes
IPQoS none
LogLevel ERROR
""")
    return Program("ssh", ["ssh", "-N", "-F", conf, "-c", "aes128-gcm@openssh.com", "-p", between, "root@127.0.0.1"])


def ssh_l(port, between, target):
    far = ssh_far(between)
    return [ssh_near(between, [(port, target)])], [far]


OURS_ENV = dict(os.environ, HOME=WORK)


def ours_guest(between, flags):
    guest = Program("guest", [BIN + "/guest", "--listen", f"127.0.0.1:{between}"] + flags, OURS_ENV)
    wait_port(between, [guest])
    return guest


def ours_near(src, between, dst, query):
    return Program("tsctl", [BIN + "/tsctl", "forward", "create", "--foreground", src,
                             f"tstunnel://127.0.0.1:{between}/{dst}{query}"], OURS_ENV)


GUEST_TLS = ["--server-cert", Pki.server, "--server-key", Pki.server_key, "--ca-certs", Pki.ca]
QUERY_TLS = f"?cert={Pki.client}&key={Pki.client_key}&ca={Pki.ca}"


def ours(port, between, target, flags, query):
    far = ours_guest(between, flags)
    return [ours_near(f"tcp:127.0.0.1:{port}", between, f"tcp:127.0.0.1:{target}", query)], [far]


def ours_tls(port, between, target):
    return ours(port, between, target, GUEST_TLS, QUERY_TLS)


HAPROXY_64K = "tune.bufsize 65536"
NGINX_64K = "proxy_buffer_size 64k;"

PEERS = [
    Peer("direct", "plain", 0, direct, "no relay"),
    Peer("splice", "plain", 1, own("splice"), "bench/relay.c, splice: the limit"),
    Peer("copy", "plain", 1, own("copy"), "bench/relay.c, copying, 256 KB"),
    Peer("socat", "plain", 1, socat, "a process a connection, 64 KB"),
    Peer("haproxy", "plain", 1, haproxy(False), "mode tcp"),
    Peer("haproxy-splice", "plain", 1, haproxy(True), "mode tcp, option splice-*"),
    Peer("nginx", "plain", 1, nginx, "stream"),
    Peer("ours-raw", "plain", 1, ours_raw, "its relay alone, as for a hijacked Docker connection"),
    Peer("ours-plain", "plain", 2, ours_plain, "tsctl and guest, plain carrier"),
    Peer("haproxy-tls", "tls", 2, haproxy_pair(), "pair"),
    Peer("haproxy-tls-64k", "tls", 2, haproxy_pair(HAPROXY_64K), "pair, 64 KB buffers"),
    Peer("nginx-tls", "tls", 2, nginx_pair(), "pair"),
    Peer("nginx-tls-64k", "tls", 2, nginx_pair(NGINX_64K), "pair, 64 KB buffers"),
    Peer("stunnel", "tls", 2, stunnel_pair, "pair, a thread a connection"),
    Peer("ssh", "tls", 2, ssh_l, "ssh -L, aes128-gcm"),
    Peer("ours-tls", "tls", 2, ours_tls, "tsctl and guest, TLS carrier"),
]
BY_NAME = {p.name: p for p in PEERS}
OURS = ("ours-raw", "ours-plain", "ours-tls")
REFERENCES = ("direct", "splice", "copy")  # no peers: the floor and the limit


def why_not(peer):
    """Starts and stops it once: a sentence when it cannot, else None."""
    try:
        peer.start().stop()
    except (BenchError, OSError) as e:
        return " ".join(str(e).split())
    return None
