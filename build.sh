#!/usr/bin/env bash
# The one entry to the house. ./build.sh help says what it does; build.mk has the rules.
set -euo pipefail
cd "$(dirname "$0")"

CC=${CC:-gcc}
SAN=${SAN:-}
BORINGSSL=${BORINGSSL:-}
FUZZ_SECONDS=${FUZZ_SECONDS:-5}
UNIT_TIMEOUT=${UNIT_TIMEOUT:-120}
PYTHON=/usr/bin/python3 # Debian's, which sees Debian's python3-* packages
JOBS=$(nproc)

# The plain gcc build is the one that people use: it goes to bin/. Others keep to build/.
out=build/$(basename "$CC")${SAN:+-${SAN//,/-}}
bin=$out/bin
if [ "$out" = build/gcc ]; then bin=bin; fi

export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_stack_use_after_return=1:strict_string_checks=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}

BUILD_PACKAGES="gcc libc6-dev make"
if [ "$CC" != gcc ]; then BUILD_PACKAGES+=" clang libclang-rt-dev"; fi
if [ -z "$BORINGSSL" ]; then BUILD_PACKAGES+=" android-libboringssl-dev"; fi
FUZZ_PACKAGES="clang libclang-rt-dev"
DEMO_PACKAGES="docker.io busybox-static openssl iproute2 iptables procps"
TEST_PACKAGES="$FUZZ_PACKAGES $DEMO_PACKAGES libcmocka-dev docker-compose python3-docker python3-yaml
	python3-pytest curl"
SSH_PACKAGES="openssh-server openssh-client dropbear-bin openssl procps
	python3-paramiko rsync jq"
if ! command -v kubectl >/dev/null; then SSH_PACKAGES+=" kubernetes-client"; fi
RELEASE_PACKAGES="g++ dpkg-dev"
BENCH_PACKAGES="haproxy nginx libnginx-mod-stream stunnel4 socat openssh-server openssh-client
	iproute2 util-linux strace linux-perf rsync unison git docker.io busybox-static openssl tinyproxy-bin"
LINT_PACKAGES="clang-format clang-tidy cppcheck shellcheck"

say() { printf '== %s\n' "$*"; }
die() { printf 'build.sh: %s\n' "$*" >&2; exit 1; }

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo -E "$@"; fi
}

# need PACKAGE...: installs those of Debian's packages that are not there yet.
need() {
	command -v dpkg-query >/dev/null || { need_commands; return; }
	local missing=() p
	local have; have=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null) || true
	for p in "$@"; do
		grep -qx "$p installed" <<<"$have" || missing+=("$p")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
		die "missing packages, and neither root nor sudo: apt-get install ${missing[*]}"
	fi
	say "installing ${missing[*]}"
	as_root apt-get -q update
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends \
		"${missing[@]}" || die "could not install: ${missing[*]}"
}

# need_idle PACKAGE...: need, but what it installs is not started as a service.
need_idle() {
	local policy=/usr/sbin/policy-rc.d ours=no status=0
	if command -v dpkg-query >/dev/null && [ ! -e "$policy" ]; then
		ours=yes
		printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
		as_root chmod 755 "$policy"
	fi
	(need "$@") || status=$?
	if [ $ours = yes ]; then as_root rm -f "$policy"; fi
	return $status
}

# Not a Debian: nothing is installed, but say at once what a build cannot do without.
need_commands() {
	local c
	for c in "$CC" make; do
		command -v "$c" >/dev/null || die "not a Debian machine: please install $c yourself"
	done
}

# mk TARGET...: the build proper, for this CC and SAN.
mk() {
	make -f build.mk -j"$JOBS" CC="$CC" SAN="$SAN" BORINGSSL="$BORINGSSL" OUT="$out" BIN="$bin" "$@"
}

mk_fuzz() {
	make -f build.mk -j"$JOBS" CC=clang SAN=fuzzer-no-link,address,undefined \
		BORINGSSL="$BORINGSSL" OUT=build/fuzz BIN=build/fuzz/bin "$@"
}

fuzz_names() {
	local f
	for f in fuzz/*.c; do
		[ -e "$f" ] && basename "$f" .c
	done
	return 0
}

cmd_deps() {
	# shellcheck disable=SC2086 # lists of words
	need $BUILD_PACKAGES $TEST_PACKAGES $LINT_PACKAGES
	# shellcheck disable=SC2086
	need_idle $SSH_PACKAGES
}

cmd_build() {
	# shellcheck disable=SC2086
	need $BUILD_PACKAGES
	mk all
}

cmd_demo() {
	# shellcheck disable=SC2086
	need $DEMO_PACKAGES
	cmd_build
	as_root env TSTUNNEL_BIN="$PWD/$bin" test/demo.sh
}

bench_run() {
	local program=$1
	shift
	as_root env TSTUNNEL_BIN="$PWD/$bin" TSTUNNEL_BENCH="$PWD/$out/bench" "$PYTHON" -B "bench/$program" "$@"
}

# cmd_bench [relay|sync|sandbox] [ARGUMENT OF bench/run.py, sync.py or sandbox.py...]
cmd_bench() {
	# shellcheck disable=SC2086
	need $BUILD_PACKAGES
	# shellcheck disable=SC2086
	need_idle $BENCH_PACKAGES
	mk all bench
	case ${1:-} in
	relay) shift; bench_run run.py "$@" ;;
	sync) shift; bench_run sync.py "$@" ;;
	sandbox) shift; bench_run sandbox.py "$@" ;;
	"" | --quick) bench_run run.py "$@"; bench_run sync.py "$@"; bench_run sandbox.py "$@" ;;
	*) bench_run run.py "$@" ;;
	esac
}

passed=0 failed=0
# count PASSED FAILED
count() { passed=$((passed + $1)); failed=$((failed + $2)); }

# Each unit test is a process with a time limit; its log is shown when it fails.
test_unit() {
	local t log ok bad status
	mkdir -p "$out/log"
	mk unit
	for t in test/unit/test_*.c; do
		[ -e "$t" ] || continue
		t=$(basename "$t" .c) log=$out/log/$t status=0
		timeout -k 5 "$UNIT_TIMEOUT" "$out/unit/$t" >"$log" 2>&1 </dev/null || status=$?
		ok=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' "$log" | tail -n 1)
		bad=$(sed -n 's/^\[  FAILED  \] \([0-9]*\) test.*/\1/p' "$log" | tail -n 1)
		if [ "$status" = 0 ]; then
			printf '  %-28s %s passed\n' "$t" "${ok:-?}"
			count "${ok:-1}" 0
		else
			sed 's/^/    /' "$log"
			printf '  %-28s FAILED (status %s, log %s)\n' "$t" "$status" "$log"
			count "${ok:-0}" "${bad:-1}"
		fi
	done
}

# fuzz_one NAME SECONDS: replays the corpus, then looks for new inputs. Finds stay under build/.
fuzz_one() {
	local name=$1 seconds=$2 dict=() seeds=()
	local found=build/fuzz/corpus/$name
	mkdir -p "$found" build/fuzz/crash
	if [ -e "fuzz/$name.dict" ]; then dict=("-dict=fuzz/$name.dict"); fi
	if [ -d "fuzz/corpus/$name" ]; then seeds=("fuzz/corpus/$name"); fi
	build/fuzz/bin/"$name" -runs=0 -timeout=10 -rss_limit_mb=1024 "${seeds[@]}" || return 1
	if [ "$seconds" = 0 ]; then return 0; fi
	build/fuzz/bin/"$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 \
		-print_final_stats=1 -artifact_prefix="build/fuzz/crash/$name-" "${dict[@]}" \
		"$found" "${seeds[@]}"
}

test_fuzz() {
	local name names=() bad=0
	mk_fuzz fuzz
	mkdir -p build/fuzz/log
	mapfile -t names < <(fuzz_names)
	[ ${#names[@]} -gt 0 ] || return 0
	export -f fuzz_one
	printf '%s\n' "${names[@]}" | xargs -P "$JOBS" -I{} bash -c \
		"rm -f build/fuzz/log/{}.ok; fuzz_one {} $FUZZ_SECONDS >build/fuzz/log/{} 2>&1 </dev/null &&
		touch build/fuzz/log/{}.ok || true"
	for name in "${names[@]}"; do
		if [ -e "build/fuzz/log/$name.ok" ]; then
			printf '  %-28s %s executions\n' "$name" \
				"$(sed -n 's/^stat::number_of_executed_units: *//p' "build/fuzz/log/$name")"
			count 1 0
		else
			tail -n 60 "build/fuzz/log/$name" | sed 's/^/    /'
			printf '  %-28s FAILED\n' "$name"
			count 0 1
			bad=1
		fi
	done
	return $bad
}

# test_e2e [PYTEST ARGUMENT...]
test_e2e() {
	local xml=$out/e2e.xml n=() a
	rm -f "$xml"
	mk bench # its load generator is tested, too
	as_root env TSTUNNEL_BIN="$PWD/$bin" TSTUNNEL_BENCH="$PWD/$out/bench" TSTUNNEL_SAN="$SAN" \
		PYTHONDONTWRITEBYTECODE=1 \
		"$PYTHON" -m pytest -p no:cacheprovider -q --tb=short -rs --junitxml="$PWD/$xml" \
		test/e2e "$@" </dev/null || true
	[ -s "$xml" ] || { count 0 1; return; }
	for a in tests failures errors skipped; do
		n+=("$(grep -o "<testsuite [^>]*" "$xml" | sed -n "s/.* $a=\"\([0-9]*\)\".*/\1/p")")
	done
	count $((n[0] - n[1] - n[2] - n[3])) $((n[1] + n[2]))
}

cmd_test() {
	# shellcheck disable=SC2086
	need $BUILD_PACKAGES $TEST_PACKAGES
	# shellcheck disable=SC2086
	need_idle $SSH_PACKAGES
	cmd_build
	case ${1:-all} in
	all | unit | fuzz | e2e) ;;
	*) die "test: unknown part '$1' (unit, fuzz or e2e; nothing for all)" ;;
	esac
	local part=${1:-all}
	if [ $# -gt 0 ]; then shift; fi
	if [[ $part = all || $part = unit ]]; then say "unit tests ($out)"; test_unit; fi
	if [[ $part = all || $part = fuzz ]]; then say "fuzz targets, $FUZZ_SECONDS s each"; test_fuzz || true; fi
	if [[ $part = all || $part = e2e ]]; then say "end-to-end tests ($bin)"; test_e2e "$@"; fi
	printf '%d passed, %d failed\n' "$passed" "$failed"
	[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}

cmd_fuzz() {
	local seconds=${2:-60} name
	# shellcheck disable=SC2086
	need $BUILD_PACKAGES $FUZZ_PACKAGES
	if [ $# = 0 ]; then die "fuzz NAME|all [SECONDS]; names: $(fuzz_names | tr '\n' ' ')"; fi
	mk_fuzz fuzz
	if [ "$1" = all ]; then
		for name in $(fuzz_names); do
			say "fuzz $name"
			fuzz_one "$name" "$seconds"
		done
	else
		[ -e "fuzz/$1.c" ] || die "no such fuzz target: $1 (there are: $(fuzz_names | tr '\n' ' '))"
		fuzz_one "$1" "$seconds"
	fi
}

# Who may include whom: cmd -> proto -> http, json -> reactor.
lint_rooms() {
	local room may bad=0 hits
	while read -r room may; do
		[ -d "$room" ] || continue
		hits=$(grep -rnE '^#[[:space:]]*include "' --include='*.[ch]' "$room" |
			grep -vE "include \"($may)/" || true)
		if [ -n "$hits" ]; then
			printf '%s\n%s/ may include only %s\n' "$hits" "$room" "$may"
			bad=1
		fi
	done <<-'END'
		reactor reactor
		json json|reactor
		http http|reactor
		proto proto|http|json|reactor
		cmd cmd|proto|http|json|reactor
	END
	hits=$(grep -rnE '^#[[:space:]]*include "reactor/' --include='*.[ch]' json 2>/dev/null |
		grep -vE '"reactor/(base|buf|err|utf8)\.h"' || true)
	hits+=$(grep -rnE '^#[[:space:]]*include <openssl/' --include='*.[ch]' . 2>/dev/null |
		grep -vE '^\./(build/|reactor/(tls|crypto)[a-z_]*\.[ch]:|test/|fuzz/)' || true)
	hits+=$(grep -rnE '^#[[:space:]]*include <sys/epoll.h>' --include='*.[ch]' reactor json http \
		proto cmd 2>/dev/null | grep -v '^reactor/reactor\.c:' || true)
	hits+=$(grep -rnE '#[[:space:]]*define[[:space:]]+_GNU_SOURCE' --include='*.[ch]' reactor json \
		http proto cmd test fuzz 2>/dev/null || true)
	if [ -n "$hits" ]; then
		printf '%s\nan include out of its room\n' "$hits"
		bad=1
	fi
	return $bad
}

cmd_lint() {
	# shellcheck disable=SC2086
	need $BUILD_PACKAGES $LINT_PACKAGES libcmocka-dev clang
	local files=() sources=() bad=0 flags
	mapfile -t files < <(find reactor json http proto cmd fuzz bench test -name '*.[ch]' 2>/dev/null | sort)
	mapfile -t sources < <(printf '%s\n' "${files[@]}" | grep '\.c$')
	say "rooms"; lint_rooms || bad=1
	say "clang-format"; clang-format --dry-run -Werror "${files[@]}" || bad=1
	say "shellcheck"; shellcheck build.sh .ci/run test/*.sh || bad=1
	say "cppcheck"
	cppcheck -q -j"$JOBS" --std=c11 -D_GNU_SOURCE -I. --inline-suppr --error-exitcode=1 \
		--enable=warning,performance,portability --suppress=missingIncludeSystem \
		--suppress=readdirCalled --suppress=funcArgOrderDifferent "${sources[@]}" || bad=1
	say "clang-tidy"
	flags=$(mk -s print-cflags)
	# shellcheck disable=SC2086
	printf '%s\n' "${sources[@]}" | grep -vE '^(test|fuzz|bench)/' | xargs -P "$JOBS" -I{} sh -c \
		"clang-tidy --quiet {} -- $flags 2>/dev/null" || bad=1
	[ $bad = 0 ] || die "lint found something"
	say "lint clean"
}

# fetch_source PACKAGE DIR: Debian's source package, its signature checked by apt, unpacked into DIR.
# The machine's own list of sources stays as it is.
fetch_source() {
	local tmp=$2.tmp list
	rm -rf "$tmp"
	mkdir -p "$tmp/sources" "$tmp/lists/partial" "$tmp/cache"
	for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
		[ ! -e "$list" ] || sed -n 's/^deb /deb-src /p' "$list" >>"$tmp/sources/src.list"
	done
	for list in /etc/apt/sources.list.d/*.sources; do
		[ ! -e "$list" ] || sed 's/^Types:.*/Types: deb-src/' "$list" >"$tmp/sources/${list##*/}"
	done
	local options=(-q -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$PWD/$tmp/sources"
		-o "Dir::State::lists=$PWD/$tmp/lists" -o "Dir::Cache=$PWD/$tmp/cache" -o APT::Sandbox::User=root)
	apt-get "${options[@]}" update
	(cd "$tmp" && apt-get "${options[@]}" source --download-only "$1" && dpkg-source -q -x ./*.dsc src)
	rm -rf "$2"
	mv "$tmp/src" "$2"
	rm -rf "$tmp"
}

# Static programs: they need nothing of the machine they run on.
cmd_release() {
	local dir=build/release version name programs
	version=$(sed -n 's/^#define TSTUNNEL_VERSION "\(.*\)"/\1/p' proto/tstunnel/version.h)
	# shellcheck disable=SC2086
	need $BUILD_PACKAGES $RELEASE_PACKAGES
	if [ -z "$BORINGSSL" ]; then
		BORINGSSL=$PWD/$dir/boringssl
		if [ ! -e "$BORINGSSL/lib/libssl.a" ]; then
			mkdir -p "$dir"
			say "BoringSSL from Debian's source package"
			fetch_source android-platform-external-boringssl "$dir/src"
			make -f boringssl.mk -j"$JOBS" CC=gcc CXX=g++ SRC="$PWD/$dir/src" \
				OUT="$dir/obj" PREFIX="$BORINGSSL"
			rm -rf "$dir/src" "$dir/obj"
		fi
	fi
	name=tstunnel-$version-linux-$(uname -m)
	out=$dir/out bin=$dir/$name/bin
	rm -rf "${dir:?}/$name"
	mk STATIC=1 all
	mapfile -t programs < <(find "$bin" -type f)
	strip "${programs[@]}"
	cp -r README.md docs "$dir/$name/"
	tar -C "$dir" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct)" \
		-c "$name" | gzip -9n >"$dir/$name.tar.gz"
	(cd "$dir" && sha256sum "$name.tar.gz" | tee "$name.tar.gz.sha256")
	say "$dir/$name.tar.gz"
}

cmd_clean() {
	rm -rf build bin
}

cmd_help() {
	cat <<'END'
./build.sh [COMMAND]    Commands install what they miss from Debian (root or sudo).

  build               programs into bin/ (the default command)
  demo                the main job, shown on this machine: two hosts, one tunnel
  test [PART]         every test; PART: unit, fuzz, or e2e [PYTEST ARGUMENTS]
  fuzz NAME [SECONDS] one libFuzzer target, or all; 60 s if not said
  release             static programs, packed: build/release/tstunnel-*.tar.gz
  bench [--quick]     speed and memory beside other programs, into bench/RESULTS.md;
                      bench relay, bench sync, bench sandbox: one part; -h: more
  lint                formatting, static analysis, who includes whom
  deps                only install what the commands need
  clean               remove bin/ and build/
  help                this text

Environment:
  CC=clang            another compiler       (build/clang/bin)
  SAN=address,undefined  sanitizers          (build/gcc-address-undefined/bin)
  BORINGSSL=/prefix   one's own BoringSSL: include/ and lib/ under it
  FUZZ_SECONDS=5      time for each fuzz target in test
  TSLAB_FULL=1        e2e tests at full size (1 GB images, 1,000 runs, minutes of idling)
END
}

command=${1:-build}
if [ $# -gt 0 ]; then shift; fi
case $command in
deps | build | demo | test | fuzz | bench | release | lint | clean | help) "cmd_$command" "$@" ;;
-h | --help) cmd_help ;;
*) die "unknown command '$command'; see ./build.sh help" ;;
esac
