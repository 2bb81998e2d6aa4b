#!/usr/bin/env bash
# Removes from a virtual environment what no process of the platform reads: libraries' tests, headers, notebooks, symbols.
set -euo pipefail
cd "$1"/lib/python3.11/site-packages
for package in dask fontTools ibis matplotlib mpl_toolkits networkx nltk numpy pandas pyarrow scipy sklearn statsmodels sympy; do
  if [ -d "$package" ]; then find "$package" -depth -type d -name tests -exec rm -rf {} +; fi
done
find torch/bin -type f ! -name torch_shm_manager -delete
rm -rf torch/include torch/share torch/test pyarrow/include jupyterlab_plotly
find . -type f \( -name '*.map' -o -name '*.ipynb' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.a' \) -delete
# Of Amazon's services MLflow's artifacts need S3, and a login at most.
find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name 'sts' ! -name 'sso*' ! -name signin -exec rm -rf {} +
# Libraries that auditwheel has patched (*.libs) must not be stripped.
find torch _polars_runtime* pyarrow cryptography uvloop -name '*.so*' -type f -exec strip --strip-unneeded {} +
