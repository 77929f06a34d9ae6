# shellcheck shell=bash
# Shared by ./selkis and setup/*: where things are, how to speak to the user, how to install a Debian package.
# Sourced, never run.

# What the set-up itself exits with, so that it is not taken for the program's own exit code (docker and env use it
# the same way).
readonly SETUP_FAILED=125

# What the cache grows to, in GB: with all that runs programs, with the benchmarks, with all tests.
# shellcheck disable=SC2034 # not all who source this need all
readonly ROOM_TO_RUN=4 ROOM_TO_BENCH=6 ROOM_TO_TEST=9

# For a user who has to ask somebody else, once.
readonly ALL_PACKAGES='gcc libc6-dev python3-pip npm'

# Services and cron jobs may have no HOME; cargo and pip want one too.
if [ -z "${HOME:-}" ]; then
	unset HOME # without it, bash asks the list of users what ~ is
	export HOME=~
fi

# One absolute path, for cargo and for the selkis command as well.
export SELKIS_CACHE=${SELKIS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/selkis}
[ "${SELKIS_CACHE:0:1}" = / ] || SELKIS_CACHE=$PWD/$SELKIS_CACHE
CACHE=$SELKIS_CACHE

say() {
	printf 'selkis: %s\n' "$*" >&2
}

# die MESSAGE [WHAT_TO_DO]: both lines name the thing and the way out.
die() {
	say "error: $1"
	[ $# -lt 2 ] || printf '        %s\n' "$2" >&2
	exit "$SETUP_FAILED"
}

# have COMMAND: is it in PATH?
have() {
	command -v "$1" >/dev/null 2>&1
}

# Is a person at the terminal? Where standard input goes does not matter: the program may be reading a file.
person_present() {
	[ -t 2 ] && (: </dev/tty) 2>/dev/null
}

# ask QUESTION: yes unless a person at the terminal says no. Nobody there: yes, without asking.
ask() {
	local answer
	person_present || return 0
	printf 'selkis: %s [Y/n] ' "$1" >&2
	read -r answer </dev/tty || return 1
	case $answer in
	'' | [Yy]*) return 0 ;;
	*) return 1 ;;
	esac
}

# make_dir PATH: with an error that a person can act on.
make_dir() {
	mkdir -p "$1" 2>/dev/null ||
		die "cannot create $1" "set SELKIS_CACHE to a folder that you can write to (now: $CACHE)"
}

# need_room GIGABYTES WHY: the first build takes minutes; that it cannot end well is said before it starts.
need_room() {
	local wanted=$1 why=$2 held free
	make_dir "$CACHE"
	held=$(du --summarize --block-size=1M "$CACHE" | cut -f 1)
	free=$(df --output=avail --block-size=1M "$CACHE" | tail -n 1 | tr -d ' ')
	[ "$((held + free))" -ge "$((wanted * 1000))" ] ||
		die "$why needs about $wanted GB in $CACHE: it holds $held MB, and only $free MB are free there" \
			"make room, or set SELKIS_CACHE to a folder on another disk"
}

# with_lock NAME COMMAND...: one at a time on this machine; a second run waits and then finds the work done. What this
# command starts in turn holds the lock as well (SELKIS_LOCKS).
with_lock() {
	local name=$1 held=${SELKIS_LOCKS:-}
	shift
	if [[ " $held " == *" $name "* ]]; then
		"$@"
		return
	fi
	make_dir "$CACHE"
	exec {lock}>"$CACHE/$name.lock" || die "cannot write $CACHE/$name.lock"
	if ! flock --nonblock "$lock"; then
		say "another run is busy with the $name; waiting for it"
		flock "$lock"
	fi
	export SELKIS_LOCKS="$held $name"
	"$@" # not in a condition: `set -e` holds in it
	export SELKIS_LOCKS=$held
	exec {lock}>&-
}

# tail_of LOG: the end of a log, indented, for an error message.
tail_of() {
	tail -n "${2:-25}" "$1" | sed 's/^/    /' >&2
}

# install_packages WHY PACKAGE...: from Debian, by apt-get, as root or through sudo. Removes and replaces nothing.
install_packages() {
	local why=$1 root=() log
	shift
	have apt-get || die "$why needs the Debian package(s) $*, and apt-get is not here" \
		"Selkis sets itself up on Debian 12; elsewhere, install the equivalent and try again"
	if [ "$(id -u)" -ne 0 ]; then
		have sudo || die "$why needs the Debian package(s) $*, and this user cannot install them (not root, no sudo)" \
			"ask an administrator to run: apt-get install --no-install-recommends $* (all that is ever needed: $ALL_PACKAGES)"
		root=(sudo)
		if ! person_present; then
			sudo --non-interactive true 2>/dev/null ||
				die "$why needs the Debian package(s) $*, and sudo wants a password that nobody is here to type" \
					"run: sudo apt-get install --no-install-recommends $*"
		fi
	fi
	say "$why needs the Debian package(s): $*"
	ask "install them with ${root[*]}${root:+ }apt-get?" ||
		die "not installed" "run: ${root[*]}${root:+ }apt-get install --no-install-recommends $*"
	"${root[@]}" true || die "sudo did not let this user install $*" \
		"ask an administrator to run: apt-get install --no-install-recommends $*"
	make_dir "$CACHE/log"
	log=$CACHE/log/apt-get.log
	: >"$log"
	# A source that is out of reach does not matter as long as the packages can be had.
	"${root[@]}" apt-get update -q >>"$log" 2>&1 || true
	"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends --no-remove \
		-o DPkg::Lock::Timeout=300 "$@" >>"$log" 2>&1 </dev/null || {
		tail_of "$log"
		die "apt-get could not install $*" "$(likely_cause "$log")"
	}
}

# need COMMAND WHY PACKAGE...: installs the packages when the command is missing.
need() {
	local command=$1
	shift
	have "$command" || install_packages "$@"
}

# need_pip WHY
need_pip() {
	python3 -m pip --version >/dev/null 2>&1 || install_packages "$1" python3-pip
}

# likely_cause LOG: what a person should look at first, from the words of the tool that failed.
likely_cause() {
	if grep -qiE 'no space left|disk quota' "$1"; then
		printf 'the disk is full: %s needs about %d GB, with all tests %d GB' "$CACHE" "$ROOM_TO_RUN" "$ROOM_TO_TEST"
	elif grep -qiE 'failure (in name )?resol|could not resolve|getaddrinfo|network is unreachable|connection (refused|timed)' "$1"; then
		printf 'the network is out of reach; run the same command again when it is back'
	else
		printf 'the whole output is in %s' "$1"
	fi
}
