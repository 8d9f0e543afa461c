"""Safe files, disks, processes and terminals."""
