#!/bin/sh
# Have programs on PATH that `make test-all` runs: redis-server, for the example any_program, and
# chromium, which looks at timelines. Each is called as Debian's package is.
# Debian starts a service that it installs, and nobody here asked for one: it is stopped again.
set -eu

give_up() {
    echo "$program is not on PATH, and $1." >&2
    echo "To fix this: install it with your system's package manager, then run this again." >&2
    exit 1
}

install() {
    # RUNLEVEL=1: the level where sysvinit starts no services.
    $as_root env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
        apt-get install --quiet --quiet --yes --no-install-recommends "$program" >/dev/null
}

for program in redis-server chromium; do
    if command -v "$program" >/dev/null; then
        continue
    fi
    command -v apt-get >/dev/null || give_up "there is no apt-get to install it with"
    as_root=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || give_up "installing it takes root or sudo"
        as_root=sudo
    fi
    # The lists of packages may be missing, or older than what the mirrors still hold.
    install || { $as_root apt-get update --quiet --quiet && install; } ||
        give_up "apt-get cannot install it"
    if [ "$program" = redis-server ]; then
        # In a container there may be no service manager, which then has nothing to stop either.
        $as_root service redis-server stop >/dev/null 2>&1 || true
        $as_root update-rc.d redis-server disable >/dev/null 2>&1 || true
    fi
done
