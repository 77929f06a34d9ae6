# shellcheck shell=bash
# The private Rust toolchain. Sourced after lib.sh.
#
# Selkis is always built by the same compiler, Debian's `rustc-web` family, whatever Rust the user has: its compiler
# and the source of its standard library are of one version (the bare-metal targets build `core` from source), and
# clippy and rustfmt say the same on every machine. The packages are unpacked into the cache, not installed: installed
# they would replace Debian's own rustc. No root is needed for it, and the user's rustc, cargo and rustup are not touched.

readonly RUST_OLDEST=1.96
# rust-lld and the wasm linker come with rust-web-llvm and lld; clang compiles C for WebAssembly.
readonly RUST_PACKAGES=(rustc-web cargo-web rust-web-src rust-web-llvm rust-web-clippy rustfmt-web
	libstd-rust-web-dev lld-22 clang-22)
# Of what these depend on, always our own copy, so that removing a package of the user's breaks nothing.
readonly RUST_LIBRARIES='^(libstd-rust-web-|libllvm|libclang-cpp|libclang-common-)'

# Sets TOOLCHAIN to the newest one in the cache; fails if there is none.
find_toolchain() {
	local found=("$CACHE"/toolchain/[0-9]*)
	[ -d "${found[0]}" ] || return 1
	TOOLCHAIN=${found[0]}
	if [ ${#found[@]} -gt 1 ]; then
		TOOLCHAIN=$(printf '%s\n' "${found[@]}" | sort -V | tail -n 1)
	fi
}

# Sets TOOLCHAIN, unpacking one first if there is none.
ensure_toolchain() {
	find_toolchain && return
	[ "$(uname -m)" = x86_64 ] || die "Selkis is built on x86_64; this machine is $(uname -m)"
	have apt-get || die "the toolchain comes from Debian packages, and apt-get is not here" \
		"Selkis sets itself up on Debian 12"
	need_room "$ROOM_TO_RUN" 'building Selkis'
	with_lock toolchain unpack_toolchain
	find_toolchain || die "the toolchain is not where it was put: $CACHE/toolchain"
}

# Prints the variables of the environment in which everything is compiled, one assignment a line.
toolchain_environment() {
	local usr=$TOOLCHAIN/usr
	printf '%s\n' "PATH=$usr/bin:$usr/lib/llvm-22/bin:$PATH" \
		"LD_LIBRARY_PATH=$usr/lib/x86_64-linux-gnu:$TOOLCHAIN/lib/x86_64-linux-gnu:$usr/lib/llvm-22/lib" \
		"RUSTC=$usr/bin/rustc" "RUSTDOC=$usr/bin/rustdoc" \
		RUSTC_BOOTSTRAP=1 # for -Zbuild-std and the JSON target, which have no stable form
}

# Exports that environment. What the user's own Rust settings would change is taken out: variables are unset, and those
# that are left empty keep cargo from looking into the user's config.toml. Its registries and proxies stay.
enter_toolchain() {
	local assignment
	unset RUSTFLAGS RUSTDOCFLAGS RUSTC_WORKSPACE_WRAPPER RUSTUP_TOOLCHAIN CARGO \
		"${!CARGO_BUILD_@}" "${!CARGO_TARGET_@}" "${!CARGO_PROFILE_@}" "${!CARGO_UNSTABLE_@}"
	export RUSTC_WRAPPER='' CARGO_ENCODED_RUSTFLAGS='' CARGO_ENCODED_RUSTDOCFLAGS=''
	while IFS= read -r assignment; do
		export "${assignment?}"
	done < <(toolchain_environment)
}

unpack_toolchain() {
	find_toolchain && return # another run made it while this one waited
	local started=$SECONDS work=$CACHE/toolchain/.partial version debs packages
	say "this machine has no Selkis toolchain yet; unpacking Debian's Rust into $CACHE/toolchain (your own Rust, if any, is left alone)"
	prepare_private_apt "$work/apt" toolchain
	[ -n "$(rust_version)" ] || add_security_archive
	version=$(rust_version)
	[ -n "$version" ] || {
		tail_of "$APT_LOG" 4
		die "no Debian source offers rustc-web $RUST_OLDEST or newer (Debian 12's security archive carries it)" \
			"$(likely_cause "$APT_LOG")"
	}
	debs=$work/debs-$version # the archive may have moved on since a run that was interrupted
	make_dir "$debs"
	packages=$(packages_to_unpack)
	say "downloading $(wc -w <<<"$packages") packages, about 230 MB (rustc $version)"
	# apt-get download verifies signatures and checksums, and skips what an interrupted run already has.
	# shellcheck disable=SC2086 # a list of words
	(cd "$debs" && private_apt get download $packages) >>"$APT_LOG" 2>&1 || {
		tail_of "$APT_LOG" 8
		die "the toolchain's packages could not be downloaded" "$(likely_cause "$APT_LOG")"
	}
	unpack_debs "$work" "$version"
	say "toolchain ready after $((SECONDS - started)) s"
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

# Prints the version of the newest rustc-web if it is new enough, else nothing.
rust_version() {
	local candidate
	candidate=$(private_apt cache policy rustc-web 2>>"$APT_LOG" | awk '$1 == "Candidate:" { print $2 }')
	if [ -n "$candidate" ] && dpkg --compare-versions "$candidate" ge "$RUST_OLDEST"; then
		printf '%s\n' "$candidate"
	fi
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

# Prints the packages to unpack: ours, and of what they depend on the shared libraries that this system lacks. The C
# side (gcc, libc6-dev) is not among them: it comes from the system.
packages_to_unpack() {
	local name installed
	printf '%s\n' "${RUST_PACKAGES[@]}"
	# Lines such as: Inst libz3-4 (4.8.12-3.1 Debian:12.11/oldstable [amd64]). Any version that this release of Debian
	# has installed will do; a second libc beside the system's loader would not.
	private_apt get install --simulate --no-install-recommends "${RUST_PACKAGES[@]}" 2>>"$APT_LOG" |
		sed -n 's/^Inst \(lib[^ ]*\) .*/\1/p' |
		while read -r name; do
			if [[ $name =~ $RUST_LIBRARIES ]]; then
				printf '%s\n' "$name"
			elif [[ $name != *-dev ]] && [[ " ${RUST_PACKAGES[*]} " != *" $name "* ]]; then
				installed=$(dpkg-query --show --showformat='${db:Status-Status}' "$name" 2>/dev/null || true)
				[ "$installed" = installed ] || printf '%s\n' "$name"
			fi
		done
}

# unpack_debs WORK VERSION: into a new folder that gets its final name only when it is complete and works.
unpack_debs() {
	local work=$1 version=$2 deb missing
	rm -rf "$work/root"
	make_dir "$work/root"
	for deb in "$work/debs-$version"/*.deb; do
		dpkg-deb --extract "$deb" "$work/root" 2>>"$APT_LOG" || {
			rm -f "$deb"
			tail_of "$APT_LOG" 4
			die "$(basename "$deb") could not be unpacked" "$(likely_cause "$APT_LOG")"
		}
	done
	TOOLCHAIN=$work/root
	missing=$(missing_libraries)
	[ -z "$missing" ] || die "the toolchain lacks shared libraries: $missing" "see $APT_LOG"
	(enter_toolchain && rustc -V && cargo -V && clippy-driver -V && rustfmt -V && clang-22 --version) \
		>>"$APT_LOG" 2>&1 || {
		tail_of "$APT_LOG"
		die "the unpacked toolchain does not run" "see $APT_LOG"
	}
	mv -T "$work/root" "$CACHE/toolchain/$(tr -c '0-9A-Za-z.\n' - <<<"$version")"
	rm -rf "$work"
}

missing_libraries() {
	local usr=$TOOLCHAIN/usr
	(enter_toolchain && ldd "$usr"/bin/{rustc,cargo,rustdoc,clippy-driver,rustfmt,clang-22,lld-22} 2>/dev/null) |
		awk '/not found/ { print $1 }' | sort -u | tr '\n' ' '
}
