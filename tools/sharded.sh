#!/bin/sh
# Makes .venv-sharded: all of .venv, and TorchRec beside it. An environment of its own, because TorchRec's metadata asks for the
# CUDA build of FBGEMM and for torchmetrics 1.0.3, which `pip check` would miss; the build for the CPU serves, and no metric is used.
set -eu
root=$(cd "${0%/*}/.." && pwd)
venv=$root/.venv-sharded
stamp=$venv/made-from
made_from=$(cat "$0" "$root/setup.cfg" | cksum)
if [ "$(cat "$stamp" 2>/dev/null)" = "$made_from" ]; then
    exit 0
fi
rm -rf "$venv"
"$root/.venv/bin/python" -m venv "$venv"
site=$("$venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')
"$root/.venv/bin/python" -c 'import site; print(site.getsitepackages()[0])' >"$site/base.pth"
echo "$root" >>"$site/base.pth"
pip="$venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check"
$pip tensordict==0.14.0 torchmetrics==1.9.0 pyre-extensions==0.0.32
$pip --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0
"$venv/bin/python" -c 'import torchrec; print("torchrec", torchrec.__version__, "in .venv-sharded")'
echo "$made_from" >"$stamp"
