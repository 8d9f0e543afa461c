"""A simulated cluster: users, jobs and Slurm in virtual time, driven by one integer, around the real code of vlae.

Decision record: docs/decisions/0016-a-simulated-cluster.md.
"""
