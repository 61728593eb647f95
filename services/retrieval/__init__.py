"""The retrieval service: stores documents and vectors durably, and finds candidates for queries.

Rule: it knows nothing about models.
"""

import os

# Searches run concurrently, one core each. With BLAS threads, a product of 8,192 x 384 took 7 ms instead of 0.4 ms on
# two busy cores, because the threads wait for each other. numpy and FAISS read the variables when they are loaded.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
