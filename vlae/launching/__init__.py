"""Many runs: planned, frozen with their code, and executed by a pool of processes, here or in Slurm jobs."""
