#!/bin/sh
# Installs the servers and programs that the tests start for themselves, where they are missing.
# The packages' own services are not started.
set -eu

PATH="$PATH:/usr/lib/rabbitmq/bin:/usr/local/sbin:/usr/sbin"
policy=/usr/sbin/policy-rc.d
debian=''
homebrew=''

has() {
    for program in "$@"; do
        if command -v "$program" >/dev/null 2>&1; then return 0; fi
    done
    return 1
}

missing() {
    debian="$debian $1"
    homebrew="$homebrew $2"
}

has redis-server valkey-server || missing redis-server redis
has rabbitmq-server || missing rabbitmq-server rabbitmq
has postgres /usr/lib/postgresql/*/bin/postgres || missing postgresql postgresql@17
has pgbouncer || missing pgbouncer pgbouncer
has mariadbd mysqld || missing mariadb-server mariadb
# For a test that lets the clock of a Redis step.
has cc || missing gcc gcc
# For the test of the alarms; its server is not started.
has promtool || missing prometheus prometheus

if [ -z "$debian" ]; then exit 0; fi

if [ "$(id -u)" -ne 0 ] || ! has apt-get; then
    echo "Missing servers:$debian" >&2
    echo "Debian, as root: apt-get install$debian" >&2
    echo "Homebrew:        brew install$homebrew" >&2
    echo "(Homebrew links no versioned formula: put the bin of postgresql@17 on PATH.)" >&2
    exit 1
fi

if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update
# shellcheck disable=SC2086  # several packages
apt-get install -y --no-install-recommends $debian
