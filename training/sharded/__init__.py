"""Training by several processes: each holds a part of every table's rows, reads a part of every hour, and writes a part of every state.

Tables lie in TorchRec's sharded embedding collection (Ivchenko et al. 2022, doi:10.1145/3523227.3547387), row-wise by default.
Needs the extra ``distributed``. One process needs nothing of this package.
"""
