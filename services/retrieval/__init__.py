"""The retrieval service: durable documents and vectors, and candidates for a query. Rule: knows nothing of models."""

import os

# Searches run beside each other, each on one core. With BLAS threads a product of 8,192 x 384 took 7 ms instead of 0.4
# on two busy cores, because they wait for each other. Set before numpy and FAISS are loaded, which read it then.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
