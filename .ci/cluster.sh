#!/usr/bin/env bash
# A PostgreSQL cluster for one script, in a temporary folder, on loopback only; it is gone when the
# script ends, however it ends. To be sourced by scripts at the root, which say
#
#   name=test                        # in messages
#   bring_postgres SETTINGS          # sets TEST_DATABASE_URL, unless somebody else has
#   run COMMAND ...                  # ended as a whole with the script
#
# Written for bash 3.2, which is what macOS has.
PATH="$PATH:${CARGO_HOME:-${HOME:-}/.cargo}/bin"
folder=
postgres_bin=
running=
skipped=

say() { printf '%s: %s\n' "$name" "$*" >&2; }

needs() {
  say "$*"
  exit 2
}

# Bash looks at a signal only when the command in the foreground has ended, and cargo may take its
# time. So commands run in the background, in a process group (set -m) that `finish` can end as a
# whole: cargo, the tests and the processes that tests have started.
run() {
  local code=0
  set -m
  "$@" </dev/null &
  running=$!
  set +m
  wait "$running" || code=$?
  running=
  return "$code"
}

finish() {
  local code=$?
  trap '' HUP INT TERM
  trap - EXIT
  set +e
  if [ -n "$running" ]; then
    kill -KILL -- "-$running" 2>/dev/null
    wait "$running" 2>/dev/null
  fi
  stop_cluster
  local result="passed"
  [ "$code" -eq 0 ] || result="FAILED (exit code $code)"
  say "$result after $((SECONDS / 60)) min $((SECONDS % 60)) s$skipped"
  exit "$code"
}

# PostgreSQL refuses to run as root. Linux has setpriv (util-linux), macOS has sudo. Prints what goes
# before a command.
cluster_owner_command() {
  if [ -z "${cluster_owner:-}" ]; then
    printf env
  elif command -v setpriv >/dev/null; then
    printf 'setpriv --reuid %s --regid %s --clear-groups' "$cluster_owner" "$(id -g "$cluster_owner")"
  else
    printf 'sudo -n -u %s' "$cluster_owner"
  fi
}

as_cluster_owner() {
  # shellcheck disable=SC2046 # It is several words.
  $(cluster_owner_command) "$@"
}

# Prints the folder of the newest PostgreSQL server on this machine, or nothing.
newest_postgres() {
  local bin version
  for bin in \
    "$(dirname -- "$(command -v postgres || echo /nowhere/postgres)")" \
    /usr/lib/postgresql/*/bin \
    /usr/pgsql-*/bin \
    /opt/homebrew/opt/postgresql*/bin \
    /usr/local/opt/postgresql*/bin; do
    [ -x "$bin/initdb" ] && [ -x "$bin/pg_ctl" ] && [ -x "$bin/postgres" ] || continue
    # "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
    version=$("$bin/postgres" --version | sed 's/^[^0-9]*\([0-9][0-9]*\).*/\1/')
    printf '%s %s\n' "$version" "$bin"
  done | sort -rn | sed -n '1s/^[0-9]* //p'
}

# Installs a package of Debian's. Fails where that is not possible without asking somebody.
install() {
  local as_root="env"
  command -v apt-get >/dev/null || return 1
  if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || return 1
    as_root="sudo -n env"
  fi
  as_root="$as_root DEBIAN_FRONTEND=noninteractive"
  say "installing Debian's $1"
  # shellcheck disable=SC2086
  run $as_root apt-get update -qq || return 1
  if [ "$1" = postgresql ]; then
    # In two steps, so that the server's package does not create and start a cluster that nobody uses.
    # shellcheck disable=SC2086
    run $as_root apt-get install -qq -y --no-install-recommends postgresql-common &&
      run $as_root pg_conftool /etc/postgresql-common/createcluster.conf set create_main_cluster off ||
      return 1
  fi
  # shellcheck disable=SC2086
  run $as_root apt-get install -qq -y --no-install-recommends "$1"
}

# Finds or installs what some stories need: a package of Debian's, and where its file may be. Without it
# they are passed over, which is said here and at the end.
wants() {
  local package=$1 file
  shift
  for file in "$@"; do
    [ ! -e "$file" ] || return 0
  done
  if ! install "$package" >&2; then
    say "SKIPPED: what needs $package, which is neither here nor to be installed"
    skipped="$skipped, SKIPPED what needs $package"
    export TEST_WITHOUT="${TEST_WITHOUT:-} $package"
  fi
}

start_cluster() {
  local settings=$1
  local parent="${TMPDIR:-/tmp}" password port
  if [ "$(id -u)" -eq 0 ]; then
    cluster_owner=postgres
    id "$cluster_owner" >/dev/null 2>&1 || cluster_owner=nobody
    # Root's own TMPDIR need not be open to others.
    parent=/tmp
  fi
  folder=$(mktemp -d "$parent/errand-$name.XXXXXX")
  password=$(od -An -N 24 -tx1 /dev/urandom | tr -d ' \n')
  (umask 077 && printf '%s\n' "$password" >"$folder/password")
  [ -z "${cluster_owner:-}" ] || chown -R "$cluster_owner" "$folder"

  # The superuser cannot be reached without the password: other users share this machine's loopback.
  # Not scram-sha-256, whose 4,096 rounds of a digest take a debug build a tenth of a second for each of
  # thousands of connections.
  as_cluster_owner "$postgres_bin/initdb" --pgdata="$folder/data" --username=errand \
    --pwfile="$folder/password" --auth=md5 --encoding=UTF8 --locale=C \
    >"$folder/initdb.log" 2>&1 || { cat "$folder/initdb.log" >&2; return 1; }
  printf '%s\n' "listen_addresses = '127.0.0.1'" "unix_socket_directories = ''" "$settings" \
    >>"$folder/data/postgresql.conf"

  # Below the ports that Linux and macOS give to outgoing connections. A taken one: try another.
  for _ in 1 2 3 4 5; do
    port=$((20000 + RANDOM % 12000))
    # In the file, for whoever stops the server and starts it again; the last one counts.
    printf 'port = %d\n' "$port" >>"$folder/data/postgresql.conf"
    if as_cluster_owner "$postgres_bin/pg_ctl" start --silent --wait --timeout=60 \
      --pgdata="$folder/data" --log="$folder/data/server.log" >/dev/null 2>&1; then
      export TEST_DATABASE_URL="postgres://errand:$password@127.0.0.1:$port/postgres"
      say "$("$postgres_bin/postgres" --version) on 127.0.0.1:$port"
      return
    fi
  done
  say "PostgreSQL does not start:"
  cat "$folder/data/server.log" >&2
  return 1
}

stop_cluster() {
  [ -n "$folder" ] || return 0
  # There is none if initdb failed or the start was interrupted early.
  if [ -e "$folder/data/postmaster.pid" ]; then
    local server
    server=$(sed -n 1p "$folder/data/postmaster.pid")
    as_cluster_owner "$postgres_bin/pg_ctl" stop --silent --wait --timeout=20 --mode=immediate \
      --pgdata="$folder/data" >/dev/null 2>&1 || kill -KILL "$server" 2>/dev/null
  fi
  rm -rf -- "$folder"
}

# Finds or installs PostgreSQL, unless TEST_DATABASE_URL names a server.
find_postgres() {
  if [ -z "${TEST_DATABASE_URL:-}" ]; then
    postgres_bin=$(newest_postgres)
    if [ -z "$postgres_bin" ] && install postgresql; then
      postgres_bin=$(newest_postgres)
    fi
    [ -n "$postgres_bin" ] || needs "no PostgreSQL server found: apt-get install postgresql," \
      "or brew install postgresql@17, or set TEST_DATABASE_URL=postgres://user:password@host/postgres"
  fi
}

# Starts what was found.
bring_postgres() {
  [ -n "$postgres_bin" ] || return 0
  # A developer's PGSSLMODE, PGOPTIONS and the like are meant for another server.
  # shellcheck disable=SC2086 # Quoted, bash 3.2 makes one word of them.
  unset ${!PG@}
  start_cluster "$1"
}

trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

command -v cargo >/dev/null || needs "cargo is missing: install Rust from https://rustup.rs"
command -v cc >/dev/null || needs "a C compiler is missing: apt-get install gcc libc6-dev, or xcode-select --install"
