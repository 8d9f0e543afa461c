"""What Hydra insists on finding here: the sweeper and the launchers that conf/hydra/ names."""
