"""A simulated cluster: users, jobs and Slurm in virtual time, driven by one integer, around the real code of vlae."""
