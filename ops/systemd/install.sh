#!/bin/sh
# Install the units and their files: `make install-systemd DESTDIR= PREFIX=/usr/local BINDIR= DEVICES=8`.
# Existing files in /etc/asr are not overwritten.
set -eu
# User asr must be able to read the installed files, even if root's umask is 077.
umask 022
cd "$(dirname "$0")"
DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr/local}
BINDIR=${BINDIR:-$PREFIX/bin}
# Number of cards, and of GPUs, that get the drop-in of their kind: card0 to card7, cuda0 to cuda7.
DEVICES=${DEVICES:-8}
# systemd's version on the system that runs the units. Versions before 254 do not support backoff.conf.
SYSTEMD_VERSION=${SYSTEMD_VERSION:-$(systemctl --version 2>/dev/null | awk 'NR == 1 { print $2 + 0 }')}

units=$PREFIX/lib/systemd/system
libdir=$PREFIX/lib/asr-pool
docdir=$PREFIX/share/doc/asr-pool

put() { # MODE SOURCE TARGET
    mkdir -p "$DESTDIR$(dirname "$3")"
    sed -e "s|@BINDIR@|$BINDIR|g" -e "s|@LIBDIR@|$libdir|g" -e "s|@DOCDIR@|$docdir|g" "$2" >"$DESTDIR$3"
    chmod "$1" "$DESTDIR$3"
}

for unit in asr-broker.service asr-frontend@.service asr-worker@.service; do
    put 644 "$unit" "$units/$unit"
    if [ "${SYSTEMD_VERSION:-0}" -ge 254 ]; then
        put 644 backoff.conf "$units/$unit.d/backoff.conf"
    fi
done
number=0
while [ "$number" -lt "$DEVICES" ]; do
    for kind in cuda card; do
        put 644 "$kind.conf" "$units/asr-worker@$kind$number.service.d/$kind.conf"
    done
    number=$((number + 1))
done
put 644 70-asr-pool.rules "$PREFIX/lib/udev/rules.d/70-asr-pool.rules"
put 755 card-number "$libdir/card-number"
put 644 sysusers.conf "$PREFIX/lib/sysusers.d/asr-pool.conf"
put 644 README.md "$docdir/README.md"
for example in etc/*.toml; do
    if [ ! -e "$DESTDIR/etc/asr/${example##*/}" ]; then
        put 644 "$example" "/etc/asr/${example##*/}"
    fi
done
