# Shared by the scripts of this folder, by tests/run and by benches/run. Sourced, never run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Where nginx and others are; on Debian only root has it in PATH.
export PATH=$PATH:/usr/sbin

say()  { printf '%s\n' "$*"; }
step() { printf '\n== %s\n' "$*"; }
die()  { printf 'error: %s\n' "$*" >&2; exit 1; }

# The oldest Rust that builds this crate, as Cargo.toml states it.
wanted_rust() { sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$root/Cargo.toml"; }

# Whether version $1 is at least version $2.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# A process that cannot confine itself does not start: said before anything is installed or built.
check_kernel() {
    local wanted=6.12 release modules=/sys/kernel/security/lsm
    release=$(uname -r)
    at_least "${release%%[-+]*}" "$wanted" || die "this is Linux $release, and a node needs $wanted or newer, for its confinement.
  Debian 12: install linux-image-amd64 from bookworm-backports and restart. Debian 13: its own kernel will do.
  In a container the host's kernel counts."
    # Not everybody may read it; then a role finds out, and says so.
    if [ -r "$modules" ] && ! tr , '\n' <"$modules" | grep -qx landlock; then
        die "this kernel has Landlock turned off, and a node needs it: add landlock to the lsm= list of its command line ($modules shows what is on)."
    fi
}

# Puts a cargo that is new enough first in PATH. Fails when there is none.
find_cargo() {
    local wanted folder version
    wanted=$(wanted_rust)
    while IFS= read -r folder; do
        [ -x "$folder/cargo" ] || continue
        # In the crate's folder, so that a rustup override is seen.
        version=$(cd "$root" && PATH="$folder:$PATH" "$folder/cargo" --version 2>/dev/null | awk '{print $2}') || continue
        if [ -n "$version" ] && at_least "$version" "$wanted"; then
            PATH="$folder:$PATH"
            export PATH
            return 0
        fi
    done < <(printf '%s\n' "$PATH" | tr ':' '\n'; printf '%s\n' "${CARGO_HOME:-${HOME:-/root}/.cargo}/bin" /usr/bin)
    return 1
}

# Where Debian puts a file of a package that differs by architecture: the first that exists.
first_of() {
    local path
    for path in "$@"; do
        [ -e "$path" ] && { printf '%s\n' "$path"; return 0; }
    done
    return 1
}

softhsm_module() {
    first_of /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so
}
