#!/bin/sh
# Finds a Python that the project runs on and hands over to bootstrap.py. Whatever does not fit is named in the first line.
# PYTHON=/path/to/python3.12 names one; otherwise the .venv's own, then the PATH, then pyenv's versions are tried by running them
# (a pyenv shim may exist and still fail).
root=$(cd "${0%/*}/.." && pwd) || exit 1

version_of() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }

candidates() {
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" || echo "$PYTHON"
        return
    fi
    echo "$root/.venv/bin/python"
    old_ifs=$IFS
    for name in python3.11 python3.12 python3 python; do
        IFS=:
        for folder in $PATH; do
            echo "$folder/$name"
        done
        IFS=$old_ifs
    done
    for path in "${HOME:-/nonexistent}"/.pyenv/versions/3.1[12].*/bin/python3; do
        echo "$path"
    done
}

install_command() {
    if command -v apt-get >/dev/null 2>&1; then echo "apt-get install python3.11-venv, or python3.12-venv"
    elif command -v dnf >/dev/null 2>&1; then echo "dnf install python3.12"
    elif command -v apk >/dev/null 2>&1; then echo "apk add python3"
    elif command -v brew >/dev/null 2>&1; then echo "brew install python@3.12"
    else echo "pyenv install 3.12, or your system's package"
    fi
}

wrong=""
listing=$(candidates)
while IFS= read -r python; do
    [ -x "$python" ] || { [ -n "${PYTHON:-}" ] && wrong="$PYTHON is not an executable"; continue; }
    version=$(version_of "$python") || continue
    case $version in
        3.11.* | 3.12.*) ;;
        *) wrong=${wrong:-"Python $version ($python) does not fit"}; continue ;;
    esac
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        wrong="Python $version ($python) cannot make virtual environments (no ensurepip)"
        continue
    fi
    exec "$python" -E "$root/tools/bootstrap.py" "$@"
done <<LISTING
$listing
LISTING

echo "error: ${wrong:-no working Python found}: this project runs on Python 3.11 or 3.12 (pyarrow 14.0.2 has no wheels for newer ones). Cure: $(install_command); or name one: make quickstart PYTHON=/path/to/python3.11" >&2
exit 1
