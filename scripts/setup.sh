#!/bin/sh
# Make or refresh .venv with everything that running and testing needs. Safe to repeat: quick when nothing changed.
# PYTHON names another interpreter (3.11 or newer).
set -eu
cd "$(dirname "$0")/.."

usable() { "$1" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# The state that an installation was made from. A folder that was moved, or a lock that changed, is installed again.
wanted() { { pwd; cat pyproject.toml torch-cpu.txt requirements.lock; } | cksum; }

stamp=.venv/lockgate-installed
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(wanted)" ] && usable .venv/bin/python; then
  exit 0
fi

if ! usable .venv/bin/python; then
  python=${PYTHON:-}
  if [ -z "$python" ]; then
    for name in python3.11 python3 python3.12 python3.13; do  # 3.11 first: the lock was made for it
      if usable "$name"; then python=$name; break; fi
    done
  fi
  if [ -z "$python" ] || ! usable "$python"; then
    echo "setup: no Python 3.11 or newer with its venv module (remedy: install one, or name it in PYTHON)" >&2
    exit 1
  fi
  if ! "$python" -m venv --clear .venv >/dev/null 2>&1; then
    # Some distributions ship venv without ensurepip; pip itself can then fill the new environment.
    "$python" -m venv --clear --without-pip .venv
    "$python" -m pip --python .venv/bin/python install --quiet pip
  fi
fi

echo "setup: installing into .venv (some minutes the first time)" >&2
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r torch-cpu.txt -r requirements.lock -e .
wanted > "$stamp"
