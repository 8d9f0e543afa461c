"""Files, disks, processes and terminals, made safe."""
