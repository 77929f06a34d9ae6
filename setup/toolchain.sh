# shellcheck shell=bash
# The private Rust toolchain. Sourced after lib.sh and packages.sh.
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
	local started=$SECONDS work=$CACHE/toolchain/.partial version packages
	say "this machine has no Selkis toolchain yet; Debian's Rust goes into $CACHE/toolchain (your own Rust, if any, is left alone)"
	prepare_private_apt "$work/apt" toolchain
	[ -n "$(rust_version)" ] || add_security_archive
	version=$(rust_version)
	[ -n "$version" ] || {
		tail_of "$APT_LOG" 4
		die "no Debian source offers rustc-web $RUST_OLDEST or newer (Debian 12's security archive carries it)" \
			"$(likely_cause "$APT_LOG")"
	}
	# The C side (gcc, libc6-dev) is not among them: it comes from the system.
	mapfile -t packages < <(with_libraries "$RUST_LIBRARIES" "${RUST_PACKAGES[@]}")
	unpack_packages "$work" "rustc $version" "${packages[@]}"
	check_toolchain "$work/root"
	mv -T "$work/root" "$CACHE/toolchain/$(tr -c '0-9A-Za-z.\n' - <<<"$version")"
	rm -rf "$work"
	say "toolchain ready after $((SECONDS - started)) s"
}

# check_toolchain FOLDER: does all that is in it run?
check_toolchain() {
	local TOOLCHAIN=$1 usr=$1/usr missing
	missing=$(enter_toolchain && missing_libraries "$usr"/bin/{rustc,cargo,rustdoc,clippy-driver,rustfmt,clang-22,lld-22})
	[ -z "$missing" ] || die "the toolchain lacks shared libraries: $missing" "see $APT_LOG"
	(enter_toolchain && rustc -V && cargo -V && clippy-driver -V && rustfmt -V && clang-22 --version) \
		>>"$APT_LOG" 2>&1 || {
		tail_of "$APT_LOG"
		die "the unpacked toolchain does not run" "see $APT_LOG"
	}
}

# missing_libraries EXECUTABLE...: prints what the loader does not find for them.
missing_libraries() {
	ldd "$@" 2>/dev/null | awk '/not found/ { print $1 }' | sort -u | tr '\n' ' '
}

# Prints the version of the newest rustc-web if it is new enough, else nothing.
rust_version() {
	local candidate
	candidate=$(private_apt cache policy rustc-web 2>>"$APT_LOG" | awk '$1 == "Candidate:" { print $2 }')
	if [ -n "$candidate" ] && dpkg --compare-versions "$candidate" ge "$RUST_OLDEST"; then
		printf '%s\n' "$candidate"
	fi
}
