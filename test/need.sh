# For the scripts beside this one, which source it.

# need COMMAND PACKAGE: the command is there, or is installed by Debian's package manager, or the script ends and names the
# package.
need() {
  command -v "$1" >/dev/null && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing $2, for $1"
    # RUNLEVEL: the package's service shall not be started.
    apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2" >/dev/null
  else
    echo "$1 is missing: install the package $2" >&2
    exit 1
  fi
}
