#!/bin/sh
# Installs within the Containerfile's build stages, from a folder of wheels where one is mounted, otherwise from the package index:
#   install.sh dependencies EXTRA   into the virtual environment /opt/fedstudy, pinned
#   install.sh package              our package alone, into /opt/package
set -eu
python=/opt/fedstudy/bin/python
pins=constraints/$($python -c 'import sys; print("py%d%d" % sys.version_info[:2])').txt
test -f "$pins" || { echo "install.sh: there is no $pins: give a BASE with Python 3.11, 3.12 or 3.13" >&2; exit 1; }

if ls /wheels/*.whl >/dev/null 2>&1; then
    export PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels
fi
own=$(ls /wheels/pip-*.whl 2>/dev/null | tail -n 1)
if [ -n "$own" ]; then
    pip() { $python "$own/pip" "$@"; }
else
    python3 -m pip --version >/dev/null || { echo "install.sh: BASE has no pip: put a wheel of pip into the folder of wheels" >&2; exit 1; }
    pip() { python3 -m pip --python $python "$@"; }
fi

# Byte code that no time of a file can make stale: the root of a pod is read-only, so it cannot be made again there.
# A few packages carry files that are templates and not Python: their failure to compile is no fault.
compile() { $python -m compileall -q -j 0 --invalidation-mode unchecked-hash "$@" >/dev/null || true; }

case $1 in
dependencies)
    $python requirements.py "$2" >requirements.txt
    pip install --quiet --no-compile --constraint "$pins" --requirement requirements.txt
    site=$($python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo /opt/package >"$site/fedstudy.pth"
    compile "$site"
    ;;
package)
    pip install --quiet --no-compile --no-deps --target /opt/package .
    compile /opt/package
    ;;
*)
    echo "install.sh: dependencies EXTRA or package" >&2
    exit 2
    ;;
esac
