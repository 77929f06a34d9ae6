# shellcheck shell=bash
# Debian packages unpacked into the cache, not installed: that needs no root, and nothing that the user has is replaced or
# stands in the way. Sourced after lib.sh.

# ensure_unpacked NAME WHY FINISH PACKAGE...: the packages, with the libraries that they need and this system lacks, in
# $CACHE/packages/NAME. FINISH FOLDER adds what they need beside, and dies if they do not work.
ensure_unpacked() {
	[ -d "$CACHE/packages/$1" ] || with_lock packages unpack_once "$@"
}

unpack_once() {
	local name=$1 why=$2 finish=$3 place=$CACHE/packages/$1 work=$CACHE/packages/.$1 packages
	shift 3
	[ ! -d "$place" ] || return 0 # another run made it while this one waited
	say "$why; Debian's goes into $place, and nothing is installed"
	prepare_private_apt "$work/apt" "$name"
	mapfile -t packages < <(with_libraries '^$' "$@")
	unpack_packages "$work" "$name" "${packages[@]}"
	"$finish" "$work/root"
	mv -T "$work/root" "$place"
	rm -rf "$work"
}

# private_apt get|cache ARGUMENT...: apt with lists and status of its own, so that it needs no root, and with an empty
# status, so that the packages that the user has cannot conflict with ours.
private_apt() {
	local tool=$1
	shift
	APT_CONFIG=$PRIVATE_APT/apt.conf "apt-$tool" -q "$@"
}

# prepare_private_apt FOLDER LOG: sets up apt in the folder and gets the lists of packages; sets APT_LOG for its words.
prepare_private_apt() {
	PRIVATE_APT=$1
	have apt-get || die "what Selkis needs comes from Debian packages, and apt-get is not here" \
		"Selkis sets itself up on Debian 12"
	make_dir "$CACHE/log"
	APT_LOG=$CACHE/log/$2.log
	: >"$APT_LOG"
	make_dir "$PRIVATE_APT/state/lists/partial"
	make_dir "$PRIVATE_APT/cache/archives/partial"
	make_dir "$PRIVATE_APT/no-parts"
	: >"$PRIVATE_APT/status"
	{
		# The user's proxies and time-outs, not their hooks.
		apt-config dump | grep '^Acquire::' | grep -v '^Acquire::\(IndexTargets\|Languages\)'
		cat <<-END
			Acquire::Languages "none";
			APT::Sandbox::User "$(id -un)";
			Debug::NoLocking "1";
			Dir::Etc::Parts "$PRIVATE_APT/no-parts";
			Dir::State "$PRIVATE_APT/state";
			Dir::State::status "$PRIVATE_APT/status";
			Dir::Cache "$PRIVATE_APT/cache";
		END
	} >"$PRIVATE_APT/apt.conf"
	private_apt get update >>"$APT_LOG" 2>&1 || true # judged by what can be had afterwards
}

# A minimal installation may list only the main archive. The security archive stands beside it on the same mirror.
add_security_archive() {
	local main suite
	# shellcheck disable=SC2016 # apt's own variables
	read -r main suite < <(private_apt get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
		grep -E '/debian/? [a-z]+$' | head -n 1) || return 0
	say "adding the security archive of Debian $suite to the private package lists (your own sources are not changed)"
	make_dir "$PRIVATE_APT/etc"
	{
		cat /etc/apt/sources.list 2>/dev/null || true
		printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s-security %s-security main\n' \
			"${main%/}" "$suite"
	} >"$PRIVATE_APT/etc/sources.list"
	printf 'Dir::Etc::sourcelist "%s";\n' "$PRIVATE_APT/etc/sources.list" >>"$PRIVATE_APT/apt.conf"
	private_apt get update >>"$APT_LOG" 2>&1 || true
}

# with_libraries ALWAYS PACKAGE...: prints the packages, and of what they depend on the shared libraries that this system
# lacks, or whose name matches ALWAYS.
with_libraries() {
	local always=$1 name installed
	shift
	printf '%s\n' "$@"
	# Lines such as: Inst libz3-4 (4.8.12-3.1 Debian:12.11/oldstable [amd64]). Any version that this release of Debian
	# has installed will do; a second libc beside the system's loader would not.
	private_apt get install --simulate --no-install-recommends "$@" 2>>"$APT_LOG" |
		sed -n 's/^Inst \(lib[^ ]*\) .*/\1/p' |
		while read -r name; do
			if [[ " $* " == *" $name "* ]]; then
				continue
			elif [[ $name =~ $always ]]; then
				printf '%s\n' "$name"
			elif [[ $name != *-dev ]]; then
				installed=$(dpkg-query --show --showformat='${db:Status-Status}' "$name" 2>/dev/null || true)
				[ "$installed" = installed ] || printf '%s\n' "$name"
			fi
		done
}

# unpack_packages WORK WHAT PACKAGE...: downloads the packages and unpacks them into a new folder WORK/root, after asking.
# prepare_private_apt comes first.
unpack_packages() {
	local work=$1 what=$2 list deb
	shift 2
	rm -rf "$work/root"
	make_dir "$work/root"
	# In an empty folder, or it would leave out what is there. Lines such as:
	# 'http://…/seabios_1.16.2-1_all.deb' seabios_1.16.2-1_all.deb 175044 SHA256:…
	list=$(cd "$work/root" && private_apt get download --print-uris "$@" 2>>"$APT_LOG") || not_downloaded "$what"
	say "$what: $# package(s) to download, $(awk '{ bytes += $3 } END { printf "%.0f", bytes / 1e6 }' <<<"$list") MB"
	ask "download them?" || die "$what is not downloaded" "the same command asks again"
	make_dir "$work/debs"
	# apt-get download verifies signatures and checksums, and skips what an interrupted run already has.
	(cd "$work/debs" && private_apt get download "$@") >>"$APT_LOG" 2>&1 || not_downloaded "$what"
	while read -r _ deb _; do
		dpkg-deb --extract "$work/debs/$deb" "$work/root" 2>>"$APT_LOG" || {
			rm -f "$work/debs/$deb"
			tail_of "$APT_LOG" 4
			die "$deb could not be unpacked" "$(likely_cause "$APT_LOG")"
		}
	done <<<"$list"
}

not_downloaded() {
	tail_of "$APT_LOG" 8
	die "the packages of $1 could not be downloaded" "$(likely_cause "$APT_LOG")"
}
