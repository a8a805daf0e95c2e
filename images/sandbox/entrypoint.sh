#!/bin/sh
# Process of a sandbox: host key, the session's keys, then sshd. README.md lists the variables.
set -eu

user=${SANDBOX_USER:-sandbox}
port=${SANDBOX_SSH_PORT:-22}
etc=/etc/ssh

if ! grep -q "^$user:" /etc/passwd; then
	echo "entrypoint: this image has no user $user" >&2
	exit 1
fi

mkdir -p /run/sshd "$etc/authorized_keys" "$etc/sshd_config.d"
chmod 755 /run/sshd "$etc/authorized_keys"

if [ ! -s "$etc/ssh_host_ed25519_key" ]; then
	ssh-keygen -q -t ed25519 -N '' -C sandbox -f "$etc/ssh_host_ed25519_key"
fi

# Owned by root: what runs in the sandbox cannot let others in.
printf '%s\n' "${SANDBOX_AUTHORIZED_KEYS:-}" >"$etc/authorized_keys/$user"
chmod 644 "$etc/authorized_keys/$user"

cat >"$etc/sshd_config.d/session.conf" <<END
Port $port
AllowUsers $user
PasswordAuthentication ${SANDBOX_PASSWORD_LOGIN:-yes}
END

# A volume may be mounted there.
if [ -d /workspace ] && [ "$(id -u)" = 0 ]; then
	chown "$user" /workspace
fi

# When nobody has removed the sandbox by then, it ends by itself.
if [ -n "${SANDBOX_EXPIRES_AT:-}" ]; then
	left=$((SANDBOX_EXPIRES_AT - $(date +%s) + 15))
	[ "$left" -gt 0 ] || left=0
	(sleep "$left" && kill -TERM 1) </dev/null >/dev/null 2>&1 &
fi

unset SANDBOX_AUTHORIZED_KEYS
if [ $# -gt 0 ]; then
	exec "$@"
fi
exec /usr/sbin/sshd -D -e
