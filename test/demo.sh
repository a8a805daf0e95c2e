#!/usr/bin/env bash
# shellcheck disable=SC2016 # what is in single quotes is for other shells
# The main job, shown on this machine: two hosts, which are namespaces joined by a veth pair; an engine
# and guest on one, tsctl and the docker CLI on the other. Run it with ./build.sh demo.
#
# Nothing of it touches the machine: when the script ends, both hosts are gone.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
bin=${TSTUNNEL_BIN:-$root/bin}
[ "$(id -u)" = 0 ] || { echo "demo.sh: namespaces and dockerd need root" >&2; exit 1; }
for program in tsctl guest; do
	[ -x "$bin/$program" ] || { echo "demo.sh: no $bin/$program; ./build.sh builds it" >&2; exit 1; }
done
if [ "${1:-}" != laptop ]; then
	exec unshare --net --mount "$0" laptop
fi

name=containers.tinyscale.net
work=$(mktemp -d)
export PATH=$bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
export HOME=$work XDG_RUNTIME_DIR=$work/run DOCKER_CONFIG=$work/.docker DOCKER_BUILDKIT=0
unset DOCKER_HOST DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_CERT_PATH
mkdir -m 700 "$XDG_RUNTIME_DIR"
cd "$work"
remote_pid=

finish() {
	local status=$?
	trap - EXIT
	[ -z "$remote_pid" ] || kill -KILL "$remote_pid" 2>/dev/null || true
	[ ! -e "$work/tsctl.up" ] || tsctl stop >/dev/null 2>&1 || true
	wait 2>/dev/null || true
	if [ "$status" != 0 ]; then
		printf '\nThe demo failed (status %s). The end of the logs:\n' "$status"
		tail -n 20 "$work"/*.log
	fi
	find /sys/fs/cgroup -depth -type d -path "*/demo-$$*" -exec rmdir {} + 2>/dev/null || true
	rm -rf "$work"
	exit "$status"
}
trap finish EXIT

# tls [ts-]: the flags for our certificate.
tls() { echo "--${1:-}cert certs/laptop.crt --${1:-}key certs/laptop.key --${1:-}ca certs/ca.crt"; }
title() { printf '\n\033[1m%s\033[0m\n' "$*"; }
remote() { nsenter -t "$remote_pid" --net --mount --pid --uts -- "$@"; }
# show COMMAND LINE: prints it as a user on the laptop would type it, and runs it.
show() {
	printf '\n  laptop$ %s\n' "$*"
	eval "$*" 2>&1 | sed 's/^/    /'
}
# until_ok WHAT COMMAND...: waits at most 30 s for it to succeed.
until_ok() {
	local what=$1 i
	shift
	for ((i = 0; i < 300; i++)); do
		if "$@" >/dev/null 2>&1; then return; fi
		sleep 0.1
	done
	echo "demo.sh: $what did not start" >&2
	return 1
}

title "Two hosts: this laptop (10.77.0.1) and a remote one (10.77.0.2), joined by a cable"
ip link set lo up
setpriv --pdeathsig KILL unshare --net --mount --pid --uts --fork --mount-proc --kill-child=KILL sh -c '
	mount -t tmpfs tmpfs /run && hostname remote-host && ip link set lo up && touch "$0" &&
	while :; do sleep 3600 & wait; done' "$work/remote.up" 2>"$work/remote.log" &
until_ok "the remote host" test -e "$work/remote.up"
remote_pid=$(tr -d ' ' <"/proc/$!/task/$!/children")
ip link add demo0 type veth peer name demo0 netns "$remote_pid"
ip addr add 10.77.0.1/24 dev demo0
ip link set demo0 up
remote sh -c 'ip addr add 10.77.0.2/24 dev demo0 && ip link set demo0 up'
printf '127.0.0.1 localhost\n10.77.0.2 %s\n' "$name" >"$work/hosts"
mount --bind "$work/hosts" /etc/hosts

title "Certificates for both ends"
show "tsctl certs --server-name $name --client-name laptop"

title "On the remote host: dockerd on its /var/run/docker.sock, and guest, which wants a client certificate"
echo '{}' >"$work/daemon.json"
remote dockerd --data-root "$work/docker" --config-file "$work/daemon.json" -H unix:///run/docker.sock \
	--bip 172.31.0.1/24 --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/demo-$$" \
	>"$work/dockerd.log" 2>&1 &
printf '\n  remote$ guest --port 443 --server-cert server.crt --server-key server.key --ca-certs ca.crt\n'
remote "$bin/guest" --port 443 --server-cert "$work/certs/server.crt" --server-key "$work/certs/server.key" \
	--ca-certs "$work/certs/ca.crt" --sync-root "$work/remote-files" --state-dir "$work/remote-state" \
	>"$work/guest.log" 2>&1 &
until_ok dockerd remote docker -H unix:///run/docker.sock version

title "On the laptop: tsctl, one connection to $name, and a Docker API on 127.0.0.1:2375"
until_ok guest remote sh -c 'ss -ltn sport = :443 | grep -q LISTEN'
show "tsctl start --detach --listen 127.0.0.1:2375 --ts-server $name:443 $(tls ts-)"
touch "$work/tsctl.up"
show "tsctl status"

title "The docker CLI talks to 127.0.0.1:2375; everything happens over there"
export DOCKER_HOST=tcp://127.0.0.1:2375
printf '\n  laptop$ export DOCKER_HOST=%s\n' "$DOCKER_HOST"
show "docker version --format 'client {{.Client.Version}} -> engine {{.Server.Version}}'"
show "docker info --format 'the engine runs on: {{.Name}}'"

title "An image travels up, containers run there, their output comes back"
mkdir -p image/bin
cp /bin/busybox image/bin/
for applet in sh cat date echo httpd ls sleep wc hostname seq; do ln -s busybox "image/bin/$applet"; done
show "tar -C image -c . | docker import - busybox"
show "docker run --rm busybox echo hello from a container"
show "printf 'typed here, counted there' | docker run -i --rm busybox wc -c"
printf '\n  laptop$ docker run --rm busybox sh -c "exit 42"; echo $?\n'
status=0
docker run --rm busybox sh -c 'exit 42' || status=$?
echo "    $status"
[ "$status" = 42 ]

title "docker build: the context goes up, the image stays there"
mkdir app
printf 'FROM busybox\nCOPY page /www/index.html\nCMD ["httpd", "-f", "-h", "/www"]\n' >app/Dockerfile
echo 'a page from the laptop' >app/page
show "docker build -q -t web app"
show "docker run -d -p 8080:80 --name web web"
show "docker exec web cat /www/index.html"
show "docker run --name counter busybox seq 1 3"
show "docker logs counter"
show "docker ps -a --format 'table {{.Names}}\t{{.Image}}\t{{.Status}}'"

title "Published ports answer on the laptop, as long as their container runs"
until_ok "the web server" busybox wget -qO- http://localhost:8080/
show "busybox wget -qO- http://localhost:8080/"
show "docker port web"
show "tsctl status"
printf '\n  laptop$ docker run --rm -p 8080:80 busybox true\n'
if docker run --rm -p 8080:80 busybox true >taken 2>&1; then
	echo "demo.sh: a port was given twice" >&2
	exit 1
fi
sed 's/^/    /' taken
show "docker rm -f web"
[ "$(busybox wget -qO- http://localhost:8080/ 2>/dev/null)" = "" ]

title "A directory of the laptop in a container, as with a local engine: an edit here is served there"
mkdir -p site/cgi-bin
cd site
echo 'first version' >index.html
printf '#!/bin/sh\ncat >/app/"$QUERY_STRING"\necho "Content-Type: text/plain"; echo; echo thanks\n' >cgi-bin/upload
chmod +x cgi-bin/upload
show 'docker run -d -p 8080:80 -v $(pwd):/app --name site busybox httpd -f -h /app'
page() { [ "$(busybox wget -qO- http://localhost:8080/)" = "$1" ]; }
until_ok "the web server" page 'first version'
show "busybox wget -qO- http://localhost:8080/"
show "echo 'second version' >index.html"
until_ok "the second version" page 'second version'
show "busybox wget -qO- http://localhost:8080/"
show "docker inspect -f '{{(index .Mounts 0).Source}}' site"

title "An upload there appears here; what a container wrote is here when docker run returns"
show "busybox wget -qO- --post-data 'bytes of an upload' 'http://localhost:8080/cgi-bin/upload?photo.txt'"
until_ok "the upload" grep -q upload photo.txt
show "cat photo.txt; echo"
show 'docker run --rm -v $(pwd):/app busybox sh -c "wc -c </app/photo.txt >/app/count" && cat count'
[ "$(cat count)" = 18 ]
show "tsctl status"
show "docker rm -f site"
cd "$work"

title "host-exec: any command of the remote host, its output and its exit status"
show "tsctl host-exec --server-addr $name:443 $(tls) -- hostname"
show "seq 1 1000 | tsctl host-exec --server-addr $name:443 $(tls) -- sha256sum"
show "seq 1 1000 | sha256sum"

title "Without a certificate of that authority nobody gets in"
printf '\n  laptop$ tsctl host-exec --server-addr %s:443 --insecure -- hostname\n' "$name"
if tsctl host-exec --server-addr "$name:443" --insecure -- hostname >refused 2>&1; then
	echo "demo.sh: the guest let somebody in without a certificate" >&2
	exit 1
fi
sed 's/^/    /' refused

title "The end"
show "tsctl stop"
rm "$work/tsctl.up"
