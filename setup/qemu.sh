# shellcheck shell=bash
# QEMU, and the UEFI firmware with which it boots disk images: the user's own, else Debian's, unpacked into the cache. Debian's
# is not installed: QEMU's packages of two releases exclude each other, and the user may have some. Sourced after lib.sh and
# packages.sh.

readonly QEMU_PACKAGES=(qemu-system-x86 qemu-system-common qemu-system-data seabios ipxe-qemu)

# need_qemu WHY: leaves qemu-system-x86_64 in PATH.
need_qemu() {
	! have qemu-system-x86_64 || return 0
	ensure_unpacked qemu "$1 needs QEMU" finish_qemu "${QEMU_PACKAGES[@]}"
	PATH=$PATH:$CACHE/packages/qemu/bin
}

# need_ovmf WHY: leaves its folder in SELKIS_OVMF.
need_ovmf() {
	export SELKIS_OVMF=${SELKIS_OVMF:-/usr/share/OVMF}
	[ ! -e "$SELKIS_OVMF/OVMF_CODE.fd" ] || return 0
	ensure_unpacked ovmf "$1 needs the firmware OVMF" finish_ovmf ovmf
	SELKIS_OVMF=$CACHE/packages/ovmf/usr/share/OVMF
}

# finish_qemu FOLDER: adds the command that starts it with its libraries, and tries it on both machines. Its modules and its
# firmware it finds itself, beside its executable.
finish_qemu() {
	local qemu=$1/bin/qemu-system-x86_64 machine
	mkdir "$1/bin"
	cat >"$qemu" <<-'END'
		#!/bin/sh
		root=${0%/bin/*}
		export LD_LIBRARY_PATH="$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu"
		exec "$root/usr/bin/qemu-system-x86_64" "$@"
	END
	chmod +x "$qemu"
	for machine in microvm q35; do
		"$qemu" -M "$machine" -display none -S -monitor stdio <<<quit >>"$APT_LOG" 2>&1 || {
			tail_of "$APT_LOG"
			die "the unpacked QEMU does not run" "see $APT_LOG"
		}
	done
}

finish_ovmf() {
	[ -e "$1/usr/share/OVMF/OVMF_CODE.fd" ] || die "Debian's package ovmf holds no OVMF_CODE.fd" "install one and set SELKIS_OVMF to its folder"
}
