# shellcheck shell=bash
# Building the executables of Selkis, each in a cargo build of its own. Sourced after lib.sh, packages.sh and toolchain.sh.
#
# cargo unifies the features of one build, and wasmtime is in three of ours with different ones: not at all (the
# command), with `std` and the code generator (the compiler), without `std` (the runtime).
#
# Build output never lies in the checkout. $CACHE/build/<compiler>/target is shared by all checkouts: dependencies are
# built once, and cargo itself keys them by version, checksum (Cargo.lock), features and flags. The results are
# in $CACHE/build/<compiler>/dist/<checkout>.

# Sets BUILD, TARGET and DIST for the toolchain in the cache.
find_build() {
	BUILD=$CACHE/build/${TOOLCHAIN##*/}
	TARGET=$BUILD/target
	DIST=$BUILD/dist/${ROOT//\//%}
}

# Beside what the compiler is built of, so that both have one engine: it takes minutes to build.
readonly PEER_COMPILE=(-p peer -p compiler -p store --no-default-features --features peer/compile)

# What a part is: its cargo arguments (CARGO_ARGS), the compiler's flags (FLAGS, separated as cargo has them), where cargo puts
# it (MADE, below TARGET), its name in DIST (NAME), and what it is called for people (TITLE).
describe_part() {
	FLAGS=''
	case $1 in
	cli)
		TITLE='the selkis command' NAME=selkis MADE=host/release/selkis
		CARGO_ARGS=(-p cli --target-dir "$TARGET/host")
		;;
	compiler)
		TITLE='the compiler (about 5 minutes the first time)' NAME=selkis-compile MADE=host/release/selkis-compile
		# The store is what its tests have as well: so they take the engine from here, and do not build it again.
		CARGO_ARGS=(-p compiler -p store --target-dir "$TARGET/host")
		;;
	runtime)
		TITLE='the library OS (about 2 minutes the first time)' NAME=selkis-runtime
		MADE=runtime/x86_64-unknown-none/release/selkis-runtime
		# The file is named as the bare target is (the engine compares the triple), hence a target directory of its own.
		CARGO_ARGS=(-p image-runtime --target-dir "$TARGET/runtime" --target images/runtime/x86_64-unknown-none.json
			'-Zbuild-std=core,alloc' -Zjson-target-spec)
		;;
	kernel)
		TITLE='the kernel' NAME=selkis-kernel MADE=host/x86_64-unknown-none/release/image-kernel
		CARGO_ARGS=(-p image-kernel --target-dir "$TARGET/host" --target x86_64-unknown-none '-Zbuild-std=core,alloc')
		;;
	boot)
		TITLE='the UEFI loader' NAME=selkis-boot.efi MADE=host/x86_64-unknown-uefi/release/selkis-boot.efi
		CARGO_ARGS=(-p boot --target-dir "$TARGET/host" --target x86_64-unknown-uefi '-Zbuild-std=core,alloc')
		;;
	limine-check)
		TITLE='the kernel that checks a loader' NAME='' MADE=host/x86_64-unknown-none/release/limine-check
		CARGO_ARGS=(-p image-limine-check --target-dir "$TARGET/host" --target x86_64-unknown-none '-Zbuild-std=core,alloc')
		;;
	probe)
		TITLE='the domain that checks the kernel' NAME=selkis-probe MADE=host/x86_64-unknown-none/release/image-probe
		CARGO_ARGS=(-p image-probe --target-dir "$TARGET/host" --target x86_64-unknown-none '-Zbuild-std=core,alloc')
		;;
	bench)
		TITLE='the benchmarks' NAME=selkis-bench MADE=host/release/selkis-bench
		CARGO_ARGS=(-p bench --target-dir "$TARGET/host")
		;;
	counter)
		TITLE='what counts instructions in QEMU' NAME=selkis-counter.so MADE=host/release/libcounter.so
		CARGO_ARGS=(-p counter --target-dir "$TARGET/host")
		;;
	bench-runtime)
		TITLE='the library OS that measures' NAME=selkis-bench-runtime
		MADE=runtime/x86_64-unknown-none/release/selkis-bench-runtime
		CARGO_ARGS=(-p image-bench-runtime --target-dir "$TARGET/runtime" --target images/runtime/x86_64-unknown-none.json
			'-Zbuild-std=core,alloc' -Zjson-target-spec)
		;;
	step-runtime)
		TITLE='the library OS that interrupts programs' NAME=selkis-step-runtime
		MADE=runtime/x86_64-unknown-none/release/selkis-step-runtime
		CARGO_ARGS=(-p image-step-runtime --target-dir "$TARGET/runtime" --target images/runtime/x86_64-unknown-none.json
			'-Zbuild-std=core,alloc' -Zjson-target-spec)
		;;
	peer)
		TITLE='the peer, wasmtime for Linux (about 5 minutes the first time)' NAME=selkis-peer
		MADE=peer/x86_64-unknown-linux-gnu/release/selkis-peer
		# Linked statically and stripped, to be the only file that its Linux needs and no longer than it must. A target
		# is named so that the flags are not for build scripts.
		CARGO_ARGS=(-p peer --target-dir "$TARGET/peer" --target x86_64-unknown-linux-gnu)
		FLAGS=$'-Ctarget-feature=+crt-static\x1f-Clink-arg=-s'
		;;
	peer-figures)
		TITLE='what measures Linux' NAME=selkis-peer-figures MADE=peer/x86_64-unknown-linux-gnu/release/selkis-peer-figures
		CARGO_ARGS=(-p peer --target-dir "$TARGET/peer" --target x86_64-unknown-linux-gnu) # as the peer, of which it is made
		FLAGS=$'-Ctarget-feature=+crt-static\x1f-Clink-arg=-s'
		;;
	peer-compile)
		TITLE="the peer's compiler" NAME=selkis-peer-compile MADE=host/release/selkis-peer-compile
		CARGO_ARGS=("${PEER_COMPILE[@]}" --bin selkis-peer-compile --target-dir "$TARGET/host")
		;;
	*) die "there is no part named $1" ;;
	esac
}

# ensure_built PART...: builds those that are missing or older than the sources. Leaves DIST set.
ensure_built() {
	local part stale=()
	if find_toolchain; then
		find_build
		for part in "$@"; do
			is_fresh "$part" || stale+=("$part")
		done
		[ ${#stale[@]} -gt 0 ] || return 0
	fi
	need cc 'compiling for this machine' gcc libc6-dev
	ensure_toolchain
	find_build
	with_lock build build_parts "$@"
}

# is_fresh PART: was it built after the last change to the sources? A directory is newer when a file in it came or went.
is_fresh() {
	local stamp=$DIST/$1.stamp sources=() path
	[ -e "$stamp" ] || return 1
	for path in Cargo.toml Cargo.lock .cargo crates images wit setup/build.sh; do
		[ ! -e "$ROOT/$path" ] || sources+=("$ROOT/$path")
	done
	[ -z "$(find "${sources[@]}" -newer "$stamp" -print -quit)" ]
}

# In a process of its own: what is built and run afterwards has no business with the toolchain's libraries.
build_parts() (
	make_dir "$DIST"
	make_dir "$CACHE/log"
	enter_toolchain
	forget_other_checkout
	for part in "$@"; do
		is_fresh "$part" || build_part "$part"
	done
)

# cargo tells a changed source by its time of change, and does not tell two checkouts apart. So the packages of this
# repository are built anew when the target directory was last used for another checkout; dependencies stay.
forget_other_checkout() {
	local last='' names
	make_dir "$TARGET"
	[ ! -e "$TARGET/checkout" ] || last=$(<"$TARGET/checkout")
	[ "$last" != "$ROOT" ] || return 0
	names=$(find "$ROOT"/{crates,images,programs} -name Cargo.toml -exec sed -n 's/^name = "\([^"]*\)"$/\1/p' {} + |
		sort -u | paste -sd '|')
	find "$TARGET" -type d -path '*/.fingerprint/*' -regextype posix-extended \
		-regex ".*/($names)-[0-9a-f]{16}" -prune -exec rm -rf {} +
	printf '%s\n' "$ROOT" >"$TARGET/checkout"
}

build_part() {
	local part=$1 started=$SECONDS TITLE NAME MADE CARGO_ARGS FLAGS
	describe_part "$part"
	export CARGO_ENCODED_RUSTFLAGS=$FLAGS
	: >"$DIST/.$part.stamp" # what changes while cargo runs is newer than this
	cargo_logged "$part" "building $TITLE" "$ROOT" build --locked --release "${CARGO_ARGS[@]}"
	[ "$part" != kernel ] || name_kernel_functions
	[ -e "$TARGET/$MADE" ] || die "cargo made no ${MADE##*/} for $TITLE" "is the binary still named so in its Cargo.toml?"
	cp "$TARGET/$MADE" "$DIST/.$NAME.new" || die "cannot write $DIST/$NAME" "is the disk full?"
	mv -f "$DIST/.$NAME.new" "$DIST/$NAME"
	mv -f "$DIST/.$part.stamp" "$DIST/$part.stamp"
	say "built ${TITLE%% (*} in $((SECONDS - started)) s"
}

# The names in the kernel's backtraces are a table in its file, made from the file of a build before (its build.rs).
name_kernel_functions() {
	local first=$TARGET/kernel-without-names
	cp "$TARGET/$MADE" "$first" || die "cannot write $first" "is the disk full?"
	export SELKIS_KERNEL_SYMBOLS=$first
	cargo_logged kernel "naming the kernel's functions" "$ROOT" build --locked --release "${CARGO_ARGS[@]}"
	unset SELKIS_KERNEL_SYMBOLS
}

# cargo_logged LOG TITLE FOLDER ARGUMENT...: runs cargo in the folder; says the title, at a terminal also what is being
# compiled; shows cargo's errors when it fails.
cargo_logged() {
	local log=$CACHE/log/$1.log title=$2 folder=$3 line
	shift 3
	say "$title …"
	if (cd "$folder" && cargo "$@") 2>&1 </dev/null | tee "$log" |
		while IFS= read -r line; do
			[ ! -t 2 ] || printf '\r\033[K        %.100s\r' "$line" >&2
		done; then
		[ ! -t 2 ] || printf '\r\033[K' >&2
		return 0
	fi
	grep -vE '^ +(Compiling|Downloaded|Downloading|Updating|Locking|Blocking|Adding) ' "$log" | tail -n 80 >&2
	die "cargo $1 failed while ${title%% (*}" "$(likely_cause "$log")"
}
